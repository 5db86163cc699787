//! Small products of matrices that are in cache already, for callers that pack the right-hand one themselves.
//!
//! A general product spends more on a small matrix than the arithmetic takes. Here the right-hand matrix lies in panels
//! of `PANEL * lanes` columns, each with its rows one after the other, so that the inner loop reads memory in order.

use pulp::{Simd, WithSimd};

use crate::instructions::Instructions;
#[cfg(target_arch = "x86_64")]
use crate::kernels::product::turned_panel;
use crate::tape::Precision;

/// The columns of the widest panel.
pub(crate) const WIDEST: usize = 32;
/// What stands for rows that lack to a whole panel.
static NOTHING: [f32; 256] = [0.0; 256];

/// Vectors in a row of a panel.
const PANEL: usize = 2;
/// Rows of the left-hand matrix that go together: with two vectors each, twelve sums are under way at once.
const ROWS: usize = 6;
/// A left-hand matrix of so many elements stays in the first-level cache while the panels pass by.
const NEAR: usize = 4096;

/// How many columns a panel has.
#[inline(always)]
pub(crate) fn columns<S: Simd>() -> usize {
    PANEL * S::F32_LANES
}

/// A right-hand matrix: panels that start `stride` elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) count: usize,
}

/// Packs a matrix whose rows are given; what lacks to a whole number of panels is zero.
#[inline(always)]
pub(crate) fn pack<'a, 'r, S: Simd>(
    out: &'a mut [f32],
    rows: usize,
    width: usize,
    row: impl Fn(usize) -> &'r [f32],
) -> Panels<'a> {
    let columns = columns::<S>();
    let count = width.div_ceil(columns);
    let stride = rows * columns;
    let out = &mut out[..count * stride];
    for i in 0..rows {
        for (panel, part) in row(i)[..width].chunks(columns).enumerate() {
            let target = &mut out[panel * stride + i * columns..][..columns];
            if part.len() == columns {
                target.copy_from_slice(part);
            } else {
                target[..part.len()].copy_from_slice(part);
                target[part.len()..].fill(0.0);
            }
        }
    }
    Panels { data: out, stride, count }
}

/// Packs the transpose of a matrix whose rows are given.
#[inline(always)]
pub(crate) fn pack_transposed<'a, 'r, S: Simd>(
    out: &'a mut [f32],
    rows: usize,
    width: usize,
    row: impl Fn(usize) -> &'r [f32],
) -> Panels<'a> {
    let columns = columns::<S>();
    let count = rows.div_ceil(columns);
    let stride = width * columns;
    let out = &mut out[..count * stride];
    if let Some(last) = out.len().checked_sub(stride) {
        out[last..].fill(0.0);
    }
    for (i, panel) in (0..rows).step_by(columns.max(1)).zip(out.chunks_exact_mut(stride.max(1))) {
        let done = turn_panel(panel, columns, width, rows - i, |column| row(i + column));
        for column in 0..columns.min(rows - i) {
            let source = &row(i + column)[done..width];
            for (target, x) in panel[done * columns..].chunks_exact_mut(columns).zip(source) {
                target[column] = *x;
            }
        }
    }
    Panels { data: out, stride, count }
}

/// The front of a panel of a transpose by the processor's own way to turn a matrix, if it has one and the panel is of the
/// width that it is made for; returns the depth that is done.
#[inline(always)]
fn turn_panel<'r>(
    panel: &mut [f32],
    columns: usize,
    width: usize,
    rows: usize,
    row: impl Fn(usize) -> &'r [f32],
) -> usize {
    #[cfg(target_arch = "x86_64")]
    if columns == WIDEST && width <= NOTHING.len() && Instructions::current() >= Instructions::Avx512 {
        let columns = std::array::from_fn(|i| if i < rows { &row(i)[..width] } else { &NOTHING[..width] });
        // SAFETY: AVX-512 is here.
        return unsafe { turned_panel(bytemuck::cast_slice_mut(panel), columns, Precision::F32) };
    }
    0
}

/// The left-hand matrix: `rows x depth`, row-major or, with `BY_COLUMNS`, the transpose of a row-major one.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a, const BY_COLUMNS: bool> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) depth: usize,
}

/// `out = left right`, or `out += left right` with `add`. The rows of `out` are `out_stride` apart and are written up
/// to the end of the last panel.
#[inline(always)]
pub(crate) fn product<S: Simd, const BY_COLUMNS: bool>(
    simd: S,
    out: &mut [f32],
    out_stride: usize,
    add: bool,
    left: Left<BY_COLUMNS>,
    right: Panels,
) {
    simd.vectorize(Product { out, out_stride, add, left, right });
}

/// A function of its own for every processor, so that the tiles are compiled once and not at every call.
struct Product<'a, const BY_COLUMNS: bool> {
    out: &'a mut [f32],
    out_stride: usize,
    add: bool,
    left: Left<'a, BY_COLUMNS>,
    right: Panels<'a>,
}

impl<const BY_COLUMNS: bool> WithSimd for Product<'_, BY_COLUMNS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Product { out, out_stride, add, left, right } = self;
        let rows = (0..left.rows).step_by(ROWS);
        if left.rows * left.depth <= NEAR {
            for panel in 0..right.count {
                for row in rows.clone() {
                    strip(simd, out, out_stride, add, left, right, row, panel);
                }
            }
        } else {
            for row in rows {
                for panel in 0..right.count {
                    strip(simd, out, out_stride, add, left, right, row, panel);
                }
            }
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one tile of a product, called from two loop orders")]
#[inline(always)]
fn strip<S: Simd, const BY_COLUMNS: bool>(
    simd: S,
    out: &mut [f32],
    stride: usize,
    add: bool,
    left: Left<BY_COLUMNS>,
    right: Panels,
    row: usize,
    panel: usize,
) {
    let out = &mut out[row * stride + panel * columns::<S>()..];
    let (panel, _) = S::as_simd_f32s(&right.data[panel * right.stride..][..left.depth * columns::<S>()]);
    match left.rows - row {
        1 => tile::<S, BY_COLUMNS, 1>(simd, out, stride, add, left, row, panel),
        2 => tile::<S, BY_COLUMNS, 2>(simd, out, stride, add, left, row, panel),
        3 => tile::<S, BY_COLUMNS, 3>(simd, out, stride, add, left, row, panel),
        4 => tile::<S, BY_COLUMNS, 4>(simd, out, stride, add, left, row, panel),
        5 => tile::<S, BY_COLUMNS, 5>(simd, out, stride, add, left, row, panel),
        _ => tile::<S, BY_COLUMNS, ROWS>(simd, out, stride, add, left, row, panel),
    }
}

/// `R` rows and one panel of columns.
#[inline(always)]
fn tile<S: Simd, const BY_COLUMNS: bool, const R: usize>(
    simd: S,
    out: &mut [f32],
    out_stride: usize,
    add: bool,
    left: Left<BY_COLUMNS>,
    row: usize,
    panel: &[S::f32s],
) {
    let mut sums = [[simd.splat_f32s(0.0); PANEL]; R];
    let steps = panel.chunks_exact(PANEL);
    if BY_COLUMNS {
        for (l, b) in steps.enumerate() {
            let a = &left.data[l * left.stride + row..][..R];
            for r in 0..R {
                let x = simd.splat_f32s(a[r]);
                for c in 0..PANEL {
                    sums[r][c] = simd.mul_add_e_f32s(x, b[c], sums[r][c]);
                }
            }
        }
    } else {
        let mut rows: [&[f32]; R] = [&[]; R];
        for (r, slot) in rows.iter_mut().enumerate() {
            *slot = &left.data[(row + r) * left.stride..][..steps.len()];
        }
        for (l, b) in steps.enumerate() {
            for r in 0..R {
                let x = simd.splat_f32s(rows[r][l]);
                for c in 0..PANEL {
                    sums[r][c] = simd.mul_add_e_f32s(x, b[c], sums[r][c]);
                }
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        let (target, _) = S::as_mut_simd_f32s(&mut out[r * out_stride..][..columns::<S>()]);
        for (target, sum) in target.iter_mut().zip(sums) {
            *target = if add { simd.add_f32s(*target, sum) } else { sum };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::noise;

    struct Products {
        rows: usize,
        depth: usize,
        width: usize,
    }

    impl WithSimd for Products {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Products { rows, depth, width } = self;
            let (a, b) = (noise(rows * depth, "a"), noise(depth * width, "b"));
            let across = |matrix: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                (0..rows * columns).map(|i| matrix[i % rows * columns + i / rows]).collect()
            };
            let (a_across, b_across) = (across(&a, rows, depth), across(&b, depth, width));
            let room = width.next_multiple_of(columns::<S>());
            let (mut first, mut second) = (vec![f32::NAN; room * depth], vec![f32::NAN; room * depth]);
            let straight = pack::<S>(&mut first, depth, width, |i| &b[i * width..]);
            let turned = pack_transposed::<S>(&mut second, width, depth, |i| &b_across[i * depth..]);
            assert!(straight.data == turned.data, "the two ways to pack differ");
            let mut out = vec![1.0; rows * room];
            let left = Left::<false> { data: &a, stride: depth, rows, depth };
            product(simd, &mut out, room, true, left, straight);
            let mut turned_out = vec![f32::NAN; rows * room];
            let left = Left::<true> { data: &a_across, stride: rows, rows, depth };
            product(simd, &mut turned_out, room, false, left, straight);
            for i in 0..rows {
                for j in 0..width {
                    let exact: f64 =
                        (0..depth).map(|l| f64::from(a[i * depth + l]) * f64::from(b[l * width + j])).sum();
                    for found in [out[i * room + j] - 1.0, turned_out[i * room + j]] {
                        assert!((f64::from(found) - exact).abs() < 1e-4, "{rows}x{depth}x{width} at {i},{j}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_size_of_a_tile_against_f64() {
        for (rows, depth, width) in
            [(1, 1, 1), (2, 3, 5), (3, 32, 32), (4, 7, 17), (5, 2, 64), (64, 100, 33), (67, 9, 48)]
        {
            pulp::Arch::new().dispatch(Products { rows, depth, width });
        }
    }
}
