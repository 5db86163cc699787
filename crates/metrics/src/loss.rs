//! Mean loss: the sum of all losses over their number, in nats.
//!
//! `loss = sum / count`, over predictions (tokens or labels), not over batches or examples: an example with twice the
//! tokens weighs twice.
use crate::{Direction, Example, Metric};

/// Registered as `loss`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loss {
    /// The sum of the losses, in nats.
    pub sum: f64,
    /// How many predictions the sum runs over.
    pub count: u64,
}

impl Metric for Loss {
    const DIRECTION: Direction = Direction::Lower;
    const ABOUT: &'static str = "mean loss of a prediction, in nats";

    fn add(&mut self, example: &Example<'_>) {
        self.sum += example.loss;
        self.count += example.count;
    }

    fn merge(&mut self, other: Loss) {
        self.sum += other.sum;
        self.count += other.count;
    }

    fn finish(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batch means would give (1 + 4) / 2; predictions count, so it is (1 + 12) / 4.
    #[test]
    fn predictions_weigh_not_examples() {
        let mut loss = Loss::default();
        assert_eq!(loss.finish(), None);
        loss.add(&Example { loss: 1.0, count: 1, pairs: &[] });
        loss.add(&Example { loss: 12.0, count: 3, pairs: &[] });
        loss.add(&Example { loss: 0.0, count: 0, pairs: &[] });
        assert_eq!(loss.finish(), Some(3.25));
    }
}
