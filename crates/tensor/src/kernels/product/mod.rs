//! Matrix products over packed panels, in f32 and in bf16, by the best instructions that the processor has.
//!
//! The right operand is packed into panels of a few columns ([`Panels`]). The left one is read where it lies (f32), rounded to
//! bf16 row by row ([`Half`]), or, when it is a transpose, read from panels of its own. Every output is a sum over the inner
//! extent in one order that depends on the extents alone, so the result has the same bits for any number of threads.

mod activated;
#[cfg(target_arch = "x86_64")]
mod amx;
mod mat;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pack_avx2;
#[cfg(target_arch = "x86_64")]
mod pack_avx512;
mod portable;
mod prepare;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

use rayon::current_num_threads;

pub(crate) use activated::{Narrow, product_and, product_narrow};
#[cfg(target_arch = "x86_64")]
pub(crate) use amx::{burst as amx_burst, is_here as amx_is_here};
pub(crate) use mat::Mat;
pub(crate) use pack::turned_front;
pub(crate) use prepare::{Pass, prepare};

use crate::device::{Buffer, Device};
use crate::instructions::Instructions;
use crate::kernels::parallel;
use crate::tape::Precision;

/// Columns of the widest panel: two registers of AVX-512.
const WIDEST: usize = 32;
/// Columns of the others: two registers of AVX2, and as much for the compiler to make of.
const NARROW: usize = 16;
/// The most words of inner extent that are summed before the outputs are touched, so that a block of either operand stays in
/// cache. An extent is cut into equal parts.
const DEPTH: usize = 512;
/// Bytes of the right operand that stay in the second-level cache while the left one passes by.
const NEAR: usize = 1 << 19;
/// Chunks of rows that all the columns pass by before the next ones come.
const CHUNKS: usize = 16;
/// Rows of the left operand handed to a thread at a time.
const ROWS: usize = 64;
/// Below this many multiply-adds one thread is faster than two.
const PARALLEL: usize = 1 << 18;

/// Columns of a panel: as many as a kernel has sums for. Read by halves, a wide panel would lie in every second line of the
/// cache, and so in half of its sets.
fn panel_width(isa: Instructions) -> usize {
    match isa {
        Instructions::Portable | Instructions::Avx2 => NARROW,
        Instructions::Avx512 | Instructions::Avx512Bf16 | Instructions::Amx => WIDEST,
    }
}

/// A right operand `[inner, cols]` in panels of [`panel_width`] columns: for each panel, row by row, as many words. A word is
/// one f32, or two bf16 that are neighbours along the inner extent. Padded with zeros.
pub(crate) struct Panels {
    words: Buffer,
    precision: Precision,
    /// Columns of a panel.
    width: usize,
    inner: usize,
    cols: usize,
    /// Words of inner extent.
    depth: usize,
}

impl Panels {
    /// Room for a matrix of `inner` rows and `cols` columns.
    fn new(device: &Device, isa: Instructions, precision: Precision, (inner, cols): (usize, usize)) -> Panels {
        let (width, depth) = (panel_width(isa), words(inner, precision));
        let words = device.take(cols.next_multiple_of(width) * depth);
        Panels { words, precision, width, inner, cols, depth }
    }

    /// Packs a matrix.
    pub(crate) fn pack(device: &Device, b: Mat, precision: Precision) -> Panels {
        Panels::pack_for(device, Instructions::current(), b, precision)
    }

    fn pack_for(device: &Device, isa: Instructions, b: Mat, precision: Precision) -> Panels {
        assert!(b.fits(), "a matrix outside its memory");
        let mut panels = Panels::new(device, isa, precision, (b.rows, b.cols));
        let width = panels.width;
        let fill = |(i, panel): (usize, &mut [f32])| {
            let panel = bytemuck::cast_slice_mut(panel);
            match width {
                WIDEST => pack::panel::<WIDEST>(isa, panel, b, i * width, precision),
                _ => pack::panel::<NARROW>(isa, panel, b, i * width, precision),
            }
        };
        let parts = panels.words.slice_mut().chunks_exact_mut((width * panels.depth).max(1)).enumerate();
        if b.rows * b.cols < 1 << 14 {
            parts.for_each(fill);
        } else {
            parallel::tasks(parts.collect(), fill);
        }
        panels
    }

    /// Panels that the columns make.
    fn count(&self) -> usize {
        self.cols.div_ceil(self.width)
    }

    /// The first column of a panel, and how many it has.
    fn columns(&self, panel: usize) -> (usize, usize) {
        let first = panel * self.width;
        (first, self.width.min(self.cols - first))
    }

    /// What its words are made of.
    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// Multiplications and additions of a product.
    fn operations(&self, a: Left) -> u64 {
        let (rows, inner, _) = a.extents();
        2 * (rows * inner * self.cols) as u64
    }

    fn words(&self) -> &[u32] {
        bytemuck::cast_slice(self.words.slice())
    }
}

/// Words of an inner extent.
fn words(inner: usize, precision: Precision) -> usize {
    match precision {
        Precision::F32 => inner,
        Precision::Bf16 => inner.div_ceil(2),
    }
}

/// A left operand rounded to bf16: row-major, the inner extent padded with zeros to whole words.
pub(crate) struct Half {
    words: Buffer,
    rows: usize,
    inner: usize,
}

impl Half {
    /// Rounds a matrix whose rows are contiguous (to nearest, ties to even).
    pub(crate) fn round(device: &Device, a: Mat) -> Half {
        assert!(a.fits() && a.col_stride == 1, "a left operand is rounded along its rows");
        let depth = words(a.cols, Precision::Bf16);
        let mut words = device.take(a.rows * depth);
        let fill = |(i, block): (usize, &mut [f32])| {
            pack::half_rows(bytemuck::cast_slice_mut(block), a, i * ROWS);
        };
        if depth > 0 {
            parallel::tasks(words.slice_mut().chunks_mut(ROWS * depth).enumerate().collect(), fill);
        }
        Half { words, rows: a.rows, inner: a.cols }
    }

    fn words(&self) -> &[u32] {
        bytemuck::cast_slice(self.words.slice())
    }

    /// What was packed as a right operand, as the left operand that its transpose is.
    #[cfg(target_arch = "x86_64")]
    fn turn(device: &Device, a: &Panels) -> Half {
        assert!(a.precision == Precision::Bf16 && a.width == WIDEST, "a rounded operand in wide panels");
        let mut words = device.take(a.cols * a.depth);
        if a.depth > 0 {
            let rows = words.slice_mut().chunks_mut(WIDEST * a.depth);
            let parts = a.words().chunks_exact(WIDEST * a.depth).zip(rows);
            parallel::tasks(parts.collect(), |(panel, rows)| {
                // SAFETY: only with AVX-512 are panels so wide.
                unsafe { amx::turn(panel, a.depth, bytemuck::cast_slice_mut(rows)) };
            });
        }
        Half { words, rows: a.cols, inner: a.inner }
    }

    /// The rounded elements of some rows, as f32.
    pub(crate) fn widen(&self, first: usize, out: &mut [f32]) {
        let depth = words(self.inner, Precision::Bf16);
        for (row, out) in self.words().chunks_exact(depth.max(1)).skip(first).zip(out.chunks_mut(self.inner.max(1))) {
            let halves: &[u16] = bytemuck::cast_slice(row);
            out.iter_mut().zip(halves).for_each(|(x, &half)| *x = f32::from_bits(u32::from(half) << 16));
        }
    }
}

/// A left operand.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// f32 where it lies, its rows contiguous.
    F32(Mat<'a>),
    /// Rounded.
    Bf16(&'a Half),
    /// The transpose of a matrix that was packed as a right operand would be.
    Turned(&'a Panels),
}

impl Left<'_> {
    fn extents(&self) -> (usize, usize, Precision) {
        match self {
            Left::F32(a) => (a.rows, a.cols, Precision::F32),
            Left::Bf16(a) => (a.rows, a.inner, Precision::Bf16),
            Left::Turned(a) => (a.cols, a.inner, a.precision),
        }
    }
}

/// What an output starts from.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Nothing: the output is overwritten.
    Zero,
    /// What stands there.
    Sum,
    /// A row that every row starts from.
    Bias(&'a [f32]),
}

impl<'a> Start<'a> {
    /// What `cols` columns from `first` on start from when the inner extent is summed from `from` on.
    fn of(self, (first, cols): (usize, usize), from: usize) -> Start<'a> {
        match self {
            _ if from > 0 => Start::Sum,
            Start::Bias(bias) => Start::Bias(&bias[first..][..cols]),
            other => other,
        }
    }

    /// A place that holds a sum already, or nothing of worth.
    pub(crate) fn sum_if(holds_sum: bool) -> Start<'static> {
        if holds_sum { Start::Sum } else { Start::Zero }
    }
}

/// A block of the left operand, as a kernel reads it: the word of row `r` at depth `l` is `words[r * row + l * step]`.
#[derive(Clone, Copy)]
struct Block {
    words: *const u32,
    row: usize,
    step: usize,
    rows: usize,
}

/// A block of outputs: `cols` of each row, rows `stride` apart.
#[derive(Clone, Copy)]
struct Out<'a> {
    data: *mut f32,
    stride: usize,
    cols: usize,
    start: Start<'a>,
}

#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: `product` hands every thread a block of outputs of its own.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// `out = start + a b` in the precision asked for: operands of bf16 are rounded here, and multiplied and summed in f32.
pub(crate) fn multiply(device: &Device, precision: Precision, out: &mut [f32], start: Start, a: Mat, b: Mat) {
    multiply_packed(device, out, start, a, &Panels::pack(device, b, precision));
}

/// [`multiply`] by an operand that is packed already, in its precision.
pub(crate) fn multiply_packed(device: &Device, out: &mut [f32], start: Start, a: Mat, b: &Panels) {
    if a.col_stride != 1 {
        product(device, out, start, Left::Turned(&Panels::pack(device, a.t(), b.precision)), b);
    } else if b.precision == Precision::Bf16 {
        product(device, out, start, Left::Bf16(&Half::round(device, a)), b);
    } else {
        product(device, out, start, Left::F32(a), b);
    }
}

/// `out = start + a b`; `out` is `[a.rows, b.cols]`, row-major and contiguous.
pub(crate) fn product(device: &Device, out: &mut [f32], start: Start, a: Left, b: &Panels) {
    device.count(b.operations(a));
    product_by(device, Instructions::current(), out, start, a, b);
}

fn product_by(device: &Device, isa: Instructions, out: &mut [f32], start: Start, a: Left, b: &Panels) {
    check(isa, a, b, start);
    let (rows, _, _) = a.extents();
    assert_eq!(out.len(), rows * b.cols, "outputs of a product");
    if out.is_empty() {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if let (Instructions::Amx, Left::Turned(panels), Precision::Bf16) = (isa, a, b.precision) {
        return product_by(device, isa, out, start, Left::Bf16(&Half::turn(device, panels)), b);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = device;
    let shared = Shared(out.as_mut_ptr());
    // Part by part over all of the output: of a deep operand few columns would be near at a time, and the other one would be
    // fetched from memory again for every few of them.
    for part in parts_of(b.depth) {
        in_pieces(a, b, part.len(), |rows, panels| {
            // The closure takes the whole wrapper along, which threads may share, and not the pointer in it.
            let whole = shared;
            for panel in panels {
                let (col, cols) = b.columns(panel);
                // SAFETY: the rows begin inside the output, whose extents were checked, and no other task has them and these
                // columns; `isa` is here.
                unsafe {
                    let data = whole.0.add(rows.start * b.cols + col);
                    let out = Out { data, stride: b.cols, cols, start: start.of((col, cols), part.start) };
                    rows_by_panel(isa, a, b, rows.clone(), panel, part.clone(), out);
                }
            }
        });
    }
}

/// Fails where the operands do not fit.
fn check(isa: Instructions, a: Left, b: &Panels, start: Start) {
    let (_, inner, precision) = a.extents();
    assert!(inner == b.inner && precision == b.precision && b.width == panel_width(isa), "operands of a product");
    if let Left::F32(a) = a {
        assert!(a.fits() && a.col_stride == 1, "a matrix outside its memory");
    }
    if let Start::Bias(bias) = start {
        assert_eq!(bias.len(), b.cols, "bias of a product");
    }
}

/// Cuts a product over `depth` words of inner extent into chunks of rows by ranges of panels, and calls `task` for each.
///
/// A thread passes its own columns of the right operand by all the rows, no more of them at a time than its cache holds. They
/// are the columns that it has of the next products too, and whose heads it has in attention.
fn in_pieces(a: Left, b: &Panels, depth: usize, task: impl Fn(Range<usize>, Range<usize>) + Sync) {
    let (rows, inner, _) = a.extents();
    let panels = b.count();
    let chunks = rows.div_ceil(ROWS);
    let threads = if rows * b.cols * inner >= PARALLEL { current_num_threads() } else { 1 };
    let size = size_of::<u32>() * panels * b.width * depth;
    // And enough pieces that no thread waits long for the last one.
    let wanted = if threads > 1 { (8 * threads).div_ceil(chunks) } else { 1 };
    let groups = size.div_ceil(NEAR).max(wanted).next_multiple_of(threads).clamp(1, panels);
    // Rows are few enough at a time that the left operand is not fetched from memory again for every group of columns.
    let together = chunks.div_ceil(chunks.div_ceil(CHUNKS)).max(1);
    let mut pieces = Vec::with_capacity(groups * chunks);
    for part in 0..threads {
        for first in (0..chunks).step_by(together) {
            for group in part * groups / threads..(part + 1) * groups / threads {
                pieces.extend((first..chunks.min(first + together)).map(|chunk| (group, chunk)));
            }
        }
    }
    let piece = |i: usize| {
        let (group, chunk) = pieces[i];
        task(chunk * ROWS..((chunk + 1) * ROWS).min(rows), group * panels / groups..(group + 1) * panels / groups);
    };
    if threads > 1 {
        parallel::counted(pieces.len(), piece);
    } else {
        (0..pieces.len()).for_each(piece);
    }
}

/// The parts of an inner extent that are summed before the outputs are touched; an empty one is a single part.
fn parts_of(depth: usize) -> impl Iterator<Item = Range<usize>> {
    let most = depth.max(1).div_ceil(depth.max(1).div_ceil(DEPTH));
    (0..depth.max(1)).step_by(most).map(move |from| from..(from + most).min(depth))
}

/// A chunk of rows by a panel, over a part of the inner extent.
///
/// # Safety
/// The rows, the panel and the part lie in `a` and `b`, whose extents and precisions fit, `out` covers as many rows, and
/// `isa` is here.
unsafe fn rows_by_panel(
    isa: Instructions,
    a: Left,
    b: &Panels,
    rows: Range<usize>,
    panel: usize,
    part: Range<usize>,
    out: Out,
) {
    let right = &b.words()[(panel * b.depth + part.start) * b.width..][..part.len() * b.width];
    // A transpose comes in panels of its own, so its rows go by the panel.
    let together = if let Left::Turned(a) = a { a.width } else { ROWS };
    for row in rows.clone().step_by(together) {
        let (words, row_step, step) = match a {
            Left::F32(a) => (bytemuck::cast_slice(&a.data[row * a.row_stride + part.start..]), a.row_stride, 1),
            Left::Bf16(a) => (&a.words()[row * b.depth + part.start..], b.depth, 1),
            Left::Turned(a) => (&a.words()[(row / a.width * a.depth + part.start) * a.width..], 1, a.width),
        };
        let count = together.min(rows.end - row);
        let block = Block { words: words.as_ptr(), row: row_step, step, rows: count };
        // SAFETY: `block` covers `count` rows of the part's words (panels are padded to whole ones), `right` is as many rows
        // of a panel as wide as `isa` wants it, and `out` covers the rows.
        unsafe {
            let out = Out { data: out.data.add((row - rows.start) * out.stride), ..out };
            match isa {
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 | Instructions::Avx512 | Instructions::Avx512Bf16 | Instructions::Amx => {
                    x86::block(isa, b.precision, block, right, out);
                }
                _ => portable::block(b.precision, block, right, out),
            }
        }
    }
}

/// Both values of a word.
#[inline(always)]
fn both(word: u32) -> [f32; 2] {
    [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)]
}

/// Writes sums to a row of outputs.
#[inline(always)]
fn finish(row: &mut [f32], sums: &[f32], start: Start) {
    match start {
        Start::Zero => row.copy_from_slice(&sums[..row.len()]),
        Start::Sum => row.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
        Start::Bias(bias) => row.iter_mut().zip(sums).zip(bias).for_each(|((out, sum), bias)| *out = bias + sum),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use luthier_random::Rng;

    fn noise(n: usize, stream: &str) -> Vec<f32> {
        let rng = Rng::at(1, stream, 0, 0);
        (0..n as u64).map(|i| rng.normal(i) as f32).collect()
    }

    fn rounded(x: f32, precision: Precision) -> f64 {
        f64::from(if precision == Precision::Bf16 { half::bf16::from_f32(x).to_f32() } else { x })
    }

    #[test]
    fn against_f64_in_every_layout_by_every_instruction_set_and_for_any_number_of_threads() {
        let device = Device::cpu();
        let extents =
            [(1, 1, 1), (3, 5, 7), (65, 129, 300), (450, 384, 384), (33, 77, 1601), (12, 32, 0), (23, 55, 77)];
        for (m, n, k) in extents {
            for (left, right) in [(false, false), (false, true), (true, false), (true, true)] {
                for precision in [Precision::F32, Precision::Bf16] {
                    let (a, b, bias) = (noise(m * k, "a"), noise(n * k, "b"), noise(n, "bias"));
                    let a = if left { Mat::new(&a, k, m).t() } else { Mat::new(&a, m, k) };
                    let b = if right { Mat::new(&b, n, k).t() } else { Mat::new(&b, k, n) };
                    let at =
                        |x: Mat, r: usize, c: usize| rounded(x.data[r * x.row_stride + c * x.col_stride], precision);
                    for isa in Instructions::available() {
                        let run = |threads| {
                            let mut out = vec![1.0f32; m * n];
                            crate::with_threads(threads, || {
                                let panels = Panels::pack_for(&device, isa, b, precision);
                                let (half, turned);
                                let left = match precision {
                                    _ if left => {
                                        turned = Panels::pack_for(&device, isa, a.t(), precision);
                                        Left::Turned(&turned)
                                    }
                                    Precision::F32 => Left::F32(a),
                                    Precision::Bf16 => {
                                        half = Half::round(&device, a);
                                        Left::Bf16(&half)
                                    }
                                };
                                product_by(&device, isa, &mut out, Start::Sum, left, &panels);
                                product_by(&device, isa, &mut out, Start::Sum, left, &panels);
                                let sum = out.clone();
                                product_by(&device, isa, &mut out, Start::Bias(&bias), left, &panels);
                                (sum, out)
                            })
                        };
                        let (sum, biased) = run(2);
                        for i in (0..m).step_by(1 + m / 13) {
                            for j in (0..n).step_by(1 + n / 17) {
                                let exact: f64 = (0..k).map(|l| at(a, i, l) * at(b, l, j)).sum();
                                let place = format!("{isa:?} {precision:?} {m}x{n}x{k} at {i},{j}");
                                let error = (f64::from(sum[i * n + j]) - (1.0 + 2.0 * exact)).abs();
                                assert!(error < 3e-6 * (1.0 + (k as f64).sqrt()) * 4.0, "{place}: {error}");
                                let error = (f64::from(biased[i * n + j]) - (f64::from(bias[j]) + exact)).abs();
                                assert!(error < 3e-6 * (1.0 + (k as f64).sqrt()) * 2.0, "{place}, bias: {error}");
                            }
                        }
                        for threads in [1, 3] {
                            assert!(run(threads) == (sum.clone(), biased.clone()), "{threads} threads give other bits");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn rounding_is_that_of_bf16() {
        let device = Device::cpu();
        let mut values = noise(64, "x");
        values.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40, 1.003_906_2, 1.011_718_8]);
        let half = Half::round(&device, Mat::new(&values, 1, values.len()));
        let halves: &[u16] = bytemuck::cast_slice(half.words.slice());
        for (found, x) in halves.iter().zip(&values) {
            assert_eq!(*found, half::bf16::from_f32(*x).to_bits(), "{x}");
        }
        for isa in Instructions::available() {
            let columns = values.repeat(panel_width(isa));
            let turned = Mat::new(&columns, panel_width(isa), values.len()).t();
            let panels = Panels::pack_for(&device, isa, turned, Precision::Bf16);
            for (words, pair) in panels.words().chunks_exact(panel_width(isa)).zip(values.chunks_exact(2)) {
                let [low, high] = [pair[0], pair[1]].map(|x| u32::from(half::bf16::from_f32(x).to_bits()));
                assert!(words.iter().all(|&word| word == low | high << 16), "{isa:?}: {pair:?}");
            }
            let nan = [f32::NAN; 32 * WIDEST];
            let panels = Panels::pack_for(&device, isa, Mat::new(&nan, panel_width(isa), 32).t(), Precision::Bf16);
            let halves: &[u16] = bytemuck::cast_slice(panels.words());
            assert!(halves.iter().all(|&x| half::bf16::from_bits(x).is_nan()), "{isa:?}");
        }
        let half = Half::round(&device, Mat::new(&[f32::NAN, -f32::NAN], 1, 2));
        assert!(
            bytemuck::cast_slice::<f32, u16>(half.words.slice())[..2]
                .iter()
                .all(|&x| half::bf16::from_bits(x).is_nan())
        );
    }
}
