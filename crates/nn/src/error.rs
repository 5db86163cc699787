//! What can go wrong between a plan and a network.

use luthier_tensor::TensorError;

/// An error of planning or of a forward pass.
#[derive(Debug, thiserror::Error)]
pub enum NnError {
    /// The engine refused an operation: shapes of a network that do not hold together.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A selector that picks nothing.
    #[error("{method}: nothing in this network matches {wanted}; it has {available}. {hint}")]
    NoMatch {
        /// The method that asked.
        method: String,
        /// What it asked for.
        wanted: String,
        /// What there is.
        available: String,
        /// What to do.
        hint: String,
    },
    /// Two parts of a plan that cannot both hold, or one that would do nothing.
    #[error("{first} and {second} do not go together: {reason}. {hint}")]
    Conflict {
        /// One of them.
        first: String,
        /// The other.
        second: String,
        /// Why not.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// A value outside its range.
    #[error("{method}: {key} is {found}; expected {expected}")]
    Value {
        /// The method or place.
        method: String,
        /// The key.
        key: &'static str,
        /// What was found.
        found: String,
        /// What is possible.
        expected: String,
    },
    /// A parameter that the network needs and nobody made.
    #[error("the parameter {path} is needed and is not there; this is a mistake in the network's description")]
    MissingParameter {
        /// Its path.
        path: String,
    },
    /// A batch that breaks its own rules.
    #[error("a batch is inconsistent: {0}")]
    Batch(String),
    /// An objective or method that asks the network for what it has not.
    #[error("{what} is not possible here: {reason}")]
    Unsupported {
        /// What was asked.
        what: String,
        /// Why it cannot be.
        reason: String,
    },
}

/// The result type of this crate.
pub type Result<T, E = NnError> = std::result::Result<T, E>;
