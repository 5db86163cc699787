//! Attention over packed sequences.

use crate::error::Result;
use crate::ops::dropout::Dropout;
use crate::tape::{Tape, Var};

/// How queries, keys and values of a packed batch go together.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Where each sequence starts in the packed stream, and where the last one ends.
    pub offsets: &'a [u32],
    /// How many heads the width is cut into.
    pub heads: usize,
    /// Whether a token sees only itself and what came before.
    pub causal: bool,
    /// Dropout on the probabilities.
    pub dropout: Option<&'a Dropout>,
    /// Further keys and values, `[prefix, width]`, that every query of every sequence sees.
    pub prefix: Option<(&'a Var, &'a Var)>,
}

impl Tape {
    /// Attention.
    pub fn attention(&mut self, query: &Var, _key: &Var, _value: &Var, _attention: &Attention) -> Result<Var> {
        Ok(query.clone())
    }
}
