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

/// A folder that cannot be written is nobody's wrong recipe.
#[test]
fn what_the_machine_refuses_is_one() {
    let folder = Folder::new();
    folder.write("file", "");
    let ran = folder.run("train recipe.toml --out file/run");
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.error.contains("file/run"), "{ran:#?}");
}
