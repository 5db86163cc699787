//! Rows from data files: CSV, TSV, JSON lines and plain text behind one iterator.
//!
//! [`Rows`] streams rows with every column they have, so that predictions can be written next to what they were made
//! from; [`read_examples`] and [`read_documents`] collect what training needs of them.
//! Another format is one file here and one line in [`FORMATS`] (and its name in [`Format`]).

mod csv;
mod jsonl;
pub mod lines;
mod row;
mod text;
mod tsv;

use crate::error::{DataError, Result};
use crate::nearest::{did_you_mean, listed, nearest};
use lines::Lines;
pub use row::{Row, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
pub use text::TextUnit;

/// How a data file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Comma-separated values with a header (RFC 4180): quotes, commas and line breaks inside quotes.
    Csv,
    /// Tab-separated values with a header and no quoting, as the files of GLUE are.
    Tsv,
    /// One JSON object a line.
    Jsonl,
    /// Plain text without columns: a text a line, or paragraphs between blank lines.
    Text,
}

/// What reads the rows of one format.
pub(crate) trait Parse: Send {
    /// The next row.
    fn row(&mut self, lines: &mut Lines) -> Result<Option<Row>>;

    /// The columns that every row has, where the format has a header.
    fn header(&self) -> Option<&[Arc<str>]> {
        None
    }
}

/// One format: its name in a recipe, its file extensions, and what opens it (reading its header, if it has one).
pub struct FormatEntry {
    /// The format.
    pub format: Format,
    /// Its name in a recipe.
    pub name: &'static str,
    /// The file extensions that mean it, lower-case.
    pub extensions: &'static [&'static str],
    open: fn(&mut Lines, TextUnit) -> Result<Box<dyn Parse>>,
}

/// Every format.
pub const FORMATS: [FormatEntry; 4] = [
    FormatEntry { format: Format::Csv, name: "csv", extensions: &["csv"], open: csv::open },
    FormatEntry { format: Format::Tsv, name: "tsv", extensions: &["tsv", "tab"], open: tsv::open },
    FormatEntry { format: Format::Jsonl, name: "jsonl", extensions: &["jsonl", "ndjson"], open: jsonl::open },
    FormatEntry { format: Format::Text, name: "text", extensions: &["txt", "text"], open: text::open },
];

impl Format {
    /// The format that a file's extension means.
    pub fn of(path: &Path) -> Result<Format> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        FORMATS
            .iter()
            .find(|entry| entry.extensions.contains(&extension.as_str()))
            .map(|entry| entry.format)
            .ok_or_else(|| {
                let known = FORMATS.iter().flat_map(|entry| entry.extensions).map(|e| format!(".{e}"));
                DataError::UnknownFormat { path: path.to_path_buf(), known: known.collect::<Vec<_>>().join(", ") }
            })
    }

    fn entry(self) -> &'static FormatEntry {
        FORMATS.iter().find(|entry| entry.format == self).expect("every format is in the table")
    }

    /// Its name in a recipe.
    pub fn name(self) -> &'static str {
        self.entry().name
    }
}

/// Which columns mean what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// The text; of a pair, the first.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
    /// The label.
    pub label: Option<String>,
}

/// One text, or pair of texts, with its label and the line it starts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The text; of a pair, the first.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
    /// The label.
    pub label: Option<String>,
    /// The line of the file, from 1.
    pub line: u64,
}

/// A stream of rows; it ends after the first error.
pub struct Rows {
    lines: Lines,
    parser: Box<dyn Parse>,
    ended: bool,
}

impl Rows {
    /// Opens a file; the format is the one its extension means unless said.
    ///
    /// # Errors
    /// A file that is not there, a folder, a header that cannot be read.
    pub fn open(path: &Path, format: Option<Format>, unit: TextUnit) -> Result<Rows> {
        let io = |source: std::io::Error, help: String| DataError::Io {
            path: path.to_path_buf(),
            action: "open the data file",
            source,
            help,
        };
        let file = File::open(path).map_err(|source| {
            let help = missing_help(path, &source);
            io(source, help)
        })?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(io(std::io::ErrorKind::IsADirectory.into(), "name a file in it".to_string()));
        }
        let format = format.map_or_else(|| Format::of(path), Ok)?;
        Rows::new(BufReader::with_capacity(1 << 16, file), path, format, unit)
    }

    /// Reads from anything; `name` is what messages call it.
    pub fn new(reader: impl BufRead + Send + 'static, name: &Path, format: Format, unit: TextUnit) -> Result<Rows> {
        let mut lines = Lines::new(reader, name);
        let parser = (format.entry().open)(&mut lines, unit)?;
        Ok(Rows { lines, parser, ended: false })
    }

    /// The columns, where the format has a header.
    pub fn header(&self) -> Option<&[Arc<str>]> {
        self.parser.header()
    }

    /// What messages call the file.
    pub fn path(&self) -> &Path {
        self.lines.path()
    }

    /// Checks that the header has the columns; formats without a header are checked row by row.
    pub fn check(&self, columns: &Columns) -> Result<()> {
        let Some(header) = self.header() else { return Ok(()) };
        for column in [Some(&columns.text), columns.pair.as_ref(), columns.label.as_ref()].into_iter().flatten() {
            if !header.iter().any(|name| **name == **column) {
                return Err(unknown_column(self.path(), 1, column, header.iter().map(|name| &**name)));
            }
        }
        Ok(())
    }
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        if self.ended {
            return None;
        }
        let row = self.parser.row(&mut self.lines).transpose();
        self.ended = !matches!(row, Some(Ok(_)));
        row
    }
}

/// Takes from a row what training needs; `path` is what messages call the file.
///
/// # Errors
/// A column that the row lacks, a nested or absent value, an empty label. An empty text is no error.
pub fn example(row: &Row, columns: &Columns, path: &Path) -> Result<Example> {
    let text = row.text(&columns.text, path)?.to_string();
    let pair = columns.pair.as_ref().map(|column| row.text(column, path).map(str::to_string)).transpose()?;
    let label = columns.label.as_ref().map(|column| label(row, column, path)).transpose()?;
    Ok(Example { text, pair, label, line: row.line })
}

fn label(row: &Row, column: &str, path: &Path) -> Result<String> {
    let label = row.text(column, path)?;
    if label.trim().is_empty() {
        let (path, line) = (path.to_path_buf(), row.line);
        return Err(DataError::Malformed {
            path,
            line,
            found: format!("an empty label in column `{column}`"),
            expected: "a label in every row".to_string(),
            help: "label the row or take it out".to_string(),
        });
    }
    Ok(label.to_string())
}

/// Reads a whole file of labelled texts.
///
/// # Errors
/// Everything that [`Rows`] and [`example`] object to, and a file without a row.
pub fn read_examples(path: &Path, format: Option<Format>, columns: &Columns) -> Result<Vec<Example>> {
    let rows = Rows::open(path, format, TextUnit::Line)?;
    rows.check(columns)?;
    let examples: Vec<Example> = rows.map(|row| example(&row?, columns, path)).collect::<Result<_>>()?;
    not_empty(path, examples)
}

/// Reads a whole file of texts without labels: the lines or paragraphs of plain text, or one column of a table.
/// Blank lines of plain text separate and are not texts.
///
/// # Errors
/// As [`read_examples`].
pub fn read_documents(path: &Path, format: Option<Format>, column: &str, unit: TextUnit) -> Result<Vec<Example>> {
    let rows = Rows::open(path, format, unit)?;
    let plain = format.map_or_else(|| Format::of(path), Ok)? == Format::Text;
    let column = if plain { text::COLUMN } else { column };
    let columns = Columns { text: column.to_string(), pair: None, label: None };
    rows.check(&columns)?;
    let documents: Vec<Example> = rows
        .map(|row| example(&row?, &columns, path))
        .filter(|document| !plain || !matches!(document, Ok(document) if document.text.trim().is_empty()))
        .collect::<Result<_>>()?;
    not_empty(path, documents)
}

fn not_empty(path: &Path, examples: Vec<Example>) -> Result<Vec<Example>> {
    if examples.is_empty() {
        let (path, found, help) = (path.to_path_buf(), "no row", "name a file that has data");
        return Err(DataError::Empty { path, found, help });
    }
    Ok(examples)
}

/// The error for a column that is not there.
pub(crate) fn unknown_column<'a>(
    path: &Path,
    line: u64,
    column: &str,
    available: impl Iterator<Item = &'a str> + Clone,
) -> DataError {
    let only = available.clone().next().filter(|_| available.clone().count() == 1).unwrap_or_default();
    let help = match only {
        text::COLUMN => "plain text has no other column; name a CSV, TSV or JSON lines file",
        only if only.contains('\t') => "the header is separated by tabs: say format = \"tsv\"",
        only if only.contains(';') => "the header is separated by semicolons: write the file with commas or tabs",
        _ => "name one of these columns, or correct the file",
    };
    DataError::UnknownColumn {
        path: path.to_path_buf(),
        line,
        column: column.to_string(),
        nearest: did_you_mean(column, available.clone()),
        available: listed(available, 20),
        help,
    }
}

/// What to do about a file that does not open: the name of a neighbour that may have been meant.
fn missing_help(path: &Path, error: &std::io::Error) -> String {
    if error.kind() != std::io::ErrorKind::NotFound {
        return "check that you may read it".to_string();
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = std::fs::read_dir(folder) else {
        return format!("the folder `{}` is not there either", folder.display());
    };
    let mut names: Vec<String> =
        entries.flatten().take(10_000).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    match nearest(&name, names.iter().map(String::as_str)) {
        Some(found) => format!("did you mean `{found}` in the same folder?"),
        None => "check the path; a relative one starts at the folder of the recipe".to_string(),
    }
}
