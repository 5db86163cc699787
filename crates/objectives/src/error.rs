//! What can go wrong between a text and a loss.

use luthier_data::DataError;
use luthier_nn::NnError;

/// An error of an objective.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectiveError {
    /// A value of the recipe outside its range.
    #[error("objective.{key} is {found}; expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What the recipe says.
        found: f64,
        /// What is possible.
        expected: &'static str,
    },
    /// A task with labels that got none.
    #[error(
        "the objective {kind} needs a label for every example and got {found}; \
         name the column of the labels with data.label"
    )]
    NoLabels {
        /// The objective.
        kind: &'static str,
        /// What there is: "3 labels for 4 examples", say.
        found: String,
    },
    /// Predictions from an objective that has none to give.
    #[error("the objective {kind} predicts no label for a text; predict with a stage whose objective is classify")]
    NoPredictions {
        /// The objective.
        kind: &'static str,
    },
    /// A network and a loss that do not fit: what it put out has not the parts that the batch asked for.
    #[error("a loss has {found} parts for {expected} targets; this is a mistake in the objective")]
    Parts {
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// The data, or a tokenizer that lacks a token.
    #[error(transparent)]
    Data(Box<DataError>),
    /// The network.
    #[error(transparent)]
    Network(#[from] NnError),
}

impl From<DataError> for ObjectiveError {
    fn from(error: DataError) -> ObjectiveError {
        // Boxed, for a result is moved far more often than it fails.
        ObjectiveError::Data(Box::new(error))
    }
}

/// The result type of this crate.
pub type Result<T, E = ObjectiveError> = std::result::Result<T, E>;
