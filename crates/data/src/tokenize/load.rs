//! A tokenizer's files: which there may be, and what each says.

use super::{SpecialTokens, Tokenizer};
use crate::error::{DataError, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Model};

/// The files that may say something about a tokenizer; the first two are the tokenizer itself.
const FILES: [&str; 5] =
    ["tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"];
/// Files that are copied with them, for Python's slow tokenizers.
const COMPANIONS: [&str; 3] = ["sentencepiece.bpe.model", "vocab.json", "merges.txt"];

/// What `tokenizer_config.json` and `special_tokens_map.json` say of interest here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    do_lower_case: Option<bool>,
    strip_accents: Option<bool>,
    tokenize_chinese_chars: Option<bool>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl Settings {
    /// A special token: a string, or an object with `content`.
    fn token(&self, name: &str) -> Option<&str> {
        let value = self.rest.get(name)?;
        value.as_str().or_else(|| value.get("content")?.as_str())
    }
}

pub(super) fn load(dir: &Path) -> Result<Tokenizer> {
    let fault = |name: &str, found: String, expected: &str, help| DataError::Tokenizer {
        path: dir.join(name),
        found,
        expected: expected.to_string(),
        help,
    };
    let mut hasher = blake3::Hasher::new();
    let mut files: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for name in FILES {
        let Some(bytes) = read(&dir.join(name))? else { continue };
        hasher.update(name.as_bytes()).update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
        files.insert(name, bytes);
    }
    let settings = |name: &str| match files.get(name) {
        None => Ok(Settings::default()),
        Some(bytes) => serde_json::from_slice::<Settings>(bytes).map_err(|error| {
            fault(name, format!("JSON that cannot be read ({error})"), "an object of settings", AGAIN)
        }),
    };
    let (config, map) = (settings("tokenizer_config.json")?, settings("special_tokens_map.json")?);
    let named = |which: &str, usual: [&str; 2]| -> Vec<String> {
        let name = format!("{which}_token");
        let said = [config.token(&name), map.token(&name)].into_iter().flatten();
        said.chain(usual).map(str::to_string).collect()
    };
    let names = [
        named("cls", ["[CLS]", "<s>"]),
        named("sep", ["[SEP]", "</s>"]),
        named("pad", ["[PAD]", "<pad>"]),
        named("mask", ["[MASK]", "<mask>"]),
        named("unk", ["[UNK]", "<unk>"]),
    ];

    let mut inner = if let Some(bytes) = files.get("tokenizer.json") {
        let mut inner = parse(bytes).map_err(|reason| {
            fault("tokenizer.json", format!("a file that cannot be read ({reason})"), "a tokenizer", AGAIN)
        })?;
        if let Some(NormalizerWrapper::BertNormalizer(bert)) = inner.get_normalizer() {
            let bert = said_by_config(&config, *bert);
            inner.with_normalizer(Some(bert));
        }
        inner
    } else if let Some(bytes) = files.get("vocab.txt") {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            fault("vocab.txt", format!("a byte that is not UTF-8 at {}", error.valid_up_to()), "UTF-8 text", AGAIN)
        })?;
        // A token that comes twice has the later id, as in transformers.
        let tokens = text.strip_suffix('\n').unwrap_or(text).split('\n').map(|t| t.strip_suffix('\r').unwrap_or(t));
        let vocabulary: Vec<String> = tokens.map(str::to_string).collect();
        let present = |names: &[String]| names.iter().find(|name| vocabulary.contains(name)).cloned();
        let (Some(cls), Some(sep), Some(unk)) = (present(&names[0]), present(&names[1]), present(&names[4])) else {
            let found = format!("a vocabulary of {} tokens without [CLS], [SEP] or [UNK]", vocabulary.len());
            return Err(fault("vocab.txt", found, "the vocabulary of a BERT model", AGAIN));
        };
        refuse_added(&files, &config, &vocabulary).map_err(|token| {
            let found = format!("a vocabulary beside which the token `{token}` was added");
            let help = "save the tokenizer anew with transformers' AutoTokenizer, which writes tokenizer.json";
            fault("vocab.txt", found, "all tokens in the vocabulary, or a tokenizer.json", help)
        })?;
        let others: Vec<String> = [present(&names[2]), present(&names[3])].into_iter().flatten().collect();
        let normalizer = said_by_config(&config, BertNormalizer::default());
        bert_tokenizer(&vocabulary, &cls, &sep, &unk, &others, normalizer)
            .map_err(|error| fault("vocab.txt", error.to_string(), "the vocabulary of a BERT model", AGAIN))?
    } else {
        let help = "give the folder of a whole model; a SentencePiece file alone has first to be saved as \
                    tokenizer.json by transformers";
        return Err(fault("", "neither tokenizer.json nor vocab.txt".to_string(), "one of them", help));
    };
    inner.with_padding(None);
    // Taking a limit away cannot fail; only setting one can.
    let _ = inner.with_truncation(None);

    let id = |names: &[String]| names.iter().find_map(|name| inner.token_to_id(name));
    let special = SpecialTokens {
        cls: id(&names[0]),
        sep: id(&names[1]),
        pad: id(&names[2]),
        mask: id(&names[3]),
        unk: id(&names[4]),
    };
    let vocab_size = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
    if vocab_size == 0 {
        return Err(fault("tokenizer.json", "an empty vocabulary".to_string(), "a vocabulary", AGAIN));
    }
    // What goes around every text does not come from the vocabulary, so it is looked at once, here.
    let around = guarded(|| Ok([inner.encode("", true)?, inner.encode(("", ""), true)?]))
        .and_then(|tried: tokenizers::Result<_>| tried.map_err(|error| error.to_string()))
        .map_err(|reason| {
            fault("tokenizer.json", format!("special tokens that it cannot add ({reason})"), "a tokenizer", AGAIN)
        })?;
    for encoding in &around {
        if let Some(id) = encoding.get_ids().iter().find(|&&id| id as usize >= vocab_size) {
            let found = format!("a special token of id {id}, beyond its vocabulary of {vocab_size}");
            return Err(fault("tokenizer.json", found, "ids of the vocabulary", AGAIN));
        }
        if let Some(kind) = encoding.get_type_ids().iter().find(|&&kind| kind > 1) {
            let found = format!("a special token of type {kind}");
            return Err(fault("tokenizer.json", found, "type 0 for the first text and 1 for the second", AGAIN));
        }
    }
    Ok(Tokenizer { inner, dir: dir.to_path_buf(), special, fingerprint: *hasher.finalize().as_bytes(), vocab_size })
}

/// What is looked at before the `tokenizers` crate sees the file.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    post_processor: Value,
}

/// Reads `tokenizer.json`. The `tokenizers` crate panics on some files that are cut short or contradict themselves;
/// what it is known to stumble over is refused first, and a panic over anything else is made an error.
fn parse(bytes: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    let outline: Outline = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    check_templates(&outline.post_processor)?;
    let tokenizer = guarded(|| tokenizers::Tokenizer::from_bytes(bytes))?;
    tokenizer.map_err(|error| error.to_string())
}

/// The templates of special tokens name only tokens that the file lists, and only texts that there are.
fn check_templates(processor: &Value) -> Result<(), String> {
    if let Some(inner) = processor.get("processors").and_then(Value::as_array) {
        inner.iter().try_for_each(check_templates)?;
    }
    if processor.get("type").and_then(Value::as_str) != Some("TemplateProcessing") {
        return Ok(());
    }
    let listed = processor.get("special_tokens").and_then(Value::as_object);
    for which in ["single", "pair"] {
        for piece in processor.get(which).and_then(Value::as_array).into_iter().flatten() {
            let token = piece.pointer("/SpecialToken/id").and_then(Value::as_str);
            if let Some(token) = token.filter(|token| !listed.is_some_and(|listed| listed.contains_key(*token))) {
                return Err(format!("its template `{which}` names the token `{token}`, which `special_tokens` lacks"));
            }
            if which == "single" && piece.pointer("/Sequence/id").and_then(Value::as_str) == Some("B") {
                return Err("its template `single` names a second text".to_string());
            }
        }
    }
    Ok(())
}

/// Fails with a token that was added to a vocabulary and is not in it.
fn refuse_added(files: &BTreeMap<&str, Vec<u8>>, config: &Settings, vocabulary: &[String]) -> Result<(), String> {
    let apart: Option<BTreeMap<String, Value>> =
        files.get("added_tokens.json").and_then(|bytes| serde_json::from_slice(bytes).ok());
    let decoder = config.rest.get("added_tokens_decoder").and_then(Value::as_object);
    let listed =
        decoder.into_iter().flat_map(|decoder| decoder.values()).filter_map(|token| token.get("content")?.as_str());
    let known: std::collections::BTreeSet<&str> = vocabulary.iter().map(String::as_str).collect();
    let tokens = apart.iter().flat_map(BTreeMap::keys).map(String::as_str).chain(listed);
    match tokens.into_iter().find(|token| !known.contains(token)) {
        Some(token) => Err(token.to_owned()),
        None => Ok(()),
    }
}

thread_local! {
    /// Whether this thread is in [`guarded`].
    static GUARDED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether a panic of this thread becomes an error: what a panic hook, which comes first, should know.
pub fn panics_are_errors() -> bool {
    GUARDED.get()
}

/// Runs code of the `tokenizers` crate, which is known to panic on hostile files: the panic becomes its message.
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let before = GUARDED.replace(true);
    // What a panic leaves behind is dropped with the error, so nothing half-done is seen.
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    GUARDED.set(before);
    done.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it contradicts itself").to_string()
    })
}

const AGAIN: &str = "copy or download the file again";

/// BERT's tokenizer over a vocabulary. `others` are further special tokens.
pub(crate) fn bert_tokenizer(
    vocabulary: &[String],
    cls: &str,
    sep: &str,
    unk: &str,
    others: &[String],
    normalizer: BertNormalizer,
) -> tokenizers::Result<tokenizers::Tokenizer> {
    // The builder's map type cannot be named here; its JSON can.
    let ids: BTreeMap<&str, u32> = vocabulary.iter().map(String::as_str).zip(0..).collect();
    let model = WordPiece::from_bytes(serde_json::to_vec(&serde_json::json!({
        "type": "WordPiece",
        "unk_token": unk,
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": ids,
    }))?)?;
    let id = |token: &str| model.token_to_id(token).ok_or_else(|| format!("no token `{token}`"));
    let processor = BertProcessing::new((sep.to_string(), id(sep)?), (cls.to_string(), id(cls)?));
    let special: Vec<AddedToken> = [unk, sep, cls]
        .into_iter()
        .chain(others.iter().map(String::as_str))
        .map(|token| AddedToken::from(token, true))
        .collect();
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(normalizer))
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_post_processor(Some(processor))
        .with_decoder(Some(WordPieceDecoder::default()));
    tokenizer.add_special_tokens(&special);
    Ok(tokenizer)
}

fn said_by_config(config: &Settings, mut bert: BertNormalizer) -> BertNormalizer {
    bert.lowercase = config.do_lower_case.unwrap_or(bert.lowercase);
    bert.strip_accents = config.strip_accents.or(bert.strip_accents);
    bert.handle_chinese_chars = config.tokenize_chinese_chars.unwrap_or(bert.handle_chinese_chars);
    bert
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => {
            let help = "check that it is a file that you may read".to_string();
            Err(DataError::Io { path: path.to_path_buf(), action: "read the tokenizer", source, help })
        }
    }
}

/// Copies what of the tokenizer's files is there.
pub(super) fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for name in FILES.iter().chain(&COMPANIONS) {
        let Some(bytes) = read(&from.join(name))? else { continue };
        let path = to.join(name);
        std::fs::write(&path, bytes).map_err(|source| DataError::Io {
            path,
            action: "write the tokenizer",
            source,
            help: "check the folder and the free space".to_string(),
        })?;
    }
    Ok(())
}
