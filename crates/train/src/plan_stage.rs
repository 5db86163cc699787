//! From a stage of a recipe to the plan of a network. `luthier plan` shows it and the training loop runs it: one function
//! makes it for both.

use std::sync::Arc;

use luthier_nn::{Plan, Spec};

use crate::error::{Result, TrainError};
use crate::recipe::Stage;
use luthier_tuning::Method;

/// The plan of a stage. `new` are the parameters that the base model lacks (a pooler, a head): they always move.
///
/// The stage's methods write first, in the order of the recipe, then its stabilisers, which may speak of what methods added.
///
/// # Errors
/// A method that picks nothing of this network, two that do not go together, a plan under which nothing moves.
pub fn plan_stage(stage: &Stage, spec: Arc<Spec>, new: &[String]) -> Result<Plan> {
    plan_after(stage, &[], spec, new)
}

/// The plan of a stage that finds modules of earlier stages in the network: they act, and do not move.
pub fn plan_after(stage: &Stage, inherited: &[Method], spec: Arc<Spec>, new: &[String]) -> Result<Plan> {
    let write = || -> Result<Plan> {
        let mut plan = Plan::new(spec);
        for method in inherited {
            plan.apply(method.kind(), method.get())?;
        }
        plan.freeze_added();
        for method in &stage.method {
            plan.apply(method.kind(), method.get())?;
        }
        plan.train_new(new);
        for stabiliser in &stage.stabilise {
            plan.apply(stabiliser.kind(), stabiliser.get())?;
        }
        if plan.wraps().next().is_some() && !stage.objective.get().task().logits {
            return Err(luthier_nn::NnError::Conflict {
                first: "r3f".to_owned(),
                second: format!("the objective {}", stage.objective.kind()),
                reason: "it has no distribution over labels to compare".to_owned(),
                hint: "Leave it out, or use it with classify.".to_owned(),
            }
            .into());
        }
        // Biases and norms do not decay, as in transformers' Trainer: they are all that has a single extent.
        plan.no_decay(|param| param.shape.len() < 2);
        plan.check()?;
        if stage.train.cache_trunk {
            check_trunk(stage, &plan)?;
        }
        Ok(plan)
    };
    write().map_err(|error: TrainError| error.in_stage(&stage.name))
}

/// Whether there is a trunk to keep.
fn check_trunk(stage: &Stage, plan: &Plan) -> Result<()> {
    let reason = match plan.still_layers() {
        None => "the embeddings change, or a stabiliser disturbs what they read",
        Some(_) if !stage.objective.get().task().steady => {
            "the objective shows the network other tokens in every epoch"
        }
        Some(_) => return Ok(()),
    };
    Err(luthier_nn::NnError::Conflict {
        first: "cache_trunk".to_owned(),
        second: "this stage".to_owned(),
        reason: reason.to_owned(),
        hint: "Leave cache_trunk out, or let only upper layers move: { kind = \"top\", layers = 1 }.".to_owned(),
    }
    .into())
}
