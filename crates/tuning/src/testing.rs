//! A small network's description, made by hand, for the tests of this crate.

use std::sync::Arc;

use luthier_nn::{Extent, NnError, Plan, PlanMethod, Role, Spec};

pub(crate) const WIDTH: usize = 8;
pub(crate) const INNER: usize = 16;

/// A post-norm encoder with a pooler and a classifier, as BERT's checkpoints name them.
pub(crate) fn spec(layers: usize) -> Arc<Spec> {
    let mut spec = Spec::new("bert", layers, WIDTH, 2, 32);
    let norm = Extent::Norm { width: WIDTH, epsilon: 1e-12 };
    let square = Extent::Linear { inputs: WIDTH, outputs: WIDTH };
    let join = Extent::Join { width: WIDTH };
    let at = |name: &str| format!("bert.embeddings.{name}");
    for (role, name, rows) in
        [(Role::Embed, "word", 20), (Role::Position, "position", 32), (Role::Segment, "token_type", 2)]
    {
        spec.site(role, None, &at(&format!("{name}_embeddings")), Extent::Table { rows, width: WIDTH }, false);
    }
    spec.site(Role::EmbedNorm, None, &at("LayerNorm"), norm, true);
    for layer in 0..layers {
        let at = |name: &str| format!("bert.encoder.layer.{layer}.{name}");
        for (role, name) in [(Role::Query, "query"), (Role::Key, "key"), (Role::Value, "value")] {
            spec.site(role, Some(layer), &at(&format!("attention.self.{name}")), square, true);
        }
        spec.site(Role::Out, Some(layer), &at("attention.output.dense"), square, true);
        spec.site(Role::Attention, Some(layer), &at("attention.output"), join, false);
        spec.site(Role::AttentionNorm, Some(layer), &at("attention.output.LayerNorm"), norm, true);
        let up = Extent::Linear { inputs: WIDTH, outputs: INNER };
        spec.site(Role::Up, Some(layer), &at("intermediate.dense"), up, true);
        let down = Extent::Linear { inputs: INNER, outputs: WIDTH };
        spec.site(Role::Down, Some(layer), &at("output.dense"), down, true);
        spec.site(Role::FeedForward, Some(layer), &at("output"), join, false);
        spec.site(Role::FeedForwardNorm, Some(layer), &at("output.LayerNorm"), norm, true);
    }
    spec.site(Role::Pooler, None, "bert.pooler.dense", square, true);
    spec.site(Role::Head, None, "classifier", Extent::Linear { inputs: WIDTH, outputs: 3 }, true);
    Arc::new(spec)
}

/// The plan that these write over `layers` layers.
pub(crate) fn plan_of(layers: usize, methods: &[(&str, &dyn PlanMethod)]) -> Result<Plan, NnError> {
    let mut plan = Plan::new(spec(layers));
    for (name, method) in methods {
        plan.apply(name, *method)?;
    }
    plan.check()?;
    Ok(plan)
}

/// Why these cannot be planned over two layers.
pub(crate) fn refusal(methods: &[(&str, &dyn PlanMethod)]) -> String {
    plan_of(2, methods).expect_err("this should be refused").to_string()
}

/// The paths of what moves, in path order.
pub(crate) fn moved(plan: &Plan) -> Vec<String> {
    let mut paths: Vec<String> = plan.params().map(|p| p.path.clone()).filter(|path| plan.moves(path)).collect();
    paths.sort();
    paths
}
