//! AdamW.

use crate::device::Device;
use crate::error::Result;
use crate::grads::Grad;
use crate::tensor::Tensor;

/// AdamW (Loshchilov and Hutter 2019).
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// The step size.
    pub learning_rate: f32,
    /// The decay of the first moment.
    pub beta1: f32,
    /// The decay of the second moment.
    pub beta2: f32,
    /// What keeps the denominator from zero.
    pub epsilon: f32,
    /// The decoupled decay.
    pub weight_decay: f32,
}

/// What AdamW remembers of one parameter.
#[derive(Debug)]
pub struct AdamWState {
    /// The first moment.
    pub first: Tensor,
    /// The second moment.
    pub second: Tensor,
}

impl AdamWState {
    /// A parameter that was never updated.
    pub fn new(device: &Device, shape: &[usize]) -> AdamWState {
        AdamWState { first: Tensor::zeros(device, shape), second: Tensor::zeros(device, shape) }
    }

    /// A saved state.
    pub fn restore(first: Tensor, second: Tensor) -> Result<AdamWState> {
        Ok(AdamWState { first, second })
    }
}

impl AdamW {
    /// One step.
    pub fn update(
        &self,
        _parameter: &mut Tensor,
        _gradient: &Grad,
        _factor: f32,
        _state: &mut AdamWState,
        _step: u64,
    ) -> Result<()> {
        Ok(())
    }
}
