//! One head of one sequence, in cache: scores, softmax, dropout and the weighted sum, forward and backward.
//!
//! Queries go in blocks, so that a block's scores against all the keys stay in the second-level cache; the backward
//! pass computes them again instead of reading them back (Dao et al. 2022, "FlashAttention").

use std::ops::Range;

use luthier_random::Rng;
use pulp::{Simd, WithSimd};

use crate::kernels::panel::{self, Left, Panels, WIDEST, product};
use crate::kernels::tiles::Tile;
use crate::kernels::{math, softmax};
use crate::ops::dropout::Keep;

/// Queries a block.
const BLOCK: usize = 64;
/// Elements of a cache line; scratch memory is cut in multiples of it.
const LINE: usize = 16;
/// Random blocks, of eight elements each, that are drawn together, so that the generator vectorises.
const DRAWS: usize = 16;

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
    /// The sequence's first query and how many there are.
    pub(crate) start: usize,
    pub(crate) len: usize,
    /// Its first key and how many there are.
    pub(crate) key_start: usize,
    pub(crate) key_len: usize,
    pub(crate) causal: bool,
    pub(crate) mask: Option<Mask<'a>>,
}

impl Mask<'_> {
    /// Random blocks of a row with so many keys.
    fn blocks(keys: usize) -> usize {
        keys.div_ceil(8)
    }

    /// How many rows are drawn together: several short ones, or one long one.
    fn rows(keys: usize) -> usize {
        (DRAWS / Mask::blocks(keys).max(1)).max(1)
    }

    /// Room for the factors that are drawn together, and for reading on to the end of a [`padded`] row.
    fn room(keys: usize) -> usize {
        keys.next_multiple_of(8).max(8 * DRAWS) + LINE
    }
}

/// Draws the factors of the first `keys` keys for the rows `rows` of the stream; the next row's begin at the next
/// multiple of eight. It is a function of its own for every processor: inside a pass the compiler does it badly.
struct Draw<'a> {
    mask: Mask<'a>,
    rows: Range<usize>,
    keys: usize,
    factors: &'a mut [f32],
}

impl WithSimd for Draw<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Draw { mask, rows, keys, factors } = self;
        let blocks = Mask::blocks(keys);
        let total = rows.len() * blocks;
        let mut words = [0u32; 4 * DRAWS];
        let (mut row, mut block) = (rows.start, 0);
        for (group, factors) in factors[..8 * total].chunks_mut(8 * DRAWS).enumerate() {
            let mut counters = [0u64; DRAWS];
            for counter in counters.iter_mut().take(total - group * DRAWS) {
                *counter = mask.keys[row] << 16 | block as u64;
                block += 1;
                if block == blocks {
                    (row, block) = (row + 1, 0);
                }
            }
            for (words, counter) in words.chunks_exact_mut(4).zip(counters) {
                words.copy_from_slice(&mask.rng.words(counter).map(u32::to_le));
            }
            mask.keep.scales(&words, factors);
        }
    }
}

impl<'a> Head<'a> {
    fn keys(&self) -> usize {
        self.prefix_rows + self.key_len
    }

    fn scale(&self) -> f32 {
        1.0 / (self.query.size as f32).sqrt()
    }

    #[inline(always)]
    fn key_row(&self, j: usize) -> &'a [f32] {
        match self.prefix {
            Some((key, _)) if j < self.prefix_rows => key.row(j),
            _ => self.key.row(self.key_start + j - self.prefix_rows),
        }
    }

    #[inline(always)]
    fn value_row(&self, j: usize) -> &'a [f32] {
        match self.prefix {
            Some((_, value)) if j < self.prefix_rows => value.row(j),
            _ => self.value.row(self.key_start + j - self.prefix_rows),
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
    parts + Mask::room(keys) + 16 * LINE
}

/// The distance between rows of scores: whole panels, and room for [`padded`] rows. It is not a power of two, so that a
/// column does not fall into one set of the cache.
#[inline(always)]
fn score_stride<S: Simd>(keys: usize) -> usize {
    keys.next_multiple_of(panel::columns::<S>()).next_multiple_of(LINE) + LINE
}

/// Loops over a row of scores run to here, so that nothing is left over for a slow end; what lies behind the row's own
/// elements is never read.
#[inline(always)]
fn padded(keys: usize) -> usize {
    keys.next_multiple_of(LINE)
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
        let wide = size.next_multiple_of(panel::columns::<S>());
        let stride = score_stride::<S>(keys);
        let mut arena = Arena::new(scratch);
        let key = panel::pack_transposed::<S>(arena.take(keys.next_multiple_of(WIDEST) * size), keys, size, |j| {
            head.key_row(j)
        });
        let value = panel::pack::<S>(arena.take(keys * wide), keys, size, |j| head.value_row(j));
        let query = arena.take(BLOCK * size);
        let scores = arena.take(BLOCK * stride);
        let sum = arena.take(BLOCK * wide);
        let factors = arena.take(Mask::room(keys));
        for block in (0..head.len).step_by(BLOCK) {
            let rows = BLOCK.min(head.len - block);
            let seen = head.seen(block + rows - 1);
            copy_rows(query, head.query, head.start + block..head.start + block + rows, head.scale());
            let left = Left::<false> { data: query, stride: size, rows, depth: size };
            product(simd, scores, stride, false, left, first_columns::<S>(key, seen));
            let together = Mask::rows(seen);
            for r in 0..rows {
                let row = &mut scores[r * stride..][..padded(seen)];
                row[head.seen(block + r)..].fill(f32::NEG_INFINITY);
                let largest = softmax::max(row);
                let total = softmax::exponentials(row, largest);
                sums.row(first + block + r).copy_from_slice(&[largest, 1.0 / total]);
                if let Some(mask) = head.mask {
                    let start = head.start + block + r;
                    if r % together == 0 {
                        let rows = start..start + together.min(rows - r);
                        simd.vectorize(Draw { mask, rows, keys: seen, factors });
                    }
                    let factors = &factors[r % together * seen.next_multiple_of(8)..];
                    row[..seen].iter_mut().zip(factors).for_each(|(p, factor)| *p *= factor);
                }
            }
            let left = Left::<false> { data: scores, stride, rows, depth: seen };
            product(simd, sum, wide, false, left, value);
            for r in 0..rows {
                let factor = sums.row(first + block + r)[1];
                let out = out.row(first + block + r);
                out.iter_mut().zip(&sum[r * wide..]).for_each(|(y, x)| *y = factor * x);
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
    /// Which rows of the tiles are the sequence's first query and its first key.
    pub(crate) first: usize,
    pub(crate) first_key: usize,
    /// Whether the gradients of the prefix hold nothing yet.
    pub(crate) fresh: bool,
    pub(crate) scratch: &'a mut [f32],
}

impl WithSimd for Backward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Backward { head, out, sums, gradient, gradients, first, first_key, fresh, scratch } = self;
        let (size, keys) = (head.query.size, head.keys());
        let wide = size.next_multiple_of(panel::columns::<S>());
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
        let key = want_query.then(|| panel::pack::<S>(arena.take(keys * wide), keys, size, |j| head.key_row(j)));
        let mut key_sum = want_key.then(|| arena.take(keys * wide));
        let mut value_sum = want_value.then(|| arena.take(keys * wide));
        for sum in [&mut key_sum, &mut value_sum].into_iter().flatten() {
            sum.fill(0.0);
        }
        let (query, upstream) = (arena.take(BLOCK * size), arena.take(BLOCK * size));
        let (query_packed, upstream_packed) = (arena.take(BLOCK * wide), arena.take(BLOCK * wide));
        let (kept, slopes) = (arena.take(BLOCK * stride), arena.take(BLOCK * stride));
        let query_sum = arena.take(BLOCK * wide);
        let factors = arena.take(Mask::room(keys));

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
            let together = Mask::rows(seen);
            for (r, i) in range.enumerate() {
                let offset = softmax::dot(&upstream[r * size..][..size], out.row(i));
                let (kept, slopes) = (&mut kept[r * stride..], &mut slopes[r * stride..]);
                let limit = head.seen(block + r);
                let factors = head.mask.map(|mask| {
                    if r % together == 0 {
                        let rows = i..i + together.min(rows - r);
                        simd.vectorize(Draw { mask, rows, keys: seen, factors });
                    }
                    &factors[r % together * seen.next_multiple_of(8)..][..padded(limit)]
                });
                let row = Row { largest: sums.row(i)[0], factor: sums.row(i)[1], offset };
                row.probabilities(&mut kept[..padded(limit)], &mut slopes[..padded(limit)], factors, want_scores);
                if limit < seen {
                    kept[limit..seen].fill(0.0);
                    slopes[limit..seen].fill(0.0);
                }
            }
            if let Some(sum) = &mut value_sum {
                let right = panel::pack::<S>(upstream_packed, rows, size, |r| &upstream[r * size..]);
                let left = Left::<true> { data: kept, stride, rows: seen, depth: rows };
                product(simd, sum, wide, true, left, right);
            }
            if let Some(sum) = &mut key_sum {
                let right = panel::pack::<S>(query_packed, rows, size, |r| &query[r * size..]);
                let left = Left::<true> { data: slopes, stride, rows: seen, depth: rows };
                product(simd, sum, wide, true, left, right);
            }
            if let (Some(key), Some(tile)) = (key, &mut gradients.query) {
                let left = Left::<false> { data: slopes, stride, rows, depth: seen };
                product(simd, query_sum, wide, false, left, key);
                for (r, sum) in query_sum.chunks_exact(wide).take(rows).enumerate() {
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
            let (front, back) = sum.split_at(head.prefix_rows * wide);
            if let Some(tile) = own {
                for (i, sum) in back.chunks_exact(wide).enumerate() {
                    tile.row(first_key + i).copy_from_slice(&sum[..size]);
                }
            }
            if let Some(tile) = prefix {
                for (i, sum) in front.chunks_exact(wide).enumerate() {
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
    fn probabilities(&self, scores: &mut [f32], slopes: &mut [f32], factors: Option<&[f32]>, want_slopes: bool) {
        let (scores, _) = scores.as_chunks_mut::<LINE>();
        let (slopes, _) = slopes.as_chunks_mut::<LINE>();
        match factors {
            None if want_slopes => {
                for (scores, slopes) in scores.iter_mut().zip(slopes) {
                    for (x, slope) in scores.iter_mut().zip(slopes) {
                        *x = self.probability(*x);
                        *slope = *x * (*slope - self.offset);
                    }
                }
            }
            None => {
                for scores in scores {
                    for x in scores {
                        *x = self.probability(*x);
                    }
                }
            }
            Some(factors) if want_slopes => {
                for ((scores, slopes), factors) in scores.iter_mut().zip(slopes).zip(factors.as_chunks::<LINE>().0) {
                    for ((x, slope), factor) in scores.iter_mut().zip(slopes).zip(factors) {
                        let probability = self.probability(*x);
                        *x = probability * factor;
                        *slope = probability * (*slope * factor - self.offset);
                    }
                }
            }
            Some(factors) => {
                for (scores, factors) in scores.iter_mut().zip(factors.as_chunks::<LINE>().0) {
                    for (x, factor) in scores.iter_mut().zip(factors) {
                        *x = self.probability(*x) * factor;
                    }
                }
            }
        }
    }
}
