//! Every reader on good files, on broken files, and on bytes of no kind.

use luthier_data::read::{Example, example, read_documents, read_examples};
use luthier_data::{Columns, DataError, Format, Row, Rows, TextUnit};
use proptest::prelude::*;
use std::io::Cursor;
use std::path::{Path, PathBuf};

const FORMATS: [Format; 4] = [Format::Csv, Format::Tsv, Format::Jsonl, Format::Text];

fn rows(bytes: &[u8], format: Format, unit: TextUnit) -> Result<Vec<Row>, DataError> {
    Rows::new(Cursor::new(bytes.to_vec()), Path::new("data"), format, unit)?.collect()
}

fn columns(label: bool) -> Columns {
    Columns { text: "text".into(), pair: None, label: label.then(|| "label".to_string()) }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a temporary folder"))
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).expect("a temporary file");
        path
    }

    /// What a file with these contents is answered with, its folder taken out.
    fn error(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.file(name, bytes);
        let error = read_examples(&path, None, &columns(true)).expect_err("a broken file");
        error.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn the_same_rows_in_every_format() -> Result<(), DataError> {
    let folder = Folder::new();
    let csv = folder.file("a.csv", "text,label,id\n\"one, \"\"two\"\"\",x,1\nthree,y,2\n");
    let tsv = folder.file("a.tsv", "id\ttext\tlabel\r\n1\tone, \"two\"\tx\r\n2\tthree\ty\r\n");
    let json =
        "{\"text\": \"one, \\\"two\\\"\", \"label\": \"x\"}\n\n{\"label\": \"y\", \"text\": \"three\", \"more\": [1]}";
    let jsonl = folder.file("a.jsonl", json);
    let plain = |path: &Path| -> Result<Vec<(String, String)>, DataError> {
        let examples = read_examples(path, None, &columns(true))?;
        Ok(examples.into_iter().map(|e| (e.text, e.label.unwrap_or_default())).collect())
    };
    let expected = [("one, \"two\"".to_string(), "x".to_string()), ("three".to_string(), "y".to_string())];
    for path in [csv, tsv, jsonl] {
        assert_eq!(plain(&path)?, expected, "{}", path.display());
    }
    Ok(())
}

#[test]
fn lines_and_paragraphs() -> Result<(), DataError> {
    let folder = Folder::new();
    let path = folder.file("a.txt", "\n\none\r\n two\n  \nthree\n\n\n");
    let read = |unit| -> Result<Vec<(String, u64)>, DataError> {
        let documents: Vec<Example> = read_documents(&path, None, "ignored for plain text", unit)?;
        Ok(documents.into_iter().map(|d| (d.text, d.line)).collect())
    };
    let owned = |text: &str, line| (text.to_string(), line);
    assert_eq!(read(TextUnit::Line)?, [owned("one", 3), owned(" two", 4), owned("three", 6)]);
    assert_eq!(read(TextUnit::Paragraph)?, [owned("one\n two", 3), owned("three", 6)]);
    // A stream keeps blank lines, so that what goes out lines up with what came in.
    assert_eq!(rows(b"a\n\nb\n", Format::Text, TextUnit::Line)?.len(), 3);
    Ok(())
}

#[test]
fn values_are_spelled_as_they_were() -> Result<(), Box<dyn std::error::Error>> {
    let line =
        r#"{"text":"a\"é","n":1.10,"big":123456789012345678901234567890,"b":true,"nested":{"x":[1, 2]},"z":null}"#;
    let read = rows(line.as_bytes(), Format::Jsonl, TextUnit::Line)?;
    assert_eq!(serde_json::to_string(&read[0])?, line);
    let numeric = Columns { text: "n".into(), pair: Some("big".into()), label: Some("b".into()) };
    let example = example(&read[0], &numeric, Path::new("d"))?;
    assert_eq!((example.text.as_str(), example.label.as_deref()), ("1.10", Some("true")));
    assert_eq!(example.pair.as_deref(), Some("123456789012345678901234567890"));
    Ok(())
}

#[test]
fn broken_files_are_answered_with_place_and_remedy() {
    let folder = Folder::new();
    let cases: &[(&str, &[u8], &str)] = &[
        ("a.csv", b"", "a.csv: found an empty file, expected at least one row"),
        ("a.csv", b"text,label\n", "a.csv: found no row"),
        ("a.csv", b"\xEF\xBB\xBF", "a.csv: found an empty file"),
        (
            "a.csv",
            b"txt,label\na,b\n",
            "a.csv:1: found no column `text` (did you mean `txt`?), expected one of: `txt`, `label`",
        ),
        ("a.csv", b"text\tlabel\na\tb\n", "the header is separated by tabs: say format = \"tsv\""),
        ("a.csv", b"text;label\na;b\n", "semicolons"),
        ("a.csv", b"text,label\na,\n", "a.csv:2: found an empty label in column `label`"),
        ("a.csv", b"text,label\na,b,c\n", "a.csv:2: found a row of 3 fields, expected 2"),
        ("a.csv", b"text,label\n\"a,b\nc,d\n", "a.csv:2: found a quote that is never closed"),
        ("a.csv", b"text,label\na\xFF,b\n", "a.csv:2: found byte 0xFF at byte 12 of the file"),
        ("a.csv", b"\xFF\xFEt\0e\0", "a.csv:1: found UTF-16 text"),
        ("a.csv", b"text,label\na\0,b\n", "a.csv:2: found a NUL byte at byte 12"),
        ("a.csv", b"PK\x03\x04", "an Excel workbook"),
        ("a.tsv", b"text\tlabel\na b\n", "a.tsv:2: found a row of 1 field"),
        ("a.tsv", b"text\ttext\n", "a.tsv:1: found two columns named `text`"),
        ("a.jsonl", b"", "a.jsonl: found no row"),
        ("a.jsonl", b"[\n", "a.jsonl:1: found a JSON list that cannot be read"),
        (
            "a.jsonl",
            b"{\"text\": \"a\",\n\"label\": \"b\"}\n",
            "a.jsonl:1: found a JSON object that cannot be read (EOF",
        ),
        ("a.jsonl", b"{\"text\": \"a\", \"label\": \"b\"} x\n", "trailing characters, column 29"),
        ("a.jsonl", b"{\"text\": \"a\", \"text\": \"b\"}\n", "the key `text` comes twice"),
        ("a.jsonl", b"{\"text\": \"a\", \"label\": \"b\"}\n{\"text\": \"a\"}\n", "a.jsonl:2: found no column `label`"),
        ("a.jsonl", b"{\"text\": [\"a\"], \"label\": \"b\"}\n", "a.jsonl:1: found a list in column `text`"),
        ("a.jsonl", b"{\"text\": \"a\", \"label\": null}\n", "a.jsonl:1: found null in column `label`"),
        (
            "a.jsonl",
            b"{\"text\": \"\\ud800\", \"label\": \"b\"}\n",
            "a.jsonl:1: found a JSON object that cannot be read",
        ),
        ("a.txt", b"just text\n", "a.txt:1: found no column `label`"),
        ("a.parquet", b"PAR1", "a.parquet: the file name does not say its format"),
        ("noextension", b"x", "expected one of the extensions .csv, .tsv, .tab, .jsonl, .ndjson, .txt, .text"),
    ];
    for (name, bytes, expected) in cases {
        let error = folder.error(name, bytes);
        assert!(error.contains(expected), "{name} {:?}\n  {error}\n  {expected}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn files_that_do_not_open_are_answered_too() {
    let folder = Folder::new();
    folder.file("train.csv", "text\na\n");
    let error = |name: &str| {
        let error =
            read_examples(&folder.0.path().join(name), Some(Format::Csv), &columns(false)).expect_err("no file");
        error.to_string()
    };
    assert!(error("trian.csv").contains("did you mean `train.csv` in the same folder?"));
    assert!(error("no/such.csv").contains("is not there either"));
    assert!(error("").contains("name a file in it"));
}

#[test]
fn a_huge_field_costs_no_more_than_itself() -> Result<(), DataError> {
    let field = "x".repeat(10 << 20);
    let read = rows(format!("text\n\"{field}\"\n").as_bytes(), Format::Csv, TextUnit::Line)?;
    assert_eq!(read[0].text("text", Path::new("d"))?.len(), 10 << 20);
    // Sixty-five megabytes inside a quote that never closes end with a sentence.
    let endless = format!("text\n\"{}", "y\n".repeat(65 << 19));
    let error = rows(endless.as_bytes(), Format::Csv, TextUnit::Line).expect_err("too large");
    assert!(error.to_string().contains("a row of more than"), "{error}");
    Ok(())
}

/// Bytes that often look like something: signs that the formats give a meaning to, between bytes of any kind.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let sign = prop::sample::select(b"\",\n\r\t{}[]:\\ua1\0\xEF\xBB\xBF\xFF\xFE ".to_vec());
    prop::collection::vec(prop_oneof![4 => sign, 1 => any::<u8>()], 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in bytes(), header in prop::bool::ANY) {
        let bytes = if header { [b"text,label\n".as_slice(), &bytes].concat() } else { bytes };
        for format in FORMATS {
            for unit in [TextUnit::Line, TextUnit::Paragraph] {
                match rows(&bytes, format, unit) {
                    Ok(rows) => for row in rows {
                        prop_assert!(serde_json::to_string(&row).is_ok());
                        let _ = example(&row, &columns(true), Path::new("d"));
                    },
                    Err(error) => prop_assert!(error.to_string().starts_with("data"), "{}", error),
                }
            }
        }
    }

    /// What serde_json writes, we read, and write again the same.
    #[test]
    fn json_lines_round_trip(maps in prop::collection::vec(prop::collection::btree_map(".{0,4}", ".{0,8}", 0..4), 1..5)) {
        let lines: Vec<String> = maps.iter().map(|map| serde_json::to_string(map).expect("a map of strings")).collect();
        let read = rows(lines.join("\n").as_bytes(), Format::Jsonl, TextUnit::Line);
        let read = read.map_err(|error| TestCaseError::fail(error.to_string()))?;
        let again: Vec<String> = read.iter().map(|row| serde_json::to_string(row).expect("a row")).collect();
        prop_assert_eq!(again, lines);
    }
}
