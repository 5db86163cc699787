//! Checkpoints: what a stage needs to go on to the same bits, written aside, synced, renamed.
//!
//! `checkpoints/STAGE-STEP/` holds `tensors.safetensors` (what moves, the optimiser's moments, what stabilisers remember)
//! and `state.json`. The weights of the best evaluation are a file of their own, `checkpoints/STAGE-best-STEP.safetensors`,
//! named by the state that counts on it. Nothing that the newest checkpoint names is ever removed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use luthier_models::{load_tensors, save_tensors};
use luthier_nn::{Device, Params};
use luthier_record::Best;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::optimizer::Optimizer;

/// What a checkpoint says beside its tensors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The stage's key: what it was computed from. Another key is another stage.
    pub key: String,
    /// Optimiser steps done.
    pub step: u64,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// Evaluations since then.
    pub stale: u64,
    /// Whether patience ran out: the stage trains no further.
    pub stopped: bool,
    /// Real tokens trained on.
    pub tokens: u64,
    /// Seconds spent training, evaluation left out.
    pub seconds: f64,
    /// How often each parameter was updated.
    pub updates: BTreeMap<String, u64>,
}

/// The checkpoints of one stage of a run.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    dir: PathBuf,
    stage: String,
}

/// Creates a folder and all above it.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| TrainError::file("create the folder", path, source))
}

/// Makes a rename last: the folder's own entry is synced.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|source| TrainError::file("sync the folder", path, source))
}

/// Writes a small file aside, syncs it, renames it.
pub(crate) fn write_file(path: &Path, contents: &[u8]) -> Result<()> {
    let aside = path.with_extension("writing");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&aside)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    write().map_err(|source| TrainError::file("write", path, source))
}

/// Reads a JSON file of ours.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).map_err(|source| TrainError::file("read", path, source))?;
    serde_json::from_slice(&text).map_err(|error| TrainError::Damaged {
        path: path.to_owned(),
        problem: error.to_string(),
        help: "The file was changed after it was written; take the folder away to begin the stage anew.".to_owned(),
    })
}

/// A value as JSON, indented, for people.
pub(crate) fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(value).unwrap_or_default();
    json.push(b'\n');
    json
}

impl Checkpoints {
    /// The checkpoints of `stage` in a run directory.
    pub fn new(run: &Path, stage: &str) -> Checkpoints {
        Checkpoints { dir: run.join("checkpoints"), stage: stage.to_owned() }
    }

    fn best_name(&self, step: u64) -> String {
        format!("{}-best-{step}.safetensors", self.stage)
    }

    fn best_path(&self, step: u64) -> PathBuf {
        self.dir.join(self.best_name(step))
    }

    /// Keeps the weights of the best evaluation.
    pub fn save_best(&self, step: u64, params: &Params) -> Result<()> {
        make_dir(&self.dir)?;
        save_tensors(&self.best_path(step), params.iter().map(|(path, tensor)| (path.to_owned(), tensor)))?;
        sync_dir(&self.dir)?;
        // Beside it the newest checkpoint and the best that it speaks of; those in between nobody needs.
        let mut keep = vec![self.best_name(step)];
        if let Some((_, name)) = self.steps()?.pop() {
            let progress: Progress = read_json(&self.dir.join(&name).join("state.json"))?;
            keep.extend(progress.best.map(|best| self.best_name(best.step)));
            keep.push(name);
        }
        self.prune(&keep)
    }

    /// The weights of the best evaluation.
    pub fn load_best(&self, device: &Device, step: u64) -> Result<Params> {
        Ok(load_tensors(device, &self.best_path(step))?)
    }

    /// Writes a checkpoint, then removes what it replaces. Gives back its path in the run directory.
    pub fn save(&self, progress: &Progress, moved: &Params, memory: &Params, optimizer: &Optimizer) -> Result<PathBuf> {
        let name = format!("{}-{}", self.stage, progress.step);
        let path = self.dir.join(&name);
        if path.exists() {
            // A run that was resumed here and stopped before its next step: it has nothing new to say.
            return Ok(Path::new("checkpoints").join(name));
        }
        let aside = self.dir.join(format!("{name}.writing"));
        if aside.exists() {
            fs::remove_dir_all(&aside).map_err(|source| TrainError::file("remove the left-over", &aside, source))?;
        }
        make_dir(&aside)?;
        let (moments, updates) = optimizer.save();
        let own = moved.iter().map(|(path, tensor)| (format!("param.{path}"), tensor));
        let remembered = memory.iter().map(|(path, tensor)| (format!("memory.{path}"), tensor));
        save_tensors(&aside.join("tensors.safetensors"), own.chain(remembered).chain(moments))?;
        write_file(&aside.join("state.json"), &to_json(&Progress { updates, ..progress.clone() }))?;
        sync_dir(&aside)?;
        fs::rename(&aside, &path).map_err(|source| TrainError::file("finish", &path, source))?;
        sync_dir(&self.dir)?;
        let best = progress.best.as_ref().map(|best| self.best_name(best.step));
        self.prune(&[name.clone()].into_iter().chain(best).collect::<Vec<_>>())?;
        Ok(Path::new("checkpoints").join(name))
    }

    /// The stage's newest whole checkpoint with this key.
    pub fn load(&self, device: &Device, key: &str) -> Result<Option<(Progress, Params, Params, Optimizer)>> {
        let Some((_, name)) = self.steps()?.pop() else { return Ok(None) };
        let path = self.dir.join(&name);
        let progress: Progress = read_json(&path.join("state.json"))?;
        if progress.key != key {
            return Ok(None);
        }
        let mut tensors = load_tensors(device, &path.join("tensors.safetensors"))?;
        let optimizer = Optimizer::restore(&mut tensors, &progress.updates)?;
        let (mut moved, mut memory) = (Params::default(), Params::default());
        for (name, tensor) in tensors.iter() {
            if let Some(path) = name.strip_prefix("param.") {
                moved.insert(path, tensor.clone());
            } else if let Some(path) = name.strip_prefix("memory.") {
                memory.insert(path, tensor.clone());
            }
        }
        Ok(Some((progress, moved, memory, optimizer)))
    }

    /// Whether a run directory holds any whole checkpoint.
    pub fn any(run: &Path) -> Result<bool> {
        let all = Checkpoints { dir: run.join("checkpoints"), stage: String::new() };
        Ok(all
            .entries()?
            .iter()
            .any(|name| all.dir.join(name).join("state.json").exists() && !name.ends_with(".writing")))
    }

    /// Removes everything of the stage.
    pub fn clear(&self) -> Result<()> {
        self.prune(&[])
    }

    /// The stage's whole checkpoints, by step.
    fn steps(&self) -> Result<Vec<(u64, String)>> {
        let mut steps: Vec<(u64, String)> = self
            .entries()?
            .into_iter()
            .filter_map(|name| Some((name.strip_prefix(&self.stage)?.strip_prefix('-')?.parse().ok()?, name)))
            .collect();
        steps.sort();
        Ok(steps)
    }

    fn entries(&self) -> Result<Vec<String>> {
        if !self.dir.exists() {
            return Ok(Vec::new());
        }
        let read = || -> std::io::Result<Vec<String>> {
            fs::read_dir(&self.dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        read().map_err(|source| TrainError::file("list", &self.dir, source))
    }

    /// Removes everything of the stage but what is to be kept.
    fn prune(&self, keep: &[String]) -> Result<()> {
        for name in self.entries()? {
            let rest = name.strip_prefix(&self.stage).and_then(|rest| rest.strip_prefix('-'));
            let ours = rest.is_some_and(|rest| {
                let stem = rest.trim_end_matches(".writing").trim_end_matches(".safetensors");
                stem.trim_start_matches("best-").parse::<u64>().is_ok()
            });
            if !ours || keep.contains(&name) {
                continue;
            }
            let path = self.dir.join(&name);
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|source| TrainError::file("remove the old checkpoint", &path, source))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen to fail without the removal: sixty improvements left sixty files.
    #[test]
    fn best_weights_do_not_pile_up() -> Result<()> {
        let dir = tempfile::tempdir().map_err(|source| TrainError::file("make", Path::new("."), source))?;
        let checkpoints = Checkpoints::new(dir.path(), "a");
        let (params, optimizer) = (Params::default(), Optimizer::default());
        for step in 1..=3 {
            checkpoints.save_best(step, &params)?;
        }
        assert_eq!(checkpoints.entries()?, ["a-best-3.safetensors"]);
        let best = Some(Best { step: 3, metric: "accuracy".to_owned(), value: 0.5 });
        checkpoints.save(&Progress { step: 3, best, ..Progress::default() }, &params, &params, &optimizer)?;
        checkpoints.save_best(4, &params)?;
        checkpoints.save_best(5, &params)?;
        let mut left = checkpoints.entries()?;
        left.sort();
        // A kill before the next checkpoint goes back to step 3, whose best is still there.
        assert_eq!(left, ["a-3", "a-best-3.safetensors", "a-best-5.safetensors"]);
        Ok(())
    }
}
