//! The kernel in plain code, for processors without one of their own; the compiler makes vectors of it.

use super::{Block, NARROW, Out, both, finish};
use crate::tape::Precision;

/// Rows that go together: with a panel's columns as many sums as the smallest register files hold.
const ROWS: usize = 4;

/// A block by a panel.
///
/// # Safety
/// `a` covers `a.rows` rows of as many words as `panel` has rows, `out` as many rows of outputs.
pub(super) unsafe fn block(precision: Precision, a: Block, panel: &[u32], out: Out) {
    let whole = a.rows / ROWS * ROWS;
    // SAFETY: the caller's promise; no row goes beyond `a.rows`.
    unsafe {
        (0..whole).step_by(ROWS).for_each(|first| rows::<ROWS>(precision, a, first, panel, out));
        (whole..a.rows).for_each(|row| rows::<1>(precision, a, row, panel, out));
    }
}

/// `R` rows of a block by a panel.
///
/// # Safety
/// As [`block`], and the rows are inside.
unsafe fn rows<const R: usize>(precision: Precision, a: Block, first: usize, panel: &[u32], out: Out) {
    // SAFETY: the caller's promise.
    let sums = unsafe { tile::<R>(precision, a, first, panel) };
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: the caller's promise.
        let row = unsafe { std::slice::from_raw_parts_mut(out.data.add((first + r) * out.stride), out.cols) };
        finish(row, sums, out.start);
    }
}

/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn tile<const R: usize>(precision: Precision, a: Block, first: usize, panel: &[u32]) -> [[f32; NARROW]; R] {
    let mut sums = [[0.0f32; NARROW]; R];
    for (l, words) in panel.chunks_exact(NARROW).enumerate() {
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let left = unsafe { *a.words.add((first + r) * a.row + l * a.step) };
            for (sum, &right) in sums.iter_mut().zip(words) {
                match precision {
                    Precision::F32 => *sum = multiply_add(f32::from_bits(left), f32::from_bits(right), *sum),
                    Precision::Bf16 => {
                        let ([a, c], [b, d]) = (both(left), both(right));
                        *sum = multiply_add(c, d, multiply_add(a, b, *sum));
                    }
                }
            }
        }
    }
    sums
}

/// Fused where that is an instruction and not a call.
#[inline(always)]
fn multiply_add(a: f32, b: f32, sum: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, sum) } else { a * b + sum }
}
