//! Evaluation: the same packed path without a tape, over sequences sorted by length.

use luthier_metrics::{Evidence, MetricKind};
use luthier_nn::{Cx, Device, Mode, Network, Params, Plan, Precision};
use luthier_objectives::{Draw, Objective, observe, scores};
use luthier_record::{Interval, Score, Scores};

use crate::dataset::Part;
use crate::error::Result;
use crate::trunk::Trunk;

/// The seed of bootstrap intervals: always the same, so that equal predictions have equal intervals.
const BOOTSTRAP_SEED: u64 = 0;

/// What is evaluated, and how.
pub struct Evaluation<'a> {
    /// The network with its head.
    pub network: &'a dyn Network,
    /// How it is bent.
    pub plan: &'a Plan,
    /// What is wanted.
    pub objective: &'a dyn Objective,
    /// What it is measured by.
    pub metrics: &'a [MetricKind],
    /// Its parameters.
    pub params: &'a Params,
    /// Where it computes.
    pub device: Device,
    /// The precision of products.
    pub precision: Precision,
    /// The most tokens at once.
    pub token_budget: usize,
}

impl<'a> Evaluation<'a> {
    /// A forward context: nothing random, nothing recorded.
    pub fn context(&self) -> Cx<'a> {
        Cx::new(&self.device, self.precision, self.plan, self.params, self.params, Mode::Evaluate, 0)
    }
}

/// The scores of some parameters on a split, with intervals. `trunk` is what the layers that do not change make of its texts,
/// if it is kept.
///
/// # Errors
/// A network that cannot be computed, a kept trunk that cannot be read.
pub fn evaluate(evaluation: &Evaluation, part: &Part, trunk: Option<&Trunk>) -> Result<Scores> {
    let corpus = &part.examples.corpus;
    let mut evidence = Evidence::default();
    for chosen in luthier_data::order::evaluation_batches(&corpus.lengths(), evaluation.token_budget) {
        let slots: Vec<u32> = (0..chosen.len() as u32).collect();
        let batch = evaluation.objective.batch(&part.examples, &chosen, &slots, Draw::Evaluate)?;
        let mut cx = evaluation.context();
        if let Some(trunk) = trunk {
            cx.start_from(trunk.layers(), trunk.hidden(&evaluation.device, &chosen)?);
        }
        let loss = evaluation.objective.loss(evaluation.network, &batch, &mut cx)?;
        observe(&mut evidence, &batch, &loss)?;
    }
    let scored = scores(&evidence, evaluation.metrics, Some(BOOTSTRAP_SEED));
    let score = |interval: Option<luthier_metrics::Interval>| {
        interval.map(|interval| Interval { low: interval.low, high: interval.high })
    };
    let pairs = scored.into_iter().map(|s| (s.metric.name(), Score { value: s.value, interval: score(s.interval) }));
    Ok(pairs.collect())
}
