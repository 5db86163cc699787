//! Lines of a file that claims to be UTF-8 text: counted, checked, and never larger than a limit.

use crate::error::{DataError, Result};
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

/// The most bytes that one row may have. A row is held in memory whole; what is larger is a quote that was never
/// closed, or not a table of texts.
pub const MAX_ROW_BYTES: usize = 64 << 20;

/// The lines of a reader, one at a time.
pub struct Lines {
    reader: Box<dyn BufRead + Send>,
    path: PathBuf,
    /// The line last returned, counted from 1.
    line: u64,
    /// The bytes before the line last returned.
    offset: u64,
    buffer: Vec<u8>,
    limit: usize,
}

impl Lines {
    /// Lines of `reader`; `path` is what messages call it.
    pub fn new(reader: impl BufRead + Send + 'static, path: &Path) -> Lines {
        let (reader, path) = (Box::new(reader), path.to_path_buf());
        Lines { reader, path, line: 0, offset: 0, buffer: Vec::new(), limit: MAX_ROW_BYTES }
    }

    /// The same with another limit on a row's bytes.
    #[cfg(test)]
    pub(crate) fn with_limit(mut self, limit: usize) -> Lines {
        self.limit = limit;
        self
    }

    /// What messages call the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the line last returned, from 1; 0 before the first.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The most bytes of a row.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The next line without its end (LF or CRLF).
    pub fn next_line(&mut self) -> Result<Option<&str>> {
        Ok(self.next_with_end()?.map(|line| line.strip_suffix('\n').unwrap_or(line)).map(strip_carriage_return))
    }

    /// The next line with the end it has in the file.
    pub fn next_with_end(&mut self) -> Result<Option<&str>> {
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        let limited = &mut (&mut self.reader).take(self.limit as u64 + 1);
        limited.read_until(b'\n', &mut self.buffer).map_err(|source| {
            let help = "check that the file can be read to its end".to_string();
            DataError::Io { path: self.path.clone(), action: "read the data", source, help }
        })?;
        if self.buffer.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        if self.buffer.len() > self.limit {
            return Err(self.too_large());
        }
        let mut start = 0;
        if self.line == 1 {
            if let Some(what) = not_text(&self.buffer) {
                return Err(self.malformed(what.to_string(), "UTF-8 text", "convert the file to UTF-8 text"));
            }
            if self.buffer.starts_with(b"\xEF\xBB\xBF") {
                start = 3;
            }
        }
        if let Some(at) = self.buffer.iter().position(|&byte| byte == 0) {
            let found = format!("a NUL byte at byte {} of the file", self.offset + at as u64);
            return Err(self.malformed(found, "text", "the file is binary, damaged, or UTF-16: convert it to UTF-8"));
        }
        if let Err(error) = std::str::from_utf8(&self.buffer[start..]) {
            let at = start + error.valid_up_to();
            let found = format!("byte 0x{:02X} at byte {} of the file", self.buffer[at], self.offset + at as u64);
            let help = "the file is in another encoding (Windows-1252 or Latin-1, most often) or cut inside a letter: \
                        convert it to UTF-8";
            return Err(self.malformed(found, "valid UTF-8", help));
        }
        // The borrow cannot leave the branch above, so it is taken anew; checking twice costs little next to reading.
        Ok(Some(std::str::from_utf8(&self.buffer[start..]).expect("checked just above")))
    }

    /// The error for a row that is over the limit.
    pub fn too_large(&self) -> DataError {
        let found = format!("a row of more than {} bytes", self.limit);
        let help = "a quote that is never closed, or lines that do not end, make such rows: split or repair the file";
        self.malformed(found, "rows that fit in memory", help)
    }

    /// An error at the line last returned.
    pub fn malformed(&self, found: impl Into<String>, expected: &str, help: &str) -> DataError {
        self.malformed_at(self.line, found, expected, help)
    }

    /// An error at a line.
    pub fn malformed_at(&self, line: u64, found: impl Into<String>, expected: &str, help: &str) -> DataError {
        let (path, found) = (self.path.clone(), found.into());
        DataError::Malformed { path, line, found, expected: expected.to_string(), help: help.to_string() }
    }
}

fn strip_carriage_return(line: &str) -> &str {
    line.strip_suffix('\r').unwrap_or(line)
}

/// What a file is whose first bytes say that it is not UTF-8 text.
fn not_text(head: &[u8]) -> Option<&'static str> {
    const SIGNS: [(&[u8], &str); 10] = [
        (b"\xFF\xFE\0\0", "UTF-32 text (little-endian byte order mark)"),
        (b"\0\0\xFE\xFF", "UTF-32 text (big-endian byte order mark)"),
        (b"\xFF\xFE", "UTF-16 text (little-endian byte order mark)"),
        (b"\xFE\xFF", "UTF-16 text (big-endian byte order mark)"),
        (b"\x1F\x8B", "a gzip file"),
        (b"PK\x03\x04", "a zip file (an Excel workbook is one too)"),
        (b"PAR1", "a Parquet file"),
        (b"ARROW1", "an Arrow file"),
        (b"\x28\xB5\x2F\xFD", "a Zstandard file"),
        (b"%PDF-", "a PDF"),
    ];
    SIGNS.iter().find(|(sign, _)| head.starts_with(sign)).map(|(_, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &'static [u8]) -> Lines {
        Lines::new(bytes, Path::new("data.txt"))
    }

    fn error(bytes: &'static [u8]) -> String {
        let mut lines = lines(bytes);
        loop {
            match lines.next_line() {
                Ok(Some(_)) => {}
                Ok(None) => return "no error".to_string(),
                Err(error) => return error.to_string(),
            }
        }
    }

    #[test]
    fn ends_and_marks_are_taken_off() -> Result<()> {
        let mut lines = lines(b"\xEF\xBB\xBFone\r\n\ntwo\rthree");
        assert_eq!(lines.next_line()?, Some("one"));
        assert_eq!(lines.next_line()?, Some(""));
        assert_eq!(lines.next_line()?, Some("two\rthree"));
        assert_eq!(lines.next_line()?, None);
        assert_eq!(lines.line(), 3);
        Ok(())
    }

    #[test]
    fn wrong_encodings_are_named_with_their_place() {
        assert!(error(b"good\ncaf\xE9 au lait\n").starts_with("data.txt:2: found byte 0xE9 at byte 8 of the file"));
        assert!(error(b"\xFF\xFEa\0b\0\n\0").contains("UTF-16 text (little-endian"));
        assert!(error(b"one\n\0\n").contains("data.txt:2: found a NUL byte at byte 4"));
        assert!(error(b"\x1F\x8B\x08").contains("gzip"));
        assert!(error(b"ends inside \xE2\x82").contains("byte 0xE2 at byte 12"));
    }

    #[test]
    fn a_line_over_the_limit_is_an_error() {
        let mut lines = lines(b"12345\n1234567\n").with_limit(7);
        assert!(matches!(lines.next_line(), Ok(Some("12345"))));
        let message = lines.next_line().map(|_| ()).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("data.txt:2: found a row of more than 7 bytes"), "{message}");
    }
}
