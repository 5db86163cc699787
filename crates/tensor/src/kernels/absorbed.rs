//! The products of attention with absorbed maps: of every row with a head's part of a weight, and of a row's heads with the
//! tokens of its sequence. A task is a head or a row.

use std::ops::Range;

use crate::device::Device;
use crate::kernels::math::arch;
use crate::kernels::panel::{Left, Right, Times, WIDEST};
use crate::kernels::parallel::tasks;
use crate::kernels::tiles::tiles;
use crate::tensor::Tensor;

/// The extents of one call.
pub(crate) struct Extents {
    /// Where sequences start in the packed stream, and where the last one ends.
    pub(crate) offsets: Vec<usize>,
    pub(crate) heads: usize,
    /// Columns of a head.
    pub(crate) size: usize,
    /// Columns of `x`, and the same in whole panels: the distance between rows of scratch memory.
    pub(crate) inputs: usize,
    pub(crate) wide: usize,
}

impl Extents {
    pub(crate) fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(crate) fn tokens(&self) -> usize {
        self.offsets[self.rows()]
    }

    pub(crate) fn sequence(&self, row: usize) -> Range<usize> {
        self.offsets[row]..self.offsets[row + 1]
    }

    pub(crate) fn scale(&self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }

    /// Operations of so many products of every row with a map, and of every head's row with every token.
    pub(crate) fn operations(&self, maps: usize, mixtures: usize) -> u64 {
        let width = self.heads * self.size;
        (2 * self.inputs * (maps * self.rows() * width + mixtures * self.heads * self.tokens())) as u64
    }

    /// The columns of a head in a matrix of `[rows, width]`, as a left operand.
    pub(crate) fn columns<'a, const BY_COLUMNS: bool>(&self, matrix: &'a [f32], head: usize) -> Left<'a, BY_COLUMNS> {
        let (rows, depth) = if BY_COLUMNS { (self.size, self.rows()) } else { (self.rows(), self.size) };
        Left { data: matrix.get(head * self.size..).unwrap_or(&[]), stride: self.heads * self.size, rows, depth }
    }

    /// The rows of a weight that make a head, or their transpose.
    pub(crate) fn weight<'a>(&self, weight: &'a [f32], head: usize, turned: bool) -> Right<'a> {
        let data = &weight[head * self.size * self.inputs..];
        Right { data, stride: self.inputs, rows: self.size, width: self.inputs, turned }
    }

    /// The tokens of a sequence, or their transpose.
    pub(crate) fn tokens_of<'a>(&self, x: &'a [f32], row: usize, turned: bool) -> Right<'a> {
        let (tokens, inputs) = (self.sequence(row), self.inputs);
        Right { data: &x[tokens.start * inputs..], stride: inputs, rows: tokens.len(), width: inputs, turned }
    }

    /// One row of every head, in `[heads, rows, wide]`.
    pub(crate) fn by_head<'a>(&self, matrix: &'a [f32], row: usize) -> Left<'a, false> {
        let (rows, depth) = (self.heads, self.inputs);
        Left { data: &matrix[row * self.wide..], stride: self.rows() * self.wide, rows, depth }
    }

    /// Every row of one head, in `[rows, heads, wide]`, as a right operand.
    pub(crate) fn by_row<'a>(&self, matrix: &'a [f32], head: usize) -> Right<'a> {
        let (stride, rows) = (self.heads * self.wide, self.rows());
        Right { data: &matrix[head * self.wide..], stride, rows, width: self.inputs, turned: false }
    }

    /// The part of `[heads, length]` for every sequence that is a sequence's.
    pub(crate) fn part(&self, row: usize) -> Range<usize> {
        let tokens = self.sequence(row);
        self.heads * tokens.start..self.heads * tokens.end
    }

    /// Cuts memory of `[heads, length]` for every sequence by sequences.
    pub(crate) fn parts<'a>(&self, mut matrix: &'a mut [f32]) -> Vec<&'a mut [f32]> {
        let cut = |row| matrix.split_off_mut(..self.part(row).len()).unwrap_or_default();
        (0..self.rows()).map(cut).collect()
    }

    /// `left right` for every head, one task a head: `[heads, rows, wide]` in memory.
    pub(crate) fn for_heads<'a>(
        &self,
        device: &Device,
        left: impl Fn(usize) -> Left<'a, false> + Sync,
        right: impl Fn(usize) -> Right<'a> + Sync,
    ) -> Tensor {
        let mut out = Tensor::stale(device, &[self.heads, self.rows(), self.wide]);
        let chunks = out.f32_mut().chunks_mut((self.rows() * self.wide).max(1));
        tasks(chunks.enumerate().collect(), |(head, out)| times(device, out, self.wide, left(head), right(head)));
        out
    }

    /// The rows of every head times the transpose of its part of a weight, `finish`ed row by row: `[rows, heads * size]`.
    pub(crate) fn project(
        &self,
        device: &Device,
        rows: &Tensor,
        weight: &[f32],
        finish: impl Fn(usize, usize, &[f32], &mut [f32]) + Sync,
    ) -> Tensor {
        let width = self.heads * self.size;
        let mut out = Tensor::stale(device, &[self.rows(), width]);
        let columns = tiles(out.f32_mut(), width, self.size, &[0, self.rows()]).into_iter().enumerate();
        tasks(columns.collect(), |(head, mut columns)| {
            let wide = self.size.next_multiple_of(WIDEST);
            let mut room = device.take(self.rows() * wide);
            let by_row = self.by_row(rows.f32(), head);
            let left = Left { data: by_row.data, stride: by_row.stride, rows: by_row.rows, depth: by_row.width };
            times::<false>(device, room.slice_mut(), wide, left, self.weight(weight, head, true));
            for (row, found) in room.slice().chunks_exact(wide).enumerate() {
                finish(head, row, &found[..self.size], columns.row(row));
            }
        });
        out
    }

    /// The gradient of a weight: for every head the columns of `left`, turned, times its rows of `right`.
    pub(crate) fn weight_gradient(&self, device: &Device, left: &[f32], right: &Tensor, out: &mut [f32], add: bool) {
        let chunks = out.chunks_mut((self.size * self.inputs).max(1)).enumerate();
        tasks(chunks.collect(), |(head, out)| {
            let mut room = device.take(self.size * self.wide);
            times::<true>(
                device,
                room.slice_mut(),
                self.wide,
                self.columns(left, head),
                self.by_row(right.f32(), head),
            );
            for (out, found) in out.chunks_exact_mut(self.inputs).zip(room.slice().chunks_exact(self.wide)) {
                put(out, &found[..self.inputs], add);
            }
        });
    }
}

/// `out = left right`.
pub(crate) fn times<const BY_COLUMNS: bool>(
    device: &Device,
    out: &mut [f32],
    out_stride: usize,
    left: Left<BY_COLUMNS>,
    right: Right,
) {
    let mut room = device.take(right.room());
    arch().dispatch(Times { out, out_stride, add: false, left, right, room: room.slice_mut() });
}

pub(crate) fn put(out: &mut [f32], values: &[f32], add: bool) {
    if add {
        out.iter_mut().zip(values).for_each(|(y, x)| *y += x);
    } else {
        out.copy_from_slice(values);
    }
}
