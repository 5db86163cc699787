//! The forward context: lends parameters to a network and carries out the plan at every site.
//!
//! A family file that goes through `Cx` supports every present and future method.

use std::collections::BTreeMap;
use std::sync::Arc;

use luthier_random::Rng;
use luthier_tensor::{Absorbed, Activation, Attention, Device, Dropout, Grads, Precision, Tape, Tensor, Var};

use crate::batch::Batch;
use crate::error::{NnError, Result};
use crate::hooks::At;
use crate::params::Params;
use crate::plan::Plan;
use crate::spec::{Extent, Role, Site};

/// Whether a forward pass is for training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Dropout and the like act; gradients are recorded for what moves at `step`.
    Train {
        /// The optimiser step, counted from 0.
        step: u64,
    },
    /// Nothing is random and nothing is recorded.
    Evaluate,
}

/// Noise on the token embeddings of one forward pass, as R3F wants it.
#[derive(Debug, Clone, Copy)]
pub struct Noise {
    /// Half-width of the uniform distribution, or deviation of the normal one.
    pub epsilon: f64,
    /// Normal instead of uniform.
    pub normal: bool,
}

/// The heads of an attention: how many, and the dropout on their probabilities.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// How many the width is cut into.
    pub count: usize,
    /// The probability with which a probability is dropped in training.
    pub dropout: f32,
}

/// What one forward pass needs beside the network and the batch.
pub struct Cx<'a> {
    /// The record of this pass.
    pub tape: Tape,
    plan: &'a Plan,
    params: &'a Params,
    base: &'a Params,
    mode: Mode,
    rng: Rng,
    pass: u64,
    noise: Option<Noise>,
    keys: [Arc<[u64]>; 2],
    start: Option<(usize, Tensor)>,
    lent: BTreeMap<String, Var>,
}

impl<'a> Cx<'a> {
    /// A context for one batch. `base` holds the values that the stage began with; `seed` is the run's.
    pub fn new(
        device: &Device,
        precision: Precision,
        plan: &'a Plan,
        params: &'a Params,
        base: &'a Params,
        mode: Mode,
        seed: u64,
    ) -> Cx<'a> {
        let step = match mode {
            Mode::Train { step } => step,
            Mode::Evaluate => 0,
        };
        Cx {
            tape: Tape::new(device, precision),
            plan,
            params,
            base,
            mode,
            rng: Rng::at(seed, "forward", step, 0),
            pass: 0,
            noise: None,
            keys: [Arc::new([]), Arc::new([])],
            start: None,
            lent: BTreeMap::new(),
        }
    }

    /// Adds the gradients of a loss to `grads`; the pass ends here.
    pub fn backward(self, loss: &Var, grads: &mut Grads) -> Result<()> {
        Ok(self.tape.backward(loss, grads)?)
    }

    /// Whether this pass is for training.
    pub fn training(&self) -> bool {
        self.mode != Mode::Evaluate
    }

    /// The random stream of this step for a purpose at a place.
    pub fn rng(&self, purpose: &str, place: &str) -> Rng {
        self.rng.named(purpose).named(place).indexed(self.pass)
    }

    /// The value a parameter had when the stage began.
    pub fn base(&self, path: &str) -> Result<&'a Tensor> {
        self.base.get(path)
    }

    /// Begins another forward pass over the same parameters, with random masks of its own and this noise.
    pub fn next_pass(&mut self, noise: Option<Noise>) {
        self.pass += 1;
        self.noise = noise;
    }

    /// Lets the pass begin above the lowest `layers` layers, with the hidden states that they gave: `[tokens, width]`.
    pub fn start_from(&mut self, layers: usize, hidden: Tensor) {
        self.start = Some((layers, hidden));
    }

    /// Where the pass begins: how many layers are done already, and their hidden states.
    pub fn start(&mut self, batch: &Batch) -> Option<(usize, Var)> {
        let (layers, hidden) = self.start.clone()?;
        self.remember_keys(batch);
        Some((layers, Var::constant(hidden)))
    }

    /// A parameter as the network sees it: on the tape if it moves, changed if the plan says so.
    pub fn param(&mut self, path: &str) -> Result<Var> {
        if let Some(var) = self.lent.get(path) {
            return Ok(var.clone());
        }
        let value = self.params.get(path)?.clone();
        let mut var = match self.mode {
            Mode::Train { step } if self.plan.moves_at(path, step) => self.tape.leaf(path, value),
            _ => Var::constant(value),
        };
        let plan = self.plan;
        if let Some(map) = plan.weight_of(path) {
            var = map.weight(self, path, var)?;
        }
        self.lent.insert(path.to_owned(), var.clone());
        Ok(var)
    }

    fn optional(&mut self, path: &str) -> Result<Option<Var>> {
        if self.params.contains(path) { self.param(path).map(Some) } else { Ok(None) }
    }

    /// A linear site: `f(x Wᵀ + b)`, and what the plan puts after it (before the activation).
    pub fn linear(&mut self, site: &Site, x: &Var, activation: Option<Activation>) -> Result<Var> {
        let weight = self.param(&format!("{}.weight", site.path))?;
        let bias = self.optional(&format!("{}.bias", site.path))?;
        let plan = self.plan;
        let modules = plan.outputs_of(&site.path);
        match activation {
            // The down projection reads it next.
            Some(activation) if modules.is_empty() && site.role == Role::Up => {
                return Ok(self.tape.linear_narrow(x, &weight, bias.as_ref(), activation)?);
            }
            _ if modules.is_empty() => return Ok(self.tape.linear(x, &weight, bias.as_ref(), activation)?),
            _ => {}
        }
        let mut out = self.tape.linear(x, &weight, bias.as_ref(), None)?;
        for (_, module) in modules {
            out = module.output(self, &At { site, input: x, norm: None }, out)?;
        }
        match activation {
            Some(activation) => Ok(self.tape.activate(&out, activation)?),
            None => Ok(out),
        }
    }

    /// The norm at `site` of `x`, or of `x + residual`.
    pub fn norm(&mut self, site: &Site, x: &Var, residual: Option<&Var>) -> Result<Var> {
        self.norm_with(site, x, residual, None)
    }

    fn norm_with(&mut self, site: &Site, x: &Var, residual: Option<&Var>, dropout: Option<&Dropout>) -> Result<Var> {
        let Extent::Norm { epsilon, .. } = site.extent else {
            return Err(NnError::Unsupported {
                what: format!("a norm at {}", site.path),
                reason: "the site is not a norm".to_owned(),
            });
        };
        let weight = self.param(&format!("{}.weight", site.path))?;
        let bias = self.param(&format!("{}.bias", site.path))?;
        Ok(self.tape.residual_norm(x, residual, dropout, &weight, &bias, epsilon)?)
    }

    /// The end of a post-norm sub-layer: dropout, what the plan puts there, the residual sum, the norm.
    /// `keys` has one entry a row.
    pub fn join(
        &mut self,
        join: &Site,
        norm: &Site,
        out: Var,
        residual: &Var,
        p: f32,
        keys: &Arc<[u64]>,
    ) -> Result<Var> {
        let dropout = self.dropout_at(&join.path, p, keys);
        let plan = self.plan;
        let modules = plan.outputs_of(&join.path);
        if modules.is_empty() {
            return self.norm_with(norm, &out, Some(residual), dropout.as_ref());
        }
        let mut out = self.tape.dropout(&out, dropout.as_ref())?;
        for (_, module) in modules {
            out = module.output(self, &At { site: join, input: residual, norm: Some(norm) }, out)?;
        }
        self.norm(norm, &out, Some(residual))
    }

    /// The sum of the embeddings of every token; the first table is the token embedding.
    pub fn embed(&mut self, tables: &[(&Site, &[u32])], batch: &Batch) -> Result<Var> {
        let mut vars = Vec::with_capacity(tables.len());
        for (site, _) in tables {
            vars.push(self.param(&format!("{}.weight", site.path))?);
        }
        self.remember_keys(batch);
        if self.noise.is_some() {
            // Paper: R3F perturbs the token embeddings; like its reference code, no gradient reaches the table from there.
            vars[0] = vars[0].detach();
        }
        let pairs: Vec<(&Var, &[u32])> = vars.iter().zip(tables).map(|(var, (_, indices))| (var, *indices)).collect();
        let mut sum = self.tape.embed(&pairs)?;
        if let Some(noise) = self.noise {
            let width = sum.value().width();
            let rng = self.rng("noise", "embedding");
            let values = batch.keys.iter().flat_map(|&key| {
                (0..width as u64).map(move |column| {
                    let i = key * width as u64 + column;
                    let unit = if noise.normal { rng.normal(i) } else { 2.0 * rng.uniform(i) - 1.0 };
                    (noise.epsilon * unit) as f32
                })
            });
            let noise = Tensor::from_vec(self.tape.device(), sum.value().shape(), values.collect())?;
            sum = self.tape.add(&sum, &Var::constant(noise))?;
        }
        Ok(sum)
    }

    fn remember_keys(&mut self, batch: &Batch) {
        let read = if batch.rows.is_empty() { batch.first_rows() } else { &batch.rows };
        self.keys = [batch.keys.clone(), batch.keys_of(read)];
    }

    /// Bidirectional self-attention within each sequence of `x`, with the layer's prefix: `query` on the keys and values of
    /// the two sites. Queries are those of every token, or of `rows`.
    ///
    /// Where every sequence has one query, keys and values are not made if the plan leaves both sites linear maps of `x`:
    /// it is the same sum, with far less work (see [`Tape::absorbed_attention`]).
    pub fn attend(
        &mut self,
        query: &Var,
        [key, value]: [&Site; 2],
        x: &Var,
        Heads { count: heads, dropout: p }: Heads,
        batch: &Batch,
        rows: Option<&[u32]>,
    ) -> Result<Var> {
        let layer = key.layer.unwrap_or_default();
        let keys = rows.map_or_else(|| batch.keys.clone(), |rows| batch.keys_of(rows));
        let dropout = self.dropout_at(&format!("attention.{layer}"), p, &keys);
        let (offsets, dropout) = (&batch.offsets[..], dropout.as_ref());
        let plan = self.plan;
        let prefix = plan.prefix_of(layer);
        let one_each = rows.is_some_and(|rows| rows == batch.first_rows());
        if one_each
            && prefix.is_none()
            && let (Some(key), Some(value)) = (self.folded(key)?, self.folded(value)?)
        {
            let (key, value) = ((&key.0, key.1.as_ref()), (&value.0, value.1.as_ref()));
            return Ok(self.tape.absorbed_attention(query, x, Absorbed { key, value, offsets, heads, dropout })?);
        }
        let (key, value) = (self.linear(key, x, None)?, self.linear(value, x, None)?);
        let prefix = prefix.map(|prefix| prefix.prefix(self, layer)).transpose()?;
        let prefix = prefix.as_ref().map(|(keys, values)| (keys, values));
        let queries = rows.map(|rows| batch.offsets_of(rows));
        let queries = queries.as_deref();
        let attention = Attention { offsets, queries, heads, causal: false, dropout, prefix };
        Ok(self.tape.attention(query, &key, &value, &attention)?)
    }

    /// The weight of a linear site with its modules folded in, and its bias; nothing if a module is more than that.
    fn folded(&mut self, site: &Site) -> Result<Option<(Var, Option<Var>)>> {
        let mut weight = self.param(&format!("{}.weight", site.path))?;
        let plan = self.plan;
        for (_, module) in plan.outputs_of(&site.path) {
            match module.fold(self, &weight)? {
                Some(folded) => weight = folded,
                None => return Ok(None),
            }
        }
        Ok(Some((weight, self.optional(&format!("{}.bias", site.path))?)))
    }

    /// Dropout at a place; `keys` has one entry a row of `x`.
    pub fn dropout(&mut self, place: &str, x: &Var, p: f32, keys: &Arc<[u64]>) -> Result<Var> {
        let dropout = self.dropout_at(place, p, keys);
        Ok(self.tape.dropout(x, dropout.as_ref())?)
    }

    /// The keys of an activation with so many rows, for a module's own random masks: those of every token of the batch
    /// that was embedded last, or of the rows that its objective reads.
    ///
    /// # Errors
    /// When it has neither number of rows.
    pub fn keys(&self, rows: usize) -> Result<Arc<[u64]>> {
        let found = self.keys.iter().find(|keys| keys.len() == rows);
        found.cloned().ok_or_else(|| NnError::Unsupported {
            what: format!("a random mask over {rows} rows"),
            reason: format!(
                "this batch has {} tokens and the objective reads {}",
                self.keys[0].len(),
                self.keys[1].len()
            ),
        })
    }

    fn dropout_at(&self, place: &str, p: f32, keys: &Arc<[u64]>) -> Option<Dropout> {
        (self.training() && p > 0.0).then(|| Dropout { p, rng: self.rng("dropout", place), keys: keys.clone() })
    }

    /// Whether this pass leaves a layer out. One draw a step: every micro-batch of a step sees the same network.
    pub fn skips(&self, layer: usize) -> bool {
        self.training() && self.rng.named("skip").uniform(layer as u64) < self.plan.skip_of(layer)
    }
}
