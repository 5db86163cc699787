//! A stage's network, put together from the base model and what earlier stages left. Training, evaluation, prediction
//! and export all begin here.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use luthier_data::{Labels, Tokenizer};
use luthier_models::{Checkpoint, load_tensors, save_tensors};
use luthier_nn::{Device, Init, Network, Params, Plan, Rng, Spec};
use luthier_objectives::Objective;
use luthier_record::StageSummary;
use luthier_tuning::Method;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{make_dir, read_json, sync_dir, to_json, write_file};
use crate::error::{Result, TrainError};
use crate::plan_stage::plan_after;
use crate::recipe::Stage;

/// What a stage leaves to the next one, and to those who use its result.
#[derive(Debug, Clone, Default)]
pub struct Carry {
    /// The key of the stage that left it; empty before the first.
    pub key: String,
    /// Every parameter that differs from the base model, or that it lacks.
    pub params: Params,
    /// The methods whose modules are in `params`.
    pub methods: Vec<Method>,
    /// The labels of the classifier in `params`.
    pub labels: Option<Labels>,
}

/// `stage.json` of a finished stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRecord {
    /// What it was computed from.
    pub key: String,
    /// What came out of it.
    pub summary: StageSummary,
    /// The labels of its classifier.
    pub labels: Option<Labels>,
    /// The methods of earlier stages whose modules act in it.
    pub inherited: Vec<serde_json::Value>,
    /// The methods whose modules are in its parameters, for the next stage.
    pub methods: Vec<serde_json::Value>,
    /// The most tokens of a text.
    pub max_length: usize,
    /// Parameters that the base model lacked.
    pub new: Vec<String>,
}

/// A stage's network, ready.
pub struct Assembled {
    /// The network with its head.
    pub network: Box<dyn Network>,
    /// What is wanted of it.
    pub objective: Box<dyn Objective>,
    /// How it is bent.
    pub plan: Plan,
    /// Every parameter.
    pub params: Params,
    /// Parameters that the base model lacks and no earlier stage made.
    pub new: Vec<String>,
    /// Tensors of the base model that the network does not use.
    pub unused: Vec<String>,
    /// Methods of earlier stages that act and do not move.
    pub inherited: Vec<Method>,
    /// Parameters that differ from the base model already, or that it lacks.
    pub differs: BTreeSet<String>,
}

/// Puts a stage's network together.
///
/// A finished stage is put together again with what was new when it began, as it was `recorded`.
///
/// # Errors
/// A base model that does not fit, methods that do not go together.
#[expect(clippy::too_many_arguments, reason = "everything that a stage is made of")]
pub fn assemble(
    device: &Device,
    base: &Checkpoint,
    tokenizer: &Tokenizer,
    stage: &Stage,
    labels: Option<&Labels>,
    carry: &Carry,
    recorded: Option<&[String]>,
    seed: u64,
) -> Result<Assembled> {
    let objective = stage.objective.get().build(labels, tokenizer)?;
    let network = (base.family().build)(base.config(), objective.head())?;
    let spec = Arc::new(network.spec().clone());
    let rows = spec.params.iter().find(|p| p.role == luthier_nn::Role::Embed).map_or(0, |p| p.shape[0]);
    if tokenizer.vocab_size() > rows {
        return Err(TrainError::Run {
            path: tokenizer.dir().to_owned(),
            found: format!("the tokenizer has {} tokens and the embedding {rows} rows", tokenizer.vocab_size()),
            expected: "a row for every token".to_owned(),
            help: "Use the tokenizer that belongs to the model".to_owned(),
        });
    }
    let loaded = base.load(device, &spec, labels.map(Labels::names), seed)?;
    let (mut params, mut new) = (loaded.params, loaded.new);
    let mut differs: BTreeSet<String> = new.iter().cloned().collect();
    let mut left = carry.params.clone();
    // A classifier is carried on only to the same labels, in the same order: its rows mean nothing for others.
    let same_labels = carry.labels.as_ref() == labels;
    for param in &spec.params {
        let Some(tensor) = left.remove(&param.path) else { continue };
        let head = param.role == luthier_nn::Role::Head && labels.is_some();
        if tensor.shape() == param.shape && (same_labels || !head) {
            params.insert(&param.path, tensor);
            differs.insert(param.path.clone());
            new.retain(|path| path != &param.path);
        }
    }
    let own: Vec<String> = stage.method.iter().map(crate::fingerprint::of).collect();
    let earlier: Vec<&Method> =
        carry.methods.iter().filter(|method| !own.contains(&crate::fingerprint::of(*method))).collect();
    let inherited = merge_earlier(&spec, &earlier, &mut params, &mut left, &mut differs)?;
    let plan = plan_after(stage, &inherited, spec, recorded.unwrap_or(&new))?;
    for added in plan.added() {
        let tensor = match left.remove(&added.path) {
            Some(tensor) if tensor.shape() == added.shape => tensor,
            _ => draw(device, added.init, &added.shape, seed, &added.path)?,
        };
        params.insert(&added.path, tensor);
        differs.insert(added.path.clone());
    }
    Ok(Assembled { network, objective, plan, params, new, unused: loaded.unused, inherited, differs })
}

fn draw(device: &Device, init: Init, shape: &[usize], seed: u64, path: &str) -> Result<luthier_nn::Tensor> {
    Ok(init.draw(device, shape, Rng::at(seed, "init", 0, 0).named(path))?)
}

/// Folds the modules of earlier methods into the weights; gives back the methods that cannot be folded.
fn merge_earlier(
    spec: &Arc<Spec>,
    earlier: &[&Method],
    params: &mut Params,
    left: &mut Params,
    differs: &mut BTreeSet<String>,
) -> Result<Vec<Method>> {
    let mut inherited = Vec::new();
    for method in earlier {
        let mut plan = Plan::new(spec.clone());
        plan.apply(method.kind(), method.get())?;
        if plan.added().next().is_none() {
            continue; // it moved parameters of the network and left nothing behind
        }
        let mut all = params.clone();
        for added in plan.added() {
            if left.contains(&added.path) {
                all.insert(&added.path, left.get(&added.path)?.clone());
            }
        }
        let (folded, whole) = plan.merge(&mut all)?;
        if !whole {
            inherited.push((*method).clone());
            continue;
        }
        for added in plan.added() {
            all.remove(&added.path);
            left.remove(&added.path);
        }
        *params = all;
        differs.extend(folded);
    }
    Ok(inherited)
}

/// The parameters of an assembled stage after the edits of its plan.
pub fn edited(assembled: &Assembled, seed: u64) -> Result<Params> {
    let mut params = assembled.params.clone();
    for (_, paths, edit) in assembled.plan.edits() {
        for path in paths {
            let Some(param) = assembled.plan.params().find(|p| &p.path == path) else { continue };
            let rng = Rng::at(seed, "edit", 0, 0).named(path);
            let value = edit.edit(param, params.get(path)?, rng)?;
            params.insert(path, value);
        }
    }
    Ok(params)
}

/// The folder of a stage in a run directory.
pub fn stage_dir(run: &Path, index: usize, name: &str) -> std::path::PathBuf {
    run.join("stages").join(format!("{}-{name}", index + 1))
}

/// Writes what a stage leaves: parameters first, `stage.json` last, so that a stage with a record is whole.
pub fn save_stage(dir: &Path, record: &StageRecord, params: &Params) -> Result<()> {
    make_dir(dir)?;
    save_tensors(&dir.join("params.safetensors"), params.iter().map(|(path, t)| (path.to_owned(), t)))?;
    write_file(&dir.join("stage.json"), &to_json(record))?;
    sync_dir(dir)
}

/// A finished stage's record, if it has one.
pub fn read_record(dir: &Path) -> Result<Option<StageRecord>> {
    let path = dir.join("stage.json");
    if path.exists() { read_json(&path).map(Some) } else { Ok(None) }
}

/// What a finished stage leaves to the next.
pub fn read_carry(device: &Device, dir: &Path, record: &StageRecord) -> Result<Carry> {
    let params = load_tensors(device, &dir.join("params.safetensors"))?;
    let methods = methods_of(&record.methods, dir)?;
    Ok(Carry { key: record.key.clone(), params, methods, labels: record.labels.clone() })
}

/// Methods from a record.
pub fn methods_of(values: &[serde_json::Value], dir: &Path) -> Result<Vec<Method>> {
    let read = |value: &serde_json::Value| {
        serde_json::from_value(value.clone()).map_err(|error| TrainError::Damaged {
            path: dir.join("stage.json"),
            problem: error.to_string(),
            help: "It was written by another version of Luthier; train the stage anew".to_owned(),
        })
    };
    values.iter().map(read).collect()
}
