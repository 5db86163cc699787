//! LayerDrop: whole layers are left out at random in training.
//!
//! Paper: Fan, Grave and Joulin 2020, <https://arxiv.org/abs/1909.11556>.
//! Equation: `x ← m · (layer(x) - x) + x`, `m ~ Bernoulli(1 - p)`, one draw a layer and step; evaluation runs every layer.
//! Trains: nothing of its own. A layer that is left out costs nothing in its step.
//! Defaults: p 0.1. The paper pretrains with 0.2; half of it for networks that never saw a gap before.

use crate::prelude::*;

/// `kind = "layer_drop"`: layers are left out at random in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LayerDrop {
    /// The probability with which a layer is left out, above 0 and below 1.
    pub p: f64,
    /// Only these layers; empty means all of them.
    pub layers: Vec<usize>,
}

impl Default for LayerDrop {
    fn default() -> LayerDrop {
        LayerDrop { p: 0.1, layers: Vec::new() }
    }
}

impl Technique for LayerDrop {
    fn about(&self) -> About {
        About { paper: "Fan, Grave and Joulin 2020", link: "https://arxiv.org/abs/1909.11556" }
    }
}

impl PlanMethod for LayerDrop {
    fn plan(&self, plan: &mut Plan, spec: &Spec) -> Result<()> {
        check::value(plan, "p", self.p, self.p > 0.0 && self.p < 1.0, "above 0 and below 1")?;
        check::once(plan)?;
        let layers = check::layers(plan, spec, &self.layers)?;
        plan.skip(&layers, self.p)
    }
}

#[cfg(test)]
mod tests {
    use luthier_nn::{Cx, Device, Mode, Params, Precision};

    use super::*;
    use crate::methods::full::Full;
    use crate::testing::{plan_of, refusal};

    #[test]
    fn the_chosen_layers_are_left_out_as_often_as_asked_and_only_in_training() {
        let drop = LayerDrop { p: 0.3, layers: vec![0, 2] };
        let plan = plan_of(3, &[("full", &Full::default()), ("layer_drop", &drop)]).unwrap();
        let (device, params) = (Device::cpu(), Params::default());
        let skips = |mode, layer| Cx::new(&device, Precision::F32, &plan, &params, &params, mode, 5).skips(layer);
        let often = |layer| (0..2000).filter(|&step| skips(Mode::Train { step }, layer)).count();
        assert!((530..670).contains(&often(0)), "{}", often(0));
        assert!((530..670).contains(&often(2)), "{}", often(2));
        assert_eq!(often(1), 0);
        assert!(!skips(Mode::Evaluate, 0) && !skips(Mode::Evaluate, 2));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let full = Full::default();
        let one = refusal(&[("full", &full), ("layer_drop", &LayerDrop { p: 1.0, layers: vec![] })]);
        assert_eq!(one, "layer_drop: p is 1; expected above 0 and below 1");
        let layer = refusal(&[("full", &full), ("layer_drop", &LayerDrop { p: 0.5, layers: vec![2] })]);
        assert!(layer.contains("matches layer 2"), "{layer}");
        let twice = [
            ("full", &full as &dyn PlanMethod),
            ("layer_drop", &LayerDrop::default()),
            ("layer_drop", &LayerDrop::default()),
        ];
        assert!(refusal(&twice).contains("it is there twice"));
    }
}
