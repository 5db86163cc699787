//! What a schema cannot say: ranges, keys that exclude each other, keys that would do nothing. All of it at once.

use std::collections::BTreeMap;
use std::path::Path;

use luthier_data::{Format, Overlong, TextUnit};
use luthier_metrics::MetricKind;

use super::document::{Found, Node};
use super::problems::{Place, quoted};
use super::{Data, Dev, Every, EveryWord, NewModel, Recipe, Stage};

/// The longest name of a stage: it is a directory's name, beside others.
const LONGEST_NAME: usize = 64;
/// The fewest tokens of a text: its two special tokens and one of its own.
const SHORTEST_TEXT: usize = 3;
/// The fewest tokens of a new vocabulary, as `luthier_data::vocabulary` wants it: room for the alphabet.
const SMALLEST_VOCABULARY: u32 = 64;

/// A table of the document, for the places of its keys.
#[derive(Clone, Copy)]
struct At<'n> {
    /// What a person wrote; nothing where the whole table is a default.
    node: Option<&'n Node>,
    /// Where to point when the key is not there.
    place: Place,
}

impl<'n> At<'n> {
    fn key(self, key: &str) -> At<'n> {
        let node = self.node.and_then(|node| node.get(key));
        At { node, place: node.map_or(self.place, |node| node.place) }
    }

    fn item(self, index: usize) -> At<'n> {
        let node = self.node.and_then(|node| node.item(index));
        At { node, place: node.map_or(self.place, |node| node.place) }
    }
}

/// Collects what is wrong.
struct Rules {
    found: Vec<Found>,
}

/// Everything that is wrong with the values of a recipe.
pub(crate) fn rules(recipe: &Recipe, document: &Node) -> Vec<Found> {
    let mut rules = Rules { found: Vec::new() };
    let root = At { node: Some(document), place: document.place };
    rules.model(recipe, root.key("model"));
    rules.stages(recipe, root.key("stage"));
    rules.found.sort();
    rules.found
}

impl Rules {
    fn wrong(&mut self, at: At<'_>, message: String) {
        self.found.push((at.place, message));
    }

    /// `key` of `at` is `found`; unless it fits, that is wrong.
    fn range(&mut self, at: At<'_>, key: &str, found: impl std::fmt::Display, fits: bool, expected: &str) {
        if !fits {
            self.wrong(at.key(key), format!("`{key}` is {found}, expected {expected}"));
        }
    }

    fn path(&mut self, at: At<'_>, key: &str, path: &Path) {
        self.range(at, key, "empty", !path.as_os_str().is_empty(), "a path");
    }

    fn model(&mut self, recipe: &Recipe, at: At<'_>) {
        match (&recipe.model.path, &recipe.model.new) {
            (Some(path), None) => self.path(at, "path", path),
            (None, Some(new)) => self.new_model(new, at.key("new")),
            (Some(_), Some(_)) => {
                let message = "`path` and `new` exclude each other in model; take one of them out";
                self.wrong(at.key("new"), message.to_owned());
            }
            (None, None) => {
                let message = "model says neither `path` (a model directory) nor `new` (a model from scratch)";
                self.wrong(at, message.to_owned());
            }
        }
    }

    fn new_model(&mut self, new: &NewModel, at: At<'_>) {
        self.path(at, "text", &new.text);
        let size = new.vocabulary;
        let expected = format!("{SMALLEST_VOCABULARY} to {}", 1 << 24);
        self.range(at, "vocabulary", size, (SMALLEST_VOCABULARY..=1 << 24).contains(&size), &expected);
        let config = at.key("config");
        if !new.config.get("model_type").is_some_and(serde_json::Value::is_string) {
            let families: Vec<&str> = luthier_models::FAMILIES.iter().map(|family| family.model_type).collect();
            let message = format!("`config` has no `model_type`, expected one of {}", families.join(", "));
            self.wrong(config, message);
        }
        if new.config.get("vocab_size").is_some_and(|said| said.as_u64() != Some(u64::from(size))) {
            let message = "`vocab_size` follows from `vocabulary`; take it out";
            self.wrong(config.key("vocab_size"), message.to_owned());
        }
    }

    fn stages(&mut self, recipe: &Recipe, at: At<'_>) {
        if recipe.stage.is_empty() {
            self.wrong(at, "there is no stage, expected at least one [[stage]]".to_owned());
        }
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        for (index, stage) in recipe.stage.iter().enumerate() {
            let at = at.item(index);
            self.name(&stage.name, at);
            // Folders of some systems do not tell `A` from `a`.
            if let Some(first) = names.insert(stage.name.to_lowercase(), index) {
                let name = quoted(&stage.name);
                let message = format!("stage {index} is called {name} as stage {first} is; give each its own name");
                self.wrong(at.key("name"), message);
            }
            self.stage(stage, at);
        }
    }

    fn name(&mut self, name: &str, at: At<'_>) {
        let fits = !name.is_empty()
            && name.len() <= LONGEST_NAME
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
            && !name.starts_with('-')
            // `--set stage.0` means the first stage.
            && !name.chars().all(|c| c.is_ascii_digit());
        let found = quoted(&format!("{name:?}"));
        let expected = "letters, digits, `_` and `-` (at most 64, not digits alone): it is the name of a folder";
        self.range(at, "name", found, fits, expected);
    }

    fn stage(&mut self, stage: &Stage, at: At<'_>) {
        if let Err(error) = stage.objective.get().check() {
            self.wrong(at.key("objective"), error.to_string());
        }
        self.data(stage, at.key("data"));
        self.train(stage, at.key("train"));
        self.evaluate(stage, at.key("evaluate"));
    }

    fn data(&mut self, stage: &Stage, at: At<'_>) {
        let data = &stage.data;
        self.path(at, "train", &data.train);
        match &data.dev {
            Some(Dev::Fraction(part)) => {
                self.range(at, "dev", part, 0.0 < *part && *part < 1.0, "a fraction above 0 and below 1, or a file");
            }
            Some(Dev::File(path)) => self.path(at, "dev", path),
            None => {}
        }
        if let Some(path) = &data.test {
            self.path(at, "test", path);
        }
        if let Some(length) = data.max_length {
            let expected = format!("{SHORTEST_TEXT} or more: two special tokens and one of the text");
            self.range(at, "max_length", length, length >= SHORTEST_TEXT, &expected);
        }
        self.columns(stage, at);
        self.packing(stage, at);
    }

    fn columns(&mut self, stage: &Stage, at: At<'_>) {
        let data = &stage.data;
        let labelled = stage.objective.get().task().labelled;
        let kind = stage.objective.kind();
        for (key, column) in [("text", Some(&data.text)), ("pair", data.pair.as_ref()), ("label", Some(&data.label))] {
            self.range(at, key, "empty", column.is_none_or(|name| !name.is_empty()), "the name of a column");
        }
        if data.pair.as_deref() == Some(data.text.as_str()) {
            let message = format!("`pair` and `text` are both the column {}", quoted(&data.text));
            self.wrong(at.key("pair"), message);
        }
        if labelled && data.text == data.label {
            let message = format!("`label` and `text` are both the column {}", quoted(&data.text));
            self.wrong(at.key("label"), message);
        }
        // A key that would do nothing is an error unless it says the default: a resolved recipe says every default.
        if !labelled && data.label != "label" {
            self.wrong(
                at.key("label"),
                format!("`label` does nothing: the objective {kind} reads no labels; take it out"),
            );
        }
        let Some(format) = format(data) else { return };
        if format == Format::Text {
            if labelled {
                let message = format!(
                    "the objective {kind} needs labels, and plain text has none; name a CSV, TSV or JSON lines file"
                );
                self.wrong(at.key("train"), message);
            }
            for (key, said) in [("text", data.text != "text"), ("pair", data.pair.is_some())] {
                if said {
                    self.wrong(at.key(key), format!("`{key}` does nothing: plain text has no columns; take it out"));
                }
            }
        } else if data.unit != TextUnit::default() {
            let message = format!("`unit` does nothing: a {} file has rows; take it out", format.name());
            self.wrong(at.key("unit"), message);
        }
    }

    fn packing(&mut self, stage: &Stage, at: At<'_>) {
        let data = &stage.data;
        let kind = stage.objective.kind();
        let pair = data.pair.is_some();
        let labelled = stage.objective.get().task().labelled;
        let by_default = data.pack.is_none() && !labelled && format(data) == Some(Format::Text);
        if data.pack != Some(true) && !by_default {
            return;
        }
        if labelled {
            let message =
                format!("`pack` would join texts with different labels; the objective {kind} reads one text at a time");
            self.wrong(at.key("pack"), message);
        }
        if pair {
            let message = "`pack` lays texts end to end, which pairs are not; take `pack` or `pair` out";
            self.wrong(at.key("pack"), message.to_owned());
        }
        if data.overlong != Overlong::default() {
            let message = "`overlong` does nothing where texts are packed: they are cut into blocks and nothing is too long; take it \
                 out, or say pack = false";
            self.wrong(at.key("overlong"), message.to_owned());
        }
    }

    fn train(&mut self, stage: &Stage, at: At<'_>) {
        let train = &stage.train;
        if train.epochs.is_some() && train.steps.is_some() {
            let message = "`epochs` and `steps` exclude each other in train; take one of them out";
            self.wrong(at.key("steps"), message.to_owned());
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if let Some(epochs) = train.epochs {
            self.range(at, "epochs", epochs, positive(epochs), "a number above 0");
        }
        if let Some(steps) = train.steps {
            self.range(at, "steps", steps, steps >= 1, "1 or more");
        }
        self.range(at, "batch", train.batch, train.batch >= 1, "1 or more");
        let rate = train.learning_rate;
        self.range(at, "learning_rate", rate, positive(rate), "a number above 0, such as 5e-5");
        let warmup = train.warmup;
        let expected = "0, a fraction of the steps below 1, or a whole number of steps";
        let fits = warmup.is_finite() && warmup >= 0.0 && (warmup < 1.0 || warmup.fract() == 0.0);
        self.range(at, "warmup", warmup, fits, expected);
        let decay = train.weight_decay;
        self.range(at, "weight_decay", decay, decay.is_finite() && decay >= 0.0, "0 or more");
        for (key, beta) in [("beta1", train.beta1), ("beta2", train.beta2)] {
            self.range(at, key, beta, (0.0..1.0).contains(&beta), "0 up to, not including, 1");
        }
        self.range(at, "epsilon", train.epsilon, positive(train.epsilon), "a small number above 0, such as 1e-8");
        self.range(at, "token_budget", train.token_budget, train.token_budget >= 1, "1 or more");
        self.every(at, "checkpoint", &train.checkpoint);
    }

    fn every(&mut self, at: At<'_>, key: &str, every: &Every) {
        if let Every::Steps(steps) = every {
            self.range(at, key, steps, *steps >= 1, "1 step or more, \"epoch\" or \"never\"");
        }
    }

    fn evaluate(&mut self, stage: &Stage, at: At<'_>) {
        let evaluate = &stage.evaluate;
        self.every(at, "every", &evaluate.every);
        if let Some(name) = &evaluate.metric
            && let Err(error) = MetricKind::choose(name, stage.objective.get().task().metrics)
        {
            self.wrong(at.key("metric"), error.to_string());
        }
        let patient = evaluate.patience > 0;
        if stage.data.dev.is_none() {
            let needs = [
                ("every", matches!(evaluate.every, Every::Steps(_))),
                ("metric", evaluate.metric.is_some()),
                ("patience", patient),
            ];
            for (key, _) in needs.into_iter().filter(|(_, needed)| *needed) {
                let message =
                    format!("`{key}` needs development data; add `dev` to data: a file, or a fraction such as 0.1");
                self.wrong(at.key(key), message);
            }
        } else if patient && evaluate.every == Every::Word(EveryWord::Never) {
            let message = "`patience` needs evaluations, and `every` is \"never\"";
            self.wrong(at.key("patience"), message.to_owned());
        }
    }
}

/// The format of the training file, where it is known without opening it.
fn format(data: &Data) -> Option<Format> {
    data.format.or_else(|| Format::of(&data.train).ok())
}
