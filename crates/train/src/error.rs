//! What can go wrong in a run.

use std::path::PathBuf;

use luthier_data::DataError;
use luthier_metrics::MetricError;
use luthier_models::ModelError;
use luthier_nn::{NnError, TensorError};
use luthier_record::RecordError;

use crate::parse::Problems;

/// An error of a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// Everything that is wrong with a recipe, all of it at once.
    #[error(transparent)]
    Recipe(#[from] Problems),
    /// A data file, or what is asked of it.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A model directory.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A plan that does not hold, or a network that cannot do what is asked.
    #[error(transparent)]
    Network(#[from] NnError),
    /// The engine refused an operation.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A metric that there is not.
    #[error(transparent)]
    Metric(#[from] MetricError),
    /// A file of the run directory.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}. {hint}", path = path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// A stage whose parts do not go together.
    #[error("stage `{stage}`: {source}")]
    Stage {
        /// The stage.
        stage: String,
        /// What is wrong.
        source: Box<TrainError>,
    },
}

impl TrainError {
    /// Whether the recipe or the data is at fault (exit code 2), rather than the machine or the program (exit code 1).
    pub fn is_user_input(&self) -> bool {
        match self {
            TrainError::Recipe(_) | TrainError::Metric(_) => true,
            // A missing file is a wrong path; a full disk is not the recipe's fault.
            TrainError::Data(DataError::Io { source, .. }) | TrainError::Model(ModelError::File { source, .. }) => {
                source.kind() == std::io::ErrorKind::NotFound
            }
            TrainError::Data(DataError::Batch(_)) => false,
            TrainError::Data(_) | TrainError::Model(_) => true,
            TrainError::Network(error) => matches!(
                error,
                NnError::NoMatch { .. }
                    | NnError::Conflict { .. }
                    | NnError::Value { .. }
                    | NnError::Unsupported { .. }
            ),
            TrainError::Tensor(_) | TrainError::Record(_) | TrainError::File { .. } => false,
            TrainError::Stage { source, .. } => source.is_user_input(),
        }
    }

    /// The same error, with the stage it came from.
    pub fn in_stage(self, stage: &str) -> TrainError {
        match self {
            TrainError::Stage { .. } => self,
            other => TrainError::Stage { stage: stage.to_owned(), source: Box::new(other) },
        }
    }
}

/// The result type of this crate.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;
