//! Loops over slices on several threads, with results that do not depend on how many there are.
//!
//! Work is cut into chunks of a fixed size, never by the number of threads, and partial sums are added in order.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::kernels::math::arch;

/// Runs `f` on a pool of `n` threads (0: as many as there are cores). Everything the engine does in `f` stays there.
pub fn with_threads<R: Send>(n: usize, f: impl FnOnce() -> R + Send) -> R {
    match rayon::ThreadPoolBuilder::new().num_threads(n).build() {
        Ok(pool) => pool.install(f),
        // No threads to be had: the work is done on the caller's own.
        Err(_) => f(),
    }
}

/// Calls `f` for every item, on several threads; `f` must not care about the order. Each thread begins with a part of its own,
/// so that what one operation leaves in a core's cache is there for the next, and helps the others when it is done.
pub(crate) fn tasks<T: Send>(items: Vec<T>, f: impl Fn(T) + Sync) {
    let slots: Vec<Mutex<Option<T>>> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    counted(slots.len(), |i| {
        if let Some(item) = slots[i].lock().unwrap_or_else(PoisonError::into_inner).take() {
            f(item);
        }
    });
}

/// Calls `f` with `0..n`, as [`tasks`] does.
pub(crate) fn counted(n: usize, f: impl Fn(usize) + Sync) {
    let threads = rayon::current_num_threads().min(n);
    if threads < 2 {
        return (0..n).for_each(f);
    }
    let next: Vec<AtomicUsize> = (0..threads).map(|part| AtomicUsize::new(part * n / threads)).collect();
    let work = || {
        let own = rayon::current_thread_index().unwrap_or(0);
        for part in (own..own + threads).map(|part| part % threads) {
            loop {
                let i = next[part].fetch_add(1, Ordering::Relaxed);
                if i >= (part + 1) * n / threads {
                    break;
                }
                f(i);
            }
        }
    };
    rayon::in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| work());
        }
        work();
    });
}

/// `f` of `0..n`, in order, computed on several threads.
pub fn map<T: Send>(n: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let mut values: Vec<Option<T>> = (0..n).map(|_| None).collect();
    tasks(values.iter_mut().enumerate().collect(), |(i, value)| *value = Some(f(i)));
    values.into_iter().flatten().collect()
}

/// Adds the column sums of `[rows, width]` to `out`, or writes them: the gradient of a bias.
pub(crate) fn column_sums(values: &[f32], width: usize, out: &mut [f32], holds_sum: bool) {
    const COLUMNS: usize = 128;
    tasks(out.chunks_mut(COLUMNS).enumerate().collect(), |(block, out)| {
        if !holds_sum {
            out.fill(0.0);
        }
        let start = block * COLUMNS;
        for row in values.chunks_exact(width) {
            out.iter_mut().zip(&row[start..]).for_each(|(sum, x)| *sum += x);
        }
    });
}

/// Elements a chunk: large enough to hide the hand-over, small enough to stay in the second-level cache.
const CHUNK: usize = 1 << 14;

/// `f` for every element.
pub(crate) fn each(values: &mut [f32], f: impl Fn(&mut f32) + Sync) {
    let arch = arch();
    if values.len() <= CHUNK {
        arch.dispatch(|| values.iter_mut().for_each(&f));
        return;
    }
    tasks(values.chunks_mut(CHUNK).collect(), |chunk| arch.dispatch(|| chunk.iter_mut().for_each(&f)));
}

/// `f` for every pair of elements; the slices are equally long.
pub(crate) fn zip(a: &mut [f32], b: &[f32], f: impl Fn(&mut f32, f32) + Sync) {
    let arch = arch();
    if a.len() <= CHUNK {
        arch.dispatch(|| a.iter_mut().zip(b).for_each(|(x, &y)| f(x, y)));
        return;
    }
    let pairs = a.chunks_mut(CHUNK).zip(b.chunks(CHUNK)).collect();
    tasks(pairs, |(a, b): (&mut [f32], &[f32])| arch.dispatch(|| a.iter_mut().zip(b).for_each(|(x, &y)| f(x, y))));
}

/// Copies a slice into one of the same length.
pub(crate) fn copy(from: &[f32], to: &mut [f32]) {
    if to.len() <= CHUNK {
        to.copy_from_slice(from);
        return;
    }
    tasks(to.chunks_mut(CHUNK).zip(from.chunks(CHUNK)).collect(), |(to, from)| to.copy_from_slice(from));
}

/// The sum of `f` over fixed chunks of `0..n`, added in order.
pub(crate) fn sum_chunks(n: usize, f: impl Fn(Range<usize>) -> f64 + Sync) -> f64 {
    if n <= CHUNK {
        return f(0..n);
    }
    let parts: Vec<f64> =
        (0..n.div_ceil(CHUNK)).into_par_iter().map(|i| f(i * CHUNK..((i + 1) * CHUNK).min(n))).collect();
    parts.iter().sum()
}

/// The sum of squares in f64.
pub(crate) fn sum_squares(values: &[f32]) -> f64 {
    let arch = arch();
    sum_chunks(values.len(), |range| {
        arch.dispatch(
            #[inline(always)]
            || {
                // Eight running sums: the additions do not wait for one another.
                let mut lanes = [0.0f64; 8];
                let chunks = values[range.clone()].chunks_exact(8);
                let rest: f64 = chunks.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                for chunk in chunks {
                    for (lane, &x) in lanes.iter_mut().zip(chunk) {
                        *lane += f64::from(x) * f64::from(x);
                    }
                }
                lanes.iter().sum::<f64>() + rest
            },
        )
    })
}

/// Runs `f` for every group of `rows` rows of a matrix with `width` columns; groups are disjoint slices of `out`.
pub(crate) fn row_blocks(out: &mut [f32], width: usize, rows: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let block = (rows * width).max(1);
    if out.len() <= block {
        if !out.is_empty() {
            f(0, out);
        }
        return;
    }
    tasks(out.chunks_mut(block).enumerate().collect(), |(i, chunk)| f(i * rows, chunk));
}

/// How many rows of a given width make a chunk worth handing over.
pub(crate) fn rows_per_block(width: usize) -> usize {
    (CHUNK / width.max(1)).clamp(1, 64)
}
