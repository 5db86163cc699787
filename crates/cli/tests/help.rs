//! What `--help` says, and what wrong arguments lead to.

mod support;

use expect_test::{Expect, expect};
use support::Folder;

fn help(arguments: &str, expected: Expect) {
    let ran = Folder::new().run(&format!("{arguments} --help")).good();
    expected.assert_eq(&ran.out);
}

#[test]
fn of_all() {
    help("", expect![[r#""#]]);
}

#[test]
fn of_train() {
    help("train", expect![[r#""#]]);
}

#[test]
fn of_predict() {
    help("predict", expect![[r#""#]]);
}

#[test]
fn of_the_others() {
    let folder = Folder::new();
    for command in ["plan", "data", "evaluate", "export", "methods", "schema"] {
        let text = folder.run(&format!("{command} --help")).good().out;
        assert!(text.contains(&format!("Example:\n  luthier {command}")), "{text}");
        assert!(text.contains("--json"), "{text}");
    }
}

#[test]
fn what_is_wrong_with_arguments_is_said() {
    let folder = Folder::new();
    for (arguments, expected) in [
        ("", "Usage: luthier"),
        ("trian recipe.toml", "'train'"),
        ("train", "<RECIPE>"),
        ("train recipe.toml --sed 3", "'--seed'"),
        ("train recipe.toml --threads 0", "--threads"),
        ("export runs/a --to onnx --out b", "adapterhub"),
    ] {
        let ran = folder.run(arguments);
        assert_eq!(ran.code, Some(2), "{arguments}: {ran:#?}");
        assert!(ran.error.contains(expected) && ran.out.is_empty(), "{arguments}: {ran:#?}");
    }
}
