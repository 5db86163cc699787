//! The affine map `y = f(x Wᵀ + b)`, its three gradients each computed only when something needs it.

use std::sync::Arc;

use crate::device::Device;
use crate::error::{Result, ensure_shape};
use crate::kernels::parallel;
use crate::kernels::product::{
    Half, Left, Mat, Narrow, Panels, Pass, Start, prepare, product, product_and, product_narrow,
};
use crate::ops::activation::Activation;
use crate::tape::{Precision, Tape, Var};
use crate::tensor::Tensor;

/// `out = start + x right`, in the precision in which `right` is packed.
pub(crate) fn times(device: &Device, out: &mut [f32], start: Start, x: &Tensor, right: &Panels) {
    match right.precision() {
        Precision::F32 => product(device, out, start, Left::F32(Mat::new(x.f32(), x.rows(), x.width())), right),
        Precision::Bf16 => product(device, out, start, Left::Bf16(&x.half()), right),
    }
}

/// `out = start + xᵀ right`, in the precision in which `right` is packed.
pub(crate) fn transposed_times(device: &Device, out: &mut [f32], start: Start, x: &Tensor, right: &Panels) {
    product(device, out, start, Left::Turned(&x.panels(false, right.precision(), false)), right);
}

/// What the gradient of a weight needs of the input: in bf16 the packed form, which is half as large as the elements.
pub(crate) enum Input {
    Whole(Tensor),
    Packed(Arc<Panels>),
}

impl Input {
    pub(crate) fn save(x: &Tensor, precision: Precision) -> Input {
        match precision {
            Precision::F32 => Input::Whole(x.clone()),
            Precision::Bf16 => Input::Packed(x.panels(false, precision, true)),
        }
    }

    /// As a right operand; packed once for all the weights that read it.
    pub(crate) fn panels(&self) -> Arc<Panels> {
        match self {
            Input::Whole(x) => x.panels(false, Precision::F32, true),
            Input::Packed(panels) => panels.clone(),
        }
    }
}

/// The slopes of an activation.
enum Slopes {
    Whole(Tensor),
    Half(Half),
}

impl Tape {
    /// `f(x Wᵀ + b)`: `x` is `[.., inputs]`, `weight` `[outputs, inputs]`, `bias` `[outputs]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn linear(&mut self, x: &Var, weight: &Var, bias: Option<&Var>, activation: Option<Activation>) -> Result<Var> {
        self.linear_with(x, weight, bias, activation, false)
    }

    /// [`Tape::linear`] for a result that other products are to read: with products in bf16 the values of the activation, and
    /// its slopes, are kept in bf16 alone.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn linear_narrow(&mut self, x: &Var, weight: &Var, bias: Option<&Var>, activation: Activation) -> Result<Var> {
        self.linear_with(x, weight, bias, Some(activation), self.precision() == Precision::Bf16)
    }

    fn linear_with(
        &mut self,
        x: &Var,
        weight: &Var,
        bias: Option<&Var>,
        activation: Option<Activation>,
        narrow: bool,
    ) -> Result<Var> {
        let inputs = x.value().width();
        let shape = weight.value().shape();
        ensure_shape("linear", shape.len() == 2 && shape[1] == inputs, shape, || {
            format!("an input of width {inputs}")
        })?;
        let outputs = shape[0];
        if let Some(bias) = bias {
            ensure_shape("linear", bias.value().len() == outputs, bias.value().shape(), || {
                format!("a weight of {outputs} outputs")
            })?;
        }
        let _span = self.device().span("linear");
        x.value().expect_f32("linear")?;
        weight.value().expect_f32("linear")?;
        let precision = self.precision();
        let mut out_shape = x.value().shape().to_vec();
        if let Some(last) = out_shape.last_mut() {
            *last = outputs;
        }
        let start = bias.map_or(Start::Zero, |bias| Start::Bias(bias.f32()));
        // A weight that does not move is packed once for all the steps.
        let frozen = !weight.needs_grad();
        let matrix = weight.value().clone();
        let right = matrix.panels(true, precision, frozen);
        let half;
        let left = match precision {
            Precision::F32 => Left::F32(Mat::new(x.f32(), x.value().rows(), inputs)),
            Precision::Bf16 => {
                x.value().round(weight.needs_grad());
                half = x.value().half();
                Left::Bf16(&half)
            }
        };
        let bias_node = bias.and_then(Var::node);
        let needs_grad = x.needs_grad() || weight.needs_grad() || bias_node.is_some();
        let device = self.device().clone();
        // Whose next product will want panels is not known; where this weight moves, most likely that one does.
        let wanted = (needs_grad, weight.needs_grad());
        let made = activation.filter(|_| narrow).and_then(|f| product_narrow(&device, f, wanted, start, left, &right));
        let (out, slopes) = match (made, activation) {
            (Some(Narrow { half, panels, slopes }), _) => {
                (Tensor::narrow(&device, &out_shape, half, panels), slopes.map(Slopes::Half))
            }
            (None, Some(activation)) => {
                let mut out = Tensor::stale(&device, &out_shape);
                let mut slopes = needs_grad.then(|| Tensor::stale(&device, &out_shape));
                let place = slopes.as_mut().map(Tensor::f32_mut);
                product_and(&device, activation, out.f32_mut(), place, start, left, &right);
                (out, slopes.map(Slopes::Whole))
            }
            (None, None) => {
                let mut out = Tensor::stale(&device, &out_shape);
                product(&device, out.f32_mut(), start, left, &right);
                (out, None)
            }
        };
        let (x_node, weight_node) = (x.node(), weight.node());
        let weight_shape = shape.to_vec();
        let input_shape = x.value().shape().to_vec();
        Ok(self.record("linear", out, needs_grad, || {
            let saved_input = weight_node.map(|_| Input::save(x.value(), precision));
            let saved_matrix = x_node.is_some().then_some(matrix);
            move |mut gradient: Tensor, flow| {
                let device = flow.device().clone();
                let factors = match &slopes {
                    None => None,
                    Some(Slopes::Half(slopes)) => Some(slopes),
                    Some(Slopes::Whole(slopes)) => {
                        parallel::zip(gradient.f32_mut(), slopes.f32(), |g, slope| *g *= slope);
                        None
                    }
                };
                let half = precision == Precision::Bf16 && saved_matrix.is_some();
                let make = |sums: Option<(&mut [f32], bool)>| {
                    let pass = Pass { precision, factors, sums, half, panels: saved_input.is_some() };
                    prepare(&device, Mat::new(gradient.f32(), gradient.rows(), outputs), pass)
                };
                let mut made = (None, None);
                match bias_node {
                    Some(_) => flow.accumulate(bias_node, &[outputs], |out, holds_sum| {
                        made = make(Some((out, holds_sum)));
                        Ok(())
                    })?,
                    None if half || saved_input.is_some() => made = make(None),
                    None => {}
                }
                let (half, turned) = made;
                if let (Some(input), Some(turned)) = (&saved_input, &turned) {
                    flow.accumulate(weight_node, &weight_shape, |out, holds_sum| {
                        product(&device, out, Start::sum_if(holds_sum), Left::Turned(turned), &input.panels());
                        Ok(())
                    })?;
                }
                if let Some(matrix) = saved_matrix {
                    flow.accumulate(x_node, &input_shape, |out, holds_sum| {
                        let matrix = matrix.panels(false, precision, frozen);
                        let whole = Mat::new(gradient.f32(), gradient.rows(), outputs);
                        let left = half.as_ref().map_or(Left::F32(whole), Left::Bf16);
                        product(&device, out, Start::sum_if(holds_sum), left, &matrix);
                        Ok(())
                    })?;
                }
                Ok(())
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{Case, Inputs, noise};
    use crate::{Device, Grads, Precision};

    fn reference(inputs: &Inputs, f: impl Fn(f64) -> f64) -> Vec<f64> {
        let (x, w, b) = (&inputs["x"], &inputs["w"], &inputs["b"]);
        let (n, k) = (b.len(), w.len() / b.len());
        x.chunks(k)
            .flat_map(|row| {
                (0..n)
                    .map(|j| f(b[j] + row.iter().zip(&w[j * k..]).map(|(x, w)| x * w).sum::<f64>()))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn affine() {
        let mut case = Case::new();
        let x = case.input("x", &[4, 5], noise(20, "x"));
        let w = case.input("w", &[3, 5], noise(15, "w"));
        let b = case.input("b", &[3], noise(3, "b"));
        case.run(|tape| tape.linear(&x, &w, Some(&b), None), |inputs| reference(inputs, |y| y));
    }

    #[test]
    fn affine_with_an_activation() {
        let mut case = Case::new();
        let x = case.input("x", &[4, 5], noise(20, "x"));
        let w = case.input("w", &[3, 5], noise(15, "w"));
        let b = case.input("b", &[3], noise(3, "b"));
        case.run(|tape| tape.linear(&x, &w, Some(&b), Some(Activation::Tanh)), |inputs| reference(inputs, f64::tanh));
    }

    #[test]
    fn a_frozen_weight_records_and_saves_nothing_it_does_not_need() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let w = Var::constant(Tensor::full(&device, &[2, 3], 1.0));
        let x = Var::constant(Tensor::full(&device, &[4, 3], 1.0));
        let y = tape.linear(&x, &w, None, None).unwrap();
        assert!(tape.is_empty() && !y.needs_grad());
        let x = tape.leaf("x", x.value().clone());
        let y = tape.linear(&x, &w, None, None).unwrap();
        let loss = crate::ops::check::weighted_sum(&mut tape, &y, &[1.0; 8]);
        let mut grads = Grads::default();
        tape.backward(&loss, &mut grads).unwrap();
        assert_eq!(grads.len(), 1);
    }

    #[test]
    fn bf16_rounds_operands_and_sums_in_f32() {
        let device = Device::cpu();
        let (x, w) = (noise(4 * 64, "x"), noise(3 * 64, "w"));
        let mut tape = Tape::new(&device, Precision::Bf16);
        let xv = Var::constant(Tensor::from_vec(&device, &[4, 64], x.clone()).unwrap());
        let wv = Var::constant(Tensor::from_vec(&device, &[3, 64], w.clone()).unwrap());
        let y = tape.linear(&xv, &wv, None, None).unwrap().value().to_vec();
        let round = |v: f32| f64::from(half::bf16::from_f32(v).to_f32());
        for (i, y) in y.iter().enumerate() {
            let exact: f64 = (0..64).map(|l| round(x[i / 3 * 64 + l]) * round(w[i % 3 * 64 + l])).sum();
            assert!((f64::from(*y) - exact).abs() < 1e-4, "{y} against {exact}");
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let x = Var::constant(Tensor::zeros(&device, &[2, 3]));
        let w = Var::constant(Tensor::zeros(&device, &[2, 4]));
        let error = tape.linear(&x, &w, None, None).unwrap_err().to_string();
        assert_eq!(error, "linear: the shape [2, 4] does not fit an input of width 3");
    }
}
