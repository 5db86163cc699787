//! The kernels in the instructions of x86: AVX2, AVX-512, and its bf16 products.

use std::arch::x86_64::*;

use super::{Block, NARROW, Out, Start, WIDEST, amx, finish};
use crate::instructions::Instructions;
use crate::tape::Precision;

/// A block by a panel.
///
/// # Safety
/// As `portable::block`; and `isa` is here.
pub(super) unsafe fn block(isa: Instructions, precision: Precision, a: Block, panel: &[u32], out: Out) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match (precision, isa) {
            (Precision::F32, Instructions::Avx2) => avx2_f32(a, panel, out),
            (Precision::F32, _) => avx512_f32(a, panel, out),
            (Precision::Bf16, Instructions::Avx2) => avx2_bf16(a, panel, out),
            (Precision::Bf16, Instructions::Avx512) => avx512_bf16_in_f32(a, panel, out),
            (Precision::Bf16, Instructions::Amx) => amx::block(a, panel, out),
            (Precision::Bf16, _) => avx512_bf16(a, panel, out),
        }
    }
}

/// Defines a kernel that walks over the rows of a block, `$most` at a time, and calls `$tile` with the number as a constant;
/// where a panel has few columns, as in products of low rank, with half of its registers.
macro_rules! by_rows {
    ($(#[$attribute:meta])* $name:ident, $tile:ident, $panel:expr, $most:literal, [$($rest:literal)*]) => {
        /// # Safety
        /// As [`block`].
        $(#[$attribute])*
        unsafe fn $name(a: Block, panel: &[u32], out: Out) {
            // SAFETY: the caller's promise; no tile goes beyond `a.rows`.
            unsafe {
                let mut r = 0;
                while r < a.rows {
                    let left = a.words.add(r * a.row);
                    let to = Out { data: out.data.add(r * out.stride), ..out };
                    let rows = (a.rows - r).min($most);
                    match (rows, out.cols <= $panel / 2) {
                        ($most, false) => $tile::<$most, 2>(left, a.row, a.step, panel, to),
                        ($most, true) => $tile::<$most, 1>(left, a.row, a.step, panel, to),
                        $(($rest, false) => $tile::<$rest, 2>(left, a.row, a.step, panel, to),
                        ($rest, true) => $tile::<$rest, 1>(left, a.row, a.step, panel, to),)*
                        _ => {}
                    }
                    r += rows;
                }
            }
        }
    };
}

by_rows!(#[target_feature(enable = "avx512f,avx512bw")] avx512_f32, tile_f32, WIDEST, 12, [1 2 3 4 5 6 7 8 9 10 11]);
by_rows!(#[target_feature(enable = "avx512f,avx512bw,avx512bf16")] avx512_bf16, tile_bf16, WIDEST, 12, [1 2 3 4 5 6 7 8 9 10 11]);
by_rows!(#[target_feature(enable = "avx512f,avx512bw")] avx512_bf16_in_f32, tile_bf16_in_f32, WIDEST, 8, [1 2 3 4 5 6 7]);
by_rows!(#[target_feature(enable = "avx2,fma")] avx2_f32, tile_avx2_f32, NARROW, 6, [1 2 3 4 5]);
by_rows!(#[target_feature(enable = "avx2,fma")] avx2_bf16, tile_avx2_bf16, NARROW, 4, [1 2 3]);

/// Writes `R` rows of `H` registers.
///
/// # Safety
/// As [`block`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn write<const R: usize, const H: usize>(sums: [[__m512; H]; R], out: Out) {
    // SAFETY: the caller's promise; lanes beyond `out.cols` are masked off.
    unsafe {
        // Stores under a mask are slow on some processors, so whole panels do without.
        if out.cols == WIDEST {
            for (r, sums) in sums.into_iter().enumerate() {
                for (h, sum) in sums.into_iter().enumerate() {
                    let at = out.data.add(r * out.stride + 16 * h);
                    let sum = match out.start {
                        Start::Zero => sum,
                        Start::Sum => _mm512_add_ps(_mm512_loadu_ps(at), sum),
                        Start::Bias(bias) => _mm512_add_ps(_mm512_loadu_ps(bias.as_ptr().add(16 * h)), sum),
                    };
                    _mm512_storeu_ps(at, sum);
                }
            }
            return;
        }
        let mask = (1u32 << out.cols) - 1;
        let masks = [mask as u16, (mask >> 16) as u16];
        for (r, sums) in sums.into_iter().enumerate() {
            for (h, sum) in sums.into_iter().enumerate() {
                let at = out.data.wrapping_add(r * out.stride + 16 * h);
                let start = match out.start {
                    Start::Zero => _mm512_setzero_ps(),
                    Start::Sum => _mm512_maskz_loadu_ps(masks[h], at),
                    Start::Bias(bias) => _mm512_maskz_loadu_ps(masks[h], bias.as_ptr().wrapping_add(16 * h)),
                };
                _mm512_mask_storeu_ps(at, masks[h], _mm512_add_ps(start, sum));
            }
        }
    }
}

/// # Safety
/// As [`block`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn tile_f32<const R: usize, const H: usize>(a: *const u32, row: usize, step: usize, panel: &[u32], out: Out) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); H]; R];
        let a: *const f32 = a.cast();
        for (l, words) in panel.chunks_exact(WIDEST).enumerate() {
            let b: *const f32 = words.as_ptr().cast();
            let b: [__m512; H] = std::array::from_fn(|h| _mm512_loadu_ps(b.add(16 * h)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_ps(*a.add(r * row + l * step));
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = _mm512_fmadd_ps(a, b, *sum);
                }
            }
        }
        write(sums, out);
    }
}

/// # Safety
/// As [`block`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn tile_bf16<const R: usize, const H: usize>(a: *const u32, row: usize, step: usize, panel: &[u32], out: Out) {
    // SAFETY: the caller's promise; the casts only rename registers.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); H]; R];
        for (l, words) in panel.chunks_exact(WIDEST).enumerate() {
            let b = words.as_ptr();
            let load = |b: *const u32| std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(b.cast()));
            let b: [__m512bh; H] = std::array::from_fn(|h| load(b.add(16 * h)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_epi32(*a.add(r * row + l * step) as i32);
                let a = std::mem::transmute::<__m512i, __m512bh>(a);
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = _mm512_dpbf16_ps(*sum, a, b);
                }
            }
        }
        write(sums, out);
    }
}

/// # Safety
/// As [`block`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn tile_bf16_in_f32<const R: usize, const H: usize>(
    a: *const u32,
    row: usize,
    step: usize,
    panel: &[u32],
    out: Out,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); H]; R];
        let high = _mm512_set1_epi32(0xffff_0000u32 as i32);
        for (l, words) in panel.chunks_exact(WIDEST).enumerate() {
            let b = words.as_ptr();
            let b: [__m512i; H] = std::array::from_fn(|h| _mm512_loadu_si512(b.add(16 * h).cast()));
            let even = b.map(|b| _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)));
            let odd = b.map(|b| _mm512_castsi512_ps(_mm512_and_si512(b, high)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let [first, second] = super::both(*a.add(r * row + l * step)).map(|x| _mm512_set1_ps(x));
                for h in 0..H {
                    sums[h] = _mm512_fmadd_ps(first, even[h], sums[h]);
                    sums[h] = _mm512_fmadd_ps(second, odd[h], sums[h]);
                }
            }
        }
        write(sums, out);
    }
}

/// Writes `R` rows of `H` registers.
///
/// # Safety
/// As [`block`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn write_avx2<const R: usize, const H: usize>(sums: [[__m256; H]; R], out: Out) {
    // SAFETY: the caller's promise; a row is written by whole registers where it has as many columns, and as a slice of
    // `out.cols` elements where it has fewer.
    unsafe {
        if out.cols == 8 * H {
            for (r, sums) in sums.into_iter().enumerate() {
                for (h, sum) in sums.into_iter().enumerate() {
                    let at = out.data.add(r * out.stride + 8 * h);
                    let sum = match out.start {
                        Start::Zero => sum,
                        Start::Sum => _mm256_add_ps(_mm256_loadu_ps(at), sum),
                        Start::Bias(bias) => _mm256_add_ps(_mm256_loadu_ps(bias.as_ptr().add(8 * h)), sum),
                    };
                    _mm256_storeu_ps(at, sum);
                }
            }
            return;
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let mut values = [[0.0; 8]; H];
            values.iter_mut().zip(sums).for_each(|(values, sum)| _mm256_storeu_ps(values.as_mut_ptr(), sum));
            let row = std::slice::from_raw_parts_mut(out.data.add(r * out.stride), out.cols);
            finish(row, values.as_flattened(), out.start);
        }
    }
}

/// Steps of depth that a loop takes at once.
const TOGETHER: usize = 8;

/// # Safety
/// As [`block`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_avx2_f32<const R: usize, const H: usize>(
    a: *const u32,
    row: usize,
    step: usize,
    panel: &[u32],
    out: Out,
) {
    // SAFETY: the caller's promise; fetching reads nothing.
    unsafe {
        // The outputs are brought near while their sums are computed: their rows are too far apart to be foreseen.
        for r in 0..R {
            let at = out.data.add(r * out.stride);
            _mm_prefetch(at.cast(), _MM_HINT_T0);
            _mm_prefetch(at.wrapping_add(8 * H - 1).cast(), _MM_HINT_T0);
        }
        let (a, b): (*const f32, *const f32) = (a.cast(), panel.as_ptr().cast());
        let depth = panel.len() / NARROW;
        let mut sums = [[_mm256_setzero_ps(); H]; R];
        macro_rules! step {
            ($l:expr, |$r:ident| $left:expr) => {
                let mut columns = [_mm256_setzero_ps(); H];
                for h in 0..H {
                    columns[h] = _mm256_loadu_ps(b.add($l * NARROW + 8 * h));
                }
                for $r in 0..R {
                    let left = _mm256_set1_ps(*$left);
                    for h in 0..H {
                        sums[$r][h] = _mm256_fmadd_ps(left, columns[h], sums[$r][h]);
                    }
                }
            };
        }
        // Where another thread has half of the core, counting and addresses take as long as the arithmetic. So several steps go
        // together, and each of the two layouts has a loop whose addresses need no arithmetic.
        macro_rules! steps {
            (|$l:ident, $r:ident| $left:expr) => {
                let mut first = 0;
                while first + TOGETHER <= depth {
                    for k in 0..TOGETHER {
                        let $l = first + k;
                        step!($l, |$r| $left);
                    }
                    first += TOGETHER;
                }
                for $l in first..depth {
                    step!($l, |$r| $left);
                }
            };
        }
        if step == 1 {
            let mut rows = [a; R];
            rows.iter_mut().enumerate().for_each(|(r, place)| *place = a.add(r * row));
            steps!(|l, r| rows[r].add(l));
        } else {
            assert!((row, step) == (1, NARROW), "a transpose comes in panels");
            steps!(|l, r| a.add(l * NARROW + r));
        }
        write_avx2(sums, out);
    }
}

/// # Safety
/// As [`block`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_avx2_bf16<const R: usize, const H: usize>(
    a: *const u32,
    row: usize,
    step: usize,
    panel: &[u32],
    out: Out,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let high = _mm256_set1_epi32(0xffff_0000u32 as i32);
        let both = |words: __m256i| {
            let (first, second) = (_mm256_slli_epi32(words, 16), _mm256_and_si256(words, high));
            (_mm256_castsi256_ps(first), _mm256_castsi256_ps(second))
        };
        let mut sums = [[_mm256_setzero_ps(); H]; R];
        for (l, words) in panel.chunks_exact(NARROW).enumerate() {
            let b = words.as_ptr();
            let b: [(__m256, __m256); H] = std::array::from_fn(|h| both(_mm256_loadu_si256(b.add(8 * h).cast())));
            for (r, sums) in sums.iter_mut().enumerate() {
                let (first, second) = both(_mm256_set1_epi32(*a.add(r * row + l * step) as i32));
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = _mm256_fmadd_ps(second, b.1, _mm256_fmadd_ps(first, b.0, *sum));
                }
            }
        }
        write_avx2(sums, out);
    }
}
