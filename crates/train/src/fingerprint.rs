//! Hashes: what a run and a stage were computed from.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::path::Path;

use luthier_nn::Instructions;
use luthier_record::{Machine, Manifest};
use serde::Serialize;

use crate::error::{Result, TrainError};
use crate::recipe::{Dev, Recipe, Stage};

/// Grows when the same inputs would give other results, so that stages of an older version are not taken for finished.
const FORMAT: u32 = 1;

/// The files of a base model and its tokenizer that matter.
const MODEL_FILES: [&str; 3] = ["config.json", "model.safetensors", "model.safetensors.index.json"];
const TOKENIZER_FILES: [&str; 5] =
    ["tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"];

/// The hash of a file's bytes.
pub fn of_file(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(|source| TrainError::file("read", path, source))?;
    hasher.update_reader(file).map_err(|source| TrainError::file("read", path, source))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The hash of a value, through its JSON.
pub fn of(value: &impl Serialize) -> String {
    let json = serde_json::to_vec(&(FORMAT, value)).unwrap_or_default();
    blake3::hash(&json).to_hex().to_string()
}

/// The hashes of everything a recipe names, and the machine.
pub fn manifest(recipe: &Recipe, model: &Path) -> Result<Manifest> {
    let mut data = BTreeMap::new();
    for stage in &recipe.stage {
        for path in data_files(stage) {
            if let Entry::Vacant(entry) = data.entry(path.display().to_string()) {
                entry.insert(of_file(path)?);
            }
        }
    }
    let files = |names: &[&str]| -> Result<BTreeMap<String, String>> {
        let there = names.iter().filter(|name| model.join(name).exists());
        there.map(|name| Ok((name.to_string(), of_file(&model.join(name))?))).collect()
    };
    let mut base_model = files(&MODEL_FILES)?;
    for entry in std::fs::read_dir(model).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("model-") && name.ends_with(".safetensors") {
            base_model.insert(name.clone(), of_file(&model.join(name))?);
        }
    }
    Ok(Manifest {
        recipe: of(recipe),
        data,
        base_model,
        tokenizer: files(&TOKENIZER_FILES)?,
        versions: BTreeMap::from([("luthier".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
        machine: Machine::here(Instructions::current().name()),
    })
}

/// The files of a stage's data.
pub fn data_files(stage: &Stage) -> Vec<&Path> {
    let mut files = vec![stage.data.train.as_path()];
    if let Some(Dev::File(path)) = &stage.data.dev {
        files.push(path);
    }
    files.extend(stage.data.test.as_deref());
    files
}

/// The key of a stage: the hash of its recipe, the seed, its files and what it starts from.
pub fn stage_key(recipe: &Recipe, index: usize, manifest: &Manifest, before: &str) -> String {
    let stage = &recipe.stage[index];
    let data: Vec<_> = data_files(stage).iter().map(|path| manifest.data.get(&path.display().to_string())).collect();
    of(&(stage, recipe.seed, index, data, &manifest.base_model, &manifest.tokenizer, before))
}
