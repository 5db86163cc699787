//! One pass over a matrix that makes everything of it that products will read.

use super::pack::{AHEAD, fetch};
use super::{Half, Mat, NARROW, Panels, WIDEST, both, pack, panel_width, words};
use crate::device::Device;
use crate::instructions::Instructions;
use crate::kernels::math::vectorised;
use crate::kernels::parallel;
use crate::kernels::tiles::{Tile, tiles};
use crate::tape::Precision;

/// What is to be made of a matrix `[rows, cols]`.
pub(crate) struct Pass<'a> {
    /// The precision of the products.
    pub(crate) precision: Precision,
    /// Elements are multiplied by these first (nothing is written back).
    pub(crate) factors: Option<&'a Half>,
    /// The column sums go here: added to what stands there, or over it.
    pub(crate) sums: Option<(&'a mut [f32], bool)>,
    /// Whether its rows are wanted, rounded, as a left operand.
    pub(crate) half: bool,
    /// Whether it is wanted as a right operand, which also is its transpose as a left one.
    pub(crate) panels: bool,
}

/// What one pass over the columns of a panel reads and writes.
pub(super) struct Strip<'a> {
    /// The matrix from the strip's first column on, and its width.
    pub(super) x: &'a [f32],
    /// The words of the factors from the strip's first column on.
    pub(super) factors: Option<&'a [u32]>,
    pub(super) width: usize,
    pub(super) rows: usize,
    pub(super) panel: Option<&'a mut [f32]>,
    pub(super) half: Option<Tile<'a>>,
    pub(super) sums: Option<&'a mut [f32]>,
}

/// Makes what `pass` asks for of a row-major matrix.
pub(crate) fn prepare(device: &Device, x: Mat, pass: Pass) -> (Option<Half>, Option<Panels>) {
    assert!(x.fits() && x.col_stride == 1 && x.row_stride == x.cols, "a row-major matrix");
    assert!(pass.factors.is_none_or(|f| (f.rows, f.inner) == (x.rows, x.cols)), "factors of a matrix");
    let (rows, cols, precision) = (x.rows, x.cols, pass.precision);
    let isa = Instructions::current();
    let columns = panel_width(isa);
    if !cols.is_multiple_of(columns) || x.data.is_empty() {
        return one_by_one(device, x, pass);
    }
    let half_width = words(cols, Precision::Bf16);
    let mut panels = pass.panels.then(|| Panels::new(device, isa, precision, (rows, cols)));
    let mut half = pass.half.then(|| device.take(rows * half_width));
    let (sums, holds_sum) = pass.sums.map_or((None, false), |(sums, holds)| (Some(sums), holds));
    let mut panel_parts = panels.as_mut().map(|panels| panels.words.slice_mut().chunks_mut(columns * panels.depth));
    let mut half_parts =
        half.as_mut().map(|half| tiles(half.slice_mut(), half_width, columns / 2, &[0, rows]).into_iter());
    let mut sum_parts = sums.map(|sums| sums.chunks_mut(columns));
    let strips = (0..cols).step_by(columns).map(|first| Strip {
        x: &x.data[first..],
        factors: pass.factors.map(|factors| &factors.words()[first / 2..]),
        width: cols,
        rows,
        panel: panel_parts.as_mut().and_then(Iterator::next),
        half: half_parts.as_mut().and_then(Iterator::next),
        sums: sum_parts.as_mut().and_then(Iterator::next),
    });
    parallel::tasks(strips.collect(), |mut strip| {
        if let (Some(sums), false) = (&mut strip.sums, holds_sum) {
            sums.fill(0.0);
        }
        match precision {
            Precision::F32 => vectorised(
                #[inline(always)]
                || match columns {
                    WIDEST => strip.copy::<WIDEST>(),
                    _ => strip.copy::<NARROW>(),
                },
            ),
            Precision::Bf16 => pack::round_strip(strip),
        }
    });
    (half.map(|words| Half { words, rows, inner: cols }), panels)
}

/// The same in a pass for each thing, for matrices that are not cut into whole panels.
fn one_by_one(device: &Device, x: Mat, pass: Pass) -> (Option<Half>, Option<Panels>) {
    let mut product = device.take(x.data.len());
    let data = match pass.factors {
        None => x.data,
        Some(factors) => {
            factors.widen(0, product.slice_mut());
            product.slice_mut().iter_mut().zip(x.data).for_each(|(out, x)| *out *= x);
            product.slice()
        }
    };
    let x = Mat::new(data, x.rows, x.cols);
    if let Some((sums, holds_sum)) = pass.sums {
        parallel::column_sums(x.data, x.cols, sums, holds_sum);
    }
    (pass.half.then(|| Half::round(device, x)), pass.panels.then(|| Panels::pack(device, x, pass.precision)))
}

impl Strip<'_> {
    /// The values of a row.
    #[inline(always)]
    fn row<const W: usize>(&self, r: usize) -> [f32; W] {
        let mut row = [0.0; W];
        row.copy_from_slice(&self.x[r * self.width..][..W]);
        if let Some(factors) = self.factors {
            let words = &factors[r * self.width / 2..][..W / 2];
            for (pair, &word) in row.as_chunks_mut::<2>().0.iter_mut().zip(words) {
                pair.iter_mut().zip(both(word)).for_each(|(x, factor)| *x *= factor);
            }
        }
        row
    }

    #[inline(always)]
    fn add<const W: usize>(&mut self, row: &[f32; W]) {
        if let Some(sums) = &mut self.sums {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    }

    /// Sums and copies, for products in f32.
    #[inline(always)]
    fn copy<const W: usize>(&mut self) {
        let mut sums = [0.0; W];
        let mut panel = self.panel.take().map(|panel| panel.chunks_exact_mut(W));
        for r in 0..self.rows {
            fetch::<W>(self.x, (r + AHEAD) * self.width);
            let row = self.row::<W>(r);
            sums.iter_mut().zip(&row).for_each(|(sum, x)| *sum += x);
            if let Some(panel) = panel.as_mut().and_then(Iterator::next) {
                panel.copy_from_slice(&row);
            }
        }
        self.add(&sums);
    }

    /// Sums and rounds, for products in bf16.
    #[inline(always)]
    pub(super) fn round<const W: usize>(&mut self) {
        for top in (0..self.rows).step_by(2) {
            let mut pair = [[0.0; W]; 2];
            for (row, r) in pair.iter_mut().zip(top..self.rows) {
                *row = self.row(r);
                self.add(row);
                if let Some(half) = &mut self.half {
                    pack::round_row(bytemuck::cast_slice_mut(half.row(r)), row);
                }
            }
            if let Some(panel) = &mut self.panel {
                let words = &mut panel[top / 2 * W..][..W];
                pack::pair_rows(bytemuck::cast_slice_mut(words), &pair[0], Some(&pair[1]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::noise;

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn one_pass_is_the_separate_ones() {
        let device = Device::cpu();
        for (rows, cols) in [(1, 1), (5, 7), (33, 256), (7, 96), (64, 300), (2, 130), (1, 32)] {
            let (x, factors) = (noise(rows * cols, "x"), noise(rows * cols, "factors"));
            let half = Half::round(&device, Mat::new(&factors, rows, cols));
            for wanted in [None, Some(&half)] {
                let factor = |i: usize| half::bf16::from_f32(factors[i]).to_f32();
                let product = |i: usize| x[i] * wanted.map_or(1.0, |_| factor(i));
                let changed: Vec<f32> = (0..x.len()).map(product).collect();
                let plain = Mat::new(&changed, rows, cols);
                for (precision, half) in [(Precision::F32, false), (Precision::Bf16, true)] {
                    for holds_sum in [false, true] {
                        let mut sums = vec![1.0; cols];
                        let pass =
                            Pass { precision, factors: wanted, sums: Some((&mut sums, holds_sum)), half, panels: true };
                        let (found, panels) = prepare(&device, Mat::new(&x, rows, cols), pass);
                        let place = format!("{rows}x{cols} {precision:?}");
                        let expected = Panels::pack(&device, plain, precision);
                        assert!(panels.is_some_and(|found| found.words() == expected.words()), "{place}: panels");
                        if let Some(found) = found {
                            let expected = Half::round(&device, plain);
                            assert_eq!(bits(found.words.slice()), bits(expected.words.slice()), "{place}: rows");
                        }
                        for (j, found) in sums.iter().enumerate() {
                            let start = if holds_sum { 1.0 } else { 0.0 };
                            let sum: f64 = (0..rows).map(|i| f64::from(changed[i * cols + j])).sum::<f64>() + start;
                            assert!((f64::from(*found) - sum).abs() < 1e-5, "{place}: the sum of column {j}");
                        }
                    }
                }
            }
        }
    }
}
