//! The golden numbers: Luthier against transformers, peft and AdapterHub's library on tiny random models.
//!
//! Hidden states, logits, the loss, every gradient by name, ten steps of AdamW and where they lead. Errors are relative to
//! the norm of the expected tensor; 1e-4 is the most that is allowed.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use luthier::nn::{Head, Mode, Network, Params, Plan, Score, Select, Tensor, Var};
use luthier::tuning::Method;
use support::golden::Golden;
use support::{Bench, Classify, MaskedLm, Rate, build, distance, exempt_biases_and_norms, fixture, open};

const TOLERANCE: f64 = 1e-4;

/// A key bias shifts all scores of a query alike: its gradient is zero, and what is found there is rounding.
fn is_key_bias(path: &str) -> bool {
    path.ends_with("attention.self.key.bias")
}

fn close(what: &str, found: &[f32], expected: &[f32]) {
    let error = distance(found, expected);
    assert!(error <= TOLERANCE, "{what} is off by {error:.1e}\n{found:?}\n{expected:?}");
}

/// The loss, all gradients, ten steps and the parameters after them. `name` gives the library's name of one of our paths.
fn ten_steps(bench: &mut Bench, golden: &Golden, rate: Rate, name: &dyn Fn(&str) -> String) {
    let batch = golden.batch();
    let (loss, grads) = bench.mean(std::slice::from_ref(&batch));
    close("the loss", &[loss as f32], golden.floats("loss"));

    let moved: Vec<String> =
        bench.plan.params().map(|p| p.path.clone()).filter(|path| bench.plan.moves(path)).collect();
    let mut expected = golden.under("grad.");
    for path in &moved {
        let expected = expected.remove(&name(path)).unwrap_or_else(|| panic!("the library does not train {path}"));
        let found = grads.dense(path).unwrap().unwrap_or_else(|| panic!("{path} has no gradient"));
        if is_key_bias(path) {
            assert!(found.to_vec().iter().all(|g| g.abs() < 1e-6), "the gradient of {path} is {:?}", found.to_vec());
        } else {
            close(&format!("the gradient of {path}"), &found.to_vec(), &expected.to_vec());
        }
    }
    assert!(expected.is_empty(), "the library trains more: {:?}", expected.keys());
    assert_eq!(grads.len(), moved.len(), "something has a gradient that does not move");

    let losses: Vec<f32> = (0..10).map(|_| bench.train(std::slice::from_ref(&batch), rate).0 as f32).collect();
    for (step, (found, expected)) in losses.iter().zip(golden.floats("losses10")).enumerate() {
        close(&format!("the loss before step {}", step + 1), &[*found], &[*expected]);
    }
    let after = golden.under("after10.");
    for path in moved.iter().filter(|path| !is_key_bias(path)) {
        close(
            &format!("{path} after ten steps"),
            &bench.params.get(path).unwrap().to_vec(),
            &after[&name(path)].to_vec(),
        );
    }
}

fn classifier() -> (Arc<dyn Network>, Params) {
    open("bert-tiny", Head::Classify { labels: 3 })
}

fn insert(params: &mut Params, tensors: BTreeMap<String, Tensor>, path: &dyn Fn(&str) -> String) {
    for (name, tensor) in tensors {
        params.insert(path(&name), tensor);
    }
}

/// Seen to fail with the residual of the attention block left out, and with AdamW's epsilon inside the root.
#[test]
fn bert_classifies_as_transformers_does() {
    let golden = Golden::open("bert-tiny/classify.safetensors");
    let (network, mut params) = classifier();
    insert(&mut params, golden.under("weight."), &str::to_owned);
    let mut plan = Plan::new(network.spec().clone().into());
    plan.train(&Select::all()).unwrap();
    exempt_biases_and_norms(&mut plan);
    let mut bench = Bench::new(network, Arc::new(Classify), plan, params, 1);

    let batch = golden.batch();
    let mut cx = bench.cx(Mode::Evaluate);
    let hidden = bench.network.hidden(&batch, bench.network.spec().layers, &mut cx).unwrap().value().to_vec();
    close("the last hidden states", &hidden, golden.floats("hidden"));
    close("the logits", &bench.logits(&batch), golden.floats("logits"));
    ten_steps(&mut bench, &golden, Rate { learning_rate: 1e-3, weight_decay: 0.01 }, &str::to_owned);
}

/// Seen to fail with gelu's approximation by a hyperbolic tangent.
#[test]
fn bert_fills_masks_as_transformers_does() {
    let golden = Golden::open("bert-tiny/mlm.safetensors");
    let (network, params) = open("bert-tiny", Head::MaskedLm);
    let mut plan = Plan::new(network.spec().clone().into());
    plan.train(&Select::all()).unwrap();
    exempt_biases_and_norms(&mut plan);
    let mut bench = Bench::new(network, Arc::new(MaskedLm), plan, params, 1);

    // The loss never holds the logits in memory; here they are computed the plain way.
    let batch = golden.batch();
    let mut cx = bench.cx(Mode::Evaluate);
    let features = bench.network.forward(&batch, &mut cx).unwrap();
    let output = bench.network.vocabulary().unwrap().clone();
    let (weight, bias) = (cx.param(&output.weight).unwrap(), cx.param(&output.bias.unwrap()).unwrap());
    let logits: Var = cx.tape.linear(&features, &weight, Some(&bias), None).unwrap();
    close("the logits", &logits.value().to_vec(), golden.floats("logits"));
    let predictions = MaskedLm.loss(&*bench.network, &batch, &mut bench.cx(Mode::Evaluate)).unwrap().predictions;
    let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
    let expected: Vec<u32> = golden.floats("logits").chunks(115).map(best).collect();
    assert_eq!(predictions, expected);
    ten_steps(&mut bench, &golden, Rate { learning_rate: 1e-3, weight_decay: 0.01 }, &str::to_owned);
}

/// Seen to fail with the word embedding in the decoder's place.
#[test]
fn bert_fills_masks_with_a_decoder_of_its_own_as_transformers_does() {
    let golden = Golden::open("bert-tiny/untied.safetensors");
    let mut config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("bert-tiny").join("config.json")).unwrap()).unwrap();
    config["tie_word_embeddings"] = false.into();
    let network = build(&config, Head::MaskedLm);
    let (_, mut params) = open("bert-tiny", Head::MaskedLm);
    params.remove("cls.predictions.bias");
    insert(&mut params, golden.under("weight."), &str::to_owned);
    let mut plan = Plan::new(network.spec().clone().into());
    plan.train(&Select::all()).unwrap();
    exempt_biases_and_norms(&mut plan);
    let mut bench = Bench::new(network, Arc::new(MaskedLm), plan, params, 1);
    ten_steps(&mut bench, &golden, Rate { learning_rate: 1e-3, weight_decay: 0.01 }, &str::to_owned);
}

/// A method against the library that it came from: its tensors under our paths, its numbers from ours. `ours` gives our path
/// of one of the library's names.
fn against(fixture: &str, files: &[&str], method: &str, ours: &dyn Fn(&str) -> String) {
    let golden = Golden::open(&format!("{fixture}/golden.safetensors"));
    let (network, params) = classifier();
    let method: Method = serde_json::from_str(method).unwrap();
    let mut plan = Plan::new(network.spec().clone().into());
    plan.apply(method.kind(), method.get()).unwrap();
    plan.check().unwrap();
    let mut bench = Bench::new(network, Arc::new(Classify), plan, params, 1);

    let mut names = BTreeMap::new();
    for file in files {
        for (name, tensor) in Golden::open(&format!("{fixture}/{file}")).under("") {
            let path = ours(&name);
            let before = bench.params.insert(&path, tensor.clone());
            let shape = before.map(|before| before.shape().to_vec());
            assert_eq!(shape.as_deref(), Some(tensor.shape()), "{name} has no place here");
            names.insert(path, name);
        }
    }
    close("the logits", &bench.logits(&golden.batch()), golden.floats("logits"));
    let rate = Rate { learning_rate: 1e-2, weight_decay: 0.0 };
    ten_steps(&mut bench, &golden, rate, &|path| {
        names.get(path).unwrap_or_else(|| panic!("{path} is not in the file")).clone()
    });
}

/// Seen to fail with a scale of `alpha / √rank`.
#[test]
fn lora_is_pefts() {
    let ours = |name: &str| name.trim_start_matches("base_model.model.").to_owned();
    against("lora", &["adapter_model.safetensors"], r#"{"kind": "lora", "rank": 4, "alpha": 8}"#, &ours);
}

/// Seen to fail with a bottleneck that reads the sub-layer's output.
#[test]
fn pfeiffers_adapter_is_adapterhubs() {
    let method = r#"{"kind": "adapter", "architecture": "pfeiffer", "reduction_factor": 2, "name": "pfeiffer"}"#;
    against("pfeiffer", &["adapter.safetensors", "model_head.safetensors"], method, &str::to_owned);
}

/// Seen to fail with a bottleneck that reads the normed sum.
#[test]
fn houlsbys_adapters_are_adapterhubs() {
    let method = r#"{"kind": "adapter", "architecture": "houlsby", "reduction_factor": 2, "name": "houlsby"}"#;
    against("houlsby", &["adapter.safetensors", "model_head.safetensors"], method, &str::to_owned);
}
