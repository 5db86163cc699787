//! Rounding and packing in AVX-512.

use std::arch::x86_64::*;

use super::PANEL;
use crate::tape::Precision;

/// Words in a register.
const WIDTH: usize = 16;

/// The nearest bf16s, ties to even, in the low halves of the lanes; NaN stays NaN.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn round(x: __m512) -> __m512i {
    let bits = _mm512_castps_si512(x);
    let odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    let up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    let rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, up), 16);
    let nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0))
}

/// 32 neighbours as sixteen words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn words_of(low: __m512, high: __m512) -> __m512i {
    let (low, high) = (_mm512_cvtepi32_epi16(round(low)), _mm512_cvtepi32_epi16(round(high)));
    _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1)
}

/// Rounds neighbours of a row into words; an odd last one is paired with zero.
///
/// # Safety
/// AVX-512 must be here.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn round_row(words: &mut [u32], row: &[f32]) {
    assert_eq!(words.len(), row.len().div_ceil(2), "words of a row");
    let (mut words, mut row) = (words, row);
    while !row.is_empty() {
        let now = row.len().min(2 * WIDTH);
        // SAFETY: lanes beyond `now` are masked off.
        unsafe {
            let mask = if now == 2 * WIDTH { u32::MAX } else { (1u32 << now) - 1 };
            let low = _mm512_maskz_loadu_ps(mask as u16, row.as_ptr());
            let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, row.as_ptr().wrapping_add(WIDTH));
            let store = ((1u32 << now.div_ceil(2)) - 1) as u16;
            _mm512_mask_storeu_epi32(words.as_mut_ptr().cast(), store, words_of(low, high));
        }
        words = &mut words[now.div_ceil(2)..];
        row = &row[now..];
    }
}

/// Fills the front of a panel from its 32 columns, sixteen words of depth at a time; returns the depth that is done.
///
/// # Safety
/// AVX-512 must be here.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn turned_panel(words: &mut [u32], columns: [&[f32]; PANEL], precision: Precision) -> usize {
    let per_word = if precision == Precision::F32 { 1 } else { 2 };
    let inner = columns.iter().map(|column| column.len()).min().unwrap_or(0);
    let depth = (inner / (per_word * WIDTH) * WIDTH).min(words.len() / PANEL / WIDTH * WIDTH);
    for l in (0..depth).step_by(WIDTH) {
        for half in 0..PANEL / WIDTH {
            let mut rows = [_mm512_setzero_si512(); WIDTH];
            for (row, column) in rows.iter_mut().zip(&columns[half * WIDTH..]) {
                // SAFETY: `depth` words were found in every column and in the panel.
                *row = unsafe {
                    let at = column.as_ptr().add(per_word * l);
                    match precision {
                        Precision::F32 => _mm512_castps_si512(_mm512_loadu_ps(at)),
                        Precision::Bf16 => words_of(_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(WIDTH))),
                    }
                };
            }
            for (i, row) in transpose(rows).into_iter().enumerate() {
                // SAFETY: as above.
                unsafe { _mm512_storeu_si512(words.as_mut_ptr().add((l + i) * PANEL + half * WIDTH).cast(), row) };
            }
        }
    }
    depth
}

/// The transpose of 16 x 16 words: exchanges between rows 1, 2, 4 and 8 apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose(rows: [__m512i; WIDTH]) -> [__m512i; WIDTH] {
    let mut pairs = rows;
    for i in (0..WIDTH).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // In every 128-bit lane `k` of `fours[4 g + j]`: column `4 k + j` of rows `4 g .. 4 g + 4`.
    let mut fours = pairs;
    for i in (0..WIDTH).step_by(4) {
        fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    let mut out = fours;
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        // Lanes 0 and 2, 1 and 3 of two groups, then of all four.
        let (ab_even, ab_odd) = (_mm512_shuffle_i32x4(a, b, 0b10_00_10_00), _mm512_shuffle_i32x4(a, b, 0b11_01_11_01));
        let (cd_even, cd_odd) = (_mm512_shuffle_i32x4(c, d, 0b10_00_10_00), _mm512_shuffle_i32x4(c, d, 0b11_01_11_01));
        out[j] = _mm512_shuffle_i32x4(ab_even, cd_even, 0b10_00_10_00);
        out[4 + j] = _mm512_shuffle_i32x4(ab_odd, cd_odd, 0b10_00_10_00);
        out[8 + j] = _mm512_shuffle_i32x4(ab_even, cd_even, 0b11_01_11_01);
        out[12 + j] = _mm512_shuffle_i32x4(ab_odd, cd_odd, 0b11_01_11_01);
    }
    out
}
