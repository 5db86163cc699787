//! A product and a function of it: a tile of outputs stays in the first-level cache until the function is applied.
//!
//! It leaves the cache in f32, or, where only products in bf16 are to read it, rounded: in the order of a left operand, and,
//! where a weight's gradient will ask for it, of a right one.

use std::ops::Range;

use super::prepare::Strip;
use super::{
    Half, Left, Out, Panels, ROWS, Shared, Start, WIDEST, check, in_pieces, pack, parts_of, rows_by_panel, words,
};
use crate::device::Device;
use crate::instructions::Instructions;
use crate::kernels::math::vectorised;
use crate::kernels::tiles::Tile;
use crate::ops::activation::Activation;
use crate::tape::Precision;

/// Outputs of some rows and one panel.
#[repr(align(64))]
struct Outputs([f32; ROWS * WIDEST]);

/// Calls `finish` with some rows, a panel, the slopes there if they are wanted, and the function's values.
fn activated(
    device: &Device,
    (activation, slopes): (Activation, bool),
    start: Start,
    a: Left,
    b: &Panels,
    finish: impl Fn(Range<usize>, usize, &[f32], &[f32]) + Sync,
) {
    assert!(!matches!(a, Left::Turned(_)), "a function is applied to products whose left operand lies in rows");
    device.count(b.operations(a));
    let isa = Instructions::current();
    in_pieces(a, b, b.depth, |rows, panels| {
        let (mut before, mut after) = (Outputs([0.0; ROWS * WIDEST]), Outputs([0.0; ROWS * WIDEST]));
        for panel in panels {
            let (col, cols) = b.columns(panel);
            for part in parts_of(b.depth) {
                let start = start.of((col, cols), part.start);
                let out = Out { data: before.0.as_mut_ptr(), stride: b.width, cols, start };
                // SAFETY: the callers have checked the extents, `before` has room for a chunk of rows, and `isa` is here.
                unsafe { rows_by_panel(isa, a, b, rows.clone(), panel, part, out) };
            }
            let (before, after) = (&mut before.0[..rows.len() * b.width], &mut after.0[..rows.len() * b.width]);
            vectorised(
                #[inline(always)]
                || activation.apply(before, after, slopes),
            );
            finish(rows.clone(), panel, before, after);
        }
    });
}

/// `out = f(start + a b)` and, if they are wanted, `f'(start + a b)`; all are `[a.rows, b.cols]`, row-major and contiguous.
pub(crate) fn product_and(
    device: &Device,
    activation: Activation,
    out: &mut [f32],
    slopes: Option<&mut [f32]>,
    start: Start,
    a: Left,
    b: &Panels,
) {
    check(Instructions::current(), a, b, start);
    let (rows, _, _) = a.extents();
    assert!(out.len() == rows * b.cols && slopes.as_ref().is_none_or(|s| s.len() == out.len()), "outputs of a product");
    if out.is_empty() {
        return;
    }
    let (out, slopes) = (Shared(out.as_mut_ptr()), slopes.map(|slopes| Shared(slopes.as_mut_ptr())));
    activated(device, (activation, slopes.is_some()), start, a, b, |rows, panel, before, after| {
        let (col, cols) = b.columns(panel);
        let pairs = before.chunks_exact(b.width).zip(after.chunks_exact(b.width));
        for (row, (before, after)) in rows.zip(pairs) {
            // SAFETY: the row's columns lie inside `rows x b.cols` elements, and no other task has them.
            let place =
                |matrix: Shared| unsafe { std::slice::from_raw_parts_mut(matrix.0.add(row * b.cols + col), cols) };
            pack::copy(place(out), &after[..cols]);
            if let Some(slopes) = slopes {
                pack::copy(place(slopes), &before[..cols]);
            }
        }
    });
}

/// What [`product_narrow`] makes.
pub(crate) struct Narrow {
    /// `f(start + a b)`.
    pub(crate) half: Half,
    /// The same as a right operand.
    pub(crate) panels: Option<Panels>,
    /// `f'(start + a b)`.
    pub(crate) slopes: Option<Half>,
}

/// `f(start + a b)` in bf16, with its slopes and in panels as wanted; nothing where the columns are no whole panels.
pub(crate) fn product_narrow(
    device: &Device,
    activation: Activation,
    (slopes, panels): (bool, bool),
    start: Start,
    a: Left,
    b: &Panels,
) -> Option<Narrow> {
    check(Instructions::current(), a, b, start);
    let (rows, _, _) = a.extents();
    if !b.cols.is_multiple_of(b.width) || b.cols == 0 || rows == 0 {
        return None;
    }
    let width = words(b.cols, Precision::Bf16);
    let new = || Half { words: device.take(rows * width), rows, inner: b.cols };
    let (mut half, mut slopes) = (new(), slopes.then(new));
    let isa = Instructions::current();
    let mut panels = panels.then(|| Panels::new(device, isa, Precision::Bf16, (rows, b.cols)));
    let half_place = Shared(half.words.slice_mut().as_mut_ptr());
    let slopes_place = slopes.as_mut().map(|slopes| Shared(slopes.words.slice_mut().as_mut_ptr()));
    let panels_place = panels.as_mut().map(|panels| (Shared(panels.words.slice_mut().as_mut_ptr()), panels.depth));
    activated(device, (activation, slopes_place.is_some()), start, a, b, |rows, panel, before, after| {
        let panel_part = panels_place.map(|(place, depth)| {
            // SAFETY: chunks begin at even rows, so the words of this one in its panel belong to this task alone.
            unsafe {
                let first = place.0.add((panel * depth + rows.start / 2) * b.width);
                std::slice::from_raw_parts_mut(first, rows.len().div_ceil(2) * b.width)
            }
        });
        let round = |x, matrix: Shared, into: Option<&mut [f32]>| {
            // SAFETY: rows and columns lie inside the matrix, whose rows are `width` words, and no other task has them.
            let half = unsafe {
                let first = matrix.0.add(rows.start * width + panel * b.width / 2);
                Some(Tile::new(first, width, rows.len(), b.width / 2))
            };
            let (factors, sums, rows) = (None, None, rows.len());
            let strip = Strip { x, factors, width: b.width, rows, panel: into, half, sums };
            pack::round_strip(strip);
        };
        round(after, half_place, panel_part);
        if let Some(slopes) = slopes_place {
            round(before, slopes, None);
        }
    });
    Some(Narrow { half, panels, slopes })
}

#[cfg(test)]
mod tests {
    use super::super::{Mat, product};
    use super::*;
    use crate::ops::check::noise;

    #[test]
    fn what_the_wide_product_gives_rounded() {
        let device = Device::cpu();
        for (rows, cols, inner) in [(1, 32, 3), (70, 96, 40), (65, 64, 2100)] {
            let (a, b, bias) = (noise(rows * inner, "a"), noise(inner * cols, "b"), noise(cols, "bias"));
            let b = Panels::pack(&device, Mat::new(&b, inner, cols), Precision::Bf16);
            let a = Half::round(&device, Mat::new(&a, rows, inner));
            let (left, start) = (Left::Bf16(&a), Start::Bias(&bias));
            let (mut slopes, mut wide) = (vec![0.0; rows * cols], vec![0.0; rows * cols]);
            product_and(&device, Activation::Gelu, &mut wide, Some(&mut slopes), start, left, &b);
            let (wide, slopes) = (Mat::new(&wide, rows, cols), Mat::new(&slopes, rows, cols));
            for wanted in [true, false] {
                let found = product_narrow(&device, Activation::Gelu, (wanted, wanted), start, left, &b).unwrap();
                assert!(found.half.words() == Half::round(&device, wide).words(), "{rows}x{cols}x{inner}");
                assert_eq!((found.panels.is_some(), found.slopes.is_some()), (wanted, wanted));
                if let (Some(panels), Some(found)) = (found.panels, found.slopes) {
                    assert!(panels.words() == Panels::pack(&device, wide, Precision::Bf16).words());
                    assert!(found.words() == Half::round(&device, slopes).words());
                }
            }
        }
    }

    #[test]
    fn a_function_of_the_product() {
        let device = Device::cpu();
        for precision in [Precision::F32, Precision::Bf16] {
            for (rows, cols, inner) in [(1, 1, 3), (70, 96, 40), (65, 50, 2100)] {
                let (a, b, bias) = (noise(rows * inner, "a"), noise(inner * cols, "b"), noise(cols, "bias"));
                let b = Panels::pack(&device, Mat::new(&b, inner, cols), precision);
                let a = Mat::new(&a, rows, inner);
                let half = Half::round(&device, a);
                let left = if precision == Precision::F32 { Left::F32(a) } else { Left::Bf16(&half) };
                let (mut before, mut out, mut slopes) =
                    (vec![0.0; rows * cols], vec![0.0; rows * cols], vec![0.0; rows * cols]);
                product(&device, &mut before, Start::Bias(&bias), left, &b);
                product_and(&device, Activation::Gelu, &mut out, Some(&mut slopes), Start::Bias(&bias), left, &b);
                let mut expected = vec![0.0; rows * cols];
                vectorised(|| Activation::Gelu.apply(&mut before, &mut expected, true));
                assert!(out == expected && slopes == before, "{precision:?} {rows}x{cols}x{inner}");
            }
        }
    }

    #[test]
    fn columns_that_are_no_whole_panels_are_left_to_the_wide_product() {
        let device = Device::cpu();
        let b = Panels::pack(&device, Mat::new(&[1.0; 33], 1, 33), Precision::Bf16);
        let a = Half::round(&device, Mat::new(&[1.0], 1, 1));
        let found = product_narrow(&device, Activation::Relu, (false, false), Start::Zero, Left::Bf16(&a), &b);
        assert!(found.is_none());
    }
}
