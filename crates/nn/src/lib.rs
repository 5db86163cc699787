//! What networks are made of, and how a run bends them.
//!
//! A fine-tuning run is a pretrained [`Network`], a [`Plan`] (inert data that says how the network is bent and what moves),
//! an objective, and one loop. This crate holds the parts that families, methods and objectives share, so that none of
//! the three needs to know the others.

mod batch;
mod cost;
mod cx;
mod error;
mod hooks;
mod network;
mod params;
mod plan;
mod registry;
mod select;
mod spec;

pub use batch::Batch;
pub use cost::Cost;
pub use cx::{Cx, Heads, Mode, Noise};
pub use error::{NnError, Result};
pub use hooks::{
    After, At, Edit, GradMap, LayerPrefix, Loss, OutputMap, Penalty, PlanMethod, Score, WeightMap, Wrap, added,
};
pub use luthier_random::Rng;
pub use luthier_tensor::{
    Activation, Clock, DType, Device, Dropout, Grad, Grads, Instructions, Precision, ProfileRow, Span, Tape, Tensor,
    TensorError, Var, ceiling, map_file,
};
pub use network::{Head, Network, VocabularyOutput};
pub use params::Params;
pub use plan::{Entry, Plan, Verb};
pub use registry::{About, nearest};
pub use select::Select;
pub use spec::{Extent, Init, ParamSpec, Part, Role, Site, Spec};
