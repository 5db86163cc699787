//! Results as files that Python's transformers, peft and adapters load. Each directory is written aside, loaded back and
//! compared with the run, and only then renamed.

mod adapterhub;
mod card;
mod hf;
mod peft;
mod torch_file;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use luthier_models::{Checkpoint, load_tensors};
use luthier_nn::{ParamSpec, Params, Plan, Site, Tensor};
use luthier_tuning::Method;
use serde::Serialize;

use crate::assemble::methods_of;
use crate::checkpoint::{make_dir, sync_dir, write_file};
use crate::error::{Result, TrainError};
use crate::opened::Run;

/// Whose format an export has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A full model directory of Hugging Face's transformers.
    Hf,
    /// An adapter directory of Hugging Face's peft: LoRA or a prefix.
    Peft,
    /// An adapter directory of AdapterHub's adapters: bottlenecks.
    Adapterhub,
}

impl Target {
    /// Every target.
    pub const ALL: [Target; 3] = [Target::Hf, Target::Peft, Target::Adapterhub];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Target::Hf => "hf",
            Target::Peft => "peft",
            Target::Adapterhub => "adapterhub",
        }
    }

    /// The target with this name.
    pub fn from_name(name: &str) -> Option<Target> {
        Target::ALL.into_iter().find(|target| target.name() == name)
    }
}

/// What an export wrote.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExportReport {
    /// Whose format.
    pub target: Target,
    /// The directory.
    pub path: PathBuf,
    /// Its files, relative to it.
    pub files: Vec<String>,
    /// What a person should know about them.
    pub notes: Vec<String>,
    /// What loading them back found.
    pub loaded_back: LoadedBack,
}

/// What loading an export back found; a difference that should not be is an error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LoadedBack {
    /// How many parameters were compared with the run's, bit by bit.
    pub parameters: usize,
    /// The largest difference of an output on a few made-up texts, where modules were folded into weights; else nothing
    /// was computed anew.
    pub largest_difference: Option<f64>,
}

/// Writes the result of a run for Python's libraries.
///
/// # Errors
/// A folder that is there and not empty; a result that the target cannot hold, with the name of one that can; a disk that
/// is full. Nothing partial is left.
pub fn export(run: &Run, target: Target, out: &Path) -> Result<ExportReport> {
    if out.exists() {
        let mut entries = fs::read_dir(out).map_err(|source| TrainError::file("list", out, source))?;
        if entries.next().is_some() {
            return Err(TrainError::Run {
                path: out.to_owned(),
                found: "the folder is there and not empty".to_owned(),
                expected: "a new folder, or an empty one".to_owned(),
                help: "Give another folder with --out".to_owned(),
            });
        }
    }
    place(run, target, out)
}

/// Writes the run's result into `model/` of its directory, in the format that holds it best: LoRA and prefixes as peft's,
/// bottlenecks as AdapterHub's, everything else as a full model. A base model that earlier stages changed goes with it.
///
/// # Errors
/// As [`export`]. A result that no format holds gets a `README.md` that says so.
pub fn write_result(run: &Run) -> Result<()> {
    let out = run.path.join("model");
    match natural(run)? {
        Some(target) => place(run, target, &out).map(|_| ()),
        None => {
            remove(&out)?;
            make_dir(&out)?;
            write_file(&out.join("README.md"), card::homeless(run).as_bytes())
        }
    }
}

/// The format that holds a result best.
fn natural(run: &Run) -> Result<Option<Target>> {
    let modules = modules(run)?;
    let all = |fits: fn(&Method) -> bool| modules.iter().all(|module| fits(&module.method));
    Ok(if modules.is_empty() {
        Some(Target::Hf)
    } else if all(|method| matches!(method, Method::Lora(_))) {
        // A full model says it all where the adapter would need a base of its own beside it.
        Some(if peft::fits_the_base(run, &modules) { Target::Peft } else { Target::Hf })
    } else if all(|method| matches!(method, Method::Adapter(_))) {
        Some(Target::Adapterhub)
    } else if modules.len() == 1 && all(|method| matches!(method, Method::Prefix(_))) && peft::whole_prefix(run) {
        Some(Target::Peft)
    } else {
        None
    })
}

/// Writes aside, loads back, renames.
fn place(run: &Run, target: Target, out: &Path) -> Result<ExportReport> {
    let whole = std::path::absolute(out).map_err(|source| TrainError::file("find", out, source))?;
    let (Some(above), Some(name)) = (whole.parent(), whole.file_name()) else {
        return Err(TrainError::Run {
            path: out.to_owned(),
            found: "a path without a name".to_owned(),
            expected: "the name of a folder to be made".to_owned(),
            help: "Give another folder with --out".to_owned(),
        });
    };
    make_dir(above)?;
    let aside = above.join(format!("{}.writing", name.to_string_lossy()));
    remove(&aside)?;
    make_dir(&aside)?;
    let written = fill(run, target, &aside, &whole).and_then(|report| {
        remove(out)?;
        fs::rename(&aside, &whole).map_err(|source| TrainError::file("finish", out, source))?;
        sync_dir(above)?;
        Ok(ExportReport { path: out.to_owned(), ..report })
    });
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_dir_all(&aside);
    }
    written
}

fn fill(run: &Run, target: Target, dir: &Path, out: &Path) -> Result<ExportReport> {
    let mut job = Job { run, dir, out, notes: Vec::new() };
    let modules = modules(run)?;
    let loaded_back = match target {
        Target::Hf => hf::write(&mut job, &modules)?,
        Target::Peft => peft::write(&mut job, &modules)?,
        Target::Adapterhub => adapterhub::write(&mut job, &modules)?,
    };
    let mut files = Vec::new();
    list(dir, "", &mut files)?;
    Ok(ExportReport { target, path: out.to_owned(), files, notes: job.notes, loaded_back })
}

fn remove(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).map_err(|source| TrainError::file("remove the folder", path, source))?;
    }
    Ok(())
}

/// The files of a folder and of those in it, sorted; every folder is synced on the way.
fn list(dir: &Path, prefix: &str, files: &mut Vec<String>) -> Result<()> {
    let read = || -> std::io::Result<BTreeMap<String, bool>> {
        let entry = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), entry.file_type()?.is_dir()))
        };
        fs::read_dir(dir)?.map(entry).collect()
    };
    for (name, is_dir) in read().map_err(|source| TrainError::file("list", dir, source))? {
        let path = format!("{prefix}{name}");
        if is_dir {
            list(&dir.join(&name), &format!("{path}/"), files)?;
        } else {
            files.push(path);
        }
    }
    sync_dir(dir)
}

/// An export in the making.
struct Job<'a> {
    run: &'a Run,
    /// Where files are written.
    dir: &'a Path,
    /// Where they will be.
    out: &'a Path,
    notes: Vec<String>,
}

/// A method that added parameters.
struct Module {
    method: Method,
    added: Vec<ParamSpec>,
    sites: Vec<Site>,
}

/// The methods that added parameters to the result, earlier stages' first.
fn modules(run: &Run) -> Result<Vec<Module>> {
    let mut methods = methods_of(&run.record.inherited, &run.path)?;
    methods.extend(run.stage().method.iter().cloned());
    let mut modules = Vec::new();
    for method in methods {
        let mut plan = Plan::new(run.assembled.plan.spec().clone().into());
        plan.apply(method.kind(), method.get())?;
        let added: Vec<ParamSpec> = plan.added().cloned().collect();
        if added.is_empty() {
            continue;
        }
        let bent = |site: &&Site| !plan.outputs_of(&site.path).is_empty();
        let sites = plan.spec().sites.iter().filter(bent).cloned().collect();
        modules.push(Module { method, added, sites });
    }
    Ok(modules)
}

/// The kinds of the methods that added parameters, each once.
fn kinds(modules: &[Module]) -> Vec<&'static str> {
    let mut kinds: Vec<&str> = modules.iter().map(|module| module.method.kind()).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

/// The base model that an adapter goes on.
struct Base {
    /// Where it is now.
    dir: PathBuf,
    /// Where Python will find it.
    name: String,
    /// Whether it was written beside the adapter.
    beside: bool,
}

/// Parameters of the network that differ from the base model and that an adapter does not carry.
fn left_over<'a>(run: &'a Run, carried: &dyn Fn(&ParamSpec) -> bool) -> Vec<&'a str> {
    let params = &run.assembled.plan.spec().params;
    let differs = params.iter().filter(|p| run.assembled.differs.contains(&p.path) && !carried(p));
    differs.map(|p| p.path.as_str()).collect()
}

impl Job<'_> {
    fn refuse<T>(&self, found: &str, expected: &str, help: &str) -> Result<T> {
        Err(TrainError::Run {
            path: self.run.path.clone(),
            found: found.to_owned(),
            expected: expected.to_owned(),
            help: help.to_owned(),
        })
    }

    /// The base model of an adapter: the run's own, or `base/` beside the adapter if the run changed more of it than the
    /// adapter carries.
    fn base(&mut self, carried: &dyn Fn(&ParamSpec) -> bool) -> Result<Base> {
        let left = left_over(self.run, carried);
        if left.is_empty() {
            let name = std::path::absolute(&self.run.base_dir).unwrap_or_else(|_| self.run.base_dir.clone());
            return Ok(Base { dir: self.run.base_dir.clone(), name: name.display().to_string(), beside: false });
        }
        let (count, first) = (left.len(), left[0].to_owned());
        let names = if count == 1 { first } else { format!("{first} and {} more", count - 1) };
        self.notes.push(format!(
            "base/ is the model that the adapter goes on: the run changed {count} of its tensors ({names}), which an \
             adapter's files do not hold."
        ));
        self.base_with(self.run.params(), |_| {})
    }

    /// Writes `base/`.
    fn base_with(
        &self,
        params: &Params,
        patch: impl Fn(&mut serde_json::Map<String, serde_json::Value>),
    ) -> Result<Base> {
        let dir = self.dir.join("base");
        make_dir(&dir)?;
        hf::write_model(self.run, &dir, params, patch)?;
        let name = self.out.join("base").display().to_string();
        write_file(&dir.join("README.md"), card::base(self.run).as_bytes())?;
        Ok(Base { dir, name, beside: true })
    }

    /// Reads an adapter's files and its base model back and compares every parameter with the run's. `held` says for each
    /// file what parameters it holds, under which names.
    fn compare(&self, held: &[(PathBuf, BTreeMap<String, String>)], base: &Base) -> Result<LoadedBack> {
        let run = self.run;
        let device = &luthier_nn::Device::cpu();
        let mut found = Checkpoint::open(&base.dir)?.load(device, run.assembled.plan.spec(), None, 0)?.params;
        for (file, names) in held {
            let mut tensors = load_tensors(device, file)?;
            for (path, name) in names {
                let tensor = tensors.remove(name).ok_or_else(|| unlike(file, format!("{name} is missing")))?;
                found.insert(path, tensor);
            }
            if let Some((name, _)) = tensors.iter().next() {
                return Err(unlike(file, format!("{name} belongs to no parameter")));
            }
        }
        let mut parameters = 0;
        for param in run.assembled.plan.params() {
            let tensor = found.contains(&param.path).then(|| found.get(&param.path)).transpose()?;
            same(self.dir, &param.path, tensor, run.params().get(&param.path)?)?;
            parameters += 1;
        }
        Ok(LoadedBack { parameters, largest_difference: None })
    }
}

/// Fails unless a tensor was read back as it is.
fn same(file: &Path, name: &str, found: Option<&Tensor>, expected: &Tensor) -> Result<()> {
    match found {
        None => Err(unlike(file, format!("{name} is missing"))),
        Some(found) if found.shape() != expected.shape() => {
            Err(unlike(file, format!("{name} has the shape {:?}, expected {:?}", found.shape(), expected.shape())))
        }
        Some(found) if found.to_bytes() != expected.to_bytes() => {
            Err(unlike(file, format!("{name} has other values than the run left")))
        }
        Some(_) => Ok(()),
    }
}

fn unlike(file: &Path, problem: String) -> TrainError {
    let help = "Loading the export back found this, so nothing was kept. It is a fault of Luthier's: please report it";
    TrainError::Damaged { path: file.to_owned(), problem, help: help.to_owned() }
}

/// JSON with its keys sorted, as Python's libraries write it.
fn json(value: &serde_json::Value) -> Vec<u8> {
    let mut sorted = value.clone();
    sorted.sort_all_objects();
    crate::checkpoint::to_json(&sorted)
}
