//! Per-class counts: all that F1 and the Matthews coefficient need of a confusion matrix.
//!
//! Both are functions of its diagonal, its row sums and its column sums, so three counts a class do, not a square.
use crate::Example;

/// The counts of one class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// How often it was right and predicted (true positives).
    pub correct: u64,
    /// How often it was the right one.
    pub gold: u64,
    /// How often it was predicted.
    pub predicted: u64,
}

/// The counts of every class, by class number: classes are numbered from 0 without large gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassCounts(Vec<Counts>);

impl ClassCounts {
    /// Takes the answers of one example into account.
    pub fn add(&mut self, example: &Example<'_>) {
        for pair in example.pairs {
            let (gold, predicted) = (pair.gold as usize, pair.predicted as usize);
            self.grow(gold.max(predicted) + 1);
            self.0[gold].gold += 1;
            self.0[predicted].predicted += 1;
            self.0[gold].correct += u64::from(gold == predicted);
        }
    }

    /// Takes everything into account that `other` has seen.
    pub fn merge(&mut self, other: &ClassCounts) {
        self.grow(other.0.len());
        for (here, there) in self.0.iter_mut().zip(&other.0) {
            here.correct += there.correct;
            here.gold += there.gold;
            here.predicted += there.predicted;
        }
    }

    /// The classes that occur, be it as the right or as the predicted one.
    pub fn present(&self) -> impl Iterator<Item = &Counts> {
        self.0.iter().filter(|class| class.gold + class.predicted > 0)
    }

    fn grow(&mut self, classes: usize) {
        if self.0.len() < classes {
            self.0.resize(classes, Counts::default());
        }
    }
}

impl Counts {
    /// The harmonic mean of precision and recall, `2 correct / (gold + predicted)`; 0 for a class that does not occur.
    pub fn f1(&self) -> f64 {
        let both = self.gold + self.predicted;
        if both == 0 { 0.0 } else { (2 * self.correct) as f64 / both as f64 }
    }
}
