//! JSON lines of any bytes are rows, and at most one error at the end.
#![no_main]

use std::io::Cursor;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use luthier_data::{Format, Rows, TextUnit};

fuzz_target!(|bytes: &[u8]| {
    let Ok(rows) = Rows::new(Cursor::new(bytes.to_vec()), Path::new("data.jsonl"), Format::Jsonl, TextUnit::Line) else { return };
    let mut failed = false;
    for row in rows {
        assert!(!failed, "a row after an error");
        match row {
            Ok(row) => assert!(row.line >= 1),
            Err(error) => {
                failed = true;
                assert!(!error.to_string().is_empty());
            }
        }
    }
});
