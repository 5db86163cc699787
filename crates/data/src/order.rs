//! The order of examples: a pure function of seed and epoch, so that a resumed run sees what it would have seen.

use luthier_random::Rng;
use std::ops::Range;

/// The order of `n` examples in an epoch.
pub fn order(seed: u64, epoch: u64, n: usize) -> Vec<u32> {
    Rng::at(seed, "shuffle", epoch, 0).permutation(n)
}

/// Which examples each optimiser step sees: epochs one after the other, each in its own order; the last step of an
/// epoch takes what is left, however little (no example is passed over).
#[derive(Debug, Clone)]
pub struct Order {
    seed: u64,
    examples: usize,
    batch: usize,
    /// The epoch whose order is at hand; computed when first needed.
    epoch: Option<u64>,
    order: Vec<u32>,
}

impl Order {
    /// The order of `examples` examples, `batch` (at least 1) a step.
    pub fn new(seed: u64, examples: usize, batch: usize) -> Order {
        Order { seed, examples, batch: batch.max(1), epoch: None, order: Vec::new() }
    }

    /// The steps of one epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.examples.div_ceil(self.batch) as u64
    }

    /// The epoch of a step, from 0.
    pub fn epoch_of(&self, step: u64) -> u64 {
        step / self.steps_per_epoch().max(1)
    }

    /// The examples of a step, counted from 0 over all epochs; none if there are no examples.
    /// Any step can be asked for: a new epoch costs one shuffle, and no step before it is gone through.
    pub fn step(&mut self, step: u64) -> &[u32] {
        let epoch = self.epoch_of(step);
        if self.epoch != Some(epoch) {
            self.order = order(self.seed, epoch, self.examples);
            self.epoch = Some(epoch);
        }
        let within = (step % self.steps_per_epoch().max(1)) as usize * self.batch;
        &self.order[within..(within + self.batch).min(self.examples)]
    }
}

/// Cuts a step's examples into micro-batches: runs of examples, in order, of at most `token_budget` tokens each.
/// An example longer than the budget goes alone. `lengths` are the tokens of every example.
pub fn micro_batches(examples: &[u32], lengths: &[u32], token_budget: usize) -> Vec<Vec<u32>> {
    runs(examples.iter().map(|&example| lengths[example as usize] as usize), token_budget)
        .into_iter()
        .map(|run| examples[run].to_vec())
        .collect()
}

/// Micro-batches of all examples for evaluation, the longest first: what does not fit into memory fails at once, and
/// sequences of one length stand together.
pub fn evaluation_batches(lengths: &[u32], token_budget: usize) -> Vec<Vec<u32>> {
    let mut examples: Vec<u32> = (0..lengths.len() as u32).collect();
    examples.sort_by_key(|&example| (std::cmp::Reverse(lengths[example as usize]), example));
    micro_batches(&examples, lengths, token_budget)
}

fn runs(lengths: impl Iterator<Item = usize>, budget: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (i, length) in lengths.enumerate() {
        match runs.last_mut() {
            Some(run) if tokens + length <= budget => {
                run.end = i + 1;
                tokens += length;
            }
            _ => {
                runs.push(i..i + 1);
                tokens = length;
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_epoch_sees_each_example_once_and_ends_short() {
        let mut order = Order::new(7, 10, 4);
        assert_eq!(order.steps_per_epoch(), 3);
        let epochs: Vec<Vec<u32>> =
            (0..2).map(|epoch| (0..3).flat_map(|step| order.step(epoch * 3 + step).to_vec()).collect()).collect();
        assert_eq!(order.step(2).len(), 2);
        assert_ne!(epochs[0], epochs[1]);
        for mut epoch in epochs {
            epoch.sort_unstable();
            assert_eq!(epoch, (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_resumed_order_is_the_same() {
        let mut through = Order::new(3, 101, 8);
        let steps: Vec<Vec<u32>> = (0..60).map(|step| through.step(step).to_vec()).collect();
        for step in [0, 13, 14, 59] {
            assert_eq!(Order::new(3, 101, 8).step(step), steps[step as usize]);
        }
        assert_eq!(Order::new(3, 0, 8).step(5), [0u32; 0]);
    }

    proptest! {
        #[test]
        fn micro_batches_keep_every_example_and_the_budget(
            lengths in prop::collection::vec(1u32..200, 1..60),
            budget in 1usize..600,
        ) {
            let examples = order(1, 0, lengths.len());
            let batches = micro_batches(&examples, &lengths, budget);
            prop_assert_eq!(batches.concat(), examples);
            let tokens = |batch: &[u32]| batch.iter().map(|&e| lengths[e as usize] as usize).sum::<usize>();
            for batch in &batches {
                prop_assert!(batch.len() == 1 || tokens(batch) <= budget);
            }
            // No two neighbours fit together: there are no more micro-batches than the order needs.
            for pair in batches.windows(2) {
                prop_assert!(tokens(&pair[0]) + lengths[pair[1][0] as usize] as usize > budget);
            }
            let mut all = evaluation_batches(&lengths, budget).concat();
            prop_assert!(all.windows(2).all(|p| lengths[p[0] as usize] >= lengths[p[1] as usize]));
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len() as u32).collect::<Vec<_>>());
        }
    }
}
