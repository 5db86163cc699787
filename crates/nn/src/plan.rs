//! The plan: how a network is bent, and what moves. Inert data, made without weights, printable, checked before a run.
//!
//! Methods write it with eleven verbs: `train`, `edit`, `weight`, `output`, `prefix`, `skip`, `lr`, `wrap`, `penalty`,
//! `grad`, `after`. [`crate::Cx`], the optimiser and the loop read it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::{NnError, Result};
use crate::hooks::{After, Edit, GradMap, LayerPrefix, OutputMap, Penalty, PlanMethod, WeightMap, Wrap};
use crate::params::Params;
use crate::select::Select;
use crate::spec::{ParamSpec, Role, Site, Spec};

/// The verbs of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// These parameters move.
    Train,
    /// Weights changed once, before the first step.
    Edit,
    /// An effective weight at each forward pass.
    Weight,
    /// A changed output of a site.
    Output,
    /// Extra keys and values.
    Prefix,
    /// Layers left out at random in training.
    Skip,
    /// A factor on the learning rate, or no decay.
    Lr,
    /// An objective made from the objective.
    Wrap,
    /// A term on parameters.
    Penalty,
    /// A change of the gradients.
    Grad,
    /// An act after each update.
    After,
}

/// One line of what a plan says.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Entry {
    /// The method that said it.
    pub method: String,
    /// The verb.
    pub verb: Verb,
    /// Of what, in words.
    pub what: String,
}

type Named<T> = (String, Arc<T>);

/// How a network is bent and what moves.
#[derive(Clone)]
pub struct Plan {
    spec: Arc<Spec>,
    method: String,
    added: BTreeMap<String, ParamSpec>,
    moves: BTreeMap<String, u64>,
    fresh: BTreeSet<String>,
    frozen: BTreeSet<String>,
    edits: Vec<(String, Vec<String>, Arc<dyn Edit>)>,
    weights: BTreeMap<String, Named<dyn WeightMap>>,
    outputs: BTreeMap<String, Vec<Named<dyn OutputMap>>>,
    prefixes: BTreeMap<usize, Named<dyn LayerPrefix>>,
    skips: BTreeMap<usize, f64>,
    rates: BTreeMap<String, f64>,
    no_decay: BTreeSet<String>,
    wraps: Vec<Named<dyn Wrap>>,
    penalties: Vec<Named<dyn Penalty>>,
    grads: Vec<Named<dyn GradMap>>,
    afters: Vec<Named<dyn After>>,
    entries: Vec<Entry>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.entries).finish()
    }
}

impl Plan {
    /// A plan under which only the objective's head moves.
    pub fn new(spec: Arc<Spec>) -> Plan {
        let heads = spec.params.iter().filter(|p| p.role == Role::Head);
        let moves = heads.map(|p| (p.path.clone(), 0)).collect();
        Plan {
            spec,
            method: String::new(),
            added: BTreeMap::new(),
            moves,
            fresh: BTreeSet::new(),
            frozen: BTreeSet::new(),
            edits: Vec::new(),
            weights: BTreeMap::new(),
            outputs: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            skips: BTreeMap::new(),
            rates: BTreeMap::new(),
            no_decay: BTreeSet::new(),
            wraps: Vec::new(),
            penalties: Vec::new(),
            grads: Vec::new(),
            afters: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Lets a method write its part, under its name.
    pub fn apply(&mut self, name: &str, method: &dyn PlanMethod) -> Result<()> {
        self.method = name.to_owned();
        let spec = self.spec.clone();
        method.plan(self, &spec)
    }

    /// The network's description.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The method that is writing.
    pub fn method(&self) -> &str {
        &self.method
    }

    fn note(&mut self, verb: Verb, what: String) {
        self.entries.push(Entry { method: self.method.clone(), verb, what });
    }

    /// The parameters of the network and those that methods added so far which a selector picks.
    fn pick(&self, select: &Select) -> Result<Vec<ParamSpec>> {
        let mut picked: Vec<ParamSpec> = self.added.values().filter(|p| select.matches(p)).cloned().collect();
        match select.params(&self.method, &self.spec) {
            Ok(own) => picked.extend(own.into_iter().cloned()),
            Err(error) if picked.is_empty() => return Err(error),
            Err(_) => {}
        }
        Ok(picked)
    }

    // The eleven verbs.

    /// `train`: these parameters move, from the first step on.
    pub fn train(&mut self, select: &Select) -> Result<()> {
        self.train_from(select, 0)
    }

    /// `train`, from step `start` on (gradual unfreezing).
    pub fn train_from(&mut self, select: &Select, start: u64) -> Result<()> {
        for param in self.pick(select)?.into_iter().filter(|param| !self.frozen.contains(&param.path)) {
            let at = self.moves.entry(param.path).or_insert(start);
            *at = start.min(*at);
        }
        let from = if start > 0 { format!(" from step {start}") } else { String::new() };
        self.note(Verb::Train, format!("{}{from}", select.describe()));
        Ok(())
    }

    /// `train`, for parameters that the base model lacks and that begin at random: they always move.
    pub fn train_new(&mut self, paths: &[String]) {
        for path in paths {
            self.moves.insert(path.clone(), 0);
            self.fresh.insert(path.clone());
        }
    }

    /// Whether a parameter of the network begins at random, so that it has no pretrained value.
    pub fn is_new(&self, path: &str) -> bool {
        self.fresh.contains(path)
    }

    /// `edit`: changes parameters once, before the first step.
    pub fn edit(&mut self, select: &Select, edit: Arc<dyn Edit>) -> Result<()> {
        let paths = self.pick(select)?.into_iter().map(|p| p.path).collect();
        self.edits.push((self.method.clone(), paths, edit));
        self.note(Verb::Edit, select.describe());
        Ok(())
    }

    /// `weight`: an effective weight at each forward pass. One a parameter.
    pub fn weight(&mut self, select: &Select, map: Arc<dyn WeightMap>) -> Result<()> {
        for param in select.params(&self.method, &self.spec.clone())? {
            let before = self.weights.insert(param.path.clone(), (self.method.clone(), map.clone()));
            if let Some((other, _)) = before {
                return Err(NnError::Conflict {
                    first: other,
                    second: self.method.clone(),
                    reason: format!("both replace the weight {}", param.path),
                    hint: "Keep one of them, or give them different layers or roles.".to_owned(),
                });
            }
        }
        self.note(Verb::Weight, select.describe());
        Ok(())
    }

    /// `output`: a module after each picked site. `make` gives the module and its new parameters, which move.
    pub fn output(
        &mut self,
        select: &Select,
        mut make: impl FnMut(&Site) -> Result<(Arc<dyn OutputMap>, Vec<ParamSpec>)>,
    ) -> Result<()> {
        for site in select.sites(&self.method, &self.spec.clone())? {
            let (module, params) = make(site)?;
            self.add(params)?;
            self.outputs.entry(site.path.clone()).or_default().push((self.method.clone(), module));
        }
        self.note(Verb::Output, select.describe());
        Ok(())
    }

    /// `prefix`: extra keys and values in these layers' attention.
    pub fn prefix(
        &mut self,
        layers: &[usize],
        mut make: impl FnMut(usize) -> Result<(Arc<dyn LayerPrefix>, Vec<ParamSpec>)>,
    ) -> Result<()> {
        self.check_layers(layers)?;
        for &layer in layers {
            let (module, params) = make(layer)?;
            self.add(params)?;
            if let Some((other, _)) = self.prefixes.insert(layer, (self.method.clone(), module)) {
                return Err(NnError::Conflict {
                    first: other,
                    second: self.method.clone(),
                    reason: format!("both put a prefix into layer {layer}"),
                    hint: "Keep one of them.".to_owned(),
                });
            }
        }
        self.note(Verb::Prefix, Select::all().layers(layers.iter().copied()).describe());
        Ok(())
    }

    /// `skip`: leaves a layer out with probability `p`, in training.
    pub fn skip(&mut self, layers: &[usize], p: f64) -> Result<()> {
        self.check_layers(layers)?;
        for &layer in layers {
            self.skips.insert(layer, p);
        }
        self.note(
            Verb::Skip,
            format!("{} with probability {p}", Select::all().layers(layers.iter().copied()).describe()),
        );
        Ok(())
    }

    /// `lr`: multiplies the learning rate of these parameters.
    pub fn lr(&mut self, select: &Select, factor: f64) -> Result<()> {
        for param in self.pick(select)? {
            *self.rates.entry(param.path).or_insert(1.0) *= factor;
        }
        self.note(Verb::Lr, format!("{} x {factor:.4}", select.describe()));
        Ok(())
    }

    /// `lr`: no weight decay on the parameters for which `exempt` holds.
    pub fn no_decay(&mut self, exempt: impl Fn(&ParamSpec) -> bool) {
        let paths: Vec<String> = self.params().filter(|p| exempt(p)).map(|p| p.path.clone()).collect();
        self.no_decay.extend(paths);
    }

    /// `wrap`: an objective made from the objective; later ones go around earlier ones.
    pub fn wrap(&mut self, wrap: Arc<dyn Wrap>) {
        self.wraps.push((self.method.clone(), wrap));
        self.note(Verb::Wrap, "the loss".to_owned());
    }

    /// `penalty`: a term on parameters.
    pub fn penalty(&mut self, penalty: Arc<dyn Penalty>) {
        self.penalties.push((self.method.clone(), penalty));
        self.note(Verb::Penalty, "the parameters that move".to_owned());
    }

    /// `grad`: a change of the gradients, in the order of the recipe.
    pub fn grad(&mut self, map: Arc<dyn GradMap>) {
        self.grads.push((self.method.clone(), map));
        self.note(Verb::Grad, "all gradients".to_owned());
    }

    /// `after`: an act after each update.
    pub fn after(&mut self, after: Arc<dyn After>) {
        self.afters.push((self.method.clone(), after));
        self.note(Verb::After, "every update".to_owned());
    }

    // What the verbs share.

    fn add(&mut self, params: Vec<ParamSpec>) -> Result<()> {
        for param in params {
            self.moves.insert(param.path.clone(), 0);
            let path = param.path.clone();
            if self.added.insert(path.clone(), param).is_some() || self.spec.param(&path).is_some() {
                return Err(NnError::Conflict {
                    first: self.method.clone(),
                    second: self.method.clone(),
                    reason: format!("two modules would both own the parameter {path}"),
                    hint: "Give one of them another name, or other roles or layers.".to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Fails when a layer is not there.
    pub fn check_layers(&self, layers: &[usize]) -> Result<()> {
        let count = self.spec.layers;
        match layers.iter().find(|&&layer| layer >= count) {
            None if !layers.is_empty() => Ok(()),
            missing => Err(NnError::NoMatch {
                method: self.method.clone(),
                wanted: missing.map_or("no layer at all".to_owned(), |layer| format!("layer {layer}")),
                available: format!("{count} layers (0 to {})", count.max(1) - 1),
                hint: "Layers are counted from the input, beginning with 0.".to_owned(),
            }),
        }
    }

    /// Finds a plan that would do nothing. Each verb has already refused what conflicts with what was there.
    pub fn check(&self) -> Result<()> {
        if self.moves.is_empty() {
            return Err(NnError::Conflict {
                first: "the methods of this stage".to_owned(),
                second: "training".to_owned(),
                reason: "nothing would move".to_owned(),
                hint: "Add a method such as { kind = \"full\" } or { kind = \"lora\" }.".to_owned(),
            });
        }
        Ok(())
    }

    // What the interpreters read.

    /// Whether a parameter moves at `step` (counted from 0).
    pub fn moves_at(&self, path: &str, step: u64) -> bool {
        self.moves.get(path).is_some_and(|&start| step >= start)
    }

    /// Whether a parameter moves at any step.
    pub fn moves(&self, path: &str) -> bool {
        self.moves.contains_key(path)
    }

    /// Whether a stage leaves a parameter other than it found it: it moves, or is edited.
    pub fn changes(&self, path: &str) -> bool {
        self.moves(path) || self.edits.iter().any(|(_, paths, _)| paths.iter().any(|p| p == path))
    }

    /// How many of the lowest layers a stage leaves quite as they are: none of their parameters moves, nothing is random or
    /// put into them. Nothing if the embeddings are not left so either, or what they read may be disturbed.
    pub fn still_layers(&self) -> Option<usize> {
        if !self.wraps.is_empty() {
            return None;
        }
        let below = [Role::Embed, Role::Position, Role::Segment, Role::EmbedNorm];
        let touched = |path: &str| self.moves(path) || self.weights.contains_key(path);
        let params = self.params().filter(|param| touched(&param.path)).map(|param| (param.role, param.layer));
        let sites = self.spec.sites.iter().filter(|site| self.outputs.contains_key(&site.path));
        let mut still = self.spec.layers;
        for (role, layer) in params.chain(sites.map(|site| (site.role, site.layer))) {
            match layer {
                Some(layer) => still = still.min(layer),
                None if below.contains(&role) => return None,
                None => {}
            }
        }
        let others = self.prefixes.keys().chain(self.skips.iter().filter(|(_, p)| **p > 0.0).map(|(layer, _)| layer));
        Some(others.fold(still, |still, &layer| still.min(layer)))
    }

    /// Stops everything that methods added so far from moving: modules of earlier stages act and stay as they are.
    pub fn freeze_added(&mut self) {
        for path in self.added.keys() {
            self.moves.remove(path);
            self.frozen.insert(path.clone());
        }
    }

    /// Folds the modules after linear sites into the weights, where they allow it: gives back the weights that changed,
    /// and whether everything that the methods added could be folded.
    pub fn merge(&self, params: &mut Params) -> Result<(Vec<String>, bool)> {
        let (mut folded, mut whole) = (Vec::new(), self.prefixes.is_empty());
        for (path, modules) in &self.outputs {
            let name = format!("{path}.weight");
            let site = self.spec.sites.iter().find(|site| &site.path == path);
            let mut merged = site.filter(|_| params.contains(&name)).map(|_| params.get(&name).cloned()).transpose()?;
            for (_, module) in modules {
                merged = match (site, merged) {
                    (Some(site), Some(weight)) => module.merge(site, params, &weight)?,
                    _ => None,
                };
            }
            match merged {
                Some(weight) => {
                    params.insert(&name, weight);
                    folded.push(name);
                }
                None => whole = false,
            }
        }
        Ok((folded, whole))
    }

    /// Every parameter of the network and of the methods, the network's first.
    pub fn params(&self) -> impl Iterator<Item = &ParamSpec> {
        self.spec.params.iter().chain(self.added.values())
    }

    /// The parameters that methods brought.
    pub fn added(&self) -> impl Iterator<Item = &ParamSpec> {
        self.added.values()
    }

    /// The edits: the method, the parameters, the change.
    pub fn edits(&self) -> &[(String, Vec<String>, Arc<dyn Edit>)] {
        &self.edits
    }

    /// The effective-weight hook of a parameter.
    pub fn weight_of(&self, path: &str) -> Option<&dyn WeightMap> {
        self.weights.get(path).map(|(_, map)| map.as_ref())
    }

    /// The modules after a site, in the order of the recipe.
    pub fn outputs_of(&self, site: &str) -> &[(String, Arc<dyn OutputMap>)] {
        self.outputs.get(site).map_or(&[], Vec::as_slice)
    }

    /// The prefix of a layer.
    pub fn prefix_of(&self, layer: usize) -> Option<&dyn LayerPrefix> {
        self.prefixes.get(&layer).map(|(_, prefix)| prefix.as_ref())
    }

    /// With what probability a layer is left out.
    pub fn skip_of(&self, layer: usize) -> f64 {
        self.skips.get(&layer).copied().unwrap_or(0.0)
    }

    /// The factor on a parameter's learning rate.
    pub fn rate(&self, path: &str) -> f64 {
        self.rates.get(path).copied().unwrap_or(1.0)
    }

    /// Whether a parameter decays.
    pub fn decays(&self, path: &str) -> bool {
        !self.no_decay.contains(path)
    }

    /// The wraps, innermost first.
    pub fn wraps(&self) -> impl Iterator<Item = &dyn Wrap> {
        self.wraps.iter().map(|(_, wrap)| wrap.as_ref())
    }

    /// The penalties.
    pub fn penalties(&self) -> impl Iterator<Item = &dyn Penalty> {
        self.penalties.iter().map(|(_, penalty)| penalty.as_ref())
    }

    /// The gradient transformations, in order.
    pub fn grads(&self) -> impl Iterator<Item = &dyn GradMap> {
        self.grads.iter().map(|(_, map)| map.as_ref())
    }

    /// The acts after an update, in order.
    pub fn afters(&self) -> impl Iterator<Item = &dyn After> {
        self.afters.iter().map(|(_, after)| after.as_ref())
    }

    /// What the methods said, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}
