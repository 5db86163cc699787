//! The recipes that the repository carries: every one is right, those that need nothing else run, a few steps each.

mod support;

use std::path::{Path, PathBuf};

use support::{Folder, Ran};

fn recipes(dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(dir);
    let files = std::fs::read_dir(dir).expect("the folder of recipes").flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn run(folder: &Folder, command: &str, recipe: &Path, more: &str) -> Ran {
    let mut program = folder.command(&format!("{command} {more}"));
    Ran::new(program.arg(recipe).output().expect("the program runs"))
}

/// A recipe whose data is elsewhere is answered with what is missing, and not with a mistake of its own.
#[test]
fn every_recipe_is_right() {
    let folder = Folder::new();
    for recipe in [recipes("recipes"), recipes("recipes/results")].concat() {
        let ran = run(&folder, "plan", &recipe, "");
        let missing = ran.code == Some(2) && (ran.error.contains("No such file") || ran.error.contains("not found"));
        assert!(ran.code == Some(0) || missing, "{}: {ran:#?}", recipe.display());
    }
}

#[test]
fn the_recipes_of_the_readme_run() {
    let folder = Folder::new();
    let cut = |recipe: &str, more: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes").join(recipe);
        let out = folder.path(recipe);
        let more = format!("--json --out {} --set stage.intents.train.epochs=0.02 {more}", out.display());
        let result = run(&folder, "train", &path, &more).good().json();
        let stage = result["stages"].as_array().and_then(|stages| stages.last().cloned()).expect("a last stage");
        assert!(stage["scores"]["test"]["accuracy"].is_f64(), "{recipe}: {result}");
    };
    cut("banking77.toml", "--set stage.adapt.train.epochs=0.02");
    cut("banking77-from-scratch.toml", "");
}

/// On the carried model and data, a few steps a stage.
#[test]
fn the_readme_s_example_runs() {
    let folder = Folder::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("the README");
    let example = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let here = |path: &str| root.join(path).display().to_string();
    let example = example.replace("models/minilm", &here("models/luthier-tiny"));
    let example = example.replace("\"banking77/", &format!("\"{}/", here("data/banking77")));
    let recipe = folder.path("example.toml");
    std::fs::write(&recipe, example).expect("a temporary folder");
    let out = folder.path("run").display().to_string();
    let more = format!("--json --out {out} --set stage.adapt.train.epochs=0.02 --set stage.intents.train.epochs=0.02");
    let result = run(&folder, "train", &recipe, &more).good().json();
    assert!(result["stages"][1]["scores"]["test"]["accuracy"].is_f64(), "{result}");
}
