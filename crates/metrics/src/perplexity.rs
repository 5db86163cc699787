//! Perplexity: among how many equally likely tokens the model might as well be choosing.
//!
//! `perplexity = exp(sum / count)`, with the mean loss in nats over all predicted tokens. The exponential is taken once,
//! at the end: the mean of the batches' perplexities would be another, larger number.
use crate::{Direction, Example, Loss, Metric};

/// Registered as `perplexity`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Perplexity(
    /// The mean loss it is the exponential of.
    pub Loss,
);

impl Metric for Perplexity {
    const DIRECTION: Direction = Direction::Lower;
    const ABOUT: &'static str = "exponential of the mean loss of a token";

    fn add(&mut self, example: &Example<'_>) {
        self.0.add(example);
    }

    fn merge(&mut self, other: Perplexity) {
        self.0.merge(other.0);
    }

    fn finish(&self) -> Option<f64> {
        self.0.finish().map(f64::exp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens of probability 1/8 and 1/2 in different examples: the geometric mean of 8 and 2 is 4.
    #[test]
    fn is_the_geometric_mean_of_inverse_probabilities() {
        let mut perplexity = Perplexity::default();
        assert_eq!(perplexity.finish(), None);
        for probability in [0.125f64, 0.5] {
            perplexity.add(&Example { loss: -probability.ln(), count: 1, pairs: &[] });
        }
        assert!(perplexity.finish().is_some_and(|value| (value - 4.0).abs() < 1e-12));
    }
}
