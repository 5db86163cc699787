//! What an evaluation leaves behind for the metrics: per example, its loss and its answers.

/// A right answer and the one that was given, as class (or token) numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The number of the right class.
    pub gold: u32,
    /// The number of the predicted class.
    pub predicted: u32,
}

/// One evaluated example: the unit that confidence intervals resample.
///
/// A classified text has one pair and a loss of count 1; a text for masked language modelling has a pair for each
/// masked token. Those tokens share a text and are not independent, which is why they stay together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Example<'a> {
    /// The sum of the losses of everything predicted in this example, in nats.
    pub loss: f64,
    /// How many predictions that sum runs over.
    pub count: u64,
    /// The answers.
    pub pairs: &'a [Pair],
}

/// The examples of an evaluation, in the order in which they came.
///
/// It keeps 24 bytes an example and 8 a pair, so it is kept whole where logits would not be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    losses: Vec<(f64, u64)>,
    pairs: Vec<Pair>,
    /// Where the pairs of each example end.
    ends: Vec<usize>,
}

impl Evidence {
    /// Adds one example: the sum of its losses in nats, how many that sum runs over, and its answers.
    pub fn push(&mut self, loss: f64, count: u64, pairs: &[Pair]) {
        self.losses.push((loss, count));
        self.pairs.extend_from_slice(pairs);
        self.ends.push(self.pairs.len());
    }

    /// Adds all examples of `other` behind the ones here (another thread's or machine's share).
    pub fn append(&mut self, other: &Evidence) {
        for example in other.iter() {
            self.push(example.loss, example.count, example.pairs);
        }
    }

    /// How many examples there are: to be compared with the size of the data set.
    pub fn len(&self) -> usize {
        self.losses.len()
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.losses.is_empty()
    }

    /// The examples in order.
    pub fn iter(&self) -> impl Iterator<Item = Example<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// The example at `index`, counted from 0.
    pub fn get(&self, index: usize) -> Option<Example<'_>> {
        let &(loss, count) = self.losses.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(Example { loss, count, pairs: &self.pairs[start..self.ends[index]] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_come_back_with_their_own_pairs() {
        let pair = |gold, predicted| Pair { gold, predicted };
        let (mut all, mut rest) = (Evidence::default(), Evidence::default());
        all.push(1.0, 2, &[pair(1, 1), pair(2, 3)]);
        rest.push(0.0, 0, &[]);
        rest.push(0.5, 1, &[pair(4, 4)]);
        all.append(&rest);
        assert_eq!(all.len(), 3);
        assert_eq!(all.get(0).map(|e| e.pairs.to_vec()), Some(vec![pair(1, 1), pair(2, 3)]));
        assert_eq!(all.get(1), Some(Example { loss: 0.0, count: 0, pairs: &[] }));
        assert_eq!(all.get(2), Some(Example { loss: 0.5, count: 1, pairs: &[pair(4, 4)] }));
        assert_eq!(all.get(3), None);
    }
}
