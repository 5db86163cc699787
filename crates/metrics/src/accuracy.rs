//! Accuracy: the share of answers that are right.
//!
//! `accuracy = correct / total`, over pairs. Over the masked tokens of masked language modelling it goes by the name of
//! `masked_accuracy`.
use crate::{Direction, Example, Metric};

/// Registered as `accuracy` and as `masked_accuracy`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Accuracy {
    /// How many answers were right.
    pub correct: u64,
    /// How many answers there were.
    pub total: u64,
}

impl Metric for Accuracy {
    const DIRECTION: Direction = Direction::Higher;
    const ABOUT: &'static str = "share of right answers";

    fn add(&mut self, example: &Example<'_>) {
        self.correct += example.pairs.iter().filter(|pair| pair.gold == pair.predicted).count() as u64;
        self.total += example.pairs.len() as u64;
    }

    fn merge(&mut self, other: Accuracy) {
        self.correct += other.correct;
        self.total += other.total;
    }

    fn finish(&self) -> Option<f64> {
        (self.total > 0).then(|| self.correct as f64 / self.total as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pair;

    #[test]
    fn counts_pairs_not_examples() {
        let mut accuracy = Accuracy::default();
        assert_eq!(accuracy.finish(), None);
        let pair = |gold, predicted| Pair { gold, predicted };
        accuracy.add(&Example { loss: 0.0, count: 1, pairs: &[pair(3, 3)] });
        accuracy.add(&Example { loss: 0.0, count: 3, pairs: &[pair(1, 0), pair(0, 1), pair(1, 1)] });
        assert_eq!(accuracy.finish(), Some(0.5));
    }
}
