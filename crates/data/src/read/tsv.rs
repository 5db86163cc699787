//! Tab-separated values with a header and no quoting: a quote is a character like any other, a line is a row.
//! The files of GLUE are such; reading them with quotes would join rows without a word.

use super::lines::Lines;
use super::row::Row;
use super::{Parse, TextUnit, csv};
use crate::error::Result;
use std::sync::Arc;

struct Tsv {
    header: Vec<Arc<str>>,
}

/// Reads the header.
pub(super) fn open(lines: &mut Lines, _: TextUnit) -> Result<Box<dyn Parse>> {
    let Some(fields) = next_record(lines)? else { return Err(csv::no_header(lines)) };
    Ok(Box::new(Tsv { header: csv::header(lines, lines.line(), fields)? }))
}

impl Parse for Tsv {
    fn row(&mut self, lines: &mut Lines) -> Result<Option<Row>> {
        let Some(fields) = next_record(lines)? else { return Ok(None) };
        let help = "a text cannot hold tabs or line breaks here: take them out, or write CSV";
        csv::row(lines, lines.line(), &self.header, fields, help).map(Some)
    }

    fn header(&self) -> Option<&[Arc<str>]> {
        Some(&self.header)
    }
}

/// The fields of the next line that is not empty.
fn next_record(lines: &mut Lines) -> Result<Option<Vec<String>>> {
    while let Some(line) = lines.next_line()? {
        if !line.is_empty() {
            return Ok(Some(line.split('\t').map(str::to_string).collect()));
        }
    }
    Ok(None)
}
