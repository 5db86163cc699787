//! Broken and hostile model directories and data files: each is answered by a sentence that names the file and what is
//! wrong, none by a panic, a hang, or memory that a header asks for.
//!
//! Recipes have their own table in `crates/train/tests/recipes.rs`, the formats of data theirs in `crates/data/tests`.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use luthier::data::{Columns, Format, Labels, Tokenizer, read::read_examples};
use luthier::models::Checkpoint;
use luthier::nn::{Device, Head, Network};
use serde_json::{Value, json};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bert-tiny")
}

/// A copy of the tiny model that `spoil` has been at.
fn spoiled(spoil: impl FnOnce(&Path)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"] {
        fs::copy(fixture().join(name), dir.path().join(name)).unwrap();
    }
    spoil(dir.path());
    dir
}

/// Everything that is read of a model directory, for both kinds of heads.
fn read(dir: &Path) -> Result<(), String> {
    let checkpoint = Checkpoint::open(dir).map_err(|error| error.to_string())?;
    for head in [Head::Classify { labels: 3 }, Head::MaskedLm] {
        let network: Box<dyn Network> =
            (checkpoint.family().build)(checkpoint.config(), head).map_err(|error| error.to_string())?;
        checkpoint.load(&Device::cpu(), network.spec(), None, 1).map_err(|error| error.to_string())?;
    }
    Tokenizer::load(dir).map(drop).map_err(|error| error.to_string())
}

/// What is answered to a spoiled copy.
fn answer(name: &str, spoil: impl FnOnce(&Path)) -> String {
    let dir = spoiled(spoil);
    match read(dir.path()) {
        Ok(()) => panic!("{name}: was read without a word"),
        Err(answer) => answer,
    }
}

fn check(name: &str, answer: &str, expected: &[&str]) {
    for part in expected {
        assert!(answer.contains(part), "{name}\nanswer: {answer}\nlacks:  {part}");
    }
}

fn config(dir: &Path, change: impl FnOnce(&mut Value)) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

/// A safetensors file of this header and these bytes.
fn tensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// The tiny model's header and data, the header changed.
fn with_header(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let bytes = fs::read(fixture().join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    change(&mut header);
    tensors(&header.to_string(), &bytes[8 + length..])
}

/// A query's weight, as the file calls it.
fn a_tensor(header: &Value) -> String {
    header
        .as_object()
        .unwrap()
        .keys()
        .find(|name| name.ends_with("layer.0.attention.self.query.weight"))
        .unwrap()
        .clone()
}

#[test]
fn the_untouched_copy_is_read() {
    assert_eq!(read(spoiled(|_| ()).path()), Ok(()));
}

#[test]
fn broken_descriptions_are_answered() {
    type Change = fn(&mut Value);
    let cases: &[(&str, Change, &[&str])] = &[
        ("no family", |c| drop(c.as_object_mut().unwrap().remove("model_type")), &["model_type is nothing", "bert"]),
        ("an unknown family", |c| c["model_type"] = json!("quantum"), &["model_type is quantum", "bert"]),
        ("a family that is no text", |c| c["model_type"] = json!(7), &["model_type"]),
        ("no size", |c| drop(c.as_object_mut().unwrap().remove("hidden_size")), &["hidden_size"]),
        ("a negative size", |c| c["hidden_size"] = json!(-16), &["config.json", "-16"]),
        ("a fractional size", |c| c["hidden_size"] = json!(16.5), &["config.json", "16.5"]),
        ("a size in words", |c| c["num_hidden_layers"] = json!("two"), &["config.json", "two"]),
        ("no layers", |c| c["num_hidden_layers"] = json!(0), &["num_hidden_layers is 0"]),
        ("a million layers", |c| c["num_hidden_layers"] = json!(1_000_000), &["num_hidden_layers is 1000000"]),
        (
            "heads that do not divide",
            |c| c["num_attention_heads"] = json!(5),
            &["num_attention_heads is 5", "hidden_size"],
        ),
        ("an unknown activation", |c| c["hidden_act"] = json!("gelly"), &["hidden_act is gelly"]),
        ("certain dropout", |c| c["hidden_dropout_prob"] = json!(1.0), &["hidden_dropout_prob is 1"]),
        ("no epsilon", |c| c["layer_norm_eps"] = json!(0.0), &["layer_norm_eps is 0"]),
        ("a decoder", |c| c["is_decoder"] = json!(true), &["is_decoder"]),
        (
            "other positions",
            |c| c["position_embedding_type"] = json!("relative_key"),
            &["position_embedding_type is relative_key"],
        ),
        ("more layers than weights", |c| c["num_hidden_layers"] = json!(3), &["bert.encoder.layer.2", "missing"]),
        (
            "fewer layers than weights",
            |c| c["num_hidden_layers"] = json!(1),
            &["bert.encoder.layer.1", "no such tensor"],
        ),
        (
            "another width",
            |c| c["intermediate_size"] = json!(64),
            &["intermediate.dense.weight", "[32, 16]", "[64, 16]"],
        ),
        ("another vocabulary", |c| c["vocab_size"] = json!(116), &["word_embeddings", "116"]),
        ("a list", |c| *c = json!([1, 2]), &["model_type"]),
        ("nothing", |c| *c = json!(null), &["model_type"]),
    ];
    for (name, change, expected) in cases {
        check(name, &answer(name, |dir| config(dir, change)), expected);
    }
    let write = |text: &'static [u8]| move |dir: &Path| fs::write(dir.join("config.json"), text).unwrap();
    check("cut", &answer("cut", write(b"{\"model_type\": \"be")), &["config.json: not JSON (EOF"]);
    check("empty", &answer("empty", write(b"")), &["config.json: not JSON"]);
    check("bytes", &answer("bytes", write(b"\xff\xfe\x00\x01")), &["config.json: not JSON"]);
    let deep: &'static [u8] = Box::leak(format!("{}{}", "[".repeat(200_000), "]".repeat(200_000)).into_bytes().into());
    check("deep", &answer("deep", write(deep)), &["config.json: not JSON", "recursion limit"]);
    let gone = answer("gone", |dir| fs::remove_file(dir.join("config.json")).unwrap());
    check("gone", &gone, &["config.json: No such file", "A model directory needs config.json"]);
}

#[test]
fn broken_weights_are_answered() {
    type Bytes = fn() -> Vec<u8>;
    let cases: &[(&str, Bytes, &[&str])] = &[
        ("empty", Vec::new, &["model.safetensors: 0 bytes are too few"]),
        ("seven bytes", || vec![0; 7], &["model.safetensors: 7 bytes are too few"]),
        ("only a length", || vec![0; 8], &["model.safetensors: not a safetensors file"]),
        (
            "a header beyond the file",
            || tensors("{}", b"")[..8].iter().copied().chain(*b"{").collect(),
            &["not a safetensors file"],
        ),
        ("a header of all memory", || u64::MAX.to_le_bytes().to_vec(), &["not a safetensors file"]),
        (
            "a header of 90 MB in 9 bytes",
            || [&90_000_000u64.to_le_bytes()[..], b"{"].concat(),
            &["not a safetensors file"],
        ),
        ("no JSON", || tensors("{\"a\": ", b""), &["not a safetensors file"]),
        ("no UTF-8", || [&4u64.to_le_bytes()[..], b"{\xff\xff}"].concat(), &["not a safetensors file"]),
        ("no tensors", || tensors("{}", b""), &["missing"]),
        ("bytes after the last tensor", || tensors("{}", b"more"), &["not a safetensors file"]),
        (
            "an offset that wraps around",
            || tensors(r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,0]}}"#, b""),
            &["not a safetensors file"],
        ),
        (
            "a shape that wraps around",
            || tensors(r#"{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#, b""),
            &["not a safetensors file"],
        ),
        (
            "a tensor of a terabyte",
            || tensors(r#"{"x":{"dtype":"F32","shape":[274877906944],"data_offsets":[0,1099511627776]}}"#, b"abcd"),
            &["not a safetensors file"],
        ),
        (
            "tensors that overlap",
            || {
                tensors(
                    r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}"#,
                    b"123456",
                )
            },
            &["not a safetensors file"],
        ),
        (
            "an unknown type",
            || tensors(r#"{"x":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}"#, b"1234"),
            &["not a safetensors file"],
        ),
        (
            "a shape of a million dimensions",
            || {
                tensors(
                    &format!(r#"{{"x":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#, "1,".repeat(1_000_000)),
                    b"1234",
                )
            },
            &["missing"],
        ),
        (
            "a PyTorch file",
            || fs::read(fixture().join("../pfeiffer/pytorch_adapter.bin")).unwrap(),
            &["not a safetensors file"],
        ),
        (
            "cut in the middle of the data",
            || {
                let bytes = fs::read(fixture().join("model.safetensors")).unwrap();
                bytes[..bytes.len() / 2].to_vec()
            },
            &["model.safetensors: not a safetensors file"],
        ),
        (
            "cut in the middle of the header",
            || fs::read(fixture().join("model.safetensors")).unwrap()[..100].to_vec(),
            &["model.safetensors: not a safetensors file"],
        ),
        (
            "integers",
            || {
                with_header(|header| {
                    let name = a_tensor(header);
                    header[&name]["dtype"] = json!("I32");
                })
            },
            &["query.weight", "I32", "float32"],
        ),
        (
            "a shape turned around",
            || {
                with_header(|header| {
                    let name = header
                        .as_object()
                        .unwrap()
                        .keys()
                        .find(|n| n.ends_with("layer.0.intermediate.dense.weight"))
                        .unwrap()
                        .clone();
                    header[&name]["shape"] = json!([16, 32]);
                })
            },
            &["layer.0.intermediate.dense.weight: the file has [16, 32], config.json asks for [32, 16]"],
        ),
        (
            "a tensor under another name",
            || {
                with_header(|header| {
                    let name = a_tensor(header);
                    let tensor = header.as_object_mut().unwrap().remove(&name).unwrap();
                    header[name.replace("query", "qeury")] = tensor;
                })
            },
            &["self.query.weight: missing", "qeury"],
        ),
        (
            "the same tensor under both of its names",
            || {
                let x = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
                let y = r#"{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#;
                let norm = "bert.embeddings.LayerNorm";
                tensors(&format!(r#"{{"{norm}.gamma":{x},"{norm}.weight":{y}}}"#), b"12345678")
            },
            &["two tensors are both bert.embeddings.LayerNorm.weight"],
        ),
    ];
    for (name, bytes, expected) in cases {
        let answer = answer(name, |dir| fs::write(dir.join("model.safetensors"), bytes()).unwrap());
        check(name, &answer, expected);
    }
    let gone = answer("gone", |dir| fs::remove_file(dir.join("model.safetensors")).unwrap());
    check("gone", &gone, &["model.safetensors: No such file", "save_pretrained"]);
    let folder = answer("a folder", |dir| {
        fs::remove_file(dir.join("model.safetensors")).unwrap();
        fs::create_dir(dir.join("model.safetensors")).unwrap();
    });
    check("a folder", &folder, &["model.safetensors"]);
}

#[test]
fn an_index_leads_to_files_beside_it_and_nowhere_else() {
    let index = |text: &str| {
        answer(text, |dir| {
            // Where the paths below would lead.
            fs::copy(dir.join("model.safetensors"), dir.join("../outside.safetensors")).ok();
            fs::create_dir(dir.join("sub")).unwrap();
            fs::rename(dir.join("model.safetensors"), dir.join("sub/inner.safetensors")).unwrap();
            fs::write(dir.join("model.safetensors.index.json"), text).unwrap();
        })
    };
    let cases: &[(&str, &[&str])] = &[
        (r#"{"weight_map": {"x": "../outside.safetensors"}}"#, &["index.json", "is not a plain file name"]),
        (r#"{"weight_map": {"x": "sub/inner.safetensors"}}"#, &["is not a plain file name"]),
        (r#"{"weight_map": {"x": "/etc/passwd"}}"#, &["\"/etc/passwd\" is not a plain file name"]),
        (r#"{"weight_map": {"x": ".."}}"#, &["is not a plain file name"]),
        (r#"{"weight_map": {"x": ""}}"#, &["is not a plain file name"]),
        (r#"{"weight_map": {"x": 3}}"#, &["3 is not a file name"]),
        (
            r#"{"weight_map": {"x": "model-00001-of-00002.safetensors"}}"#,
            &["model-00001-of-00002.safetensors: No such file"],
        ),
        (r#"{"weight_map": []}"#, &["no weight_map"]),
        (r#"{"metadata": {}}"#, &["no weight_map"]),
        (r#"{"weight_map": {"#, &["index.json: not JSON"]),
    ];
    for (text, expected) in cases {
        check(text, &index(text), expected);
    }
}

#[test]
fn broken_tokenizers_are_answered() {
    let write = |name: &'static str, text: &'static str| move |dir: &Path| fs::write(dir.join(name), text).unwrap();
    let none = answer("none", |dir| {
        fs::remove_file(dir.join("tokenizer.json")).unwrap();
        fs::remove_file(dir.join("vocab.txt")).unwrap();
    });
    check("none", &none, &["neither tokenizer.json nor vocab.txt"]);
    let cases: &[(&str, &str, &str)] = &[
        ("tokenizer.json", "", "tokenizer.json"),
        ("tokenizer.json", "{}", "tokenizer.json"),
        ("tokenizer.json", "{\"model\": {\"type\": \"WordPiece\", \"vocab\": {}}}", "tokenizer.json"),
        ("tokenizer.json", "[[[[", "tokenizer.json"),
        ("tokenizer_config.json", "[1]", "tokenizer_config.json"),
        ("tokenizer_config.json", "{\"do_lower_case\": \"yes\"}", "tokenizer_config.json"),
    ];
    for (name, text, expected) in cases {
        let answer = answer(text, write(name, text));
        check(text, &answer, &[expected, "found"]);
    }
}

/// Cut at any place, one byte turned at any place: an answer or a right reading, never a panic.
#[test]
fn no_byte_of_a_model_makes_a_reader_panic() {
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let whole = fs::read(fixture().join(name)).unwrap();
        // The header is what can be hostile; of the numbers any bytes are right.
        let interesting = whole.len().min(4_000);
        let dir = spoiled(|_| ());
        let mut refused = 0;
        for at in (0..interesting).step_by(if name == "tokenizer.json" { 97 } else { 31 }) {
            fs::write(dir.path().join(name), &whole[..at]).unwrap();
            refused += usize::from(read(dir.path()).is_err());
            let mut turned = whole.clone();
            turned[at] ^= 0x11;
            fs::write(dir.path().join(name), &turned).unwrap();
            let _ = read(dir.path());
        }
        assert!(refused > 5, "{name}: {refused} cut files were refused");
    }
}

#[test]
fn data_that_teaches_nothing_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("train.csv");
    let columns = Columns { text: "text".to_owned(), pair: Some("other".to_owned()), label: Some("label".to_owned()) };
    let cases: &[(&[u8], &str)] = &[
        (b"text,other,label\na,b,yes\nc,d,yes\n", "train.csv: found only the label `yes`"),
        (b"text,othr,label\na,b,yes\n", "train.csv:1: found no column `other` (did you mean `othr`?)"),
        (b"text,other,label\na,b,yes\nc,d\n", "train.csv:3: found a row of 2 fields, expected 3"),
        (b"text,other,label\na,b,\n", "train.csv:2: found an empty label"),
        (b"text,other,label\n\"a,b,yes\n", "train.csv:2: found a quote that is never closed"),
        (b"text,other,label\na\xE9,b,yes\n", "train.csv:2: found byte 0xE9"),
        (b"\x1f\x8b\x08\x00", "train.csv:1: found"),
        (b"text,other,label\n", "train.csv: found no row"),
    ];
    for (bytes, expected) in cases {
        fs::write(&path, bytes).unwrap();
        let found = read_examples(&path, Some(Format::Csv), &columns).and_then(|e| Labels::from_examples(&e, &path));
        let answer = found.expect_err(expected).to_string();
        check(expected, &answer, &[expected]);
    }
}
