//! What `luthier plan` shows: what would move and what not, how much memory and work it takes. It reads `config.json`, and
//! of the data and the tokenizer what is there; it reads no weights.

mod estimate;
mod rate;

use std::path::Path;
use std::sync::Arc;

use luthier_models::{Checkpoint, family, read_config};
use luthier_nn::{Cost, Entry, Extent, Head, Plan, Role, Site, Spec};
use luthier_objectives::ObjectiveConfig;
use serde::Serialize;
use serde_json::Value as Json;

use crate::error::Result;
use crate::plan_stage::plan_stage;
use crate::recipe::{Recipe, Stage};
use crate::run::max_length;
pub use estimate::{Count, Known, Texts};
pub use rate::Block;

/// What a recipe would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanReport {
    /// The model: its directory, or that it is new.
    pub model: String,
    /// The model's family, `model_type` in `config.json`.
    pub family: String,
    /// How many layers it has.
    pub layers: usize,
    /// The width of its residual stream.
    pub width: usize,
    /// The stages, in order.
    pub stages: Vec<StagePlan>,
}

/// What a stage would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StagePlan {
    /// Its name.
    pub name: String,
    /// Its objective.
    pub objective: String,
    /// How many labels there are, for an objective with labels.
    pub labels: Option<Count>,
    /// What the texts are like.
    pub texts: Texts,
    /// What moves and what not, a row a role.
    pub roles: Vec<RoleRow>,
    /// What the methods and stabilisers do, verb by verb, in the order of the recipe.
    pub entries: Vec<Entry>,
    /// Parameters of the network that the base model lacks and that begin at random; unknown without its weights.
    pub new: Option<Vec<String>>,
    /// Numbers in the network and in what methods add.
    pub parameters: u64,
    /// Those that move.
    pub trained: u64,
    /// What lies in memory.
    pub memory: Memory,
    /// One optimiser step.
    pub step: Step,
    /// How many optimiser steps the stage takes, where that is known.
    pub steps: Option<u64>,
    /// How many seconds the training of the stage takes at the speed that was measured; evaluations come on top.
    pub seconds: Option<f64>,
}

/// The parameters of one role.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoleRow {
    /// The role.
    pub role: Role,
    /// Whether methods brought these parameters.
    pub added: bool,
    /// The layers in which something moves, such as `0-11`; empty where nothing does, or outside the layers.
    pub layers: String,
    /// How many tensors there are.
    pub tensors: u64,
    /// How many of them move.
    pub moving_tensors: u64,
    /// How many numbers there are.
    pub numbers: u64,
    /// How many of them move.
    pub moving_numbers: u64,
    /// The lowest and the highest factor on the learning rate of what moves.
    pub rate: Option<(f64, f64)>,
}

/// Bytes in memory while a stage trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Weights.
    pub weights: u64,
    /// Gradients.
    pub gradients: u64,
    /// The optimiser's state.
    pub optimizer: u64,
    /// Saved activations of what goes through the network at once, about.
    pub activations: u64,
    /// All of it.
    pub total: u64,
}

/// One optimiser step, on average.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Step {
    /// Examples.
    pub examples: u64,
    /// Tokens, about.
    pub tokens: u64,
    /// How many examples go through the network at once, about.
    pub at_once: u64,
    /// Floating-point operations of the forward passes.
    pub forward: u64,
    /// Floating-point operations of the backward passes.
    pub backward: u64,
    /// Seconds, at the speed that was measured.
    pub seconds: Option<f64>,
}

/// What a recipe would do. `rate` says how many operations a second the machine does in a block of a stage's shape, if that is
/// to be measured ([`Block::measure`]): times follow from it.
///
/// # Errors
/// A model directory without a right `config.json`; methods that do not fit the network; data that is there and broken.
pub fn explain(recipe: &Recipe, rate: &dyn Fn(Block) -> Result<Option<f64>>) -> Result<PlanReport> {
    let (model, config, weights) = read_model(recipe)?;
    let weights = weights.as_ref();
    let mut report =
        PlanReport { model, family: family(&config)?.model_type.to_owned(), layers: 0, width: 0, stages: Vec::new() };
    let folder = recipe.model.path.as_deref();
    for stage in &recipe.stage {
        let (spec, planned) =
            explain_stage(stage, &config, weights, folder, rate).map_err(|error| error.in_stage(&stage.name))?;
        (report.layers, report.width) = (spec.layers, spec.width);
        report.stages.push(planned);
    }
    Ok(report)
}

/// The model's name, its configuration, and its weights' names and shapes where they are there.
fn read_model(recipe: &Recipe) -> Result<(String, Json, Option<Checkpoint>)> {
    if let Some(path) = &recipe.model.path {
        let config = read_config(path)?;
        let there = ["model.safetensors", "model.safetensors.index.json"].iter().any(|name| path.join(name).exists());
        let weights = if there { Some(Checkpoint::open(path)?) } else { None };
        return Ok((path.display().to_string(), config, weights));
    }
    let mut config = serde_json::Map::new();
    if let Some(new) = &recipe.model.new {
        config.extend(new.config.iter().map(|(key, value)| (key.clone(), value.clone())));
        config.insert("vocab_size".to_owned(), new.vocabulary.into());
    }
    Ok(("new, from scratch".to_owned(), Json::Object(config), None))
}

fn explain_stage(
    stage: &Stage,
    config: &Json,
    weights: Option<&Checkpoint>,
    folder: Option<&Path>,
    rate: &dyn Fn(Block) -> Result<Option<f64>>,
) -> Result<(Arc<Spec>, StagePlan)> {
    let most = max_length(stage, config)?;
    let facts = estimate::facts(stage, config, folder, most)?;
    let head = match &facts.labels {
        Some(labels) => Head::Classify { labels: labels.count as usize },
        None => Head::MaskedLm,
    };
    let network = (family(config)?.build)(config, head)?;
    let spec = Arc::new(network.spec().clone());
    let optional = |path: &String| spec.param(path).is_some_and(|p| matches!(p.role, Role::Head | Role::Pooler));
    let new: Option<Vec<String>> = weights.map(|weights| weights.lacks(&spec).into_iter().filter(optional).collect());
    let plan = plan_stage(stage, spec.clone(), new.as_deref().unwrap_or_default())?;
    let vocabulary =
        network.vocabulary().and_then(|output| spec.param(&output.weight)).map_or(0, |p| p.shape[0] as u64);

    let batch = stage.train.batch as u64;
    let examples = facts.texts.examples.map_or(batch, |known| batch.min(known.count.max(1)));
    let length = (facts.texts.tokens.round() as u64).max(1);
    let at_once = (stage.train.token_budget as u64 / length).clamp(1, examples);
    let head_rows = |sequences: u64| match &stage.objective {
        ObjectiveConfig::MaskedLm(mlm) => ((sequences * length) as f64 * mlm.probability).ceil() as u64,
        _ => sequences,
    };
    let whole = Cost::of(&plan, examples, length, head_rows(examples), vocabulary);
    let part = Cost::of(&plan, at_once, length, head_rows(at_once), vocabulary);
    let (weights, gradients) = (4 * whole.parameters, 4 * whole.trained);
    // AdamW keeps two numbers for each that moves.
    let optimizer = 2 * gradients;
    let activations = part.activation_bytes;
    let memory =
        Memory { weights, gradients, optimizer, activations, total: weights + gradients + optimizer + activations };
    let block = Block {
        precision: stage.train.precision.into(),
        tokens: (at_once * length) as usize,
        width: spec.width,
        inner: inner(&spec),
    };
    // Kept trunks and second passes are no part of these operations, so nothing is said of their time.
    let counted = !stage.train.cache_trunk && plan.wraps().next().is_none();
    let rate = if counted { rate(block)? } else { None };
    let per_step = rate.map(|rate| (whole.forward + whole.backward) as f64 / rate);
    let per_epoch = facts.texts.examples.map(|known| known.count.div_ceil(batch));
    let epochs = stage.train.epochs.unwrap_or_default();
    let steps = stage.train.steps.or(per_epoch.map(|steps| (epochs * steps as f64).ceil() as u64));
    let planned = StagePlan {
        name: stage.name.clone(),
        objective: stage.objective.kind().to_owned(),
        labels: facts.labels,
        texts: facts.texts,
        roles: roles(&plan),
        entries: plan.entries().to_vec(),
        new,
        parameters: whole.parameters,
        trained: whole.trained,
        memory,
        step: Step {
            examples,
            tokens: examples * length,
            at_once,
            forward: whole.forward,
            backward: whole.backward,
            seconds: per_step,
        },
        steps,
        seconds: per_step.zip(steps).map(|(seconds, steps)| seconds * steps as f64),
    };
    Ok((spec, planned))
}

/// The width inside a feed-forward block.
fn inner(spec: &Spec) -> usize {
    let outputs = |site: &Site| match site.extent {
        Extent::Linear { outputs, .. } if site.role == Role::Up => Some(outputs),
        _ => None,
    };
    spec.sites.iter().find_map(outputs).unwrap_or(spec.width)
}

/// A row for each role of the network and of what methods added, in the order of the forward pass.
fn roles(plan: &Plan) -> Vec<RoleRow> {
    let mut rows: Vec<(RoleRow, Vec<usize>)> = Vec::new();
    let own = plan.spec().params.iter().map(|param| (param, false));
    for (param, added) in own.chain(plan.added().map(|param| (param, true))) {
        let same = |(row, _): &&mut (RoleRow, Vec<usize>)| row.role == param.role && row.added == added;
        let (row, layers) = match rows.iter_mut().find(same) {
            Some(entry) => entry,
            None => {
                let row = RoleRow {
                    role: param.role,
                    added,
                    layers: String::new(),
                    tensors: 0,
                    moving_tensors: 0,
                    numbers: 0,
                    moving_numbers: 0,
                    rate: None,
                };
                rows.push((row, Vec::new()));
                let last = rows.len() - 1;
                &mut rows[last]
            }
        };
        row.tensors += 1;
        row.numbers += param.len() as u64;
        if plan.moves(&param.path) {
            row.moving_tensors += 1;
            row.moving_numbers += param.len() as u64;
            let rate = plan.rate(&param.path);
            row.rate = Some(row.rate.map_or((rate, rate), |(low, high)| (low.min(rate), high.max(rate))));
            layers.extend(param.layer);
        }
    }
    rows.into_iter().map(|(row, layers)| RoleRow { layers: ranges(layers), ..row }).collect()
}

/// Numbers as ranges: `0-3, 7`.
fn ranges(mut numbers: Vec<usize>) -> String {
    numbers.sort_unstable();
    numbers.dedup();
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let show =
        |(first, last): (usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.into_iter().map(show).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_follow_each_other_are_a_range() {
        assert_eq!(ranges(vec![7, 0, 2, 1, 2, 9]), "0-2, 7, 9");
        assert_eq!(ranges(Vec::new()), "");
    }
}
