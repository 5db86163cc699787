//! A `tokenizer.json` of any bytes is refused, or reads texts without a panic.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use luthier_data::{Example, Tokenizer};

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.expect("a temporary folder")
});

// The reader catches the panics of the `tokenizers` crate, and answers. Only one that it lets through counts.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| ())), |bytes: &[u8]| {
    std::fs::write(FOLDER.path().join("tokenizer.json"), bytes).expect("a file");
    let Ok(tokenizer) = Tokenizer::load(FOLDER.path()) else { return };
    let texts = ["", "plain words, and a number: 42", "Ünïcödé 中文 \u{1F600} e\u{301}"];
    let examples: Vec<Example> = texts
        .iter()
        .map(|text| Example { text: text.to_string(), pair: None, label: None, line: 1 })
        .collect();
    if let Ok(lengths) = tokenizer.lengths(&examples, Path::new("texts.txt")) {
        assert_eq!(lengths.len(), texts.len());
    }
});
