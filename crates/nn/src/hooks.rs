//! What methods and stabilisers put into a plan: one small trait a verb.

use luthier_random::Rng;
use luthier_tensor::{Grads, Tensor, Var};

use crate::batch::Batch;
use crate::cx::Cx;
use crate::error::Result;
use crate::network::Network;
use crate::params::Params;
use crate::plan::Plan;
use crate::spec::{Init, ParamSpec, Site, Spec};

/// A tuning method or stabiliser: writes its part of the plan. It needs no weights.
pub trait PlanMethod: Send + Sync {
    /// Adds this method's verbs to the plan of a network.
    fn plan(&self, plan: &mut Plan, spec: &Spec) -> Result<()>;
}

/// `edit`: changes a parameter once, before the first step.
pub trait Edit: Send + Sync {
    /// The new value. `rng` is the parameter's own stream.
    fn edit(&self, param: &ParamSpec, value: &Tensor, rng: Rng) -> Result<Tensor>;
}

/// `weight`: the effective weight at each forward pass.
pub trait WeightMap: Send + Sync {
    /// What the network sees instead of `value`, the parameter under `path`.
    fn weight(&self, cx: &mut Cx, path: &str, value: Var) -> Result<Var>;
}

/// Where an `output` hook stands.
#[derive(Debug)]
pub struct At<'a> {
    /// The site.
    pub site: &'a Site,
    /// A linear site's input; at the end of a sub-layer, the residual stream that its output is about to join.
    pub input: &'a Var,
    /// At the end of a post-norm sub-layer: the norm that follows the sum.
    pub norm: Option<&'a Site>,
}

/// `output`: changes what a site puts out.
pub trait OutputMap: Send + Sync {
    /// The new output.
    fn output(&self, cx: &mut Cx, at: &At, out: Var) -> Result<Var>;

    /// Whether [`OutputMap::fold`] has an answer, in training or outside of it.
    fn folds(&self, _training: bool) -> bool {
        false
    }

    /// The site's weight as the network sees it in this pass with this module folded in, if the module is now no more than
    /// another weight: what [`Cx::attend`] needs to pass keys and values by.
    fn fold(&self, _: &mut Cx, _: &Var) -> Result<Option<Var>> {
        Ok(None)
    }

    /// The site's weight with this module folded in, if that is possible.
    fn merge(&self, site: &Site, params: &Params, weight: &Tensor) -> Result<Option<Tensor>>;
}

/// `prefix`: extra keys and values of a layer's attention.
pub trait LayerPrefix: Send + Sync {
    /// Keys and values, `[prefix tokens, width]` each.
    fn prefix(&self, cx: &mut Cx, layer: usize) -> Result<(Var, Var)>;
}

/// A loss as it flows upward: a sum and a count, divided once, by the loop.
#[derive(Debug, Clone)]
pub struct Loss {
    /// The sum over what is counted, a scalar.
    pub sum: Var,
    /// How many were summed.
    pub count: u64,
    /// The logits, where the objective has them in memory: `[sequences, labels]`.
    pub logits: Option<Var>,
    /// The predicted target of each row or sequence.
    pub predictions: Vec<u32>,
    /// The loss of each row or sequence, in nats: what confidence intervals are made of.
    pub losses: Vec<f32>,
}

/// The numeric half of an objective.
pub trait Score: Send + Sync {
    /// The loss of one batch.
    fn loss(&self, network: &dyn Network, batch: &Batch, cx: &mut Cx) -> Result<Loss>;
}

/// `wrap`: an objective made from another; may run extra forward passes.
pub trait Wrap: Send + Sync {
    /// The loss of one batch in training; evaluation sees the plain objective.
    fn loss(&self, inner: &dyn Score, network: &dyn Network, batch: &Batch, cx: &mut Cx) -> Result<Loss>;
}

/// `penalty`: a term on parameters, once a step.
pub trait Penalty: Send + Sync {
    /// Adds the term's gradient to `grads` (which are means by now) and returns its value.
    fn penalty(&self, plan: &Plan, params: &Params, base: &Params, grads: &mut Grads) -> Result<f64>;
}

/// `grad`: changes the gradients before the update. They are applied in the order of the recipe.
pub trait GradMap: Send + Sync {
    /// Changes the step's mean gradients in place.
    fn map(&self, grads: &mut Grads, params: &Params) -> Result<()>;
}

/// `after`: acts when an update is done. What it remembers lies in `memory`, which checkpoints keep.
pub trait After: Send + Sync {
    /// Called after step `step` (counted from 1).
    fn after(&self, step: u64, plan: &Plan, params: &mut Params, memory: &mut Params) -> Result<()>;

    /// The parameters to evaluate and to keep: a moving average is not what trains.
    fn result(&self, params: &Params, memory: &Params) -> Params;
}

/// A new parameter of a method, under `path`, at the place of `site`.
pub fn added(site: &Site, path: String, shape: Vec<usize>, part: crate::spec::Part, init: Init) -> ParamSpec {
    ParamSpec { path, shape, role: site.role, layer: site.layer, part, init }
}
