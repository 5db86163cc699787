//! One head of one sequence, in cache: scores, softmax, dropout and the weighted sum, forward and backward.
//!
//! Queries go in blocks, so that a block's scores against all the keys stay in the second-level cache; the backward
//! pass computes them again instead of reading them back (Dao et al. 2022, "FlashAttention").

use std::ops::Range;

use luthier_random::Rng;
use pulp::{Simd, WithSimd};

use crate::kernels::panel::{self, Left, Panels, product};
use crate::kernels::tiles::Tile;
use crate::kernels::{math, softmax};
use crate::ops::dropout::{Keep, scan};

/// Queries a block.
const BLOCK: usize = 64;
/// Elements of a cache line; scratch memory is cut in multiples of it.
const LINE: usize = 16;
/// The widest panel of any processor.
const WIDEST: usize = 32;

/// The columns of one head in a matrix of `[rows, width]`.
#[derive(Clone, Copy)]
pub(crate) struct Stripe<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) width: usize,
    pub(crate) column: usize,
    pub(crate) size: usize,
}

impl<'a> Stripe<'a> {
    #[inline(always)]
    fn row(&self, i: usize) -> &'a [f32] {
        &self.data[i * self.width + self.column..][..self.size]
    }
}

/// Dropout on the probabilities of one head.
#[derive(Clone, Copy)]
pub(crate) struct Mask<'a> {
    pub(crate) keep: Keep,
    pub(crate) rng: Rng,
    /// One key for every row of the packed stream.
    pub(crate) keys: &'a [u64],
}

/// One head of one sequence.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) query: Stripe<'a>,
    pub(crate) key: Stripe<'a>,
    pub(crate) value: Stripe<'a>,
    /// Further keys and values in front of the sequence's own, and how many.
    pub(crate) prefix: Option<(Stripe<'a>, Stripe<'a>)>,
    pub(crate) prefix_rows: usize,
    /// The sequence's first row and its length.
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) causal: bool,
    pub(crate) mask: Option<Mask<'a>>,
}

impl<'a> Head<'a> {
    fn keys(&self) -> usize {
        self.prefix_rows + self.len
    }

    fn scale(&self) -> f32 {
        1.0 / (self.query.size as f32).sqrt()
    }

    #[inline(always)]
    fn key_row(&self, j: usize) -> &'a [f32] {
        match self.prefix {
            Some((key, _)) if j < self.prefix_rows => key.row(j),
            _ => self.key.row(self.start + j - self.prefix_rows),
        }
    }

    #[inline(always)]
    fn value_row(&self, j: usize) -> &'a [f32] {
        match self.prefix {
            Some((_, value)) if j < self.prefix_rows => value.row(j),
            _ => self.value.row(self.start + j - self.prefix_rows),
        }
    }

    /// How many keys query `i` sees.
    #[inline(always)]
    fn seen(&self, i: usize) -> usize {
        if self.causal { self.prefix_rows + i + 1 } else { self.keys() }
    }
}

/// Cuts scratch memory into parts that begin at cache lines.
struct Arena<'a>(&'a mut [f32]);

impl<'a> Arena<'a> {
    fn new(memory: &'a mut [f32]) -> Arena<'a> {
        let skip = memory.as_ptr().align_offset(4 * LINE).min(LINE - 1);
        Arena(&mut memory[skip..])
    }

    fn take(&mut self, n: usize) -> &'a mut [f32] {
        let (part, rest) = std::mem::take(&mut self.0).split_at_mut(n.next_multiple_of(LINE));
        self.0 = rest;
        &mut part[..n]
    }
}

/// How much scratch memory a sequence with that many keys (prefix included) needs, for heads of `size` columns.
pub(crate) fn scratch(keys: usize, size: usize, backward: bool) -> usize {
    let (keys, size) = (keys.next_multiple_of(WIDEST), size.next_multiple_of(WIDEST));
    let (whole, block, scores) = (keys * size, BLOCK * size, BLOCK * (keys + LINE));
    let parts = if backward { 5 * whole + 5 * block + 2 * scores } else { 2 * whole + 2 * block + scores };
    parts + 16 * LINE
}

/// The distance between rows of scores: not a power of two, so that a column does not fall into one set of the cache.
#[inline(always)]
fn score_stride<S: Simd>(keys: usize) -> usize {
    keys.next_multiple_of(panel::columns::<S>()) + LINE
}

/// Copies a block of rows, each multiplied by `factor`.
#[inline(always)]
fn copy_rows(out: &mut [f32], from: Stripe, rows: Range<usize>, factor: f32) {
    for (row, i) in out.chunks_exact_mut(from.size).zip(rows) {
        row.iter_mut().zip(from.row(i)).for_each(|(y, x)| *y = factor * x);
    }
}

/// The forward pass.
pub(crate) struct Forward<'a, 't> {
    pub(crate) head: Head<'a>,
    /// The head's columns of the output, and which of its rows is the sequence's first.
    pub(crate) out: &'a mut Tile<'t>,
    /// For each query the largest score and one over the sum of exponentials.
    pub(crate) sums: &'a mut Tile<'t>,
    pub(crate) first: usize,
    pub(crate) scratch: &'a mut [f32],
}

impl WithSimd for Forward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Forward { head, out, sums, first, scratch } = self;
        let (size, keys) = (head.query.size, head.keys());
        let padded = size.next_multiple_of(panel::columns::<S>());
        let stride = score_stride::<S>(keys);
        let mut arena = Arena::new(scratch);
        let key = panel::pack_transposed::<S>(arena.take(keys.next_multiple_of(WIDEST) * size), keys, size, |j| {
            head.key_row(j)
        });
        let value = panel::pack::<S>(arena.take(keys * padded), keys, size, |j| head.value_row(j));
        let query = arena.take(BLOCK * size);
        let scores = arena.take(BLOCK * stride);
        let sum = arena.take(BLOCK * padded);
        for block in (0..head.len).step_by(BLOCK) {
            let rows = BLOCK.min(head.len - block);
            let seen = head.seen(block + rows - 1);
            copy_rows(query, head.query, head.start + block..head.start + block + rows, head.scale());
            let left = Left::<false> { data: query, stride: size, rows, depth: size };
            product(simd, scores, stride, false, left, first_columns::<S>(key, seen));
            for r in 0..rows {
                let row = &mut scores[r * stride..][..seen];
                let (row, hidden) = row.split_at_mut(head.seen(block + r));
                hidden.fill(0.0);
                let largest = softmax::max(row);
                let total = softmax::exponentials(row, largest);
                sums.row(first + block + r).copy_from_slice(&[largest, 1.0 / total]);
                if let Some(mask) = head.mask {
                    let random = mask.keys[head.start + block + r] << 16;
                    scan(
                        mask.keep,
                        mask.rng,
                        random,
                        row.len(),
                        #[inline(always)]
                        |columns, factors| row[columns].iter_mut().zip(factors).for_each(|(p, factor)| *p *= factor),
                    );
                }
            }
            let left = Left::<false> { data: scores, stride, rows, depth: seen };
            product(simd, sum, padded, false, left, value);
            for r in 0..rows {
                let factor = sums.row(first + block + r)[1];
                let out = out.row(first + block + r);
                out.iter_mut().zip(&sum[r * padded..]).for_each(|(y, x)| *y = factor * x);
            }
        }
    }
}

/// The panels that hold the first `columns` columns.
#[inline(always)]
fn first_columns<S: Simd>(panels: Panels, columns: usize) -> Panels {
    Panels { count: columns.div_ceil(panel::columns::<S>()), ..panels }
}

/// Where gradients go, each only if wanted: the head's columns of the rows of the sequence.
pub(crate) struct Gradients<'t> {
    pub(crate) query: Option<Tile<'t>>,
    pub(crate) key: Option<Tile<'t>>,
    pub(crate) value: Option<Tile<'t>>,
    /// For the prefix: added to unless `fresh`.
    pub(crate) prefix_key: Option<Tile<'t>>,
    pub(crate) prefix_value: Option<Tile<'t>>,
}

/// The backward pass.
pub(crate) struct Backward<'a, 't> {
    pub(crate) head: Head<'a>,
    /// The forward pass's output and sums (`[rows, 2 heads]`), and the gradient of the output.
    pub(crate) out: Stripe<'a>,
    pub(crate) sums: Stripe<'a>,
    pub(crate) gradient: Stripe<'a>,
    pub(crate) gradients: &'a mut Gradients<'t>,
    pub(crate) first: usize,
    /// Whether the gradients of the prefix hold nothing yet.
    pub(crate) fresh: bool,
    pub(crate) scratch: &'a mut [f32],
}

impl WithSimd for Backward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Backward { head, out, sums, gradient, gradients, first, fresh, scratch } = self;
        let (size, keys) = (head.query.size, head.keys());
        let padded = size.next_multiple_of(panel::columns::<S>());
        let stride = score_stride::<S>(keys);
        let want_query = gradients.query.is_some();
        let want_key = gradients.key.is_some() || gradients.prefix_key.is_some();
        let want_value = gradients.value.is_some() || gradients.prefix_value.is_some();
        let want_scores = want_query || want_key;

        let mut arena = Arena::new(scratch);
        let across = keys.next_multiple_of(WIDEST) * size;
        let key_across = panel::pack_transposed::<S>(arena.take(across), keys, size, |j| head.key_row(j));
        let value_across =
            want_scores.then(|| panel::pack_transposed::<S>(arena.take(across), keys, size, |j| head.value_row(j)));
        let key = want_query.then(|| panel::pack::<S>(arena.take(keys * padded), keys, size, |j| head.key_row(j)));
        let mut key_sum = want_key.then(|| arena.take(keys * padded));
        let mut value_sum = want_value.then(|| arena.take(keys * padded));
        for sum in [&mut key_sum, &mut value_sum].into_iter().flatten() {
            sum.fill(0.0);
        }
        let (query, upstream) = (arena.take(BLOCK * size), arena.take(BLOCK * size));
        let (query_packed, upstream_packed) = (arena.take(BLOCK * padded), arena.take(BLOCK * padded));
        let (kept, slopes) = (arena.take(BLOCK * stride), arena.take(BLOCK * stride));
        let query_sum = arena.take(BLOCK * padded);

        for block in (0..head.len).step_by(BLOCK) {
            let rows = BLOCK.min(head.len - block);
            let seen = head.seen(block + rows - 1);
            let range = head.start + block..head.start + block + rows;
            copy_rows(query, head.query, range.clone(), head.scale());
            let left = Left::<false> { data: query, stride: size, rows, depth: size };
            product(simd, kept, stride, false, left, first_columns::<S>(key_across, seen));
            copy_rows(upstream, gradient, range.clone(), 1.0);
            if let Some(value_across) = value_across {
                let left = Left::<false> { data: upstream, stride: size, rows, depth: size };
                product(simd, slopes, stride, false, left, first_columns::<S>(value_across, seen));
            }
            for (r, i) in range.enumerate() {
                let upstream = &upstream[r * size..][..size];
                let offset: f32 = upstream.iter().zip(out.row(i)).map(|(g, y)| g * y).sum();
                let limit = head.seen(block + r);
                let (kept, hidden) = kept[r * stride..][..seen].split_at_mut(limit);
                hidden.fill(0.0);
                let (slopes, hidden) = slopes[r * stride..][..seen].split_at_mut(limit);
                hidden.fill(0.0);
                let row = Row { largest: sums.row(i)[0], factor: sums.row(i)[1], offset };
                row.probabilities(head.mask, i, kept, want_scores.then_some(slopes));
            }
            if let Some(sum) = &mut value_sum {
                let right = panel::pack::<S>(upstream_packed, rows, size, |r| &upstream[r * size..]);
                let left = Left::<true> { data: kept, stride, rows: seen, depth: rows };
                product(simd, sum, padded, true, left, right);
            }
            if let Some(sum) = &mut key_sum {
                let right = panel::pack::<S>(query_packed, rows, size, |r| &query[r * size..]);
                let left = Left::<true> { data: slopes, stride, rows: seen, depth: rows };
                product(simd, sum, padded, true, left, right);
            }
            if let (Some(key), Some(tile)) = (key, &mut gradients.query) {
                let left = Left::<false> { data: slopes, stride, rows, depth: seen };
                product(simd, query_sum, padded, false, left, key);
                for (r, sum) in query_sum.chunks_exact(padded).take(rows).enumerate() {
                    let target = tile.row(first + block + r);
                    target.iter_mut().zip(sum).for_each(|(y, x)| *y = head.scale() * x);
                }
            }
        }
        for (sum, own, prefix) in [
            (key_sum, &mut gradients.key, &mut gradients.prefix_key),
            (value_sum, &mut gradients.value, &mut gradients.prefix_value),
        ] {
            let Some(sum) = sum else { continue };
            let (front, back) = sum.split_at(head.prefix_rows * padded);
            if let Some(tile) = own {
                for (i, sum) in back.chunks_exact(padded).enumerate() {
                    tile.row(first + i).copy_from_slice(&sum[..size]);
                }
            }
            if let Some(tile) = prefix {
                for (i, sum) in front.chunks_exact(padded).enumerate() {
                    let row = tile.row(i);
                    if fresh {
                        row.copy_from_slice(&sum[..size]);
                    } else {
                        row.iter_mut().zip(sum).for_each(|(y, x)| *y += x);
                    }
                }
            }
        }
    }
}

/// What the backward pass knows of one query.
struct Row {
    largest: f32,
    factor: f32,
    /// The output's gradient times the output: what the softmax takes off every slope.
    offset: f32,
}

impl Row {
    #[inline(always)]
    fn probability(&self, score: f32) -> f32 {
        math::exp(score - self.largest) * self.factor
    }

    /// Turns scores into probabilities after dropout, and the slopes of those into the slopes of the scores.
    #[inline(always)]
    fn probabilities(&self, mask: Option<Mask>, i: usize, scores: &mut [f32], slopes: Option<&mut [f32]>) {
        match (mask, slopes) {
            (None, None) => scores.iter_mut().for_each(|x| *x = self.probability(*x)),
            (None, Some(slopes)) => {
                for (x, slope) in scores.iter_mut().zip(slopes) {
                    *x = self.probability(*x);
                    *slope = *x * (*slope - self.offset);
                }
            }
            (Some(mask), None) => scan(
                mask.keep,
                mask.rng,
                mask.keys[i] << 16,
                scores.len(),
                #[inline(always)]
                |columns, factors| {
                    scores[columns].iter_mut().zip(factors).for_each(|(x, factor)| *x = self.probability(*x) * factor)
                },
            ),
            (Some(mask), Some(slopes)) => scan(
                mask.keep,
                mask.rng,
                mask.keys[i] << 16,
                scores.len(),
                #[inline(always)]
                |columns, factors| {
                    let slopes = &mut slopes[columns.clone()];
                    for ((x, slope), factor) in scores[columns].iter_mut().zip(slopes).zip(factors) {
                        let probability = self.probability(*x);
                        *x = probability * factor;
                        *slope = probability * (*slope * factor - self.offset);
                    }
                },
            ),
        }
    }
}
