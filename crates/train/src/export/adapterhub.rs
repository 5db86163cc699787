//! A directory as AdapterHub's adapters writes it: configurations, and weights in both of its file kinds.
//!
//! The head is the one of transformers' own class, so a model of that class loads the directory with one call.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use luthier_models::save_tensors;
use luthier_nn::{ParamSpec, Role, Tensor};
use luthier_tuning::Method;
use luthier_tuning::methods::adapter::{Adapter, Architecture};
use serde_json::{Value, json};

use super::{Base, Job, LoadedBack, Module, card, json as sorted_json, kinds, torch_file};
use crate::checkpoint::{make_dir, write_file};
use crate::error::Result;
use crate::opened::Run;

/// The library takes a version before 1.1 for one whose files need repair.
const VERSION: &str = "adapters.1.2.0";

/// Writes the directory; a folder for each adapter where several are stacked.
pub(super) fn write(job: &mut Job, modules: &[Module]) -> Result<LoadedBack> {
    let run = job.run;
    let settings = |method: &Method| match method {
        Method::Adapter(adapter) => Some(adapter.clone()),
        _ => None,
    };
    let adapters: Option<Vec<Adapter>> = modules.iter().map(|module| settings(&module.method)).collect();
    let Some(adapters) = adapters.filter(|adapters| !adapters.is_empty()) else {
        let kinds = kinds(modules);
        let (found, help) = match kinds.as_slice() {
            [] => ("the run added no adapters to the network".to_owned(), "Export to hf"),
            kinds => (
                format!("the network has modules of {}", kinds.join(" and ")),
                if kinds.contains(&"adapter") { "Use one kind of module" } else { "Export to peft" },
            ),
        };
        return job.refuse(&found, "a result whose only modules are adapters, for adapterhub", help);
    };
    let classify = run.labels().is_some();
    let base = job.base(&|param| classify && param.role == Role::Head)?;
    let mut back = None;
    for (place, adapter) in adapters.iter().enumerate() {
        let dir = folder(job, adapter, adapters.len());
        make_dir(&dir)?;
        let mut tensors: Vec<(&str, &Tensor)> = Vec::new();
        for param in &modules[place].added {
            tensors.push((&param.path, run.params().get(&param.path)?));
        }
        both(&dir, "adapter.safetensors", "pytorch_adapter.bin", &tensors)?;
        write_file(&dir.join("adapter_config.json"), &sorted_json(&adapter_config(run, adapter, &base)))?;
        // The head goes with the adapter that stands last.
        if classify && place + 1 == adapters.len() {
            let heads = run.assembled.plan.spec().params.iter().filter(|p| p.role == Role::Head);
            let tensors: Result<Vec<(&str, &Tensor)>> =
                heads.map(|p| Ok((p.path.as_str(), run.params().get(&p.path)?))).collect();
            both(&dir, "model_head.safetensors", "pytorch_model_head.bin", &tensors?)?;
            write_file(&dir.join("head_config.json"), &sorted_json(&head_config(run, &base)))?;
        }
        back = Some(dir);
    }
    let names: Vec<&str> = adapters.iter().map(|adapter| adapter.name.as_str()).collect();
    if names.len() > 1 {
        job.notes.push(format!("{} adapters, one on the other: each has a folder.", names.len()));
    }
    write_file(&job.dir.join("README.md"), card::adapterhub(run, job.out, &base.name, &names).as_bytes())?;
    match back {
        Some(dir) => load_back(job, modules, &dir, &base, &adapters),
        None => Ok(LoadedBack { parameters: 0, largest_difference: None }),
    }
}

/// Writes the same tensors in both file kinds.
fn both(dir: &Path, safe: &str, pickled: &str, tensors: &[(&str, &Tensor)]) -> Result<()> {
    save_tensors(&dir.join(safe), tensors.iter().map(|(name, tensor)| (name.to_string(), *tensor)))?;
    torch_file::write(&dir.join(pickled), tensors.iter().copied())
}

fn adapter_config(run: &Run, adapter: &Adapter, base: &Base) -> Value {
    let houlsby = adapter.architecture == Architecture::Houlsby;
    let factor = adapter.reduction_factor;
    // A field that is left out gets a default of its own, and a scaling of `1` in place of `1.0` is refused.
    let config = json!({
        "adapter_residual_before_ln": false,
        "architecture": null,
        "cross_adapter": false,
        "dropout": 0.0,
        "factorized_phm_W": true,
        "factorized_phm_rule": false,
        "hypercomplex_nonlinearity": "glorot-uniform",
        "init_weights": "bert",
        "init_weights_seed": null,
        "inv_adapter": null,
        "inv_adapter_reduction_factor": null,
        "is_parallel": false,
        "learn_phm": true,
        "leave_out": [],
        "ln_after": false,
        "ln_before": false,
        "mh_adapter": houlsby,
        "non_linearity": adapter.non_linearity().name(),
        "original_ln_after": true,
        "original_ln_before": !houlsby,
        "output_adapter": true,
        "phm_bias": true,
        "phm_c_init": "normal",
        "phm_dim": 4,
        "phm_init_range": 0.0001,
        "phm_layer": false,
        "phm_rank": 1,
        "reduction_factor": if factor.fract() == 0.0 { json!(factor as u64) } else { json!(factor) },
        "residual_before_ln": true,
        "scaling": 1.0,
        "shared_W_phm": false,
        "shared_phm_rule": true,
        "stochastic_depth": 0.0,
        "use_gating": false,
    });
    described(run, base, json!({"config": config, "name": adapter.name}))
}

fn head_config(run: &Run, base: &Base) -> Value {
    let names = run.labels().map_or(&[][..], |labels| labels.names());
    let ids: serde_json::Map<String, Value> =
        names.iter().enumerate().map(|(id, name)| (name.clone(), json!(id))).collect();
    described(run, base, json!({"config": null, "label2id": ids, "name": null, "num_labels": names.len()}))
}

/// What both configurations say of the model.
fn described(run: &Run, base: &Base, mut config: Value) -> Value {
    config["hidden_size"] = run.assembled.plan.spec().width.into();
    config["model_class"] = (run.base.family().architecture)(run.assembled.objective.head()).into();
    config["model_name"] = base.name.clone().into();
    config["model_type"] = run.base.family().model_type.into();
    config["version"] = VERSION.into();
    config
}

/// Every adapter's file and the head's, together with the base model, must be the run's parameters.
fn load_back(job: &Job, modules: &[Module], last: &Path, base: &Base, adapters: &[Adapter]) -> Result<LoadedBack> {
    let spec = job.run.assembled.plan.spec();
    let names = |params: &mut dyn Iterator<Item = &ParamSpec>| -> BTreeMap<String, String> {
        params.map(|param| (param.path.clone(), param.path.clone())).collect()
    };
    let mut held = Vec::new();
    for (adapter, module) in adapters.iter().zip(modules) {
        let file = folder(job, adapter, adapters.len()).join("adapter.safetensors");
        held.push((file, names(&mut module.added.iter())));
    }
    if job.run.labels().is_some() {
        let mut heads = spec.params.iter().filter(|param| param.role == Role::Head);
        held.push((last.join("model_head.safetensors"), names(&mut heads)));
    }
    job.compare(&held, base)
}

/// Where an adapter is written: a folder of its own where there are several.
fn folder(job: &Job, adapter: &Adapter, count: usize) -> PathBuf {
    if count == 1 { job.dir.to_owned() } else { job.dir.join(&adapter.name) }
}
