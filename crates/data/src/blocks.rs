//! Texts without labels, packed into sequences of one length.

use crate::corpus::{Corpus, SPECIAL};
use crate::error::{DataError, Result};

/// Joins texts into one stream of tokens and cuts it into sequences `[CLS] ... [SEP]` of exactly `max_length` tokens;
/// the last is as long as what is left. Between two texts stands a `[SEP]`, as in RoBERTa's FULL-SENTENCES format
/// (Liu et al. 2019, <https://arxiv.org/abs/1907.11692>). Every token of every text is in exactly one sequence.
///
/// `documents` are texts tokenized without special tokens. Words are numbered anew within each sequence; a word that
/// a cut divides counts as a word on both sides.
///
/// # Errors
/// A length below 3, which leaves no room for text.
pub fn blocks(documents: &Corpus, max_length: usize, cls: u32, sep: u32) -> Result<Corpus> {
    if max_length < 3 {
        return Err(DataError::Request {
            what: "max_length",
            found: max_length.to_string(),
            expected: "at least 3: [CLS], a token of text, [SEP]".to_string(),
            help: "128 or more is usual",
        });
    }
    let mut packed = Corpus::default();
    let mut block = Block { word: 0, last: None, open: false };
    for document in 0..documents.len() {
        let (ids, words) = (documents.ids(document), documents.words(document));
        if ids.is_empty() {
            continue;
        }
        // At the start of a sequence the separator would only follow [CLS]: nothing is there to separate.
        if block.open {
            block.add(&mut packed, (sep, SPECIAL), max_length, cls, sep);
        }
        for (&id, &word) in ids.iter().zip(words) {
            block.add(&mut packed, (id, word), max_length, cls, sep);
        }
    }
    if block.open {
        block.close(&mut packed, sep);
    }
    Ok(packed)
}

/// The sequence being filled.
struct Block {
    /// The number of its next word.
    word: u32,
    /// The word of its last token; the separator between two texts has none, so their words never run together.
    last: Option<u32>,
    open: bool,
}

impl Block {
    fn add(&mut self, packed: &mut Corpus, token: (u32, u32), max_length: usize, cls: u32, sep: u32) {
        let (id, word) = token;
        if !self.open {
            packed.push(cls, 0, SPECIAL);
            *self = Block { word: 0, last: None, open: true };
        }
        if word == SPECIAL {
            packed.push(id, 0, SPECIAL);
        } else {
            if self.last != Some(word) {
                self.word += 1;
            }
            packed.push(id, 0, self.word - 1);
        }
        self.last = (word != SPECIAL).then_some(word);
        let start = packed.offsets.last().copied().unwrap_or(0) as usize;
        if packed.ids.len() - start == max_length - 1 {
            self.close(packed, sep);
        }
    }

    fn close(&mut self, packed: &mut Corpus, sep: u32) {
        packed.push(sep, 0, SPECIAL);
        packed.end();
        self.open = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLS: u32 = 1;
    const SEP: u32 = 2;

    #[test]
    fn by_hand() -> Result<()> {
        // Two texts: 10 11 (one word) 12, and 13; sequences of five.
        let corpus = Corpus::new(vec![10, 11, 12, 13], vec![0; 4], vec![0, 0, 1, 0], vec![0, 3, 3, 4])?;
        let packed = blocks(&corpus, 5, CLS, SEP)?;
        assert_eq!(packed.ids(0), [CLS, 10, 11, 12, SEP]);
        assert_eq!(packed.words(0), [SPECIAL, 0, 0, 1, SPECIAL]);
        assert_eq!(packed.ids(1), [CLS, 13, SEP]);
        let packed = blocks(&corpus, 7, CLS, SEP)?;
        assert_eq!(packed.ids(0), [CLS, 10, 11, 12, SEP, 13, SEP]);
        assert_eq!(packed.words(0), [SPECIAL, 0, 0, 1, SPECIAL, 2, SPECIAL]);
        assert!(blocks(&corpus, 2, CLS, SEP).is_err());
        assert!(blocks(&Corpus::default(), 8, CLS, SEP)?.is_empty());
        Ok(())
    }

    proptest! {
        #[test]
        fn no_token_is_lost(lengths in prop::collection::vec(0u64..9, 0..20), max_length in 3usize..12) {
            let offsets: Vec<u64> = std::iter::once(0).chain(lengths.iter().scan(0, |sum, n| { *sum += n; Some(*sum) })).collect();
            let n = offsets.last().copied().unwrap_or(0) as u32;
            let words = (0..n).map(|i| i / 2).collect();
            let corpus = Corpus::new((100..100 + n).collect(), vec![0; n as usize], words, offsets)?;
            let packed = blocks(&corpus, max_length, CLS, SEP)?;
            let text: Vec<u32> = packed.ids.iter().copied().filter(|&id| id >= 100).collect();
            prop_assert_eq!(&text, &corpus.ids);
            for i in 0..packed.len() {
                let ids = packed.ids(i);
                prop_assert!(ids[0] == CLS && ids[ids.len() - 1] == SEP);
                prop_assert!(ids.len() == max_length || (i + 1 == packed.len() && ids.len() < max_length));
                for (id, word) in ids.iter().zip(packed.words(i)) {
                    prop_assert_eq!(*id >= 100, *word != SPECIAL);
                }
            }
        }
    }
}
