//! Luthier fine-tunes pretrained language models.
//!
//! This crate re-exports the libraries under short names. A fine-tuning run is a pretrained [`nn::Network`], a
//! [`nn::Plan`] that says how it is bent and what moves, an objective, and one loop.

pub use luthier_data as data;
pub use luthier_metrics as metrics;
pub use luthier_models as models;
pub use luthier_nn as nn;
pub use luthier_random as random;
pub use luthier_record as record;
pub use luthier_tensor as tensor;
pub use luthier_tuning as tuning;
