//! Run directories: what is in one is never another recipe's, and nothing of a person's is overwritten.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use luthier_train::export::{Target, export};
use luthier_train::opened::Run;
use luthier_train::parse::Source;
use luthier_train::run::{Options, Outcome, run};
use luthier_train::step::Watch;

fn tiny() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bert-tiny");
    format!("path = {:?}", path.canonicalize().unwrap())
}

/// A folder with data of two labels.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rows = ["a good day,good", "a bad day,bad"].repeat(6).join("\n");
    std::fs::write(dir.path().join("data.csv"), format!("text,label\n{rows}\n")).unwrap();
    dir
}

/// One stage of two steps.
fn recipe(model: &str, data: &str, more: &str) -> String {
    format!(
        "[model]\n{model}\n[[stage]]\nname = \"task\"\nobjective = {{ kind = \"classify\" }}\n\
         data = {{ train = \"data.csv\"{data} }}\n{more}\ntrain = {{ steps = 2, batch = 6, learning_rate = 1e-12 }}\n"
    )
}

/// Runs a recipe into `out`, stopped at once if so said.
fn train(dir: &Path, recipe: &str, out: &str, stopped: bool) -> Result<Outcome, String> {
    std::fs::write(dir.join("task.toml"), recipe).unwrap();
    let resolved = Source::read(&dir.join("task.toml"), &[]).map_err(|error| error.to_string())?;
    let options = Options { out: dir.join(out), resume: false, cache: dir.join("cache") };
    let watch = Watch { clock: &|| 0.0, interrupted: &|| stopped, profile: None };
    run(&resolved, &options, &watch, &mut |_| {}).map_err(|error| error.to_string())
}

fn finished(dir: &Path, recipe: &str, out: &str) -> PathBuf {
    assert!(matches!(train(dir, recipe, out, false), Ok(Outcome::Finished(_))));
    dir.join(out)
}

/// Seen to fail without `forget`: the old head then answered under the new recipe.
#[test]
fn a_result_does_not_pass_for_that_of_another_recipe() {
    let dir = folder();
    let lora = |rank: usize| recipe(&tiny(), "", &format!("method = [{{ kind = \"lora\", rank = {rank} }}]"));
    let out = finished(dir.path(), &lora(2), "run");
    Run::open(&out).unwrap();
    assert!(matches!(train(dir.path(), &lora(4), "run", true), Ok(Outcome::Interrupted { .. })));
    let error = Run::open(&out).err().unwrap().to_string();
    assert!(error.contains("is not finished"), "{error}");
}

#[test]
fn what_a_person_has_is_left_alone() {
    let dir = folder();
    let new = "[model.new]\nvocabulary = 64\ntext = \"data.csv\"\n[model.new.config]\nmodel_type = \"bert\"\nhidden_size = 16\n\
               num_hidden_layers = 1\nnum_attention_heads = 2\nintermediate_size = 32\nmax_position_embeddings = 32\n";
    for (file, text) in [("mine/recipe.toml", "# mine\n"), ("models/base/config.json", "{}")] {
        let path = dir.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        let out = file.split('/').next().unwrap();
        let error = train(dir.path(), &recipe(new, "", "").replacen("[model]\n", "", 1), out, false).unwrap_err();
        assert!(error.contains("Give another"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{file}");
        assert_eq!(path.parent().unwrap().read_dir().unwrap().count(), 1 + usize::from(out == "mine"), "{file}");
    }
    // A finished run from scratch needs its text no more.
    let out = finished(dir.path(), &recipe(new, "", "").replacen("[model]\n", "", 1), "run");
    let before = std::fs::read(out.join("base/model.safetensors")).unwrap();
    std::fs::write(dir.path().join("data.csv"), "text,label\nother words,good\n").unwrap();
    Run::open(&out).unwrap();
    assert_eq!(std::fs::read(out.join("base/model.safetensors")).unwrap(), before);
}

/// Rows of a classifier belong to names, not to numbers.
#[test]
fn the_base_model_s_classifier_goes_by_name() {
    let dir = folder();
    let first = Run::open(&finished(dir.path(), &format!("seed = 5\n{}", recipe(&tiny(), "", "")), "first")).unwrap();
    let hf = dir.path().join("hf");
    export(&first, Target::Hf, &hf).unwrap();
    let rows = |run: &Run| -> Vec<Vec<f32>> {
        let weight = run.params().get("classifier.weight").unwrap().to_vec();
        weight.chunks(weight.len() / 2).map(<[f32]>::to_vec).collect()
    };
    let trained = rows(&first);
    let config = std::fs::read_to_string(hf.join("config.json")).unwrap();
    assert!(config.contains("\"bad\"") && config.contains("\"good\""), "{config}");
    let model = format!("path = {hf:?}");
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    for (old, new, out) in [("bad", "good", "second"), ("bad", "poor", "third")] {
        let swapped = config.replace("\"good\"", "\"?\"").replace(&format!("\"{old}\""), &format!("\"{new}\""));
        std::fs::write(hf.join("config.json"), swapped.replace("\"?\"", "\"bad\"")).unwrap();
        let found = rows(&Run::open(&finished(dir.path(), &recipe(&model, "", ""), out)).unwrap());
        match new {
            // The same names in the other order.
            "good" => assert!(near(&found[0], &trained[1]) && near(&found[1], &trained[0]), "{found:?}"),
            // Other names: nothing of the old rows is left.
            _ => assert!(!found.iter().any(|row| trained.iter().any(|other| near(row, other))), "{found:?}"),
        }
    }
}

#[test]
fn a_training_set_that_becomes_empty_is_an_error() {
    let dir = folder();
    let error =
        train(dir.path(), &recipe(&tiny(), ", max_length = 3, overlong = \"drop\"", ""), "run", false).unwrap_err();
    assert!(error.contains("12 dropped as too long"), "{error}");
}

/// The carried model lacks a pooler, which begins at random and is not pretrained.
#[test]
fn a_new_pooler_is_nothing_to_decay_towards() {
    let dir = folder();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/luthier-tiny").canonicalize().unwrap();
    for stabiliser in ["l2_sp", "mixout"] {
        let more = format!("method = [{{ kind = \"lora\" }}]\nstabilise = [{{ kind = {stabiliser:?} }}]");
        let error = train(dir.path(), &recipe(&format!("path = {model:?}"), "", &more), stabiliser, false).unwrap_err();
        assert!(error.contains("no pretrained"), "{error}");
    }
}
