//! Plain text: a text a line, or a text a paragraph.

use super::Parse;
use super::lines::Lines;
use super::row::{Row, Value};
use crate::error::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The name of the only column of plain text.
pub(super) const COLUMN: &str = "text";

/// What one text of a plain text file is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextUnit {
    /// Each line is a text.
    #[default]
    Line,
    /// Each block of lines between blank lines is a text; its line breaks stay.
    Paragraph,
}

struct Text {
    header: [Arc<str>; 1],
    unit: TextUnit,
}

/// Nothing to read ahead.
pub(super) fn open(_: &mut Lines, unit: TextUnit) -> Result<Box<dyn Parse>> {
    Ok(Box::new(Text { header: [Arc::from(COLUMN)], unit }))
}

impl Parse for Text {
    fn row(&mut self, lines: &mut Lines) -> Result<Option<Row>> {
        let (text, line) = match self.unit {
            TextUnit::Line => match lines.next_line()? {
                None => return Ok(None),
                Some(text) => (text.to_string(), lines.line()),
            },
            TextUnit::Paragraph => match paragraph(lines)? {
                None => return Ok(None),
                Some(found) => found,
            },
        };
        Ok(Some(Row { line, fields: vec![(self.header[0].clone(), Value::Text(text))] }))
    }

    fn header(&self) -> Option<&[Arc<str>]> {
        Some(&self.header)
    }
}

/// The next block of lines and the line it starts on.
fn paragraph(lines: &mut Lines) -> Result<Option<(String, u64)>> {
    let mut block = String::new();
    let mut first = 0;
    let limit = lines.limit();
    while let Some(line) = lines.next_line()? {
        match (line.trim().is_empty(), block.is_empty()) {
            (true, true) => {}
            (true, false) => break,
            (false, empty) => {
                if !empty {
                    block.push('\n');
                }
                block.push_str(line);
                if empty {
                    first = lines.line();
                }
                if block.len() > limit {
                    return Err(lines.too_large());
                }
            }
        }
    }
    Ok((!block.is_empty()).then_some((block, first)))
}
