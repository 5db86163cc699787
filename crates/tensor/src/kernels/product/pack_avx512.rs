//! Rounding and packing in AVX-512, for panels of 32 columns.

use std::arch::x86_64::*;

use super::WIDEST;
use super::pack::AHEAD;
use super::prepare::Strip;
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
    // A panel that ends short leaves words over.
    let (mut words, mut row) = (&mut words[..row.len().div_ceil(2)], row);
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

/// What [`super::prepare::prepare`] does with 32 columns.
///
/// # Safety
/// AVX-512 must be here.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn round_strip(strip: &mut Strip) {
    let (rows, width) = (strip.rows, strip.width);
    let last = (rows - 1) * width + WIDEST;
    assert!(last <= strip.x.len() && strip.factors.is_none_or(|factors| last <= 2 * factors.len()), "rows of a strip");
    let zero = [_mm512_setzero_ps(); 2];
    let mut sums = zero;
    if let Some(held) = &strip.sums {
        let held = &held[..WIDEST];
        // SAFETY: 32 sums were found.
        sums = unsafe { [_mm512_loadu_ps(held.as_ptr()), _mm512_loadu_ps(held.as_ptr().add(WIDTH))] };
    }
    let (x, factors) = (strip.x.as_ptr(), strip.factors.map(<[u32]>::as_ptr));
    let (mut half, mut panel) = (strip.half.as_mut(), strip.panel.as_deref_mut());
    for top in (0..rows).step_by(2) {
        let mut rounded = [[_mm512_setzero_si512(); 2]; 2];
        for (k, r) in (top..rows.min(top + 2)).enumerate() {
            // SAFETY: `r` is a row of the strip, and 32 columns from its start are inside (checked above).
            let mut row = unsafe { load(x.add(r * width), AHEAD * width) };
            if let Some(factors) = factors {
                // SAFETY: as above.
                let factors = unsafe { load_half(factors.add(r * width / 2), AHEAD * width / 2) };
                row = [_mm512_mul_ps(row[0], factors[0]), _mm512_mul_ps(row[1], factors[1])];
            }
            sums = [_mm512_add_ps(sums[0], row[0]), _mm512_add_ps(sums[1], row[1])];
            rounded[k] = [round(row[0]), round(row[1])];
            if let Some(half) = &mut half {
                let words = &mut half.row(r)[..WIDTH];
                let (low, high) = (_mm512_cvtepi32_epi16(rounded[k][0]), _mm512_cvtepi32_epi16(rounded[k][1]));
                let both = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
                // SAFETY: sixteen words were found.
                unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), both) };
            }
        }
        if let Some(panel) = &mut panel {
            let words = &mut panel[top / 2 * WIDEST..][..WIDEST];
            let [even, odd] = rounded;
            for (words, (even, odd)) in words.chunks_exact_mut(WIDTH).zip(even.into_iter().zip(odd)) {
                let both = _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
                // SAFETY: there are sixteen words.
                unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), both) };
            }
        }
    }
    if let Some(out) = &mut strip.sums {
        let out = &mut out[..WIDEST];
        // SAFETY: there are 32 of them.
        unsafe {
            _mm512_storeu_ps(out.as_mut_ptr(), sums[0]);
            _mm512_storeu_ps(out.as_mut_ptr().add(WIDTH), sums[1]);
        }
    }
}

/// 32 neighbours; those `ahead` elements further on are fetched into the cache.
///
/// # Safety
/// 32 elements from `at` on can be read; the ones ahead need not.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn load(at: *const f32, ahead: usize) -> [__m512; 2] {
    // SAFETY: the caller's promise; fetching reads nothing.
    unsafe {
        _mm_prefetch(at.wrapping_add(ahead).cast(), _MM_HINT_T0);
        _mm_prefetch(at.wrapping_add(ahead + WIDTH).cast(), _MM_HINT_T0);
        [_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(WIDTH))]
    }
}

/// The same of rounded neighbours.
///
/// # Safety
/// Sixteen words from `at` on can be read; the ones ahead need not.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn load_half(at: *const u32, ahead: usize) -> [__m512; 2] {
    // SAFETY: the caller's promise; fetching reads nothing.
    let words = unsafe {
        _mm_prefetch(at.wrapping_add(ahead).cast(), _MM_HINT_T0);
        _mm512_loadu_si512(at.cast())
    };
    [_mm512_castsi512_si256(words), _mm512_extracti64x4_epi64(words, 1)]
        .map(|half| _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)))
}

/// Fills the front of a panel with `used` columns of a matrix, of `inner` elements each, that begin `stride` apart, sixteen words
/// of depth at a time; returns the depth that is done. What lacks to 16 or 32 columns is zero; where at
/// most 16 are used, the other half of the panel stays as it is.
///
/// # Safety
/// AVX-512 must be here.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn turned_panel(
    words: &mut [u32],
    data: &[f32],
    (stride, inner): (usize, usize),
    used: usize,
    precision: Precision,
) -> usize {
    /// Elements that are fetched ahead: so many columns at once are more than the processor foresees.
    const FURTHER: usize = 8 * WIDTH;
    assert!((1..=WIDEST).contains(&used) && (used - 1) * stride + inner <= data.len(), "columns outside their memory");
    let per_word = if precision == Precision::F32 { 1 } else { 2 };
    let depth = (inner / (per_word * WIDTH) * WIDTH).min(words.len() / WIDEST / WIDTH * WIDTH);
    for l in (0..depth).step_by(WIDTH) {
        for half in 0..used.div_ceil(WIDTH) {
            let mut rows = [_mm512_setzero_si512(); WIDTH];
            for (i, row) in rows.iter_mut().enumerate() {
                let column = half * WIDTH + i;
                if column < used {
                    // SAFETY: `depth` words were found in every used column.
                    *row = unsafe {
                        let at = data.as_ptr().add(column * stride + per_word * l);
                        match precision {
                            Precision::F32 => {
                                _mm_prefetch(at.wrapping_add(FURTHER).cast(), _MM_HINT_T0);
                                _mm512_loadu_si512(at.cast())
                            }
                            Precision::Bf16 => {
                                let [low, high] = load(at, FURTHER);
                                words_of(low, high)
                            }
                        }
                    };
                }
            }
            for (i, row) in transpose(rows).into_iter().enumerate() {
                // SAFETY: `depth` words of depth were found in the panel.
                unsafe { _mm512_storeu_si512(words.as_mut_ptr().add((l + i) * WIDEST + half * WIDTH).cast(), row) };
            }
        }
    }
    depth
}

/// The transpose of 16 x 16 words: exchanges between rows 1, 2, 4 and 8 apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn transpose(rows: [__m512i; WIDTH]) -> [__m512i; WIDTH] {
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
