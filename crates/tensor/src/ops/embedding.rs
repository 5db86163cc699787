//! Sums of table rows.

use crate::error::{Result, TensorError};
use crate::tape::{Tape, Var};

impl Tape {
    /// The sum over tables of row `indices[token]` of each, `[tokens, width]`.
    pub fn embed(&mut self, tables: &[(&Var, &[u32])]) -> Result<Var> {
        Err(TensorError::Index { op: "embed", index: 0, len: tables.len() })
    }
}
