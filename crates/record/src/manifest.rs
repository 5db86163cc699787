//! `manifest.json`: what a run was made of, so that it can be made again, and so that a resumed run notices when
//! something under it has changed.
use crate::RecordError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Hashes, versions and the machine. Hashes are hexadecimal; which function made them is for the writer to choose, and
/// to keep.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The hash of the resolved recipe.
    pub recipe: String,
    /// The hash of each data file, by its path as the recipe has it.
    pub data: BTreeMap<String, String>,
    /// The hash of each file of the base model, by its name.
    pub base_model: BTreeMap<String, String>,
    /// The hash of each file of the tokenizer, by its name.
    pub tokenizer: BTreeMap<String, String>,
    /// The version of each program involved, Luthier first of all.
    pub versions: BTreeMap<String, String>,
    /// Where it ran.
    pub machine: Machine,
}

/// What of a machine makes speed, and the last bits of results, differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// How many threads can run at once in this process.
    pub cores: u64,
    /// The instruction sets that matter to the kernels and are there, `avx2` for one.
    pub cpu_features: Vec<String>,
    /// Those in use, by the engine's name for them; empty in runs of versions that did not say.
    #[serde(default)]
    pub instructions: String,
    /// The operating system, `linux` for one.
    pub os: String,
    /// The processor's architecture, `x86_64` for one.
    pub architecture: String,
}

impl Machine {
    /// The machine this process runs on, with the instructions that its engine uses.
    pub fn here(instructions: &str) -> Machine {
        Machine {
            instructions: instructions.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64),
            cpu_features: cpu_features(),
            os: std::env::consts::OS.to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<String> {
    let features = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
    ];
    features.iter().filter(|(_, there)| *there).map(|(name, _)| (*name).to_owned()).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<String> {
    Vec::new()
}

/// Something a run is made of that is no longer what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What changed: `recipe`, `data train.csv`, `base model config.json`, ...
    pub what: String,
    /// Its hash then; `None` if it was not there.
    pub then: Option<String>,
    /// Its hash now; `None` if it is not there.
    pub now: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |hash: &str| hash.chars().take(12).collect::<String>();
        match (&self.then, &self.now) {
            (Some(then), Some(now)) => {
                write!(f, "{} has changed (hash {}, was {})", self.what, short(now), short(then))
            }
            (Some(_), None) => write!(f, "{} is gone", self.what),
            (None, _) => write!(f, "{} is new", self.what),
        }
    }
}

impl Manifest {
    /// What differs in recipe, data, base model and tokenizer between the run's beginning (`self`) and `now`: all of
    /// it, not the first. Versions and machines may differ.
    pub fn changes(&self, now: &Manifest) -> Vec<Change> {
        let recipe = |manifest: &Manifest| BTreeMap::from([(String::new(), manifest.recipe.clone())]);
        let mut changes = Vec::new();
        for (kind, then, now) in [
            ("recipe", &recipe(self), &recipe(now)),
            ("data", &self.data, &now.data),
            ("base model", &self.base_model, &now.base_model),
            ("tokenizer", &self.tokenizer, &now.tokenizer),
        ] {
            let added = now.keys().filter(|name| !then.contains_key(*name));
            for name in then.keys().chain(added) {
                let (then, now) = (then.get(name).cloned(), now.get(name).cloned());
                if then != now {
                    changes.push(Change { what: format!("{kind} {name}").trim_end().to_owned(), then, now });
                }
            }
        }
        changes
    }

    /// The file's text: JSON, indented, with a newline at its end.
    pub fn to_json(&self) -> String {
        // Strings, integers and maps with string keys: there is nothing that JSON could refuse.
        serde_json::to_string_pretty(self).expect("a manifest is always JSON") + "\n"
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// When the file cannot be read or is not a manifest.
    pub fn read(path: &Path) -> Result<Manifest, RecordError> {
        let text =
            std::fs::read(path).map_err(|source| RecordError::Io { action: "read", path: path.to_owned(), source })?;
        serde_json::from_slice(&text).map_err(|source| RecordError::Json {
            path: path.to_owned(),
            expected: "a run's manifest",
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|&(name, hash)| (name.to_owned(), hash.to_owned())).collect()
    }

    fn manifest() -> Manifest {
        Manifest {
            recipe: "aa".into(),
            data: map(&[("banking77/train.csv", "bb")]),
            base_model: map(&[("config.json", "cc"), ("model.safetensors", "dd")]),
            tokenizer: map(&[("tokenizer.json", "ee")]),
            versions: map(&[("luthier", "0.1.0")]),
            machine: Machine {
                cores: 2,
                cpu_features: vec!["avx2".into(), "fma".into()],
                instructions: "avx2".into(),
                os: "linux".into(),
                architecture: "x86_64".into(),
            },
        }
    }

    const JSON: &str = r#"{
  "recipe": "aa",
  "data": {
    "banking77/train.csv": "bb"
  },
  "base_model": {
    "config.json": "cc",
    "model.safetensors": "dd"
  },
  "tokenizer": {
    "tokenizer.json": "ee"
  },
  "versions": {
    "luthier": "0.1.0"
  },
  "machine": {
    "cores": 2,
    "cpu_features": [
      "avx2",
      "fma"
    ],
    "instructions": "avx2",
    "os": "linux",
    "architecture": "x86_64"
  }
}
"#;

    #[test]
    fn json_is_pinned() {
        assert_eq!(manifest().to_json(), JSON);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("manifest.json");
        std::fs::write(&path, JSON).expect("writes");
        assert_eq!(Manifest::read(&path).expect("reads back"), manifest());
        std::fs::write(&path, &JSON[..80]).expect("tears");
        let error = Manifest::read(&path).expect_err("half a file").to_string();
        assert!(error.contains("manifest.json: expected a run's manifest in JSON: EOF"), "{error}");
    }

    #[test]
    fn every_change_is_named_and_nothing_else() {
        let (then, mut now) = (manifest(), manifest());
        now.versions = map(&[("luthier", "0.2.0")]);
        now.machine.cores = 64;
        assert_eq!(then.changes(&now), []);
        now.recipe = "00".into();
        now.data = BTreeMap::new();
        now.base_model.insert("model.safetensors".into(), "0123456789abcdef".into());
        now.tokenizer.insert("vocab.txt".into(), "11".into());
        let changes: Vec<String> = then.changes(&now).iter().map(Change::to_string).collect();
        assert_eq!(
            changes,
            [
                "recipe has changed (hash 00, was aa)",
                "data banking77/train.csv is gone",
                "base model model.safetensors has changed (hash 0123456789ab, was dd)",
                "tokenizer vocab.txt is new",
            ]
        );
    }

    #[test]
    fn this_machine_has_a_name() {
        let machine = Machine::here("avx2");
        assert!(machine.cores >= 1 && !machine.os.is_empty() && !machine.architecture.is_empty());
    }
}
