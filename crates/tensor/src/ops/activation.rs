//! Elementwise activation functions and their derivatives.

use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::math::{erf, exp, tanh, vectorised};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// An elementwise activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x Φ(x)`, Φ the normal distribution function (Hendrycks and Gimpel 2016).
    Gelu,
    /// The same paper's approximation: `x / 2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + e^-x)`.
    Silu,
    /// `tanh x`.
    Tanh,
}

/// Elements a task: four arrays of them fit the second-level cache.
const CHUNK: usize = 1 << 14;

/// 1/√(2π).
const DENSITY: f32 = 0.398_942_3;
/// 2 √(2/π): the tanh of the approximation is written as a logistic function of twice its argument.
const SLOPE: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;

/// Φ(x).
#[inline(always)]
fn normal(x: f32) -> f32 {
    0.5f32.mul_add(erf(x * std::f32::consts::FRAC_1_SQRT_2), 0.5)
}

#[inline(always)]
fn logistic(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `f` for every pair of elements; the slices are equally long.
fn zip(input: &[f32], out: &mut [f32], f: impl Fn(&mut f32, f32) + Sync) {
    let run = |input: &[f32], out: &mut [f32]| {
        vectorised(
            #[inline(always)]
            || out.iter_mut().zip(input).for_each(|(y, &x)| f(y, x)),
        );
    };
    if out.len() <= CHUNK {
        return run(input, out);
    }
    out.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK)).for_each(|(out, input)| run(input, out));
}

impl Activation {
    /// By the name that Hugging Face configurations use.
    pub fn from_name(name: &str) -> Option<Activation> {
        match name {
            "gelu" => Some(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Some(Activation::GeluTanh),
            "relu" => Some(Activation::Relu),
            "silu" | "swish" => Some(Activation::Silu),
            "tanh" => Some(Activation::Tanh),
            _ => None,
        }
    }

    /// `out = f(input)`, equally long.
    pub(crate) fn apply(self, input: &[f32], out: &mut [f32]) {
        match self {
            Activation::Gelu => zip(
                input,
                out,
                #[inline(always)]
                |y, x| *y = x * normal(x),
            ),
            Activation::GeluTanh => zip(
                input,
                out,
                #[inline(always)]
                |y, x| *y = x * logistic(SLOPE * x * (CUBIC * x).mul_add(x, 1.0)),
            ),
            // A comparison rather than `max`: it lets a NaN through.
            Activation::Relu => zip(
                input,
                out,
                #[inline(always)]
                |y, x| *y = if x < 0.0 { 0.0 } else { x },
            ),
            Activation::Silu => zip(
                input,
                out,
                #[inline(always)]
                |y, x| *y = x * logistic(x),
            ),
            Activation::Tanh => zip(
                input,
                out,
                #[inline(always)]
                |y, x| *y = tanh(x),
            ),
        }
    }

    /// `gradient *= f'(input)`, equally long.
    pub(crate) fn backward(self, input: &[f32], gradient: &mut [f32]) {
        match self {
            Activation::Gelu => zip(
                input,
                gradient,
                #[inline(always)]
                |g, x| *g *= (x * DENSITY).mul_add(exp(-0.5 * x * x), normal(x)),
            ),
            Activation::GeluTanh => zip(
                input,
                gradient,
                #[inline(always)]
                |g, x| {
                    // Beyond, the slope is 0 or 1 to the last bit, and a square would only overflow.
                    let x = x.clamp(-10.0, 10.0);
                    let s = logistic(SLOPE * x * (CUBIC * x).mul_add(x, 1.0));
                    let inner = SLOPE * (3.0 * CUBIC * x).mul_add(x, 1.0);
                    *g *= (x * inner * s).mul_add(1.0 - s, s);
                },
            ),
            // A product rather than a choice, which would become a conditional store, and those are slow.
            Activation::Relu => zip(
                input,
                gradient,
                #[inline(always)]
                |g, x| *g *= if x <= 0.0 { 0.0 } else { 1.0 },
            ),
            Activation::Silu => zip(
                input,
                gradient,
                #[inline(always)]
                |g, x| {
                    let s = logistic(x);
                    *g *= (x * s).mul_add(1.0 - s, s);
                },
            ),
            Activation::Tanh => zip(
                input,
                gradient,
                #[inline(always)]
                |g, x| {
                    let y = tanh(x);
                    *g *= y.mul_add(-y, 1.0);
                },
            ),
        }
    }
}

impl Tape {
    /// `f(x)` of every element.
    pub fn activate(&mut self, x: &Var, activation: Activation) -> Result<Var> {
        let _span = self.device().span("activate");
        x.value().expect_f32("activate")?;
        let mut out = Tensor::stale(self.device(), x.value().shape());
        activation.apply(x.f32(), out.f32_mut());
        let to = x.node();
        Ok(self.record("activate", out, x.needs_grad(), || {
            let input = x.value().clone();
            move |mut gradient: Tensor, flow| {
                activation.backward(input.f32(), gradient.f32_mut());
                flow.add(to, gradient)
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{Case, noise};
    use crate::{DType, Device, Precision};

    /// Φ by Simpson's rule on the density: slow, and independent of every fit.
    fn normal_exact(x: f64) -> f64 {
        if x.abs() > 9.0 {
            return f64::from(u8::from(x > 0.0));
        }
        let density = |t: f64| (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt();
        let (n, h) = (400, x / 400.0);
        let inner: f64 = (1..n).map(|i| density(f64::from(i) * h) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
        0.5 + h / 3.0 * (density(0.0) + inner + density(x))
    }

    fn exact(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Gelu => x * normal_exact(x),
            Activation::GeluTanh => {
                x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
            }
            Activation::Relu => x.max(0.0),
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Tanh => x.tanh(),
        }
    }

    const ALL: [Activation; 5] =
        [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu, Activation::Tanh];

    #[test]
    fn values_and_gradients() {
        for activation in ALL {
            let mut case = Case::new();
            case.tolerance = 1e-6;
            let values = noise(60, "x").iter().map(|x| 2.5 * x).collect();
            let x = case.input("x", &[5, 12], values);
            case.run(
                |tape| tape.activate(&x, activation),
                |inputs| inputs["x"].iter().map(|&x| exact(activation, x)).collect(),
            );
        }
    }

    #[test]
    fn far_out_values_stay_finite_and_exact() {
        for activation in ALL {
            for x in [-1e30f32, -200.0, -88.0, -20.0, -10.0, 10.0, 20.0, 88.0, 200.0, 1e30] {
                let (mut y, mut slope) = ([0.0], [1.0]);
                activation.apply(&[x], &mut y);
                activation.backward(&[x], &mut slope);
                let expected = exact(activation, f64::from(x));
                let error = (f64::from(y[0]) - expected).abs() / expected.abs().max(1e-3);
                assert!(error < 1e-6, "{activation:?}({x}) = {}, not {expected}", y[0]);
                let steep = f32::from(u8::from(x > 0.0 && activation != Activation::Tanh));
                assert!((slope[0] - steep).abs() < 5e-4, "{activation:?}'({x}) = {}, not {steep}", slope[0]);
            }
            let mut y = [0.0];
            activation.apply(&[f32::NAN], &mut y);
            assert!(y[0].is_nan(), "{activation:?} swallows a NaN");
        }
    }

    #[test]
    fn names() {
        for (name, activation) in
            [("gelu", Activation::Gelu), ("gelu_new", Activation::GeluTanh), ("swish", Activation::Silu)]
        {
            assert_eq!(Activation::from_name(name), Some(activation));
        }
        assert_eq!(Activation::from_name("mish"), None);
    }

    #[test]
    fn a_constant_records_nothing_and_bf16_is_refused() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let x = Tensor::full(&device, &[3], 1.0);
        tape.activate(&Var::constant(x.clone()), Activation::Gelu).unwrap();
        assert!(tape.is_empty());
        let error = tape.activate(&Var::constant(x.cast(DType::Bf16)), Activation::Gelu).unwrap_err().to_string();
        assert_eq!(error, "activate: the tensor holds bf16, and f32 is needed");
    }
}
