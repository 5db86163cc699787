//! Runs: from a recipe to a trained model.

pub mod error;
pub mod parse;
pub mod plan_stage;
pub mod recipe;
pub mod schema;

pub use error::{Result, TrainError};
