//! Dropout.

use std::sync::Arc;

use luthier_random::Rng;

use crate::error::Result;
use crate::tape::{Tape, Var};

/// Where and how much to drop.
#[derive(Debug, Clone)]
pub struct Dropout {
    /// The probability with which an element is dropped.
    pub p: f32,
    /// The stream of this site in this step.
    pub rng: Rng,
    /// What identifies each row: the example's slot in the step `<< 20 |` the position.
    pub keys: Arc<[u64]>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    threshold: u32,
    scale: f32,
}

impl Keep {
    pub(crate) fn new(p: f32) -> Keep {
        Keep { threshold: (p * 65536.0).round() as u32, scale: 1.0 }
    }

    #[inline(always)]
    pub(crate) fn scales(self, words: [u32; 4]) -> [f32; 8] {
        std::array::from_fn(|i| if words[i / 2] < self.threshold { 0.0 } else { self.scale })
    }
}

impl Tape {
    /// Dropout.
    pub fn dropout(&mut self, x: &Var, _dropout: Option<&Dropout>) -> Result<Var> {
        Ok(x.clone())
    }
}
