//! Comma-separated values with a header, as RFC 4180 describes them.
//!
//! A field that begins with a quote ends with one, holds commas and line breaks, and doubles the quotes inside it.
//! Lines end with LF or CRLF. A quote inside a field that does not begin with one is an ordinary character, as
//! spreadsheets read it. Blank lines are no rows. What could be read in two ways is an error: a quote never closed,
//! text after a closing quote, a lone carriage return, a row with more or fewer fields than the header.

use super::lines::Lines;
use super::row::{Row, Value};
use super::{Parse, TextUnit};
use crate::error::{DataError, Result};
use crate::nearest::listed;
use std::sync::Arc;

struct Csv {
    header: Vec<Arc<str>>,
    record: String,
}

/// Reads the header.
pub(super) fn open(lines: &mut Lines, _: TextUnit) -> Result<Box<dyn Parse>> {
    let mut record = String::new();
    let line = next_record(lines, &mut record)?;
    let Some(line) = line else { return Err(no_header(lines)) };
    Ok(Box::new(Csv { header: header(lines, line, split(lines, line, &record)?)?, record }))
}

impl Parse for Csv {
    fn row(&mut self, lines: &mut Lines) -> Result<Option<Row>> {
        let Some(line) = next_record(lines, &mut self.record)? else { return Ok(None) };
        let fields = split(lines, line, &self.record)?;
        row(lines, line, &self.header, fields, "put a text that holds commas, quotes or line breaks between quotes")
            .map(Some)
    }

    fn header(&self) -> Option<&[Arc<str>]> {
        Some(&self.header)
    }
}

/// The error for a file without a header.
pub(super) fn no_header(lines: &Lines) -> DataError {
    let (path, found) = (lines.path().to_path_buf(), "an empty file");
    DataError::Empty { path, found, help: "write a header with the names of the columns, then a row a text" }
}

/// Checks the names of the columns.
pub(super) fn header(lines: &Lines, line: u64, names: Vec<String>) -> Result<Vec<Arc<str>>> {
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            let found = format!("two columns named `{name}`");
            return Err(lines.malformed_at(line, found, "a header with a name for each column", "rename one of them"));
        }
    }
    Ok(names.into_iter().map(Arc::from).collect())
}

/// Joins the names and the fields of a row.
pub(super) fn row(lines: &Lines, line: u64, header: &[Arc<str>], fields: Vec<String>, help: &str) -> Result<Row> {
    if fields.len() != header.len() {
        let s = if fields.len() == 1 { "" } else { "s" };
        let found = format!("a row of {} field{s}", fields.len());
        let expected = format!("{}, as in the header ({})", header.len(), listed(header.iter().map(|n| &**n), 20));
        return Err(lines.malformed_at(line, found, &expected, help));
    }
    Ok(Row { line, fields: header.iter().cloned().zip(fields.into_iter().map(Value::Text)).collect() })
}

/// Reads the lines of one record into `record`, without the last line's end; returns the line it starts on.
fn next_record(lines: &mut Lines, record: &mut String) -> Result<Option<u64>> {
    record.clear();
    let mut first = None;
    let mut inside = Quotes::FieldStart;
    let limit = lines.limit();
    while let Some(text) = lines.next_with_end()? {
        inside = inside.after(text);
        record.push_str(text);
        let line = *first.get_or_insert(lines.line());
        if record.len() > limit {
            return Err(lines.too_large());
        }
        if inside == Quotes::Quoted {
            continue;
        }
        let end = record.trim_end_matches('\n').len();
        record.truncate(record[..end].strip_suffix('\r').unwrap_or(&record[..end]).len());
        if record.is_empty() {
            (first, inside) = (None, Quotes::FieldStart);
            continue;
        }
        return Ok(Some(line));
    }
    match first {
        None => Ok(None),
        Some(line) => {
            let help = "close it, or double a quote that belongs to the text";
            Err(lines.malformed_at(line, "a quote that is never closed", "a closing quote before the end", help))
        }
    }
}

/// Where a scan stands with regard to quotes; a doubled quote leaves and enters at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    FieldStart,
    Plain,
    Quoted,
    /// Just behind a quote inside a quoted field: the end of the field, or the first half of a doubled quote.
    Closing,
}

impl Quotes {
    fn step(self, byte: u8) -> Quotes {
        match (self, byte) {
            (Quotes::FieldStart, b'"') | (Quotes::Closing, b'"') => Quotes::Quoted,
            (Quotes::Quoted, b'"') => Quotes::Closing,
            (Quotes::Quoted, _) => Quotes::Quoted,
            (_, b',') => Quotes::FieldStart,
            _ => Quotes::Plain,
        }
    }

    fn after(self, text: &str) -> Quotes {
        text.bytes().fold(self, Quotes::step)
    }
}

/// The fields of a record.
fn split(lines: &Lines, line: u64, record: &str) -> Result<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = record;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(lines, line, record, quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if rest[..end].contains('\r') {
                    let help = "write the file with LF or CRLF line ends, or put the field between quotes";
                    return Err(lines.malformed_at(line, "a carriage return without a line feed", "LF or CRLF", help));
                }
                (rest[..end].to_string(), &rest[end..])
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

/// A field between quotes, from behind its opening quote; and what follows its closing quote (a comma or nothing).
fn quoted_field<'a>(lines: &Lines, line: u64, record: &str, text: &'a str) -> Result<(String, &'a str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        // The record ends outside quotes, so each opening quote has its closing one.
        let end = rest.find('"').unwrap_or(rest.len());
        field.push_str(&rest[..end]);
        rest = rest.get(end + 1..).unwrap_or_default();
        if let Some(after) = rest.strip_prefix('"') {
            field.push('"');
            rest = after;
            continue;
        }
        if rest.is_empty() || rest.starts_with(',') {
            return Ok((field, rest));
        }
        let read = &record[..record.len() - rest.len()];
        let line = line + read.bytes().filter(|&byte| byte == b'\n').count() as u64;
        let found = format!("`{}` after a closing quote", rest.chars().take(12).collect::<String>().escape_debug());
        let help = "double each quote that belongs to the text (\"\" for \")";
        return Err(lines.malformed_at(line, found, "a comma or the end of the line", help));
    }
}

#[cfg(test)]
mod tests {
    use crate::read::{Format, Rows, TextUnit};
    use proptest::prelude::*;
    use std::io::Cursor;
    use std::path::Path;

    fn read(bytes: &[u8]) -> Result<Vec<(u64, Vec<String>)>, String> {
        let rows = Rows::new(Cursor::new(bytes.to_vec()), Path::new("d.csv"), Format::Csv, TextUnit::Line);
        rows.map_err(|e| e.to_string())?
            .map(|row| row.map(|row| (row.line, row.fields.iter().map(|(_, v)| v.as_str().to_string()).collect())))
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_cases_of_the_standard() {
        let file = b"\xEF\xBB\xBFa,b\r\n\"x, \"\"y\"\"\",\r\n\r\n\"two\r\nlines\",5\" pipe\r\n\"\",z";
        let expected = [
            (2, vec!["x, \"y\"".to_string(), String::new()]),
            (4, vec!["two\r\nlines".to_string(), "5\" pipe".to_string()]),
            (6, vec![String::new(), "z".to_string()]),
        ];
        assert_eq!(read(file), Ok(expected.to_vec()));
    }

    #[test]
    fn errors_name_their_line() {
        for (file, message) in [
            ("", "d.csv: found an empty file"),
            ("\n\n", "d.csv: found an empty file"),
            ("a,a\n", "d.csv:1: found two columns named `a`"),
            ("a,b\n1,2\n3\n", "d.csv:3: found a row of 1 field, expected 2, as in the header (`a`, `b`)"),
            ("a,b\n1,2,3\n", "d.csv:2: found a row of 3 fields"),
            ("a,b\n1,\"2\n3,4\n", "d.csv:2: found a quote that is never closed"),
            ("a,b\n1,\"x\ny\"z\n", "d.csv:3: found `z` after a closing quote"),
            ("a,b\r1,2\r", "d.csv:1: found a carriage return without a line feed"),
        ] {
            let error = read(file.as_bytes()).expect_err(file);
            assert!(error.starts_with(message), "{file:?}: {error}");
        }
    }

    proptest! {
        /// The `csv` crate writes, we read.
        #[test]
        fn what_another_writer_wrote_is_read(rows in prop::collection::vec(prop::collection::vec("[a\", \r\n;é]{0,6}", 3), 0..8)) {
            let mut writer = csv::WriterBuilder::new().quote_style(csv::QuoteStyle::NonNumeric).from_writer(Vec::new());
            writer.write_record(["a", "b", "c"]).map_err(|e| TestCaseError::fail(e.to_string()))?;
            for row in &rows {
                writer.write_record(row).map_err(|e| TestCaseError::fail(e.to_string()))?;
            }
            let bytes = writer.into_inner().map_err(|e| TestCaseError::fail(e.to_string()))?;
            let ours = read(&bytes).map_err(TestCaseError::fail)?;
            prop_assert_eq!(ours.into_iter().map(|(_, fields)| fields).collect::<Vec<_>>(), rows);
        }

        /// Where we accept a file, another reader of the standard sees the same fields.
        #[test]
        fn another_reader_agrees(tail in "[a\",\n]{0,24}") {
            let file = format!("h,i\n{tail}");
            if let Ok(ours) = read(file.as_bytes()) {
                let theirs: Vec<Vec<String>> = csv::ReaderBuilder::new()
                    .flexible(true)
                    .from_reader(file.as_bytes())
                    .records()
                    .map(|record| record.map(|r| r.iter().map(str::to_string).collect()))
                    .collect::<Result<_, _>>()
                    .map_err(|e| TestCaseError::fail(e.to_string()))?;
                prop_assert_eq!(ours.into_iter().map(|(_, fields)| fields).collect::<Vec<_>>(), theirs);
            }
        }
    }
}
