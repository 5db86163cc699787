//! Exit codes, and sentences on standard error.

mod support;

use support::Folder;

/// A wrong recipe, wrong data, a wrong folder: 2, one sentence, nothing on standard output, no trace of a panic.
#[test]
fn what_a_person_can_put_right_is_two() {
    let folder = Folder::new();
    folder.write("unknown.toml", &folder.recipe("epoch = 2"));
    folder.write("no-data.toml", &folder.recipe("epochs = 2").replace("train.csv", "nowhere.csv"));
    folder.write("no-column.toml", &folder.recipe("epochs = 2").replace("dev = 0.25", "dev = 0.25, label = \"lable\""));
    folder.write("no-model.toml", &folder.recipe("epochs = 2").replace("bert-tiny", "bert-tin"));
    for (arguments, expected) in [
        ("train nowhere.toml", "nowhere.toml"),
        ("train unknown.toml", "unknown.toml:15"),
        ("plan unknown.toml", "did you mean"),
        ("train recipe.toml --set stage.animals.train.epohcs=3", "epohcs"),
        ("train no-data.toml", "nowhere.csv"),
        ("train no-column.toml", "lable"),
        ("data no-column.toml", "lable"),
        ("train no-model.toml", "bert-tin"),
        ("evaluate runs/nothing", "runs/nothing"),
        ("predict runs/nothing test.csv", "runs/nothing"),
        ("export runs/nothing --to hf --out out", "runs/nothing"),
        ("methods lorra", "lora"),
    ] {
        for json in ["", " --json"] {
            let ran = folder.run(&format!("{arguments}{json}"));
            assert_eq!(ran.code, Some(2), "{arguments}: {ran:#?}");
            assert!(ran.error.contains("error: ") && ran.error.contains(expected), "{arguments}: {ran:#?}");
            assert!(
                !ran.error.contains("panicked") && !ran.error.contains("fault in Luthier"),
                "{arguments}: {ran:#?}"
            );
            assert!(json.is_empty() || ran.out.is_empty(), "{arguments}: {ran:#?}");
        }
    }
}

/// Two recipes that would write into one folder: neither runs.
#[test]
fn a_run_directory_is_for_one_recipe() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("b")).expect("a folder");
    folder.write("b/recipe.toml", &folder.recipe("epochs = 2"));
    let ran = folder.run("train recipe.toml b/recipe.toml");
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    assert!(ran.error.contains("b/recipe.toml: found a recipe whose run directory"), "{ran:#?}");
    assert!(!folder.path("runs").exists());
}

/// A later stage's mistake is said before the first stage trains.
#[test]
fn a_later_stage_is_looked_at_first() {
    let folder = Folder::new();
    for (set, expected) in [
        ("stage.animals.data.label=\"intent\"", "intent"),
        ("stage.animals.data.max_length=900", "900"),
        ("stage.animals.method=[{kind=\"top\",layers=9}]", "9"),
    ] {
        let ran = folder.run(&format!("train recipe.toml --set {set}"));
        assert!(ran.code == Some(2) && ran.error.contains(expected), "{ran:#?}");
        assert!(!folder.path("runs/recipe/events.jsonl").exists(), "{set}");
    }
}

/// Only a classifier answers, and it says how many texts it cut; a list of answers is closed whatever comes after them.
#[test]
fn predict_says_what_it_does_not_do() {
    let folder = Folder::new();
    let recipe = folder.recipe("epochs = 1");
    let adapt = recipe.split("[[stage]]\nname = \"animals\"").next().expect("the first stage");
    folder.write("adapt.toml", adapt);
    folder.run("train adapt.toml").good();
    let ran = folder.run("predict runs/adapt test.csv --json");
    assert!(ran.code == Some(2) && ran.out.is_empty() && ran.error.contains("expected a classifier"), "{ran:#?}");

    folder.write("short.toml", &recipe.replace("dev = 0.25", "dev = 0.25, max_length = 6"));
    folder.run("train short.toml").good();
    let ran = folder.run("predict runs/short test.csv --json").good();
    assert_eq!(ran.json().as_array().map(Vec::len), Some(20));
    assert!(ran.error.contains("warning: 20 texts of test.csv cut"), "{ran:#?}");

    folder.write("half.jsonl", "{\"text\": \"a cat\"}\n{\"txt\": \"a dog\"}\n");
    let ran = folder.run("predict runs/short half.jsonl --json");
    assert_eq!((ran.code, ran.json().as_array().map(Vec::len)), (Some(2), Some(1)), "{ran:#?}");
}

/// A folder that cannot be written is nobody's wrong recipe.
#[test]
fn what_the_machine_refuses_is_one() {
    let folder = Folder::new();
    folder.write("file", "");
    let ran = folder.run("train recipe.toml --out file/run");
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.error.contains("file/run"), "{ran:#?}");
}
