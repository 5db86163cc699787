//! Elementwise activation functions and their derivatives.

use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::math::{exp, tanh, vectorised};
use crate::kernels::parallel;
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

/// The normal density φ(x) and distribution function Φ(x), from one exponential and one division.
///
/// The ratio Φ(-a) / φ(a) (Mills') is a polynomial in `t = 1 / (1 + 0.3 a)` to 1.5e-7 of itself: a minimax fit on 0 to 14.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let t = 1.0 / 0.3f32.mul_add(x.abs(), 1.0);
    let p = 0.089_424_275f32.mul_add(t, -0.394_053_17);
    let p = p.mul_add(t, 0.517_257_2);
    let p = p.mul_add(t, -0.134_569_8);
    let p = p.mul_add(t, 0.322_258_6);
    let p = p.mul_add(t, 0.250_445_33);
    let p = p.mul_add(t, 0.302_685_38);
    let p = p.mul_add(t, 0.299_866_18);
    let density = DENSITY * exp(-0.5 * x * x);
    let tail = density * (p * t);
    (density, if x < 0.0 { tail } else { 1.0 - tail })
}

#[inline(always)]
fn logistic(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    let (density, below) = normal(x);
    (x * below, x.mul_add(density, below))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    // Beyond, the slope is 0 or 1 to the last bit, and a square would only overflow.
    let near = x.clamp(-10.0, 10.0);
    let s = logistic(SLOPE * near * (CUBIC * near).mul_add(near, 1.0));
    let inner = SLOPE * (3.0 * CUBIC * near).mul_add(near, 1.0);
    (x.max(-10.0) * s, (near * inner * s).mul_add(1.0 - s, s))
}

#[inline(always)]
fn relu(x: f32) -> (f32, f32) {
    // A comparison rather than `max`: it lets a NaN through.
    (if x < 0.0 { 0.0 } else { x }, if x <= 0.0 { 0.0 } else { 1.0 })
}

#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let s = logistic(x);
    (x * s, (x * s).mul_add(1.0 - s, s))
}

#[inline(always)]
fn hyperbolic(x: f32) -> (f32, f32) {
    let y = tanh(x);
    (y, y.mul_add(-y, 1.0))
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

    /// `out = f(x)`, and with `slopes` also `x = f'(x)`: what the backward pass multiplies by shares most of its work with
    /// the value. To be called inside a loop that is compiled for the processor.
    #[inline(always)]
    pub(crate) fn apply(self, x: &mut [f32], out: &mut [f32], slopes: bool) {
        match self {
            Activation::Gelu => each(x, out, slopes, gelu),
            Activation::GeluTanh => each(x, out, slopes, gelu_tanh),
            Activation::Relu => each(x, out, slopes, relu),
            Activation::Silu => each(x, out, slopes, silu),
            Activation::Tanh => each(x, out, slopes, hyperbolic),
        }
    }
}

#[inline(always)]
fn each(x: &mut [f32], out: &mut [f32], slopes: bool, f: impl Fn(f32) -> (f32, f32)) {
    // By sixteen, in values of their own: for places that might overlap the compiler would ask so at every short row.
    let ((parts, rest), (out_parts, out_rest)) = (x.as_chunks_mut::<16>(), out.as_chunks_mut::<16>());
    for (x, out) in parts.iter_mut().zip(out_parts) {
        let (mut slope, mut value) = (*x, [0.0; 16]);
        for i in 0..16 {
            (value[i], slope[i]) = f(slope[i]);
        }
        *out = value;
        if slopes {
            *x = slope;
        }
    }
    for (x, out) in rest.iter_mut().zip(out_rest) {
        let (value, slope) = f(*x);
        *out = value;
        if slopes {
            *x = slope;
        }
    }
}

impl Tape {
    /// `f(x)` of every element.
    pub fn activate(&mut self, x: &Var, activation: Activation) -> Result<Var> {
        let _span = self.device().span("activate");
        x.value().expect_f32("activate")?;
        let mut out = Tensor::stale(self.device(), x.value().shape());
        let needs_grad = x.needs_grad();
        let mut slopes = x.value().clone();
        let chunks = out.f32_mut().par_chunks_mut(CHUNK).zip(slopes.f32_mut().par_chunks_mut(CHUNK));
        chunks.for_each(|(out, x)| {
            vectorised(
                #[inline(always)]
                || activation.apply(x, out, needs_grad),
            );
        });
        let to = x.node();
        Ok(self.record("activate", out, needs_grad, || {
            move |mut gradient: Tensor, flow| {
                parallel::zip(gradient.f32_mut(), slopes.f32(), |g, slope| *g *= slope);
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
                let (mut y, mut slope) = ([0.0], [x]);
                activation.apply(&mut slope, &mut y, true);
                let expected = exact(activation, f64::from(x));
                let error = (f64::from(y[0]) - expected).abs() / expected.abs().max(1e-3);
                assert!(error < 1e-6, "{activation:?}({x}) = {}, not {expected}", y[0]);
                let steep = f32::from(u8::from(x > 0.0 && activation != Activation::Tanh));
                assert!((slope[0] - steep).abs() < 5e-4, "{activation:?}'({x}) = {}, not {steep}", slope[0]);
            }
            let mut y = [0.0];
            activation.apply(&mut [f32::NAN], &mut y, false);
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
