//! Where the time of a stage's training went.
use crate::number;
use serde::{Deserialize, Serialize};

/// The time of a stage's steps, by operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Seconds of training, evaluation and checkpoints left out.
    #[serde(deserialize_with = "number::or_nan")]
    pub seconds: f64,
    /// The most multiplications and additions a second that this machine does in the stage's precision.
    #[serde(deserialize_with = "number::or_nan")]
    pub ceiling: f64,
    /// The operations, the longest first.
    pub operations: Vec<Operation>,
}

/// What one operation took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Its name; the backward pass is an operation of its own.
    pub name: String,
    /// How often it ran.
    pub calls: u64,
    /// Seconds in it alone.
    #[serde(deserialize_with = "number::or_nan")]
    pub seconds: f64,
    /// Multiplications and additions of its products, counted from their shapes.
    pub operations: u64,
}
