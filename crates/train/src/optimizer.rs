//! AdamW over the parameters that move.
//!
//! Paper: Loshchilov and Hutter 2019, <https://arxiv.org/abs/1711.05101>; with bias correction, which Mosbach et al. 2021
//! found to be what keeps fine-tuning stable.

use std::collections::BTreeMap;

use luthier_nn::{Grads, Params, Plan, Tensor};
use luthier_tensor::{AdamW, AdamWState};

use crate::error::Result;
use crate::recipe::Train;

/// One parameter's moments, and how often it was updated: bias correction counts a parameter's own updates, as PyTorch does.
struct Moments {
    state: AdamWState,
    updates: u64,
}

/// The optimiser and its state, under the parameters' paths.
#[derive(Default)]
pub struct Optimizer {
    moments: BTreeMap<String, Moments>,
}

impl Optimizer {
    /// Updates every parameter that has a gradient.
    pub fn update(&mut self, params: &mut Params, grads: &Grads, plan: &Plan, train: &Train, rate: f64) -> Result<()> {
        for (path, grad) in grads.iter() {
            let parameter = params.get_mut(path)?;
            let moments = self.moments.entry(path.to_owned()).or_insert_with(|| Moments {
                state: AdamWState::new(parameter.device(), parameter.shape()),
                updates: 0,
            });
            moments.updates += 1;
            let adamw = AdamW {
                learning_rate: (rate * plan.rate(path)) as f32,
                beta1: train.beta1 as f32,
                beta2: train.beta2 as f32,
                epsilon: train.epsilon as f32,
                weight_decay: if plan.decays(path) { train.weight_decay as f32 } else { 0.0 },
            };
            adamw.update(parameter, grad, grads.factor(), &mut moments.state, moments.updates)?;
        }
        Ok(())
    }

    /// The state as tensors, for a checkpoint: `first.PATH`, `second.PATH`; and the update counts.
    pub fn save(&self) -> (Vec<(String, &Tensor)>, BTreeMap<String, u64>) {
        let tensors = self.moments.iter().flat_map(|(path, moments)| {
            [(format!("first.{path}"), &moments.state.first), (format!("second.{path}"), &moments.state.second)]
        });
        (tensors.collect(), self.moments.iter().map(|(path, moments)| (path.clone(), moments.updates)).collect())
    }

    /// The state from a checkpoint's tensors and update counts.
    pub fn restore(tensors: &mut Params, updates: &BTreeMap<String, u64>) -> Result<Optimizer> {
        let mut moments = BTreeMap::new();
        for (path, &updates) in updates {
            let mut take = |kind: &str| -> Result<Tensor> {
                let key = format!("{kind}.{path}");
                let tensor = tensors.remove(&key);
                Ok(tensor.ok_or(luthier_nn::NnError::MissingParameter { path: key })?)
            };
            let state = AdamWState::restore(take("first")?, take("second")?);
            moments.insert(path.clone(), Moments { state, updates });
        }
        Ok(Optimizer { moments })
    }
}
