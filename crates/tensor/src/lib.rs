//! The tensor engine: what fine-tuning on ragged text needs, and nothing else.
//!
//! - [`Tensor`]: a cheap handle to a dense row-major array on a [`Device`].
//! - [`Tape`]: records what needs a gradient, and only that; [`Tape::backward`] walks it once and frees as it goes.
//! - [`ops`]: about twenty coarse operations, each a file with its forward, its backward, a plain f64 reference and a test.
//! - [`Grads`]: what a backward pass leaves, one entry a trained parameter, dense or by rows.
//!
//! There is no padding anywhere: activations are `[tokens, width]`, and only attention and pooling know where the
//! sequences end. All SIMD, threads and `unsafe` of Luthier live in this crate.

mod device;
mod error;
mod grads;
mod instructions;
pub(crate) mod kernels;
pub mod ops;
mod profile;
mod tape;
mod tensor;

pub use device::Device;
pub use error::{Result, TensorError};
pub use grads::{Grad, Grads, RowGrad};
pub use instructions::Instructions;
pub use kernels::{
    ceiling::ceiling,
    map::map_file,
    parallel::{map, with_threads},
};
pub use luthier_random::Rng;
pub use ops::{
    absorbed::Absorbed,
    activation::Activation,
    adamw::{AdamW, AdamWState},
    attention::Attention,
    dropout::Dropout,
    vocabulary::VocabularyLoss,
};
pub use profile::{Clock, ProfileRow, Span};
pub use tape::{Flow, Precision, Tape, Var};
pub use tensor::{DType, Tensor};
