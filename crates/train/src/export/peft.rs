//! A directory as peft writes it: `adapter_config.json` and `adapter_model.safetensors`, for LoRA and for prefixes.
//!
//! Only keys that every version of peft knows are written.

use std::collections::BTreeMap;

use luthier_models::{load_tensors, read_config, save_tensors};
use luthier_nn::{Cx, Device, Mode, ParamSpec, Precision, Role, Tensor};
use luthier_tuning::Method;
use luthier_tuning::methods::lora::Lora;
use serde_json::{Map, Value, json};

use super::hf::config;
use super::{Base, Job, LoadedBack, Module, card, json as sorted_json, kinds, left_over, same};
use crate::checkpoint::{to_json, write_file};
use crate::error::Result;
use crate::opened::Run;

const TENSORS: &str = "adapter_model.safetensors";
/// A release that knows every key below; peft only shows it.
const VERSION: &str = "0.18.0";

/// Writes the directory.
pub(super) fn write(job: &mut Job, modules: &[Module]) -> Result<LoadedBack> {
    let kinds = kinds(modules);
    let fits = "a result whose only modules are LoRA's, or one prefix, for peft";
    if kinds.is_empty() {
        return job.refuse("the run added no modules to the network", fits, "Export to hf");
    }
    if kinds.iter().all(|kind| *kind == "lora") {
        return lora(job, modules);
    }
    if kinds == ["prefix"] {
        return prefix(job, modules);
    }
    let help =
        if kinds.iter().all(|kind| *kind == "adapter") { "Export to adapterhub" } else { "Use one kind of module" };
    job.refuse(&format!("the network has modules of {}", kinds.join(" and ")), fits, help)
}

/// Whether LoRA's directory needs no base model of its own.
pub(super) fn fits_the_base(run: &Run, modules: &[Module]) -> bool {
    left_over(run, &|param| carried(run, modules, param)).is_empty()
}

/// What LoRA's file holds of the network's own parameters: a classifier, and a pooler that nothing was added to. A
/// language model's head shares the embedding's weight, as a rule, and peft would make a copy of it: it goes into the base.
fn carried(run: &Run, modules: &[Module], param: &ParamSpec) -> bool {
    let added_to = |role| modules.iter().flat_map(|module| &module.sites).any(|site| site.role == role);
    run.labels().is_some() && (param.role == Role::Head || param.role == Role::Pooler && !added_to(Role::Pooler))
}

fn lora(job: &mut Job, modules: &[Module]) -> Result<LoadedBack> {
    let run = job.run;
    let spec = run.assembled.plan.spec();
    let sites: Vec<&str> = modules.iter().flat_map(|module| &module.sites).map(|site| site.path.as_str()).collect();
    let targets = targets(&sites, spec.params.iter().map(|param| param.path.as_str()));
    let settings: Vec<(&Module, &Lora)> = modules
        .iter()
        .filter_map(|module| match &module.method {
            Method::Lora(lora) => Some((module, lora)),
            _ => None,
        })
        .collect();
    let first = settings[0].1;
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    for (module, lora) in &settings[1..] {
        // The file has one kind of scale: the alpha that gives this module's own.
        let rank = lora.rank as f64;
        let alpha = lora.scale() * if first.rslora { rank.sqrt() } else { rank };
        for site in &module.sites {
            if lora.rank != first.rank {
                ranks.insert(site.path.clone(), json!(lora.rank));
            }
            if alpha != first.alpha {
                alphas.insert(site.path.clone(), number(alpha));
            }
        }
    }
    if settings.iter().any(|(_, lora)| lora.dropout != first.dropout) {
        job.notes.push("The additions differ in dropout; the file has one, that of the first.".to_owned());
    }
    let base = job.base(&|param| carried(run, modules, param))?;
    // What goes into the file of the network's own parameters.
    let pooler = spec.params.iter().any(|p| p.role == Role::Pooler && run.assembled.differs.contains(&p.path));
    let pooler = pooler && !base.beside;
    let held = |param: &ParamSpec| match param.role {
        Role::Head => run.labels().is_some(),
        Role::Pooler => pooler,
        _ => false,
    };
    let name = |param: &ParamSpec| {
        let module = spec.param(&param.path).is_none();
        (module || held(param)).then(|| format!("base_model.model.{}", param.path))
    };
    let mut config = common(run, &base, "LORA", pooler);
    let own = json!({
        "alpha_pattern": alphas,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": number(first.alpha),
        "lora_dropout": first.dropout,
        "r": first.rank,
        "rank_pattern": ranks,
        "target_modules": targets,
        "use_dora": false,
        "use_rslora": first.rslora,
    });
    config.extend(own.as_object().cloned().unwrap_or_default());
    let mut tensors: Vec<(String, &Tensor)> = Vec::new();
    for param in run.assembled.plan.params() {
        if let Some(name) = name(param) {
            tensors.push((name, run.params().get(&param.path)?));
        }
    }
    save_tensors(&job.dir.join(TENSORS), tensors)?;
    descriptions(job, config, &base)?;
    let named = run.assembled.plan.params().filter_map(|param| Some((param.path.clone(), name(param)?))).collect();
    job.compare(&[(job.dir.join(TENSORS), named)], &base)
}

/// Whether a prefix stands in every layer, as peft's does.
pub(super) fn whole_prefix(run: &Run) -> bool {
    let plan = &run.assembled.plan;
    (0..plan.spec().layers).all(|layer| plan.prefix_of(layer).is_some())
}

fn prefix(job: &mut Job, modules: &[Module]) -> Result<LoadedBack> {
    let run = job.run;
    let spec = run.assembled.plan.spec();
    let Method::Prefix(prefix) = &modules[0].method else { return job.refuse("no prefix", "a prefix", "Use hf") };
    let length = prefix.length;
    if !whole_prefix(run) {
        let expected = "one in every layer, for peft";
        return job.refuse("the prefix is in some layers only", expected, "Train with layers = []");
    }
    let (table, width) = prompt_embeddings(run, length)?;
    if width != spec.width {
        return job.refuse("keys are not as wide as the network", "the same width, for peft", "Use LoRA");
    }
    // transformers counts positions from the end of the prefix, Luthier from the beginning of the text: a base model
    // whose position table begins later makes the two agree.
    let rows = spec.max_length + length;
    let mut params = run.params().clone();
    let mut moved = None;
    for param in spec.params.iter().filter(|param| param.role == Role::Position) {
        let positions = run.params().get(&param.path)?;
        let mut values = vec![0.0; length * positions.width()];
        values.extend(positions.to_vec());
        params.insert(&param.path, Tensor::from_vec(positions.device(), &[rows, positions.width()], values)?);
        moved = Some(param.path.clone());
    }
    job.notes.push(format!(
        "base/ is the model that the prefix goes on, with positions counted from {length}: peft counts a prefix's places \
         as positions, Luthier does not. Without the prefix it is not the model that it was."
    ));
    let base = job.base_with(&params, |config| {
        config.insert("max_position_embeddings".to_owned(), json!(rows));
    })?;
    let classify = run.labels().is_some();
    let mut config = common(run, &base, "PREFIX_TUNING", false);
    let own = json!({
        "encoder_hidden_size": spec.width,
        "num_attention_heads": spec.heads,
        "num_layers": spec.layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": length,
        "prefix_projection": false,
        "token_dim": width,
    });
    config.extend(own.as_object().cloned().unwrap_or_default());
    let mut tensors = vec![("prompt_embeddings".to_owned(), &table)];
    let heads: Vec<&ParamSpec> = spec.params.iter().filter(|p| classify && p.role == Role::Head).collect();
    for param in &heads {
        tensors.push((format!("base_model.{}", param.path), run.params().get(&param.path)?));
    }
    let file = job.dir.join(TENSORS);
    save_tensors(&file, tensors)?;
    descriptions(job, config, &base)?;

    let device = &Device::cpu();
    let held = load_tensors(device, &file)?;
    same(&file, "prompt_embeddings", held.get("prompt_embeddings").ok(), &table)?;
    for param in heads {
        same(&file, &param.path, held.get(&format!("base_model.{}", param.path)).ok(), run.params().get(&param.path)?)?;
    }
    let model = base.dir.join("model.safetensors");
    let back = load_tensors(device, &model)?;
    for param in &spec.params {
        let expected = if moved.as_ref() == Some(&param.path) { &params } else { run.params() };
        same(&model, &param.path, back.get(&param.path).ok(), expected.get(&param.path)?)?;
    }
    Ok(LoadedBack { parameters: run.assembled.plan.params().count(), largest_difference: None })
}

/// The prefix as one table `[length, layers * 2 * width]`, keys and values of the layers side by side, and the width. A
/// projected prefix is computed once and for all.
fn prompt_embeddings(run: &Run, length: usize) -> Result<(Tensor, usize)> {
    let (plan, params) = (&run.assembled.plan, run.params());
    let device = Device::cpu();
    let mut cx = Cx::new(&device, Precision::F32, plan, params, params, Mode::Evaluate, 0);
    let mut columns = Vec::new();
    for layer in 0..plan.spec().layers {
        if let Some(prefix) = plan.prefix_of(layer) {
            let (keys, values) = prefix.prefix(&mut cx, layer)?;
            columns.extend([keys.value().clone(), values.value().clone()]);
        }
    }
    let width = columns.first().map_or(0, Tensor::width);
    let blocks: Vec<Vec<f32>> = columns.iter().map(Tensor::to_vec).collect();
    let mut table = Vec::with_capacity(length * blocks.len() * width);
    for row in 0..length {
        for block in &blocks {
            table.extend(&block[row * width..(row + 1) * width]);
        }
    }
    Ok((Tensor::from_vec(&device, &[length, blocks.len() * width], table)?, width))
}

/// What every kind of adapter says.
fn common(run: &Run, base: &Base, kind: &str, pooler: bool) -> Map<String, Value> {
    let classify = run.labels().is_some();
    let class = (run.base.family().architecture)(run.assembled.objective.head());
    let family = run.base.family().model_type;
    let mapping = json!({
        "base_model_class": class,
        "parent_library": format!("transformers.models.{family}.modeling_{family}"),
    });
    // peft itself adds both names of a classifier, whichever of them the model has.
    let mut saved = if classify { vec!["classifier", "score"] } else { Vec::new() };
    if pooler {
        saved.push("pooler");
    }
    let config = json!({
        "auto_mapping": if classify { Value::Null } else { mapping },
        "base_model_name_or_path": base.name,
        "inference_mode": true,
        "modules_to_save": if saved.is_empty() { Value::Null } else { json!(saved) },
        "peft_type": kind,
        "peft_version": VERSION,
        "revision": null,
        "task_type": if classify { json!("SEQ_CLS") } else { Value::Null },
    });
    config.as_object().cloned().unwrap_or_default()
}

/// Both configurations and the card. `config.json` has the labels, which peft's own files cannot say.
fn descriptions(job: &Job, config_of_adapter: Map<String, Value>, base: &Base) -> Result<()> {
    write_file(&job.dir.join("adapter_config.json"), &sorted_json(&config_of_adapter.into()))?;
    let config = if base.beside { read_config(&base.dir)? } else { config(job.run).into() };
    write_file(&job.dir.join("config.json"), &to_json(&config))?;
    write_file(&job.dir.join("README.md"), card::peft(job.run, job.out, &base.name).as_bytes())
}

/// A whole number without a point: older versions of peft expect one.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e9 { json!(value as i64) } else { json!(value) }
}

/// Names that pick these sites and no other module of the network, as peft picks: a name is a whole path or the end of one
/// after a point. Each site gets the shortest such name.
fn targets<'a>(sites: &[&str], params: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut modules: BTreeMap<&str, bool> = BTreeMap::new();
    for path in params {
        modules.extend(path.match_indices('.').map(|(at, _)| (&path[..at], false)));
    }
    modules.extend(sites.iter().map(|site| (*site, true)));
    let picks =
        |name: &str, module: &str| module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let exact = |name: &&str| modules.iter().all(|(module, ours)| *ours || !picks(name, module));
    let mut names: Vec<String> = sites
        .iter()
        .map(|site| {
            let mut ends = site.rmatch_indices('.').map(|(at, _)| &site[at + 1..]);
            ends.find(exact).unwrap_or(site).to_owned()
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(layers: usize) -> Vec<String> {
        let mut params = vec!["bert.embeddings.word_embeddings.weight".to_owned()];
        for i in 0..layers {
            let names = ["attention.self.query", "attention.self.value", "attention.output.dense", "output.dense"];
            params.extend(names.map(|name| format!("bert.encoder.layer.{i}.{name}.weight")));
            params.push(format!("bert.encoder.layer.{i}.intermediate.dense.bias"));
        }
        params.extend(["bert.pooler.dense.weight".to_owned(), "classifier.weight".to_owned()]);
        params
    }

    fn names(layers: usize, on: &[&str], of: &[usize]) -> Vec<String> {
        let site = |&i: &usize| on.iter().map(move |name| format!("bert.encoder.layer.{i}.{name}"));
        let sites: Vec<String> = of.iter().flat_map(site).collect();
        let sites: Vec<&str> = sites.iter().map(String::as_str).collect();
        let params = params(layers);
        targets(&sites, params.iter().map(String::as_str))
    }

    #[test]
    fn names_pick_the_sites_and_nothing_else() {
        assert_eq!(names(2, &["attention.self.query", "attention.self.value"], &[0, 1]), ["query", "value"]);
        // The end of a feed-forward block, without that of attention, whose name ends alike.
        let all: Vec<usize> = (0..11).collect();
        let down = names(11, &["output.dense"], &all);
        assert_eq!((down.len(), down[0].as_str()), (11, "0.output.dense"));
        // With it, both have one name.
        assert_eq!(names(2, &["attention.output.dense", "output.dense"], &[0, 1]), ["output.dense"]);
        assert_eq!(names(2, &["attention.output.dense"], &[0, 1]), ["attention.output.dense"]);
        assert_eq!(names(2, &["attention.self.query"], &[1]), ["1.attention.self.query"]);
        assert_eq!(names(2, &["intermediate.dense"], &[0, 1]), ["intermediate.dense"]);
    }

    #[test]
    fn numbers_are_whole_where_they_can_be() {
        assert_eq!([number(16.0).to_string(), number(0.5).to_string()], ["16", "0.5"]);
    }
}
