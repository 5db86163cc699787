//! Windows of a matrix that several threads write at the same time.

use std::marker::PhantomData;

/// A rectangle of a row-major matrix, borrowed for writing: some rows, some neighbouring columns.
pub(crate) struct Tile<'a> {
    start: *mut f32,
    stride: usize,
    rows: usize,
    columns: usize,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: a tile is the only way to its elements while the matrix is borrowed (see `tiles`), like a `&mut [f32]`.
unsafe impl Send for Tile<'_> {}

impl Tile<'_> {
    /// A rectangle that begins at `start`.
    ///
    /// # Safety
    /// Its elements lie in memory that lives as long, and nothing else reads or writes them meanwhile.
    pub(crate) unsafe fn new<'a>(start: *mut f32, stride: usize, rows: usize, columns: usize) -> Tile<'a> {
        Tile { start, stride, rows, columns, matrix: PhantomData }
    }

    /// One row of the rectangle.
    #[inline(always)]
    pub(crate) fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows, "a row outside its tile");
        // SAFETY: `tiles` made the rectangle inside the matrix and disjoint from every other, the row is inside the
        // rectangle, and `&mut self` keeps a second slice from existing at the same time.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(i * self.stride), self.columns) }
    }

    /// Has the processor bring rows near that are written soon.
    #[inline(always)]
    pub(crate) fn fetch(&self, first: usize, rows: usize) {
        #[cfg(target_arch = "x86_64")]
        for i in first..(first + rows).min(self.rows) {
            for column in (0..self.columns).step_by(16) {
                use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
                // SAFETY: a hint, which touches nothing.
                unsafe { _mm_prefetch::<_MM_HINT_ET0>(self.start.wrapping_add(i * self.stride + column).cast()) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (first, rows);
    }
}

/// Cuts a matrix with `width` columns into tiles: rows at `bounds` (ascending), columns every `columns` (a divisor of
/// `width`). The tiles of one band of rows follow one another.
pub(crate) fn tiles<'a>(matrix: &'a mut [f32], width: usize, columns: usize, bounds: &[usize]) -> Vec<Tile<'a>> {
    assert!(columns > 0 && width.is_multiple_of(columns), "tiles that do not cover the width");
    assert!(
        bounds.is_sorted() && bounds.last().is_none_or(|&end| end * width <= matrix.len()),
        "rows outside the matrix"
    );
    let start = matrix.as_mut_ptr();
    let mut tiles = Vec::with_capacity(bounds.len().saturating_sub(1) * (width / columns));
    for band in bounds.windows(2) {
        for column in (0..width).step_by(columns) {
            // SAFETY: `band[0] * width + column` is at most `matrix.len()` by the asserts above. Bands are disjoint rows
            // and `column` steps by the tile's width, so no element is in two tiles.
            let start = unsafe { start.add((band[0] * width + column).min(matrix.len())) };
            tiles.push(unsafe { Tile::new(start, width, band[1] - band[0], columns) });
        }
    }
    tiles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_a_matrix_once() {
        let mut matrix = vec![0.0; 7 * 6];
        for (number, mut tile) in tiles(&mut matrix, 6, 2, &[0, 3, 3, 7]).into_iter().enumerate() {
            for i in 0..tile.rows {
                tile.row(i).iter_mut().for_each(|x| *x += 1.0 + number as f32);
            }
        }
        for (i, x) in matrix.iter().enumerate() {
            let band = if i / 6 < 3 { 0 } else { 2 };
            assert_eq!(*x, (band * 3 + i % 6 / 2 + 1) as f32);
        }
    }

    #[test]
    #[should_panic(expected = "a row outside its tile")]
    fn a_row_outside_is_refused() {
        tiles(&mut [0.0; 4], 2, 2, &[0, 1])[0].row(1);
    }
}
