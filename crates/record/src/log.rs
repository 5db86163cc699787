//! `events.jsonl`: written line by line, read back by reports and resumed runs.
//!
//! A killed process leaves at most the last line unfinished, for each is written whole by one call. Reading leaves
//! such a rest out and says so; any other line that is not an event is an error.
use crate::{Line, RecordError};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// The events of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Events {
    /// The whole lines, in order.
    pub lines: Vec<Line>,
    /// The unfinished rest behind them, if there is one.
    pub torn: Option<Torn>,
    /// How many bytes the whole lines take: the file's length without the torn rest.
    pub whole_bytes: u64,
}

/// The unfinished last line of a file whose writer was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Torn {
    /// Its number, counted from 1.
    pub line: u64,
    /// Its length.
    pub bytes: u64,
}

/// Reads the events of a file.
///
/// # Errors
/// When the file cannot be read, or a line before its last newline is not an event.
pub fn read_events(path: &Path) -> Result<Events, RecordError> {
    let file = File::open(path).map_err(|source| RecordError::Io { action: "read", path: path.to_owned(), source })?;
    parse_events(BufReader::new(file), path)
}

/// Reads events; `path` is what errors call the source.
///
/// # Errors
/// As [`read_events`].
pub fn parse_events(mut source: impl BufRead, path: &Path) -> Result<Events, RecordError> {
    let mut events = Events::default();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let bytes = source.read_until(b'\n', &mut text).map_err(|source| RecordError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        if bytes == 0 {
            break;
        }
        if text.last() != Some(&b'\n') {
            events.torn = Some(Torn { line, bytes: bytes as u64 });
            break;
        }
        events.lines.push(serde_json::from_slice(&text).map_err(|source| RecordError::Line {
            path: path.to_owned(),
            line,
            found: beginning(&text),
            source,
        })?);
        events.whole_bytes += bytes as u64;
    }
    Ok(events)
}

/// The first characters of a line, for an error.
fn beginning(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(&line[..line.len().min(160)]);
    let text = text.trim_end();
    let short: String = text.chars().take(40).collect();
    match () {
        () if text.is_empty() => "an empty line".to_owned(),
        () if short.len() < text.len() => format!("{short:?}..."),
        () => format!("{short:?}"),
    }
}

/// An event file that grows.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    file: File,
    /// The bytes of all whole lines.
    length: u64,
}

impl EventLog {
    /// Opens a file to append to, making it if it is not there, and returns what it holds already.
    /// A torn last line is cut off, so that the next one begins at the beginning of a line.
    ///
    /// # Errors
    /// As [`read_events`], and when the file cannot be written.
    pub fn open(path: &Path) -> Result<(EventLog, Events), RecordError> {
        let fail = |source| RecordError::Io { action: "append to", path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(fail)?;
        let events = parse_events(BufReader::new(&file), path)?;
        if events.torn.is_some() {
            file.set_len(events.whole_bytes).map_err(fail)?;
        }
        Ok((EventLog { path: path.to_owned(), file, length: events.whole_bytes }, events))
    }

    /// Appends one line, by one write.
    ///
    /// # Errors
    /// When the file cannot be written: a full disk, say.
    pub fn append(&mut self, line: &Line) -> Result<(), RecordError> {
        let path = || self.path.clone();
        let mut text = serde_json::to_vec(line).map_err(|source| RecordError::Json {
            path: path(),
            expected: "an event that can be written",
            source,
        })?;
        text.push(b'\n');
        if let Err(source) = self.file.write_all(&text) {
            // The part that fitted must not become the beginning of the next line. Should this fail as well, the error
            // below says what matters, and the reader treats the rest as torn.
            let _ = self.file.set_len(self.length);
            return Err(RecordError::Io { action: "append to", path: path(), source });
        }
        self.length += text.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Event;

    fn line(step: u64) -> Line {
        Line { time: step as f64 / 4.0, event: Event::Resumed { stage: "größer".into(), step } }
    }

    fn text(lines: &[Line]) -> Vec<u8> {
        lines
            .iter()
            .flat_map(|line| serde_json::to_string(line).expect("JSON").into_bytes().into_iter().chain([b'\n']))
            .collect()
    }

    fn parse(text: &[u8]) -> Result<Events, RecordError> {
        parse_events(text, Path::new("runs/a/events.jsonl"))
    }

    /// Wherever the file is cut, the whole lines are read, the rest is counted, and nothing fails.
    #[test]
    fn a_file_cut_anywhere_reads_up_to_the_cut() {
        let lines = [line(1), line(2), line(3)];
        let whole = text(&lines);
        for cut in 0..=whole.len() {
            let events = parse(&whole[..cut]).expect("a cut file is no error");
            let newlines = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(events.lines, lines[..newlines], "cut at {cut}");
            let rest = cut as u64 - events.whole_bytes;
            assert_eq!(
                events.torn,
                (rest > 0).then_some(Torn { line: newlines as u64 + 1, bytes: rest }),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn any_other_broken_line_is_an_error_with_its_number() {
        let good = text(&[line(1)]);
        for (broken, found) in [
            (&b"{\"time\":1.0,\"event\":\"resu\n"[..], r#""{\"time\":1.0,\"event\":\"resu""#),
            (b"\n", "an empty line"),
            (b"\xff\xfe\n", "\"\u{fffd}\u{fffd}\""),
            (
                b"{\"time\":1.0,\"event\":\"resumed\",\"stage\":\"a\",\"step\":-1}\n",
                r#""{\"time\":1.0,\"event\":\"resumed\",\"stage\":\"a"..."#,
            ),
        ] {
            let error = parse(&[&good[..], broken, &good[..]].concat()).expect_err("a broken line").to_string();
            let expected = format!("runs/a/events.jsonl:2: expected one event in JSON, found {found}: ");
            assert!(error.starts_with(&expected), "{error}\n{expected}");
        }
    }

    #[test]
    fn a_log_goes_on_where_the_torn_line_began() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("events.jsonl");
        let (mut log, before) = EventLog::open(&path).expect("a new file");
        assert_eq!(before, Events::default());
        log.append(&line(1)).expect("writes");
        log.append(&line(2)).expect("writes");
        drop(log);

        let whole = std::fs::read(&path).expect("reads");
        assert_eq!(whole, text(&[line(1), line(2)]));
        std::fs::write(&path, &whole[..whole.len() - 5]).expect("tears");
        let (mut log, before) = EventLog::open(&path).expect("a torn file");
        assert_eq!((before.lines, before.torn.map(|torn| torn.line)), (vec![line(1)], Some(2)));
        log.append(&line(3)).expect("writes");
        assert_eq!(read_events(&path).expect("reads").lines, [line(1), line(3)]);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read_events(Path::new("no/such/events.jsonl")).expect_err("no file").to_string();
        assert!(error.starts_with("cannot read no/such/events.jsonl: "), "{error}");
    }
}
