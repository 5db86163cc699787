//! Attention over packed sequences: no padding, and never a matrix of scores for the batch.
//!
//! One head of one sequence is computed at a time, in cache (`kernels::attention`). What is saved for the backward pass
//! is the inputs, the output, and two numbers a row and head; the probabilities are computed again.

use std::ops::Range;

use crate::error::{Result, ensure_shape};
use crate::kernels::attention::{self as kernel, Backward, Forward, Gradients, Head, Mask, Stripe};
use crate::kernels::math::arch;
use crate::kernels::parallel;
use crate::kernels::tiles::{Tile, tiles};
use crate::ops::dropout::Dropout;

use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// How queries, keys and values of a packed batch go together (scaled dot products: Vaswani et al. 2017).
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Where each sequence's keys start in the packed stream, and where the last one's end: ascending from 0 to `tokens`.
    pub offsets: &'a [u32],
    /// The same for queries, where they are not the tokens of the keys: some of them only, or another stream.
    pub queries: Option<&'a [u32]>,
    /// How many heads the width is cut into.
    pub heads: usize,
    /// Whether a token sees only itself and what came before it.
    pub causal: bool,
    /// Dropout on the probabilities. The element (query row `i`, head `h`, key `j`) is decided by the stream
    /// `rng.indexed(h)`, block `keys[i] << 16 | j / 8`; `j` counts the keys of the query's sequence, the prefix first.
    pub dropout: Option<&'a Dropout>,
    /// Further keys and values, `[prefix, width]`, that every query of every sequence sees, causal or not.
    pub prefix: Option<(&'a Var, &'a Var)>,
}

/// Consecutive sequences of at least so many rows make one task, whatever the number of threads.
const RUN: usize = 64;

/// What both passes share, owned, so that the backward pass can keep it.
struct Plan {
    /// Where sequences start, in queries and in keys.
    queries: Vec<usize>,
    keys: Vec<usize>,
    heads: usize,
    width: usize,
    causal: bool,
    dropout: Option<Dropout>,
    prefix_rows: usize,
    /// Runs of sequences, and the queries and the keys where they start and the last one ends.
    runs: Vec<Range<usize>>,
    query_bounds: Vec<usize>,
    key_bounds: Vec<usize>,
    /// Keys of the longest sequence, the prefix included.
    longest: usize,
}

/// The saved tensors.
struct Saved {
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: Option<(Tensor, Tensor)>,
    out: Tensor,
    sums: Tensor,
}

impl Plan {
    fn new(query: &Var, key: &Var, value: &Var, attention: &Attention) -> Result<Plan> {
        const OP: &str = "attention";
        let shape = query.value().shape();
        ensure_shape(OP, shape.len() == 2, shape, || "queries of shape [tokens, width]".to_owned())?;
        let (width, heads) = (shape[1], attention.heads);
        ensure_shape(OP, heads > 0 && width > 0 && width.is_multiple_of(heads), shape, || format!("{heads} heads"))?;
        let tokens = key.value().rows();
        for tensor in [query, key, value] {
            tensor.value().expect_f32(OP)?;
            let rows = if attention.queries.is_some() { tokens } else { shape[0] };
            let expected = if std::ptr::eq(tensor, query) { shape.to_vec() } else { vec![rows, width] };
            ensure_shape(OP, tensor.value().shape() == expected, tensor.value().shape(), || match attention.queries {
                None => format!("queries of shape {shape:?}"),
                Some(_) => format!("keys of shape {expected:?}"),
            })?;
        }
        let mut prefix_rows = 0;
        if let Some((key, value)) = attention.prefix {
            prefix_rows = key.value().rows();
            for tensor in [key, value] {
                tensor.value().expect_f32(OP)?;
                ensure_shape(OP, tensor.value().shape() == [prefix_rows, width], tensor.value().shape(), || {
                    format!("prefix keys of shape [{prefix_rows}, {width}]")
                })?;
            }
        }
        let dropout = attention.dropout.filter(|dropout| dropout.keep().is_some());
        if let Some(dropout) = dropout {
            dropout.check(OP, shape[0])?;
        }
        let starts = |offsets: &[u32], tokens: usize| {
            let offsets: Vec<usize> = offsets.iter().map(|&offset| offset as usize).collect();
            let covers = offsets.is_sorted() && offsets.first() == Some(&0) && offsets.last() == Some(&tokens);
            ensure_shape(OP, covers, &[tokens, width], || {
                let (first, last) = (offsets.first().unwrap_or(&0), offsets.last().unwrap_or(&0));
                format!("sequence offsets that ascend from {first} to {last}")
            })?;
            Ok(offsets)
        };
        let keys = starts(attention.offsets, tokens)?;
        let queries = starts(attention.queries.unwrap_or(attention.offsets), shape[0])?;
        ensure_shape(OP, queries.len() == keys.len(), &[queries.len() - 1], || {
            format!("{} sequences", keys.len() - 1)
        })?;
        ensure_shape(OP, !attention.causal || queries == keys, shape, || "causal attention of all tokens".to_owned())?;

        let (mut runs, mut query_bounds, mut key_bounds, mut start) = (Vec::new(), vec![0], vec![0], 0);
        for (sequence, &end) in keys.iter().enumerate().skip(1) {
            if end - keys[start] >= RUN || sequence + 1 == keys.len() {
                runs.push(start..sequence);
                query_bounds.push(queries[sequence]);
                key_bounds.push(end);
                start = sequence;
            }
        }
        let longest = keys.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0) + prefix_rows;
        let (causal, dropout) = (attention.causal, dropout.cloned());
        Ok(Plan { queries, keys, heads, width, causal, dropout, prefix_rows, runs, query_bounds, key_bounds, longest })
    }

    fn size(&self) -> usize {
        self.width / self.heads
    }

    /// Multiplications and additions of so many products over every query and the keys that it sees.
    fn operations(&self, products: usize) -> u64 {
        let lengths = |starts: &[usize], i: usize| starts[i + 1] - starts[i];
        let pairs = (0..self.keys.len() - 1).map(|i| {
            let (queries, keys) = (lengths(&self.queries, i), lengths(&self.keys, i));
            queries * self.prefix_rows + if self.causal { queries * (queries + 1) / 2 } else { queries * keys }
        });
        (2 * products * self.width * pairs.sum::<usize>()) as u64
    }

    /// The columns of one head.
    fn stripe<'a>(&self, data: &'a [f32], head: usize) -> Stripe<'a> {
        Stripe { data, width: self.width, column: head * self.size(), size: self.size() }
    }

    /// The mask of one head.
    fn mask(&self, head: usize) -> Option<Mask<'_>> {
        let dropout = self.dropout.as_ref()?;
        Some(Mask { keep: dropout.keep()?, rng: dropout.rng.indexed(head as u64), keys: &dropout.keys })
    }

    fn tiles<'a>(&self, matrix: &'a mut Tensor) -> Vec<Tile<'a>> {
        tiles(matrix.f32_mut(), self.width, self.size(), &self.query_bounds)
    }

    /// Runs `task` for every head and every run of sequences, each with what `outputs` has for it. Head by head: the thread
    /// that made a head's columns has them near.
    fn for_each<T: Send>(&self, outputs: Vec<T>, task: impl Fn(Range<usize>, usize, T) + Sync) {
        let mut tasks: Vec<(usize, T)> = outputs.into_iter().enumerate().collect();
        tasks.sort_by_key(|(i, _)| i % self.heads);
        parallel::tasks(tasks, |(i, output)| task(self.runs[i / self.heads].clone(), i % self.heads, output));
    }

    /// One head of one sequence.
    fn head<'a>(&'a self, saved: &'a Saved, sequence: usize, head: usize) -> Head<'a> {
        let (start, key_start) = (self.queries[sequence], self.keys[sequence]);
        Head {
            query: self.stripe(saved.query.f32(), head),
            key: self.stripe(saved.key.f32(), head),
            value: self.stripe(saved.value.f32(), head),
            prefix: saved
                .prefix
                .as_ref()
                .map(|(key, value)| (self.stripe(key.f32(), head), self.stripe(value.f32(), head))),
            prefix_rows: self.prefix_rows,
            start,
            len: self.queries[sequence + 1] - start,
            key_start,
            key_len: self.keys[sequence + 1] - key_start,
            causal: self.causal,
            mask: self.mask(head),
        }
    }
}

impl Tape {
    /// Attention of `query` on `key` and `value`, all `[tokens, width]`: head `h` takes columns `h * d..(h + 1) * d`
    /// with `d = width / heads`, and scores are scaled by `1 / sqrt(d)`. Computed in f32 in either precision.
    ///
    /// # Errors
    /// When the shapes, the offsets, the heads or the keys of the dropout do not fit.
    pub fn attention(&mut self, query: &Var, key: &Var, value: &Var, attention: &Attention) -> Result<Var> {
        let _span = self.device().span("attention");
        let plan = Plan::new(query, key, value, attention)?;
        let device = self.device().clone();
        let rows = query.value().rows();
        let mut out = Tensor::stale(&device, query.value().shape());
        let mut sums = Tensor::stale(&device, &[rows, 2 * plan.heads]);
        // Both are written below; `saved` holds the inputs only until then.
        let mut saved = Saved {
            query: query.value().clone(),
            key: key.value().clone(),
            value: value.value().clone(),
            prefix: attention.prefix.map(|(key, value)| (key.value().clone(), value.value().clone())),
            out: Tensor::zeros(&device, &[0]),
            sums: Tensor::zeros(&device, &[0]),
        };
        device.count(plan.operations(2));
        let arch = arch();
        let outputs = plan.tiles(&mut out).into_iter();
        let outputs = outputs.zip(tiles(sums.f32_mut(), 2 * plan.heads, 2, &plan.query_bounds)).collect();
        plan.for_each(outputs, |run, head, (mut out, mut sums)| {
            let mut scratch = device.take(kernel::scratch(plan.longest, plan.size(), false));
            let start = plan.queries[run.start];
            plan.head(&saved, run.start, head).fetch();
            for sequence in run.clone() {
                if sequence + 1 < run.end {
                    plan.head(&saved, sequence + 1, head).fetch();
                }
                let head = plan.head(&saved, sequence, head);
                let first = head.start - start;
                out.fetch(first, head.len);
                arch.dispatch(Forward { head, out: &mut out, sums: &mut sums, first, scratch: scratch.slice_mut() });
            }
        });
        let nodes = [Some(query), Some(key), Some(value), attention.prefix.map(|p| p.0), attention.prefix.map(|p| p.1)]
            .map(|var| var.and_then(Var::node));
        let result = out.clone();
        Ok(self.record("attention", result, nodes.iter().any(Option::is_some), || {
            (saved.out, saved.sums) = (out, sums);
            move |gradient: Tensor, flow| {
                let wanted = nodes.map(|node| node.is_some());
                // The scores again; the slopes if queries or keys want them; and what each of the three wants.
                let [query, key, value] = [wanted[0], wanted[1] || wanted[3], wanted[2] || wanted[4]];
                let products = 1 + [query || key, query, key, value].into_iter().filter(|&wanted| wanted).count();
                flow.device().count(plan.operations(products));
                let gradients = plan.backward(&saved, &gradient, wanted);
                let [query, key, value, prefix_key, prefix_value] = gradients;
                for (to, gradient) in nodes.into_iter().zip([query, key, value]) {
                    if let Some(gradient) = gradient {
                        flow.add(to, gradient)?;
                    }
                }
                for (to, parts) in nodes.into_iter().skip(3).zip([prefix_key, prefix_value]) {
                    let Some(parts) = parts else { continue };
                    flow.accumulate(to, &[plan.prefix_rows, plan.width], |out, holds_sum| {
                        parallel::column_sums(parts.f32(), out.len().max(1), out, holds_sum);
                        Ok(())
                    })?;
                }
                Ok(())
            }
        }))
    }
}

impl Plan {
    /// The gradients of queries, keys and values, and those of the prefix for each run of sequences.
    fn backward(&self, saved: &Saved, gradient: &Tensor, wanted: [bool; 5]) -> [Option<Tensor>; 5] {
        let device = gradient.device();
        let prefix_shape = [self.runs.len() * self.prefix_rows, self.width];
        let mut results: [Option<Tensor>; 5] = std::array::from_fn(|i| {
            let shape = [saved.query.shape(), saved.key.shape(), saved.value.shape(), &prefix_shape, &prefix_shape][i];
            wanted[i].then(|| Tensor::stale(device, shape))
        });
        let prefix_bounds: Vec<usize> = (0..=self.runs.len()).map(|run| run * self.prefix_rows).collect();
        let mut bounds =
            [&self.query_bounds, &self.key_bounds, &self.key_bounds, &prefix_bounds, &prefix_bounds].into_iter();
        let [mut query, mut key, mut value, mut prefix_key, mut prefix_value] = results.each_mut().map(|tensor| {
            let bounds = bounds.next()?;
            let tensor = tensor.as_mut()?;
            Some(tiles(tensor.f32_mut(), self.width, self.size(), bounds).into_iter())
        });
        let one = |tiles: &mut Option<std::vec::IntoIter<_>>| tiles.as_mut().and_then(Iterator::next);
        let outputs = (0..self.runs.len() * self.heads)
            .map(|_| Gradients {
                query: one(&mut query),
                key: one(&mut key),
                value: one(&mut value),
                prefix_key: one(&mut prefix_key),
                prefix_value: one(&mut prefix_value),
            })
            .collect();
        let arch = arch();
        self.for_each(outputs, |run, head, mut gradients| {
            let mut scratch = device.take(kernel::scratch(self.longest, self.size(), true));
            let (start, key_start) = (self.queries[run.start], self.keys[run.start]);
            let sums = Stripe { data: saved.sums.f32(), width: 2 * self.heads, column: 2 * head, size: 2 };
            let (out, upstream) = (self.stripe(saved.out.f32(), head), self.stripe(gradient.f32(), head));
            let fetch = |sequence| {
                let head = self.head(saved, sequence, head);
                head.fetch();
                out.fetch(head.start, head.len);
                upstream.fetch(head.start, head.len);
            };
            fetch(run.start);
            for sequence in run.clone() {
                if sequence + 1 < run.end {
                    fetch(sequence + 1);
                }
                let head = self.head(saved, sequence, head);
                for (tile, first, len) in [
                    (&gradients.query, head.start - start, head.len),
                    (&gradients.key, head.key_start - key_start, head.key_len),
                    (&gradients.value, head.key_start - key_start, head.key_len),
                ] {
                    tile.iter().for_each(|tile| tile.fetch(first, len));
                }
                arch.dispatch(Backward {
                    head,
                    out,
                    sums,
                    gradient: upstream,
                    gradients: &mut gradients,
                    first: head.start - start,
                    first_key: head.key_start - key_start,
                    fresh: sequence == run.start,
                    scratch: scratch.slice_mut(),
                });
            }
        });
        results
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{Case, Inputs, kept, noise, weighted_sum};
    use crate::{Device, Grads, Precision, Rng, with_threads};

    /// What the reference needs to know of a case.
    #[derive(Clone)]
    struct Setup {
        offsets: Vec<u32>,
        width: usize,
        heads: usize,
        causal: bool,
        prefix: usize,
        dropout: Option<Dropout>,
        /// Offsets of the queries, where they are others.
        queries: Option<Vec<u32>>,
    }

    fn setup(lengths: &[u32], width: usize, heads: usize) -> Setup {
        let mut offsets = vec![0];
        offsets.extend(lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        }));
        Setup { offsets, width, heads, causal: false, prefix: 0, dropout: None, queries: None }
    }

    fn dropout(tokens: usize) -> Dropout {
        let keys = (0..tokens as u64).map(|i| ((i / 7) << 20) | (i % 7)).collect();
        Dropout { p: 0.3, rng: Rng::at(5, "attention", 3, 1), keys }
    }

    /// The formula, a row at a time, with the mask read from the generator word by word.
    fn reference(setup: &Setup, inputs: &Inputs) -> Vec<f64> {
        let (width, size) = (setup.width, setup.width / setup.heads);
        let none = Vec::new();
        let (prefix_key, prefix_value) =
            (inputs.get("prefix_key").unwrap_or(&none), inputs.get("prefix_value").unwrap_or(&none));
        let mut out = vec![0.0; inputs["query"].len()];
        let queries = setup.queries.as_ref().unwrap_or(&setup.offsets);
        for (pair, queries) in setup.offsets.windows(2).zip(queries.windows(2)) {
            let (start, end) = (pair[0] as usize, pair[1] as usize);
            let keys = [prefix_key, &inputs["key"][start * width..end * width]].concat();
            let values = [prefix_value, &inputs["value"][start * width..end * width]].concat();
            for i in queries[0] as usize..queries[1] as usize {
                let seen = setup.prefix + if setup.causal { i - start + 1 } else { end - start };
                for head in 0..setup.heads {
                    let columns = |j: usize| j * width + head * size..j * width + (head + 1) * size;
                    let query = &inputs["query"][columns(i)];
                    let weight = |j: usize| {
                        let score: f64 = query.iter().zip(&keys[columns(j)]).map(|(q, k)| q * k).sum();
                        (score / (size as f64).sqrt()).exp()
                    };
                    let weights: Vec<f64> = (0..seen).map(weight).collect();
                    let total: f64 = weights.iter().sum();
                    for (j, weight) in weights.iter().enumerate() {
                        let kept = kept(setup.dropout.as_ref(), |dropout| dropout.keys[i], head, j);
                        for (y, v) in out[columns(i)].iter_mut().zip(&values[columns(j)]) {
                            *y += kept * weight / total * v;
                        }
                    }
                }
            }
        }
        out
    }

    fn check(setup: &Setup) {
        let tokens = setup.offsets[setup.offsets.len() - 1] as usize;
        let mut case = Case::new();
        let mut input = |name, rows: usize| case.input(name, &[rows, setup.width], noise(rows * setup.width, name));
        let asked = setup.queries.as_ref().map_or(tokens, |queries| queries[queries.len() - 1] as usize);
        let (query, key, value) = (input("query", asked), input("key", tokens), input("value", tokens));
        let prefix =
            (setup.prefix > 0).then(|| (input("prefix_key", setup.prefix), input("prefix_value", setup.prefix)));
        let attention = Attention {
            offsets: &setup.offsets,
            queries: setup.queries.as_deref(),
            heads: setup.heads,
            causal: setup.causal,
            dropout: setup.dropout.as_ref(),
            prefix: prefix.as_ref().map(|(key, value)| (key, value)),
        };
        case.run(|tape| tape.attention(&query, &key, &value, &attention), |inputs| reference(setup, inputs));
    }

    #[test]
    fn ragged_sequences() {
        check(&setup(&[3, 1, 7, 1, 2], 6, 2));
        check(&setup(&[20, 5], 64, 2));
    }

    #[test]
    fn an_empty_sequence_among_others() {
        check(&setup(&[0, 3, 0, 0, 2, 0], 4, 1));
    }

    #[test]
    fn sequences_of_several_blocks_and_runs() {
        check(&setup(&[2, 130, 67], 2, 1));
        check(&Setup { causal: true, ..setup(&[130, 1, 65], 2, 1) });
    }

    #[test]
    fn causal() {
        check(&Setup { causal: true, ..setup(&[5, 1, 18], 6, 3) });
    }

    #[test]
    fn queries_of_some_rows_or_of_another_stream() {
        check(&Setup { queries: Some(vec![0, 1, 1, 4, 5]), ..setup(&[3, 1, 7, 2], 6, 2) });
        let dropout = Some(dropout(9));
        check(&Setup { queries: Some(vec![0, 0, 7, 9]), prefix: 2, dropout, ..setup(&[70, 5, 1], 4, 2) });
    }

    #[test]
    fn prefix_keys_and_values() {
        check(&Setup { prefix: 3, ..setup(&[4, 1, 9], 6, 2) });
        // Two runs of sequences: their gradients of the prefix are summed.
        check(&Setup { prefix: 2, causal: true, ..setup(&[66, 5, 1], 2, 1) });
    }

    #[test]
    fn dropout_on_the_probabilities() {
        check(&Setup { dropout: Some(dropout(20)), ..setup(&[4, 1, 15], 6, 2) });
        check(&Setup { dropout: Some(dropout(80)), causal: true, prefix: 3, ..setup(&[10, 70], 2, 1) });
    }

    /// Output and gradients, bit by bit, of the sequences together.
    fn run(setup: &Setup, rows: Range<usize>, trained: [bool; 5]) -> (Vec<f32>, Grads) {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let (tokens, width) = (setup.offsets[setup.offsets.len() - 1] as usize, setup.width);
        let mut var = |i: usize, name: &'static str, rows: Range<usize>, of: usize| {
            let values = noise(of * width, name)[rows.start * width..rows.end * width].to_vec();
            let tensor = Tensor::from_vec(&device, &[rows.len(), width], values).unwrap();
            if trained[i] { tape.leaf(name, tensor) } else { Var::constant(tensor) }
        };
        let query = var(0, "query", rows.clone(), tokens);
        let key = var(1, "key", rows.clone(), tokens);
        let value = var(2, "value", rows.clone(), tokens);
        let prefix_key = var(3, "prefix_key", 0..setup.prefix, setup.prefix);
        let prefix_value = var(4, "prefix_value", 0..setup.prefix, setup.prefix);
        let dropout =
            setup.dropout.clone().map(|dropout| Dropout { keys: dropout.keys[rows.clone()].into(), ..dropout });
        let offsets: Vec<u32> = setup
            .offsets
            .iter()
            .filter(|&&offset| rows.start <= offset as usize && offset as usize <= rows.end)
            .map(|offset| offset - rows.start as u32)
            .collect();
        let attention = Attention {
            offsets: &offsets,
            queries: None,
            heads: setup.heads,
            causal: setup.causal,
            dropout: dropout.as_ref(),
            prefix: (setup.prefix > 0).then_some((&prefix_key, &prefix_value)),
        };
        let out = tape.attention(&query, &key, &value, &attention).unwrap();
        let weights = noise(tokens * width, "weights")[rows.start * width..rows.end * width].to_vec();
        let loss = weighted_sum(&mut tape, &out, &weights);
        let mut grads = Grads::default();
        tape.backward(&loss, &mut grads).unwrap();
        (out.value().to_vec(), grads)
    }

    fn demanding() -> Setup {
        Setup { causal: true, prefix: 3, dropout: Some(dropout(182)), ..setup(&[1, 30, 70, 1, 80], 24, 3) }
    }

    #[test]
    fn the_same_bits_for_any_number_of_threads() {
        let setup = demanding();
        let (out, grads) = with_threads(1, || run(&setup, 0..182, [true; 5]));
        for threads in [2, 3] {
            let (again, grads_again) = with_threads(threads, || run(&setup, 0..182, [true; 5]));
            assert!(out == again, "{threads} threads give another output");
            for (name, gradient) in grads.iter() {
                let again = grads_again.get(name).unwrap().stored().to_vec();
                assert!(gradient.stored().to_vec() == again, "{threads} threads give another gradient of {name}");
            }
        }
    }

    #[test]
    fn packed_is_one_sequence_at_a_time() {
        let setup = demanding();
        let (packed, packed_grads) = run(&setup, 0..182, [true, true, true, false, false]);
        for pair in setup.offsets.windows(2) {
            let rows = pair[0] as usize..pair[1] as usize;
            let elements = rows.start * setup.width..rows.end * setup.width;
            let (alone, grads) = run(&setup, rows, [true, true, true, false, false]);
            assert!(alone == packed[elements.clone()], "sequence {pair:?}");
            for (name, gradient) in grads.iter() {
                let packed = packed_grads.get(name).unwrap().stored().to_vec();
                assert!(gradient.stored().to_vec() == packed[elements.clone()], "gradient of {name}, {pair:?}");
            }
        }
    }

    #[test]
    fn gradients_do_not_depend_on_what_else_is_trained() {
        let setup = demanding();
        let (_, all) = run(&setup, 0..182, [true; 5]);
        for only in 0..5 {
            let (_, grads) = run(&setup, 0..182, std::array::from_fn(|i| i == only));
            assert_eq!(grads.len(), 1);
            for (name, gradient) in grads.iter() {
                assert!(gradient.stored().to_vec() == all.get(name).unwrap().stored().to_vec(), "{name}");
            }
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let query = Var::constant(Tensor::from_vec(&device, &[2, 1], vec![1e4, -1e4]).unwrap());
        let value = Var::constant(Tensor::from_vec(&device, &[2, 1], vec![3.0, 5.0]).unwrap());
        let attention =
            Attention { offsets: &[0, 2], queries: None, heads: 1, causal: false, dropout: None, prefix: None };
        let out = tape.attention(&query, &query, &value, &attention).unwrap();
        assert_eq!(out.value().to_vec(), [3.0, 5.0]);
        assert!(tape.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let x = Var::constant(Tensor::zeros(&device, &[3, 4]));
        let mut attempt = |offsets: &[u32], heads: usize, other: &Var| {
            let attention = Attention { offsets, queries: None, heads, causal: false, dropout: None, prefix: None };
            tape.attention(&x, other, &x, &attention).unwrap_err().to_string()
        };
        assert_eq!(attempt(&[0, 3], 3, &x), "attention: the shape [3, 4] does not fit 3 heads");
        let offsets = "attention: the shape [3, 4] does not fit sequence offsets that ascend from 0 to 2";
        assert_eq!(attempt(&[0, 2], 2, &x), offsets);
        let other = Var::constant(Tensor::zeros(&device, &[2, 4]));
        let shapes = "attention: the shape [2, 4] does not fit queries of shape [3, 4]";
        assert_eq!(attempt(&[0, 3], 2, &other), shapes);
    }
}
