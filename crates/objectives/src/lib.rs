//! What is wanted of a network: objectives, from texts to losses, answers and scores.
//!
//! An objective has two halves. The numeric half is [`luthier_nn::Score`], which methods may wrap. The text half is
//! [`Objective`]: it says which head the network needs, turns tokenized [`Examples`] into batches, and logits into
//! [`Prediction`]s. What a recipe says about it is an [`ObjectiveConfig`], which knows its [`Task`] before any text is read.
//!
//! To add an objective: write a file with its configuration (an [`Intent`]) and its [`Objective`], and its line in the
//! registry below.

mod classify;
mod error;
mod evidence;
mod mlm;
mod pack;
#[cfg(test)]
mod testing;

use luthier_data::{Labels, Tokenizer};
use luthier_metrics::MetricKind;
use luthier_nn::{About, Batch, Cx, Head, Network, Score};

pub use classify::Classify;
pub use error::{ObjectiveError, Result};
pub use evidence::{Scored, observe, scores};
pub use mlm::MaskedLm;
pub use pack::{Draw, Examples};

luthier_nn::registry! {
    /// An objective as a recipe says it: `objective = { kind = "mlm", probability = 0.15 }`.
    ObjectiveConfig as Intent {
        "mlm" => MaskedLm(MaskedLm),
        "classify" => Classify(Classify),
    }
}

/// What a recipe says about an objective, with every value at hand.
pub trait Intent: Send + Sync {
    /// Where it comes from.
    fn about(&self) -> About;

    /// What the objective asks of the data, and by what it is measured. It depends on no text.
    fn task(&self) -> Task;

    /// Checks the values of the recipe; [`Intent::build`] does it too.
    ///
    /// # Errors
    /// A value outside its range, named by its key.
    fn check(&self) -> Result<()>;

    /// The objective for a tokenizer, and for the labels of the training data where the task has labels.
    ///
    /// # Errors
    /// Values out of range, labels that are needed and not given, a tokenizer that lacks a token.
    fn build(&self, labels: Option<&Labels>, tokenizer: &Tokenizer) -> Result<Box<dyn Objective>>;
}

/// What an objective asks of the data, and by what it is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// Whether every example needs a label.
    pub labelled: bool,
    /// Whether the network reads the same tokens of an example in every epoch.
    pub steady: bool,
    /// Whether its loss gives a distribution over labels for each example.
    pub logits: bool,
    /// The metrics it offers; the first decides unless the recipe says otherwise.
    pub metrics: &'static [MetricKind],
}

/// An objective: the text half, on top of the numeric half that [`Score`] is.
pub trait Objective: Score {
    /// What the network needs on top.
    fn head(&self) -> Head;

    /// A batch of the examples `chosen`, in that order. `slots[i]` is the place of `chosen[i]` in its optimiser step; its
    /// random masks in the network hang on it. What is drawn here hangs on `draw` and on the example alone, so that
    /// cutting a step into other batches changes nothing.
    ///
    /// # Errors
    /// An example that is not there, or that has no token.
    fn batch(&self, examples: &Examples, chosen: &[u32], slots: &[u32], draw: Draw) -> Result<Batch>;

    /// The answers for the sequences of a batch, which may lack targets.
    ///
    /// # Errors
    /// An objective that has no answers to give; shapes of a network that do not hold together.
    fn predict(&self, network: &dyn Network, batch: &Batch, cx: &mut Cx) -> Result<Vec<Prediction>>;
}

/// An answer for one text.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The label.
    pub label: String,
    /// How likely the network finds it, from 0 to 1.
    pub probability: f64,
    /// What the network says before probabilities are made of it, a number for each label in their order.
    pub logits: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_names_an_objective_and_its_keys() {
        let read = |json: &str| serde_json::from_str::<ObjectiveConfig>(json).map_err(|error| error.to_string());
        let mlm = read(r#"{"kind": "mlm", "probability": 0.3, "whole_word": true}"#).expect("a right one");
        assert_eq!(mlm.kind(), "mlm");
        assert_eq!(mlm.get().task().metrics[0], MetricKind::Loss);
        let json = serde_json::to_value(&mlm).expect("JSON");
        assert_eq!(json["probability"], 0.3);
        assert!(read(r#"{"kind": "classify"}"#).is_ok_and(|classify| classify.get().task().labelled));
        let error = read(r#"{"kind": "mlm", "probabilty": 0.3}"#).expect_err("a wrong key");
        assert!(error.contains("unknown field `probabilty`") && error.contains("probability"), "{error}");
        let error = read(r#"{"kind": "classify", "probability": 0.3}"#).expect_err("a key of another");
        assert!(error.contains("unknown field `probability`"), "{error}");
        let error = read(r#"{"kind": "mml"}"#).expect_err("a wrong kind");
        assert!(error.contains("`mlm`") && error.contains("`classify`"), "{error}");
    }

    #[test]
    fn defaults_are_in_range_and_kinds_have_metrics() {
        for objective in ObjectiveConfig::all() {
            assert!(objective.get().check().is_ok(), "{}", objective.kind());
            assert!(!objective.get().task().metrics.is_empty(), "{}", objective.kind());
        }
    }
}
