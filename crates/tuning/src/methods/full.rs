//! Full fine-tuning: every weight of the network moves.
//!
//! Paper: Devlin, Chang, Lee and Toutanova 2019, <https://arxiv.org/abs/1810.04805>, section 3.2.
//! Equation: `θ ← θ - update(∇θ)` for all of `θ`.
//! Trains: everything, or everything but some roles.
//! Defaults: nothing is excepted, as in the paper.

use luthier_nn::Verb;

use crate::prelude::*;

/// `kind = "full"`: every weight moves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Full {
    /// Roles that stay as they are: `["embed"]` keeps the token embedding.
    pub except: Vec<Role>,
}

impl Technique for Full {
    fn about(&self) -> About {
        About { paper: "Devlin et al. 2019", link: "https://arxiv.org/abs/1810.04805" }
    }
}

impl PlanMethod for Full {
    fn plan(&self, plan: &mut Plan, spec: &Spec) -> Result<()> {
        // A role that has no parameters leaves none of them out.
        for &role in &self.except {
            Select::all().roles(&[role]).params(plan.method(), spec)?;
        }
        let head = self.except.contains(&Role::Head);
        check::value(plan, "except", "head", !head, "roles of the pretrained network; the head always moves")?;
        if let Some(entry) = plan.entries().iter().find(|entry| entry.verb == Verb::Train) {
            let reason = format!("{} moves in any case", entry.what);
            return Err(check::conflict(plan, &entry.method, reason, "Keep one of them."));
        }
        super::train(plan, spec, &Select::all().except(&self.except))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::bitfit::BitFit;
    use crate::testing::{moved, plan_of, refusal, spec};

    #[test]
    fn everything_moves() {
        let plan = plan_of(2, &[("full", &Full::default())]).unwrap();
        assert_eq!(moved(&plan).len(), spec(2).params.len());
    }

    #[test]
    fn what_is_excepted_stays() {
        let full = Full { except: vec![Role::Embed, Role::Value] };
        let plan = plan_of(2, &[("full", &full)]).unwrap();
        let stay: Vec<&str> = plan.params().map(|p| p.path.as_str()).filter(|path| !plan.moves(path)).collect();
        assert_eq!(stay[0], "bert.embeddings.word_embeddings.weight");
        assert_eq!(stay.len(), 1 + 2 * 2);
        assert!(stay[1..].iter().all(|path| path.contains(".self.value.")));
    }

    #[test]
    fn choices_without_effect_are_refused() {
        let gate = refusal(&[("full", &Full { except: vec![Role::Embed, Role::Gate] })]);
        assert!(gate.contains("nothing in this network matches gate"), "{gate}");
        let head = refusal(&[("full", &Full { except: vec![Role::Head] })]);
        assert!(head.contains("except is head"), "{head}");
        let (full, bitfit) = (("full", &Full::default() as &dyn PlanMethod), ("bitfit", &BitFit::default() as _));
        for methods in [[bitfit, full], [full, bitfit], [full, full]] {
            let error = refusal(&methods);
            assert!(error.contains("do not go together"), "{error}");
        }
    }
}
