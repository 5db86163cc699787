//! A folder with a small model, data and a recipe, and the program to run in it.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A folder to work in.
pub struct Folder {
    dir: TempDir,
}

impl Folder {
    /// The carried fixture of a model, 40 labelled texts and a recipe of two stages.
    pub fn new() -> Folder {
        let folder = Folder { dir: tempfile::tempdir().expect("a temporary folder") };
        let rows = |from: usize, to: usize| {
            let row = |i: usize| match i % 2 {
                0 => format!("the cat sat on the mat {i},cat\n"),
                _ => format!("\"walking, the dog {i}\",dog\n"),
            };
            format!("text,label\n{}", (from..to).map(row).collect::<String>())
        };
        folder.write("train.csv", &rows(0, 40));
        folder.write("test.csv", &rows(40, 60));
        folder.write("recipe.toml", &folder.recipe("epochs = 2"));
        folder
    }

    /// A recipe: adapt to the text, then classify, for as long as `train` says.
    pub fn recipe(&self, train: &str) -> String {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bert-tiny");
        format!(
            r#"seed = 3
[model]
path = "{model}"

[[stage]]
name = "adapt"
objective = {{ kind = "mlm" }}
data = {{ train = "train.csv" }}
train = {{ epochs = 1, batch = 8 }}

[[stage]]
name = "animals"
objective = {{ kind = "classify" }}
data = {{ train = "train.csv", test = "test.csv", dev = 0.25 }}
train = {{ {train}, batch = 8, learning_rate = 1e-3 }}
"#,
            model = model.display()
        )
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file can be written");
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("a file can be read")
    }

    /// The program, to be run in the folder with these arguments, separated by blanks.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_luthier"));
        command.current_dir(self.dir.path()).args(arguments.split_whitespace());
        command.args(["--threads", "1"]).env("LUTHIER_CACHE", self.path("cache")).env_remove("NO_COLOR");
        command
    }

    /// Runs the program.
    pub fn run(&self, arguments: &str) -> Ran {
        Ran::new(self.command(arguments).output().expect("the program runs"))
    }

    /// Trains the recipe into `runs/recipe`.
    pub fn trained() -> Folder {
        let folder = Folder::new();
        folder.run("train recipe.toml").good();
        folder
    }
}

/// What the program did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub error: String,
}

impl Ran {
    pub fn new(output: Output) -> Ran {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Ran { code: output.status.code(), out: text(output.stdout), error: text(output.stderr) }
    }

    /// Asserts that it went well.
    pub fn good(self) -> Ran {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Standard output as the one JSON document that it is.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}
