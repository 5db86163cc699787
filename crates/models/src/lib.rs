//! Model families: Hugging Face directories in, [`luthier_nn::Network`]s out.
//!
//! A family is one file and one line in [`FAMILIES`], keyed by Hugging Face's `model_type`.

mod bert;
mod error;
mod hub;

use luthier_nn::{Head, Network};

pub use error::{ModelError, Result};
pub use hub::{Checkpoint, Loaded, load_tensors, read_config, save_tensors};

/// A family of models.
#[derive(Clone, Copy)]
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// The prefix that Hugging Face's classes with a head put before the base model's tensors.
    pub prefix: &'static str,
    /// Builds the network from `config.json`, with a head.
    pub build: fn(&serde_json::Value, Head) -> Result<Box<dyn Network>>,
    /// The canonical path of a checkpoint's tensor.
    pub rename: fn(&str) -> String,
    /// The transformers class with this head, as `architectures` names it.
    pub architecture: fn(Head) -> &'static str,
}

impl std::fmt::Debug for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Family({})", self.model_type)
    }
}

/// Every family.
pub const FAMILIES: &[Family] = &[bert::FAMILY];

/// The family of a `config.json`.
///
/// # Errors
/// When `model_type` is missing or not one of [`FAMILIES`].
pub fn family(config: &serde_json::Value) -> Result<&'static Family> {
    let found = config.get("model_type").and_then(|v| v.as_str()).ok_or_else(|| ModelError::Config {
        key: "model_type".to_owned(),
        found: "nothing".to_owned(),
        expected: format!("one of {}", names()),
    })?;
    FAMILIES.iter().find(|f| f.model_type == found).ok_or_else(|| ModelError::Config {
        key: "model_type".to_owned(),
        found: found.to_owned(),
        expected: format!("one of {}", names()),
    })
}

fn names() -> String {
    FAMILIES.iter().map(|f| f.model_type).collect::<Vec<_>>().join(", ")
}
