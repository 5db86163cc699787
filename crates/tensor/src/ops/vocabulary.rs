//! Cross entropy fused with the projection onto the vocabulary: a language model's head and its loss.
//!
//! Rows go in blocks whose logits fit in a few tens of megabytes, and a block is finished before the next begins: its
//! logits become the losses, then, in place, their gradient `softmax - target`, and that is multiplied out at once, since
//! the backward pass only ever scales it. So three products are computed where three are needed, none twice, and no more
//! is kept than the gradients themselves. The one exception is the last block's share of the weight's gradient: its
//! logits wait for the backward pass, where the product can be added to a gradient that is already there (a tied
//! embedding, an earlier micro-batch) without a copy. Most batches have one block only.
//!
//! The other order, by slices of the vocabulary with a running maximum, would have to compute all logits a second time:
//! the weight's gradient needs each row's sum, which is known only after the last slice.

use rayon::prelude::*;

use crate::error::{Result, ensure_shape};
use crate::kernels::parallel;
use crate::kernels::product::{Mat, Start, multiply, multiply_packed};
use crate::kernels::{math::vectorised, softmax};
use crate::ops::cross_entropy::check_targets;

use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// What [`Tape::vocabulary_loss`] finds.
#[derive(Debug, Clone)]
pub struct VocabularyLoss {
    /// The sum over rows of `-log softmax(logits)[target]`, in nats: `[1]`.
    pub loss: Var,
    /// The most likely entry of each row; the first of several that are equal.
    pub predictions: Vec<u32>,
    /// The loss of each row.
    pub losses: Vec<f32>,
}

/// Elements of a block's logits: 32 MiB.
const BLOCK: usize = 1 << 23;
/// Fewer rows make a poor product, however large the vocabulary.
const FEWEST_ROWS: usize = 32;

/// What a row's logits say.
#[derive(Clone, Copy, Default)]
struct Outcome {
    loss: f64,
    prediction: u32,
}

/// The index of the first element that equals `value`.
#[inline(always)]
fn find(row: &[f32], value: f32) -> usize {
    const STEP: usize = 64;
    let holds = |part: &&[f32]| part.iter().fold(false, |found, &x| found | (x == value));
    let start = row.chunks(STEP).take_while(|part| !holds(part)).count() * STEP;
    let rest = row.get(start..).unwrap_or_default();
    start + rest.iter().position(|&x| x == value).unwrap_or(0)
}

/// Adds the bias, and reads off the loss and the prediction; with `gradient`, leaves `softmax - target` in the row.
#[inline(always)]
fn finish(row: &mut [f32], bias: &[f32], target: usize, gradient: bool) -> Outcome {
    row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
    let largest = softmax::max(row);
    let prediction = find(row, largest);
    // A row of NaN has no largest element.
    let prediction = if prediction < row.len() { prediction as u32 } else { 0 };
    let margin = f64::from(largest - row[target]);
    let sum = if gradient { softmax::exponentials(row, largest) } else { softmax::sum_of_exponentials(row, largest) };
    if gradient {
        let factor = 1.0 / sum;
        row.iter_mut().for_each(|x| *x *= factor);
        row[target] -= 1.0;
    }
    Outcome { loss: margin + f64::from(sum).ln(), prediction }
}

impl Tape {
    /// Cross entropy of the logits `x Wᵀ + b`: `x` is `[rows, width]` (the wanted rows only), `weight`
    /// `[vocabulary, width]`, `bias` `[vocabulary]`, and there is one target for every row.
    ///
    /// # Errors
    /// When the shapes do not fit, or a target is outside the vocabulary.
    pub fn vocabulary_loss(
        &mut self,
        x: &Var,
        weight: &Var,
        bias: Option<&Var>,
        targets: &[u32],
    ) -> Result<VocabularyLoss> {
        const OP: &str = "vocabulary_loss";
        let (rows, width) = (x.value().rows(), x.value().width());
        let shape = weight.value().shape().to_vec();
        ensure_shape(OP, shape.len() == 2 && shape[1] == width && width > 0, &shape, || {
            format!("an input of width {width}")
        })?;
        let entries = shape[0];
        check_targets(OP, targets, rows, entries)?;
        for var in [Some(x), Some(weight), bias].into_iter().flatten() {
            var.value().expect_f32(OP)?;
        }
        if let Some(bias) = bias {
            ensure_shape(OP, bias.value().len() == entries, bias.value().shape(), || {
                format!("a vocabulary of {entries} entries")
            })?;
        }

        let precision = self.precision();
        let device = self.device().clone();
        let _span = device.span(OP);
        let input = x.value().clone();
        let frozen = !weight.needs_grad();
        let matrix_turned = weight.value().panels(true, precision, frozen);
        let matrix = x.needs_grad().then(|| weight.value().panels(false, precision, frozen));
        let (x_node, weight_node, bias_node) = (x.node(), weight.node(), bias.and_then(Var::node));
        let needs_grad = x_node.is_some() || weight_node.is_some() || bias_node.is_some();
        let mut toward_x = x_node.map(|_| Tensor::stale(&device, x.value().shape()));
        let mut toward_bias = bias_node.map(|_| Tensor::stale(&device, &[entries]));
        let mut toward_weight: Option<Tensor> = None;
        let mut waiting: Option<(Tensor, usize)> = None;
        let mut outcomes = vec![Outcome::default(); rows];

        let most = (BLOCK / entries.max(1)).max(FEWEST_ROWS);
        let block = rows.div_ceil(rows.div_ceil(most).max(1)).max(1);
        for start in (0..rows).step_by(block) {
            let count = block.min(rows - start);
            let part = Mat::new(&input.f32()[start * width..], count, width);
            let mut logits = Tensor::stale(&device, &[count, entries]);
            multiply_packed(&device, logits.f32_mut(), Start::Zero, part, &matrix_turned);
            let lines = logits.f32_mut().par_chunks_exact_mut(entries).zip(&mut outcomes[start..start + count]);
            let bias = bias.map_or(&[][..], Var::f32);
            lines.zip(&targets[start..start + count]).for_each(|((row, outcome), &target)| {
                *outcome = vectorised(
                    #[inline(always)]
                    || finish(row, bias, target as usize, needs_grad),
                );
            });
            if let Some(sum) = &mut toward_bias {
                parallel::column_sums(logits.f32(), entries, sum.f32_mut(), start > 0);
            }
            let slope = Mat::new(logits.f32(), count, entries);
            if let (Some(gradient), Some(matrix)) = (&mut toward_x, &matrix) {
                let out = &mut gradient.f32_mut()[start * width..][..count * width];
                multiply_packed(&device, out, Start::Zero, slope, matrix);
            }
            if weight_node.is_some() {
                if start + count == rows {
                    waiting = Some((logits, start));
                } else {
                    let holds_sum = toward_weight.is_some();
                    let sum = toward_weight.get_or_insert_with(|| Tensor::stale(&device, &shape));
                    multiply(&device, precision, sum.f32_mut(), Start::sum_if(holds_sum), slope.t(), part);
                }
            }
        }
        if rows == 0 {
            toward_bias = None;
        }

        let loss = outcomes.iter().map(|outcome| outcome.loss).sum::<f64>() as f32;
        let predictions = outcomes.iter().map(|outcome| outcome.prediction).collect();
        let loss = self.record(OP, Tensor::full(&device, &[1], loss), needs_grad, || {
            let saved = waiting.map(|waiting| (waiting, input));
            move |gradient: Tensor, flow| {
                let factor = gradient.item().unwrap_or(0.0);
                let parts = [(x_node, toward_x), (bias_node, toward_bias), (weight_node, toward_weight)];
                for (to, part) in parts {
                    let Some(mut part) = part else { continue };
                    if factor != 1.0 {
                        part.scale(factor)?;
                    }
                    flow.add(to, part)?;
                }
                let Some(((slopes, start), input)) = saved else { return Ok(()) };
                let device = flow.device().clone();
                flow.accumulate(weight_node, &shape, |out, holds_sum| {
                    let slope = Mat::new(slopes.f32(), slopes.rows(), entries);
                    let part: Vec<f32> = input.f32()[start * width..].iter().map(|x| factor * x).collect();
                    let part = Mat::new(&part, slopes.rows(), width);
                    multiply(&device, precision, out, Start::sum_if(holds_sum), slope.t(), part);
                    Ok(())
                })
            }
        });
        let losses = outcomes.iter().map(|outcome| outcome.loss as f32).collect();
        Ok(VocabularyLoss { loss, predictions, losses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{Case, Inputs, compare, noise};
    use crate::{Device, Grads, Precision, with_threads};

    fn logits(inputs: &Inputs, width: usize) -> Vec<Vec<f64>> {
        let (x, w) = (&inputs["x"], &inputs["w"]);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        x.chunks(width)
            .map(|x| {
                let bias = |j: usize| inputs.get("b").map_or(0.0, |bias| bias[j]);
                w.chunks(width).enumerate().map(|(j, w)| dot(x, w) + bias(j)).collect()
            })
            .collect()
    }

    fn reference(inputs: &Inputs, width: usize, targets: &[u32]) -> f64 {
        let loss =
            |(row, &target): (&Vec<f64>, &u32)| row.iter().map(|x| (x - row[target as usize]).exp()).sum::<f64>().ln();
        logits(inputs, width).iter().zip(targets).map(loss).sum()
    }

    #[test]
    fn against_the_formula() {
        for bias in [false, true] {
            let mut case = Case::new();
            let x = case.input("x", &[4, 5], noise(20, "x"));
            let w = case.input("w", &[70, 5], noise(350, "w"));
            let b = bias.then(|| case.input("b", &[70], noise(70, "b")));
            let targets = [3, 69, 0, 3];
            case.run(
                |tape| Ok(tape.vocabulary_loss(&x, &w, b.as_ref(), &targets)?.loss),
                |inputs| vec![reference(inputs, 5, &targets)],
            );
        }
    }

    /// So many entries that the rows take three blocks. The gradients are computed in f64 from the definition.
    #[test]
    fn several_blocks_and_a_factor_from_above() {
        let (rows, width, entries) = (70, 3, 300_000);
        let device = Device::cpu();
        let (x, w, b) = (noise(rows * width, "x"), noise(entries * width, "w"), noise(entries, "b"));
        let targets: Vec<u32> = (0..rows).map(|i| (i * 4001 % entries) as u32).collect();
        let run = || {
            let mut tape = Tape::new(&device, Precision::F32);
            let mut leaf = |name, shape: &[usize], values: &[f32]| {
                tape.leaf(name, Tensor::from_vec(&device, shape, values.to_vec()).unwrap())
            };
            let (x, w, b) =
                (leaf("x", &[rows, width], &x), leaf("w", &[entries, width], &w), leaf("b", &[entries], &b));
            let found = tape.vocabulary_loss(&x, &w, Some(&b), &targets).unwrap();
            let loss = tape.scale(&found.loss, -0.5).unwrap();
            let mut grads = Grads::default();
            tape.backward(&loss, &mut grads).unwrap();
            let grads = ["x", "w", "b"].map(|name| grads.dense(name).unwrap().unwrap().to_vec());
            (found.loss.value().to_vec(), found.predictions, grads)
        };
        let (loss, predictions, grads) = with_threads(2, run);
        let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let inputs = Inputs::from([("x", wide(&x)), ("w", wide(&w)), ("b", wide(&b))]);
        let mut expected = [vec![0.0; rows * width], vec![0.0; entries * width], vec![0.0; entries]];
        let mut total = 0.0;
        for (i, mut row) in logits(&inputs, width).into_iter().enumerate() {
            let best = row.iter().enumerate().fold(0, |best, (j, x)| if *x > row[best] { j } else { best });
            assert_eq!(predictions[i], best as u32);
            let sum: f64 = row.iter().map(|x| x.exp()).sum();
            total += sum.ln() - row[targets[i] as usize];
            row.iter_mut().for_each(|x| *x = x.exp() / sum);
            row[targets[i] as usize] -= 1.0;
            for (j, slope) in row.iter().map(|slope| -0.5 * slope).enumerate() {
                expected[2][j] += slope;
                for c in 0..width {
                    expected[0][i * width + c] += slope * inputs["w"][j * width + c];
                    expected[1][j * width + c] += slope * inputs["x"][i * width + c];
                }
            }
        }
        compare("loss", &loss, &[total], 1e-6);
        for (name, (found, expected)) in ["x", "w", "b"].iter().zip(grads.iter().zip(&expected)) {
            compare(name, found, expected, 2e-5);
        }
        for threads in [1, 3] {
            let again = with_threads(threads, run);
            assert!((&loss, &grads) == (&again.0, &again.2), "{threads} threads give other bits");
        }
    }

    #[test]
    fn the_first_of_equal_predictions() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let x = Var::constant(Tensor::full(&device, &[1, 1], 1.0));
        let mut w = vec![0.0; 200];
        (w[150], w[151], w[199]) = (2.0, 2.0, 2.0);
        let w = Var::constant(Tensor::from_vec(&device, &[200, 1], w).unwrap());
        let found = tape.vocabulary_loss(&x, &w, None, &[0]).unwrap();
        assert_eq!(found.predictions, [150]);
        let expected = (197.0 + 3.0 * 2f32.exp()).ln();
        assert!((found.loss.value().item().unwrap() - expected).abs() < 1e-5);
        assert!(tape.is_empty());
    }

    #[test]
    fn gradients_do_not_depend_on_what_else_is_trained() {
        let device = Device::cpu();
        let run = |trained: [bool; 3]| {
            let mut tape = Tape::new(&device, Precision::F32);
            let mut var = |i: usize, name, shape: &[usize]| {
                let tensor = Tensor::from_vec(&device, shape, noise(shape.iter().product(), name)).unwrap();
                if trained[i] { tape.leaf(name, tensor) } else { Var::constant(tensor) }
            };
            let (x, w, b) = (var(0, "x", &[6, 4]), var(1, "w", &[33, 4]), var(2, "b", &[33]));
            let found = tape.vocabulary_loss(&x, &w, Some(&b), &[0, 1, 2, 3, 32, 4]).unwrap();
            let mut grads = Grads::default();
            tape.backward(&found.loss, &mut grads).unwrap();
            grads
        };
        let all = run([true; 3]);
        for only in 0..3 {
            let some = run(std::array::from_fn(|i| i == only));
            assert_eq!(some.len(), 1);
            for (name, gradient) in some.iter() {
                assert_eq!(gradient.stored().to_vec(), all.get(name).unwrap().stored().to_vec(), "{name}");
            }
        }
    }

    #[test]
    fn no_rows_have_no_loss() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let x = tape.leaf("x", Tensor::zeros(&device, &[0, 2]));
        let w = tape.leaf("w", Tensor::full(&device, &[3, 2], 1.0));
        let found = tape.vocabulary_loss(&x, &w, None, &[]).unwrap();
        assert_eq!((found.loss.value().item(), found.predictions.len()), (Some(0.0), 0));
        tape.backward(&found.loss, &mut Grads::default()).unwrap();
    }

    #[test]
    fn targets_outside_the_vocabulary_are_named() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let x = Var::constant(Tensor::zeros(&device, &[1, 2]));
        let w = Var::constant(Tensor::zeros(&device, &[3, 2]));
        let error = tape.vocabulary_loss(&x, &w, None, &[3]).unwrap_err().to_string();
        assert_eq!(error, "vocabulary_loss: the index 3 is outside 0..3");
    }
}
