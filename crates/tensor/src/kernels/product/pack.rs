//! Rounding to bf16, and moving operands into the order in which the kernels read them.

use super::prepare::Strip;
use super::{Mat, NARROW, panel_width};
#[cfg(target_arch = "x86_64")]
use super::{pack_avx2, pack_avx512};
use crate::instructions::Instructions;
use crate::kernels::math::vectorised;
use crate::tape::Precision;

/// The nearest bf16, ties to even, as bits; NaN stays NaN.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { 0x7fc0 } else { rounded }
}

/// Rounds neighbours of a row into words; an odd last one is paired with zero.
#[inline(always)]
pub(super) fn round_row(words: &mut [u32], row: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if Instructions::current() >= Instructions::Avx512 {
        // SAFETY: AVX-512 is here.
        return unsafe { pack_avx512::round_row(words, row) };
    }
    let halves: &mut [u16] = bytemuck::cast_slice_mut(words);
    for (half, &x) in halves.iter_mut().zip(row) {
        *half = round(x) as u16;
    }
    if let Some(last) = halves.get_mut(row.len()) {
        *last = 0;
    }
}

/// Rounds two rows into words of one value of each.
#[inline(always)]
pub(super) fn pair_rows(words: &mut [u32], even: &[f32], odd: Option<&[f32]>) {
    match odd {
        Some(odd) => words.iter_mut().zip(even).zip(odd).for_each(|((w, &a), &b)| *w = round(a) | round(b) << 16),
        None => words.iter_mut().zip(even).for_each(|(w, &a)| *w = round(a)),
    }
}

/// Rows that are fetched ahead: the columns of a wide matrix are too far apart for the processor to foresee.
pub(super) const AHEAD: usize = 8;

/// Fetches the `W` neighbours of a panel's row into the cache.
#[inline(always)]
pub(super) fn fetch<const W: usize>(data: &[f32], at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let at = data.as_ptr().wrapping_add(at);
        for line in (0..W).step_by(16) {
            // SAFETY: fetching reads nothing, so the place may lie outside.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line).cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (data, at);
}

/// Copies a row in pieces of a length that the compiler knows: a call would take longer than the row.
#[inline(always)]
pub(super) fn copy<T: Copy>(out: &mut [T], row: &[T]) {
    let ((out, out_rest), (row, rest)) = (out.as_chunks_mut::<NARROW>(), row.as_chunks());
    out.iter_mut().zip(row).for_each(|(out, row)| *out = *row);
    out_rest.copy_from_slice(rest);
}

/// Rows of a transpose that are moved together.
const TOGETHER: usize = 8;

/// Words `l..l + TOGETHER` of a panel from as many rows of `columns`: the panel is the transpose.
#[inline(always)]
fn turn<const W: usize>(panel: &mut [u32], columns: &[[u32; TOGETHER]; W]) {
    for (l, row) in panel.chunks_exact_mut(W).enumerate() {
        for (word, column) in row.iter_mut().zip(columns) {
            *word = column[l];
        }
    }
}

/// What [`super::prepare::prepare`] does with the columns of a panel, in bf16.
pub(super) fn round_strip(mut strip: Strip) {
    #[cfg(target_arch = "x86_64")]
    if Instructions::current() >= Instructions::Avx512 {
        // SAFETY: AVX-512 is here.
        return unsafe { pack_avx512::round_strip(&mut strip) };
    }
    vectorised(
        #[inline(always)]
        || strip.round::<NARROW>(),
    );
}

/// Fills the panel of `W` columns of `b` from `col` on.
pub(super) fn panel<const W: usize>(isa: Instructions, words: &mut [u32], b: Mat, col: usize, precision: Precision) {
    let cols = W.min(b.cols - col);
    if cols < W {
        words.fill(0);
    }
    if b.col_stride != 1 {
        turned_panel::<W>(isa, words, b, col, cols, precision);
        return;
    }
    let row = |l: usize| &b.data[l * b.row_stride + col..][..cols];
    vectorised(
        #[inline(always)]
        || match precision {
            Precision::F32 => {
                for (l, words) in words.chunks_exact_mut(W).enumerate() {
                    fetch::<W>(b.data, (l + AHEAD) * b.row_stride + col);
                    copy(&mut words[..cols], bytemuck::cast_slice(row(l)));
                }
            }
            Precision::Bf16 => {
                for (l, words) in words.chunks_exact_mut(W).enumerate() {
                    pair_rows(&mut words[..cols], row(2 * l), (2 * l + 1 < b.rows).then(|| row(2 * l + 1)));
                }
            }
        },
    );
}

/// The front of a panel of a transpose by the way that `isa` has to turn a matrix, if it has one and the panel is as wide as it
/// wants: `used` columns of `inner` elements that begin `stride` apart. Returns the words of depth that are done; what lacks to
/// whole registers is zero.
#[inline(always)]
pub(crate) fn turned_front(
    isa: Instructions,
    (words, width): (&mut [u32], usize),
    data: &[f32],
    extents: (usize, usize),
    used: usize,
    precision: Precision,
) -> usize {
    if width != panel_width(isa) {
        return 0;
    }
    // SAFETY: `isa` is here.
    #[cfg(target_arch = "x86_64")]
    let done = match isa {
        Instructions::Portable => 0,
        Instructions::Avx2 => unsafe { pack_avx2::turned_panel(words, data, extents, used, precision) },
        _ => unsafe { pack_avx512::turned_panel(words, data, extents, used, precision) },
    };
    #[cfg(not(target_arch = "x86_64"))]
    let (done, _) = (0, (words, data, extents, used, precision));
    done
}

/// [`panel`] of a matrix whose columns are contiguous.
fn turned_panel<const W: usize>(
    isa: Instructions,
    words: &mut [u32],
    b: Mat,
    col: usize,
    cols: usize,
    precision: Precision,
) {
    assert_eq!(b.row_stride, 1, "a right operand with contiguous rows or columns");
    let column = |c: usize| &b.data[(col + c) * b.col_stride..][..b.rows];
    let extents = (b.col_stride, b.rows);
    let data = &b.data[col * b.col_stride..];
    let done = if cols == W { turned_front(isa, (words, W), data, extents, cols, precision) } else { 0 };
    let words = &mut words[done * W..];
    vectorised(
        #[inline(always)]
        || {
            let mut columns = [[0u32; TOGETHER]; W];
            let per_word = if precision == Precision::F32 { 1 } else { 2 };
            for (i, part) in words.chunks_mut(TOGETHER * W).enumerate() {
                let first = per_word * (done + i * TOGETHER);
                let end = b.rows.min(first + per_word * TOGETHER);
                for (c, words) in columns.iter_mut().enumerate().take(cols) {
                    match precision {
                        Precision::F32 => {
                            words[..end - first].copy_from_slice(bytemuck::cast_slice(&column(c)[first..end]))
                        }
                        Precision::Bf16 => round_row(words, &column(c)[first..end]),
                    }
                }
                turn(part, &columns);
            }
        },
    );
}

/// Rounds the rows of `a` from `first` on; `words` has whole rows.
pub(super) fn half_rows(words: &mut [u32], a: Mat, first: usize) {
    let depth = super::words(a.cols, Precision::Bf16);
    vectorised(
        #[inline(always)]
        || {
            for (r, words) in words.chunks_exact_mut(depth).enumerate() {
                round_row(words, &a.data[(first + r) * a.row_stride..][..a.cols]);
            }
        },
    );
}
