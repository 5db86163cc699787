//! JSON lines: one object a line, blank lines between them allowed.
//!
//! Values are kept as they are spelled in the file, so that writing a row again changes nothing; a key that comes twice
//! in one object is an error.

use super::lines::Lines;
use super::row::{Row, Value};
use super::{Parse, TextUnit};
use crate::error::Result;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::sync::Arc;

/// The names seen last: rows of one file share them.
struct Jsonl {
    names: Vec<Arc<str>>,
}

/// Nothing to read ahead.
pub(super) fn open(_: &mut Lines, _: TextUnit) -> Result<Box<dyn Parse>> {
    Ok(Box::new(Jsonl { names: Vec::new() }))
}

impl Parse for Jsonl {
    fn row(&mut self, lines: &mut Lines) -> Result<Option<Row>> {
        let parsed = loop {
            match lines.next_line()? {
                None => return Ok(None),
                Some(line) if line.trim().is_empty() => {}
                Some(line) => break serde_json::from_str::<Object>(line).map_err(|error| (reason(&error), kind(line))),
            }
        };
        let object = parsed.map_err(|(reason, kind)| {
            let help = "write each row as {\"text\": \"...\", \"label\": \"...\"} on a line of its own";
            lines.malformed(format!("{kind} that cannot be read ({reason})"), "one whole JSON object a line", help)
        })?;
        let names = &mut self.names;
        let mut fields = Vec::with_capacity(object.0.len());
        for (i, (name, value)) in object.0.into_iter().enumerate() {
            let name = match names.get(i) {
                Some(known) if **known == *name => known.clone(),
                _ => Arc::from(name),
            };
            fields.push((name, value));
        }
        *names = fields.iter().map(|(name, _)| name.clone()).collect();
        Ok(Some(Row { line: lines.line(), fields }))
    }
}

/// The parser's words without its line number, which counts within the one line.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    format!("{text}, column {}", error.column())
}

fn kind(line: &str) -> &'static str {
    match line.trim_start().as_bytes().first() {
        Some(b'{') => "a JSON object",
        Some(b'[') => "a JSON list",
        _ => "a line",
    }
}

/// The entries of one object, in order, each name once.
struct Object(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut entries: Vec<(String, Value)> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("the key `{name}` comes twice")));
            }
            let raw = map.next_value::<Box<RawValue>>()?;
            let value = match raw.get().starts_with('"') {
                true => Value::Text(serde_json::from_str(raw.get()).map_err(A::Error::custom)?),
                false => Value::Json(raw),
            };
            entries.push((name, value));
        }
        Ok(Object(entries))
    }
}
