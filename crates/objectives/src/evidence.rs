//! From losses to scores: evaluation keeps a few numbers an example, and never divides before the end.

use luthier_metrics::{Evidence, Interval, MetricKind, Pair};
use luthier_nn::{Batch, Loss};

use crate::error::{ObjectiveError, Result};

/// The value of one metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Which.
    pub metric: MetricKind,
    /// Its value.
    pub value: f64,
    /// Where it would lie with other examples of the same kind, in 95 of 100 cases; where that is defined.
    pub interval: Option<Interval>,
}

/// Adds a batch to what is known so far, one example a sequence; parts of an evaluation are joined with
/// [`Evidence::append`].
///
/// # Errors
/// A loss that has not one prediction and one part for every target.
pub fn observe(evidence: &mut Evidence, batch: &Batch, loss: &Loss) -> Result<()> {
    let expected = batch.targets.len();
    for found in [loss.predictions.len(), loss.losses.len()] {
        if found != expected {
            return Err(ObjectiveError::Parts { found, expected });
        }
    }
    let pair = |(&gold, &predicted)| Pair { gold, predicted };
    let pairs: Vec<Pair> = batch.targets.iter().zip(&loss.predictions).map(pair).collect();
    let mut end = 0;
    for (sequence, bounds) in batch.offsets.windows(2).enumerate() {
        let start = end;
        // Rows are in ascending order, so the targets of a sequence follow one another.
        end = if batch.rows.is_empty() {
            expected.min(sequence + 1)
        } else {
            start + batch.rows[start..].iter().take_while(|&&row| row < bounds[1]).count()
        };
        let sum = loss.losses[start..end].iter().map(|&part| f64::from(part)).sum();
        evidence.push(sum, (end - start) as u64, &pairs[start..end]);
    }
    Ok(())
}

/// The values of some metrics, those that are undefined here left out; with bootstrap intervals over examples if a
/// seed is given.
pub fn scores(evidence: &Evidence, metrics: &[MetricKind], seed: Option<u64>) -> Vec<Scored> {
    let score = |i| {
        let metric: MetricKind = metrics[i];
        let interval = seed.and_then(|seed| metric.interval(evidence, seed));
        metric.score(evidence).map(|value| Scored { metric, value, interval })
    };
    luthier_tensor::map(metrics.len(), score).into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use luthier_nn::{Device, Tensor, Var};

    fn loss(losses: &[f32], predictions: &[u32]) -> Loss {
        Loss {
            sum: Var::constant(Tensor::full(&Device::cpu(), &[1], losses.iter().sum())),
            count: losses.len() as u64,
            logits: None,
            predictions: predictions.to_vec(),
            losses: losses.to_vec(),
        }
    }

    /// Three sequences, the second without a masked token: rows 1 and 2 are of the first, row 5 of the third.
    #[test]
    fn rows_go_to_their_sequences() -> Result<()> {
        let mut batch = Batch::new(vec![0; 7], vec![0; 7], vec![0, 3, 5, 7], &[0, 1, 2])?;
        (batch.rows, batch.targets) = (vec![1, 2, 5], vec![8, 9, 4]);
        let mut evidence = Evidence::default();
        observe(&mut evidence, &batch, &loss(&[1.0, 0.5, 0.25], &[8, 8, 4]))?;
        let found: Vec<(f64, u64, usize)> = evidence.iter().map(|e| (e.loss, e.count, e.pairs.len())).collect();
        assert_eq!(found, [(1.5, 2, 2), (0.0, 0, 0), (0.25, 1, 1)]);
        let metrics = [MetricKind::Loss, MetricKind::MaskedAccuracy, MetricKind::Perplexity];
        let values: Vec<f64> = scores(&evidence, &metrics, None).iter().map(|score| score.value).collect();
        assert_eq!(values, [1.75 / 3.0, 2.0 / 3.0, (1.75f64 / 3.0).exp()]);
        Ok(())
    }

    #[test]
    fn one_target_a_sequence_or_none_at_all() -> Result<()> {
        let mut batch = Batch::new(vec![0; 3], vec![0; 3], vec![0, 1, 3], &[0, 1])?;
        let mut evidence = Evidence::default();
        observe(&mut evidence, &batch, &loss(&[], &[]))?;
        assert_eq!((evidence.len(), evidence.iter().map(|e| e.count).sum()), (2, 0));
        assert!(scores(&evidence, &[MetricKind::Loss, MetricKind::Accuracy], Some(1)).is_empty());
        batch.targets = vec![1, 0];
        observe(&mut evidence, &batch, &loss(&[2.0, 4.0], &[1, 1]))?;
        let last = evidence.get(3).map(|e| (e.loss, e.pairs.to_vec()));
        assert_eq!(last, Some((4.0, vec![Pair { gold: 0, predicted: 1 }])));
        assert!(observe(&mut evidence, &batch, &loss(&[2.0], &[1, 1])).is_err());
        let scored = scores(&evidence, &[MetricKind::Accuracy], Some(1));
        assert!(scored[0].interval.is_some_and(|interval| interval.low <= 0.5 && 0.5 <= interval.high));
        Ok(())
    }
}
