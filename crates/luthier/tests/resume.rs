//! Laws of the loop: a run that was stopped and resumed is the run that was not, to the bit; and how many tokens go through
//! the network at once changes a sum's rounding only.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use luthier::record::Event;
use luthier::train::opened::Run;
use luthier::train::parse::Source;
use luthier::train::run::{Options, Outcome, run};
use luthier::train::step::Watch;
use support::{bits, distance, fixture};

const STEPS: u64 = 6;

/// What moves and what keeps it steady: everything that remembers or draws something from step to step.
const STAGES: &[&str] = &[
    r#"method = [{ kind = "full" }]
stabilise = [
    { kind = "llrd" }, { kind = "reinit" }, { kind = "mixout", p = 0.3 }, { kind = "l2_sp", lambda = 0.1 },
    { kind = "r3f", epsilon = 0.1 }, { kind = "layer_drop", p = 0.3 }, { kind = "clip", max_norm = 0.5 },
    { kind = "ema", decay = 0.5 },
]"#,
    r#"method = [{ kind = "lora", dropout = 0.3 }, { kind = "bitfit" }]"#,
    r#"method = [{ kind = "adapter", reduction_factor = 2 }]
stabilise = [{ kind = "ema", decay = 0.5 }]"#,
    r#"method = [{ kind = "prefix", length = 3 }]"#,
];

/// The tiny model with dropout, twelve examples, and a recipe.
fn prepare(dir: &Path, stage: &str, token_budget: usize) {
    let model = dir.join("model");
    std::fs::create_dir_all(&model).unwrap();
    for file in ["model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"] {
        std::fs::copy(fixture("bert-tiny").join(file), model.join(file)).unwrap();
    }
    let text = std::fs::read_to_string(fixture("bert-tiny/config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["hidden_dropout_prob"] = 0.1.into();
    config["attention_probs_dropout_prob"] = 0.1.into();
    std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    let rows = [
        "the cat sat on the mat,good",
        "dogs,bad",
        "this film was very good,good",
        "it was odd,bad",
        "i walked in the rain,neutral",
        "a hat,neutral",
        "the film was not good,bad",
        "a very good cat,good",
        "the rain was bad,bad",
        "i sat,neutral",
        "the dogs walked on the mat,neutral",
        "good dogs,good",
    ];
    std::fs::write(dir.join("data.csv"), format!("text,label\n{}\n", rows.join("\n"))).unwrap();
    let recipe = format!(
        "[model]\npath = {model:?}\n\n[[stage]]\nname = \"task\"\nobjective = {{ kind = \"classify\" }}\n\
         data = {{ train = \"data.csv\" }}\n{stage}\n\
         train = {{ steps = {STEPS}, batch = 5, learning_rate = 0.01, token_budget = {token_budget} }}\n"
    );
    std::fs::write(dir.join("recipe.toml"), recipe).unwrap();
}

/// Runs until `stop` steps are done (or the end), and gives back the losses of its steps and of what it was measured on.
fn go(dir: &Path, out: &str, resume: bool, stop: u64) -> (Vec<f64>, Outcome) {
    let resolved = Source::read(&dir.join("recipe.toml"), &[]).unwrap();
    let options = Options { out: dir.join(out), resume, cache: dir.join("cache") };
    let (done, mut losses) = (AtomicU64::new(0), Vec::new());
    let watch = Watch { clock: &|| 0.0, interrupted: &|| done.load(Ordering::SeqCst) >= stop, profile: None };
    let outcome = run(&resolved, &options, &watch, &mut |line| match &line.event {
        Event::Step { step, loss, .. } => {
            done.store(*step, Ordering::SeqCst);
            losses.push(*loss);
        }
        Event::Evaluated { scores, .. } => losses.extend(scores.value("loss")),
        _ => (),
    });
    (losses, outcome.unwrap())
}

/// The parameters that a finished run left.
fn result(dir: &Path, out: &str) -> Vec<(String, Vec<u32>)> {
    let run = Run::open(&dir.join(out)).unwrap();
    run.params().iter().map(|(path, tensor)| (path.to_owned(), bits(tensor))).collect()
}

/// Law 6, stopped after each step and resumed. Seen to fail with AdamW's moments, the update counts, and what stabilisers
/// remember left out of what is restored.
#[test]
fn resumed_is_uninterrupted_to_the_bit() {
    for stage in STAGES {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path(), stage, 4096);
        let (expected, outcome) = go(dir.path(), "whole", false, u64::MAX);
        assert!(matches!(outcome, Outcome::Finished(_)) && expected.len() == STEPS as usize);
        let whole = result(dir.path(), "whole");
        for stop in 1..STEPS {
            let out = format!("stopped-{stop}");
            let (mut losses, outcome) = go(dir.path(), &out, false, stop);
            assert_eq!(outcome, Outcome::Interrupted { stage: "task".to_owned(), step: stop });
            let (rest, outcome) = go(dir.path(), &out, true, u64::MAX);
            assert!(matches!(outcome, Outcome::Finished(_)));
            losses.extend(rest);
            assert_eq!(losses, expected, "{stage}\nstopped after step {stop}: the losses differ");
            for ((path, found), (_, expected)) in result(dir.path(), &out).iter().zip(&whole) {
                assert!(found == expected, "{stage}\nstopped after step {stop}: {path} differs");
            }
        }
    }
}

fn change(dir: &Path, file: &str, from: &str, to: &str) {
    let path = dir.join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

/// Without dropout a kept trunk changes no bit, neither of the training nor of a dev score, resumed or not. Seen to fail with
/// one layer too many in what is kept, and with the trunk of the training texts beside the dev texts.
#[test]
fn a_kept_trunk_changes_nothing() {
    for method in ["{ kind = \"top\", layers = 1 }", "{ kind = \"lora\", layers = [1] }"] {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path(), &format!("method = [{method}]"), 40);
        change(dir.path(), "model/config.json", "0.1", "0.0");
        let held = std::fs::read_to_string(dir.path().join("data.csv")).unwrap().replace("the ", "a very ");
        std::fs::write(dir.path().join("dev.csv"), held).unwrap();
        change(dir.path(), "recipe.toml", "\"data.csv\"", "\"data.csv\", dev = \"dev.csv\"");
        change(dir.path(), "recipe.toml", "token_budget = 40 }", "token_budget = 40 }\nevaluate = { every = 2 }");
        let (expected, _) = go(dir.path(), "plain", false, u64::MAX);
        change(dir.path(), "recipe.toml", "token_budget", "cache_trunk = true, token_budget");
        assert_eq!(expected.len(), STEPS as usize * 3 / 2, "{method}: every second step is measured");
        let (losses, _) = go(dir.path(), "kept", false, u64::MAX);
        assert_eq!(losses, expected, "{method}");
        assert_eq!(result(dir.path(), "kept"), result(dir.path(), "plain"), "{method}");
        let (mut losses, _) = go(dir.path(), "stopped", false, 2);
        losses.extend(go(dir.path(), "stopped", true, u64::MAX).0);
        assert_eq!(losses, expected, "{method}, resumed");
    }
}

/// There is no trunk where everything moves.
#[test]
fn a_trunk_that_moves_cannot_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path(), "method = [{ kind = \"full\" }]", 4096);
    change(dir.path(), "recipe.toml", "token_budget", "cache_trunk = true, token_budget");
    let resolved = Source::read(&dir.path().join("recipe.toml"), &[]).unwrap();
    let options = Options { out: dir.path().join("run"), resume: false, cache: dir.path().join("cache") };
    let watch = Watch { clock: &|| 0.0, interrupted: &|| false, profile: None };
    let error = run(&resolved, &options, &watch, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("cache_trunk") && error.contains("the embeddings change"), "{error}");
}

/// Law 11 for the loop. Seen to fail with slots that count an example's place in its micro-batch.
#[test]
fn the_token_budget_changes_rounding_only() {
    for stage in STAGES {
        let run = |budget: usize| {
            let dir = tempfile::tempdir().unwrap();
            prepare(dir.path(), stage, budget);
            go(dir.path(), "run", false, u64::MAX).0
        };
        let (large, small) = (run(4096), run(16));
        let values = |losses: &[f64]| losses.iter().map(|&loss| loss as f32).collect::<Vec<_>>();
        let error = distance(&values(&small), &values(&large));
        assert!(error < 1e-4, "{stage}\nthe losses are {small:?}, not {large:?}");
    }
}
