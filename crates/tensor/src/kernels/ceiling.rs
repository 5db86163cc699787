//! The most multiplications and additions a second that this machine does: what a kernel can be measured against.

use rayon::prelude::*;

use crate::instructions::Instructions;
#[cfg(target_arch = "x86_64")]
use crate::kernels::product::amx_burst;
use crate::tape::Precision;

/// Multiply-adds of one lane that are under way at once: enough to hide the latency of any processor.
const CHAINS: usize = 16;
/// How long is measured, in seconds; the best of several pieces counts, so that other work on the machine does not.
const PIECES: usize = 20;
const PIECE: f64 = 0.02;

/// Multiplications and additions a second of all threads together, in registers, without touching memory. `clock` gives
/// seconds.
pub fn ceiling(precision: Precision, clock: &(dyn Fn() -> f64 + Sync)) -> f64 {
    let rates = (0..rayon::current_num_threads()).into_par_iter().with_max_len(1).map(|_| {
        let mut best = 0.0f64;
        for _ in 0..PIECES {
            let (start, mut operations) = (clock(), 0);
            while clock() - start < PIECE {
                operations += burst(precision, 10_000);
            }
            best = best.max(operations as f64 / (clock() - start));
        }
        best
    });
    rates.collect::<Vec<f64>>().iter().sum()
}

/// Runs `times` rounds of all chains; the operations that they were.
fn burst(precision: Precision, times: u64) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the instructions in use are here, in each of these.
        let per_instruction = match (Instructions::current(), precision) {
            (Instructions::Amx, Precision::Bf16) => unsafe { amx_burst(times) },
            (Instructions::Avx512Bf16, Precision::Bf16) => unsafe { x86::bf16(times) },
            (Instructions::Amx | Instructions::Avx512Bf16 | Instructions::Avx512, _) => unsafe { x86::avx512(times) },
            (Instructions::Avx2, _) => unsafe { x86::avx2(times) },
            (Instructions::Portable, _) => portable(times),
        };
        times * CHAINS as u64 * per_instruction
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = precision;
        times * CHAINS as u64 * portable(times)
    }
}

fn portable(times: u64) -> u64 {
    const LANES: usize = 4;
    let (x, y) = (std::hint::black_box(0.999f32), std::hint::black_box(1e-3f32));
    let mut sums = [[1.0f32; LANES]; CHAINS];
    for _ in 0..times {
        sums.iter_mut().flatten().for_each(|sum| *sum = *sum * x + y);
    }
    std::hint::black_box(sums);
    2 * LANES as u64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::CHAINS;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(times: u64) -> u64 {
        let (x, y) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(1e-3)));
        let mut sums = [y; CHAINS];
        for _ in 0..times {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(*sum, x, y));
        }
        black_box(sums);
        2 * 16
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn bf16(times: u64) -> u64 {
        // SAFETY: both types are 512 bits of anything.
        let x = unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(black_box(0x3f80_0000))) };
        let mut sums = [_mm512_set1_ps(1.0); CHAINS];
        for _ in 0..times {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, x, x));
        }
        black_box(sums);
        2 * 32
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(times: u64) -> u64 {
        let (x, y) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(1e-3)));
        let mut sums = [y; CHAINS - 4];
        // Twelve chains fit the sixteen registers; four more rounds make up for the others.
        for _ in 0..times * CHAINS as u64 / (CHAINS as u64 - 4) {
            sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(*sum, x, y));
        }
        black_box(sums);
        2 * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn two_threads_do_more_than_a_billion_a_second() {
        let start = Instant::now();
        let clock = || start.elapsed().as_secs_f64();
        assert!(crate::with_threads(2, || ceiling(Precision::F32, &clock)) > 1e9);
    }
}
