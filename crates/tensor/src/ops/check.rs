//! The test bench of the ops: an op's values against a plain f64 reference, and its gradients against central
//! differences of that reference. The reference is the independent origin; nothing is compared with itself.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::ops::dropout::Dropout;
use crate::{Device, Grads, Precision, Rng, Tape, Tensor, Var};

/// Reference inputs by name.
pub(crate) type Inputs = BTreeMap<&'static str, Vec<f64>>;

/// Standard normal values, the same on every run.
pub(crate) fn noise(n: usize, stream: &str) -> Vec<f32> {
    let rng = Rng::at(11, stream, 0, 0);
    (0..n as u64).map(|i| rng.normal(i) as f32).collect()
}

/// What attention's dropout makes of key `j` for the query with `key` in a head, read from the generator word by word.
pub(crate) fn kept(dropout: Option<&Dropout>, key: impl Fn(&Dropout) -> u64, head: usize, j: usize) -> f64 {
    let Some(dropout) = dropout else { return 1.0 };
    let words = dropout.rng.indexed(head as u64).words(key(dropout) << 16 | (j / 8) as u64);
    let half = words[j % 8 / 2] >> (16 * (j % 2)) & 0xffff;
    let threshold = (dropout.p * 65536.0).round() as u32;
    if half < threshold { 0.0 } else { 65536.0 / f64::from(65536 - threshold) }
}

/// One differential test.
pub(crate) struct Case {
    pub(crate) device: Device,
    tape: Option<Tape>,
    inputs: Inputs,
    /// How far values may be off, relative to the largest.
    pub(crate) tolerance: f64,
}

impl Case {
    pub(crate) fn new() -> Case {
        let device = Device::cpu();
        Case { tape: Some(Tape::new(&device, Precision::F32)), device, inputs: Inputs::new(), tolerance: 2e-5 }
    }

    /// An input whose gradient is checked.
    pub(crate) fn input(&mut self, name: &'static str, shape: &[usize], values: Vec<f32>) -> Var {
        self.inputs.insert(name, values.iter().map(|&x| f64::from(x)).collect());
        let tensor = Tensor::from_vec(&self.device, shape, values).unwrap();
        self.tape.as_mut().unwrap().leaf(name, tensor)
    }

    /// Runs the op and the reference; compares values, then the gradients of a random weighted sum of the outputs.
    pub(crate) fn run(mut self, op: impl FnOnce(&mut Tape) -> Result<Var>, reference: impl Fn(&Inputs) -> Vec<f64>) {
        let mut tape = self.tape.take().unwrap();
        let out = op(&mut tape).unwrap();
        let expected = reference(&self.inputs);
        compare("values", &out.value().to_vec(), &expected, self.tolerance);
        let weights = noise(expected.len(), "weights");
        let weighted =
            |inputs: &Inputs| -> f64 { reference(inputs).iter().zip(&weights).map(|(y, &w)| y * f64::from(w)).sum() };
        let loss = weighted_sum(&mut tape, &out, &weights);
        let mut grads = Grads::default();
        tape.backward(&loss, &mut grads).unwrap();
        for (&name, values) in &self.inputs {
            let found = grads.dense(name).unwrap().unwrap_or_else(|| panic!("no gradient for {name}")).to_vec();
            let mut expected = Vec::with_capacity(values.len());
            for (i, &value) in values.iter().enumerate() {
                let step = 1e-5;
                let mut moved = self.inputs.clone();
                moved.get_mut(name).unwrap()[i] = value + step;
                let up = weighted(&moved);
                moved.get_mut(name).unwrap()[i] = value - step;
                expected.push((up - weighted(&moved)) / (2.0 * step));
            }
            compare(&format!("gradient of {name}"), &found, &expected, self.tolerance * 5.0);
        }
    }
}

/// `sum(out * weights)` as a node of its own.
pub(crate) fn weighted_sum(tape: &mut Tape, out: &Var, weights: &[f32]) -> Var {
    let total: f32 = out.f32().iter().zip(weights).map(|(x, w)| x * w).sum();
    let device = tape.device().clone();
    let seed = Tensor::from_vec(&device, out.value().shape(), weights.to_vec()).unwrap();
    let to = out.node();
    tape.record("check", Tensor::full(&device, &[1], total), out.needs_grad(), || {
        move |gradient: Tensor, flow: &mut crate::Flow<'_>| {
            let mut seed = seed.clone();
            seed.scale(gradient.item().unwrap_or(0.0))?;
            flow.add(to, seed)
        }
    })
}

/// The largest difference, relative to the largest expected value.
pub(crate) fn compare(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let size = expected.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(f) - e).abs() / size;
        assert!(error <= tolerance, "{what}: element {i} is {f}, the reference says {e} (relative {error:.1e})");
    }
}
