//! The loop.

use std::collections::BTreeMap;

use luthier_data::Order;
use luthier_metrics::MetricKind;
use luthier_nn::{Batch, Clock, Cx, Device, Grads, Loss, Mode, Network, Params, Plan, Score, Wrap};
use luthier_objectives::{Draw, Objective};
use luthier_record::{Best, Event};

use crate::checkpoint::{Checkpoints, Progress};
use crate::dataset::{Part, StageData};
use crate::error::{Result, TrainError};
use crate::evaluate::{Evaluation, evaluate};
use crate::optimizer::Optimizer;
use crate::recipe::{Evaluate, Every, EveryWord, Train};
use crate::schedule;
use crate::trunk::Trunk;

/// What a stage's training reads and never changes.
pub struct StageRun<'a> {
    /// The network with its head.
    pub network: &'a dyn Network,
    /// How it is bent and what moves.
    pub plan: &'a Plan,
    /// What is wanted.
    pub objective: &'a dyn Objective,
    /// The tokens.
    pub data: &'a StageData,
    /// How long, how fast.
    pub train: &'a Train,
    /// When it is measured.
    pub evaluate: &'a Evaluate,
    /// What it is measured by.
    pub metrics: &'a [MetricKind],
    /// What decides.
    pub metric: MetricKind,
    /// Where it computes; with a clock if the time of its operations is taken.
    pub device: Device,
    /// The stage's seed.
    pub seed: u64,
    /// How many optimiser steps.
    pub steps: u64,
    /// What the layers that do not change make of the training texts, if it is kept.
    pub trunk: Option<&'a Trunk>,
    /// The same of the dev texts.
    pub dev_trunk: Option<&'a Trunk>,
}

impl StageRun<'_> {
    /// An evaluation of these parameters.
    pub fn evaluation<'a>(&'a self, params: &'a Params) -> Evaluation<'a> {
        Evaluation {
            network: self.network,
            plan: self.plan,
            objective: self.objective,
            metrics: self.metrics,
            params,
            device: self.device.unprofiled(),
            precision: self.train.precision.into(),
            token_budget: self.train.token_budget,
        }
    }
}

/// What training changes.
pub struct State {
    /// Every parameter of the network and its methods.
    pub params: Params,
    /// Their values when the stage began.
    pub base: Params,
    /// What stabilisers remember.
    pub memory: Params,
    /// The optimiser.
    pub optimizer: Optimizer,
    /// How far it is.
    pub progress: Progress,
}

/// The world outside: a clock, and whether somebody wants the run to stop.
pub struct Watch<'a> {
    /// Seconds since the process began.
    pub clock: &'a dyn Fn() -> f64,
    /// Whether to stop after this step.
    pub interrupted: &'a (dyn Fn() -> bool + Sync),
    /// A clock for the time of single operations, if it is wanted.
    pub profile: Option<Clock>,
}

/// How training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done, or patience ran out.
    Finished,
    /// Somebody stopped it; a checkpoint is written.
    Interrupted,
}

/// Trains one stage. This is the whole algorithm; everything else is a part it names.
///
/// # Errors
/// A loss that is not finite, a disk that is full; the last checkpoint is left as it was.
pub fn train(
    stage: &StageRun,
    state: &mut State,
    checkpoints: &Checkpoints,
    watch: &Watch,
    emit: &mut dyn FnMut(Event) -> Result<()>,
) -> Result<Ending> {
    let mut order = Order::new(stage.seed, stage.data.train.examples.corpus.len(), stage.train.batch);
    let lengths = stage.data.train.examples.corpus.lengths();
    let wraps: Vec<&dyn Wrap> = stage.plan.wraps().collect();
    let score = Wrapped { inner: stage.objective, wraps: &wraps };
    while state.progress.step < stage.steps && !state.progress.stopped {
        let (step, began) = (state.progress.step, (watch.clock)());
        let examples = order.step(step).to_vec();
        let (mut sum, mut count, mut tokens, mut grads) = (0.0, 0, 0, Grads::default());
        for (examples, batch) in batches(stage, &examples, &lengths, order.epoch_of(step))? {
            let (device, mode) = (&stage.device, Mode::Train { step });
            let precision = stage.train.precision.into();
            let mut cx = Cx::new(device, precision, stage.plan, &state.params, &state.base, mode, stage.seed);
            if let Some(trunk) = stage.trunk {
                cx.start_from(trunk.layers(), trunk.hidden(device, &examples)?);
            }
            let loss = score.loss(stage.network, &batch, &mut cx)?;
            sum += f64::from(loss.sum.value().item().unwrap_or(f32::NAN));
            count += loss.count;
            tokens += batch.tokens() as u64;
            cx.backward(&loss.sum, &mut grads)?;
        }
        grads.scale(1.0 / count.max(1) as f32); // the one division
        let span = stage.device.span("gradients");
        for penalty in stage.plan.penalties() {
            sum += count as f64 * penalty.penalty(stage.plan, &state.params, &state.base, &mut grads)?;
        }
        let (loss, norm) = (sum / count.max(1) as f64, grads.norm()?);
        if !loss.is_finite() || !norm.is_finite() {
            return Err(not_finite(step + 1, loss, norm, &stage.data.train, &examples));
        }
        for map in stage.plan.grads() {
            map.map(&mut grads, &state.params)?; // clip, mask, project
        }
        drop(span);
        let span = stage.device.span("optimiser");
        let rate = stage.train.learning_rate * schedule::factor(stage.train, step, stage.steps);
        state.optimizer.update(&mut state.params, &grads, stage.plan, stage.train, rate)?;
        drop(grads);
        for after in stage.plan.afters() {
            after.after(step + 1, stage.plan, &mut state.params, &mut state.memory)?;
        }
        drop(span);
        let seconds = (watch.clock)() - began;
        state.progress.step += 1;
        state.progress.tokens += tokens;
        state.progress.seconds += seconds;
        emit(Event::Step {
            step: state.progress.step,
            epoch: state.progress.step as f64 / order.steps_per_epoch() as f64,
            loss,
            gradient_norm: norm,
            learning_rate: rate,
            tokens,
            tokens_per_second: tokens as f64 / seconds.max(1e-9),
        })?;
        if is_due(&stage.evaluate.every, state.progress.step, order.steps_per_epoch(), stage.steps) {
            measure(stage, state, checkpoints, emit)?;
        }
        let interrupted = (watch.interrupted)();
        let last = state.progress.stopped || interrupted;
        if last || is_due(&stage.train.checkpoint, state.progress.step, order.steps_per_epoch(), stage.steps) {
            let path = checkpoints.save(
                &state.progress,
                &moved(stage.plan, &state.params),
                &state.memory,
                &state.optimizer,
            )?;
            emit(Event::Checkpoint { step: state.progress.step, path: path.display().to_string() })?;
        }
        if interrupted {
            return Ok(Ending::Interrupted);
        }
    }
    Ok(Ending::Finished)
}

/// The micro-batches of a step: as many examples at once as the token budget allows. Random masks hang on an example's
/// slot in the step, so the cut changes no number but the order of a sum.
fn batches(stage: &StageRun, examples: &[u32], lengths: &[u32], epoch: u64) -> Result<Vec<(Vec<u32>, Batch)>> {
    let _span = stage.device.span("batch");
    let slots: BTreeMap<u32, u32> = examples.iter().zip(0..).map(|(&example, slot)| (example, slot)).collect();
    let cut = luthier_data::order::micro_batches(examples, lengths, stage.train.token_budget);
    cut.into_iter()
        .map(|examples| {
            let slots: Vec<u32> = examples.iter().map(|example| slots[example]).collect();
            let draw = Draw::Train { seed: stage.seed, epoch };
            let batch = stage.objective.batch(&stage.data.train.examples, &examples, &slots, draw)?;
            Ok((examples, batch))
        })
        .collect()
}

/// Measures on the dev data, keeps what is best, counts patience down.
fn measure(
    stage: &StageRun,
    state: &mut State,
    checkpoints: &Checkpoints,
    emit: &mut dyn FnMut(Event) -> Result<()>,
) -> Result<()> {
    let Some(dev) = &stage.data.dev else { return Ok(()) };
    let served = served(stage.plan, &state.params, &state.memory);
    let scores = evaluate(&stage.evaluation(&served), dev, stage.dev_trunk)?;
    let value = scores.value(stage.metric.name()).unwrap_or(f64::NAN);
    let step = state.progress.step;
    let better = match &state.progress.best {
        Some(best) => stage.metric.direction().improves(value, best.value),
        None => value.is_finite(),
    };
    if better {
        if stage.evaluate.keep_best {
            checkpoints.save_best(step, &moved(stage.plan, &served))?;
        }
        state.progress.best = Some(Best { metric: stage.metric.name().to_owned(), value, step });
        state.progress.stale = 0;
    } else {
        state.progress.stale += 1;
    }
    emit(Event::Evaluated { step, split: "dev".to_owned(), scores, best: state.progress.best.clone() })?;
    let patience = stage.evaluate.patience;
    if let (Some(best), true) = (&state.progress.best, patience > 0 && state.progress.stale >= patience) {
        state.progress.stopped = true;
        emit(Event::StoppedEarly { step, best: best.clone(), patience })?;
    }
    Ok(())
}

/// The parameters to measure and to keep: what trains, or what a stabiliser makes of it.
pub fn served(plan: &Plan, params: &Params, memory: &Params) -> Params {
    plan.afters().fold(params.clone(), |params, after| after.result(&params, memory))
}

/// The parameters that a stage changes.
pub fn moved(plan: &Plan, params: &Params) -> Params {
    params.iter().filter(|(path, _)| plan.changes(path)).map(|(path, t)| (path.to_owned(), t.clone())).collect()
}

/// Whether something is due after `step` steps.
fn is_due(every: &Every, step: u64, epoch: u64, steps: u64) -> bool {
    match every {
        Every::Steps(n) => step.is_multiple_of((*n).max(1)) || step == steps,
        Every::Word(EveryWord::Epoch) => step.is_multiple_of(epoch.max(1)) || step == steps,
        Every::Word(EveryWord::Never) => step == steps,
    }
}

fn not_finite(step: u64, loss: f64, norm: f64, part: &Part, examples: &[u32]) -> TrainError {
    let lines: Vec<String> = examples.iter().filter_map(|&i| Some(part.lines.get(i as usize)?.to_string())).collect();
    let which = if lines.is_empty() { "blocks" } else { "lines" };
    let numbers = if lines.is_empty() { examples.iter().map(u32::to_string).collect() } else { lines };
    let path = part.source.clone();
    TrainError::NotFinite { step, loss, norm, path, which, examples: numbers.join(", ") }
}

/// An objective inside the wraps of a plan, the last one outermost.
struct Wrapped<'a> {
    inner: &'a dyn Score,
    wraps: &'a [&'a dyn Wrap],
}

impl Score for Wrapped<'_> {
    fn loss(&self, network: &dyn Network, batch: &Batch, cx: &mut Cx) -> luthier_nn::Result<Loss> {
        match self.wraps.split_last() {
            None => self.inner.loss(network, batch, cx),
            Some((outer, wraps)) => outer.loss(&Wrapped { inner: self.inner, wraps }, network, batch, cx),
        }
    }
}
