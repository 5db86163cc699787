//! A moving average of the weights: the run's result is smoother than its last step.
//!
//! Paper: Polyak and Juditsky 1992, <https://doi.org/10.1137/0330046>; Izmailov et al. 2018,
//! <https://arxiv.org/abs/1803.05407>, for neural networks.
//! Equation: `θ̄ ← d θ̄ + (1 - d) θ` after update `t`, with `d = min(decay, (1 + t) / (10 + t))`, so that the first steps do not
//! linger; `θ̄` begins with the weights after the first update.
//! Trains: nothing of its own. What is evaluated and kept is `θ̄`; what trains is `θ`.
//! Defaults: decay 0.999, an average over about the last thousand steps; the warm-up is that of TensorFlow's moving averages.

use luthier_nn::{After, Params};

use crate::prelude::*;

/// `kind = "ema"`: the result is a moving average of the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ema {
    /// How much of the average stays from step to step, above 0 and below 1.
    pub decay: f64,
}

impl Default for Ema {
    fn default() -> Ema {
        Ema { decay: 0.999 }
    }
}

impl Technique for Ema {
    fn about(&self) -> About {
        About { paper: "Polyak and Juditsky 1992", link: "https://doi.org/10.1137/0330046" }
    }
}

impl PlanMethod for Ema {
    fn plan(&self, plan: &mut Plan, _: &Spec) -> Result<()> {
        check::value(plan, "decay", self.decay, self.decay > 0.0 && self.decay < 1.0, "above 0 and below 1")?;
        check::once(plan)?;
        plan.after(Arc::new(self.clone()));
        Ok(())
    }
}

/// The average of a parameter in the memory that checkpoints keep.
const PREFIX: &str = "ema.";

impl After for Ema {
    fn after(&self, step: u64, plan: &Plan, params: &mut Params, memory: &mut Params) -> Result<()> {
        let warm_up = (1.0 + step as f64) / (10.0 + step as f64);
        let fraction = (1.0 - self.decay.min(warm_up)) as f32;
        // Updates are counted from 1, the plan's steps from 0.
        for param in plan.params().filter(|param| plan.moves_at(&param.path, step.saturating_sub(1))) {
            let (value, key) = (params.get(&param.path)?, format!("{PREFIX}{}", param.path));
            if memory.contains(&key) {
                memory.get_mut(&key)?.lerp(value, fraction)?;
            } else {
                memory.insert(key, value.clone());
            }
        }
        Ok(())
    }

    fn result(&self, params: &Params, memory: &Params) -> Params {
        let mut result = params.clone();
        for (key, average) in memory.iter() {
            if let Some(path) = key.strip_prefix(PREFIX) {
                result.insert(path, average.clone());
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use luthier_nn::{Device, Tensor};

    use super::*;
    use crate::methods::top::Top;
    use crate::testing::{plan_of, refusal};

    /// Weights that are 1, 2, 3, ... after each step, for a small decay (no warm-up) and a large one (all warm-up).
    #[test]
    fn the_average_follows_its_recurrence() {
        for decay in [0.1, 0.9999] {
            let head = Top { layers: 0, pooler: false };
            let plan = plan_of(1, &[("top", &head), ("ema", &Ema { decay })]).unwrap();
            let device = Device::cpu();
            let at = |value: f32| -> Params {
                plan.params().map(|p| (p.path.clone(), Tensor::full(&device, &p.shape, value))).collect()
            };
            let ema = plan.afters().next().unwrap();
            let (mut memory, mut expected) = (Params::default(), 1.0f64);
            for step in 1..=20u32 {
                let mut params = at(step as f32);
                ema.after(u64::from(step), &plan, &mut params, &mut memory).unwrap();
                assert_eq!(params.get("classifier.bias").unwrap().item(), Some(step as f32));
                if step > 1 {
                    let d = decay.min(f64::from(1 + step) / f64::from(10 + step));
                    expected = d * expected + (1.0 - d) * f64::from(step);
                }
                let result = ema.result(&params, &memory);
                let average = f64::from(result.get("classifier.bias").unwrap().item().unwrap());
                assert!((average - expected).abs() < 1e-4, "step {step}: {average} against {expected}");
                // What does not move is as it is, and is not kept twice.
                assert_eq!(result.get("bert.pooler.dense.bias").unwrap().item(), Some(step as f32));
            }
            assert_eq!(memory.len(), 2);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let head = Top { layers: 0, pooler: false };
        for decay in [0.0, 1.0, f64::NAN] {
            let error = refusal(&[("top", &head), ("ema", &Ema { decay })]);
            assert!(error.ends_with("expected above 0 and below 1"), "{error}");
        }
        assert!(refusal(&[("top", &head), ("ema", &Ema::default()), ("ema", &Ema::default())]).contains("twice"));
    }
}
