//! The top layers: features from below, fine-tuning above.
//!
//! Paper: Lee, Tang and Lin 2019, <https://arxiv.org/abs/1911.03090>; the head alone: Donahue et al. 2014,
//! <https://arxiv.org/abs/1310.1531>.
//! Equation: `y = head(f_top(f_bottom(x)))`, where `f_bottom` is fixed.
//! Trains: the last `layers` layers and the pooler. Below them nothing is recorded, so steps are faster and smaller.
//! Defaults: two layers; the paper finds that a fourth of the layers of BERT and RoBERTa suffices for nine tenths of the
//! quality, which is two to three of the small encoders' six to twelve.

use crate::prelude::*;

/// `kind = "top"`: the last layers and the pooler move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Top {
    /// How many layers move, counted from the output. 0: none of them.
    pub layers: usize,
    /// Whether the pooler moves, where the network has one. With `layers = 0` and `false` only the head moves.
    pub pooler: bool,
}

impl Default for Top {
    fn default() -> Top {
        Top { layers: 2, pooler: true }
    }
}

impl Technique for Top {
    fn about(&self) -> About {
        About { paper: "Lee, Tang and Lin 2019", link: "https://arxiv.org/abs/1911.03090" }
    }
}

impl PlanMethod for Top {
    fn plan(&self, plan: &mut Plan, spec: &Spec) -> Result<()> {
        let expected = format!("0 to {}, the layers of this network", spec.layers);
        check::value(plan, "layers", self.layers, self.layers <= spec.layers, &expected)?;
        if self.layers > 0 {
            super::train(plan, spec, &Select::all().layers(spec.layers - self.layers..spec.layers))?;
        }
        if self.pooler && spec.sites.iter().any(|site| site.role == Role::Pooler) {
            super::train(plan, spec, &Select::all().roles(&[Role::Pooler]))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::lora::Lora;
    use crate::testing::{moved, plan_of, refusal};

    #[test]
    fn the_last_layers_move() {
        let plan = plan_of(4, &[("top", &Top { layers: 1, pooler: true })]).unwrap();
        let moved = moved(&plan);
        assert_eq!(moved.len(), 16 + 2 + 2);
        assert_eq!(moved.iter().filter(|path| path.starts_with("bert.encoder.layer.3.")).count(), 16);
    }

    #[test]
    fn the_head_alone() {
        let plan = plan_of(4, &[("top", &Top { layers: 0, pooler: false })]).unwrap();
        assert_eq!(moved(&plan), ["classifier.bias", "classifier.weight"]);
        let plan = plan_of(4, &[("top", &Top { layers: 0, pooler: true })]).unwrap();
        assert!(plan.moves("bert.pooler.dense.weight"));
    }

    #[test]
    fn more_layers_than_there_are_are_refused() {
        let error = refusal(&[("top", &Top { layers: 3, pooler: true })]);
        assert_eq!(error, "top: layers is 3; expected 0 to 2, the layers of this network");
    }

    #[test]
    fn a_module_beside_a_weight_that_moves_is_refused() {
        let (top, lora) = (Top { layers: 1, pooler: false }, Lora::default());
        for methods in [[("top", &top as &dyn PlanMethod), ("lora", &lora)], [("lora", &lora), ("top", &top)]] {
            let error = refusal(&methods);
            assert!(error.starts_with("lora and top do not go together: bert.encoder.layer.1."), "{error}");
        }
        let below = Lora { layers: vec![0], ..Lora::default() };
        plan_of(2, &[("top", &top), ("lora", &below)]).unwrap();
    }
}
