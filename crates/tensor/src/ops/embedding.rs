//! Embeddings: sums of table rows (token, position, type).

use crate::error::{Result, TensorError, ensure_shape};
use crate::kernels::parallel;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// The sum over tables (`[rows, width]`, one width) of row `indices[token]` of each: `[tokens, width]`. A trained
    /// table's gradient holds the rows that were read, and no others.
    ///
    /// # Errors
    /// When there is no table, a table's width or the length of an index list differs from the first one's, or an index
    /// is outside its table.
    pub fn embed(&mut self, tables: &[(&Var, &[u32])]) -> Result<Var> {
        let _span = self.device().span("embed");
        let op = "embed";
        let Some(((first, first_indices), others)) = tables.split_first() else {
            return Err(TensorError::Shape { op, found: vec![0], expected: "at least one table".to_owned() });
        };
        let (tokens, width) = (first_indices.len(), first.value().width());
        for (table, indices) in tables {
            let (table, shape) = (table.value(), table.value().shape());
            table.expect_f32(op)?;
            ensure_shape(op, shape.len() == 2 && shape[1] == width, shape, || format!("a table of width {width}"))?;
            ensure_shape(op, indices.len() == tokens, &[indices.len()], || format!("{tokens} indices"))?;
            if let Some(&index) = indices.iter().find(|&&i| i as usize >= table.rows()) {
                return Err(TensorError::Index { op, index: index as usize, len: table.rows() });
            }
        }
        let mut out = Tensor::stale(self.device(), &[tokens, width]);
        parallel::row_blocks(out.f32_mut(), width, parallel::rows_per_block(width), |start, block| {
            for (token, out) in (start..).zip(block.chunks_exact_mut(width)) {
                let row = |indices: &[u32]| indices[token] as usize * width..(indices[token] as usize + 1) * width;
                out.copy_from_slice(&first.f32()[row(first_indices)]);
                for (table, indices) in others {
                    out.iter_mut().zip(&table.f32()[row(indices)]).for_each(|(sum, x)| *sum += x);
                }
            }
        });
        let trained = || tables.iter().filter(|(table, _)| table.needs_grad());
        Ok(self.record("embed", out, trained().next().is_some(), || {
            let saved: Vec<_> = trained()
                .map(|(table, indices)| (table.node(), [table.value().rows(), width], indices.to_vec()))
                .collect();
            move |gradient: Tensor, flow| {
                saved.iter().try_for_each(|(node, shape, indices)| flow.add_rows(*node, *shape, indices, &gradient))
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{Case, noise, weighted_sum};
    use crate::{Device, Grad, Grads, Precision, Tape, Tensor, Var};

    #[test]
    fn values_and_gradients() {
        let mut case = Case::new();
        let words = case.input("words", &[7, 5], noise(35, "w"));
        let positions = case.input("positions", &[4, 5], noise(20, "p"));
        let kinds = case.input("kinds", &[1, 5], noise(5, "k"));
        let tables: [(&Var, &[u32]); 3] =
            [(&words, &[6, 0, 6, 2]), (&positions, &[0, 1, 0, 3]), (&kinds, &[0, 0, 0, 0])];
        case.run(
            |tape| tape.embed(&tables),
            |inputs| {
                let at = |name: &str, row: u32, column: usize| inputs[name][row as usize * 5 + column];
                (0..20)
                    .map(|i| {
                        let (token, column) = (i / 5, i % 5);
                        let names = ["words", "positions", "kinds"];
                        names.iter().zip(&tables).map(|(name, (_, indices))| at(name, indices[token], column)).sum()
                    })
                    .collect()
            },
        );
    }

    #[test]
    fn only_the_trained_table_gets_a_gradient_and_only_rows_that_were_read() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let frozen = Var::constant(Tensor::full(&device, &[9, 2], 1.0));
        let constant = tape.embed(&[(&frozen, &[8, 0])]).unwrap();
        assert!(tape.is_empty() && !constant.needs_grad());
        let words = tape.leaf("words", Tensor::full(&device, &[30_000, 2], 1.0));
        let y = tape.embed(&[(&frozen, &[8, 0, 1]), (&words, &[29_999, 4, 29_999])]).unwrap();
        let loss = weighted_sum(&mut tape, &y, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let mut grads = Grads::default();
        tape.backward(&loss, &mut grads).unwrap();
        let Some(Grad::Rows(rows)) = grads.get("words") else { panic!("not by rows: {grads:?}") };
        assert_eq!((grads.len(), rows.rows.as_slice()), (1, [4, 29_999].as_slice()));
        assert_eq!(rows.values.to_vec(), [3.0, 4.0, 6.0, 8.0]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let table = |shape: &[usize]| Var::constant(Tensor::zeros(&device, shape));
        let (words, other) = (table(&[5, 4]), table(&[5, 3]));
        let mut error = |tables: &[(&Var, &[u32])]| tape.embed(tables).unwrap_err().to_string();
        assert_eq!(error(&[(&words, &[0, 5])]), "embed: the index 5 is outside 0..5");
        assert_eq!(error(&[(&words, &[0]), (&other, &[0])]), "embed: the shape [5, 3] does not fit a table of width 4");
        assert_eq!(error(&[(&words, &[0, 1]), (&words, &[0])]), "embed: the shape [1] does not fit 2 indices");
        assert_eq!(error(&[]), "embed: the shape [0] does not fit at least one table");
    }
}
