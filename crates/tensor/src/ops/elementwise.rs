//! Sums, differences and multiples of tensors of one shape.

use crate::error::{Result, ensure_shape};
use crate::kernels::parallel;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// `a + b`, equal shapes.
    pub fn add(&mut self, a: &Var, b: &Var) -> Result<Var> {
        self.add_scaled(a, 1.0, b)
    }

    /// `a + factor * b`, equal shapes.
    pub fn add_scaled(&mut self, a: &Var, factor: f32, b: &Var) -> Result<Var> {
        ensure_shape("add", a.value().shape() == b.value().shape(), b.value().shape(), || {
            format!("{:?}", a.value().shape())
        })?;
        let mut out = Tensor::stale(self.device(), a.value().shape());
        parallel::copy(a.f32(), out.f32_mut());
        parallel::zip(out.f32_mut(), b.f32(), |x, y| *x += factor * y);
        let (to_a, to_b) = (a.node(), b.node());
        Ok(self.record("add", out, a.needs_grad() || b.needs_grad(), || {
            move |gradient, flow| {
                if to_b.is_some() {
                    let mut scaled = gradient.clone();
                    if factor != 1.0 {
                        scaled.scale(factor)?;
                    }
                    flow.add(to_b, scaled)?;
                }
                flow.add(to_a, gradient)
            }
        }))
    }

    /// `factor * x`.
    pub fn scale(&mut self, x: &Var, factor: f32) -> Result<Var> {
        let mut out = x.value().clone();
        out.scale(factor)?;
        let to = x.node();
        Ok(self.record("scale", out, x.needs_grad(), || {
            move |mut gradient, flow| {
                gradient.scale(factor)?;
                flow.add(to, gradient)
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{Case, noise};

    #[test]
    fn sums_and_multiples() {
        let mut case = Case::new();
        let a = case.input("a", &[3, 4], noise(12, "a"));
        let b = case.input("b", &[3, 4], noise(12, "b"));
        case.run(
            |tape| {
                let sum = tape.add_scaled(&a, -0.5, &b)?;
                let twice = tape.add(&sum, &a)?;
                tape.scale(&twice, 3.0)
            },
            |inputs| inputs["a"].iter().zip(&inputs["b"]).map(|(a, b)| 3.0 * (2.0 * a - 0.5 * b)).collect(),
        );
    }
}
