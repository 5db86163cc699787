//! Re-initialised top layers: the layers most bound to pretraining begin anew.
//!
//! Paper: Zhang et al. 2021, <https://arxiv.org/abs/2006.05987>.
//! Equation: in the last `layers` layers and the pooler, weights `~ N(0, σ²)` with the model's `initializer_range` σ, biases
//! 0, norms' scales 1.
//! Trains: nothing of its own; what begins anew has to move by a method. The network does not begin as the pretrained one.
//! Defaults: one layer and the pooler, the least of the one to six that the paper tries; the best number differs by task.

use luthier_nn::{Edit, ParamSpec, Rng, Tensor};

use crate::prelude::*;

/// `kind = "reinit"`: the last layers begin anew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reinit {
    /// How many layers begin anew, counted from the output.
    pub layers: usize,
    /// Whether the pooler begins anew, where the network has one.
    pub pooler: bool,
}

impl Default for Reinit {
    fn default() -> Reinit {
        Reinit { layers: 1, pooler: true }
    }
}

impl Technique for Reinit {
    fn about(&self) -> About {
        About { paper: "Zhang et al. 2021", link: "https://arxiv.org/abs/2006.05987" }
    }
}

impl PlanMethod for Reinit {
    fn plan(&self, plan: &mut Plan, spec: &Spec) -> Result<()> {
        check::once(plan)?;
        let expected = format!("0 to {}, the layers of this network", spec.layers);
        check::value(plan, "layers", self.layers, self.layers <= spec.layers, &expected)?;
        let mut parts = Vec::new();
        if self.layers > 0 {
            parts.push(Select::all().layers(spec.layers - self.layers..spec.layers));
        }
        if self.pooler && spec.sites.iter().any(|site| site.role == Role::Pooler) {
            parts.push(Select::all().roles(&[Role::Pooler]));
        }
        check::value(plan, "layers", self.layers, !parts.is_empty(), "1 or more, or a pooler that begins anew")?;
        for select in parts {
            if let Some(fixed) = select.params(plan.method(), spec)?.iter().find(|param| !plan.moves(&param.path)) {
                let reason = format!("{} would begin at random and never move", fixed.path);
                let hint = "Train what begins anew, with { kind = \"full\" } or { kind = \"top\" }, or leave it out.";
                return Err(check::conflict(plan, "what trains", reason, hint));
            }
            plan.edit(&select, Arc::new(Anew))?;
        }
        Ok(())
    }
}

struct Anew;

impl Edit for Anew {
    fn edit(&self, param: &ParamSpec, value: &Tensor, rng: Rng) -> Result<Tensor> {
        Ok(param.init.draw(value.device(), value.shape(), rng)?)
    }
}

#[cfg(test)]
mod tests {
    use luthier_nn::{Device, Init};

    use super::*;
    use crate::methods::{bitfit::BitFit, full::Full, lora::Lora, top::Top};
    use crate::testing::{plan_of, refusal};

    #[test]
    fn the_top_begins_anew() {
        let plan = plan_of(3, &[("full", &Full::default()), ("reinit", &Reinit { layers: 2, pooler: true })]).unwrap();
        let paths: Vec<&String> = plan.edits().iter().flat_map(|(_, paths, _)| paths).collect();
        assert_eq!(paths.len(), 2 * 16 + 2);
        assert!(paths.iter().all(|path| !path.contains("layer.0.") && !path.contains("embeddings")));
    }

    #[test]
    fn weights_are_drawn_norms_are_one_biases_zero() {
        let plan = plan_of(1, &[("full", &Full::default()), ("reinit", &Reinit::default())]).unwrap();
        let (_, paths, edit) = &plan.edits()[0];
        for path in paths {
            let param = plan.params().find(|p| p.path == *path).unwrap();
            let before = Tensor::full(&Device::cpu(), &param.shape, 7.0);
            let after = edit.edit(param, &before, Rng::at(1, "edit", 0, 0).named(path)).unwrap().to_vec();
            if path.ends_with(".bias") {
                assert!(after.iter().all(|&x| x == 0.0), "{path}");
            } else if path.contains("LayerNorm") {
                assert!(after.iter().all(|&x| x == 1.0), "{path}");
            } else {
                let deviation = (after.iter().map(|x| x * x).sum::<f32>() / after.len() as f32).sqrt();
                assert_eq!(param.init, Init::Normal(0.02));
                assert!((0.01..0.03).contains(&deviation), "{path}: {deviation}");
            }
        }
    }

    #[test]
    fn what_begins_anew_must_move() {
        for method in [&BitFit::default() as &dyn PlanMethod, &Lora::default(), &Top { layers: 1, pooler: false }] {
            let error = refusal(&[("method", method), ("reinit", &Reinit::default())]);
            assert!(error.contains("would begin at random and never move"), "{error}");
        }
        plan_of(2, &[("top", &Top::default()), ("reinit", &Reinit { layers: 2, pooler: true })]).unwrap();
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let full = Full::default();
        let none = refusal(&[("full", &full), ("reinit", &Reinit { layers: 0, pooler: false })]);
        assert_eq!(none, "reinit: layers is 0; expected 1 or more, or a pooler that begins anew");
        let many = refusal(&[("full", &full), ("reinit", &Reinit { layers: 3, pooler: false })]);
        assert_eq!(many, "reinit: layers is 3; expected 0 to 2, the layers of this network");
    }
}
