//! Exports against the directories that peft's and AdapterHub's own libraries wrote for the same network.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use luthier_models::{Checkpoint, load_tensors};
use luthier_nn::Device;
use luthier_train::export::{ExportReport, Target, export};
use luthier_train::opened::Run;
use luthier_train::parse::Source;
use luthier_train::run::{Options, Outcome, run};
use luthier_train::step::Watch;
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// Trains two steps of a classifier on the tiny model, after other stages if there are any.
fn trained(dir: &Path, before: &str, method: &str) -> Run {
    trained_from(&fixtures().join("bert-tiny").canonicalize().unwrap(), dir, before, method)
}

/// The same from another base model.
fn trained_from(base: &Path, dir: &Path, before: &str, method: &str) -> Run {
    let rows = ["a good day,good", "a bad day,bad", "it is a day,neutral"].repeat(4).join("\n");
    std::fs::write(dir.join("data.csv"), format!("text,label\n{rows}\n")).unwrap();
    let recipe = format!(
        "[model]\npath = {:?}\n{before}\n[[stage]]\nname = \"task\"\nobjective = {{ kind = \"classify\" }}\n\
         data = {{ train = \"data.csv\" }}\nmethod = [{method}]\ntrain = {{ steps = 2, batch = 6, learning_rate = 0.05 }}\n",
        base
    );
    std::fs::write(dir.join("recipe.toml"), recipe).unwrap();
    let resolved = Source::read(&dir.join("recipe.toml"), &[]).unwrap();
    let options = Options { out: dir.join("run"), resume: false, cache: dir.join("cache") };
    let watch = Watch { clock: &|| 0.0, interrupted: &|| false, profile: None };
    let outcome = run(&resolved, &options, &watch, &mut |_| {}).unwrap();
    assert!(matches!(outcome, Outcome::Finished(_)));
    Run::open(&options.out).unwrap()
}

const ADAPT: &str = "[[stage]]\nname = \"adapt\"\nobjective = { kind = \"mlm\" }\n\
                     data = { train = \"data.csv\" }\ntrain = { steps = 1, batch = 6, learning_rate = 0.01 }\n";

/// The names and shapes of a file of tensors.
fn shapes(file: &Path) -> BTreeMap<String, Vec<usize>> {
    let tensors = load_tensors(&Device::cpu(), file).unwrap();
    tensors.iter().map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec())).collect()
}

fn json_of(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn exported(run: &Run, target: Target, out: &Path) -> ExportReport {
    let report = export(run, target, out).unwrap();
    assert!(report.files.iter().all(|file| out.join(file).is_file()), "{:?}", report.files);
    report
}

#[test]
fn lora_is_what_peft_writes() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path(), "", "{ kind = \"lora\", rank = 4, alpha = 8 }");
    let (ours, theirs) = (dir.path().join("peft"), fixtures().join("lora"));
    let report = exported(&run, Target::Peft, &ours);
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    let file = "adapter_model.safetensors";
    assert_eq!(shapes(&ours.join(file)), shapes(&theirs.join(file)));
    let (mut ours, theirs) = (json_of(&ours.join("adapter_config.json")), json_of(&theirs.join("adapter_config.json")));
    ours["peft_version"] = theirs["peft_version"].clone();
    ours["base_model_name_or_path"] = theirs["base_model_name_or_path"].clone();
    // Every key of ours is one of theirs, with the value that they wrote for the same method.
    for (key, value) in ours.as_object().unwrap() {
        assert_eq!(Some(value), theirs.get(key), "{key}");
    }
    // The run directory got the same kind of files.
    assert!(run.path.join("model").join(file).exists());
}

/// transformers refuses a checkpoint's classifier of another size unless it is told to let it go.
#[test]
fn the_card_lets_a_classifier_of_another_size_go() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second, base) = (dir.path().join("first"), dir.path().join("second"), dir.path().join("base"));
    std::fs::create_dir(&first).unwrap();
    std::fs::create_dir(&second).unwrap();
    exported(&trained(&first, "", "{ kind = \"full\" }"), Target::Hf, &base);
    let lora = "{ kind = \"lora\" }";
    let card = |out: &Path| std::fs::read_to_string(out.join("run/model/README.md")).unwrap();
    trained_from(&base, &second, "", lora);
    assert!(card(&second).contains("num_labels=3)"), "{}", card(&second));
    // Two labels in place of three: the head alone is cut down.
    let file = base.join("model.safetensors");
    let mut tensors = load_tensors(&Device::cpu(), &file).unwrap();
    for (name, shape) in [("classifier.weight", vec![2, 16]), ("classifier.bias", vec![2])] {
        tensors.insert(name, luthier_nn::Tensor::zeros(&Device::cpu(), &shape));
    }
    luthier_models::save_tensors(&file, tensors.iter().map(|(name, tensor)| (name.to_owned(), tensor))).unwrap();
    std::fs::remove_dir_all(second.join("run")).unwrap();
    trained_from(&base, &second, "", lora);
    assert!(card(&second).contains("num_labels=3, ignore_mismatched_sizes=True)"), "{}", card(&second));
}

#[test]
fn adapters_are_what_adapterhub_writes() {
    for name in ["pfeiffer", "houlsby"] {
        let dir = tempfile::tempdir().unwrap();
        let method =
            format!("{{ kind = \"adapter\", architecture = {name:?}, name = {name:?}, reduction_factor = 2 }}");
        let run = trained(dir.path(), "", &method);
        let (ours, theirs) = (dir.path().join("out"), fixtures().join(name));
        let report = exported(&run, Target::Adapterhub, &ours);
        for file in ["adapter.safetensors", "model_head.safetensors"] {
            assert_eq!(shapes(&ours.join(file)), shapes(&theirs.join(file)));
        }
        for file in ["pytorch_adapter.bin", "pytorch_model_head.bin"] {
            assert!(report.files.iter().any(|written| written == file));
        }
        for file in ["adapter_config.json", "head_config.json"] {
            let (mut ours, mut theirs) = (json_of(&ours.join(file)), json_of(&theirs.join(file)));
            for key in ["version", "model_name"] {
                ours[key] = Value::Null;
                theirs[key] = Value::Null;
            }
            if file == "adapter_config.json" {
                theirs["config"]["architecture"] = Value::Null;
                // A whole number is not enough for the library.
                assert!(ours["config"]["scaling"].is_f64());
            }
            assert_eq!(ours, theirs);
        }
        let refused = export(&run, Target::Hf, &dir.path().join("hf")).unwrap_err().to_string();
        assert!(refused.contains("cannot be folded") && refused.contains("adapterhub"), "{refused}");
        assert!(!dir.path().join("hf").exists() && !dir.path().join("hf.writing").exists());
    }
}

#[test]
fn a_full_model_has_labels_and_a_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path(), "", "{ kind = \"full\" }");
    let out = dir.path().join("hf");
    let report = exported(&run, Target::Hf, &out);
    assert!(report.loaded_back.parameters > 30 && report.loaded_back.largest_difference.is_none());
    let config = json_of(&out.join("config.json"));
    assert_eq!(config["id2label"], json!({"0": "bad", "1": "good", "2": "neutral"}));
    assert_eq!(config["architectures"], json!(["BertForSequenceClassification"]));
    // A key that Luthier does not read is kept.
    assert_eq!(config["transformers_version"], "5.23.0");
    for name in ["tokenizer.json", "tokenizer_config.json", "vocab.txt"] {
        let bytes = |dir: &Path| std::fs::read(dir.join(name)).unwrap();
        assert_eq!(bytes(&out), bytes(&fixtures().join("bert-tiny")), "{name}");
    }
    let refused = export(&run, Target::Hf, &out).unwrap_err().to_string();
    assert!(refused.contains("not empty") && refused.contains("--out"), "{refused}");
    let refused = export(&run, Target::Peft, &dir.path().join("peft")).unwrap_err().to_string();
    assert!(refused.contains("added no modules"), "{refused}");
}

#[test]
fn a_changed_base_goes_with_the_adapter() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path(), ADAPT, "{ kind = \"lora\", on = [\"down\"] }");
    // The run's own result is one whole model, the additions in its weights.
    assert!(run.path.join("model/model.safetensors").exists());
    let folded = exported(&run, Target::Hf, &dir.path().join("hf"));
    assert!(folded.loaded_back.largest_difference.is_some_and(|most| most < 1e-4));
    let out = dir.path().join("peft");
    let report = exported(&run, Target::Peft, &out);
    assert!(report.notes.iter().any(|note| note.contains("base/")), "{:?}", report.notes);
    // The base is the adapted one, without the additions.
    let base = Checkpoint::open(&out.join("base")).unwrap();
    let found = base.load(&Device::cpu(), run.assembled.plan.spec(), None, 0).unwrap().params;
    let weight = "bert.encoder.layer.0.output.dense.weight";
    assert_eq!(found.get(weight).unwrap().to_vec(), run.params().get(weight).unwrap().to_vec());
    let config = json_of(&out.join("adapter_config.json"));
    assert!(config["base_model_name_or_path"].as_str().unwrap().ends_with("peft/base"));
    assert_eq!(config["target_modules"], json!(["0.output.dense", "1.output.dense"]));
}

#[test]
fn a_prefix_is_one_table() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path(), "", "{ kind = \"prefix\", length = 3 }");
    let out = dir.path().join("peft");
    exported(&run, Target::Peft, &out);
    let tensors = load_tensors(&Device::cpu(), &out.join("adapter_model.safetensors")).unwrap();
    let table = tensors.get("prompt_embeddings").unwrap();
    assert_eq!(table.shape(), [3, 2 * 2 * 16]);
    // Row 1: keys and values of the first layer, then of the second.
    let row = &table.to_vec()[64..128];
    for (i, name) in ["0.keys", "0.values", "1.keys", "1.values"].iter().enumerate() {
        let own = run.params().get(&format!("prefix.{name}")).unwrap().to_vec();
        assert_eq!(row[i * 16..(i + 1) * 16], own[16..32], "{name}");
    }
    assert_eq!(json_of(&out.join("base/config.json"))["max_position_embeddings"], 67);
}
