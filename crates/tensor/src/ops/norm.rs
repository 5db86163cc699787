//! Layer normalisation with what stands in front of it: the dropout of a sublayer's output and the residual sum.

use crate::error::{Result, ensure_shape};
use crate::kernels::math::vectorised;
use crate::kernels::parallel;
use crate::ops::dropout::{Dropout, Keep};

use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Running sums of a row: enough that additions do not wait for one another, in registers of any width.
const LANES: usize = 32;

/// The sum of the lanes. Out of line on purpose: storing them for the call is what makes the compiler keep the lanes of
/// the loop before it in vectors, in this order; with the sum in sight it regroups them into something slow.
#[inline(never)]
fn total(lanes: &[f32; LANES]) -> f64 {
    let pair = |i: usize| f64::from(lanes[i] + lanes[i + LANES / 2]);
    (0..LANES / 4).map(|i| pair(i) + pair(i + LANES / 4)).sum()
}

/// The sum of `f` over two equally long rows: f32 lanes of a few dozen terms each, summed in f64.
#[inline(always)]
fn row_sum(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f64 {
    let mut lanes = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(&x, &y)| f(x, y)).sum();
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    total(&lanes) + f64::from(rest)
}

/// What the kernels need to know of an op.
struct Norm<'a> {
    width: usize,
    epsilon: f32,
    weight: &'a [f32],
    dropout: Option<(&'a Dropout, Keep)>,
}

impl Norm<'_> {
    /// One row: `out` gets the result, `saved` the normalised values; returns the inverse deviation.
    #[inline(always)]
    fn forward(
        &self,
        row: usize,
        x: &[f32],
        residual: Option<&[f32]>,
        bias: &[f32],
        saved: Option<&mut [f32]>,
        out: &mut [f32],
    ) -> f32 {
        match (self.dropout, residual) {
            (None, None) => out.copy_from_slice(x),
            (None, Some(residual)) => {
                for ((out, x), residual) in out.iter_mut().zip(x).zip(residual) {
                    *out = x + residual;
                }
            }
            (Some((dropout, keep)), None) => dropout.scan_row(
                keep,
                row,
                self.width,
                #[inline(always)]
                |columns, scales| {
                    for ((out, x), scale) in out[columns.clone()].iter_mut().zip(&x[columns]).zip(scales) {
                        *out = x * scale;
                    }
                },
            ),
            (Some((dropout, keep)), Some(residual)) => dropout.scan_row(
                keep,
                row,
                self.width,
                #[inline(always)]
                |columns, scales| {
                    let inputs = x[columns.clone()].iter().zip(&residual[columns.clone()]);
                    for ((out, (x, residual)), scale) in out[columns].iter_mut().zip(inputs).zip(scales) {
                        *out = x.mul_add(*scale, *residual);
                    }
                },
            ),
        }
        let mean = (row_sum(out, out, |x, _| x) / self.width as f64) as f32;
        let variance = row_sum(
            out,
            out,
            #[inline(always)]
            |x, _| (x - mean) * (x - mean),
        ) / self.width as f64;
        let inverse = (1.0 / (variance + f64::from(self.epsilon)).sqrt()) as f32;
        let affine = self.weight.iter().zip(bias);
        match saved {
            None => {
                for (out, (weight, bias)) in out.iter_mut().zip(affine) {
                    *out = ((*out - mean) * inverse).mul_add(*weight, *bias);
                }
            }
            Some(saved) => {
                for ((out, saved), (weight, bias)) in out.iter_mut().zip(saved).zip(affine) {
                    *saved = (*out - mean) * inverse;
                    *out = saved.mul_add(*weight, *bias);
                }
            }
        }
        inverse
    }

    /// Turns a row of the output's gradient into that of the normalisation's input.
    #[inline(always)]
    fn backward(&self, normalised: &[f32], inverse: f32, gradient: &mut [f32]) {
        for (gradient, weight) in gradient.iter_mut().zip(self.weight) {
            *gradient *= weight;
        }
        let mean = (row_sum(gradient, gradient, |g, _| g) / self.width as f64) as f32;
        let slope = (row_sum(
            gradient,
            normalised,
            #[inline(always)]
            |g, x| g * x,
        ) / self.width as f64) as f32;
        for (gradient, x) in gradient.iter_mut().zip(normalised) {
            *gradient = inverse * x.mul_add(-slope, *gradient - mean);
        }
    }

    /// Drops from a row of gradients what the forward pass dropped; into `out`, or in place.
    #[inline(always)]
    fn mask(&self, row: usize, gradient: &mut [f32], out: Option<&mut [f32]>) {
        let Some((dropout, keep)) = self.dropout else { return };
        match out {
            Some(out) => dropout.scan_row(
                keep,
                row,
                self.width,
                #[inline(always)]
                |columns, scales| {
                    let pairs = gradient[columns.clone()].iter().zip(scales);
                    out[columns].iter_mut().zip(pairs).for_each(|(out, (g, scale))| *out = g * scale);
                },
            ),
            None => dropout.scan_row(
                keep,
                row,
                self.width,
                #[inline(always)]
                |columns, scales| gradient[columns].iter_mut().zip(scales).for_each(|(g, scale)| *g *= scale),
            ),
        }
    }
}

/// A mutable array cut into blocks, or as many times nothing.
fn blocks_of(values: Option<&mut [f32]>, block: usize, count: usize) -> Vec<Option<&mut [f32]>> {
    match values {
        Some(values) => values.chunks_mut(block).map(Some).collect(),
        None => (0..count).map(|_| None).collect(),
    }
}

impl Tape {
    /// `LayerNorm(dropout(x) + residual) * weight + bias` (Ba, Kiros and Hinton 2016) in one pass each way. `x` and
    /// `residual` are `[tokens, width]`, `weight` and `bias` `[width]`; `epsilon` is added to the variance.
    ///
    /// # Errors
    /// When the shapes do not fit, or there is not one dropout key for every row.
    pub fn residual_norm(
        &mut self,
        x: &Var,
        residual: Option<&Var>,
        dropout: Option<&Dropout>,
        weight: &Var,
        bias: &Var,
        epsilon: f32,
    ) -> Result<Var> {
        let _span = self.device().span("residual_norm");
        let op = "residual_norm";
        let (rows, width) = (x.value().rows(), x.value().width());
        for operand in [Some(x), residual, Some(weight), Some(bias)].into_iter().flatten() {
            operand.value().expect_f32(op)?;
        }
        ensure_shape(op, width > 0, x.value().shape(), || "rows of at least one element".to_owned())?;
        for parameter in [weight, bias] {
            let shape = parameter.value().shape();
            ensure_shape(op, parameter.value().len() == width, shape, || format!("an input of width {width}"))?;
        }
        if let Some(residual) = residual {
            let shape = residual.value().shape();
            ensure_shape(op, shape == x.value().shape(), shape, || format!("an input {:?}", x.value().shape()))?;
        }
        let dropout = dropout.and_then(|dropout| Some((dropout, dropout.keep()?)));
        if let Some((dropout, _)) = dropout {
            dropout.check(op, rows)?;
        }

        let residual_node = residual.and_then(Var::node);
        let (x_node, weight_node, bias_node) = (x.node(), weight.node(), bias.node());
        let inputs_need = x_node.is_some() || residual_node.is_some();
        let saves = inputs_need || weight_node.is_some();
        let mut out = Tensor::stale(self.device(), x.value().shape());
        let mut normalised = saves.then(|| Tensor::stale(self.device(), x.value().shape()));
        let mut inverses = vec![0.0f32; if saves { rows } else { 0 }];

        let norm = Norm { width, epsilon, weight: weight.f32(), dropout };
        let per_block = parallel::rows_per_block(width);
        let block = per_block * width;
        let count = out.len().div_ceil(block);
        let mut inverse_blocks: Vec<&mut [f32]> = inverses.chunks_mut(per_block).collect();
        inverse_blocks.resize_with(count, Default::default);
        let saved_blocks = blocks_of(normalised.as_mut().map(Tensor::f32_mut), block, count);
        let blocks = out.f32_mut().chunks_mut(block).zip(saved_blocks).zip(inverse_blocks);
        parallel::tasks(blocks.enumerate().collect(), |(index, ((out, mut saved), inverses))| {
            vectorised(
                #[inline(always)]
                || {
                    for (i, out) in out.chunks_exact_mut(width).enumerate() {
                        let row = index * per_block + i;
                        let columns = row * width..(row + 1) * width;
                        let residual = residual.map(|residual| &residual.f32()[columns.clone()]);
                        let saved = saved.as_deref_mut().map(|saved| &mut saved[i * width..(i + 1) * width]);
                        let inverse = norm.forward(row, &x.f32()[columns], residual, bias.f32(), saved, out);
                        if let Some(slot) = inverses.get_mut(i) {
                            *slot = inverse;
                        }
                    }
                },
            );
        });

        let needs_grad = saves || bias_node.is_some();
        Ok(self.record("residual_norm", out, needs_grad, || {
            let saved_weight = weight.value().clone();
            let dropout = dropout.map(|(dropout, keep)| (dropout.clone(), keep));
            move |mut gradient: Tensor, flow| {
                let Some(normalised) = normalised else {
                    return flow.accumulate(bias_node, &[width], |out, holds_sum| {
                        parallel::column_sums(gradient.f32(), width, out, holds_sum);
                        Ok(())
                    });
                };
                let norm = Norm {
                    width,
                    epsilon,
                    weight: saved_weight.f32(),
                    dropout: dropout.as_ref().map(|(dropout, keep)| (dropout, *keep)),
                };
                // The sums for weight and bias: one pair a block of rows, added in order, whatever the threads do.
                let sums_need = weight_node.is_some() || bias_node.is_some();
                let mut sums = vec![0.0f32; if sums_need { count * 2 * width } else { 0 }];
                let sum_blocks = blocks_of(sums_need.then_some(sums.as_mut_slice()), 2 * width, count);
                // Without dropout, or when only one of the two is asked for, x and the residual share one gradient.
                let both = dropout.is_some() && x_node.is_some() && residual_node.is_some();
                let mut masked = both.then(|| Tensor::stale(flow.device(), gradient.shape()));
                let masked_blocks = blocks_of(masked.as_mut().map(Tensor::f32_mut), block, count);
                let blocks = gradient.f32_mut().chunks_mut(block).zip(masked_blocks).zip(sum_blocks);
                parallel::tasks(blocks.enumerate().collect(), |(index, ((gradient, mut masked), mut sums))| {
                    vectorised(
                        #[inline(always)]
                        || {
                            for (i, gradient) in gradient.chunks_exact_mut(width).enumerate() {
                                let row = index * per_block + i;
                                let normalised = &normalised.f32()[row * width..(row + 1) * width];
                                if let Some((of_weight, of_bias)) = sums.as_mut().map(|sums| sums.split_at_mut(width)) {
                                    for ((sum, g), x) in of_weight.iter_mut().zip(&*gradient).zip(normalised) {
                                        *sum = g.mul_add(*x, *sum);
                                    }
                                    for (sum, g) in of_bias.iter_mut().zip(&*gradient) {
                                        *sum += g;
                                    }
                                }
                                if !inputs_need {
                                    continue;
                                }
                                norm.backward(normalised, inverses[row], gradient);
                                if x_node.is_some() {
                                    let masked = masked.as_deref_mut();
                                    norm.mask(row, gradient, masked.map(|m| &mut m[i * width..(i + 1) * width]));
                                }
                            }
                        },
                    );
                });
                for (node, half) in [(weight_node, 0), (bias_node, width)] {
                    flow.accumulate(node, &[width], |out, holds_sum| {
                        if !holds_sum {
                            out.fill(0.0);
                        }
                        for sums in sums.chunks_exact(2 * width) {
                            out.iter_mut().zip(&sums[half..]).for_each(|(out, sum)| *out += sum);
                        }
                        Ok(())
                    })?;
                }
                if residual_node.is_some() {
                    let of_x = masked.unwrap_or_else(|| gradient.clone());
                    flow.add(residual_node, gradient)?;
                    return flow.add(x_node, of_x);
                }
                flow.add(x_node, gradient)
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{Case, Inputs, noise, weighted_sum};
    use crate::{Device, Grads, Precision, Rng};

    const EPSILON: f32 = 1e-5;

    fn dropout(p: f32, rows: u64) -> Dropout {
        Dropout { p, rng: Rng::at(5, "dropout", 3, 0), keys: (0..rows).map(|row| row << 20).collect() }
    }

    /// The definition, in f64; the mask comes from the op of its own that is tested by itself.
    fn reference(inputs: &Inputs, mask: &[f32]) -> Vec<f64> {
        let (x, weight, bias) = (&inputs["x"], &inputs["weight"], &inputs["bias"]);
        let zeros = vec![0.0; x.len()];
        let residual = inputs.get("residual").unwrap_or(&zeros);
        let sum: Vec<f64> = (0..x.len()).map(|i| x[i] * f64::from(mask[i]) + residual[i]).collect();
        sum.chunks(weight.len())
            .flat_map(|row| {
                let n = row.len() as f64;
                let mean = row.iter().sum::<f64>() / n;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                let deviation = (variance + f64::from(EPSILON)).sqrt();
                (0..row.len()).map(move |j| (row[j] - mean) / deviation * weight[j] + bias[j])
            })
            .collect()
    }

    #[test]
    fn values_and_gradients() {
        for (p, with_residual) in [(0.0, false), (0.0, true), (0.3, false), (0.3, true)] {
            let (rows, width) = (3, 70);
            let dropout = dropout(p, rows as u64);
            let mut case = Case::new();
            let x = case.input("x", &[rows, width], noise(rows * width, "x"));
            let residual = with_residual.then(|| case.input("residual", &[rows, width], noise(rows * width, "r")));
            let weight = case.input("weight", &[width], noise(width, "w"));
            let bias = case.input("bias", &[width], noise(width, "b"));
            let ones = Var::constant(Tensor::full(&case.device, &[rows, width], 1.0));
            let mask = Tape::new(&case.device, Precision::F32).dropout(&ones, Some(&dropout)).unwrap();
            let mask = mask.value().to_vec();
            case.run(
                |tape| tape.residual_norm(&x, residual.as_ref(), Some(&dropout), &weight, &bias, EPSILON),
                |inputs| reference(inputs, &mask),
            );
        }
    }

    #[test]
    fn a_row_far_from_zero_loses_nothing() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let width = 384;
        let values: Vec<f32> = (0..width).map(|i| 1000.0 + if i % 2 == 0 { 0.5 } else { -0.5 }).collect();
        let x = Var::constant(Tensor::from_vec(&device, &[1, width], values).unwrap());
        let ones = Var::constant(Tensor::full(&device, &[width], 1.0));
        let zeros = Var::constant(Tensor::zeros(&device, &[width]));
        let y = tape.residual_norm(&x, None, None, &ones, &zeros, 0.0).unwrap().value().to_vec();
        for (i, y) in y.iter().enumerate() {
            assert!((y.abs() - 1.0).abs() < 1e-6 && (*y > 0.0) == (i % 2 == 0), "element {i} is {y}");
        }
    }

    /// Gradients of a batch of several blocks, for a choice of what needs one.
    fn gradients(trained: &[&str]) -> (usize, Grads) {
        let (rows, width) = (200, 384);
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let input = |name: &'static str, shape: &[usize], tape: &mut Tape| {
            let value = Tensor::from_vec(&device, shape, noise(shape.iter().product(), name)).unwrap();
            if trained.contains(&name) { tape.leaf(name, value) } else { Var::constant(value) }
        };
        let x = input("x", &[rows, width], &mut tape);
        let residual = input("residual", &[rows, width], &mut tape);
        let weight = input("weight", &[width], &mut tape);
        let bias = input("bias", &[width], &mut tape);
        let dropout = dropout(0.1, rows as u64);
        let mut grads = Grads::default();
        let y = tape.residual_norm(&x, Some(&residual), Some(&dropout), &weight, &bias, EPSILON).unwrap();
        let nodes = tape.len();
        let loss = weighted_sum(&mut tape, &y, &noise(rows * width, "weights"));
        tape.backward(&loss, &mut grads).unwrap();
        (nodes, grads)
    }

    #[test]
    fn any_choice_of_gradients_gives_the_same_ones_on_any_number_of_threads() {
        let names = ["x", "residual", "weight", "bias"];
        let (_, all) = gradients(&names);
        for choice in 0..16 {
            let trained: Vec<&str> = (0..4).filter(|i| choice >> i & 1 == 1).map(|i| names[i]).collect();
            let (nodes, grads) = crate::with_threads(1 + choice % 3, || gradients(&trained));
            assert_eq!((grads.len(), nodes), (trained.len(), trained.len() + usize::from(choice > 0)));
            for name in trained {
                let (found, expected) = (grads.dense(name).unwrap().unwrap(), all.dense(name).unwrap().unwrap());
                if choice == 8 {
                    // The bias alone takes a shorter way, which adds in another order.
                    let difference = found.distance_squared(&expected).unwrap();
                    assert!(difference < 1e-10 * expected.sum_squares().unwrap(), "bias alone: {difference}");
                } else {
                    assert!(found.to_vec() == expected.to_vec(), "{name} differs when training {choice:#b}");
                }
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let zeros = |shape: &[usize]| Var::constant(Tensor::zeros(&device, shape));
        let (x, weight) = (zeros(&[2, 3]), zeros(&[3]));
        let error = tape.residual_norm(&x, None, None, &weight, &zeros(&[4]), EPSILON).unwrap_err().to_string();
        assert_eq!(error, "residual_norm: the shape [4] does not fit an input of width 3");
        let error = tape.residual_norm(&x, Some(&zeros(&[3, 3])), None, &weight, &weight, EPSILON);
        assert_eq!(error.unwrap_err().to_string(), "residual_norm: the shape [3, 3] does not fit an input [2, 3]");
        let error = tape.residual_norm(&x, None, Some(&dropout(0.1, 3)), &weight, &weight, EPSILON);
        assert_eq!(error.unwrap_err().to_string(), "residual_norm: the shape [2] does not fit 3 dropout keys");
    }
}
