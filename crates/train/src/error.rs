//! What can go wrong in a run.

use std::path::PathBuf;

use luthier_data::DataError;
use luthier_metrics::MetricError;
use luthier_models::ModelError;
use luthier_nn::{NnError, TensorError};
use luthier_objectives::ObjectiveError;
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
    /// An objective that lacks what it needs.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
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
    /// A file of a run directory whose contents are not what was written.
    #[error("{path}: {problem}. {help}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        help: String,
    },
    /// A run directory that does not fit what is asked of it.
    #[error("{path}: {found}; expected {expected}. {help}", path = path.display())]
    Run {
        /// The run directory, or the file in it.
        path: PathBuf,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
        /// What to do.
        help: String,
    },
    /// Training went astray.
    #[error(
        "step {step}: the loss is {loss} and the norm of its gradient {norm}; the step had {which} {examples} of {path}. \
         The last checkpoint is untouched. Lower the learning rate, lengthen the warm-up, or look at these examples",
        path = path.display()
    )]
    NotFinite {
        /// The optimiser step, from 1.
        step: u64,
        /// The mean loss.
        loss: f64,
        /// The gradient's norm.
        norm: f64,
        /// The training file.
        path: PathBuf,
        /// What `examples` counts.
        which: &'static str,
        /// The examples of the step.
        examples: String,
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
            TrainError::Data(DataError::Corpus(_)) => false,
            TrainError::Data(_) | TrainError::Model(_) => true,
            TrainError::Network(error) => matches!(
                error,
                NnError::NoMatch { .. }
                    | NnError::Conflict { .. }
                    | NnError::Value { .. }
                    | NnError::Unsupported { .. }
            ),
            TrainError::Objective(_) | TrainError::Run { .. } => true,
            TrainError::Tensor(_)
            | TrainError::Record(_)
            | TrainError::File { .. }
            | TrainError::Damaged { .. }
            | TrainError::NotFinite { .. } => false,
            TrainError::Stage { source, .. } => source.is_user_input(),
        }
    }

    /// The operating system refused `action` on a file of the run.
    pub fn file(action: &'static str, path: &std::path::Path, source: std::io::Error) -> TrainError {
        let hint = "Check that the disk has room and that the folder can be read and written";
        TrainError::File { path: path.to_owned(), action, source, hint }
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
