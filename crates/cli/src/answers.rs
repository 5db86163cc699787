//! Rows with their answers, written in the format in which they came.

use std::io::{self, Write};

use luthier_data::{Format, Row};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// The answer to one text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// The label.
    pub(crate) label: String,
    /// How likely the model finds it.
    pub(crate) probability: f64,
    /// What the model says of each label, in the order of the labels.
    pub(crate) logits: Vec<f32>,
}

/// The columns that are added, the last one where it is asked for.
const ADDED: [&str; 3] = ["prediction", "probability", "logits"];

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Comma-separated.
    Csv,
    /// Tab-separated, without quotes.
    Tsv,
    /// A JSON object a line.
    Lines,
    /// One JSON list.
    List,
}

impl Style {
    /// The style for rows of a format; plain text has no columns and is answered in JSON lines.
    pub(crate) fn of(format: Format) -> Style {
        match format {
            Format::Csv => Style::Csv,
            Format::Tsv => Style::Tsv,
            Format::Jsonl | Format::Text => Style::Lines,
        }
    }
}

/// Writes answered rows.
#[derive(Debug)]
pub(crate) struct Writer<W: Write> {
    out: W,
    style: Style,
    labels: Option<Vec<String>>,
    rows: u64,
}

/// The columns that are added, with or without logits.
pub(crate) fn added(logits: bool) -> &'static [&'static str] {
    if logits { &ADDED } else { &ADDED[..2] }
}

impl<W: Write> Writer<W> {
    /// Begins the output: the header of a table, the opening of a list. Where logits are wanted, `labels` are their names.
    ///
    /// # Errors
    /// When `out` refuses.
    pub(crate) fn new(mut out: W, style: Style, header: &[&str], labels: Option<Vec<String>>) -> io::Result<Writer<W>> {
        let header = header.iter().chain(added(labels.is_some())).copied();
        match style {
            Style::Csv => out.write_all(&record(header)?)?,
            Style::Tsv => writeln!(out, "{}", header.collect::<Vec<_>>().join("\t"))?,
            Style::Lines => {}
            Style::List => out.write_all(b"[")?,
        }
        Ok(Writer { out, style, labels, rows: 0 })
    }

    /// The columns that are added.
    pub(crate) fn added(&self) -> &'static [&'static str] {
        added(self.labels.is_some())
    }

    /// Writes a row.
    ///
    /// # Errors
    /// When the output refuses.
    pub(crate) fn row(&mut self, row: &Row, answer: &Answer) -> io::Result<()> {
        let logits = self.labels.as_ref().map(|labels| Logits(labels, &answer.logits));
        let answered = Answered { row, label: &answer.label, probability: rounded(answer.probability), logits };
        let probability = answered.probability.to_string();
        let logits = answered.logits.as_ref().map(serde_json::to_string).transpose()?;
        let fields = row.fields.iter().map(|(_, value)| value.as_str());
        let fields = fields.chain([answer.label.as_str(), &probability]).chain(logits.as_deref());
        match self.style {
            Style::Csv => self.out.write_all(&record(fields)?)?,
            Style::Tsv => writeln!(self.out, "{}", fields.collect::<Vec<_>>().join("\t"))?,
            Style::Lines => writeln!(self.out, "{}", serde_json::to_string(&answered)?)?,
            Style::List => {
                let comma = if self.rows > 0 { "," } else { "" };
                write!(self.out, "{comma}\n{}", serde_json::to_string(&answered)?)?;
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// Hands on what was written so far.
    ///
    /// # Errors
    /// When the output refuses.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Ends the output; says how many rows there were.
    ///
    /// # Errors
    /// When the output refuses.
    pub(crate) fn finish(mut self) -> io::Result<(W, u64)> {
        if self.style == Style::List {
            self.out.write_all(b"\n]\n")?;
        }
        self.out.flush()?;
        Ok((self.out, self.rows))
    }
}

/// A record of CSV with its line end.
fn record<'a>(fields: impl Iterator<Item = &'a str>) -> io::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(fields)?;
    writer.into_inner().map_err(|error| io::Error::other(error.to_string()))
}

/// Six decimals: what an f32 can tell apart.
fn rounded(probability: f64) -> f64 {
    (probability * 1e6).round() / 1e6
}

/// A row as a JSON object: what was read, then what is added.
struct Answered<'a> {
    row: &'a Row,
    label: &'a str,
    probability: f64,
    logits: Option<Logits<'a>>,
}

/// Logits by label, as a JSON object in the order of the labels.
struct Logits<'a>(&'a [String], &'a [f32]);

impl Serialize for Logits<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().zip(self.1))
    }
}

impl Serialize for Answered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in &self.row.fields {
            map.serialize_entry(&**name, value)?;
        }
        map.serialize_entry(ADDED[0], self.label)?;
        map.serialize_entry(ADDED[1], &self.probability)?;
        if let Some(logits) = &self.logits {
            map.serialize_entry(ADDED[2], logits)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use luthier_data::{Rows, TextUnit};
    use std::io::Cursor;
    use std::path::Path;

    /// Reads rows and writes them with one answer.
    fn written(input: &str, format: Format, style: Style) -> String {
        written_with(input, format, style, None)
    }

    fn written_with(input: &str, format: Format, style: Style, labels: Option<Vec<String>>) -> String {
        let rows = Rows::new(Cursor::new(input.to_owned()), Path::new("d"), format, TextUnit::Line).expect("a header");
        let header: Vec<String> = rows.header().unwrap_or_default().iter().map(|name| name.to_string()).collect();
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let mut writer = Writer::new(Vec::new(), style, &header, labels).expect("room");
        let answer = Answer { label: "a, b".into(), probability: 0.123_456_78, logits: vec![0.1, -2.0] };
        rows.for_each(|row| writer.row(&row.expect("a row"), &answer).expect("room"));
        String::from_utf8(writer.finish().expect("room").0).expect("UTF-8")
    }

    #[test]
    fn csv_is_quoted_where_it_must_be() {
        let found = written("id,text\n1,\"x, \"\"y\"\"\nz\"\n", Format::Csv, Style::Csv);
        assert_eq!(found, "id,text,prediction,probability\n1,\"x, \"\"y\"\"\nz\",\"a, b\",0.123457\n");
        assert_eq!(written("id,text\n", Format::Csv, Style::Csv), "id,text,prediction,probability\n");
    }

    #[test]
    fn logits_stand_under_their_labels() {
        let labels = || Some(vec!["b".to_owned(), "a, b".to_owned()]);
        let found = written_with("{\"text\":\"x\"}\n", Format::Jsonl, Style::Lines, labels());
        assert!(found.ends_with("\"probability\":0.123457,\"logits\":{\"b\":0.1,\"a, b\":-2.0}}\n"), "{found}");
        let found = written_with("text\nx\n", Format::Csv, Style::Csv, labels());
        let quoted = "\"{\"\"b\"\":0.1,\"\"a, b\"\":-2.0}\"";
        assert_eq!(found, format!("text,prediction,probability,logits\nx,\"a, b\",0.123457,{quoted}\n"));
    }

    #[test]
    fn tables_by_tabs_have_no_quotes() {
        let found = written("id\ttext\n1\tsay \"y\"\n", Format::Tsv, Style::Tsv);
        assert_eq!(found, "id\ttext\tprediction\tprobability\n1\tsay \"y\"\ta, b\t0.123457\n");
    }

    /// Numbers, nulls and nested values come out as they are spelled.
    #[test]
    fn json_is_kept_as_it_is() {
        let input = "{\"id\":1.50,\"text\":\"é\\n\",\"more\":{\"a\": [1e3, null]}}\n";
        let added = "\"prediction\":\"a, b\",\"probability\":0.123457}";
        let row = format!("{{\"id\":1.50,\"text\":\"é\\n\",\"more\":{{\"a\": [1e3, null]}},{added}");
        assert_eq!(written(input, Format::Jsonl, Style::Lines), format!("{row}\n"));
        assert_eq!(written(input, Format::Jsonl, Style::List), format!("[\n{row}\n]\n"));
        assert_eq!(written("", Format::Text, Style::List), "[\n]\n");
        let list = written("a\nb\n", Format::Text, Style::List);
        assert!(serde_json::from_str::<Vec<serde_json::Value>>(&list).is_ok_and(|rows| rows.len() == 2), "{list}");
    }
}
