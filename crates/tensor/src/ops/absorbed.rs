//! Attention of one row a sequence, with the maps of keys and values absorbed: neither is ever made.
//!
//! A classifier reads one row a sequence of its last layer. There a score `q · (K x)` is `(Kᵀ q) · x`, and a weighted sum
//! of values `Σ p (V x)` is `V (Σ p x)` (DeepSeek-AI 2024, <https://arxiv.org/abs/2405.04434>, section 2.1, absorbs the
//! same maps): two small products a row take the place of two large ones a token. A bias of the keys adds the same to
//! every score of a query, which the softmax does not see, so its gradient is zero. Computed in f32 in either precision.

use crate::device::Device;
use crate::error::{Result, ensure_shape};
use crate::kernels::absorbed::{Extents, put, times};
use crate::kernels::math::{arch, vectorised};
use crate::kernels::panel::{Left, Right, Times, WIDEST};
use crate::kernels::parallel::tasks;
use crate::kernels::softmax::{dot, softmax};
use crate::ops::dropout::{Dropout, scan};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// What attention with absorbed maps reads.
#[derive(Debug, Clone, Copy)]
pub struct Absorbed<'a> {
    /// Weight, `[width, inputs]`, and bias, `[width]`, of the map that makes keys.
    pub key: (&'a Var, Option<&'a Var>),
    /// The same of values.
    pub value: (&'a Var, Option<&'a Var>),
    /// Where sequences start in the packed stream, and where the last one ends: ascending from 0 to `tokens`.
    pub offsets: &'a [u32],
    /// How many heads the width is cut into.
    pub heads: usize,
    /// Dropout on the probabilities, as in [`Tape::attention`].
    pub dropout: Option<&'a Dropout>,
}

/// What the backward pass needs.
struct Saved {
    /// `Kᵀ q` of every head and row: `[heads, rows, wide]`.
    absorbed: Tensor,
    /// The probabilities, `[heads, length]` for every sequence, and the factors of dropout on them.
    probabilities: Tensor,
    factors: Option<Tensor>,
    /// The sums of `x`, weighted by the probabilities after dropout, `[rows, heads, wide]`, and of the weights themselves.
    mixed: Tensor,
    totals: Vec<f32>,
}

impl Tape {
    /// Attention of row `i` of `query`, `[sequences, width]`, on the tokens of sequence `i` of `x`, `[tokens, inputs]`,
    /// whose keys and values are linear maps of them. [`Tape::attention`] gives the same but for rounding.
    ///
    /// # Errors
    /// When the shapes, the offsets, the heads or the keys of the dropout do not fit.
    pub fn absorbed_attention(&mut self, query: &Var, x: &Var, absorbed: Absorbed) -> Result<Var> {
        const OP: &str = "absorbed_attention";
        let Absorbed { key: (key, key_bias), value: (value, value_bias), offsets, heads, dropout } = absorbed;
        let device = self.device().clone();
        let _span = device.span(OP);
        let (shape, inputs, tokens) = (query.value().shape().to_vec(), x.value().width(), x.value().rows());
        let width = query.value().width();
        for tensor in [query, x, key, value].into_iter().chain(key_bias).chain(value_bias) {
            tensor.value().expect_f32(OP)?;
        }
        let fits = offsets.is_sorted() && offsets.first() == Some(&0) && offsets.last() == Some(&(tokens as u32));
        ensure_shape(OP, fits, x.value().shape(), || "sequence offsets that ascend from 0 to its rows".to_owned())?;
        let sequences = offsets.len() - 1;
        ensure_shape(OP, shape == [sequences, width], &shape, || format!("one row for each of {sequences} sequences"))?;
        ensure_shape(OP, heads > 0 && width > 0 && width.is_multiple_of(heads), &shape, || format!("{heads} heads"))?;
        for weight in [key, value] {
            let found = weight.value().shape();
            ensure_shape(OP, found == [width, inputs], found, || format!("[{width}, {inputs}]"))?;
        }
        for bias in [key_bias, value_bias].into_iter().flatten() {
            let found = bias.value().shape();
            ensure_shape(OP, found == [width], found, || format!("[{width}]"))?;
        }
        let keep = dropout.and_then(|dropout| Some((dropout, dropout.keep()?)));
        if let Some((dropout, _)) = keep {
            dropout.check(OP, sequences)?;
        }
        let offsets = offsets.iter().map(|&offset| offset as usize).collect();
        let e = Extents { offsets, heads, size: width / heads, inputs, wide: inputs.next_multiple_of(WIDEST) };
        device.count(e.operations(2, 2));

        let left = |head| e.columns(query.f32(), head);
        let absorbed = e.for_heads(&device, left, |head| e.weight(key.f32(), head, false));
        let mut probabilities = Tensor::stale(&device, &[heads * tokens]);
        let mut factors = keep.map(|_| Tensor::full(&device, &[heads * tokens], 1.0));
        let mut mixed = Tensor::stale(&device, &[sequences, heads, e.wide]);
        let mut totals = vec![0.0; sequences * heads];
        let masks = factors.as_mut().map_or_else(Vec::new, |factors| e.parts(factors.f32_mut()));
        let mut masks = masks.into_iter();
        let places = mixed.f32_mut().chunks_mut(heads * e.wide).zip(totals.chunks_mut(heads));
        let places = e.parts(probabilities.f32_mut()).into_iter().zip(places).enumerate();
        let places = places.map(|(row, place)| (row, place, masks.next()));
        tasks(places.collect(), |(row, (probabilities, (mixed, totals)), mask)| {
            let len = e.sequence(row).len();
            if len == 0 {
                return mixed.fill(0.0);
            }
            let stride = len.next_multiple_of(WIDEST);
            let mut scores = device.take(heads * stride);
            let scores = scores.slice_mut();
            times(&device, scores, stride, e.by_head(absorbed.f32(), row), e.tokens_of(x.f32(), row, true));
            let mut weights = device.take(heads * len);
            let weights = weights.slice_mut();
            vectorised(
                #[inline(always)]
                || {
                    for (p, scores) in probabilities.chunks_exact_mut(len).zip(scores.chunks_exact(stride)) {
                        p.iter_mut().zip(scores).for_each(|(p, score)| *p = e.scale() * score);
                        softmax(p);
                    }
                },
            );
            weights.copy_from_slice(probabilities);
            if let (Some(mask), Some((dropout, keep))) = (mask, keep) {
                for (head, mask) in mask.chunks_exact_mut(len).enumerate() {
                    let rng = dropout.rng.indexed(head as u64);
                    scan(keep, rng, dropout.keys[row] << 16, len, |range, found| mask[range].copy_from_slice(found));
                }
                weights.iter_mut().zip(mask).for_each(|(weight, factor)| *weight *= *factor);
            }
            for (total, weights) in totals.iter_mut().zip(weights.chunks_exact(len)) {
                *total = weights.iter().sum();
            }
            let left = Left::<false> { data: weights, stride: len, rows: heads, depth: len };
            times(&device, mixed, e.wide, left, e.tokens_of(x.f32(), row, false));
        });
        let bias = value_bias.map_or(&[][..], Var::f32);
        let out = e.project(&device, &mixed, value.f32(), |head, row, found, out| {
            let total = totals[row * heads + head];
            let bias = bias.get(head * e.size..).unwrap_or(&[]);
            out.copy_from_slice(found);
            out.iter_mut().zip(bias).for_each(|(y, bias)| *y += total * bias);
        });

        let nodes = [query, x, key, value].map(Var::node);
        let [key_bias_node, value_bias_node] = [key_bias, value_bias].map(|bias| bias.and_then(Var::node));
        let needs_grad = nodes.iter().chain([&key_bias_node, &value_bias_node]).any(Option::is_some);
        let [query, x, key, value] = [query, x, key, value].map(|var| var.value().clone());
        let bias = value_bias.map(|bias| bias.value().clone());
        Ok(self.record(OP, out, needs_grad, || {
            let saved = Saved { absorbed, probabilities, factors, mixed, totals };
            move |gradient: Tensor, flow| {
                let [query_node, x_node, key_node, value_node] = nodes;
                let device = flow.device().clone();
                flow.accumulate(value_node, value.shape(), |out, holds_sum| {
                    device.count(e.operations(1, 0));
                    e.weight_gradient(&device, gradient.f32(), &saved.mixed, out, holds_sum);
                    Ok(())
                })?;
                flow.accumulate(value_bias_node, &[width], |out, holds_sum| {
                    if !holds_sum {
                        out.fill(0.0);
                    }
                    for (gradient, totals) in gradient.f32().chunks_exact(width).zip(saved.totals.chunks_exact(heads)) {
                        let columns = out.chunks_exact_mut(e.size).zip(gradient.chunks_exact(e.size));
                        for ((out, gradient), total) in columns.zip(totals) {
                            out.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += total * g);
                        }
                    }
                    Ok(())
                })?;
                flow.accumulate(key_bias_node, &[width], |out, holds_sum| {
                    if !holds_sum {
                        out.fill(0.0);
                    }
                    Ok(())
                })?;
                if query_node.is_none() && x_node.is_none() && key_node.is_none() {
                    return Ok(());
                }
                // The gradient of the mixtures, `[heads, rows, wide]`, and from it that of the scores.
                let left = |head| e.columns(gradient.f32(), head);
                let mixtures = e.for_heads(&device, left, |head| e.weight(value.f32(), head, false));
                let slopes = e.slopes(&device, &saved, &x, &mixtures, &gradient, bias.as_ref());
                device.count(e.operations(1, 1));
                flow.accumulate(x_node, x.shape(), |out, holds_sum| {
                    device.count(e.operations(0, 2));
                    e.token_gradient(&device, &saved, &slopes, &mixtures, out, holds_sum);
                    Ok(())
                })?;
                if query_node.is_none() && key_node.is_none() {
                    return Ok(());
                }
                // The gradient of what was absorbed, `[rows, heads, wide]`.
                let mut absorbed = Tensor::stale(&device, &[e.rows(), heads, e.wide]);
                let rows = absorbed.f32_mut().chunks_mut(heads * e.wide).enumerate();
                tasks(rows.collect(), |(row, out)| {
                    let len = e.sequence(row).len();
                    if len == 0 {
                        return out.fill(0.0);
                    }
                    let data = &slopes.f32()[e.part(row)];
                    let left = Left::<false> { data, stride: len, rows: heads, depth: len };
                    times(&device, out, e.wide, left, e.tokens_of(x.f32(), row, false));
                });
                device.count(e.operations(0, 1));
                flow.accumulate(key_node, key.shape(), |out, holds_sum| {
                    device.count(e.operations(1, 0));
                    e.weight_gradient(&device, query.f32(), &absorbed, out, holds_sum);
                    Ok(())
                })?;
                if query_node.is_some() {
                    device.count(e.operations(1, 0));
                    let copy = |_, _, found: &[f32], out: &mut [f32]| out.copy_from_slice(found);
                    flow.add(query_node, e.project(&device, &absorbed, key.f32(), copy))?;
                }
                Ok(())
            }
        }))
    }
}

impl Extents {
    /// The gradient of the unscaled scores, `[heads, length]` for every sequence.
    fn slopes(
        &self,
        device: &Device,
        saved: &Saved,
        x: &Tensor,
        mixtures: &Tensor,
        gradient: &Tensor,
        bias: Option<&Tensor>,
    ) -> Tensor {
        let mut slopes = Tensor::stale(device, &[self.heads * self.tokens()]);
        let parts = self.parts(slopes.f32_mut()).into_iter().enumerate();
        tasks(parts.collect(), |(row, slopes)| {
            let len = self.sequence(row).len();
            if len == 0 {
                return;
            }
            let stride = len.next_multiple_of(WIDEST);
            let mut found = device.take(self.heads * stride);
            let right = self.tokens_of(x.f32(), row, true);
            times(device, found.slice_mut(), stride, self.by_head(mixtures.f32(), row), right);
            let probabilities = saved.probabilities.f32()[self.part(row)].chunks_exact(len);
            let width = self.heads * self.size;
            let gradient = &gradient.f32()[row * width..];
            let heads = slopes.chunks_exact_mut(len).zip(found.slice().chunks_exact(stride)).zip(probabilities);
            for (head, ((slopes, found), probabilities)) in heads.enumerate() {
                // What the bias of the values adds is the same for every token, but dropout may take it from some.
                let columns = head * self.size..(head + 1) * self.size;
                let shift = bias.map_or(0.0, |bias| dot(&gradient[columns.clone()], &bias.f32()[columns]));
                slopes.iter_mut().zip(found).for_each(|(slope, found)| *slope = found + shift);
                if let Some(factors) = &saved.factors {
                    let factors = &factors.f32()[self.part(row)][head * len..];
                    slopes.iter_mut().zip(factors).for_each(|(slope, factor)| *slope *= factor);
                }
                let mean: f32 = slopes.iter().zip(probabilities).map(|(slope, p)| slope * p).sum();
                let scale = self.scale();
                slopes.iter_mut().zip(probabilities).for_each(|(slope, p)| *slope = scale * p * (*slope - mean));
            }
        });
        slopes
    }

    /// The gradient of `x`: by way of the mixtures and by way of the scores.
    fn token_gradient(
        &self,
        device: &Device,
        saved: &Saved,
        slopes: &Tensor,
        mixtures: &Tensor,
        mut out: &mut [f32],
        holds_sum: bool,
    ) {
        let mut cut = |row| out.split_off_mut(..self.sequence(row).len() * self.inputs).unwrap_or_default();
        let parts: Vec<_> = (0..self.rows()).map(|row| (row, cut(row))).collect();
        tasks(parts, |(row, out)| {
            let len = self.sequence(row).len();
            let part = self.part(row);
            let mut weights = device.take(part.len());
            let weights = weights.slice_mut();
            weights.copy_from_slice(&saved.probabilities.f32()[part.clone()]);
            if let Some(factors) = &saved.factors {
                weights.iter_mut().zip(&factors.f32()[part.clone()]).for_each(|(weight, factor)| *weight *= factor);
            }
            let mut found = device.take(len * self.wide);
            let mut room = device.take(self.heads * self.wide);
            let terms = [(&*weights, mixtures), (&slopes.f32()[part], &saved.absorbed)];
            for (i, (weights, rows)) in terms.into_iter().enumerate() {
                let by_head = self.by_head(rows.f32(), row);
                let (data, stride) = (by_head.data, by_head.stride);
                let right = Right { data, stride, rows: self.heads, width: self.inputs, turned: false };
                let left = Left::<true> { data: weights, stride: len, rows: len, depth: self.heads };
                let (out, room) = (found.slice_mut(), room.slice_mut());
                arch().dispatch(Times { out, out_stride: self.wide, add: i > 0, left, right, room });
            }
            for (out, found) in out.chunks_exact_mut(self.inputs).zip(found.slice().chunks_exact(self.wide)) {
                put(out, &found[..self.inputs], holds_sum);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{Case, Inputs, kept, noise, weighted_sum};
    use crate::{Attention, Device, Grads, Precision, Rng, with_threads};

    struct Setup {
        offsets: Vec<u32>,
        inputs: usize,
        width: usize,
        heads: usize,
        dropout: Option<Dropout>,
    }

    fn setup(lengths: &[u32], inputs: usize, width: usize, heads: usize, p: Option<f32>) -> Setup {
        let mut offsets = vec![0];
        offsets.extend(lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        }));
        let keys = (0..lengths.len() as u64).map(|row| row << 20).collect();
        let dropout = p.map(|p| Dropout { p, rng: Rng::at(5, "attention", 3, 1), keys });
        Setup { offsets, inputs, width, heads, dropout }
    }

    impl Setup {
        fn shapes(&self) -> [(&'static str, Vec<usize>); 6] {
            let (rows, tokens) = (self.offsets.len() - 1, self.offsets[self.offsets.len() - 1] as usize);
            [
                ("query", vec![rows, self.width]),
                ("x", vec![tokens, self.inputs]),
                ("key", vec![self.width, self.inputs]),
                ("key_bias", vec![self.width]),
                ("value", vec![self.width, self.inputs]),
                ("value_bias", vec![self.width]),
            ]
        }

        fn values(&self) -> Vec<(&'static str, Vec<usize>, Vec<f32>)> {
            self.shapes().map(|(name, shape)| (name, shape.clone(), noise(shape.iter().product(), name))).to_vec()
        }

        fn call(&self, tape: &mut Tape, [query, x, key, key_bias, value, value_bias]: [&Var; 6]) -> Result<Var> {
            let (key, value) = ((key, Some(key_bias)), (value, Some(value_bias)));
            let (offsets, heads, dropout) = (&self.offsets[..], self.heads, self.dropout.as_ref());
            tape.absorbed_attention(query, x, Absorbed { key, value, offsets, heads, dropout })
        }

        /// Keys and values made, then the formula of attention.
        fn reference(&self, inputs: &Inputs) -> Vec<f64> {
            let (width, size) = (self.width, self.width / self.heads);
            let map = |weight: &str, bias: &str, token: usize, output: usize| -> f64 {
                let x = &inputs["x"][token * self.inputs..][..self.inputs];
                let weight = &inputs[weight][output * self.inputs..];
                inputs[bias][output] + x.iter().zip(weight).map(|(x, w)| x * w).sum::<f64>()
            };
            let mut out = vec![0.0; inputs["query"].len()];
            for (row, pair) in self.offsets.windows(2).enumerate() {
                let tokens: Vec<usize> = (pair[0] as usize..pair[1] as usize).collect();
                for head in 0..self.heads {
                    let columns = head * size..(head + 1) * size;
                    let weight = |&token: &usize| {
                        let product = |c| inputs["query"][row * width + c] * map("key", "key_bias", token, c);
                        (columns.clone().map(product).sum::<f64>() / (size as f64).sqrt()).exp()
                    };
                    let weights: Vec<f64> = tokens.iter().map(weight).collect();
                    let total: f64 = weights.iter().sum();
                    for (j, (weight, &token)) in weights.iter().zip(&tokens).enumerate() {
                        let kept = kept(self.dropout.as_ref(), |dropout| dropout.keys[row], head, j);
                        for c in columns.clone() {
                            out[row * width + c] += kept * weight / total * map("value", "value_bias", token, c);
                        }
                    }
                }
            }
            out
        }

        fn check(&self) {
            let mut case = Case::new();
            let vars: Vec<Var> =
                self.values().into_iter().map(|(name, shape, values)| case.input(name, &shape, values)).collect();
            let vars = std::array::from_fn(|i| &vars[i]);
            case.run(|tape| self.call(tape, vars), |inputs| self.reference(inputs));
        }

        /// Output and gradients; `direct` makes keys and values.
        fn run(&self, trained: [bool; 6], direct: bool) -> (Vec<f32>, Grads) {
            let device = Device::cpu();
            let mut tape = Tape::new(&device, Precision::F32);
            let vars: Vec<Var> = self
                .values()
                .into_iter()
                .zip(trained)
                .map(|((name, shape, values), trained)| {
                    let tensor = Tensor::from_vec(&device, &shape, values).unwrap();
                    if trained { tape.leaf(name, tensor) } else { Var::constant(tensor) }
                })
                .collect();
            let all: [&Var; 6] = std::array::from_fn(|i| &vars[i]);
            let out = if direct {
                let [query, x, key, key_bias, value, value_bias] = all;
                let key = tape.linear(x, key, Some(key_bias), None).unwrap();
                let value = tape.linear(x, value, Some(value_bias), None).unwrap();
                let queries: Vec<u32> = (0..self.offsets.len() as u32).collect();
                let (offsets, heads) = (&self.offsets[..], self.heads);
                let (queries, dropout) = (Some(&queries[..]), self.dropout.as_ref());
                let attention = Attention { offsets, queries, heads, causal: false, dropout, prefix: None };
                tape.attention(query, &key, &value, &attention).unwrap()
            } else {
                self.call(&mut tape, all).unwrap()
            };
            let loss = weighted_sum(&mut tape, &out, &noise(out.value().len(), "weights"));
            let mut grads = Grads::default();
            tape.backward(&loss, &mut grads).unwrap();
            (out.value().to_vec(), grads)
        }
    }

    #[test]
    fn one_row_a_sequence() {
        setup(&[3, 1, 5], 6, 4, 2, None).check();
        setup(&[2, 0, 3, 0], 4, 6, 3, None).check();
    }

    #[test]
    fn dropout_on_the_probabilities() {
        setup(&[3, 1, 11], 3, 4, 2, Some(0.3)).check();
        setup(&[0, 4], 4, 4, 1, Some(0.5)).check();
    }

    #[test]
    fn what_attention_over_made_keys_and_values_gives() {
        let setup = setup(&[40, 3, 1, 70, 9, 16, 33], 96, 64, 4, Some(0.2));
        let ((found, grads), (expected, direct)) = (setup.run([true; 6], false), setup.run([true; 6], true));
        let close = |name: &str, found: &[f32], expected: &[f32], size: f32| {
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() <= 1e-4 * size, "{name}: {found} against {expected}");
            }
        };
        let size = |values: &[f32]| values.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        close("values", &found, &expected, size(&expected));
        for (name, gradient) in direct.iter() {
            let (found, expected) = (grads.dense(name).unwrap().unwrap().to_vec(), gradient.to_dense().to_vec());
            // That of the keys' bias is zero; made from keys it is what rounding leaves of large sums.
            let size = if name == "key_bias" { 1.0 } else { size(&expected) };
            close(name, &found, &expected, size);
        }
        assert!(grads.dense("key_bias").unwrap().unwrap().to_vec().iter().all(|&g| g == 0.0));
    }

    #[test]
    fn the_same_bits_for_any_number_of_threads() {
        let setup = setup(&[40, 3, 1, 70, 9], 48, 24, 3, Some(0.2));
        let (out, grads) = with_threads(1, || setup.run([true; 6], false));
        for threads in [2, 3] {
            let (again, grads_again) = with_threads(threads, || setup.run([true; 6], false));
            assert!(out == again, "{threads} threads give another output");
            for (name, gradient) in grads.iter() {
                let again = grads_again.get(name).unwrap().stored().to_vec();
                assert!(gradient.stored().to_vec() == again, "{threads} threads give another gradient of {name}");
            }
        }
    }

    #[test]
    fn gradients_do_not_depend_on_what_else_is_trained() {
        let setup = setup(&[4, 3, 9], 8, 8, 2, Some(0.2));
        let (_, all) = setup.run([true; 6], false);
        for only in 0..6 {
            let (_, grads) = setup.run(std::array::from_fn(|i| i == only), false);
            assert_eq!(grads.len(), 1);
            for (name, gradient) in grads.iter() {
                assert!(gradient.stored().to_vec() == all.get(name).unwrap().stored().to_vec(), "{name}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let var = |shape: &[usize]| Var::constant(Tensor::zeros(&device, shape));
        let (x, weight) = (var(&[3, 4]), var(&[4, 4]));
        let mut attempt = |query: &Var, value: &Var, offsets: &[u32], heads: usize| {
            let absorbed = Absorbed { key: (&weight, None), value: (value, None), offsets, heads, dropout: None };
            tape.absorbed_attention(query, &x, absorbed).unwrap_err().to_string()
        };
        let one = "absorbed_attention: the shape [2, 4] does not fit one row for each of 1 sequences";
        assert_eq!(attempt(&var(&[2, 4]), &weight, &[0, 3], 2), one);
        let offsets =
            "absorbed_attention: the shape [3, 4] does not fit sequence offsets that ascend from 0 to its rows";
        assert_eq!(attempt(&var(&[1, 4]), &weight, &[0, 2], 2), offsets);
        assert_eq!(
            attempt(&var(&[1, 4]), &weight, &[0, 3], 3),
            "absorbed_attention: the shape [1, 4] does not fit 3 heads"
        );
        let value = "absorbed_attention: the shape [4, 5] does not fit [4, 4]";
        assert_eq!(attempt(&var(&[1, 4]), &var(&[4, 5]), &[0, 3], 2), value);
    }
}
