//! Luthier fine-tunes pretrained language models.
//!
//! This crate re-exports the libraries under short names; the program `luthier` is a thin layer over [`train`].
//!
//! A fine-tuning run is a pretrained [`nn::Network`], a [`nn::Plan`] that says how it is bent and what moves, an objective,
//! and one loop. A plan needs no weights, so what a method would do to a network is known from its `config.json`:
//!
//! ```
//! use luthier::nn::{Head, Plan};
//! use luthier::tuning::methods::lora::Lora;
//!
//! let config = serde_json::json!({
//!     "model_type": "bert", "vocab_size": 1000, "hidden_size": 32, "num_hidden_layers": 2,
//!     "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 128,
//! });
//! let network = (luthier::models::family(&config)?.build)(&config, Head::Classify { labels: 2 })?;
//! let mut plan = Plan::new(network.spec().clone().into());
//! plan.apply("lora", &Lora { rank: 4, ..Lora::default() })?;
//! plan.check()?;
//!
//! let moving: usize = plan.params().filter(|param| plan.moves(&param.path)).map(|param| param.len()).sum();
//! // Two layers, query and value, A and B of rank 4; and the head.
//! assert_eq!(moving, 2 * 2 * 2 * 4 * 32 + 2 * 32 + 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use luthier_data as data;
pub use luthier_metrics as metrics;
pub use luthier_models as models;
pub use luthier_nn as nn;
pub use luthier_objectives as objectives;
pub use luthier_random as random;
pub use luthier_record as record;
pub use luthier_tensor as tensor;
pub use luthier_train as train;
pub use luthier_tuning as tuning;
