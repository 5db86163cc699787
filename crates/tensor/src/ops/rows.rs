//! Picking rows out of `[rows, width]`: the first token of each sequence, the masked positions of a batch.

use crate::error::{Result, TensorError};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// Rows `indices` of `x`, in that order; a row may be taken more than once.
    pub fn select_rows(&mut self, x: &Var, indices: &[u32]) -> Result<Var> {
        let _span = self.device().span("select_rows");
        let (rows, width) = (x.value().rows(), x.value().width());
        if let Some(&index) = indices.iter().find(|&&i| i as usize >= rows) {
            return Err(TensorError::Index { op: "select_rows", index: index as usize, len: rows });
        }
        let mut out = Tensor::stale(self.device(), &[indices.len(), width]);
        let source = x.f32();
        for (&index, row) in indices.iter().zip(out.f32_mut().chunks_exact_mut(width.max(1))) {
            row.copy_from_slice(&source[index as usize * width..(index as usize + 1) * width]);
        }
        let to = x.node();
        let indices = indices.to_vec();
        let shape = x.value().shape().to_vec();
        Ok(self.record("select_rows", out, x.needs_grad(), || {
            move |gradient: Tensor, flow| {
                flow.accumulate(to, &shape, |target, holds_sum| {
                    if !holds_sum {
                        target.fill(0.0);
                    }
                    for (&index, row) in indices.iter().zip(gradient.f32().chunks_exact(width.max(1))) {
                        let target = &mut target[index as usize * width..(index as usize + 1) * width];
                        target.iter_mut().zip(row).for_each(|(x, y)| *x += y);
                    }
                    Ok(())
                })
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{Case, noise};

    #[test]
    fn rows_with_a_repeat() {
        let mut case = Case::new();
        let x = case.input("x", &[5, 3], noise(15, "x"));
        let indices = [4u32, 0, 4];
        case.run(
            |tape| tape.select_rows(&x, &indices),
            |inputs| indices.iter().flat_map(|&i| inputs["x"][i as usize * 3..i as usize * 3 + 3].to_vec()).collect(),
        );
    }

    #[test]
    fn a_row_that_is_not_there() {
        let device = crate::Device::cpu();
        let mut tape = crate::Tape::new(&device, crate::Precision::F32);
        let x = crate::Var::constant(crate::Tensor::zeros(&device, &[2, 3]));
        let error = tape.select_rows(&x, &[2]).unwrap_err().to_string();
        assert_eq!(error, "select_rows: the index 2 is outside 0..2");
    }
}
