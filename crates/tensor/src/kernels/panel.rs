//! Small products of matrices that are in cache already, for callers that prepare the right-hand one themselves.
//!
//! A general product spends more on a small matrix than the arithmetic takes. Here the right-hand matrix is read in panels
//! of `PANEL * lanes` columns: where it lies if it is cut into whole registers, or from a copy.

use pulp::{Simd, WithSimd};

use crate::instructions::Instructions;
use crate::kernels::product::turned_front;
use crate::tape::Precision;

/// The columns of the widest panel.
pub(crate) const WIDEST: usize = 32;

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

/// Columns as whole registers.
#[inline(always)]
pub(crate) fn whole<S: Simd>(columns: usize) -> usize {
    columns.next_multiple_of(S::F32_LANES)
}

/// A right-hand matrix: panels that start `stride` elements apart, their rows `row` apart.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    data: &'a [f32],
    stride: usize,
    row: usize,
    /// Columns, whole registers; the last panel may have one only.
    width: usize,
}

impl<'a> Panels<'a> {
    /// A matrix of `rows` rows of `width` columns, of which the first is given and each begins `stride` after the one
    /// before: read where it lies if its columns are whole registers, and from a copy in `room` if not.
    #[inline(always)]
    pub(crate) fn rows<S: Simd>(
        data: &'a [f32],
        stride: usize,
        rows: usize,
        width: usize,
        room: &'a mut [f32],
    ) -> Self {
        assert!(rows == 0 || (rows - 1) * stride + width <= data.len(), "a right operand outside its memory");
        let wide = whole::<S>(width);
        if wide == width {
            return Panels { data, stride: columns::<S>(), row: stride, width };
        }
        let room = &mut room[..rows * wide];
        for (target, row) in room.chunks_exact_mut(wide.max(1)).zip(data.chunks(stride)) {
            target[..width].copy_from_slice(&row[..width]);
            target[width..].fill(0.0);
        }
        Panels { data: room, stride: columns::<S>(), row: wide, width: wide }
    }

    /// The transpose of a matrix of `rows` rows of `width` columns, which lies as for [`Panels::rows`], in `room`; what lacks
    /// to whole registers is zero.
    #[inline(always)]
    pub(crate) fn turned<S: Simd>(
        data: &[f32],
        stride: usize,
        rows: usize,
        width: usize,
        room: &'a mut [f32],
    ) -> Panels<'a> {
        let columns = columns::<S>();
        let size = width * columns;
        let room = &mut room[..rows.div_ceil(columns) * size];
        for (first, panel) in (0..rows).step_by(columns).zip(room.chunks_exact_mut(size.max(1))) {
            let count = columns.min(rows - first);
            let data = &data[first * stride..];
            let words = bytemuck::cast_slice_mut(panel);
            let done =
                turned_front(Instructions::current(), (words, columns), data, (stride, width), count, Precision::F32);
            if done == width {
                continue;
            }
            let panel = &mut panel[done * columns..];
            panel.fill(0.0);
            for (column, row) in data.chunks(stride).enumerate().take(count) {
                for (target, x) in panel.chunks_exact_mut(columns).zip(&row[done..width]) {
                    target[column] = *x;
                }
            }
        }
        Panels { data: room, stride: size, row: columns, width: whole::<S>(rows) }
    }
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
/// to the end of the last register.
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
    fn with_simd<S: Simd>(mut self, simd: S) {
        let rows = (0..self.left.rows).step_by(ROWS);
        let panels = 0..self.right.width.div_ceil(columns::<S>());
        if self.left.rows * self.left.depth <= NEAR {
            for panel in panels {
                for row in rows.clone() {
                    self.strip(simd, row, panel);
                }
            }
        } else {
            for row in rows {
                for panel in panels.clone() {
                    self.strip(simd, row, panel);
                }
            }
        }
    }
}

impl<const BY_COLUMNS: bool> Product<'_, BY_COLUMNS> {
    /// A few rows by one panel.
    #[inline(always)]
    fn strip<S: Simd>(&mut self, simd: S, row: usize, panel: usize) {
        if self.right.width - panel * columns::<S>() > S::F32_LANES {
            self.strip_of::<S, PANEL>(simd, row, panel);
        } else {
            self.strip_of::<S, 1>(simd, row, panel);
        }
    }

    /// A few rows by `W` registers.
    #[inline(always)]
    fn strip_of<S: Simd, const W: usize>(&mut self, simd: S, row: usize, panel: usize) {
        match self.left.rows - row {
            1 => self.tile::<S, 1, W>(simd, row, panel),
            2 => self.tile::<S, 2, W>(simd, row, panel),
            3 => self.tile::<S, 3, W>(simd, row, panel),
            4 => self.tile::<S, 4, W>(simd, row, panel),
            5 => self.tile::<S, 5, W>(simd, row, panel),
            _ => self.tile::<S, ROWS, W>(simd, row, panel),
        }
    }

    /// `R` rows by `W` registers.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const W: usize>(&mut self, simd: S, row: usize, panel: usize) {
        let left = self.left;
        let mut sums = [[simd.splat_f32s(0.0); W]; R];
        let right = self.right.data[panel * self.right.stride..].chunks(self.right.row).take(left.depth);
        if BY_COLUMNS {
            for (b, a) in right.zip(left.data[row..].chunks(left.stride)) {
                let (b, a) = (S::as_simd_f32s(&b[..W * S::F32_LANES]).0, &a[..R]);
                for r in 0..R {
                    let x = simd.splat_f32s(a[r]);
                    for c in 0..W {
                        sums[r][c] = simd.mul_add_e_f32s(x, b[c], sums[r][c]);
                    }
                }
            }
        } else {
            let mut rows: [&[f32]; R] = [&[]; R];
            for (r, slot) in rows.iter_mut().enumerate() {
                *slot = &left.data[(row + r) * left.stride..][..left.depth];
            }
            for (l, b) in right.enumerate() {
                let b = S::as_simd_f32s(&b[..W * S::F32_LANES]).0;
                for r in 0..R {
                    let x = simd.splat_f32s(rows[r][l]);
                    for c in 0..W {
                        sums[r][c] = simd.mul_add_e_f32s(x, b[c], sums[r][c]);
                    }
                }
            }
        }
        let out = &mut self.out[row * self.out_stride + panel * columns::<S>()..];
        for (r, sums) in sums.into_iter().enumerate() {
            let (target, _) = S::as_mut_simd_f32s(&mut out[r * self.out_stride..][..W * S::F32_LANES]);
            for (target, sum) in target.iter_mut().zip(sums) {
                *target = if self.add { simd.add_f32s(*target, sum) } else { sum };
            }
        }
    }
}

/// A row-major matrix in memory as the right operand of [`Times`]: `rows` rows of `width` columns, each beginning `stride`
/// after the one before; its transpose if `turned`.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) turned: bool,
}

impl Right<'_> {
    /// How much room its panels may take.
    pub(crate) fn room(&self) -> usize {
        self.rows.next_multiple_of(WIDEST) * self.width.next_multiple_of(WIDEST)
    }
}

/// A product whose right-hand matrix is prepared in `room` first: [`product`] for callers outside a dispatched loop.
pub(crate) struct Times<'a, const BY_COLUMNS: bool> {
    pub(crate) out: &'a mut [f32],
    pub(crate) out_stride: usize,
    pub(crate) add: bool,
    pub(crate) left: Left<'a, BY_COLUMNS>,
    pub(crate) right: Right<'a>,
    pub(crate) room: &'a mut [f32],
}

impl<const BY_COLUMNS: bool> WithSimd for Times<'_, BY_COLUMNS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Times { out, out_stride, add, left, right: Right { data, stride, rows, width, turned }, room } = self;
        let panels = if turned {
            Panels::turned::<S>(data, stride, rows, width, room)
        } else {
            Panels::rows::<S>(data, stride, rows, width, room)
        };
        product(simd, out, out_stride, add, left, panels);
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
            let straight = Panels::rows::<S>(&b, width, depth, width, &mut first);
            let turned = Panels::turned::<S>(&b_across, depth, width, depth, &mut second);
            let mut out = vec![1.0; rows * room];
            let left = Left::<false> { data: &a, stride: depth, rows, depth };
            product(simd, &mut out, room, true, left, straight);
            let mut turned_out = vec![f32::NAN; rows * room];
            let left = Left::<true> { data: &a_across, stride: rows, rows, depth };
            product(simd, &mut turned_out, room, false, left, turned);
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
