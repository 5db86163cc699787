//! What can be wrong with the files of a run directory.
use std::path::PathBuf;

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system refused.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried: `read`, `append to`, ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A whole line of an event file is not an event.
    #[error(
        "{path}:{line}: expected one event in JSON, found {found}: {reason}; \
         the file was changed after it was written, or written by another version of Luthier",
        path = path.display(), reason = without_place(.source)
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// The beginning of the line.
        found: String,
        /// What the JSON reader says.
        source: serde_json::Error,
    },
    /// A JSON file does not hold what it should.
    #[error("{path}: expected {expected} in JSON: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What the JSON reader says.
        source: serde_json::Error,
    },
}

/// The JSON reader's message without its own line number, which is always 1 for a file that is read line by line.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(message, _)| message.to_owned())
}
