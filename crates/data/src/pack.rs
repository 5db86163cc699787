//! A batch without padding: sequences laid end to end.

use crate::corpus::Corpus;
use crate::error::{DataError, Result};

/// Sequences end to end; sequence `i` is `offsets[i]..offsets[i + 1]` of the first three arrays.
///
/// Made by [`Batch::new`] only, which checks that nothing is empty, nothing is between the sequences, and positions
/// count each sequence from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    ids: Vec<u32>,
    types: Vec<u8>,
    positions: Vec<u32>,
    offsets: Vec<u32>,
    examples: Vec<u32>,
}

impl Batch {
    /// A batch of its arrays (see the accessors of the same names).
    ///
    /// # Errors
    /// Arrays that break the promises above; the message says which.
    pub fn new(
        ids: Vec<u32>,
        types: Vec<u8>,
        positions: Vec<u32>,
        offsets: Vec<u32>,
        examples: Vec<u32>,
    ) -> Result<Batch> {
        let fault = |text: String| Err(DataError::Batch(text));
        let n = ids.len();
        if types.len() != n || positions.len() != n {
            return fault(format!("{n} ids, {} types and {} positions", types.len(), positions.len()));
        }
        if offsets.len() != examples.len() + 1 {
            return fault(format!("{} offsets for {} examples", offsets.len(), examples.len()));
        }
        if offsets[0] != 0 || offsets[examples.len()] as usize != n {
            return fault(format!(
                "offsets lead from {} to {}, not from 0 to {n}",
                offsets[0],
                offsets[examples.len()]
            ));
        }
        for (i, pair) in offsets.windows(2).enumerate() {
            if pair[0] >= pair[1] || pair[1] as usize > n {
                return fault(format!("sequence {i} goes from {} to {}", pair[0], pair[1]));
            }
            let wrong = (pair[0]..pair[1]).find(|&at| positions[at as usize] != at - pair[0]);
            if let Some(at) = wrong {
                return fault(format!("token {at} has position {}, not {}", positions[at as usize], at - pair[0]));
            }
        }
        Ok(Batch { ids, types, positions, offsets, examples })
    }

    /// Lays the given texts of a corpus end to end.
    ///
    /// # Errors
    /// A text without a token, or that the corpus does not have; more than `u32::MAX` tokens.
    pub fn pack(corpus: &Corpus, examples: &[u32]) -> Result<Batch> {
        if let Some(missing) = examples.iter().find(|&&example| example as usize >= corpus.len()) {
            return Err(DataError::Batch(format!("example {missing} of a corpus of {}", corpus.len())));
        }
        let tokens: usize = examples.iter().map(|&example| corpus.range(example as usize).len()).sum();
        if u32::try_from(tokens).is_err() {
            return Err(DataError::Batch(format!("{tokens} tokens are more than a batch can number")));
        }
        let (mut ids, mut types) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
        let (mut positions, mut offsets) = (Vec::with_capacity(tokens), Vec::with_capacity(examples.len() + 1));
        offsets.push(0);
        for &example in examples {
            let range = corpus.range(example as usize);
            ids.extend_from_slice(&corpus.ids[range.clone()]);
            types.extend_from_slice(&corpus.types[range.clone()]);
            positions.extend(0..range.len() as u32);
            offsets.push(ids.len() as u32);
        }
        Batch::new(ids, types, positions, offsets, examples.to_vec())
    }

    /// Token ids, `[tokens]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Token types, `[tokens]`.
    pub fn types(&self) -> &[u8] {
        &self.types
    }

    /// Positions, from 0 in each sequence, `[tokens]`.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// Where each sequence starts, and the end of the last, `[sequences + 1]`.
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// Which example each sequence is, `[sequences]`.
    pub fn examples(&self) -> &[u32] {
        &self.examples
    }

    /// The tokens, counted.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The sequences, counted.
    pub fn sequences(&self) -> usize {
        self.examples.len()
    }

    /// The same sequences with other tokens in them (masked ones, say).
    ///
    /// # Errors
    /// Another number of tokens.
    pub fn with_ids(self, ids: Vec<u32>) -> Result<Batch> {
        if ids.len() != self.ids.len() {
            return Err(DataError::Batch(format!("{} new ids for {} tokens", ids.len(), self.ids.len())));
        }
        Ok(Batch { ids, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_laid_end_to_end() -> Result<()> {
        let corpus = Corpus::new(vec![1, 2, 3, 4, 5, 6], vec![0, 0, 0, 0, 1, 1], vec![0; 6], vec![0, 2, 3, 6])?;
        let batch = Batch::pack(&corpus, &[2, 0])?;
        assert_eq!(batch.ids(), [4, 5, 6, 1, 2]);
        assert_eq!(batch.types(), [0, 1, 1, 0, 0]);
        assert_eq!(batch.positions(), [0, 1, 2, 0, 1]);
        assert_eq!(batch.offsets(), [0, 3, 5]);
        assert!(Batch::pack(&corpus, &[3]).is_err());
        assert!(Batch::pack(&corpus, &[])?.ids().is_empty());
        Ok(())
    }

    #[test]
    fn broken_promises_are_refused() {
        let new = |positions: Vec<u32>, offsets: Vec<u32>, examples: Vec<u32>| {
            Batch::new(vec![1, 2, 3], vec![0; 3], positions, offsets, examples)
        };
        assert!(new(vec![0, 1, 0], vec![0, 2, 3], vec![0, 1]).is_ok());
        assert!(new(vec![0, 1, 2], vec![0, 2, 3], vec![0, 1]).is_err(), "positions run on");
        assert!(new(vec![0, 1, 0], vec![0, 2, 2, 3], vec![0, 1, 2]).is_err(), "an empty sequence");
        assert!(new(vec![0, 1, 0], vec![0, 2], vec![0]).is_err(), "tokens behind the last sequence");
        assert!(new(vec![0, 1, 0], vec![0, 9, 3], vec![0, 1]).is_err(), "an offset beyond the tokens");
        assert!(new(vec![0, 1, 0], vec![], vec![]).is_err(), "no offsets");
    }
}
