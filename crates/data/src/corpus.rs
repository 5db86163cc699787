//! Tokenized texts, all in four flat arrays.

use crate::error::{DataError, Result};
use std::ops::Range;

/// The word of a token that belongs to no word: `[CLS]`, `[SEP]` and their like.
pub const SPECIAL: u32 = u32::MAX;

/// Tokenized texts one after the other; text `i` is `offsets[i]..offsets[i + 1]` of the other three.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    /// Token ids.
    pub ids: Vec<u32>,
    /// 0 for the first text of a pair (or the only one), 1 for the second, as the tokenizer says.
    pub types: Vec<u8>,
    /// For each token the number of its word within its sequence (pieces of one word share it), or [`SPECIAL`].
    pub words: Vec<u32>,
    /// Where each text starts, and the end of the last: one more than there are texts.
    pub offsets: Vec<u64>,
}

impl Default for Corpus {
    fn default() -> Corpus {
        Corpus { ids: Vec::new(), types: Vec::new(), words: Vec::new(), offsets: vec![0] }
    }
}

impl Corpus {
    /// Puts arrays together.
    ///
    /// # Errors
    /// Arrays that do not fit each other.
    pub fn new(ids: Vec<u32>, types: Vec<u8>, words: Vec<u32>, offsets: Vec<u64>) -> Result<Corpus> {
        let n = ids.len();
        if types.len() != n || words.len() != n {
            return Err(DataError::Corpus(format!("{n} ids, {} types, {} words", types.len(), words.len())));
        }
        let grows = offsets.first() == Some(&0) && offsets.is_sorted() && offsets.last() == Some(&(n as u64));
        if !grows {
            return Err(DataError::Corpus(format!("offsets do not lead from 0 to {n}")));
        }
        Ok(Corpus { ids, types, words, offsets })
    }

    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many tokens there are in all.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Where text `i` is in the arrays.
    pub fn range(&self, i: usize) -> Range<usize> {
        self.offsets[i] as usize..self.offsets[i + 1] as usize
    }

    /// The tokens of text `i`.
    pub fn ids(&self, i: usize) -> &[u32] {
        &self.ids[self.range(i)]
    }

    /// The words of the tokens of text `i`.
    pub fn words(&self, i: usize) -> &[u32] {
        &self.words[self.range(i)]
    }

    /// The tokens of each text, counted.
    pub fn lengths(&self) -> Vec<u32> {
        self.offsets.windows(2).map(|pair| (pair[1] - pair[0]) as u32).collect()
    }

    /// Ends the text whose tokens were pushed since the last one ended.
    pub(crate) fn end(&mut self) {
        self.offsets.push(self.ids.len() as u64);
    }

    /// Adds one token to the text that has not ended yet.
    pub(crate) fn push(&mut self, id: u32, kind: u8, word: u32) {
        self.ids.push(id);
        self.types.push(kind);
        self.words.push(word);
    }

    /// Adds the texts of another.
    pub fn append(&mut self, other: &Corpus) {
        let start = self.ids.len() as u64;
        self.ids.extend_from_slice(&other.ids);
        self.types.extend_from_slice(&other.types);
        self.words.extend_from_slice(&other.words);
        self.offsets.extend(other.offsets[1..].iter().map(|offset| offset + start));
    }

    /// The texts of the given numbers, in that order.
    pub fn select(&self, texts: &[u32]) -> Corpus {
        let mut chosen = Corpus::default();
        for &text in texts {
            let range = self.range(text as usize);
            chosen.ids.extend_from_slice(&self.ids[range.clone()]);
            chosen.types.extend_from_slice(&self.types[range.clone()]);
            chosen.words.extend_from_slice(&self.words[range]);
            chosen.end();
        }
        chosen
    }
}
