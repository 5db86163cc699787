//! What the data of a recipe looks like to the model, before anything is trained.

use luthier_data::inspect::{Report, Set, inspect};
use luthier_data::{Cache, EncodeOptions, Tokenizer};
use serde::Serialize;

use crate::dataset::Preparation;
use crate::error::Result;
use crate::parse::Resolved;
use crate::run::max_length;

/// The data of one stage.
#[derive(Debug, Clone, Serialize)]
pub struct StageReport {
    /// The stage.
    pub stage: String,
    /// What its data looks like.
    pub report: Report,
}

/// Reports on the data of every stage. A model from scratch has no tokenizer yet: its vocabulary is learned first, into
/// `scratch`.
///
/// # Errors
/// Data or a tokenizer that cannot be read.
pub fn inspect_data(resolved: &Resolved, scratch: &std::path::Path) -> Result<Vec<StageReport>> {
    let recipe = &resolved.recipe;
    let base = crate::run::base_model(recipe, scratch, &luthier_nn::Device::cpu())?;
    let tokenizer = Tokenizer::load(&base)?;
    let config = luthier_models::read_config(&base)?;
    let cache = Cache::new(scratch);
    let mut reports = Vec::new();
    for stage in &recipe.stage {
        let work = || -> Result<StageReport> {
            let max_length = max_length(stage, &config)?;
            let preparation =
                Preparation { data: &stage.data, tokenizer: &tokenizer, max_length, cache: &cache, seed: recipe.seed };
            let read = preparation.read(stage.objective.get().task().labelled)?;
            // Texts that are packed into blocks are never too long.
            let limit = EncodeOptions { max_length, on_overlong: stage.data.overlong };
            let limit = (!preparation.packs(&stage.data.train)?).then_some(limit);
            let sets: Vec<Set> = read
                .parts()
                .map(|(name, texts)| Set { name, source: &texts.source, examples: &texts.examples })
                .collect();
            Ok(StageReport { stage: stage.name.clone(), report: inspect(&sets, &tokenizer, limit)? })
        };
        reports.push(work().map_err(|error| error.in_stage(&stage.name))?);
    }
    Ok(reports)
}
