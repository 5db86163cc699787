//! A product in bf16 whose outputs are only read by other products in bf16: they are never written in f32.
//!
//! A tile of outputs stays in the first-level cache, where the activation is applied, and leaves it rounded: in the order in
//! which it is read as a left operand, and, where a weight's gradient will ask for it, as a right one.

use super::prepare::Strip;
use super::{Half, Left, Out, PANEL, Panels, ROWS, Shared, Start, in_pieces, pack, parts_of, rows_by_panel, words};
use crate::device::Device;
use crate::instructions::Instructions;
use crate::kernels::math::vectorised;
use crate::kernels::tiles::Tile;
use crate::ops::activation::Activation;
use crate::tape::Precision;

/// What [`product_narrow`] makes.
pub(crate) struct Narrow {
    /// `f(start + a b)`.
    pub(crate) half: Half,
    /// The same as a right operand.
    pub(crate) panels: Option<Panels>,
    /// `f'(start + a b)`.
    pub(crate) slopes: Option<Half>,
}

/// Outputs of some rows and one panel.
#[repr(align(64))]
struct Outputs([f32; ROWS * PANEL]);

/// `f(start + a b)` in bf16, with its slopes and in panels as wanted; nothing where the columns are no whole panels.
pub(crate) fn product_narrow(
    device: &Device,
    activation: Activation,
    (slopes, panels): (bool, bool),
    start: Start,
    a: Left,
    b: &Panels,
) -> Option<Narrow> {
    narrow_by(Instructions::current(), device, activation, (slopes, panels), start, a, b)
}

fn narrow_by(
    isa: Instructions,
    device: &Device,
    activation: Activation,
    (slopes, panels): (bool, bool),
    start: Start,
    a: Left,
    b: &Panels,
) -> Option<Narrow> {
    let (rows, inner, precision) = a.extents();
    assert!(inner == b.inner && precision == b.precision, "operands of a product");
    if !b.cols.is_multiple_of(PANEL) || rows == 0 || b.depth == 0 || matches!(a, Left::F32(_)) {
        return None;
    }
    if let Start::Bias(bias) = start {
        assert_eq!(bias.len(), b.cols, "bias of a product");
    }
    device.count(b.operations(a));
    let (width, depth) = (words(b.cols, Precision::Bf16), words(rows, Precision::Bf16));
    let new = || Half { words: device.take(rows * width), rows, inner: b.cols };
    let (mut half, mut slopes) = (new(), slopes.then(new));
    let mut panels = panels.then(|| Panels {
        words: device.take(b.cols * depth),
        precision: Precision::Bf16,
        inner: rows,
        cols: b.cols,
        depth,
    });
    let half_place = Shared(half.words.slice_mut().as_mut_ptr());
    let slopes_place = slopes.as_mut().map(|slopes| Shared(slopes.words.slice_mut().as_mut_ptr()));
    let panels_place = panels.as_mut().map(|panels| Shared(panels.words.slice_mut().as_mut_ptr()));
    in_pieces(a, b, |rows, range| {
        let (mut before, mut after) = (Outputs([0.0; ROWS * PANEL]), Outputs([0.0; ROWS * PANEL]));
        for panel in range {
            for part in parts_of(b.depth) {
                let start = start.of(panel, PANEL, part.start);
                let out = Out { data: before.0.as_mut_ptr(), stride: PANEL, cols: PANEL, start };
                // SAFETY: the extents were checked above, `before` has room for a chunk of rows, and `isa` is here.
                unsafe { rows_by_panel(isa, a, b, rows.clone(), panel, part, out) };
            }
            vectorised(
                #[inline(always)]
                || activation.apply(&mut before.0, &mut after.0, slopes_place.is_some()),
            );
            let tile = |place: Shared| {
                // SAFETY: rows and columns lie inside the matrix, whose rows are `width` words, and no other task has them.
                unsafe {
                    let first = place.0.add(rows.start * width + panel * PANEL / 2);
                    Tile::new(first, width, rows.len(), PANEL / 2)
                }
            };
            let panel_part = panels_place.map(|place| {
                // SAFETY: chunks begin at even rows, so the words of this one in its panel belong to this task alone.
                unsafe {
                    let first = place.0.add((panel * depth + rows.start / 2) * PANEL);
                    std::slice::from_raw_parts_mut(first, rows.len().div_ceil(2) * PANEL)
                }
            });
            let round = |x: &Outputs, half: Shared, panel: Option<&mut [f32]>| {
                let (x, half) = (&x.0[..rows.len() * PANEL], Some(tile(half)));
                pack::round_strip(&mut Strip {
                    x,
                    factors: None,
                    width: PANEL,
                    rows: rows.len(),
                    panel,
                    half,
                    sums: None,
                });
            };
            round(&after, half_place, panel_part);
            if let Some(slopes) = slopes_place {
                round(&before, slopes, None);
            }
        }
    });
    Some(Narrow { half, panels, slopes })
}

#[cfg(test)]
mod tests {
    use super::super::{Mat, product_and};
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
            product_and(&device, &mut slopes, (Activation::Gelu, &mut wide, true), start, left, &b);
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
    fn columns_that_are_no_whole_panels_are_left_to_the_wide_product() {
        let device = Device::cpu();
        let b = Panels::pack(&device, Mat::new(&[1.0; 33], 1, 33), Precision::Bf16);
        let a = Half::round(&device, Mat::new(&[1.0], 1, 1));
        let found = product_narrow(&device, Activation::Relu, (false, false), Start::Zero, Left::Bf16(&a), &b);
        assert!(found.is_none());
    }
}
