//! From a recipe's file to a [`Recipe`]: read, override, check everything at once, resolve.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value as Json;

use crate::error::{Result, TrainError};
use crate::recipe::check::check;
use crate::recipe::document::{Found, Node, Value};
use crate::recipe::problems::{Place, Places};
pub use crate::recipe::problems::{Problem, Problems};
use crate::recipe::rules::rules;
use crate::recipe::write::to_toml;
use crate::recipe::{Dev, Recipe};

/// The largest recipe that is read: real ones have a few kilobytes.
const MAX_BYTES: u64 = 1 << 20;
/// How many passes over the data a stage takes when its recipe does not say (transformers' Trainer).
const DEFAULT_EPOCHS: f64 = 3.0;

/// Where a value of a resolved recipe comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The recipe's file.
    Recipe {
        /// The line, from 1.
        line: usize,
    },
    /// An override.
    Set {
        /// As it was given: `stage.intents.train.epochs=3`.
        argument: String,
    },
    /// The default.
    Default,
}

/// A recipe as a person wrote it.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file; relative paths in the recipe start at its folder.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// A recipe with every value in place, checked, its paths absolute, and where each value comes from.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The recipe.
    pub recipe: Recipe,
    /// The origin of every value, under its dotted key; stages go by their names: `stage.intents.train.epochs`.
    pub origin: BTreeMap<String, Origin>,
    /// The text of the recipe's file.
    pub text: String,
    /// The recipe's file.
    pub path: PathBuf,
    /// The recipe as JSON, absent values as nulls.
    json: Json,
}

impl Source {
    /// Reads a recipe and resolves it with the overrides of `--set`.
    ///
    /// # Errors
    /// A file that cannot be read; everything that is wrong in it, at once.
    pub fn read(path: &Path, sets: &[String]) -> Result<Resolved> {
        Source::open(path)?.resolve(sets)
    }

    /// Reads a recipe's text.
    ///
    /// # Errors
    /// A file that cannot be read, is larger than a recipe can be, or is not UTF-8.
    pub fn open(path: &Path) -> Result<Source> {
        let fail = |error: std::io::Error| {
            let place = path.display().to_string();
            let message = format!("the recipe cannot be read: {error}; check its path");
            TrainError::Recipe(Problems { path: path.to_owned(), problems: vec![Problem { place, message }] })
        };
        let file = File::open(path).map_err(fail)?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
        Source::new(path, bytes)
    }

    /// A recipe from bytes; `path` is where it is said to lie.
    ///
    /// # Errors
    /// Bytes that are too many, or not UTF-8.
    pub fn new(path: &Path, bytes: Vec<u8>) -> Result<Source> {
        let wrong = |place: String, message: String| {
            TrainError::Recipe(Problems { path: path.to_owned(), problems: vec![Problem { place, message }] })
        };
        let name = name(path);
        if bytes.len() as u64 > MAX_BYTES {
            return Err(wrong(name, format!("is larger than {MAX_BYTES} bytes, expected a recipe of a few kilobytes")));
        }
        match String::from_utf8(bytes) {
            // A mark of the encoding, which some editors write.
            Ok(text) => {
                Ok(Source { path: path.to_owned(), text: text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned() })
            }
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let before = String::from_utf8_lossy(&error.as_bytes()[..at]).into_owned();
                let place = Places::new(name, &before, &[]).show(Place::File(before.len()));
                Err(wrong(place, "is not UTF-8; save the recipe as UTF-8".to_owned()))
            }
        }
    }

    /// Resolves the recipe with the overrides of `--set`.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn resolve(&self, sets: &[String]) -> Result<Resolved> {
        let places = Places::new(name(&self.path), &self.text, sets);
        let fail = |found: Vec<Found>| {
            let show = |(place, message): Found| Problem { place: places.show(place), message };
            let problems = found.into_iter().map(show).collect();
            TrainError::Recipe(Problems { path: self.path.clone(), problems })
        };
        let mut document = Node::read(&self.text, None).map_err(fail)?;
        let mut found = Vec::new();
        for (number, argument) in sets.iter().enumerate() {
            if let Err(problems) = document.set(argument, number) {
                found.extend(problems);
            }
        }
        found.extend(check(&document, &crate::schema::schema()));
        if !found.is_empty() {
            return Err(fail(found));
        }
        let mut recipe: Recipe =
            serde_json::from_value(document.json()).map_err(|error| fail(vec![(document.place, error.to_string())]))?;
        let found = rules(&recipe, &document);
        if !found.is_empty() {
            return Err(fail(found));
        }
        resolve_values(&mut recipe, &folder(&self.path)?);
        let json = serde_json::to_value(&recipe).map_err(|error| {
            fail(vec![(
                document.place,
                format!("cannot be written down again: {error}; use UTF-8 names for its folders"),
            )])
        })?;
        let mut origin = BTreeMap::new();
        origins(&json, Some(&document), String::new(), &places, &mut origin);
        Ok(Resolved { recipe, origin, text: self.text.clone(), path: self.path.clone(), json })
    }
}

impl Resolved {
    /// The resolved recipe in TOML, every value with a comment that says where it comes from. It reads back as the same
    /// recipe, from any folder.
    pub fn to_toml_with_origins(&self) -> String {
        to_toml(&self.json, &self.origin, &name(&self.path))
    }
}

/// The name of a recipe in messages.
fn name(path: &Path) -> String {
    crate::recipe::problems::plain(&path.file_name().unwrap_or(path.as_os_str()).to_string_lossy())
}

/// The folder where a recipe's relative paths start.
fn folder(path: &Path) -> Result<PathBuf> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::path::absolute(folder).map_err(|source| TrainError::File {
        path: folder.to_owned(),
        action: "find the folder of the recipe",
        source,
        hint: "Check that the current folder is still there",
    })
}

/// Makes paths absolute and fills in what depends on other keys.
fn resolve_values(recipe: &mut Recipe, folder: &Path) {
    let absolute = |path: &mut PathBuf| *path = folder.join(&*path);
    recipe.model.path.iter_mut().for_each(absolute);
    recipe.model.new.iter_mut().for_each(|new| absolute(&mut new.text));
    for stage in &mut recipe.stage {
        absolute(&mut stage.data.train);
        stage.data.test.iter_mut().for_each(absolute);
        if let Some(Dev::File(path)) = &mut stage.data.dev {
            absolute(path);
        }
        if stage.train.epochs.is_none() && stage.train.steps.is_none() {
            stage.train.epochs = Some(DEFAULT_EPOCHS);
        }
    }
}

/// The dotted key of an element of a list: a stage by its name, anything else by its number.
pub(crate) fn dotted(list: &str, index: usize, item: &Json) -> String {
    match item.get("name").and_then(Json::as_str) {
        Some(name) if list == "stage" => format!("{list}.{name}"),
        _ => format!("{list}.{index}"),
    }
}

/// Where every value of `json` comes from, by the document that it was read from.
fn origins(json: &Json, node: Option<&Node>, path: String, places: &Places<'_>, all: &mut BTreeMap<String, Origin>) {
    match json {
        Json::Null => {}
        Json::Object(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                origins(value, node.and_then(|node| node.get(key)), path, places, all);
            }
        }
        Json::Array(items) if !items.is_empty() && items.iter().all(Json::is_object) => {
            // A default list has no node; a list that a person wrote has one for every element.
            for (index, item) in items.iter().enumerate() {
                let inner = node.filter(|node| matches!(node.value, Value::List(_))).and_then(|node| node.item(index));
                origins(item, inner, dotted(&path, index, item), places, all);
            }
        }
        _ => {
            let origin = match node.map(|node| node.place) {
                Some(Place::File(offset)) => Origin::Recipe { line: places.line(offset) },
                Some(Place::Set(number)) => Origin::Set { argument: places.set(number).to_owned() },
                None => Origin::Default,
            };
            all.insert(path, origin);
        }
    }
}
