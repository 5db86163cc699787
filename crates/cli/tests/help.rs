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
    help(
        "",
        expect![[r#"
            Fine-tunes pretrained language models: a recipe goes in, a model that Python's libraries load comes out

            Usage: luthier [OPTIONS] <COMMAND>

            Commands:
              train     Run the stages of a recipe and leave a run directory
              plan      Show what would move, and what it costs; reads no weights
              data      Show the data as the model sees it: lengths, labels, duplicates, texts in both train and test
              evaluate  Measure a finished run, with 95 % confidence intervals
              predict   Add `prediction` and `probability` to each row of a file or of standard input
              export    Write a finished run as files that Python's transformers, peft or adapters load
              methods   List what a recipe can say under `method`, `stabilise` and `objective`, each with its source
              schema    Print the JSON schema of a recipe, for editors
              bench     Measure what this machine can do

            Options:
                  --json         Print one JSON document on standard output; everything else goes to standard error
                  --threads <N>  Compute on this many threads [default: one a core]
              -h, --help         Print help
              -V, --version      Print version

            Exit codes:
              0    done
              1    failed
              2    the arguments, the recipe or the data are wrong; the message says where
              130  stopped by SIGINT (Ctrl-C), 143 by SIGTERM; `train --resume` goes on

            Example:
              luthier train recipe.toml
        "#]],
    );
}

#[test]
fn of_train() {
    help(
        "train",
        expect![[r#"
            Run the stages of a recipe and leave a run directory

            Usage: luthier train [OPTIONS] <RECIPE> [RECIPE]...

            Arguments:
              <RECIPE>     The recipe, a TOML file
              [RECIPE]...  More recipes, run in turn; the results are set side by side at the end

            Options:
                  --json             Print one JSON document on standard output; everything else goes to standard error
                  --set <KEY=VALUE>  Override a value, by its dotted key; may be repeated
                  --seed <N>         Override the seed: short for --set seed=N
                  --threads <N>      Compute on this many threads [default: one a core]
                  --resume           Go on exactly where the run stopped
                  --profile          Take the time of every operation, and show where it went
                  --out <DIR>        The run directory [default: runs/NAME, by the name of the recipe's file]
              -h, --help             Print help

            Ctrl-C finishes the step, writes a checkpoint and exits with 130 (SIGTERM: 143); a second one stops at once.

            Example:
              luthier train recipe.toml --set stage.intents.train.epochs=3 --out runs/short
        "#]],
    );
}

#[test]
fn of_predict() {
    help(
        "predict",
        expect![[r#"
        Add `prediction` and `probability` to each row of a file or of standard input

        Usage: luthier predict [OPTIONS] <RUN> [INPUT]

        Arguments:
          <RUN>    The run directory
          [INPUT]  The texts: CSV, TSV, JSON lines or plain text [default: standard input]

        Options:
              --json             Print one JSON document on standard output; everything else goes to standard error
              --out <FILE>       Write to this file, which appears once it is complete [default: standard output]
              --format <FORMAT>  The input's format [default: what its extension says; on standard input JSON lines if it begins with {, else CSV] [possible values: csv, tsv, jsonl, text]
              --threads <N>      Compute on this many threads [default: one a core]
              --logits           Add `logits` as well, an object from label to logit
          -h, --help             Print help

        Rows are answered in their order as they come, in constant memory. The columns are those of the recipe.
        Output has the format of the input; plain text is answered in JSON lines. With --json it is one JSON list.

        Example:
          luthier predict runs/intents new.csv --out answered.csv
    "#]],
    );
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
