//! F1: the harmonic mean of precision and recall, over classes in two ways.
//!
//! Paper: van Rijsbergen 1979, "Information Retrieval", chapter 7 (the effectiveness measure, with equal weights).
//! With `correct`, `gold` and `predicted` counts of a class:
//! `f1 = 2 precision recall / (precision + recall) = 2 correct / (gold + predicted)`.
//! Macro: the mean of the classes' F1, over the classes that occur as the right or as a predicted one, each weighing
//! the same. Micro: F1 of the counts summed over classes; where each answer is one class, that is the accuracy.
use crate::{ClassCounts, Counts, Direction, Example, Metric};

/// Registered as `macro_f1`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MacroF1(
    /// The counts it is computed from.
    pub ClassCounts,
);

impl Metric for MacroF1 {
    const DIRECTION: Direction = Direction::Higher;
    const ABOUT: &'static str = "F1 averaged over the classes that occur, each weighing the same";

    fn add(&mut self, example: &Example<'_>) {
        self.0.add(example);
    }

    fn merge(&mut self, other: MacroF1) {
        self.0.merge(&other.0);
    }

    fn finish(&self) -> Option<f64> {
        let (sum, classes) = self.0.present().fold((0.0, 0u64), |(sum, n), class| (sum + class.f1(), n + 1));
        (classes > 0).then(|| sum / classes as f64)
    }
}

/// Registered as `micro_f1`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MicroF1(
    /// The counts summed over all classes.
    pub Counts,
);

impl Metric for MicroF1 {
    const DIRECTION: Direction = Direction::Higher;
    const ABOUT: &'static str = "F1 of the counts summed over classes; with one class per answer, the accuracy";

    fn add(&mut self, example: &Example<'_>) {
        let answers = example.pairs.len() as u64;
        let correct = example.pairs.iter().filter(|pair| pair.gold == pair.predicted).count() as u64;
        self.merge(MicroF1(Counts { correct, gold: answers, predicted: answers }));
    }

    fn merge(&mut self, other: MicroF1) {
        self.0.correct += other.0.correct;
        self.0.gold += other.0.gold;
        self.0.predicted += other.0.predicted;
    }

    fn finish(&self) -> Option<f64> {
        (self.0.gold > 0).then(|| self.0.f1())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pair;

    fn answers(pairs: &[(u32, u32)]) -> Vec<Pair> {
        pairs.iter().map(|&(gold, predicted)| Pair { gold, predicted }).collect()
    }

    /// By hand. Class 0: precision 2/3, recall 1, F1 4/5. Class 1: 1, 1/2, 2/3. Class 5 (gaps do not count): predicted
    /// once and never right, F1 0. Class 7: never predicted, 0.
    #[test]
    fn by_hand() {
        let pairs = answers(&[(0, 0), (0, 0), (1, 0), (1, 1), (7, 5)]);
        let example = Example { loss: 0.0, count: 5, pairs: &pairs };
        let (mut by_class, mut overall) = (MacroF1::default(), MicroF1::default());
        assert_eq!((by_class.finish(), overall.finish()), (None, None));
        by_class.add(&example);
        overall.add(&example);
        assert!(by_class.finish().is_some_and(|f1| (f1 - (0.8 + 2.0 / 3.0) / 4.0).abs() < 1e-15));
        assert_eq!(overall.finish(), Some(0.6));
    }
}
