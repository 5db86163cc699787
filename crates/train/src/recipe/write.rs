//! The resolved recipe as TOML: every value, each with where it comes from.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value as Json};

use super::problems::plain;
use crate::parse::{Origin, dotted};

/// The first line of a resolved recipe, by which a run directory's own is told from a person's.
pub(crate) const RESOLVED: &str =
    "# Every value of this run, and where each comes from. It is a recipe: it can be run again.";

/// Writes a recipe that was turned into JSON. `name` is what the comments call its file.
pub(crate) fn to_toml(recipe: &Json, origins: &BTreeMap<String, Origin>, name: &str) -> String {
    let mut writer = Writer { text: String::new(), origins, name };
    writer.text.push_str(RESOLVED);
    writer.text.push_str("\n\n");
    if let Json::Object(table) = recipe {
        writer.table(table, "", "");
    }
    writer.text
}

struct Writer<'a> {
    text: String,
    origins: &'a BTreeMap<String, Origin>,
    name: &'a str,
}

impl Writer<'_> {
    /// The keys of a table, first the plain ones, then those with headers of their own. `header` is the path in TOML,
    /// `path` the one in `origins`.
    fn table(&mut self, table: &Map<String, Json>, header: &str, path: &str) {
        let plain_keys = table.iter().filter(|(_, value)| !has_header(value) && !value.is_null());
        for (key, value) in plain_keys {
            let origin = self.origins.get(&join(path, key)).unwrap_or(&Origin::Default);
            let origin = match origin {
                Origin::Recipe { line } => format!("{}:{line}", self.name),
                Origin::Set { argument } => format!("--set {}", plain(argument)),
                Origin::Default => "default".to_owned(),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(self.text, "{} = {} # {origin}", bare_or_quoted(key), inline(value));
        }
        for (key, value) in table.iter().filter(|(_, value)| has_header(value)) {
            let header = join(header, &bare_or_quoted(key));
            let path = join(path, key);
            match value {
                Json::Object(inner) => {
                    let _ = writeln!(self.text, "\n[{header}]");
                    self.table(inner, &header, &path);
                }
                Json::Array(items) => {
                    for (index, item) in items.iter().enumerate() {
                        let _ = writeln!(self.text, "\n[[{header}]]");
                        if let Json::Object(inner) = item {
                            self.table(inner, &header, &dotted(&path, index, item));
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// Whether a value is written under a header of its own.
fn has_header(value: &Json) -> bool {
    match value {
        Json::Object(_) => true,
        Json::Array(items) => !items.is_empty() && items.iter().all(Json::is_object),
        _ => false,
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn bare_or_quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { key.to_owned() } else { string(key) }
}

/// A value on one line.
fn inline(value: &Json) -> String {
    match value {
        // TOML has no such value, and no recipe can hold it.
        Json::Null => "\"\"".to_owned(),
        Json::Bool(truth) => truth.to_string(),
        Json::Number(number) => number.to_string(),
        Json::String(text) => string(text),
        Json::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Json::Object(table) => {
            let entry = |(key, value): (&String, &Json)| format!("{} = {}", bare_or_quoted(key), inline(value));
            format!("{{ {} }}", table.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}

/// A basic string: what is not printable is escaped.
fn string(text: &str) -> String {
    let mut written = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => written.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(written, "\\u{:04X}", c as u32);
            }
            c => written.push(c),
        }
    }
    written.push('"');
    written
}
