//! A low-rank addition to a linear map: `base + scale * (x Aᵀ) Bᵀ`, or to its weight.

use crate::error::{Result, ensure_shape};
use crate::kernels::product::Start;
use crate::ops::linear::{Input, times, transposed_times};
use crate::tape::{Precision, Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// `base + scale * (x Aᵀ) Bᵀ`: `base` is `[tokens, outputs]`, `x` `[tokens, inputs]`, `a` `[rank, inputs]`, `b`
    /// `[outputs, rank]` (LoRA: Hu et al. 2021). Where nothing else holds `base`, it is added to in place.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn low_rank(&mut self, base: Var, x: &Var, a: &Var, b: &Var, scale: f32) -> Result<Var> {
        const OP: &str = "low_rank";
        let (tokens, inputs) = (x.value().rows(), x.value().width());
        let outputs = base.value().width();
        for tensor in [&base, x, a, b] {
            tensor.value().expect_f32(OP)?;
        }
        ensure_shape(OP, base.value().rows() == tokens, base.value().shape(), || format!("an input of {tokens} rows"))?;
        let a_shape = a.value().shape().to_vec();
        ensure_shape(OP, a_shape.len() == 2 && a_shape[1] == inputs, &a_shape, || {
            format!("an input of width {inputs}")
        })?;
        let rank = a_shape[0];
        let b_shape = b.value().shape().to_vec();
        ensure_shape(OP, b_shape == [outputs, rank], &b_shape, || format!("[{outputs}, {rank}]"))?;

        let precision = self.precision();
        let device = self.device().clone();
        let _span = device.span(OP);
        let (down, up) = (a.value().clone(), b.value().clone());
        // The scale goes on the narrow side, in both directions.
        let mut narrow = Tensor::stale(&device, &[tokens, rank]);
        times(&device, narrow.f32_mut(), Start::Zero, x.value(), &down.panels(true, precision, !a.needs_grad()));
        narrow.scale(scale)?;
        let (base_node, x_node, a_node, b_node) = (base.node(), x.node(), a.node(), b.node());
        let mut out = base.into_value();
        times(&device, out.f32_mut(), Start::Sum, &narrow, &up.panels(true, precision, !b.needs_grad()));

        let x_shape = x.value().shape().to_vec();
        let needs_grad = [base_node, x_node, a_node, b_node].iter().any(Option::is_some);
        Ok(self.record(OP, out, needs_grad, || {
            let saved_narrow = b_node.is_some().then_some(narrow);
            let saved_input = a_node.map(|_| Input::save(x.value(), precision));
            let saved_down = x_node.is_some().then_some(down);
            let saved_up = (a_node.is_some() || x_node.is_some()).then_some(up);
            move |gradient, flow| {
                let device = flow.device().clone();
                if let Some(narrow) = saved_narrow {
                    flow.accumulate(b_node, &b_shape, |out, holds_sum| {
                        let narrow = narrow.panels(false, precision, false);
                        transposed_times(&device, out, Start::sum_if(holds_sum), &gradient, &narrow);
                        Ok(())
                    })?;
                }
                if let Some(up) = saved_up {
                    // The gradient of x Aᵀ, which both other products need.
                    let mut inner = Tensor::stale(&device, &[tokens, rank]);
                    times(&device, inner.f32_mut(), Start::Zero, &gradient, &up.panels(false, precision, false));
                    inner.scale(scale)?;
                    if let Some(input) = saved_input {
                        flow.accumulate(a_node, &a_shape, |out, holds_sum| {
                            transposed_times(&device, out, Start::sum_if(holds_sum), &inner, &input.panels());
                            Ok(())
                        })?;
                    }
                    if let Some(down) = saved_down {
                        flow.accumulate(x_node, &x_shape, |out, holds_sum| {
                            let down = down.panels(false, precision, false);
                            times(&device, out, Start::sum_if(holds_sum), &inner, &down);
                            Ok(())
                        })?;
                    }
                }
                flow.add(base_node, gradient)
            }
        }))
    }

    /// `weight + scale * B A`, in f32: `weight` is `[outputs, inputs]`, `a` `[rank, inputs]`, `b` `[outputs, rank]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn fold_low_rank(&mut self, weight: &Var, a: &Var, b: &Var, scale: f32) -> Result<Var> {
        const OP: &str = "fold_low_rank";
        for tensor in [weight, a, b] {
            tensor.value().expect_f32(OP)?;
        }
        let (outputs, inputs, rank) = (weight.value().rows(), weight.value().width(), a.value().rows());
        let (a_shape, b_shape) = ([rank, inputs], [outputs, rank]);
        for (var, shape) in [(a, a_shape), (b, b_shape)] {
            ensure_shape(OP, var.value().shape() == shape, var.value().shape(), || format!("{shape:?}"))?;
        }
        let device = self.device().clone();
        let _span = device.span(OP);
        let (down, mut up) = (a.value().clone(), b.value().clone());
        up.scale(scale)?;
        let mut out = weight.value().clone();
        times(&device, out.f32_mut(), Start::Sum, &up, &down.panels(false, Precision::F32, false));
        let (weight_node, a_node, b_node) = (weight.node(), a.node(), b.node());
        let needs_grad = [weight_node, a_node, b_node].iter().any(Option::is_some);
        Ok(self.record(OP, out, needs_grad, || {
            move |gradient: Tensor, flow| {
                let device = flow.device().clone();
                flow.accumulate(a_node, &a_shape, |out, holds_sum| {
                    let gradient = gradient.panels(false, Precision::F32, false);
                    transposed_times(&device, out, Start::sum_if(holds_sum), &up, &gradient);
                    Ok(())
                })?;
                flow.accumulate(b_node, &b_shape, |out, holds_sum| {
                    let mut down = down.clone();
                    down.scale(scale)?;
                    let down = down.panels(true, Precision::F32, false);
                    times(&device, out, Start::sum_if(holds_sum), &gradient, &down);
                    Ok(())
                })?;
                flow.add(weight_node, gradient)
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{Case, Inputs, compare, noise, weighted_sum};
    use crate::{Device, Grads};

    const TOKENS: usize = 5;
    const INPUTS: usize = 6;
    const RANK: usize = 2;
    const OUTPUTS: usize = 4;

    fn reference(inputs: &Inputs, scale: f64) -> Vec<f64> {
        let (x, a, b) = (&inputs["x"], &inputs["a"], &inputs["b"]);
        let mut out = inputs["base"].clone();
        for t in 0..TOKENS {
            for o in 0..OUTPUTS {
                for r in 0..RANK {
                    let inner: f64 = (0..INPUTS).map(|i| x[t * INPUTS + i] * a[r * INPUTS + i]).sum();
                    out[t * OUTPUTS + o] += scale * inner * b[o * RANK + r];
                }
            }
        }
        out
    }

    #[test]
    fn against_the_formula() {
        let mut case = Case::new();
        let base = case.input("base", &[TOKENS, OUTPUTS], noise(TOKENS * OUTPUTS, "base"));
        let x = case.input("x", &[TOKENS, INPUTS], noise(TOKENS * INPUTS, "x"));
        let a = case.input("a", &[RANK, INPUTS], noise(RANK * INPUTS, "a"));
        let b = case.input("b", &[OUTPUTS, RANK], noise(OUTPUTS * RANK, "b"));
        case.run(|tape| tape.low_rank(base.clone(), &x, &a, &b, 1.5), |inputs| reference(inputs, 1.5));
    }

    #[test]
    fn folded_into_a_weight() {
        let mut case = Case::new();
        let weight = case.input("base", &[OUTPUTS, INPUTS], noise(OUTPUTS * INPUTS, "base"));
        let a = case.input("a", &[RANK, INPUTS], noise(RANK * INPUTS, "a"));
        let b = case.input("b", &[OUTPUTS, RANK], noise(OUTPUTS * RANK, "b"));
        case.run(
            |tape| tape.fold_low_rank(&weight, &a, &b, 1.5),
            |inputs| {
                let element = |o: usize, i: usize| {
                    let product = |r| inputs["b"][o * RANK + r] * inputs["a"][r * INPUTS + i];
                    inputs["base"][o * INPUTS + i] + 1.5 * (0..RANK).map(product).sum::<f64>()
                };
                (0..OUTPUTS).flat_map(|o| (0..INPUTS).map(move |i| (o, i))).map(|(o, i)| element(o, i)).collect()
            },
        );
    }

    /// Every choice of what is trained gives the gradients that training everything gives.
    #[test]
    fn gradients_do_not_depend_on_what_else_is_trained() {
        let device = Device::cpu();
        let names = ["base", "x", "a", "b"];
        let shapes = [[TOKENS, OUTPUTS], [TOKENS, INPUTS], [RANK, INPUTS], [OUTPUTS, RANK]];
        let run = |trained: u32| {
            let mut tape = Tape::new(&device, Precision::F32);
            let vars: Vec<Var> = (0..4)
                .map(|i| {
                    let [rows, width] = shapes[i];
                    let tensor = Tensor::from_vec(&device, &shapes[i], noise(rows * width, names[i])).unwrap();
                    if trained >> i & 1 == 1 { tape.leaf(names[i], tensor) } else { Var::constant(tensor) }
                })
                .collect();
            let out = tape.low_rank(vars[0].clone(), &vars[1], &vars[2], &vars[3], 0.5).unwrap();
            let loss = weighted_sum(&mut tape, &out, &noise(TOKENS * OUTPUTS, "weights"));
            let mut grads = Grads::default();
            tape.backward(&loss, &mut grads).unwrap();
            grads
        };
        let all = run(0b1111);
        for trained in 0..15 {
            let some = run(trained);
            assert_eq!(some.len(), trained.count_ones() as usize);
            for (name, gradient) in some.iter() {
                assert_eq!(gradient.stored().to_vec(), all.get(name).unwrap().stored().to_vec(), "{name}");
            }
        }
    }

    #[test]
    fn bf16_rounds_the_operands_of_both_products() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::Bf16);
        let round = |v: f32| half::bf16::from_f32(v).to_f32();
        let (x, a, b) = (noise(TOKENS * INPUTS, "x"), noise(RANK * INPUTS, "a"), noise(OUTPUTS * RANK, "b"));
        let constant = |rows, width, values: &[f32]| {
            Var::constant(Tensor::from_vec(&device, &[rows, width], values.to_vec()).unwrap())
        };
        let base = constant(TOKENS, OUTPUTS, &[0.0; TOKENS * OUTPUTS]);
        let (xv, av, bv) = (constant(TOKENS, INPUTS, &x), constant(RANK, INPUTS, &a), constant(OUTPUTS, RANK, &b));
        let y = tape.low_rank(base, &xv, &av, &bv, 1.0).unwrap();
        let mut expected = vec![0.0f64; TOKENS * OUTPUTS];
        for t in 0..TOKENS {
            for r in 0..RANK {
                let inner: f32 = (0..INPUTS).map(|i| round(x[t * INPUTS + i]) * round(a[r * INPUTS + i])).sum();
                for o in 0..OUTPUTS {
                    expected[t * OUTPUTS + o] += f64::from(round(inner)) * f64::from(round(b[o * RANK + r]));
                }
            }
        }
        compare("values", &y.value().to_vec(), &expected, 1e-6);
    }
}
