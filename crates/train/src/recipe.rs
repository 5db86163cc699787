//! The recipe: what a person writes. Every key has a default, every default a source; unknown keys are errors.
//!
//! These types are the whole surface: the JSON schema, the checks with line numbers and the resolved recipe of a run
//! directory are made from them.

pub(crate) mod check;
pub(crate) mod document;
pub(crate) mod problems;
pub(crate) mod rules;
pub(crate) mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;

use luthier_data::{Format, Overlong, TextUnit};
use luthier_nn::Precision;
use luthier_objectives::ObjectiveConfig;
use luthier_tuning::{Method, Stabiliser};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A recipe: a model, then stages. Each stage starts from what the one before it left.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The seed of everything random: new weights, the order of the data, dropout, masks, the dev split.
    #[serde(default)]
    pub seed: u64,
    /// The model to start from.
    pub model: Model,
    /// The stages, in order.
    pub stage: Vec<Stage>,
}

/// The model to start from: a directory, or a new one from scratch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// A Hugging Face model directory. Relative paths start at the recipe's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// A new model with random weights and a vocabulary of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<NewModel>,
}

/// A model from scratch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewModel {
    /// The configuration, as `config.json` has it; `model_type` names the family. `vocab_size` is filled in.
    pub config: BTreeMap<String, serde_json::Value>,
    /// How many tokens the vocabulary is to have.
    pub vocabulary: u32,
    /// The text from which the vocabulary is learned, one text a line.
    pub text: PathBuf,
}

/// One stage: an objective on data, what moves, and how long.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Its name: in tables, in `--set stage.NAME.…`, in the run directory.
    pub name: String,
    /// What is wanted.
    pub objective: ObjectiveConfig,
    /// What it is learned from.
    pub data: Data,
    /// What moves. Default: everything (`full`).
    #[serde(default = "full")]
    pub method: Vec<Method>,
    /// What steadies the run. Default: gradients clipped to a norm of 1, as transformers' Trainer does.
    #[serde(default = "clip")]
    pub stabilise: Vec<Stabiliser>,
    /// How long, how fast.
    #[serde(default)]
    pub train: Train,
    /// When it is measured, and what is kept.
    #[serde(default)]
    pub evaluate: Evaluate,
}

fn full() -> Vec<Method> {
    vec![Method::Full(Default::default())]
}

fn clip() -> Vec<Stabiliser> {
    vec![Stabiliser::Clip(Default::default())]
}

/// The data of a stage. Relative paths start at the recipe's folder.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// The training file.
    pub train: PathBuf,
    /// A development file, or the fraction of the training data that is set aside for it (stratified by label, seeded).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<Dev>,
    /// A test file, measured once at the end of the stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<PathBuf>,
    /// The format of the files. Default: what their extension says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// The column of the text.
    #[serde(default = "text")]
    pub text: String,
    /// The column of the second text, if examples are pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<String>,
    /// The column of the label.
    #[serde(default = "label")]
    pub label: String,
    /// What a text is in a plain text file.
    #[serde(default)]
    pub unit: TextUnit,
    /// The most tokens of a text. Default: what the model can read; shorter costs less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// What happens to a longer text. Whatever it is, it is counted and said.
    #[serde(default)]
    pub overlong: Overlong,
    /// Whether texts are laid end to end and cut into blocks of `max_length` (for language modelling only). Default: yes
    /// for plain text, no for tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack: Option<bool>,
}

fn text() -> String {
    "text".to_owned()
}

fn label() -> String {
    "label".to_owned()
}

/// Where development data comes from.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Dev {
    /// A fraction of the training data, above 0 and below 1.
    Fraction(f64),
    /// A file.
    File(PathBuf),
}

/// How long and how fast a stage trains.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// How many times it goes through the data (transformers' Trainer: 3). Not together with `steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// How many optimiser steps. Not together with `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Examples per optimiser step. How many go through the network at once follows from `token_budget`.
    pub batch: usize,
    /// The peak learning rate of AdamW (transformers' Trainer: 5e-5).
    pub learning_rate: f64,
    /// How the learning rate goes after the warm-up (transformers' Trainer: linear).
    pub schedule: Schedule,
    /// The warm-up from 0: a fraction of the steps if below 1, else a number of steps (Mosbach et al. 2021: 0.1).
    pub warmup: f64,
    /// Decoupled weight decay, on weights; biases and norms do not decay (transformers' Trainer: 0).
    pub weight_decay: f64,
    /// AdamW's decay of the mean of gradients (PyTorch: 0.9).
    pub beta1: f64,
    /// AdamW's decay of the mean of squares (PyTorch: 0.999).
    pub beta2: f64,
    /// What AdamW adds to the denominator (PyTorch: 1e-8).
    pub epsilon: f64,
    /// The precision of matrix products.
    pub precision: PrecisionKey,
    /// The most tokens that go through the network at once. It changes memory and speed, and the result by rounding alone.
    pub token_budget: usize,
    /// Whether the layers below the first one that changes are computed once for each text, without their dropout, and
    /// kept, those of the dev data too (in memory up to 1 GiB each, then in a file): the result of training with that dropout
    /// off, in much less time.
    pub cache_trunk: bool,
    /// How often a checkpoint is written.
    pub checkpoint: Every,
}

impl Default for Train {
    fn default() -> Train {
        Train {
            epochs: None,
            steps: None,
            batch: 32,
            learning_rate: 5e-5,
            schedule: Schedule::Linear,
            warmup: 0.1,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            precision: PrecisionKey::F32,
            token_budget: 4096,
            cache_trunk: false,
            checkpoint: Every::Word(EveryWord::Epoch),
        }
    }
}

/// The precision of matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionKey {
    /// 32-bit.
    F32,
    /// Operands rounded to bf16, everything else in f32.
    Bf16,
}

impl From<PrecisionKey> for Precision {
    fn from(key: PrecisionKey) -> Precision {
        match key {
            PrecisionKey::F32 => Precision::F32,
            PrecisionKey::Bf16 => Precision::Bf16,
        }
    }
}

/// How the learning rate goes after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Straight down to 0.
    Linear,
    /// Half a cosine down to 0.
    Cosine,
    /// It stays.
    Constant,
}

/// When something happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Every {
    /// Every so many optimiser steps.
    Steps(u64),
    /// `"epoch"` or `"never"`.
    Word(EveryWord),
}

/// When something happens, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EveryWord {
    /// At the end of every epoch, and at the end.
    Epoch,
    /// Only at the end.
    Never,
}

/// When a stage is measured on the dev data, and what is kept.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluate {
    /// How often.
    pub every: Every,
    /// What decides which weights are kept. Default: the objective's own (accuracy, loss).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// How many evaluations without an improvement end the stage; 0: none do.
    pub patience: u64,
    /// Whether the weights of the best evaluation are the result, not the last ones.
    pub keep_best: bool,
}

impl Default for Evaluate {
    fn default() -> Evaluate {
        Evaluate { every: Every::Word(EveryWord::Epoch), metric: None, patience: 0, keep_best: true }
    }
}
