//! What can be wrong with a model directory.

use std::path::PathBuf;

use luthier_nn::NnError;

/// An error of reading or writing a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file that cannot be read or written.
    #[error("{path}: {source}. {hint}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// A file whose contents are not what its name says.
    #[error("{path}: {problem}. {hint}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        hint: &'static str,
    },
    /// A value of `config.json`.
    #[error("config.json: {key} is {found}; expected {expected}")]
    Config {
        /// The key.
        key: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// Tensors that do not fit the configuration, all of them at once.
    #[error("{path}: {count} tensors do not fit config.json:\n{list}\nThe weights and config.json are of different models, or the file is damaged.", path = path.display(), count = problems.len(), list = problems.join("\n"))]
    Tensors {
        /// The directory.
        path: PathBuf,
        /// One line a tensor.
        problems: Vec<String>,
    },
    /// The network's description does not hold.
    #[error(transparent)]
    Network(#[from] NnError),
}

/// The result type of this crate.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;
