//! What the system tests share: golden files, the two objectives without their text half, and a training step short enough
//! to be checked by eye.

#![allow(dead_code)] // Every test file uses its own part of this.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use luthier::models::{Checkpoint, FAMILIES};
use luthier::nn::{
    Batch, Cx, Device, Grads, Head, Loss, Mode, Network, Params, Plan, Precision, Result, Rng, Score, Tensor, Wrap,
};
use luthier::tensor::{AdamW, AdamWState};

pub(crate) mod golden;
pub(crate) mod tiny;

/// A directory of `fixtures/`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// One of the classes of a sequence: cross entropy of the network's logits.
pub(crate) struct Classify;

impl Score for Classify {
    fn loss(&self, network: &dyn Network, batch: &Batch, cx: &mut Cx) -> Result<Loss> {
        let logits = network.forward(batch, cx)?;
        let sum = cx.tape.cross_entropy(&logits, &batch.targets)?;
        let count = batch.targets.len() as u64;
        Ok(Loss { sum, count, logits: Some(logits), predictions: Vec::new(), losses: Vec::new() })
    }
}

/// The token under each mask: cross entropy over the vocabulary.
pub(crate) struct MaskedLm;

impl Score for MaskedLm {
    fn loss(&self, network: &dyn Network, batch: &Batch, cx: &mut Cx) -> Result<Loss> {
        let features = network.forward(batch, cx)?;
        let output = network.vocabulary().expect("a language model has a vocabulary").clone();
        let weight = cx.param(&output.weight)?;
        let bias = output.bias.as_ref().map(|path| cx.param(path)).transpose()?;
        let found = cx.tape.vocabulary_loss(&features, &weight, bias.as_ref(), &batch.targets)?;
        let count = batch.targets.len() as u64;
        Ok(Loss { sum: found.loss, count, logits: None, predictions: found.predictions, losses: Vec::new() })
    }
}

/// An objective inside a plan's wraps, the last one outermost.
pub(crate) struct Wrapped<'a> {
    pub(crate) inner: &'a dyn Score,
    pub(crate) wraps: &'a [&'a dyn Wrap],
}

impl Score for Wrapped<'_> {
    fn loss(&self, network: &dyn Network, batch: &Batch, cx: &mut Cx) -> Result<Loss> {
        match self.wraps.split_last() {
            None => self.inner.loss(network, batch, cx),
            Some((outer, wraps)) => outer.loss(&Wrapped { inner: self.inner, wraps }, network, batch, cx),
        }
    }
}

/// AdamW's numbers in a test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) learning_rate: f64,
    pub(crate) weight_decay: f64,
}

/// A network under a plan, with the state that training changes. It does what the training loop does, without data,
/// schedule or disk.
pub(crate) struct Bench {
    pub(crate) device: Device,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) score: Arc<dyn Score + Send + Sync>,
    pub(crate) plan: Plan,
    pub(crate) params: Params,
    pub(crate) base: Params,
    pub(crate) memory: Params,
    pub(crate) seed: u64,
    pub(crate) step: u64,
    moments: BTreeMap<String, (AdamWState, u64)>,
}

impl Bench {
    /// `params` are the network's; what the plan adds is drawn here, and its edits are done.
    pub(crate) fn new(
        network: Arc<dyn Network>,
        score: Arc<dyn Score + Send + Sync>,
        plan: Plan,
        params: Params,
        seed: u64,
    ) -> Bench {
        let device = Device::cpu();
        let mut params = params;
        for param in plan.added() {
            let rng = Rng::at(seed, "init", 0, 0).named(&param.path);
            params.insert(&param.path, param.init.draw(&device, &param.shape, rng).unwrap());
        }
        for (method, paths, edit) in plan.edits() {
            for path in paths {
                let param = plan.params().find(|p| p.path == *path).unwrap();
                let rng = Rng::at(seed, "edit", 0, 0).named(method).named(path);
                let value = edit.edit(param, params.get(path).unwrap(), rng).unwrap();
                params.insert(path, value);
            }
        }
        let base = params.clone();
        let (memory, moments) = (Params::default(), BTreeMap::new());
        Bench { device, network, score, plan, params, base, memory, seed, step: 0, moments }
    }

    pub(crate) fn cx(&self, mode: Mode) -> Cx<'_> {
        Cx::new(&self.device, Precision::F32, &self.plan, &self.params, &self.base, mode, self.seed)
    }

    pub(crate) fn train_mode(&self) -> Mode {
        Mode::Train { step: self.step }
    }

    /// What the network puts out, with nothing random.
    pub(crate) fn logits(&self, batch: &Batch) -> Vec<f32> {
        let mut cx = self.cx(Mode::Evaluate);
        self.network.forward(batch, &mut cx).unwrap().value().to_vec()
    }

    /// The sum of the loss of one batch and its gradients, as training sees them.
    pub(crate) fn sums(&self, batch: &Batch, grads: &mut Grads) -> (f64, u64) {
        let wraps: Vec<&dyn Wrap> = self.plan.wraps().collect();
        let score = Wrapped { inner: &*self.score, wraps: &wraps };
        let mut cx = self.cx(self.train_mode());
        let loss = score.loss(&*self.network, batch, &mut cx).unwrap();
        let sum = f64::from(loss.sum.value().item().unwrap());
        cx.backward(&loss.sum, grads).unwrap();
        (sum, loss.count)
    }

    /// The mean loss over micro-batches with the plan's penalties, and its gradients before the plan's `grad` verbs.
    pub(crate) fn mean(&self, batches: &[Batch]) -> (f64, Grads) {
        let (mut sum, mut count, mut grads) = (0.0, 0, Grads::default());
        for batch in batches {
            let (s, n) = self.sums(batch, &mut grads);
            sum += s;
            count += n;
        }
        grads.scale(1.0 / count as f32);
        let mut loss = sum / count as f64;
        for penalty in self.plan.penalties() {
            loss += penalty.penalty(&self.plan, &self.params, &self.base, &mut grads).unwrap();
        }
        (loss, grads)
    }

    /// One optimiser step; gives back the loss before it and the gradients that the update saw.
    pub(crate) fn train(&mut self, batches: &[Batch], rate: Rate) -> (f64, Grads) {
        let (loss, mut grads) = self.mean(batches);
        for map in self.plan.grads() {
            map.map(&mut grads, &self.params).unwrap();
        }
        for (path, grad) in grads.iter() {
            let parameter = self.params.get_mut(path).unwrap();
            let fresh = || (AdamWState::new(parameter.device(), parameter.shape()), 0);
            let (state, updates) = self.moments.entry(path.to_owned()).or_insert_with(fresh);
            *updates += 1;
            let adamw = AdamW {
                learning_rate: (rate.learning_rate * self.plan.rate(path)) as f32,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: if self.plan.decays(path) { rate.weight_decay as f32 } else { 0.0 },
            };
            adamw.update(parameter, grad, grads.factor(), state, *updates).unwrap();
        }
        self.step += 1;
        for after in self.plan.afters() {
            after.after(self.step, &self.plan, &mut self.params, &mut self.memory).unwrap();
        }
        (loss, grads)
    }
}

/// Opens a model directory with a head.
pub(crate) fn open(name: &str, head: Head) -> (Arc<dyn Network>, Params) {
    let checkpoint = Checkpoint::open(&fixture(name)).unwrap();
    let network = (checkpoint.family().build)(checkpoint.config(), head).unwrap();
    let loaded = checkpoint.load(&Device::cpu(), network.spec(), None, 1).unwrap();
    (network.into(), loaded.params)
}

/// A network from a `config.json`.
pub(crate) fn build(config: &serde_json::Value, head: Head) -> Arc<dyn Network> {
    let family = FAMILIES.iter().find(|f| config["model_type"] == f.model_type).unwrap();
    (family.build)(config, head).unwrap().into()
}

/// No decay on biases and norms, as the fixtures have it.
pub(crate) fn exempt_biases_and_norms(plan: &mut Plan) {
    plan.no_decay(|param| param.shape.len() < 2);
}

/// The Euclidean distance from `found` to `expected`, relative to `expected`'s norm.
pub(crate) fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "lengths differ");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let size = norm(&mut expected.iter().map(|&x| f64::from(x)));
    norm(&mut found.iter().zip(expected).map(|(&f, &e)| f64::from(f) - f64::from(e))) / size.max(1e-12)
}

/// The bits of a tensor.
pub(crate) fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.to_vec().into_iter().map(f32::to_bits).collect()
}
