//! One row: the line it starts on and all its columns, in the order of the file.

use super::unknown_column;
use crate::error::{DataError, Result};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;
use std::path::Path;
use std::sync::Arc;

/// One row of a data file.
#[derive(Debug, Clone)]
pub struct Row {
    /// The line it starts on, from 1.
    pub line: u64,
    /// Its columns, in the order of the file.
    pub fields: Vec<(Arc<str>, Value)>,
}

/// The value of a column.
#[derive(Debug, Clone)]
pub enum Value {
    /// A string.
    Text(String),
    /// Anything else that JSON has, spelled exactly as it is in the file.
    Json(Box<RawValue>),
}

impl Value {
    /// The string, or the JSON text of anything else.
    pub fn as_str(&self) -> &str {
        match self {
            Value::Text(text) => text,
            Value::Json(raw) => raw.get(),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Text(text) => serializer.serialize_str(text),
            Value::Json(raw) => raw.serialize(serializer),
        }
    }
}

/// As a map from column to value, in order: what was read is what is written.
impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len()))?;
        for (name, value) in &self.fields {
            map.serialize_entry(&**name, value)?;
        }
        map.end()
    }
}

impl Row {
    /// The value of a column.
    pub fn get(&self, column: &str) -> Option<&Value> {
        self.fields.iter().find(|(name, _)| **name == *column).map(|(_, value)| value)
    }

    /// The value of a column as text: a string, or a number or truth value as it is spelled; `path` is what messages
    /// call the file.
    ///
    /// # Errors
    /// No such column; `null`, a list or an object.
    pub fn text(&self, column: &str, path: &Path) -> Result<&str> {
        let value = self
            .get(column)
            .ok_or_else(|| unknown_column(path, self.line, column, self.fields.iter().map(|(name, _)| &**name)))?;
        let text = value.as_str();
        let found = match (value, text.as_bytes().first()) {
            (Value::Json(_), Some(b'{')) => "an object",
            (Value::Json(_), Some(b'[')) => "a list",
            (Value::Json(_), Some(b'n')) => "null",
            _ => return Ok(text),
        };
        Err(DataError::Malformed {
            path: path.to_path_buf(),
            line: self.line,
            found: format!("{found} in column `{column}`"),
            expected: "a string, a number or a truth value".to_string(),
            help: "write the value as a string, or name another column".to_string(),
        })
    }
}
