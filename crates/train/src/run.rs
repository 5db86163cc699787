//! A run: the stages of a recipe, one after the other, each from what the one before it left.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use luthier_data::{Cache, Tokenizer};
use luthier_metrics::MetricKind;
use luthier_models::Checkpoint;
use luthier_nn::{Device, Instructions, Params, Rng};
use luthier_record::{Event, EventLog, Level, Line, Machine, Manifest, Operation, Profile, StageSummary, Summary};

use crate::assemble::{Carry, StageRecord, assemble, edited, read_carry, read_record, save_stage, stage_dir};
use crate::checkpoint::{Checkpoints, Progress, make_dir, write_file};
use crate::dataset::{Preparation, StageData};
use crate::error::{Result, TrainError};
use crate::evaluate::evaluate;
use crate::fingerprint;
use crate::optimizer::Optimizer;
use crate::parse::Resolved;
use crate::recipe::{PrecisionKey, Recipe, Stage};
use crate::step::{Ending, StageRun, State, Watch, moved, served, train};
use crate::trunk::Trunk;

/// Where a run lives and how it begins.
#[derive(Debug, Clone)]
pub struct Options {
    /// The run directory.
    pub out: PathBuf,
    /// Whether to go on with an unfinished run.
    pub resume: bool,
    /// Where tokens are kept between runs.
    pub cache: PathBuf,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All stages are done.
    Finished(Summary),
    /// Somebody stopped it; `--resume` goes on.
    Interrupted {
        /// The stage.
        stage: String,
        /// Its last step.
        step: u64,
    },
}

/// Runs a recipe.
///
/// # Errors
/// Whatever is wrong with the recipe, the model or the data, before the first step where it can be known; a loss that is
/// not finite; a disk that is full.
pub fn run(resolved: &Resolved, options: &Options, watch: &Watch, emit: &mut dyn FnMut(&Line)) -> Result<Outcome> {
    let recipe = &resolved.recipe;
    let device = Device::cpu();
    if recipe.stage.len() > 1 {
        // What can be known of a later stage's mistakes should not wait for the earlier ones.
        crate::explain::explain(recipe, &|_| Ok(None))?;
    }
    make_dir(&options.out)?;
    let base_dir = base_model(recipe, &options.out, &device)?;
    let manifest = fingerprint::manifest(recipe, &base_dir)?;
    let here = &manifest.machine.instructions;
    let before = check_directory(options, &manifest)?.map(|machine| machine.instructions);
    let mut instructions_before = before.filter(|before| !before.is_empty() && before != here);
    let (log, earlier) = EventLog::open(&options.out.join("events.jsonl"))?;
    let mut sink = Sink { log, watch, emit, first_step: None };
    let begun = earlier.lines.iter().any(|line| matches!(line.event, Event::RunStarted { .. }));
    if !begun || !options.resume {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        sink.say(Event::RunStarted { recipe: manifest.recipe.clone(), seed: recipe.seed, version })?;
    }
    write_file(&options.out.join("recipe.toml"), resolved.to_toml_with_origins().as_bytes())?;
    write_file(&options.out.join("manifest.json"), manifest.to_json().as_bytes())?;

    let base = Checkpoint::open(&base_dir)?;
    let tokenizer = Tokenizer::load(&base_dir)?;
    let cache = Cache::new(&options.cache);
    let mut carry = Carry::default();
    let mut summaries = Vec::new();
    for (index, stage) in recipe.stage.iter().enumerate() {
        let key = fingerprint::stage_key(recipe, index, &manifest, &carry.key);
        let dir = stage_dir(&options.out, index, &stage.name);
        if let Some(record) = read_record(&dir)?.filter(|record| record.key == key) {
            sink.notice(Level::Info, format!("Stage {} is finished already and is not run again.", stage.name))?;
            // A run that was killed between the two may have left them.
            Checkpoints::new(&options.out, &stage.name).clear()?;
            carry = read_carry(&device, &dir, &record)?;
            summaries.push(record.summary);
            continue;
        }
        let kept = !summaries.is_empty() || Checkpoints::any(&options.out)?;
        if let (true, Some(then)) = (kept, instructions_before.take()) {
            let text = format!(
                "Until now the run used the instructions {then}, from here on {here}. They may round differently, so the last \
                 digits of its results may not be those of a run without a break."
            );
            sink.notice(Level::Warning, text)?;
        }
        forget(&options.out, recipe, index, &mut sink)?;
        let session =
            Session { recipe, index, stage, key, base: &base, tokenizer: &tokenizer, cache: &cache, device: &device };
        match session.train(&options.out, &carry, &mut sink).map_err(|error| error.in_stage(&stage.name))? {
            Ok((record, params)) => {
                save_stage(&dir, &record, &params)?;
                Checkpoints::new(&options.out, &stage.name).clear()?;
                carry = read_carry(&device, &dir, &record)?;
                sink.say(Event::StageFinished(record.summary.clone()))?;
                summaries.push(record.summary);
            }
            Err(step) => {
                sink.say(Event::Interrupted { step, reason: "a signal".to_owned() })?;
                return Ok(Outcome::Interrupted { stage: stage.name.clone(), step });
            }
        }
    }
    crate::export::write_result(&crate::opened::Run::open(&options.out)?)?;
    let summary = Summary {
        stages: summaries,
        peak_memory_bytes: peak_memory_bytes(),
        seconds_to_first_step: sink.first_step.unwrap_or(0.0),
        run: options.out.display().to_string(),
    };
    sink.say(Event::RunFinished(summary.clone()))?;
    Ok(Outcome::Finished(summary))
}

/// Takes away what an earlier recipe left of this stage and those after it, so that it does not pass for this one's.
fn forget(out: &Path, recipe: &Recipe, index: usize, sink: &mut Sink) -> Result<()> {
    for (i, stage) in recipe.stage.iter().enumerate().skip(index) {
        let dir = stage_dir(out, i, &stage.name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).map_err(|source| TrainError::file("remove", &dir, source))?;
            let text =
                format!("Stage {} was finished by another recipe, data or model; it is trained anew.", stage.name);
            sink.notice(Level::Warning, text)?;
        }
    }
    Ok(())
}

/// The directory of the base model: the recipe's, or a new one in the run directory.
pub(crate) fn base_model(recipe: &Recipe, out: &Path, device: &Device) -> Result<PathBuf> {
    match (&recipe.model.path, &recipe.model.new) {
        (Some(path), _) => Ok(path.clone()),
        (None, Some(new)) => crate::scratch::make(new, recipe.seed, &out.join("base"), device),
        (None, None) => Err(TrainError::Run {
            path: out.to_owned(),
            found: "a recipe without a model".to_owned(),
            expected: "model.path or model.new".to_owned(),
            help: "Name a model directory".to_owned(),
        }),
    }
}

/// A run directory is empty, or holds a run of the same things: then the machine that it last ran on.
fn check_directory(options: &Options, now: &Manifest) -> Result<Option<Machine>> {
    let path = options.out.join("manifest.json");
    let refuse = |found: String, expected: &str, help: &str| {
        Err(TrainError::Run { path: options.out.clone(), found, expected: expected.to_owned(), help: help.to_owned() })
    };
    if !path.exists() {
        let names: Vec<String> = std::fs::read_dir(&options.out)
            .map_err(|source| TrainError::file("list", &options.out, source))?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name != "base" && name != "events.jsonl" && !name.ends_with(".writing"))
            .collect();
        return match names.first() {
            None => Ok(None),
            // Stopped in its first instants: our own recipe, alone.
            Some(name) if name == "recipe.toml" && names.len() == 1 && resolved_recipe(&options.out) => Ok(None),
            Some(name) => refuse(
                format!("the folder holds {name} and no run"),
                "an empty folder, a new one, or a run directory",
                "Give another folder with --out",
            ),
        };
    }
    let unfinished = Checkpoints::any(&options.out)?;
    if unfinished && !options.resume {
        return refuse(
            "the folder holds a run that was stopped".to_owned(),
            "--resume, to go on with it",
            "Or give another folder with --out; or remove this one to begin anew",
        );
    }
    let then = Manifest::read(&path)?;
    let changes = then.changes(now);
    if unfinished && !changes.is_empty() {
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        return refuse(
            format!("since the run began, {}", changes.join("; ")),
            "the same recipe, data and model",
            "A resumed run must see what it would have seen. Undo the change, or begin anew in another folder with --out",
        );
    }
    Ok(Some(then.machine))
}

/// Whether a folder's recipe is one that a run wrote, and not a person's own.
fn resolved_recipe(out: &Path) -> bool {
    std::fs::read_to_string(out.join("recipe.toml")).is_ok_and(|text| text.starts_with(crate::recipe::write::RESOLVED))
}

/// Where events go: the log, and whoever watches.
struct Sink<'a> {
    log: EventLog,
    watch: &'a Watch<'a>,
    emit: &'a mut dyn FnMut(&Line),
    first_step: Option<f64>,
}

impl Sink<'_> {
    fn say(&mut self, event: Event) -> Result<()> {
        let time = (self.watch.clock)();
        if matches!(event, Event::Step { .. }) && self.first_step.is_none() {
            self.first_step = Some(time);
        }
        let line = Line { time, event };
        self.log.append(&line)?;
        (self.emit)(&line);
        Ok(())
    }

    fn notice(&mut self, level: Level, text: String) -> Result<()> {
        self.say(Event::Notice { level, text, counts: BTreeMap::new() })
    }
}

/// One stage of a run.
struct Session<'a> {
    recipe: &'a Recipe,
    index: usize,
    stage: &'a Stage,
    key: String,
    base: &'a Checkpoint,
    tokenizer: &'a Tokenizer,
    cache: &'a Cache,
    device: &'a Device,
}

/// The seed of a stage: stages of one run draw different numbers.
pub fn stage_seed(recipe: &Recipe, index: usize) -> u64 {
    let words = Rng::at(recipe.seed, "stage", index as u64, 0).words(0);
    u64::from(words[0]) << 32 | u64::from(words[1])
}

/// The most tokens of a text in a stage: what the recipe asks, or what the model can read.
pub fn max_length(stage: &Stage, config: &serde_json::Value) -> Result<usize> {
    let model = config.get("max_position_embeddings").and_then(serde_json::Value::as_u64).unwrap_or(512) as usize;
    match stage.data.max_length {
        Some(asked) if asked > model => Err(TrainError::Run {
            path: stage.data.train.clone(),
            found: format!("max_length = {asked} in stage {}", stage.name),
            expected: format!("at most {model}, the positions that the model knows"),
            help: "Lower max_length".to_owned(),
        }),
        asked => Ok(asked.unwrap_or(model)),
    }
}

type Finished = std::result::Result<(StageRecord, Params), u64>;

impl Session<'_> {
    /// Trains the stage and measures its result. `Err(step)` when it was interrupted.
    fn train(&self, out: &Path, carry: &Carry, sink: &mut Sink) -> Result<Finished> {
        let (stage, device) = (self.stage, self.device);
        let seed = stage_seed(self.recipe, self.index);
        let task = stage.objective.get().task();
        let metric = match &stage.evaluate.metric {
            Some(name) => MetricKind::choose(name, task.metrics)?,
            None => task.metrics[0],
        };
        let max_length = max_length(stage, self.base.config())?;
        let data = self.prepare(max_length, task.labelled)?;
        let labels = data.labels.as_ref();
        let assembled = assemble(device, self.base, self.tokenizer, stage, labels, carry, None, seed)?;
        self.report(&data, &assembled, sink)?;

        let per_epoch = (data.train.examples.corpus.len() as u64).div_ceil(stage.train.batch as u64);
        let epochs = |epochs: f64| (epochs * per_epoch as f64).ceil() as u64;
        let steps = stage.train.steps.unwrap_or_else(|| epochs(stage.train.epochs.unwrap_or(3.0)));
        let device = match &sink.watch.profile {
            Some(clock) => device.profiled(clock.clone()),
            None => device.clone(),
        };
        let mut run = StageRun {
            network: assembled.network.as_ref(),
            plan: &assembled.plan,
            objective: assembled.objective.as_ref(),
            data: &data,
            train: &stage.train,
            evaluate: &stage.evaluate,
            metrics: task.metrics,
            metric,
            device,
            seed,
            steps,
            trunk: None,
            dev_trunk: None,
        };
        let total = |moving: bool| {
            let params = assembled.plan.params().filter(|p| !moving || assembled.plan.moves(&p.path));
            params.map(|p| p.len() as u64).sum()
        };
        sink.say(Event::StageStarted {
            name: stage.name.clone(),
            objective: stage.objective.kind().to_owned(),
            steps,
            trainable_parameters: total(true),
            total_parameters: total(false),
        })?;
        let checkpoints = Checkpoints::new(out, &stage.name);
        let mut state = self.begin(&assembled, &checkpoints, seed, sink)?;
        if let (true, Some(layers)) = (stage.train.cache_trunk, run.plan.still_layers()) {
            let texts = data.train.examples.corpus.len();
            let text = format!("The lowest {layers} layers stay as they are: computed once for each of {texts} texts.");
            sink.notice(Level::Info, text)?;
        }
        let began = (sink.watch.clock)();
        let kept = |part| Trunk::compute(&run, part, &state.params, out);
        let trunk = stage.train.cache_trunk.then(|| kept(&data.train)).transpose()?;
        state.progress.seconds += (sink.watch.clock)() - began;
        let dev_trunk = data.dev.as_ref().filter(|_| stage.train.cache_trunk).map(kept).transpose()?;
        run.trunk = trunk.as_ref();
        run.dev_trunk = dev_trunk.as_ref();
        let ending = train(&run, &mut state, &checkpoints, sink.watch, &mut |event| sink.say(event))?;
        if ending == Ending::Interrupted {
            return Ok(Err(state.progress.step));
        }
        self.profiled(&run, &state, sink)?;
        self.finish(&run, state, &checkpoints, &assembled, carry, max_length, sink).map(Ok)
    }

    fn prepare(&self, max_length: usize, labelled: bool) -> Result<StageData> {
        let (stage, recipe) = (self.stage, self.recipe);
        let preparation = Preparation {
            data: &stage.data,
            tokenizer: self.tokenizer,
            max_length,
            cache: self.cache,
            seed: recipe.seed,
        };
        let data = preparation.tokenize(&preparation.read(labelled)?)?;
        if data.train.examples.corpus.is_empty() {
            return Err(TrainError::Run {
                path: data.train.source,
                found: format!("no text that is kept for training ({} dropped as too long)", data.train.dropped),
                expected: "at least one".to_owned(),
                help: "Raise max_length, or say overlong = \"truncate\"".to_owned(),
            });
        }
        Ok(data)
    }

    /// Says what a person should know before the first step.
    fn report(&self, data: &StageData, assembled: &crate::assemble::Assembled, sink: &mut Sink) -> Result<()> {
        for notice in &data.notices {
            sink.say(notice.clone())?;
        }
        if !assembled.new.is_empty() {
            let text = format!("The base model lacks {}: new, drawn at random, trained.", assembled.new.join(", "));
            sink.notice(Level::Info, text)?;
        }
        if !assembled.unused.is_empty() && self.index == 0 {
            sink.notice(Level::Info, format!("Not used of the base model: {}.", assembled.unused.join(", ")))?;
        }
        let wants_bf16 = self.stage.train.precision == PrecisionKey::Bf16;
        if wants_bf16 && !Instructions::current().multiply_bf16() {
            let text = "The instructions in use do not multiply bf16: with precision = \"bf16\" values are rounded to bf16 and \
                        multiplied in f32, which takes longer here than precision = \"f32\".";
            sink.notice(Level::Info, text.to_owned())?;
        }
        sink.say(Event::Data { stage: self.stage.name.clone(), splits: data.splits() })
    }

    /// The state to begin with, or to go on with.
    fn begin(
        &self,
        assembled: &crate::assemble::Assembled,
        checkpoints: &Checkpoints,
        seed: u64,
        sink: &mut Sink,
    ) -> Result<State> {
        let base = edited(assembled, seed)?;
        let mut params = base.clone();
        let progress = Progress { key: self.key.clone(), ..Progress::default() };
        let (memory, optimizer) = (Params::default(), Optimizer::default());
        let Some((progress, moved, memory, optimizer)) = checkpoints.load(self.device, &self.key)? else {
            checkpoints.clear()?;
            return Ok(State { params, base, memory, optimizer, progress });
        };
        for (path, tensor) in moved.iter() {
            params.insert(path, tensor.clone());
        }
        sink.say(Event::Resumed { stage: self.stage.name.clone(), step: progress.step })?;
        Ok(State { params, base, memory, optimizer, progress })
    }

    /// Says where the time went, if it was taken.
    fn profiled(&self, run: &StageRun, state: &State, sink: &mut Sink) -> Result<()> {
        let Some(clock) = &sink.watch.profile else { return Ok(()) };
        let ceiling = luthier_nn::ceiling(self.stage.train.precision.into(), &**clock);
        let operations = run.device.profile().into_iter().map(|row| Operation {
            name: row.name,
            calls: row.calls,
            seconds: row.seconds,
            operations: row.operations,
        });
        let profile = Profile { seconds: state.progress.seconds, ceiling, operations: operations.collect() };
        sink.say(Event::Profiled { stage: self.stage.name.clone(), profile })
    }

    /// Takes the weights of the best evaluation, measures them, and makes the stage's record.
    #[allow(clippy::too_many_arguments)]
    fn finish(
        &self,
        run: &StageRun,
        state: State,
        checkpoints: &Checkpoints,
        assembled: &crate::assemble::Assembled,
        carry: &Carry,
        max_length: usize,
        sink: &mut Sink,
    ) -> Result<(StageRecord, Params)> {
        let mut params = served(run.plan, &state.params, &state.memory);
        let progress = state.progress.clone();
        if let (Some(best), true) = (&progress.best, run.evaluate.keep_best) {
            for (path, tensor) in checkpoints.load_best(self.device, best.step)?.iter() {
                params.insert(path, tensor.clone());
            }
        }
        drop(state);
        let mut scores = BTreeMap::new();
        for (name, part) in run.data.parts().filter(|(name, _)| *name != "train") {
            let trunk = run.dev_trunk.filter(|_| name == "dev");
            let measured = evaluate(&run.evaluation(&params), part, trunk)?;
            let (step, split) = (progress.step, name.to_owned());
            if name == "test" {
                sink.say(Event::Evaluated { step, split, scores: measured.clone(), best: None })?;
            }
            scores.insert(name.to_owned(), measured);
        }
        let summary = StageSummary {
            name: self.stage.name.clone(),
            steps: progress.step,
            scores,
            tokens_per_second: progress.tokens as f64 / progress.seconds.max(1e-9),
            seconds: progress.seconds,
        };
        let json = |methods: &[luthier_tuning::Method]| -> Vec<serde_json::Value> {
            methods.iter().filter_map(|method| serde_json::to_value(method).ok()).collect()
        };
        let mut methods = assembled.inherited.clone();
        methods.extend(self.stage.method.iter().cloned());
        let record = StageRecord {
            key: self.key.clone(),
            summary,
            labels: run.data.labels.clone(),
            inherited: json(&assembled.inherited),
            methods: json(&methods),
            max_length,
            new: assembled.new.clone(),
        };
        let mut left = moved(run.plan, &params);
        for path in &assembled.differs {
            left.insert(path, params.get(path)?.clone());
        }
        for (path, tensor) in carry.params.iter() {
            // A pooler or a head that this stage does not use is kept for the stage that asks for it.
            if !params.contains(path) && self.base.shape(path).is_some() {
                left.insert(path, tensor.clone());
            }
        }
        Ok((record, left))
    }
}

/// The largest resident size that this process had.
fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
