//! Layer-wise learning-rate decay: what lies deeper learns more slowly.
//!
//! Paper: Howard and Ruder 2018, <https://arxiv.org/abs/1801.06146> (discriminative fine-tuning); Zhang et al. 2021,
//! <https://arxiv.org/abs/2006.05987>, for BERT.
//! Equation: `rate(layer) = rate · decay^(layers - layer)`, layers counted from 0; the embeddings one step below layer 0.
//! Trains: nothing of its own. Head and pooler keep the full rate.
//! Defaults: decay 0.95, as Zhang et al.; ULMFiT's 1 / 2.6 per layer was for three layers of an LSTM.

use crate::prelude::*;

/// `kind = "llrd"`: learning rates that fall from the head to the embeddings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Llrd {
    /// The factor from a layer to the one below, above 0 and below 1.
    pub decay: f64,
}

impl Default for Llrd {
    fn default() -> Llrd {
        Llrd { decay: 0.95 }
    }
}

impl Technique for Llrd {
    fn about(&self) -> About {
        About { paper: "Howard and Ruder 2018", link: "https://arxiv.org/abs/1801.06146" }
    }
}

/// What lies below the first layer.
const BELOW: [Role; 4] = [Role::Embed, Role::Position, Role::Segment, Role::EmbedNorm];

impl PlanMethod for Llrd {
    fn plan(&self, plan: &mut Plan, spec: &Spec) -> Result<()> {
        check::value(plan, "decay", self.decay, self.decay > 0.0 && self.decay < 1.0, "above 0 and below 1")?;
        check::once(plan)?;
        if !plan.params().any(|p| plan.moves(&p.path) && (p.layer.is_some() || BELOW.contains(&p.role))) {
            let reason = "nothing moves in the layers or below them, so no rate would change";
            return Err(check::conflict(plan, "what trains", reason, "Leave it out, or train some layers."));
        }
        plan.lr(&Select::all().roles(&BELOW), self.decay.powi(spec.layers as i32 + 1))?;
        for layer in 0..spec.layers {
            plan.lr(&Select::all().layers([layer]), self.decay.powi((spec.layers - layer) as i32))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::{full::Full, lora::Lora, top::Top};
    use crate::testing::{plan_of, refusal};

    #[test]
    fn rates_fall_with_depth() {
        let plan = plan_of(3, &[("full", &Full::default()), ("llrd", &Llrd { decay: 0.5 })]).unwrap();
        let rate = |path: &str| plan.rate(path);
        assert_eq!(rate("classifier.weight"), 1.0);
        assert_eq!(rate("bert.pooler.dense.bias"), 1.0);
        assert_eq!(rate("bert.encoder.layer.2.output.dense.weight"), 0.5);
        assert_eq!(rate("bert.encoder.layer.1.attention.self.query.bias"), 0.25);
        assert_eq!(rate("bert.encoder.layer.0.output.LayerNorm.weight"), 0.125);
        for name in ["word_embeddings.weight", "position_embeddings.weight", "LayerNorm.bias"] {
            assert_eq!(rate(&format!("bert.embeddings.{name}")), 0.0625, "{name}");
        }
    }

    #[test]
    fn additions_have_their_layers_rate() {
        let plan = plan_of(2, &[("lora", &Lora::default()), ("llrd", &Llrd { decay: 0.5 })]).unwrap();
        assert_eq!(plan.rate("bert.encoder.layer.0.attention.self.query.lora_A.weight"), 0.25);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let full = Full::default();
        for decay in [0.0, 1.0, f64::NAN] {
            let error = refusal(&[("full", &full), ("llrd", &Llrd { decay })]);
            assert!(error.ends_with("expected above 0 and below 1"), "{error}");
        }
        let head = refusal(&[("top", &Top { layers: 0, pooler: true }), ("llrd", &Llrd::default())]);
        assert!(head.contains("no rate would change"), "{head}");
        let twice = refusal(&[("full", &full), ("llrd", &Llrd::default()), ("llrd", &Llrd::default())]);
        assert!(twice.contains("it is there twice"), "{twice}");
    }
}
