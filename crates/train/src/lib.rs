//! Runs: from a recipe to a trained model.

pub mod error;
pub mod explain;
pub mod inspect;
pub mod step;
pub mod scratch;
pub mod schedule;
pub mod run;
pub mod optimizer;
pub mod opened;
pub mod fingerprint;
pub mod export;
pub mod evaluate;
pub mod dataset;
pub mod checkpoint;
pub mod assemble;
pub mod parse;
pub mod plan_stage;
pub mod recipe;
pub mod schema;

pub use error::{Result, TrainError};
