//! Runs: from a recipe to a trained model.

pub mod assemble;
pub mod checkpoint;
pub mod dataset;
pub mod error;
pub mod evaluate;
pub mod explain;
pub mod export;
pub mod fingerprint;
pub mod inspect;
pub mod opened;
pub mod optimizer;
pub mod parse;
pub mod plan_stage;
pub mod recipe;
pub mod run;
pub mod schedule;
pub mod schema;
pub mod scratch;
pub mod step;
pub mod trunk;

pub use error::{Result, TrainError};
pub use luthier_nn::{Clock, Instructions, Precision, ceiling};
