//! What `luthier plan` says, without weights.

use std::path::{Path, PathBuf};
use std::time::Instant;

use luthier_nn::Role;
use luthier_train::explain::{Known, PlanReport, explain};
use luthier_train::parse::Source;

/// BERT-base as its config.json has it.
const BERT_BASE: &str = r#"{
    "model_type": "bert", "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 512
}"#;

/// A folder with a model that has no weights, and a recipe beside it.
fn folder(stages: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(dir.path().join("model")).expect("a folder");
    std::fs::write(dir.path().join("model/config.json"), BERT_BASE).expect("a file");
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).expect("a file");
    }
    let recipe = dir.path().join("recipe.toml");
    std::fs::write(&recipe, format!("[model]\npath = \"model\"\n{stages}")).expect("a file");
    (dir, recipe)
}

fn report(recipe: &Path) -> luthier_train::Result<PlanReport> {
    explain(&Source::read(recipe, &[])?.recipe, &|_| Ok(Some(1e11)))
}

const LORA: &str = r#"
[[stage]]
name = "intents"
objective = { kind = "classify" }
data = { train = "train.csv" }
method = [{ kind = "lora", rank = 8, on = ["query", "value"] }]
train = { epochs = 2, batch = 2 }
"#;

#[test]
fn a_lora_stage_by_hand() {
    let data = "text,label\none two three,a\nfour,b\nfive six,c\n";
    let (_dir, recipe) = folder(LORA, &[("train.csv", data)]);
    let begun = Instant::now();
    let report = report(&recipe).expect("a plan");
    // A bound no machine comes near unless weights are made.
    assert!(begun.elapsed().as_secs() < 30);
    assert_eq!((report.layers, report.width, report.family.as_str()), (12, 768, "bert"));
    let stage = &report.stages[0];
    let labels = stage.labels.expect("labels");
    assert_eq!((labels.count, labels.known), (3, Known::Counted));
    // Two maps a layer, A and B of 8 x 768 each; and a classifier of three labels.
    let lora = 12 * 2 * 2 * 8 * 768;
    assert_eq!(stage.trained, lora + 3 * 768 + 3);
    // transformers counts 109 482 240 in BERT-base with its pooler.
    assert_eq!(stage.parameters, 109_482_240 + lora + 3 * 768 + 3);
    let row = |role: Role, added: bool| {
        stage.roles.iter().find(|row| row.role == role && row.added == added).expect("the role")
    };
    let query = row(Role::Query, true);
    assert_eq!(
        (query.layers.as_str(), query.tensors, query.moving_tensors, query.moving_numbers),
        ("0-11", 24, 24, lora / 2)
    );
    let frozen = row(Role::Query, false);
    assert_eq!((frozen.layers.as_str(), frozen.tensors, frozen.moving_tensors), ("", 24, 0));
    assert_eq!(row(Role::Head, false).moving_numbers, 3 * 768 + 3);
    assert_eq!(stage.memory.weights, 4 * stage.parameters);
    assert_eq!(stage.memory.optimizer, 8 * stage.trained);
    // Three texts in batches of two, twice.
    assert_eq!(stage.steps, Some(4));
    let step = stage.step.seconds.expect("a time");
    assert!((step - (stage.step.forward + stage.step.backward) as f64 / 1e11).abs() < 1e-12);
    // Without a tokenizer: 1.3 pieces a word, two special tokens.
    assert!((stage.texts.tokens - (2.0 * 1.3 + 2.0)).abs() < 1e-9);
    assert!(serde_json::to_string(&report).expect("JSON").contains("\"verb\":\"output\""));
}

#[test]
fn without_data_what_is_assumed_is_said() {
    let (_dir, recipe) = folder(LORA, &[]);
    let stage = report(&recipe).expect("a plan").stages.remove(0);
    assert_eq!(stage.labels.expect("labels").known, Known::Assumed);
    assert_eq!((stage.texts.examples, stage.texts.tokens_known), (None, Known::Assumed));
    assert_eq!((stage.steps, stage.new), (None, None));
}

#[test]
fn masked_language_modelling_over_blocks() {
    let stages = r#"
[[stage]]
name = "adapt"
objective = { kind = "mlm" }
data = { train = "texts.txt", max_length = 12 }
train = { steps = 5, batch = 4 }
"#;
    let (_dir, recipe) = folder(stages, &[("texts.txt", &"a few words on a line\n\n".repeat(100))]);
    let stage = report(&recipe).expect("a plan").stages.remove(0);
    assert!(stage.texts.packed && stage.texts.tokens == 12.0);
    // Six words a line: 7.8 pieces and a separator, of which 10 fit between a block's special tokens.
    assert_eq!(stage.texts.examples.map(|known| known.count), Some(88));
    assert_eq!((stage.labels, stage.steps), (None, Some(5)));
    assert_eq!(stage.trained, stage.parameters);
}

#[test]
fn what_does_not_fit_is_named() {
    let broken = [
        (LORA.replace("\"value\"", "\"gate\""), "", "gate"),
        (LORA.replace("rank = 8", "rank = 0"), "", "rank"),
        (LORA.replace("\"train.csv\"", "\"train.csv\", max_length = 600"), "", "max_length = 600"),
        (LORA.to_owned(), "txt,label\na,b\n", "text"),
        (LORA.to_owned(), "text,label\na\n", "train.csv:2"),
    ];
    for (stages, data, expected) in broken {
        let files: &[(&str, &str)] = if data.is_empty() { &[] } else { &[("train.csv", data)] };
        let (_dir, recipe) = folder(&stages, files);
        let error = report(&recipe).expect_err("a broken plan");
        assert!(error.is_user_input(), "{error}");
        let answer = error.to_string();
        assert!(answer.contains(expected) && answer.contains("intents"), "{answer}");
    }
}
