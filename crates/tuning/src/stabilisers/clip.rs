//! Gradient clipping by the global norm.
//!
//! Paper: Pascanu, Mikolov and Bengio 2013, <https://arxiv.org/abs/1211.5063>.
//! Equation: `g ← g · min(1, max_norm / (‖g‖ + 1e-6))`, where the norm runs over all gradients together; the small number is
//! that of PyTorch's `clip_grad_norm_`.
//! Trains: nothing of its own.
//! Defaults: a norm of 1, as BERT's code and those of most who fine-tune it.

use luthier_nn::{GradMap, Grads, Params};

use crate::prelude::*;

/// `kind = "clip"`: gradients longer than this are shortened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Clip {
    /// The greatest norm of all gradients together, above 0.
    pub max_norm: f64,
}

impl Default for Clip {
    fn default() -> Clip {
        Clip { max_norm: 1.0 }
    }
}

impl Technique for Clip {
    fn about(&self) -> About {
        About { paper: "Pascanu, Mikolov and Bengio 2013", link: "https://arxiv.org/abs/1211.5063" }
    }
}

impl PlanMethod for Clip {
    fn plan(&self, plan: &mut Plan, _: &Spec) -> Result<()> {
        let fits = self.max_norm > 0.0 && self.max_norm.is_finite();
        check::value(plan, "max_norm", self.max_norm, fits, "a number above 0")?;
        check::once(plan)?;
        plan.grad(Arc::new(self.clone()));
        Ok(())
    }
}

impl GradMap for Clip {
    fn map(&self, grads: &mut Grads, _: &Params) -> Result<()> {
        // A norm that is not a number leaves the gradients as they are: the loop stops on them, and says so.
        let factor = self.max_norm / (grads.norm()? + 1e-6);
        if factor < 1.0 {
            grads.scale(factor as f32);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use luthier_nn::{Device, Tensor};

    use super::*;
    use crate::methods::full::Full;
    use crate::testing::{plan_of, refusal};

    fn clipped(max_norm: f64, scale: f32) -> [f32; 4] {
        let clip = Clip { max_norm };
        let plan = plan_of(1, &[("full", &Full::default()), ("clip", &clip)]).unwrap();
        let mut grads = Grads::default();
        let tensor = |values: Vec<f32>| Tensor::from_vec(&Device::cpu(), &[2], values).unwrap();
        grads.add("a", 1.0, &tensor(vec![2.0, 4.0])).unwrap();
        grads.add("b", 1.0, &tensor(vec![4.0, 0.0])).unwrap();
        grads.scale(scale);
        plan.grads().next().unwrap().map(&mut grads, &Params::default()).unwrap();
        let dense = |path| grads.dense(path).unwrap().unwrap().to_vec();
        [dense("a"), dense("b")].concat().try_into().unwrap()
    }

    /// The norm over both is 6 (3 after the scale): torch.nn.utils.clip_grad_norm_ multiplies by 1.5 / (3 + 1e-6).
    #[test]
    fn long_gradients_are_shortened_together() {
        let factor = 1.5 / (3.0 + 1e-6);
        for (found, before) in clipped(1.5, 0.5).into_iter().zip([1.0, 2.0, 2.0, 0.0]) {
            assert!((f64::from(found) - before * factor).abs() < 1e-6, "{found}");
        }
    }

    /// PyTorch's small number shows where the norm is as small: 3e-6 here, so the factor is 1e-6 / (3e-6 + 1e-6).
    #[test]
    fn the_small_number_counts() {
        for (found, before) in clipped(1e-6, 0.5e-6).into_iter().zip([1e-6, 2e-6, 2e-6, 0.0]) {
            assert!((f64::from(found) - before / 4.0).abs() < 1e-10, "{found}");
        }
    }

    #[test]
    fn short_gradients_stay() {
        assert_eq!(clipped(3.1, 0.5), [1.0, 2.0, 2.0, 0.0]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let full = Full::default();
        let zero = refusal(&[("full", &full), ("clip", &Clip { max_norm: 0.0 })]);
        assert_eq!(zero, "clip: max_norm is 0; expected a number above 0");
        let twice = refusal(&[("full", &full), ("clip", &Clip::default()), ("clip", &Clip { max_norm: 2.0 })]);
        assert!(twice.contains("it is there twice"), "{twice}");
    }
}
