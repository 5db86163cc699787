//! Elementary functions in f32 without branches or calls, so that loops over them vectorise.
//!
//! They are accurate to a few units in the last place (the tests say how many). The coefficients are minimax fits
//! computed for these ranges in high precision; `mul_add` is one instruction wherever the engine's loops are dispatched.

use crate::instructions::Instructions;

/// The instruction sets that loops are compiled for, of which one is in use.
pub(crate) fn arch() -> pulp::Arch {
    #[cfg(target_arch = "x86_64")]
    match Instructions::current() {
        Instructions::Portable => return pulp::Arch::Scalar,
        Instructions::Avx2 => {
            if let Some(v3) = pulp::x86::V3::try_new() {
                return pulp::Arch::V3(v3);
            }
        }
        Instructions::Avx512 | Instructions::Avx512Bf16 | Instructions::Amx => {}
    }
    pulp::Arch::new()
}

/// Runs `f` compiled for the best instruction set that this processor has; what `f` calls must be `#[inline(always)]`.
///
/// A closure handed to `Arch::dispatch` as it is goes through the compiler's `FnOnce` shim, which nothing forces inline:
/// a large one then stays behind in plain code, with a library call for every `mul_add`. Calling it as `FnMut` does not.
#[inline(always)]
pub(crate) fn vectorised<R>(f: impl FnMut() -> R) -> R {
    struct Direct<F>(F);
    impl<R, F: FnMut() -> R> pulp::NullaryFnOnce for Direct<F> {
        type Output = R;
        #[inline(always)]
        fn call(mut self) -> R {
            (self.0)()
        }
    }
    arch().dispatch(Direct(f))
}

/// Adding it rounds a small float to an integer, which then stands in the low bits of the sum.
const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
/// ln 2 in two parts: the rounded value, and what rounding took from it.
const LN_2_LOW: f32 = -1.904_654_3e-9;

/// Splits `exp(x)` into `2^n (1 + q)`: returns `n` as the bits to add to an exponent, and `q` accurate relative to itself.
#[inline(always)]
fn split(x: f32) -> (i32, f32) {
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = (-n).mul_add(LN_2_LOW, (-n).mul_add(std::f32::consts::LN_2, x));
    // exp(r) - 1 = r + r² p(r) on |r| <= ln(2) / 2, to 1.4e-8.
    let p = 1.388_249_8e-3f32.mul_add(r, 8.366_647e-3);
    let p = p.mul_add(r, 4.166_720_4e-2);
    let p = p.mul_add(r, 0.166_665_42);
    let p = p.mul_add(r, 0.499_999_97);
    (((shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32)) << 23, (p * r).mul_add(r, r))
}

/// `e^x`. Zero below -87.3 (where the result would be subnormal), infinite above 88.7; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let (n, q) = split(x);
    let y = f32::from_bits(((1.0 + q).to_bits() as i32).wrapping_add(n) as u32);
    let y = if x < -87.336 { 0.0 } else { y };
    // A NaN is not on the left side either, and comes out of the product as it is.
    if x <= 88.722_8 { y } else { x * f32::INFINITY }
}

/// `tanh x`, by way of `exp(-2|x|) - 1`, which keeps the relative accuracy of small results.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    // From 9.02 on the result rounds to 1. `clamp` keeps a NaN.
    let (n, q) = split((-2.0 * x.abs()).clamp(-40.0, 0.0));
    let power = f32::from_bits((1.0f32.to_bits() as i32).wrapping_add(n) as u32);
    let e = power.mul_add(q, power - 1.0);
    (-e / (e + 2.0)).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 1009th float that is not NaN, of both signs.
    fn floats() -> impl Iterator<Item = f32> {
        (0..=0x7f80_0000u32).step_by(1009).flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)])
    }

    /// The largest error relative to the exact value.
    fn worst(found: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, range: impl Iterator<Item = f32>) -> f64 {
        let mut worst = 0.0f64;
        for x in range {
            let (found, exact) = (f64::from(found(x)), exact(f64::from(x)));
            let error = if found == exact { 0.0 } else { ((found - exact) / exact).abs() };
            assert!(!error.is_nan(), "at {x}: {found} for {exact}");
            worst = worst.max(error);
        }
        worst
    }

    #[test]
    fn exp_over_every_range() {
        let error = worst(exp, f64::exp, floats().filter(|x| *x > -87.336 && *x <= 88.722_8));
        assert!(error < 1.5e-7, "relative error {error:e}");
        for x in floats() {
            if x < -87.34 {
                assert_eq!(exp(x), 0.0, "at {x}");
            }
            if x > 88.73 {
                assert_eq!(exp(x), f32::INFINITY, "at {x}");
            }
        }
        assert_eq!((exp(0.0), exp(-0.0)), (1.0, 1.0));
        assert!(exp(f32::NAN).is_nan() && exp(-f32::NAN).is_nan());
        assert_eq!((exp(f32::INFINITY), exp(f32::NEG_INFINITY)), (f32::INFINITY, 0.0));
    }

    #[test]
    fn tanh_over_every_range() {
        let error = worst(tanh, f64::tanh, floats());
        assert!(error < 3e-7, "relative error {error:e}");
        assert_eq!((tanh(40.0), tanh(f32::NEG_INFINITY)), (1.0, -1.0));
        assert!(tanh(f32::NAN).is_nan());
        assert!(tanh(-0.0).is_sign_negative());
    }
}
