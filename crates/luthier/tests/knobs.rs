//! Law 13: every setting of every method and stabiliser changes something that can be named. A setting without a row here
//! fails, and so does a row whose setting changes nothing.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use luthier::nn::{Network, Plan};
use luthier::tuning::{Method, Stabiliser};
use serde_json::{Value, json};
use support::tiny::{self, SMALL, Size};
use support::{Bench, Classify, Rate, bits};

/// What a run shows of itself.
#[derive(Debug, PartialEq)]
struct Shown {
    /// Which parameters move, and their shapes.
    moves: Vec<(String, Vec<usize>)>,
    /// What the network puts out before the first step.
    start: Vec<f32>,
    /// The loss of each of four steps.
    losses: Vec<f64>,
    /// The norm of the gradients that each update saw.
    norms: Vec<f64>,
    /// The parameters after four steps.
    end: Vec<Vec<u32>>,
    /// What would be kept of them.
    kept: Vec<Vec<u32>>,
}

/// Where a setting is to be seen.
#[derive(Debug, Clone, Copy)]
enum Seen {
    Moves,
    Start,
    Losses,
    Norms,
    End,
    Kept,
}

fn plan(network: &dyn Network, recipe: &[&Value]) -> Plan {
    let mut plan = Plan::new(network.spec().clone().into());
    for &json in recipe {
        let kind = json["kind"].as_str().unwrap();
        if Method::KINDS.contains(&kind) {
            let method: Method = serde_json::from_value(json.clone()).unwrap();
            plan.apply(kind, method.get()).unwrap();
        } else {
            let stabiliser: Stabiliser = serde_json::from_value(json.clone()).unwrap();
            plan.apply(kind, stabiliser.get()).unwrap();
        }
    }
    plan
}

fn show(recipe: &[&Value]) -> Shown {
    let network = tiny::classifier(Size { dropout: 0.1, ..SMALL });
    let plan = plan(&*network, recipe);
    let params = tiny::params(network.spec(), 3);
    let mut bench = Bench::new(network, Arc::new(Classify), plan, params, 5);
    let batch = tiny::all(&tiny::examples(&[5, 9, 3, 12, 7, 8, 6, 11], SMALL.vocabulary, 2));
    let moving = bench.plan.params().filter(|param| bench.plan.moves(&param.path));
    let moves = moving.map(|param| (param.path.clone(), param.shape.clone())).collect();
    let start = bench.logits(&batch);
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let (loss, grads) = bench.train(std::slice::from_ref(&batch), Rate { learning_rate: 1e-2, weight_decay: 0.0 });
        losses.push(loss);
        norms.push(grads.norm().unwrap());
    }
    let all = |params: &luthier::nn::Params| params.iter().map(|(_, tensor)| bits(tensor)).collect();
    let kept = bench.plan.afters().fold(bench.params.clone(), |params, after| after.result(&params, &bench.memory));
    Shown { moves, start, losses, norms, end: all(&bench.params), kept: all(&kept) }
}

/// A kind, the settings beside it, the setting that is turned, what to, and where it is seen.
fn rows() -> Vec<(&'static str, Value, &'static str, Value, Seen)> {
    vec![
        ("full", json!({}), "except", json!(["embed"]), Seen::Moves),
        ("bitfit", json!({}), "roles", json!(["query"]), Seen::Moves),
        ("top", json!({}), "layers", json!(1), Seen::Moves),
        ("top", json!({}), "pooler", json!(false), Seen::Moves),
        ("lora", json!({}), "on", json!(["key"]), Seen::Moves),
        ("lora", json!({}), "rank", json!(4), Seen::Moves),
        ("lora", json!({}), "alpha", json!(32.0), Seen::Losses),
        ("lora", json!({}), "dropout", json!(0.5), Seen::Losses),
        ("lora", json!({}), "rslora", json!(true), Seen::Losses),
        ("lora", json!({}), "layers", json!([1]), Seen::Moves),
        ("adapter", json!({}), "architecture", json!("houlsby"), Seen::Moves),
        ("adapter", json!({}), "reduction_factor", json!(2.0), Seen::Moves),
        ("adapter", json!({"reduction_factor": 2}), "non_linearity", json!("tanh"), Seen::Start),
        ("adapter", json!({}), "name", json!("other"), Seen::Moves),
        ("prefix", json!({}), "length", json!(3), Seen::Moves),
        ("prefix", json!({}), "projection", json!(true), Seen::Moves),
        ("prefix", json!({"projection": true}), "hidden", json!(8), Seen::Moves),
        ("prefix", json!({}), "layers", json!([1]), Seen::Moves),
        ("llrd", json!({}), "decay", json!(0.5), Seen::End),
        ("reinit", json!({}), "layers", json!(2), Seen::Start),
        ("reinit", json!({}), "pooler", json!(false), Seen::Start),
        ("mixout", json!({}), "p", json!(0.5), Seen::Losses),
        ("l2_sp", json!({}), "lambda", json!(0.5), Seen::Losses),
        ("r3f", json!({"epsilon": 0.1}), "lambda", json!(3.0), Seen::Losses),
        ("r3f", json!({}), "epsilon", json!(0.1), Seen::Losses),
        ("r3f", json!({"epsilon": 0.1}), "noise", json!("normal"), Seen::Losses),
        ("layer_drop", json!({}), "p", json!(0.7), Seen::Losses),
        ("layer_drop", json!({"p": 0.7}), "layers", json!([1]), Seen::Losses),
        ("clip", json!({}), "max_norm", json!(0.01), Seen::Norms),
        ("ema", json!({}), "decay", json!(0.05), Seen::Kept),
    ]
}

/// Seen to fail with the scale of LoRA fixed at `alpha / rank`.
#[test]
fn every_knob_turns() {
    for (kind, beside, field, value, seen) in rows() {
        let mut still = beside.clone();
        still["kind"] = json!(kind);
        let mut turned = still.clone();
        turned[field] = value;
        let everything = json!({"kind": "full"});
        let recipe = |json| if Method::KINDS.contains(&kind) { vec![json] } else { vec![&everything, json] };
        let (before, after) = (show(&recipe(&still)), show(&recipe(&turned)));
        let differs = match seen {
            Seen::Moves => before.moves != after.moves,
            Seen::Start => before.start != after.start,
            Seen::Losses => before.losses != after.losses,
            Seen::Norms => before.norms != after.norms,
            Seen::End => before.end != after.end,
            Seen::Kept => before.kept != after.kept && before.end == after.end,
        };
        assert!(differs, "{kind}: {field} changes nothing in {seen:?}");
        assert_eq!(before, show(&recipe(&still)), "{kind}: two equal runs differ");
    }
}

#[test]
fn every_knob_has_a_row() {
    let methods = Method::all().into_iter().map(|method| serde_json::to_value(method).unwrap());
    let stabilisers = Stabiliser::all().into_iter().map(|stabiliser| serde_json::to_value(stabiliser).unwrap());
    let mut fields = BTreeSet::new();
    for json in methods.chain(stabilisers) {
        for field in json.as_object().unwrap().keys().filter(|field| *field != "kind") {
            fields.insert((json["kind"].as_str().unwrap().to_owned(), field.clone()));
        }
    }
    let rows: BTreeSet<(String, String)> =
        rows().into_iter().map(|(kind, _, field, _, _)| (kind.to_owned(), field.to_owned())).collect();
    assert_eq!(rows, fields, "the rows on the left, the settings on the right");
}
