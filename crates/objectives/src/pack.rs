//! From tokenized examples to a packed batch.

use luthier_data::Corpus;
use luthier_nn::{Batch, Rng};

use crate::error::Result;

/// Tokenized texts with what is wanted of them. Tokenized once; batches copy ranges of ids.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Examples {
    /// The texts.
    pub corpus: Corpus,
    /// The label of each text; empty where there are none.
    pub labels: Vec<u32>,
}

/// From where an objective draws what it hides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// Anew in every epoch.
    Train {
        /// The run's seed.
        seed: u64,
        /// The epoch, from 0.
        epoch: u64,
    },
    /// Always the same, whatever the seed: losses of different epochs and runs are of the same hidden tokens.
    Evaluate,
}

impl Draw {
    /// The stream of an example, for a purpose.
    pub(crate) fn stream(self, purpose: &str, example: u32) -> Rng {
        match self {
            Draw::Train { seed, epoch } => Rng::at(seed, purpose, epoch, u64::from(example)),
            Draw::Evaluate => Rng::at(0, "evaluate", 0, u64::from(example)).named(purpose),
        }
    }
}

/// Lays the chosen texts end to end.
pub(crate) fn pack(corpus: &Corpus, chosen: &[u32], slots: &[u32]) -> Result<Batch> {
    let (mut ids, mut segments, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
    for &text in chosen {
        if text as usize >= corpus.len() {
            let what = format!("text {text} of a corpus of {}", corpus.len());
            return Err(luthier_nn::NnError::Batch(what).into());
        }
        let range = corpus.range(text as usize);
        ids.extend_from_slice(&corpus.ids[range.clone()]);
        segments.extend(corpus.types[range].iter().map(|&kind| u32::from(kind)));
        offsets.push(ids.len() as u32);
    }
    Ok(Batch::new(ids, segments, offsets, slots)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_keep_their_segments_and_slots_their_keys() -> Result<()> {
        let corpus = Corpus::new(vec![1, 2, 3, 4, 5], vec![0, 0, 0, 1, 1], vec![0; 5], vec![0, 2, 5])?;
        let batch = pack(&corpus, &[1, 0], &[7, 3])?;
        assert_eq!(batch.ids, [3, 4, 5, 1, 2]);
        assert_eq!(batch.segments, [0, 1, 1, 0, 0]);
        assert_eq!(batch.offsets, [0, 3, 5]);
        assert_eq!([batch.keys[1], batch.keys[3]], [(7 << 20) + 1, 3 << 20]);
        assert!(pack(&corpus, &[2], &[0]).is_err());
        Ok(())
    }

    #[test]
    fn evaluation_draws_are_none_of_training() {
        let train = Draw::Train { seed: 0, epoch: 0 }.stream("mask", 4);
        assert_ne!(train, Draw::Evaluate.stream("mask", 4));
        assert_ne!(train, Draw::Train { seed: 0, epoch: 1 }.stream("mask", 4));
        assert_ne!(train, Draw::Train { seed: 1, epoch: 0 }.stream("mask", 4));
        assert_ne!(train, Draw::Train { seed: 0, epoch: 0 }.stream("mask", 5));
    }
}
