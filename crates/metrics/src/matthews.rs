//! Matthews correlation coefficient: the correlation of right and predicted classes, for any number of classes.
//!
//! Paper: Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient",
//! <https://doi.org/10.1016/j.compbiolchem.2004.09.006>; for two classes, Matthews 1975.
//! With `s` answers, `c` of them right, `t_k` times class `k` right and `p_k` times predicted:
//! `(c s - sum_k p_k t_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k t_k^2))`.
//! 1 is perfect and 0 what chance gives. Where the root is 0 (only one class was predicted, or only one is right) the
//! fraction is undefined and the value is 0: nothing was told apart.
use crate::{ClassCounts, Direction, Example, Metric};

/// Registered as `matthews`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Matthews(
    /// The counts it is computed from.
    pub ClassCounts,
);

impl Metric for Matthews {
    const DIRECTION: Direction = Direction::Higher;
    const ABOUT: &'static str = "Matthews correlation of right and predicted classes: 1 is perfect, 0 is chance";

    fn add(&mut self, example: &Example<'_>) {
        self.0.add(example);
    }

    fn merge(&mut self, other: Matthews) {
        self.0.merge(&other.0);
    }

    fn finish(&self) -> Option<f64> {
        // Integers wide enough for squares of counts: the differences below would lose digits in floating point.
        let (mut s, mut c, mut gold_predicted, mut gold_squared, mut predicted_squared) = (0i128, 0, 0, 0, 0);
        for class in self.0.present() {
            let (gold, predicted) = (i128::from(class.gold), i128::from(class.predicted));
            s += gold;
            c += i128::from(class.correct);
            gold_predicted += gold * predicted;
            gold_squared += gold * gold;
            predicted_squared += predicted * predicted;
        }
        let spread = ((s * s - predicted_squared) as f64 * (s * s - gold_squared) as f64).sqrt();
        match s {
            0 => None,
            _ if spread == 0.0 => Some(0.0),
            _ => Some((c * s - gold_predicted) as f64 / spread),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pair;

    fn matthews(table: &[(u32, u32, usize)]) -> Option<f64> {
        let mut metric = Matthews::default();
        for &(gold, predicted, times) in table {
            metric.add(&Example { loss: 0.0, count: 1, pairs: &vec![Pair { gold, predicted }; times] });
        }
        metric.finish()
    }

    /// For two classes it is the formula of 1975: (tp tn - fp fn) / sqrt((tp+fp)(tp+fn)(tn+fp)(tn+fn)).
    #[test]
    fn two_classes_by_the_older_formula() {
        let (tp, tn, fp, miss) = (6.0f64, 3.0f64, 1.0f64, 2.0f64);
        let expected = (tp * tn - fp * miss) / ((tp + fp) * (tp + miss) * (tn + fp) * (tn + miss)).sqrt();
        let found = matthews(&[(1, 1, 6), (0, 0, 3), (0, 1, 1), (1, 0, 2)]);
        assert!(found.is_some_and(|value| (value - expected).abs() < 1e-15), "{found:?} {expected}");
    }

    #[test]
    fn extremes() {
        assert_eq!(matthews(&[]), None);
        assert_eq!(matthews(&[(0, 0, 2), (1, 1, 2), (2, 2, 2)]), Some(1.0));
        assert_eq!(matthews(&[(0, 1, 2), (1, 0, 2)]), Some(-1.0));
        assert_eq!(matthews(&[(0, 1, 5), (1, 1, 5)]), Some(0.0), "one predicted class");
        assert_eq!(matthews(&[(1, 0, 5), (1, 1, 5)]), Some(0.0), "one right class");
        assert_eq!(matthews(&[(0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1)]), Some(0.0), "chance");
    }
}
