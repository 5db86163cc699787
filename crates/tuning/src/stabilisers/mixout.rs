//! Mixout: in each step some weights are the pretrained ones.
//!
//! Paper: Lee, Cho and Kang 2020, <https://arxiv.org/abs/1909.11299>.
//! Equation: `W̃ = ((1 - m) W₀ + m W - p W₀) / (1 - p)`, elementwise `m ~ Bernoulli(1 - p)`: the mean of `W̃` is `W`.
//! Trains: nothing of its own; it acts on the linear maps that move, in training. Tables, norms and biases are not mixed,
//! as in the paper's code, nor is the head, which has no pretrained value.
//! Defaults: p 0.1, as in Zhang et al. 2021 (<https://arxiv.org/abs/2006.05987>); the paper takes 0.7 to 0.9 for BERT-large.

use luthier_nn::{Cx, Extent, Var, WeightMap};

use crate::prelude::*;

/// `kind = "mixout"`: in each step some weights are the pretrained ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mixout {
    /// The probability with which an element is the pretrained one, above 0 and below 1.
    pub p: f64,
}

impl Default for Mixout {
    fn default() -> Mixout {
        Mixout { p: 0.1 }
    }
}

impl Technique for Mixout {
    fn about(&self) -> About {
        About { paper: "Lee, Cho and Kang 2020", link: "https://arxiv.org/abs/1909.11299" }
    }
}

impl PlanMethod for Mixout {
    fn plan(&self, plan: &mut Plan, spec: &Spec) -> Result<()> {
        check::value(plan, "p", self.p, self.p > 0.0 && self.p < 1.0, "above 0 and below 1")?;
        let mut roles: Vec<Role> = Vec::new();
        for site in &spec.sites {
            let linear = matches!(site.extent, Extent::Linear { .. }) && site.role != Role::Head;
            let weight = format!("{}.weight", site.path);
            if linear && !roles.contains(&site.role) && plan.moves(&weight) && !plan.is_new(&weight) {
                roles.push(site.role);
            }
        }
        if roles.is_empty() {
            let reason = "no pretrained linear map moves, so there is nothing to mix";
            return Err(check::conflict(plan, "what trains", reason, "Leave it out, or train some layers."));
        }
        plan.weight(&Select::all().roles(&roles).matrices(), Arc::new(Mix { p: self.p as f32 }))
    }
}

struct Mix {
    p: f32,
}

impl WeightMap for Mix {
    fn weight(&self, cx: &mut Cx, path: &str, value: Var) -> Result<Var> {
        // What does not move (yet) is the pretrained value in any case.
        if !cx.training() || !value.needs_grad() {
            return Ok(value);
        }
        let (base, rng) = (cx.base(path)?, cx.rng("mixout", path));
        Ok(cx.tape.mixout(&value, base, self.p, rng)?)
    }
}

#[cfg(test)]
mod tests {
    use luthier_nn::{Device, Mode, Params, Precision, Tensor};

    use super::*;
    use crate::methods::{bitfit::BitFit, full::Full, top::Top};
    use crate::testing::{WIDTH, plan_of, refusal};

    const QUERY: &str = "bert.encoder.layer.1.attention.self.query.weight";

    #[test]
    fn linear_maps_that_move_are_mixed() {
        let full = Full { except: vec![Role::Value] };
        let plan = plan_of(2, &[("full", &full), ("mixout", &Mixout::default())]).unwrap();
        let mixed: Vec<&str> = plan.params().map(|p| p.path.as_str()).filter(|p| plan.weight_of(p).is_some()).collect();
        assert_eq!(mixed.len(), 2 * 5 + 1);
        assert!(mixed.iter().all(|p| p.ends_with(".weight") && !p.contains("LayerNorm") && !p.contains("value")));
        assert!(plan.weight_of("classifier.weight").is_none());
    }

    /// Every element is one of the two values of the equation, in training alone, and only where the weight moves.
    #[test]
    fn elements_are_pretrained_or_corrected() {
        let top = Top { layers: 1, pooler: false };
        let plan = plan_of(2, &[("top", &top), ("mixout", &Mixout { p: 0.25 })]).unwrap();
        let device = Device::cpu();
        let below = QUERY.replace("layer.1", "layer.0");
        let of = |value| {
            let tensor = Tensor::full(&device, &[WIDTH, WIDTH], value);
            [QUERY.to_owned(), below.clone()].map(|path| (path, tensor.clone())).into_iter().collect::<Params>()
        };
        let (params, base) = (of(2.0), of(1.0));
        let read = |path: &str, mode| {
            let mut cx = Cx::new(&device, Precision::F32, &plan, &params, &base, mode, 3);
            cx.param(path).unwrap().value().to_vec()
        };
        let mixed = read(QUERY, Mode::Train { step: 0 });
        // Kept: (2 - 0.25) / 0.75; put back: (1 - 0.25) / 0.75.
        let kept = mixed.iter().filter(|&&x| (x - 7.0 / 3.0).abs() < 1e-5).count();
        let back = mixed.iter().filter(|&&x| (x - 1.0).abs() < 1e-5).count();
        assert_eq!(kept + back, mixed.len(), "{mixed:?}");
        assert!((5..30).contains(&back), "{back} of {}", mixed.len());
        assert!(read(&below, Mode::Train { step: 0 }).iter().all(|&x| x == 2.0));
        assert!(read(QUERY, Mode::Evaluate).iter().all(|&x| x == 2.0));
        assert_ne!(mixed, read(QUERY, Mode::Train { step: 1 }));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for p in [0.0, 1.0, f64::NAN] {
            let error = refusal(&[("full", &Full::default()), ("mixout", &Mixout { p })]);
            assert!(error.ends_with("expected above 0 and below 1"), "{error}");
        }
        let biases = refusal(&[("bitfit", &BitFit::default()), ("mixout", &Mixout::default())]);
        assert!(biases.contains("there is nothing to mix"), "{biases}");
        let twice = [
            ("full", &Full::default() as &dyn PlanMethod),
            ("mixout", &Mixout::default()),
            ("mixout", &Mixout::default()),
        ];
        assert!(refusal(&twice).contains("both replace the weight"));
    }
}
