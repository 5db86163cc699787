//! Damaged and hostile tokenizer files: an answer, never a panic.

use luthier_data::{EncodeOptions, Example, Overlong, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> Vec<u8> {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bert-tiny").join(name);
    std::fs::read(path).expect("the fixture is part of the repository")
}

/// Loads a folder of these files and tokenizes with it; an error is as good as a result.
fn try_files(files: &[(&str, &[u8])]) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).map_err(|error| error.to_string())?;
    }
    let tokenizer = Tokenizer::load(dir.path()).map_err(|error| error.to_string())?;
    let example = |text: &str, pair: Option<&str>| Example {
        text: text.to_string(),
        pair: pair.map(str::to_string),
        label: None,
        line: 1,
    };
    let examples = [
        example("The cat, walked café 中国 [MASK] \u{1F642}", None),
        example("the dog", Some("a b")),
        example("", None),
    ];
    for on_overlong in [Overlong::Truncate, Overlong::Drop, Overlong::Error] {
        let options = EncodeOptions { max_length: 6, on_overlong };
        let encoded = tokenizer.encode_all(&examples, Path::new("d"), options).map_err(|error| error.to_string())?;
        let _ = tokenizer.readable(&encoded.corpus.ids);
    }
    tokenizer.encode_documents(&examples, Path::new("d")).map(|_| ()).map_err(|error| error.to_string())
}

/// The places inside a JSON value, as pointers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_string());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| places(value, &format!("{at}/{key}"), found)),
        Value::Array(list) => list.iter().enumerate().for_each(|(i, value)| places(value, &format!("{at}/{i}"), found)),
        _ => {}
    }
}

fn strange_values() -> Vec<Value> {
    vec![
        json!(null),
        json!(0),
        json!(-1),
        json!(u64::MAX),
        json!(4_294_967_295u32),
        json!(1e300),
        json!(true),
        json!(""),
        json!("[CLS]"),
        json!([]),
        json!({}),
        json!([[]]),
        json!("(((("),
        json!({"type": "Sequence", "normalizers": [], "pretokenizers": [], "processors": [], "decoders": []}),
        json!({"type": "BPE", "vocab": {"a": 0}, "merges": ["a a", "b c"]}),
        json!({"type": "BPE", "vocab": {"a": 0, "b": 7, "ab": 9}, "merges": [["a", "b"]], "unk_token": "zz"}),
        json!({"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 9}),
        json!({"type": "Unigram", "vocab": [], "unk_id": null}),
        json!({"type": "Unigram", "vocab": [["", 0.0], ["a", 1e308]], "unk_id": 0, "byte_fallback": true}),
        json!({"type": "WordLevel", "vocab": {"the": 1}, "unk_token": "?"}),
        json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        json!({"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="}),
        json!({"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": "x"}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        json!({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": true, "add_prefix_space": true}),
        json!({"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}),
        json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 9}}], "pair": [], "special_tokens": {}}),
        json!({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {}}),
    ]
}

/// Every value of the file replaced by every strange one.
#[test]
fn no_value_of_a_tokenizer_file_makes_it_panic() {
    let whole: Value = serde_json::from_slice(&fixture("tokenizer.json")).expect("the fixture is JSON");
    let mut all = Vec::new();
    places(&whole, "", &mut all);
    // The words of the vocabulary are all alike: a few stand for them.
    let mut words = 0;
    all.retain(|place| {
        words += usize::from(place.starts_with("/model/vocab/"));
        !place.starts_with("/model/vocab/") || words < 8
    });
    let mut panicked = Vec::new();
    for place in &all {
        for value in strange_values() {
            let mut damaged = whole.clone();
            *damaged.pointer_mut(place).expect("the place was found in it") = value.clone();
            let bytes = serde_json::to_vec(&damaged).expect("a value is JSON");
            if std::panic::catch_unwind(|| try_files(&[("tokenizer.json", &bytes)])).is_err() {
                panicked.push(format!("{place} = {value}"));
            }
        }
    }
    assert!(panicked.is_empty(), "{} of {} places: {panicked:#?}", panicked.len(), all.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_bytes_are_answered(
        which in 0usize..3,
        at in any::<prop::sample::Index>(),
        length in 0usize..40,
        patch in prop::collection::vec(any::<u8>(), 0..4),
    ) {
        let names = ["tokenizer.json", "vocab.txt", "tokenizer_config.json"];
        let mut files = names.map(|name| (name, fixture(name)));
        if which == 1 {
            files[0].1.clear();
        }
        let bytes = &mut files[which].1;
        let start = at.index(bytes.len());
        let end = (start + length).min(bytes.len());
        bytes.splice(start..end, patch);
        let files: Vec<(&str, &[u8])> =
            files.iter().filter(|(_, bytes)| !bytes.is_empty()).map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        let _ = try_files(&files);
    }
}
