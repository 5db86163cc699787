//! Packing in AVX2, for panels of 16 columns.

use std::arch::x86_64::*;

use super::NARROW;
use crate::tape::Precision;

/// Words in a register.
const WIDTH: usize = 8;

/// The nearest bf16s, ties to even, in the low halves of the lanes; NaN stays NaN.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn round(x: __m256) -> __m256i {
    let bits = _mm256_castps_si256(x);
    let odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    let up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    let rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, up), 16);
    let nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan)
}

/// Fills the front of a panel with `used` columns of a matrix, of `inner` elements each, that begin `stride` apart, eight words of
/// depth at a time; returns the depth that is done. What lacks to 8 or 16 columns is zero; where at most 8 are
/// used, the other half of the panel stays as it is.
///
/// # Safety
/// AVX2 must be here.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn turned_panel(
    words: &mut [u32],
    data: &[f32],
    (stride, inner): (usize, usize),
    used: usize,
    precision: Precision,
) -> usize {
    /// Elements that are fetched ahead: so many columns at once are more than the processor foresees.
    const FURTHER: usize = 16 * WIDTH;
    assert!((1..=NARROW).contains(&used) && (used - 1) * stride + inner <= data.len(), "columns outside their memory");
    let per_word = if precision == Precision::F32 { 1 } else { 2 };
    let depth = (inner / (per_word * WIDTH) * WIDTH).min(words.len() / NARROW / WIDTH * WIDTH);
    for l in (0..depth).step_by(WIDTH) {
        for half in 0..used.div_ceil(WIDTH) {
            let mut rows = [_mm256_setzero_si256(); WIDTH];
            for (i, row) in rows.iter_mut().enumerate() {
                let column = half * WIDTH + i;
                if column < used {
                    // SAFETY: `depth` words were found in every used column; fetching reads nothing.
                    *row = unsafe {
                        let at = data.as_ptr().add(column * stride + per_word * l);
                        _mm_prefetch(at.wrapping_add(FURTHER).cast(), _MM_HINT_T0);
                        match precision {
                            Precision::F32 => _mm256_loadu_si256(at.cast()),
                            Precision::Bf16 => {
                                let [low, high] = [at, at.add(WIDTH)].map(|at| round(_mm256_loadu_ps(at)));
                                // Packing works on halves of registers, which are put in order after it.
                                _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0b11_01_10_00)
                            }
                        }
                    };
                }
            }
            for (i, row) in transpose(rows).into_iter().enumerate() {
                // SAFETY: `depth` words of depth were found in the panel.
                unsafe { _mm256_storeu_si256(words.as_mut_ptr().add((l + i) * NARROW + half * WIDTH).cast(), row) };
            }
        }
    }
    depth
}

/// The transpose of 8 x 8 words: exchanges between rows 1, 2 and 4 apart.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn transpose(rows: [__m256i; WIDTH]) -> [__m256i; WIDTH] {
    let mut pairs = rows;
    for i in (0..WIDTH).step_by(2) {
        pairs[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // In half `k` of `fours[4 g + j]`: column `4 k + j` of rows `4 g .. 4 g + 4`.
    let mut fours = pairs;
    for i in (0..WIDTH).step_by(4) {
        fours[i] = _mm256_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm256_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm256_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm256_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    let mut out = fours;
    for j in 0..4 {
        out[j] = _mm256_permute2x128_si256(fours[j], fours[4 + j], 0x20);
        out[4 + j] = _mm256_permute2x128_si256(fours[j], fours[4 + j], 0x31);
    }
    out
}
