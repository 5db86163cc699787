//! One head of one sequence, in cache: scores, softmax, dropout and the weighted sum, forward and backward.
//!
//! Queries go in blocks, so that a block's scores against all the keys stay in the second-level cache; the backward
//! pass computes them again instead of reading them back (Dao et al. 2022, "FlashAttention").
//!
//! Scores have a row for every key and a column for every query: sixteen queries stand side by side in a register, so that
//! the softmax and the random numbers need nothing from a neighbouring lane, and no other matrix must be turned than the
//! queries and, backward, the gradient of the output.

use luthier_random::Rng;
use pulp::{Simd, WithSimd};

use crate::kernels::panel::{Left, Panels, WIDEST, product, whole};
use crate::kernels::random::{self, LANES};
use crate::kernels::tiles::Tile;
use crate::kernels::{math, softmax};
use crate::ops::dropout::Keep;

/// Queries a block.
const BLOCK: usize = 64;
/// The distance between rows of scores. It is not a power of two, so that a column does not fall into one set of the cache.
const STRIDE: usize = BLOCK + LANES;
/// Keys whose random numbers are drawn together: a block of the generator.
const DRAWN: usize = 8;

/// Something of sixteen queries that stand side by side; as long as a cache line.
type Lanes = [f32; LANES];

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

    /// Has the processor bring rows near before they are wanted: they are too short, and too far apart, for it to foresee
    /// them. Of a long sequence the first ones; what comes then is fetched while these are worked on.
    #[inline(always)]
    pub(crate) fn fetch(&self, first: usize, rows: usize) {
        for i in first..first + rows.min(BLOCK) {
            for line in self.row(i).chunks(LANES) {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a hint, which touches nothing; every x86-64 has it.
                unsafe {
                    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                    _mm_prefetch(line.as_ptr().cast(), _MM_HINT_T0);
                }
            }
        }
    }

    /// Everything from the head's first element of row `i` on.
    #[inline(always)]
    fn from(&self, i: usize) -> &'a [f32] {
        self.data.get(i * self.width + self.column..).unwrap_or(&[])
    }

    /// `rows` rows from `first` on as a left operand.
    #[inline(always)]
    fn left(&self, first: usize, rows: usize) -> Left<'a, false> {
        Left { data: self.from(first), stride: self.width, rows, depth: self.size }
    }

    /// The same as a right operand.
    #[inline(always)]
    fn right<S: Simd>(&self, first: usize, rows: usize, room: &'a mut [f32]) -> Panels<'a> {
        Panels::rows::<S>(self.from(first), self.width, rows, self.size, room)
    }

    /// The transpose of the same as a right operand.
    #[inline(always)]
    fn turned<'r, S: Simd>(&self, first: usize, rows: usize, room: &'r mut [f32]) -> Panels<'r> {
        Panels::turned::<S>(self.from(first), self.width, rows, self.size, room)
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

impl Mask<'_> {
    /// What names the rows of sixteen queries from `first` on.
    #[inline(always)]
    fn rows(&self, first: usize) -> [u64; LANES] {
        std::array::from_fn(|i| self.keys.get(first + i).map_or(0, |key| key << 16))
    }

    /// The factors of [`DRAWN`] keys from `DRAWN * block` on.
    #[inline(always)]
    fn factors<S: Simd>(&self, simd: S, rows: &[u64; LANES], block: usize) -> [Lanes; DRAWN] {
        let words = random::words(simd, &self.rng, &rows.map(|row| row | block as u64));
        let mut factors = [[0.0; LANES]; DRAWN];
        for ([low, high], words) in factors.as_chunks_mut::<2>().0.iter_mut().zip(&words) {
            let registers = S::as_mut_simd_f32s(low).0.iter_mut().zip(S::as_mut_simd_f32s(high).0);
            for ((low, high), &words) in registers.zip(S::as_simd_u32s(words).0) {
                [*low, *high] = self.keep.of_words(simd, words);
            }
        }
        factors
    }
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

/// Neighbouring keys of a sequence: what precedes it, or its own.
#[derive(Clone, Copy)]
struct Keys<'a> {
    key: Stripe<'a>,
    value: Stripe<'a>,
    /// The first one's row in the stripes, and in the scores.
    row: usize,
    place: usize,
    count: usize,
}

impl<'a> Head<'a> {
    fn keys(&self) -> usize {
        self.prefix_rows + self.key_len
    }

    /// Has the processor bring the sequence's rows near.
    #[inline(always)]
    pub(crate) fn fetch(&self) {
        self.query.fetch(self.start, self.len);
        self.key.fetch(self.key_start, self.key_len);
        self.value.fetch(self.key_start, self.key_len);
    }

    fn scale(&self) -> f32 {
        1.0 / (self.query.size as f32).sqrt()
    }

    /// How many keys query `i` sees.
    #[inline(always)]
    fn seen(&self, i: usize) -> usize {
        if self.causal { self.prefix_rows + i + 1 } else { self.keys() }
    }

    /// The first `seen` keys, by where they lie.
    #[inline(always)]
    fn parts(&self, seen: usize) -> impl Iterator<Item = Keys<'a>> + use<'a> {
        let own = Keys {
            key: self.key,
            value: self.value,
            row: self.key_start,
            place: self.prefix_rows,
            count: seen - self.prefix_rows,
        };
        let prefix = self.prefix.map(|(key, value)| Keys { key, value, row: 0, place: 0, count: self.prefix_rows });
        prefix.into_iter().chain([own])
    }

    /// The products of the first `seen` keys, or of their values, with what `right` holds of a block's queries.
    #[inline(always)]
    fn scores<S: Simd>(
        &self,
        simd: S,
        out: &mut [f32],
        seen: usize,
        right: Panels,
        stripe: impl Fn(&Keys<'a>) -> Stripe<'a>,
    ) {
        for part in self.parts(seen) {
            let left = stripe(&part).left(part.row, part.count);
            product(simd, &mut out[part.place * STRIDE..], STRIDE, false, left, right);
        }
    }

    /// The sums over the first `seen` keys, or over their values, weighted for every query of a block by its column.
    #[inline(always)]
    fn sums<S: Simd>(
        &self,
        simd: S,
        out: &mut [f32],
        (weights, rows, seen): (&[f32], usize, usize),
        room: &mut [f32],
        stripe: impl Fn(&Keys<'a>) -> Stripe<'a>,
    ) {
        let wide = whole::<S>(self.query.size);
        for (i, part) in self.parts(seen).enumerate() {
            let left = Left::<true> { data: &weights[part.place * STRIDE..], stride: STRIDE, rows, depth: part.count };
            product(simd, out, wide, i > 0, left, stripe(&part).right::<S>(part.row, part.count, room));
        }
    }

    /// Puts the scores of what a query does not see out of the race. `first` is the block's first query.
    #[inline(always)]
    fn hide(&self, scores: &mut [f32], first: usize, rows: usize) {
        if self.causal {
            let own = &mut scores[(self.prefix_rows + first) * STRIDE..];
            for (hidden, row) in own.chunks_mut(STRIDE).take(rows).enumerate() {
                row[..hidden].fill(f32::NEG_INFINITY);
            }
        }
    }
}

/// Cuts scratch memory into parts that begin at cache lines.
struct Arena<'a>(&'a mut [f32]);

impl<'a> Arena<'a> {
    fn new(memory: &'a mut [f32]) -> Arena<'a> {
        let skip = memory.as_ptr().align_offset(4 * LANES).min(LANES - 1);
        Arena(&mut memory[skip..])
    }

    fn take(&mut self, n: usize) -> &'a mut [f32] {
        let (part, rest) = std::mem::take(&mut self.0).split_at_mut(n.next_multiple_of(LANES));
        self.0 = rest;
        &mut part[..n]
    }
}

/// How much scratch memory a sequence with that many keys (prefix included) needs, for heads of `size` columns.
pub(crate) fn scratch(keys: usize, size: usize, backward: bool) -> usize {
    let (scores, size) = (keys * STRIDE, size.next_multiple_of(WIDEST));
    let (whole, block) = (keys * size, BLOCK * size);
    let parts = if backward { 2 * scores + 3 * whole + 5 * block } else { scores + whole + 2 * block };
    parts + 16 * LANES
}

/// The part of the rows of scores that belongs to sixteen queries.
#[inline(always)]
fn lanes(rows: &mut [f32], keys: usize) -> impl Iterator<Item = &mut Lanes> {
    rows.chunks_mut(STRIDE).take(keys).filter_map(|row| row.first_chunk_mut())
}

/// Turns the scores of sixteen queries into exponentials of their distance to the largest, times the factors of dropout.
/// Returns the largest, scaled, and the sums before dropout. It is a function of its own for every processor: inside a
/// pass the compiler does it badly.
struct Exponentials<'a> {
    scores: &'a mut [f32],
    keys: usize,
    scale: f32,
    mask: Option<Mask<'a>>,
    /// The row of the first query.
    first: usize,
}

impl WithSimd for Exponentials<'_> {
    type Output = (Lanes, Lanes);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (Lanes, Lanes) {
        let Exponentials { scores, keys, scale, mask, first } = self;
        let mut largest = [f32::NEG_INFINITY; LANES];
        for row in lanes(scores, keys) {
            for i in 0..LANES {
                largest[i] = softmax::larger(largest[i], row[i]);
            }
        }
        let largest = largest.map(|x| x * scale);
        let rows = mask.map(|mask| mask.rows(first));
        let mut totals = [0.0; LANES];
        for (block, scores) in scores[..].chunks_mut(DRAWN * STRIDE).take(keys.div_ceil(DRAWN)).enumerate() {
            let here = DRAWN.min(keys - block * DRAWN);
            // The sums of eight keys are added up on their own, so that long sums stay exact.
            let mut part = [0.0; LANES];
            if let (Some(mask), Some(rows)) = (mask, &rows) {
                let factors = mask.factors(simd, rows, block);
                for (row, factors) in lanes(scores, here).zip(&factors) {
                    let (mut x, factors) = (*row, *factors);
                    for i in 0..LANES {
                        x[i] = math::exp(x[i].mul_add(scale, -largest[i]));
                        part[i] += x[i];
                        x[i] *= factors[i];
                    }
                    *row = x;
                }
            } else {
                for row in lanes(scores, here) {
                    let mut x = *row;
                    for i in 0..LANES {
                        x[i] = math::exp(x[i].mul_add(scale, -largest[i]));
                        part[i] += x[i];
                    }
                    *row = x;
                }
            }
            for i in 0..LANES {
                totals[i] += part[i];
            }
        }
        (largest, totals)
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
        let (size, keys, scale) = (head.query.size, head.keys(), head.scale());
        let wide = whole::<S>(size);
        let mut arena = Arena::new(scratch);
        let scores = arena.take(keys * STRIDE);
        let copy = arena.take(keys * wide);
        let turned = arena.take(BLOCK * size);
        let sum = arena.take(BLOCK * wide);
        for block in (0..head.len).step_by(BLOCK) {
            let rows = BLOCK.min(head.len - block);
            let seen = head.seen(block + rows - 1);
            let start = head.start + block;
            let queries = head.query.turned::<S>(start, rows, turned);
            head.scores(simd, scores, seen, queries, |part| part.key);
            head.hide(scores, block, rows);
            for lane in (0..rows).step_by(LANES) {
                let scores = &mut scores[lane..];
                let pass = Exponentials { scores, keys: seen, scale, mask: head.mask, first: start + lane };
                let (largest, totals) = simd.vectorize(pass);
                for i in 0..LANES.min(rows - lane) {
                    sums.row(first + block + lane + i).copy_from_slice(&[largest[i], 1.0 / totals[i]]);
                }
            }
            head.sums(simd, sum, (scores, rows, seen), copy, |part| part.value);
            for (r, sum) in sum.chunks_exact(wide).take(rows).enumerate() {
                let factor = sums.row(first + block + r)[1];
                put(out.row(first + block + r), sum, factor);
            }
        }
    }
}

/// Writes a row of sums, times a factor. (A plain copy would become a call, which takes longer than so short a row.)
#[inline(always)]
fn put(row: &mut [f32], sums: &[f32], factor: f32) {
    row.iter_mut().zip(sums).for_each(|(y, x)| *y = factor * x);
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

/// Turns the scores of sixteen queries into probabilities after dropout, and the slopes of those into the slopes of the
/// scores. A function of its own, as [`Exponentials`].
struct Probabilities<'a> {
    scores: &'a mut [f32],
    /// Empty where they are not wanted.
    slopes: &'a mut [f32],
    keys: usize,
    scale: f32,
    mask: Option<Mask<'a>>,
    /// The row of the first query.
    first: usize,
    /// The largest scores, scaled, and one over the sums of exponentials.
    largest: Lanes,
    inverse: Lanes,
    /// The gradient of the output times the output: what the softmax takes off every slope.
    offset: Lanes,
}

impl WithSimd for Probabilities<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Probabilities { scores, slopes, keys, scale, mask, first, largest, inverse, offset } = self;
        let rows = mask.map(|mask| mask.rows(first));
        let mut slopes = lanes(slopes, keys);
        for (block, scores) in scores.chunks_mut(DRAWN * STRIDE).take(keys.div_ceil(DRAWN)).enumerate() {
            let here = DRAWN.min(keys - block * DRAWN);
            let factors = match (mask, &rows) {
                (Some(mask), Some(rows)) => mask.factors(simd, rows, block),
                _ => [[1.0; LANES]; DRAWN],
            };
            for (scores, factors) in lanes(scores, here).zip(&factors) {
                // Values of their own, not places that might overlap, are what the compiler keeps in registers.
                let (mut probabilities, factors) = (*scores, *factors);
                let mut weights = [0.0; LANES];
                for i in 0..LANES {
                    probabilities[i] = math::exp(probabilities[i].mul_add(scale, -largest[i])) * inverse[i];
                    weights[i] = probabilities[i] * factors[i];
                }
                *scores = weights;
                if let Some(slopes) = slopes.next() {
                    let mut slope = *slopes;
                    for i in 0..LANES {
                        slope[i] = probabilities[i] * slope[i].mul_add(factors[i], -offset[i]);
                    }
                    *slopes = slope;
                }
            }
        }
    }
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
        let (size, keys, scale) = (head.query.size, head.keys(), head.scale());
        let wide = whole::<S>(size);
        let want_query = gradients.query.is_some();
        let want_key = gradients.key.is_some() || gradients.prefix_key.is_some();
        let want_value = gradients.value.is_some() || gradients.prefix_value.is_some();
        let want_slopes = want_query || want_key;

        let mut arena = Arena::new(scratch);
        let scores = arena.take(keys * STRIDE);
        let slopes = arena.take(if want_slopes { keys * STRIDE } else { 0 });
        let copy = arena.take(keys.max(BLOCK) * wide);
        let mut key_sum = want_key.then(|| arena.take(keys * wide));
        let mut value_sum = want_value.then(|| arena.take(keys * wide));
        let turned = arena.take(BLOCK * size);
        let sum = arena.take(BLOCK * wide);
        // Causal blocks do not see all the keys, and one block alone need not be added to anything.
        let add = head.len > BLOCK;
        for sum in [&mut key_sum, &mut value_sum].into_iter().flatten() {
            sum.fill(0.0);
        }
        for block in (0..head.len).step_by(BLOCK) {
            let rows = BLOCK.min(head.len - block);
            let seen = head.seen(block + rows - 1);
            let start = head.start + block;
            let queries = head.query.turned::<S>(start, rows, turned);
            head.scores(simd, scores, seen, queries, |part| part.key);
            head.hide(scores, block, rows);
            if want_slopes {
                let upstream = gradient.turned::<S>(start, rows, turned);
                head.scores(simd, slopes, seen, upstream, |part| part.value);
            }
            for lane in (0..rows).step_by(LANES) {
                let (mut largest, mut inverse, mut offset) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
                for (i, row) in (start + lane..start + rows).enumerate().take(LANES) {
                    (largest[i], inverse[i]) = (sums.row(row)[0], sums.row(row)[1]);
                    offset[i] = softmax::dot(gradient.row(row), out.row(row));
                }
                let (scores, slopes) = (&mut scores[lane..], slopes.get_mut(lane..).unwrap_or_default());
                let (keys, mask, first) = (seen, head.mask, start + lane);
                simd.vectorize(Probabilities { scores, slopes, keys, scale, mask, first, largest, inverse, offset });
            }
            let by_key = |data| Left::<false> { data, stride: STRIDE, rows: seen, depth: rows };
            if let Some(sum) = &mut value_sum {
                product(simd, sum, wide, add, by_key(scores), gradient.right::<S>(start, rows, copy));
            }
            if let Some(sum) = &mut key_sum {
                product(simd, sum, wide, add, by_key(slopes), head.query.right::<S>(start, rows, copy));
            }
            if let Some(tile) = &mut gradients.query {
                head.sums(simd, sum, (slopes, rows, seen), copy, |part| part.key);
                for (r, sum) in sum.chunks_exact(wide).take(rows).enumerate() {
                    put(tile.row(first + block + r), sum, scale);
                }
            }
        }
        for (sum, factor, own, prefix) in [
            (key_sum, scale, &mut gradients.key, &mut gradients.prefix_key),
            (value_sum, 1.0, &mut gradients.value, &mut gradients.prefix_value),
        ] {
            let Some(sum) = sum else { continue };
            let (front, back) = sum.split_at(head.prefix_rows * wide);
            if let Some(tile) = own {
                for (i, sum) in back.chunks_exact(wide).enumerate() {
                    put(tile.row(first_key + i), sum, factor);
                }
            }
            if let Some(tile) = prefix {
                for (i, sum) in front.chunks_exact(wide).enumerate() {
                    let row = tile.row(i);
                    if fresh {
                        put(row, sum, factor);
                    } else {
                        row.iter_mut().zip(sum).for_each(|(y, x)| *y += factor * x);
                    }
                }
            }
        }
    }
}
