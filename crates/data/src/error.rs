//! What can go wrong with data, each with its place and what to do about it.

use std::path::PathBuf;

/// An error in a data file, a tokenizer, or in what is asked of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused to read or write a file.
    #[error("{}: cannot {action}: {source}; {help}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: "open the data file", say.
        action: &'static str,
        /// What the system answered.
        source: std::io::Error,
        /// What to do about it.
        help: String,
    },
    /// A file's name does not say how it is to be read.
    #[error(
        "{}: the file name does not say its format; expected one of the extensions {known}, \
         or say format = \"csv\", \"tsv\", \"jsonl\" or \"text\"",
        path.display()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// The extensions that are understood.
        known: String,
    },
    /// A line of a data file is not what its format asks for.
    #[error("{}:{line}: found {found}, expected {expected}; {help}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
        /// What to do about it.
        help: String,
    },
    /// A file holds no row at all.
    #[error("{}: found {found}, expected at least one row; {help}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What is there: "an empty file", "only a header".
        found: &'static str,
        /// What to do about it.
        help: &'static str,
    },
    /// A column that was asked for is not there.
    #[error("{}:{line}: found no column `{column}`{nearest}, expected one of: {available}; {help}", path.display())]
    UnknownColumn {
        /// The file.
        path: PathBuf,
        /// The line of the header, or of the row that lacks the column.
        line: u64,
        /// The column asked for.
        column: String,
        /// The columns there are, comma-separated.
        available: String,
        /// " (did you mean `text`?)", or nothing.
        nearest: String,
        /// What to do about it.
        help: &'static str,
    },
    /// Labels that the training data does not have.
    #[error("{}", unknown_labels(path, places, *more, known))]
    UnknownLabels {
        /// The file.
        path: PathBuf,
        /// The first few: line, label, and " (did you mean ...?)" or nothing.
        places: Vec<(u64, String, String)>,
        /// How many more rows have an unknown label.
        more: usize,
        /// The labels of the training data.
        known: String,
    },
    /// Labels from which nothing can be learned.
    #[error("{}: found {found}, expected at least two different labels; {help}", path.display())]
    TooFewLabels {
        /// The file.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What to do about it.
        help: &'static str,
    },
    /// A tokenizer that cannot be loaded.
    #[error("{}: found {found}, expected {expected}; {help}", path.display())]
    Tokenizer {
        /// The file or folder.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
        /// What to do about it.
        help: &'static str,
    },
    /// A tokenizer lacks a special token that is needed.
    #[error(
        "{}: the tokenizer has no {which} token, expected {usual} in its vocabulary or `{which}_token` in \
         tokenizer_config.json; add it there, or choose a model that has one",
        path.display()
    )]
    NoSpecialToken {
        /// The tokenizer's folder.
        path: PathBuf,
        /// "mask", say.
        which: &'static str,
        /// How it is usually written.
        usual: &'static str,
    },
    /// A text that could not be tokenized.
    #[error("{}:{line}: the tokenizer refused the text: {reason}; check the tokenizer's files", path.display())]
    Tokenize {
        /// The data file.
        path: PathBuf,
        /// The line.
        line: u64,
        /// The tokenizer's words.
        reason: String,
    },
    /// Texts longer than allowed, where the recipe says that this is an error.
    #[error(
        "{}:{line}: found a text of {length} tokens ({count} texts in this file are too long), expected at most \
         {max_length}; shorten them, raise max_length, or say overlong = \"truncate\" or \"drop\"",
        path.display()
    )]
    Overlong {
        /// The data file.
        path: PathBuf,
        /// The line of the first.
        line: u64,
        /// The tokens of the first.
        length: usize,
        /// What is allowed.
        max_length: usize,
        /// How many are too long.
        count: usize,
    },
    /// A value that the request cannot be met with.
    #[error("{what}: found {found}, expected {expected}; {help}")]
    Request {
        /// The value's name.
        what: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: String,
        /// What to do about it.
        help: &'static str,
    },
    /// A corpus that does not keep the promises of its type.
    #[error("corpus: {0}; this is a fault of the program that built it")]
    Corpus(String),
}

/// The crate's result.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

fn unknown_labels(path: &std::path::Path, places: &[(u64, String, String)], more: usize, known: &str) -> String {
    let mut text = String::new();
    for (line, label, nearest) in places {
        text.push_str(&format!("{}:{line}: found label `{label}`{nearest}\n", path.display()));
    }
    if more > 0 {
        text.push_str(&format!("and {more} more such rows\n"));
    }
    text.push_str(&format!(
        "expected a label of the training data: {known}; correct these rows, or add examples of them to the training data"
    ));
    text
}
