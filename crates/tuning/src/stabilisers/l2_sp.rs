//! L2-SP: decay towards the pretrained weights instead of towards zero.
//!
//! Paper: Li, Grandvalet and Davoine 2018, <https://arxiv.org/abs/1802.01483>.
//! Equation: the loss gets `lambda / 2 · ‖θ - θ₀‖²`, so the gradient gets `lambda (θ - θ₀)`; θ₀ are the values that the stage
//! began with. The head and what methods add have no θ₀.
//! Trains: nothing of its own; it acts on the pretrained parameters that move.
//! Defaults: lambda 0.001, which Zhang et al. 2021 (<https://arxiv.org/abs/2006.05987>) take for BERT.

use luthier_nn::{Grads, ParamSpec, Params, Penalty};

use crate::prelude::*;

/// `kind = "l2_sp"`: decay towards the pretrained weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct L2Sp {
    /// The strength, above 0.
    pub lambda: f64,
}

impl Default for L2Sp {
    fn default() -> L2Sp {
        L2Sp { lambda: 1e-3 }
    }
}

impl Technique for L2Sp {
    fn about(&self) -> About {
        About { paper: "Li, Grandvalet and Davoine 2018", link: "https://arxiv.org/abs/1802.01483" }
    }
}

/// The pretrained parameters that move.
fn pretrained(plan: &Plan) -> impl Iterator<Item = &ParamSpec> {
    let pretrained = |param: &&ParamSpec| param.role != Role::Head && !plan.is_new(&param.path);
    plan.spec().params.iter().filter(pretrained).filter(|param| plan.moves(&param.path))
}

impl PlanMethod for L2Sp {
    fn plan(&self, plan: &mut Plan, _: &Spec) -> Result<()> {
        let fits = self.lambda > 0.0 && self.lambda.is_finite();
        check::value(plan, "lambda", self.lambda, fits, "a number above 0")?;
        check::once(plan)?;
        if pretrained(plan).next().is_none() {
            let reason = "no pretrained weight moves, so none can decay";
            return Err(check::conflict(plan, "what trains", reason, "Leave it out, or train some layers."));
        }
        plan.penalty(Arc::new(Decay { lambda: self.lambda }));
        Ok(())
    }
}

struct Decay {
    lambda: f64,
}

impl Penalty for Decay {
    fn penalty(&self, plan: &Plan, params: &Params, base: &Params, grads: &mut Grads) -> Result<f64> {
        let mut sum = 0.0;
        for ParamSpec { path, .. } in pretrained(plan) {
            let (value, start) = (params.get(path)?, base.get(path)?);
            let distance = value.distance_squared(start)?;
            // What has not moved has no gradient here, and an entry of zeros would be work for the optimiser.
            if distance == 0.0 {
                continue;
            }
            sum += distance;
            let mut difference = value.clone();
            difference.add_scaled(-1.0, start)?;
            grads.add(path, self.lambda as f32, &difference)?;
        }
        Ok(self.lambda / 2.0 * sum)
    }
}

#[cfg(test)]
mod tests {
    use luthier_nn::{Device, Tensor};

    use super::*;
    use crate::methods::{bitfit::BitFit, full::Full, lora::Lora};
    use crate::testing::{plan_of, refusal};

    /// Two biases are off by 0.5 in one of their eight elements; one of them does not move.
    #[test]
    fn the_gradient_is_the_penaltys_slope() {
        let bitfit = BitFit { roles: vec![Role::Query] };
        let plan = plan_of(1, &[("bitfit", &bitfit), ("l2_sp", &L2Sp { lambda: 0.2 })]).unwrap();
        let device = Device::cpu();
        let base: Params = plan.params().map(|p| (p.path.clone(), Tensor::full(&device, &p.shape, 1.0))).collect();
        let mut params = base.clone();
        let query = "bert.encoder.layer.0.attention.self.query.bias";
        let key = "bert.encoder.layer.0.attention.self.key.bias";
        let off = |at: usize, by: f32| {
            let mut values = vec![1.0; 8];
            values[at] += by;
            Tensor::from_vec(&device, &[8], values).unwrap()
        };
        params.insert(query, off(3, 0.5));
        params.insert(key, off(0, 0.5));
        params.insert("classifier.bias", Tensor::full(&device, &[3], 9.0));
        let mut grads = Grads::default();
        grads.add(query, 1.0, &Tensor::full(&device, &[8], 2.0)).unwrap();
        grads.scale(0.5);
        let decay = plan.penalties().next().unwrap();
        let value = |params: &Params, grads: &mut Grads| decay.penalty(&plan, params, &base, grads).unwrap();
        let found = value(&params, &mut grads);
        assert!((found - 0.2 / 2.0 * 0.25).abs() < 1e-9, "{found}");
        assert_eq!(grads.len(), 1);
        let gradient = grads.dense(query).unwrap().unwrap().to_vec();
        let mut expected = [1.0; 8];
        expected[3] += 0.2 * 0.5;
        assert!(gradient.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{gradient:?}");

        // The same slope by central differences.
        let at = |by: f32| {
            let mut moved = params.clone();
            moved.insert(query, off(3, by));
            value(&moved, &mut Grads::default())
        };
        let slope = (at(0.75) - at(0.25)) / 0.5;
        assert!((slope - 0.1).abs() < 1e-6, "{slope}");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for lambda in [0.0, -1.0, f64::INFINITY] {
            let error = refusal(&[("full", &Full::default()), ("l2_sp", &L2Sp { lambda })]);
            assert!(error.ends_with("expected a number above 0"), "{error}");
        }
        let lora = refusal(&[("lora", &Lora::default()), ("l2_sp", &L2Sp::default())]);
        assert!(lora.contains("no pretrained weight moves"), "{lora}");
    }
}
