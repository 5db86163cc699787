//! `luthier predict`.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use luthier_data::{Columns, Example, Format, Rows, TextUnit};
use luthier_train::TrainError;
use luthier_train::opened::Run;
use serde_json::json;

use crate::answers::{Answer, Style, Writer, added};
use crate::args::Predict;
use crate::failure::Wrong;
use crate::render::number::{counted, duration};
use crate::screen::Screen;
use crate::stream::{answer, not_taken};

/// What messages call standard input.
const STANDARD_INPUT: &str = "standard input";

/// Answers the rows of a file or of standard input.
pub(crate) fn predict(arguments: &Predict, screen: Screen) -> Result<()> {
    let start = Instant::now();
    let run = Run::open(&arguments.run)?;
    if run.labels().is_none() {
        let kind = run.stage().objective.kind();
        return Err(Wrong(format!(
            "{}: found a last stage of the objective {kind}, expected a classifier; only classifiers predict",
            arguments.run.display()
        ))
        .into());
    }
    let (rows, format) = open(arguments)?;
    let columns = columns(&run, format);
    rows.check(&columns).map_err(TrainError::from)?;
    let header: Vec<String> = rows.header().unwrap_or_default().iter().map(|name| name.to_string()).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let source = rows.path().to_owned();
    not_taken(header.iter().copied(), added(arguments.logits), &|| format!("{}:1", source.display()))?;
    let cut = Cell::new(0);
    let mut ask = |examples: &[Example]| -> Result<Vec<Answer>> {
        let (predictions, more) = run.predict(examples, &source)?;
        cut.set(cut.get() + more);
        let answers = predictions.into_iter();
        Ok(answers.map(|p| Answer { label: p.label, probability: p.probability, logits: p.logits }).collect())
    };
    let labels = run.labels().filter(|_| arguments.logits).map(|labels| labels.names().to_vec());

    let Some(path) = &arguments.out else {
        let style = if screen.json { Style::List } else { Style::of(format) };
        let mut out = Writer::new(BufWriter::new(io::stdout()), style, &header, labels)?;
        let answered = answer(rows, &columns, &mut out, &mut ask);
        // What was answered before an error stands, in a list that is closed.
        out.finish()?;
        say_cut(cut.get(), &source);
        return answered;
    };
    let style = style_of(path, format)?;
    let aside = aside(path);
    let file = File::create(&aside).map_err(|error| cannot_write(&aside, &error))?;
    let mut out = Writer::new(BufWriter::new(file), style, &header, labels)?;
    if let Err(error) = answer(rows, &columns, &mut out, &mut ask) {
        // Half a file under its own name would look like a whole one.
        let _ = std::fs::remove_file(&aside);
        return Err(error);
    }
    say_cut(cut.get(), &source);
    let (file, count) = out.finish()?;
    file.get_ref()
        .sync_all()
        .and_then(|()| std::fs::rename(&aside, path))
        .map_err(|error| cannot_write(path, &error))?;
    if screen.json {
        return screen.document(&json!({"rows": count, "out": path}));
    }
    let took = duration(start.elapsed().as_secs_f64());
    screen.say(&format!("{} answered in {took}: {}", counted(count, "row"), path.display()));
    Ok(())
}

/// Says how many texts were cut, where it does not get between the answers.
fn say_cut(texts: usize, source: &Path) {
    if texts > 0 {
        let texts = counted(texts as u64, "text");
        let _ = writeln!(
            io::stderr(),
            "warning: {texts} of {} cut to the length that the run was trained at",
            source.display()
        );
    }
}

/// The input and its format.
fn open(arguments: &Predict) -> Result<(Rows, Format)> {
    let said = arguments.format.map(Format::from);
    if let Some(path) = &arguments.input {
        let format = said.map_or_else(|| Format::of(path), Ok).map_err(TrainError::from)?;
        let rows = Rows::open(path, Some(format), TextUnit::Line).map_err(TrainError::from)?;
        return Ok((rows, format));
    }
    let mut input = BufReader::new(io::stdin());
    let format = match said {
        Some(format) => format,
        None => by_beginning(input.fill_buf()?),
    };
    let rows = Rows::new(input, Path::new(STANDARD_INPUT), format, TextUnit::Line).map_err(TrainError::from)?;
    Ok((rows, format))
}

/// JSON lines begin with a brace; a CSV header does not.
fn by_beginning(bytes: &[u8]) -> Format {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    match bytes.trim_ascii_start().first() {
        Some(b'{') => Format::Jsonl,
        _ => Format::Csv,
    }
}

/// The columns of the recipe; plain text has one, whatever the recipe calls it.
fn columns(run: &Run, format: Format) -> Columns {
    let data = &run.stage().data;
    let text = if format == Format::Text { "text".to_owned() } else { data.text.clone() };
    Columns { text, pair: data.pair.clone(), label: None }
}

/// The style of an output file: that of the input, which its name must not deny.
fn style_of(path: &Path, format: Format) -> Result<Style> {
    let style = Style::of(format);
    match Format::of(path).map(Style::of) {
        Ok(named) if named != style => Err(Wrong(format!(
            "{}: the answers to {} are written in {}; give the file a name that says so",
            path.display(),
            format.name(),
            name(style)
        ))
        .into()),
        _ => Ok(style),
    }
}

fn name(style: Style) -> &'static str {
    match style {
        Style::Csv => "CSV (.csv)",
        Style::Tsv => "TSV (.tsv)",
        Style::Lines => "JSON lines (.jsonl)",
        Style::List => "JSON",
    }
}

/// Where a file is written until it is complete; the input may have the same name.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".writing");
    PathBuf::from(name)
}

fn cannot_write(path: &Path, error: &io::Error) -> anyhow::Error {
    anyhow::anyhow!("{}: cannot write the answers: {error}; check the folder and its free space", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_input_says_its_format() {
        assert_eq!(by_beginning(b"\xEF\xBB\xBF \n{\"text\""), Format::Jsonl);
        assert_eq!([&b"text,label"[..], b"", b"\"{\",b"].map(by_beginning), [Format::Csv; 3]);
    }

    #[test]
    fn a_name_must_not_deny_the_format() {
        let style = |path: &str, format| style_of(Path::new(path), format).map_err(|error| error.to_string());
        assert_eq!(style("a.csv", Format::Csv), Ok(Style::Csv));
        assert_eq!(style("a.out", Format::Jsonl), Ok(Style::Lines));
        assert_eq!(style("a.jsonl", Format::Text), Ok(Style::Lines));
        let error = style("a.jsonl", Format::Csv).expect_err("another format");
        assert!(error.starts_with("a.jsonl: the answers to csv are written in CSV"), "{error}");
    }
}
