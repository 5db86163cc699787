//! A full model directory as transformers writes it: `config.json`, `model.safetensors`, the tokenizer's own files.

use std::path::Path;

use luthier_models::{Checkpoint, save_tensors};
use luthier_nn::{Batch, Cx, Device, Head, Mode, Network, Params, Plan, Precision, Role, Tensor};
use serde_json::{Map, Value, json};

use super::{Job, LoadedBack, Module, card, kinds, same, unlike};
use crate::checkpoint::{to_json, write_file};
use crate::error::{Result, TrainError};
use crate::opened::Run;

/// What a tokenizer may consist of; copied byte for byte where it is there.
const TOKENIZER_FILES: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
];

/// How far an output may be from the run's after low-rank additions were folded into the weights, of the largest output.
const TOLERANCE: f64 = 1e-4;

/// Writes the directory: the network with every module folded into its weights.
pub(super) fn write(job: &mut Job, modules: &[Module]) -> Result<LoadedBack> {
    let run = job.run;
    let mut params = run.params().clone();
    let (folded, whole) = run.assembled.plan.merge(&mut params)?;
    if !whole {
        let kinds = kinds(modules);
        let help = match kinds.iter().find(|kind| **kind != "lora") {
            Some(&"adapter") => "Export to adapterhub, which carries adapters",
            Some(&"prefix") => "Export to peft, which carries prefixes",
            _ => "Train with methods that can be folded into weights",
        };
        let found = format!("the modules of {} cannot be folded into weights", kinds.join(" and "));
        return job.refuse(&found, "a result that is a plain model, for hf", help);
    }
    if !run.assembled.unused.is_empty() {
        let class = (run.base.family().architecture)(run.assembled.objective.head());
        job.notes.push(format!("No part of a {class} and left out: {}.", run.assembled.unused.join(", ")));
    }
    if !folded.is_empty() {
        job.notes.push(format!("Low-rank additions were folded into {} weights.", folded.len()));
    }
    write_model(run, job.dir, &params, |_| {})?;
    write_file(&job.dir.join("README.md"), card::model(run, job.out).as_bytes())?;
    load_back(run, job.dir, &params, !folded.is_empty())
}

/// Writes `config.json`, `model.safetensors` and the tokenizer's files; `patch` has the last word on the configuration.
pub(super) fn write_model(
    run: &Run,
    dir: &Path,
    params: &Params,
    patch: impl Fn(&mut Map<String, Value>),
) -> Result<()> {
    let mut config = config(run);
    patch(&mut config);
    write_file(&dir.join("config.json"), &to_json(&config))?;
    let mut tensors: Vec<(String, &Tensor)> = Vec::new();
    for param in &run.assembled.plan.spec().params {
        tensors.push((param.path.clone(), params.get(&param.path)?));
    }
    save_tensors(&dir.join("model.safetensors"), tensors)?;
    for name in TOKENIZER_FILES {
        let from = run.tokenizer.dir().join(name);
        if from.exists() {
            let bytes = std::fs::read(&from).map_err(|source| TrainError::file("read", &from, source))?;
            write_file(&dir.join(name), &bytes)?;
        }
    }
    Ok(())
}

/// The base model's configuration, every key kept, with what the run changed.
pub(super) fn config(run: &Run) -> Map<String, Value> {
    let mut config = run.base.config().as_object().cloned().unwrap_or_default();
    let head = run.assembled.objective.head();
    config.insert("architectures".to_owned(), json!([(run.base.family().architecture)(head)]));
    if let Some(labels) = run.labels() {
        let names = labels.names().iter().enumerate();
        let by_id: Map<String, Value> = names.clone().map(|(id, name)| (id.to_string(), json!(name))).collect();
        let by_name: Map<String, Value> = names.map(|(id, name)| (name.clone(), json!(id))).collect();
        config.insert("id2label".to_owned(), by_id.into());
        config.insert("label2id".to_owned(), by_name.into());
        config.insert("problem_type".to_owned(), json!("single_label_classification"));
        config.remove("num_labels"); // it follows from id2label
    }
    // transformers 5 reads `dtype`, transformers 4 `torch_dtype`.
    for key in ["dtype", "torch_dtype"] {
        config.insert(key.to_owned(), json!("float32"));
    }
    config
}

/// Opens the directory as a base model of its own and compares every parameter, and the outputs where weights changed.
fn load_back(run: &Run, dir: &Path, params: &Params, folded: bool) -> Result<LoadedBack> {
    let file = dir.join("model.safetensors");
    let checkpoint = Checkpoint::open(dir)?;
    let network = (checkpoint.family().build)(checkpoint.config(), run.assembled.objective.head())?;
    let loaded = checkpoint.load(&Device::cpu(), network.spec(), None, 0)?;
    if let Some(name) = loaded.new.iter().chain(&loaded.unused).next() {
        return Err(unlike(&file, format!("{name} is missing or superfluous")));
    }
    for param in &network.spec().params {
        same(
            &file,
            &param.path,
            loaded.params.contains(&param.path).then(|| loaded.params.get(&param.path)).transpose()?,
            params.get(&param.path)?,
        )?;
    }
    let tokenizer = luthier_data::Tokenizer::load(dir)?;
    if tokenizer.fingerprint() != run.tokenizer.fingerprint() {
        return Err(unlike(dir, "the tokenizer is another than the run's".to_owned()));
    }
    let parameters = network.spec().params.len();
    if !folded {
        return Ok(LoadedBack { parameters, largest_difference: None });
    }
    let plain = Plan::new(network.spec().clone().into());
    let ours = outputs(run.assembled.network.as_ref(), &run.assembled.plan, run.params())?;
    let theirs = outputs(network.as_ref(), &plain, &loaded.params)?;
    let largest = ours.iter().fold(1.0, |most: f64, x| most.max(f64::from(x.abs())));
    let differences = ours.iter().zip(&theirs).map(|(a, b)| f64::from((a - b).abs()));
    let difference = differences.fold(0.0, |most: f64, d| if d > most || d.is_nan() { d } else { most });
    let close = difference.is_finite() && difference <= TOLERANCE * largest;
    if !close || ours.len() != theirs.len() {
        return Err(unlike(&file, format!("an output is off by {difference:.1e} after the additions were folded in")));
    }
    Ok(LoadedBack { parameters, largest_difference: Some(difference) })
}

/// What a network makes of two made-up texts: logits, or hidden states where its head wants masked tokens.
fn outputs(network: &dyn Network, plan: &Plan, params: &Params) -> Result<Vec<f32>> {
    let spec = network.spec();
    let words = spec.params.iter().find(|p| p.role == Role::Embed).map_or(1, |p| p.shape[0]) as u32;
    let length = spec.max_length.min(12) as u32;
    // Any tokens will do, as long as they are many different ones.
    let ids: Vec<u32> = (0..length + 1).map(|i| (i * 7919 + 101) % words).collect();
    let batch = Batch::new(ids, vec![0; length as usize + 1], vec![0, length, length + 1], &[0, 1])?;
    let device = Device::cpu();
    let mut cx = Cx::new(&device, Precision::F32, plan, params, params, Mode::Evaluate, 0);
    let found = match network.vocabulary() {
        Some(_) => network.hidden(&batch, network.spec().layers, &mut cx)?,
        None => network.forward(&batch, &mut cx)?,
    };
    Ok(found.value().to_vec())
}

/// The class of transformers that loads the model with a head.
pub(super) fn auto_class(head: Head) -> &'static str {
    match head {
        Head::Classify { .. } => "AutoModelForSequenceClassification",
        Head::MaskedLm => "AutoModelForMaskedLM",
    }
}
