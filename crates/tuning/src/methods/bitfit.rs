//! BitFit: train the biases, keep the rest.
//!
//! Paper: Ben Zaken, Ravfogel and Goldberg 2022, <https://arxiv.org/abs/2106.10199>.
//! Equation: `y = x Wᵀ + b`, where only `b` moves (and the shift of each norm).
//! Trains: every bias, about 0.1 % of BERT-base.
//! Defaults: all biases, as in the paper's main result; `roles = ["query", "up"]` is its smaller variant.

use crate::prelude::*;

/// `kind = "bitfit"`: the biases move.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BitFit {
    /// Roles whose biases move; empty means all of them.
    pub roles: Vec<Role>,
}

impl Technique for BitFit {
    fn about(&self) -> About {
        About { paper: "Ben Zaken, Ravfogel and Goldberg 2022", link: "https://arxiv.org/abs/2106.10199" }
    }
}

impl PlanMethod for BitFit {
    fn plan(&self, plan: &mut Plan, spec: &Spec) -> Result<()> {
        for &role in &self.roles {
            Select::biases().roles(&[role]).params(plan.method(), spec)?;
        }
        super::train(plan, spec, &Select::biases().roles(&self.roles))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{moved, plan_of, refusal};

    #[test]
    fn biases_and_the_head_move() {
        let plan = plan_of(2, &[("bitfit", &BitFit::default())]).unwrap();
        let moved = moved(&plan);
        // The embedding norm; per layer six linear maps and two norms; the pooler; the head with its weight.
        assert_eq!(moved.len(), 1 + 2 * 8 + 1 + 2);
        assert!(moved.iter().all(|path| path.ends_with(".bias") || path == "classifier.weight"));
    }

    #[test]
    fn roles_restrict() {
        let plan = plan_of(2, &[("bitfit", &BitFit { roles: vec![Role::Query, Role::Up] })]).unwrap();
        assert_eq!(moved(&plan).len(), 2 * 2 + 2);
        assert!(plan.moves("bert.encoder.layer.1.intermediate.dense.bias"));
    }

    #[test]
    fn roles_without_biases_are_refused() {
        let error = refusal(&[("bitfit", &BitFit { roles: vec![Role::Query, Role::Embed] })]);
        assert!(error.contains("nothing in this network matches biases embed"), "{error}");
        let error = refusal(&[("bitfit", &BitFit { roles: vec![Role::Head] })]);
        assert!(error.contains("biases head would move anyway"), "{error}");
    }
}
