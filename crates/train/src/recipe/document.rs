//! A recipe before it means anything: TOML values, each with its place, and the overrides of `--set` among them.

use std::collections::BTreeMap;

use toml::de::{DeString, DeTable, DeValue};

use super::problems::{Place, did_you_mean, quoted};

/// A value and where it begins.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// A TOML value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Keys with their own places.
    Table(BTreeMap<String, (Place, Node)>),
    List(Vec<Node>),
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// A date or time.
    Date,
    /// A number that no 64 bits hold, as it is written.
    TooLarge(String),
}

/// A problem whose place is not in words yet.
pub(crate) type Found = (Place, String);

impl Node {
    /// Reads TOML. Every place inside is `set` if that is given: an override has one place.
    pub(crate) fn read(text: &str, set: Option<usize>) -> Result<Node, Vec<Found>> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let place = |at: usize| set.map_or(Place::File(at), Place::Set);
            let found =
                |e: &toml::de::Error| (place(e.span().map_or(0, |s| s.start)), format!("not TOML: {}", e.message()));
            return Err(errors.iter().map(found).collect());
        }
        let start = table.span().start;
        Ok(convert(&DeValue::Table(table.into_inner()), start, set))
    }

    /// What it is, in words.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::Table(_) => "a table".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Text(text) => format!("the text {}", quoted(&format!("{text:?}"))),
            Value::Integer(number) => format!("`{number}`"),
            Value::Float(number) => format!("`{number:?}`"),
            Value::Boolean(truth) => format!("`{truth}`"),
            Value::Date => "a date or time".to_owned(),
            Value::TooLarge(written) => format!("{}, which is too large a number", quoted(written)),
        }
    }

    /// The value under a key of a table.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Table(table) => table.get(key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// An element of a list.
    pub(crate) fn item(&self, index: usize) -> Option<&Node> {
        match &self.value {
            Value::List(items) => items.get(index),
            _ => None,
        }
    }

    /// Text, if it is that.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// As JSON, for serde. What JSON cannot say was refused by the check before.
    pub(crate) fn json(&self) -> serde_json::Value {
        match &self.value {
            Value::Table(table) => {
                serde_json::Value::Object(table.iter().map(|(key, (_, node))| (key.clone(), node.json())).collect())
            }
            Value::List(items) => items.iter().map(Node::json).collect(),
            Value::Text(text) => text.as_str().into(),
            Value::Integer(number) => (*number).into(),
            Value::Float(number) => (*number).into(),
            Value::Boolean(truth) => (*truth).into(),
            Value::Date | Value::TooLarge(_) => serde_json::Value::Null,
        }
    }

    /// Applies `--set` number `number`: `stage.intents.train.epochs=3`.
    pub(crate) fn set(&mut self, argument: &str, number: usize) -> Result<(), Vec<Found>> {
        let place = Place::Set(number);
        let wrong = |message: String| vec![(place, message)];
        let Some((path, written)) = argument.split_once('=') else {
            return Err(wrong("found no `=`, expected KEY=VALUE, such as stage.0.train.epochs=3".to_owned()));
        };
        let path: Vec<&str> = path.trim().split('.').collect();
        if path.iter().any(|segment| segment.is_empty()) {
            return Err(wrong("a part of the key is empty, expected such as stage.0.train.epochs=3".to_owned()));
        }
        if path.len() > 16 {
            return Err(wrong("the key has more parts than any key of a recipe".to_owned()));
        }
        let value = Node { place, value: value(written.trim(), number)? };
        self.insert(&path, value).map_err(wrong)
    }

    /// Puts `value` under a path, making the tables on the way.
    fn insert(&mut self, path: &[&str], value: Node) -> Result<(), String> {
        let mut node = self;
        let (last, parents) = path.split_last().ok_or("the key is empty")?;
        let mut name = "the recipe";
        for segment in parents {
            node = node.child(name, segment, value.place)?;
            name = segment;
        }
        if let Value::Table(table) = &mut node.value {
            // Of two keys that exclude each other, the override replaces the one that the file has.
            if let Some(other) = rival(name, last) {
                let from_file = table.get(other).is_some_and(|(_, node)| matches!(node.place, Place::File(_)));
                if from_file {
                    table.remove(other);
                }
            }
        }
        let place = value.place;
        *node.child(name, last, place)? = value;
        Ok(())
    }

    /// The value under one segment of a path, made if a table lacks it.
    fn child(&mut self, name: &str, segment: &str, place: Place) -> Result<&mut Node, String> {
        let found = self.describe();
        match &mut self.value {
            Value::Table(table) => {
                let made = || (place, Node { place, value: Value::Table(BTreeMap::new()) });
                Ok(&mut table.entry(segment.to_owned()).or_insert_with(made).1)
            }
            Value::List(items) => {
                let called =
                    |item: &Node| ["name", "kind"].iter().find_map(|key| item.get(key)?.text().map(str::to_owned));
                let names: Vec<String> = items.iter().filter_map(called).collect();
                let index = match segment.parse::<usize>() {
                    Ok(index) => Some(index).filter(|&index| index < items.len()),
                    Err(_) => items.iter().position(|item| called(item).as_deref() == Some(segment)),
                };
                let Some(index) = index else {
                    let near = did_you_mean(segment, names.iter().map(String::as_str));
                    let known = names.iter().enumerate().map(|(i, name)| format!("{i} {}", quoted(name)));
                    let known = known.take(20).collect::<Vec<_>>().join(", ");
                    let segment = quoted(segment);
                    return Err(format!("`{name}` has no {segment}{near} (there are {}: {known})", items.len()));
                };
                Ok(&mut items[index])
            }
            _ => Err(format!("{} is {found}, not a table with keys", quoted(name))),
        }
    }
}

/// The key of the same table that a key excludes.
fn rival(table: &str, key: &str) -> Option<&'static str> {
    match (table, key) {
        ("train", "steps") => Some("epochs"),
        ("train", "epochs") => Some("steps"),
        ("model", "path") => Some("new"),
        ("model", "new") => Some("path"),
        _ => None,
    }
}

/// The value of an override: TOML, or a bare word or path.
fn value(written: &str, number: usize) -> Result<Value, Vec<Found>> {
    if written.is_empty() {
        return Err(vec![(Place::Set(number), "found no value, expected one after `=`".to_owned())]);
    }
    match DeValue::parse(written) {
        Ok(parsed) => Ok(convert(parsed.get_ref(), 0, Some(number)).value),
        // What begins like TOML was meant as TOML.
        Err(error) if written.starts_with(['[', '{', '"', '\'']) => {
            Err(vec![(Place::Set(number), format!("the value is not TOML: {}", error.message()))])
        }
        Err(_) => Ok(Value::Text(written.to_owned())),
    }
}

fn convert(value: &DeValue<'_>, start: usize, set: Option<usize>) -> Node {
    let place = |at: usize| set.map_or(Place::File(at), Place::Set);
    let value = match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::TooLarge(number.as_str().to_owned()),
        },
        DeValue::Float(number) => match number.as_str().parse::<f64>() {
            Ok(parsed) if parsed.is_finite() || number.as_str().contains(['i', 'n']) => Value::Float(parsed),
            _ => Value::TooLarge(number.as_str().to_owned()),
        },
        DeValue::Boolean(truth) => Value::Boolean(*truth),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(items) => {
            Value::List(items.iter().map(|item| convert(item.get_ref(), item.span().start, set)).collect())
        }
        DeValue::Table(table) => {
            let entry = |(key, value): (&toml::Spanned<DeString<'_>>, &toml::Spanned<DeValue<'_>>)| {
                let node = convert(value.get_ref(), value.span().start, set);
                (key.get_ref().to_string(), (place(key.span().start), node))
            };
            Value::Table(table.iter().map(entry).collect())
        }
    };
    Node { place: place(start), value }
}
