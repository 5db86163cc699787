//! A finished run, opened: to measure it on other data, to predict, to export.

use std::path::{Path, PathBuf};

use luthier_data::{Cache, Example, Labels, Tokenizer};
use luthier_models::Checkpoint;
use luthier_nn::{Device, Params};
use luthier_objectives::{Draw, Examples, Prediction};
use luthier_record::{Event, Manifest, Scores};
use luthier_tuning::Method;

use crate::assemble::{Assembled, Carry, StageRecord, assemble, methods_of, read_carry, read_record, stage_dir};
use crate::dataset::Preparation;
use crate::error::{Result, TrainError};
use crate::evaluate::{Evaluation, evaluate};
use crate::parse::Source;
use crate::recipe::{Recipe, Stage};
use crate::run::{max_length, stage_seed};

/// A run whose last stage is finished.
pub struct Run {
    /// The run directory.
    pub path: PathBuf,
    /// The resolved recipe.
    pub recipe: Recipe,
    /// What the last stage left.
    pub record: StageRecord,
    /// The last stage's network, every parameter as the run left it.
    pub assembled: Assembled,
    /// What differs from the base model.
    pub carry: Carry,
    /// The base model.
    pub base: Checkpoint,
    /// Its directory.
    pub base_dir: PathBuf,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    device: Device,
}

impl Run {
    /// Opens a run directory.
    ///
    /// # Errors
    /// When it is none, when its last stage is not finished, when the base model is not what it was.
    pub fn open(path: &Path) -> Result<Run> {
        let refuse = |found: String, expected: &str, help: &str| TrainError::Run {
            path: path.to_owned(),
            found,
            expected: expected.to_owned(),
            help: help.to_owned(),
        };
        let recipe_path = path.join("recipe.toml");
        if !recipe_path.exists() {
            let help = "Name the folder that luthier train wrote, runs/NAME for one";
            return Err(refuse("no recipe.toml".to_owned(), "a run directory", help));
        }
        let recipe = Source::read(&recipe_path, &[])?.recipe;
        let device = Device::cpu();
        let base_dir = recipe.model.path.clone().unwrap_or_else(|| path.join("base"));
        let (index, stage) = match recipe.stage.iter().enumerate().next_back() {
            Some(last) => last,
            None => return Err(refuse("a recipe without stages".to_owned(), "at least one", "The run is damaged")),
        };
        let dir = stage_dir(path, index, &stage.name);
        let record = read_record(&dir)?.ok_or_else(|| {
            let found = format!("the last stage, {}, is not finished", stage.name);
            refuse(found, "a finished run", "Go on with luthier train RECIPE --resume")
        })?;
        let then = Manifest::read(&path.join("manifest.json"))?.base_model;
        let base = Checkpoint::open(&base_dir)?;
        for (name, hash) in then {
            if crate::fingerprint::of_file(&base_dir.join(&name))? != hash {
                let found = format!("{} is not the file that the run began with", base_dir.join(name).display());
                return Err(refuse(found, "the same base model", "Put the original file back, or train anew"));
            }
        }
        let tokenizer = Tokenizer::load(&base_dir)?;
        let carry = read_carry(&device, &dir, &record)?;
        let inherited: Vec<Method> = methods_of(&record.inherited, &dir)?;
        // The stage's own modules and those it inherited are in the parameters; nothing is to be folded any more.
        let mut methods = inherited;
        methods.extend(stage.method.iter().cloned());
        let kept = Carry { methods, ..carry.clone() };
        let labels = record.labels.as_ref();
        let seed = stage_seed(&recipe, index);
        let assembled = assemble(&device, &base, &tokenizer, stage, labels, &kept, Some(&record.new), seed)?;
        Ok(Run { path: path.to_owned(), recipe, record, assembled, carry, base, base_dir, tokenizer, device })
    }

    /// The last stage of the recipe.
    pub fn stage(&self) -> &Stage {
        &self.recipe.stage[self.recipe.stage.len() - 1]
    }

    /// Every parameter, as the run left it.
    pub fn params(&self) -> &Params {
        &self.assembled.params
    }

    /// The labels, for a classifier.
    pub fn labels(&self) -> Option<&Labels> {
        self.record.labels.as_ref()
    }

    fn evaluation(&self) -> Evaluation<'_> {
        let stage = self.stage();
        Evaluation {
            network: self.assembled.network.as_ref(),
            plan: &self.assembled.plan,
            objective: self.assembled.objective.as_ref(),
            metrics: stage.objective.get().task().metrics,
            params: &self.assembled.params,
            device: self.device.clone(),
            precision: stage.train.precision.into(),
            token_budget: stage.train.token_budget,
        }
    }

    /// The scores on a file of data, or on the recipe's test file; with what a person should know about the data.
    pub fn evaluate(&self, data: Option<&Path>, cache: &Path) -> Result<(Scores, Vec<Event>)> {
        let stage = self.stage();
        let path = match data.or(stage.data.test.as_deref()) {
            Some(path) => path,
            None => {
                return Err(TrainError::Run {
                    path: self.path.clone(),
                    found: "a recipe without a test file".to_owned(),
                    expected: "data to measure on".to_owned(),
                    help: "Name a file with --data".to_owned(),
                });
            }
        };
        let cache = Cache::new(cache);
        let preparation = Preparation {
            data: &stage.data,
            tokenizer: &self.tokenizer,
            max_length: max_length(stage, self.base.config())?,
            cache: &cache,
            seed: self.recipe.seed,
        };
        let mut notices = Vec::new();
        let texts = preparation.texts_of(path, self.labels().is_some())?;
        let part = preparation.part(&texts, self.labels(), &mut notices)?;
        Ok((evaluate(&self.evaluation(), &part, None)?, notices))
    }

    /// Predictions for texts, in their order, and how many texts were cut to the run's length. `source` is what messages
    /// call the file.
    pub fn predict(&self, texts: &[Example], source: &Path) -> Result<(Vec<Prediction>, usize)> {
        let stage = self.stage();
        let options = luthier_data::EncodeOptions {
            max_length: self.record.max_length,
            // A text must have its answer: one that is too long is cut unless the recipe forbids it.
            on_overlong: match stage.data.overlong {
                luthier_data::Overlong::Error => luthier_data::Overlong::Error,
                _ => luthier_data::Overlong::Truncate,
            },
        };
        let encoded = self.tokenizer.encode_all(texts, source, options)?;
        let cut = encoded.truncated.len();
        let examples = Examples { corpus: encoded.corpus, labels: Vec::new() };
        let mut predictions: Vec<Option<Prediction>> = vec![None; texts.len()];
        for chosen in luthier_data::order::evaluation_batches(&examples.corpus.lengths(), stage.train.token_budget) {
            let slots: Vec<u32> = (0..chosen.len() as u32).collect();
            let evaluation = self.evaluation();
            let batch = evaluation.objective.batch(&examples, &chosen, &slots, Draw::Evaluate)?;
            let found = evaluation.objective.predict(evaluation.network, &batch, &mut evaluation.context())?;
            for (&i, prediction) in chosen.iter().zip(found) {
                predictions[i as usize] = Some(prediction);
            }
        }
        Ok((predictions.into_iter().flatten().collect(), cut))
    }
}
