//! What a person can type.

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};

/// The exit codes, for the end of `luthier --help`.
const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed
  2    the arguments, the recipe or the data are wrong; the message says where
  130  stopped by SIGINT (Ctrl-C), 143 by SIGTERM; `train --resume` goes on

Example:
  luthier train recipe.toml";

/// Fine-tunes pretrained language models: a recipe goes in, a model that Python's libraries load comes out.
#[derive(Debug, Parser)]
#[command(name = "luthier", version, about, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Args {
    /// Print one JSON document on standard output; everything else goes to standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Compute on this many threads [default: one a core]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the stages of a recipe and leave a run directory
    #[command(after_help = "\
Ctrl-C finishes the step, writes a checkpoint and exits with 130 (SIGTERM: 143); a second one stops at once.

Example:
  luthier train recipe.toml --set stage.intents.train.epochs=3 --out runs/short")]
    Train(Train),

    /// Show what would move, and what it costs; reads no weights
    #[command(after_help = "Example:\n  luthier plan recipe.toml")]
    Plan(Recipe),

    /// Show the data as the model sees it: lengths, labels, duplicates, texts in both train and test
    #[command(after_help = "Example:\n  luthier data recipe.toml")]
    Data(Recipe),

    /// Measure a finished run, with 95 % confidence intervals
    #[command(after_help = "Example:\n  luthier evaluate runs/intents --data new.csv")]
    Evaluate(Evaluate),

    /// Add `prediction` and `probability` to each row of a file or of standard input
    #[command(after_help = "\
Rows are answered in their order as they come, in constant memory. The columns are those of the recipe.
Output has the format of the input; plain text is answered in JSON lines. With --json it is one JSON list.

Example:
  luthier predict runs/intents new.csv --out answered.csv")]
    Predict(Predict),

    /// Write a finished run as files that Python's transformers, peft or adapters load
    #[command(after_help = "Example:\n  luthier export runs/intents --to hf --out intents-model")]
    Export(Export),

    /// List what a recipe can say under `method`, `stabilise` and `objective`, each with its source
    #[command(after_help = "Example:\n  luthier methods lora")]
    Methods(Methods),

    /// Print the JSON schema of a recipe, for editors
    #[command(after_help = "Example:\n  luthier schema > recipe.schema.json")]
    Schema,

    /// Measure what this machine can do
    #[command(after_help = "Example:\n  luthier bench ceiling")]
    Bench(Bench),
}

/// A recipe, and what is changed of it.
#[derive(Debug, Group)]
pub(crate) struct Recipe {
    /// The recipe, a TOML file
    pub(crate) recipe: PathBuf,

    /// Override a value, by its dotted key; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<String>,

    /// Override the seed: short for --set seed=N
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

impl Recipe {
    /// All overrides; the seed's own flag is the last word on the seed.
    pub(crate) fn sets(&self) -> Vec<String> {
        self.sets.iter().cloned().chain(self.seed.map(|seed| format!("seed={seed}"))).collect()
    }
}

#[derive(Debug, Group)]
pub(crate) struct Train {
    #[command(flatten)]
    pub(crate) recipe: Recipe,

    /// More recipes, run in turn; the results are set side by side at the end
    #[arg(value_name = "RECIPE", conflicts_with = "out")]
    pub(crate) more: Vec<PathBuf>,

    /// Go on exactly where the run stopped
    #[arg(long)]
    pub(crate) resume: bool,

    /// Take the time of every operation, and show where it went
    #[arg(long)]
    pub(crate) profile: bool,

    /// The run directory [default: runs/NAME, by the name of the recipe's file]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct Evaluate {
    /// The run directory
    pub(crate) run: PathBuf,

    /// Measure on this file [default: the recipe's test file]
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct Predict {
    /// The run directory
    pub(crate) run: PathBuf,

    /// The texts: CSV, TSV, JSON lines or plain text [default: standard input]
    pub(crate) input: Option<PathBuf>,

    /// Write to this file, which appears once it is complete [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,

    /// The input's format [default: what its extension says; on standard input JSON lines if it begins with {, else CSV]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,

    /// Add `logits` as well, an object from label to logit
    #[arg(long)]
    pub(crate) logits: bool,
}

/// The format of a data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Csv,
    Tsv,
    Jsonl,
    Text,
}

impl From<Format> for luthier_data::Format {
    fn from(format: Format) -> luthier_data::Format {
        match format {
            Format::Csv => luthier_data::Format::Csv,
            Format::Tsv => luthier_data::Format::Tsv,
            Format::Jsonl => luthier_data::Format::Jsonl,
            Format::Text => luthier_data::Format::Text,
        }
    }
}

#[derive(Debug, Group)]
pub(crate) struct Export {
    /// The run directory
    pub(crate) run: PathBuf,

    /// Which library is to load it
    #[arg(long, value_name = "LIBRARY")]
    pub(crate) to: Target,

    /// The folder to write
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// A library of Python.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// transformers: the whole model
    Hf,
    /// peft: what LoRA or a prefix added
    Peft,
    /// adapters (AdapterHub): what adapters added
    Adapterhub,
}

#[derive(Debug, Group)]
pub(crate) struct Bench {
    /// What to measure
    pub(crate) measure: Measure,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measure {
    /// The most multiplications and additions a second
    Ceiling,
}

#[derive(Debug, Group)]
pub(crate) struct Methods {
    /// Show the keys of this one
    pub(crate) name: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_seed_is_an_override() {
        let args = Args::parse_from(["luthier", "train", "a.toml", "--seed", "5", "--set", "seed=4", "--threads", "2"]);
        assert_eq!(args.threads, Some(2));
        let Command::Train(train) = args.command else { panic!("train was asked for") };
        assert_eq!(train.recipe.sets(), ["seed=4", "seed=5"]);
    }
}
