//! The batch: packed sequences, no padding.

use std::sync::Arc;

use crate::error::{NnError, Result};

/// Sequences laid end to end: `[tokens]`, with the offsets at which they start.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Token ids, `[tokens]`.
    pub ids: Vec<u32>,
    /// Segment of each token (0, or 1 in the second text of a pair), `[tokens]`.
    pub segments: Vec<u32>,
    /// Position of each token in its sequence, `[tokens]`.
    pub positions: Vec<u32>,
    /// Where sequences start and end, `[sequences + 1]`.
    pub offsets: Vec<u32>,
    /// One key a token, from the example's slot in the optimiser step and the position: random masks hang on it, so
    /// they do not change with how a step is cut into micro-batches.
    pub keys: Arc<[u64]>,
    /// The rows that the objective reads: masked tokens, say; empty when it reads sequences.
    pub rows: Vec<u32>,
    /// What is wanted: one a row, or one a sequence.
    pub targets: Vec<u32>,
}

impl Batch {
    /// Packs sequences. `slots[i]` is the place of sequence `i` in its optimiser step.
    ///
    /// # Errors
    /// When the lengths do not fit together, or a sequence is empty.
    pub fn new(ids: Vec<u32>, segments: Vec<u32>, offsets: Vec<u32>, slots: &[u32]) -> Result<Batch> {
        let wrong = |what: String| Err(NnError::Batch(what));
        if offsets.first() != Some(&0) || offsets.last().map(|&end| end as usize) != Some(ids.len()) {
            return wrong(format!(
                "offsets run from {:?} to {:?} over {} tokens",
                offsets.first(),
                offsets.last(),
                ids.len()
            ));
        }
        if let Some(i) = offsets.windows(2).position(|w| w[0] >= w[1]) {
            return wrong(format!("sequence {i} is empty"));
        }
        if segments.len() != ids.len() || slots.len() + 1 != offsets.len() {
            return wrong(format!(
                "{} tokens with {} segments, {} sequences with {} slots",
                ids.len(),
                segments.len(),
                offsets.len() - 1,
                slots.len()
            ));
        }
        let mut positions = Vec::with_capacity(ids.len());
        let mut keys = Vec::with_capacity(ids.len());
        for (bounds, &slot) in offsets.windows(2).zip(slots) {
            for position in 0..bounds[1] - bounds[0] {
                positions.push(position);
                keys.push(u64::from(slot) << 20 | u64::from(position));
            }
        }
        Ok(Batch { ids, segments, positions, offsets, keys: keys.into(), rows: Vec::new(), targets: Vec::new() })
    }

    /// How many tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// How many sequences.
    pub fn sequences(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The row of each sequence's first token.
    pub fn first_rows(&self) -> &[u32] {
        &self.offsets[..self.sequences()]
    }

    /// Of ascending rows, how many stand before each sequence, and how many there are: their own offsets.
    pub fn offsets_of(&self, rows: &[u32]) -> Vec<u32> {
        self.offsets.iter().map(|&offset| rows.partition_point(|&row| row < offset) as u32).collect()
    }

    /// The keys of some rows.
    pub fn keys_of(&self, rows: &[u32]) -> Arc<[u64]> {
        rows.iter().map(|&row| self.keys[row as usize]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_keys_follow_the_offsets() {
        let batch = Batch::new(vec![5, 6, 7, 8], vec![0; 4], vec![0, 3, 4], &[9, 2]).unwrap();
        assert_eq!(batch.positions, [0, 1, 2, 0]);
        assert_eq!(batch.keys[3], 2 << 20);
        assert_eq!(batch.first_rows(), [0, 3]);
        assert_eq!(batch.offsets_of(&[0, 2, 3]), [0, 2, 3]);
        assert_eq!(batch.offsets_of(&[3]), [0, 0, 1]);
    }

    #[test]
    fn an_empty_sequence_is_refused() {
        let error = Batch::new(vec![5], vec![0], vec![0, 0, 1], &[0, 1]).unwrap_err();
        assert_eq!(error.to_string(), "a batch is inconsistent: sequence 0 is empty");
    }
}
