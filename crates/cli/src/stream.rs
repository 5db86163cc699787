//! Rows through a predictor, in their order and in constant memory: they are read ahead on a thread of their own, up to a
//! bound, and answered as many at a time as have come.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::Result;
use luthier_data::read::example;
use luthier_data::{Columns, DataError, Example, Row, Rows};
use luthier_train::TrainError;

use crate::answers::{Answer, Writer};
use crate::failure::Wrong;

/// How many rows are answered at a time, at most, and how many are read ahead.
const CHUNK: usize = 512;

/// What answers texts.
pub(crate) type Predict<'a> = dyn FnMut(&[Example]) -> Result<Vec<Answer>> + 'a;

/// Answers all rows; what was answered before an error is written.
///
/// # Errors
/// A row that cannot be read or used, a predictor that fails, an output that refuses.
pub(crate) fn answer(
    rows: Rows,
    columns: &Columns,
    out: &mut Writer<impl Write>,
    predict: &mut Predict<'_>,
) -> Result<()> {
    let path = rows.path().to_owned();
    let added = out.added();
    let (send, receive) = sync_channel(CHUNK);
    std::thread::spawn(move || {
        for row in rows {
            if send.send(row).is_err() {
                break;
            }
        }
    });
    while let Some((chunk, stop)) = next(&receive, columns, &path, added) {
        let (rows, examples): (Vec<Row>, Vec<Example>) = chunk.into_iter().unzip();
        if !examples.is_empty() {
            let answers = predict(&examples)?;
            for (row, answer) in rows.iter().zip(&answers) {
                out.row(row, answer)?;
            }
            // Whoever feeds us row by row is waiting for this one.
            out.flush()?;
        }
        if let Some(error) = stop {
            return Err(error);
        }
    }
    Ok(())
}

/// The rows at hand, at least one, and the error behind them if there is one. `None` at the end.
#[allow(clippy::type_complexity)]
fn next(
    receive: &Receiver<Result<Row, DataError>>,
    columns: &Columns,
    path: &Path,
    added: &[&str],
) -> Option<(Vec<(Row, Example)>, Option<anyhow::Error>)> {
    let mut chunk = Vec::new();
    let mut came = receive.recv().ok();
    came.as_ref()?;
    while let Some(row) = came {
        match row.map_err(|error| TrainError::from(error).into()).and_then(|row| usable(row, columns, path, added)) {
            Ok(pair) => chunk.push(pair),
            Err(error) => return Some((chunk, Some(error))),
        }
        came = if chunk.len() < CHUNK { receive.try_recv().ok() } else { None };
    }
    Some((chunk, None))
}

fn usable(row: Row, columns: &Columns, path: &Path, added: &[&str]) -> Result<(Row, Example)> {
    let example = example(&row, columns, path).map_err(TrainError::from)?;
    let place = || format!("{}:{}", path.display(), row.line);
    not_taken(row.fields.iter().map(|(name, _)| &**name), added, &place)?;
    Ok((row, example))
}

/// The columns that are added must not be there already.
pub(crate) fn not_taken<'a>(
    mut names: impl Iterator<Item = &'a str>,
    added: &[&str],
    place: &dyn Fn() -> String,
) -> Result<()> {
    match names.find(|name| added.contains(name)) {
        None => Ok(()),
        Some(name) => Err(Wrong(format!(
            "{}: found a column `{name}`, which is what the answer is to be called; rename it or take it out",
            place()
        ))
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::Style;
    use luthier_data::{Format, TextUnit};
    use std::io::{BufRead, BufReader, BufWriter, Cursor};
    use std::os::unix::net::UnixStream;

    fn columns() -> Columns {
        Columns { text: "text".into(), pair: None, label: None }
    }

    fn rows(reader: impl BufRead + Send + 'static, format: Format) -> Rows {
        Rows::new(reader, Path::new("d"), format, TextUnit::Line).expect("a header")
    }

    /// Answers a text with itself.
    fn echo(examples: &[Example]) -> Result<Vec<Answer>> {
        Ok(examples
            .iter()
            .map(|example| Answer { label: example.text.clone(), probability: 0.5, logits: Vec::new() })
            .collect())
    }

    #[test]
    fn order_is_kept_and_chunks_are_bounded() {
        let n = 20_000;
        let input: String = (0..n).map(|i| format!("{i}\n")).collect();
        let mut out = Writer::new(Vec::new(), Style::Lines, &[], None).expect("room");
        let mut largest = 0;
        let mut predict = |examples: &[Example]| {
            largest = largest.max(examples.len());
            echo(examples)
        };
        answer(rows(Cursor::new(input), Format::Text), &columns(), &mut out, &mut predict).expect("answers");
        let (text, count) = out.finish().expect("room");
        let text = String::from_utf8(text).expect("UTF-8");
        let expected: String =
            (0..n).map(|i| format!("{{\"text\":\"{i}\",\"prediction\":\"{i}\",\"probability\":0.5}}\n")).collect();
        assert!(count == n && text == expected);
        assert!((2..=CHUNK).contains(&largest), "{largest}");
    }

    /// A row is answered before the next one comes, and before the input ends. Without the flush above it fails.
    #[test]
    fn nobody_waits_for_an_answer() {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let (input, mut feed) = UnixStream::pair().expect("sockets");
        let thread = std::thread::spawn(move || {
            let mut out = Writer::new(BufWriter::new(theirs), Style::Lines, &[], None).expect("room");
            let rows = rows(BufReader::new(input), Format::Jsonl);
            answer(rows, &columns(), &mut out, &mut echo).expect("answers");
        });
        ours.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a timeout");
        let mut answers = BufReader::new(ours).lines();
        for text in ["one", "two"] {
            writeln!(feed, "{{\"text\":\"{text}\"}}").expect("room");
            let line = answers.next().expect("an answer").expect("in time");
            assert!(line.contains(&format!("\"prediction\":\"{text}\"")), "{line}");
        }
        drop(feed);
        thread.join().expect("no panic");
    }

    #[test]
    fn what_came_before_a_wrong_row_is_answered() {
        let input = "{\"text\":\"a\"}\n{\"text\":\"b\"}\n{\"txt\":\"c\"}\n{\"text\":\"d\"}\n";
        let mut out = Writer::new(Vec::new(), Style::Lines, &[], None).expect("room");
        let error = answer(rows(Cursor::new(input), Format::Jsonl), &columns(), &mut out, &mut echo)
            .expect_err("a row without a text");
        assert!(error.to_string().contains("d:3") && error.to_string().contains("did you mean"), "{error}");
        assert_eq!(out.finish().expect("room").1, 2);
    }

    #[test]
    fn a_column_that_is_taken_is_an_error() {
        let input = "{\"text\":\"a\",\"probability\":1}\n";
        let mut out = Writer::new(Vec::new(), Style::Lines, &[], None).expect("room");
        let error = answer(rows(Cursor::new(input), Format::Jsonl), &columns(), &mut out, &mut echo)
            .expect_err("a column that is taken");
        assert!(error.is::<Wrong>() && error.to_string().starts_with("d:1: found a column `probability`"), "{error}");
    }
}
