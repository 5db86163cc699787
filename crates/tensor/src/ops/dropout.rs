//! Dropout whose mask is a function of the seed, the step, the example and the position, and is never stored.

use std::ops::Range;
use std::sync::Arc;

use luthier_random::Rng;
use pulp::Simd;

use crate::error::{Result, ensure_shape};
use crate::kernels::math::vectorised;
use crate::kernels::parallel;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Where and how much to drop (Srivastava et al. 2014): elements are zeroed with probability `p`, the others scaled
/// so that expectations stay. The same value masks the forward pass, its gradient, and any repetition of either.
#[derive(Debug, Clone)]
pub struct Dropout {
    /// The probability with which an element is dropped, resolved to 1/65536. At 0 nothing is dropped, at 1 everything.
    pub p: f32,
    /// The stream of this site in this step.
    pub rng: Rng,
    /// What identifies each row: the example's slot in the step `<< 20 |` the position. Masks therefore do not depend
    /// on how a step is cut into micro-batches.
    pub keys: Arc<[u64]>,
}

/// The decision for single elements: 16 random bits each, dropped below a threshold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    threshold: u32,
    scale: f32,
}

impl Keep {
    pub(crate) fn new(p: f32) -> Keep {
        // The cast saturates, so a NaN or a negative number drops nothing.
        let threshold = ((p * 65536.0).round() as u32).min(65536);
        let scale = if threshold == 65536 { 0.0 } else { (65536.0 / f64::from(65536 - threshold)) as f32 };
        Keep { threshold, scale }
    }

    /// Whether it drops nothing.
    pub(crate) fn is_all(self) -> bool {
        self.threshold == 0
    }

    /// The factor of an element that drew `bits`: 0 or `1 / (1 - p)`.
    #[inline(always)]
    fn scale(self, bits: u16) -> f32 {
        if u32::from(bits) < self.threshold { 0.0 } else { self.scale }
    }

    /// The factors of the elements that drew the low halves of some words, and the high ones.
    #[inline(always)]
    pub(crate) fn of_words<S: Simd>(self, simd: S, words: S::u32s) -> [S::f32s; 2] {
        let (low, high) =
            (simd.and_u32s(words, simd.splat_u32s(0xffff)), simd.wrapping_dyn_shr_u32s(words, simd.splat_u32s(16)));
        let (threshold, scale, none) =
            (simd.splat_u32s(self.threshold), simd.splat_f32s(self.scale), simd.splat_f32s(0.0));
        [
            simd.select_f32s(simd.less_than_u32s(low, threshold), none, scale),
            simd.select_f32s(simd.less_than_u32s(high, threshold), none, scale),
        ]
    }

    /// The factors of the elements that drew `words`, in little-endian order, in which the low half of a word lies first.
    #[inline(always)]
    pub(crate) fn scales(self, words: &[u32], scales: &mut [f32]) {
        for (scale, &half) in scales.iter_mut().zip(bytemuck::cast_slice::<u32, u16>(words)) {
            *scale = self.scale(u16::from_le(half));
        }
    }
}

/// Blocks of eight elements that are drawn together, so that the generator vectorises.
const GROUP: usize = 16;

/// Calls `f` with ranges that cover `0..len` and the factors of their elements. Element `i` belongs to the random block
/// `first + i / 8`; a block's four words hold eight elements in order, the low half of a word first.
#[inline(always)]
pub(crate) fn scan(keep: Keep, rng: Rng, first: u64, len: usize, mut f: impl FnMut(Range<usize>, &[f32])) {
    let mut words = [0u32; 4 * GROUP];
    let mut scales = [0.0f32; 8 * GROUP];
    for start in (0..len).step_by(8 * GROUP) {
        let block = first + (start / 8) as u64;
        for (i, words) in words.chunks_exact_mut(4).enumerate() {
            words.copy_from_slice(&rng.words(block + i as u64).map(u32::to_le));
        }
        keep.scales(&words, &mut scales);
        let end = (start + 8 * GROUP).min(len);
        f(start..end, &scales[..end - start]);
    }
}

impl Dropout {
    /// The decision, unless it drops nothing.
    pub(crate) fn keep(&self) -> Option<Keep> {
        let keep = Keep::new(self.p);
        (!keep.is_all()).then_some(keep)
    }

    /// Fails when there is not one key for every row.
    pub(crate) fn check(&self, op: &'static str, rows: usize) -> Result<()> {
        ensure_shape(op, self.keys.len() == rows, &[rows], || format!("{} dropout keys", self.keys.len()))
    }

    /// Calls `f` with column ranges of a row and the factors of their elements.
    #[inline(always)]
    pub(crate) fn scan_row(&self, keep: Keep, row: usize, width: usize, f: impl FnMut(Range<usize>, &[f32])) {
        scan(keep, self.rng, self.keys[row] << 16, width, f);
    }

    /// Masks `out`; with `input`, that is what is masked, and `out` is overwritten.
    fn apply(&self, keep: Keep, width: usize, input: Option<&[f32]>, out: &mut [f32]) {
        parallel::row_blocks(out, width, parallel::rows_per_block(width), |first, block| {
            vectorised(
                #[inline(always)]
                || {
                    for (i, row) in block.chunks_exact_mut(width).enumerate() {
                        if let Some(input) = input {
                            row.copy_from_slice(&input[(first + i) * width..(first + i + 1) * width]);
                        }
                        self.scan_row(
                            keep,
                            first + i,
                            width,
                            #[inline(always)]
                            |columns, scales| row[columns].iter_mut().zip(scales).for_each(|(x, scale)| *x *= scale),
                        );
                    }
                },
            );
        });
    }
}

impl Tape {
    /// `x` (`[tokens, width]`) with some elements dropped; `x` itself without a dropout, or at probability 0.
    ///
    /// # Errors
    /// When there is not one key for every row.
    pub fn dropout(&mut self, x: &Var, dropout: Option<&Dropout>) -> Result<Var> {
        let _span = self.device().span("dropout");
        let Some((dropout, keep)) = dropout.and_then(|dropout| Some((dropout, dropout.keep()?))) else {
            return Ok(x.clone());
        };
        x.value().expect_f32("dropout")?;
        dropout.check("dropout", x.value().rows())?;
        let width = x.value().width();
        let mut out = Tensor::stale(self.device(), x.value().shape());
        dropout.apply(keep, width, Some(x.f32()), out.f32_mut());
        let to = x.node();
        Ok(self.record("dropout", out, x.needs_grad(), || {
            let dropout = dropout.clone();
            move |mut gradient: Tensor, flow| {
                dropout.apply(keep, width, None, gradient.f32_mut());
                flow.add(to, gradient)
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{Case, noise};
    use crate::{Device, Precision};

    fn dropout(p: f32, keys: &[u64]) -> Dropout {
        Dropout { p, rng: Rng::at(5, "dropout", 3, 0), keys: keys.into() }
    }

    /// The mask by its definition, an element at a time.
    fn scale_by_hand(dropout: &Dropout, row: usize, column: usize) -> f64 {
        let word = dropout.rng.word(4 * ((dropout.keys[row] << 16) + column as u64 / 8) + column as u64 % 8 / 2);
        let bits = if column.is_multiple_of(2) { word & 0xffff } else { word >> 16 };
        let threshold = (dropout.p * 65536.0).round();
        if f64::from(bits) < f64::from(threshold) { 0.0 } else { 1.0 / (1.0 - f64::from(threshold) / 65536.0) }
    }

    #[test]
    fn values_and_gradients() {
        for width in [5, 200] {
            let dropout = dropout(0.3, &[7, 2 << 20, 3]);
            let mut case = Case::new();
            case.tolerance = 1e-6;
            let x = case.input("x", &[3, width], noise(3 * width, "x"));
            case.run(
                |tape| tape.dropout(&x, Some(&dropout)),
                |inputs| {
                    let scale = |i| scale_by_hand(&dropout, i / width, i % width);
                    inputs["x"].iter().enumerate().map(|(i, x)| x * scale(i)).collect()
                },
            );
        }
    }

    #[test]
    fn as_many_are_dropped_as_asked_and_expectations_stay() {
        let mut tape = Tape::new(&Device::cpu(), Precision::F32);
        let x = Var::constant(Tensor::full(&Device::cpu(), &[500, 400], 1.0));
        let keys: Vec<u64> = (0..500).collect();
        let y = tape.dropout(&x, Some(&dropout(0.1, &keys))).unwrap().value().to_vec();
        // Standard deviation of the share over 200 000 elements: 0.0007.
        let zeros = y.iter().filter(|&&y| y == 0.0).count() as f64 / 200_000.0;
        assert!((zeros - 0.1).abs() < 0.003, "{zeros} dropped");
        let mean = y.iter().map(|&y| f64::from(y)).sum::<f64>() / 200_000.0;
        assert!((mean - 1.0).abs() < 0.003, "mean {mean}");
        let none = tape.dropout(&x, Some(&dropout(1.0, &keys))).unwrap().value().to_vec();
        assert!(none.iter().all(|&y| y == 0.0));
    }

    #[test]
    fn a_row_keeps_its_mask_wherever_it_lies_in_a_batch() {
        let mut tape = Tape::new(&Device::cpu(), Precision::F32);
        let ones = |rows| Var::constant(Tensor::full(&Device::cpu(), &[rows, 300], 1.0));
        let whole = tape.dropout(&ones(3), Some(&dropout(0.5, &[1, 2, 3]))).unwrap().value().to_vec();
        let part = tape.dropout(&ones(1), Some(&dropout(0.5, &[3]))).unwrap().value().to_vec();
        assert_eq!(part, whole[600..]);
        assert_ne!(whole[..300], whole[300..600]);
    }

    #[test]
    fn nothing_is_done_without_need() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let x = tape.leaf("x", Tensor::full(&device, &[2, 3], 1.0));
        assert_eq!(tape.dropout(&x, None).unwrap().node(), x.node());
        assert_eq!(tape.dropout(&x, Some(&dropout(0.0, &[]))).unwrap().node(), x.node());
        tape.dropout(&x.detach(), Some(&dropout(0.5, &[0, 1]))).unwrap();
        assert_eq!(tape.len(), 1);
        let error = tape.dropout(&x, Some(&dropout(0.5, &[0]))).unwrap_err().to_string();
        assert_eq!(error, "dropout: the shape [2] does not fit 1 dropout keys");
    }
}
