//! What a set of predictions is worth: metrics and their confidence intervals, without tensors.
//!
//! Evaluation collects one [`Example`] after another into an [`Evidence`] (a few bytes each, never the logits), parts
//! of it computed elsewhere are appended, and a [`MetricKind`] turns the whole into a number and an interval:
//!
//! ```
//! use luthier_metrics::{Evidence, MetricKind, Pair};
//!
//! let mut evidence = Evidence::default();
//! for (gold, predicted) in [(0, 0), (1, 1), (1, 0), (2, 2)] {
//!     evidence.push(0.5, 1, &[Pair { gold, predicted }]);
//! }
//! let metric: MetricKind = "accuracy".parse()?;
//! assert_eq!(metric.score(&evidence), Some(0.75));
//! assert!(metric.interval(&evidence, 7).is_some_and(|interval| interval.low <= 0.75 && 0.75 <= interval.high));
//! # Ok::<(), luthier_metrics::MetricError>(())
//! ```
//!
//! A metric keeps sums and counts only and divides once, in [`Metric::finish`], so that the result does not depend on
//! how the examples were batched, padded or shared out.
//! To add one: write a file with a type that implements [`Metric`], and its line in `registry.rs`.

mod accuracy;
mod bootstrap;
mod classes;
mod evidence;
mod f1;
mod loss;
mod matthews;
mod perplexity;
mod registry;

pub use accuracy::Accuracy;
pub use bootstrap::{Interval, LEVEL, RESAMPLES, bootstrap};
pub use classes::{ClassCounts, Counts};
pub use evidence::{Evidence, Example, Pair};
pub use f1::{MacroF1, MicroF1};
pub use loss::Loss;
pub use matthews::Matthews;
pub use perplexity::Perplexity;
pub use registry::{MetricError, MetricKind};

/// A quality measure as a running sum: start from the default, add examples, merge partial sums, finish once.
///
/// `merge` of two parts equals adding all their examples to one, in any order.
pub trait Metric: Default {
    /// Whether a higher or a lower value is the better one.
    const DIRECTION: Direction;
    /// What it measures, in one sentence for help and reports.
    const ABOUT: &'static str;

    /// Takes one example into account.
    fn add(&mut self, example: &Example<'_>);
    /// Takes everything into account that `other` has seen.
    fn merge(&mut self, other: Self);
    /// The value; `None` when nothing was there to measure.
    fn finish(&self) -> Option<f64>;
}

/// Which way a metric improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The higher the better (accuracy).
    Higher,
    /// The lower the better (loss).
    Lower,
}

impl Direction {
    /// Whether `new` is strictly better than `best`. A value that is not a number is worse than every number.
    pub fn improves(self, new: f64, best: f64) -> bool {
        match (new.is_nan(), best.is_nan()) {
            (true, _) => false,
            (false, true) => true,
            (false, false) => match self {
                Direction::Higher => new > best,
                Direction::Lower => new < best,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Direction::{Higher, Lower};

    #[test]
    fn improvement_is_strict_and_nan_never_wins() {
        assert!(Higher.improves(0.9, 0.8) && !Higher.improves(0.8, 0.8) && !Higher.improves(0.7, 0.8));
        assert!(Lower.improves(0.7, 0.8) && !Lower.improves(0.8, 0.8) && !Lower.improves(0.9, 0.8));
        for direction in [Higher, Lower] {
            assert!(!direction.improves(f64::NAN, 0.5) && !direction.improves(f64::NAN, f64::NAN));
            assert!(direction.improves(0.5, f64::NAN));
        }
    }
}
