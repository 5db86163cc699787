//! From texts to token ids, with the tokenizer a pretrained model came with.

use crate::corpus::{Corpus, SPECIAL};
use crate::error::{DataError, Result};
use crate::read::Example;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tokenizers::utils::truncation::{TruncationParams, truncate_encodings};
use tokenizers::{Encoding, PostProcessor};

mod load;
pub(crate) use load::bert_tokenizer;
pub use load::panics_are_errors;

/// What happens to a text longer than the model takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlong {
    /// Its end is cut off and counted; of a pair, the longer text loses tokens first, as in transformers.
    #[default]
    Truncate,
    /// The text is left out and counted.
    Drop,
    /// Nothing is tokenized: the first such text is named.
    Error,
}

/// How texts are tokenized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// The most tokens of a text or pair, special tokens included.
    pub max_length: usize,
    /// What happens to longer ones.
    pub on_overlong: Overlong,
}

/// Tokenized texts, and what did not fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The tokens.
    pub corpus: Corpus,
    /// Which example each text of the corpus is: all of them, in order, unless some were dropped.
    pub kept: Vec<u32>,
    /// The examples whose texts were cut.
    pub truncated: Vec<u32>,
    /// The examples that were dropped.
    pub dropped: Vec<u32>,
    /// How many tokens the cuts took.
    pub tokens_cut: u64,
}

/// The ids of the tokens that mean something to a model; those that its vocabulary has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a sequence: `[CLS]`, `<s>`.
    pub cls: Option<u32>,
    /// Ends a text: `[SEP]`, `</s>`.
    pub sep: Option<u32>,
    /// Fills a batch elsewhere; never used here.
    pub pad: Option<u32>,
    /// Stands for a hidden token: `[MASK]`, `<mask>`.
    pub mask: Option<u32>,
    /// Stands for what the vocabulary cannot spell: `[UNK]`, `<unk>`.
    pub unk: Option<u32>,
}

/// A tokenizer loaded from a model's folder. Truncation and padding that its file may ask for are not used.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    dir: PathBuf,
    special: SpecialTokens,
    fingerprint: [u8; 32],
    vocab_size: usize,
}

impl Tokenizer {
    /// Loads `tokenizer.json`, else `vocab.txt` (WordPiece, as BERT has it), with `tokenizer_config.json` and
    /// `special_tokens_map.json` where they are.
    ///
    /// A `do_lower_case`, `strip_accents` or `tokenize_chinese_chars` that `tokenizer_config.json` gives goes before
    /// what `tokenizer.json` says, as in transformers; one that it does not give leaves `tokenizer.json` as it is
    /// (transformers would assume lower case there).
    ///
    /// # Errors
    /// No tokenizer in the folder; files that are damaged.
    pub fn load(dir: &Path) -> Result<Tokenizer> {
        load::load(dir)
    }

    /// The folder it was loaded from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The special tokens that the vocabulary has.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// The id of the `[CLS]` token.
    ///
    /// # Errors
    /// A vocabulary without one.
    pub fn cls(&self) -> Result<u32> {
        self.required(self.special.cls, "cls", "[CLS] or <s>")
    }

    /// The id of the `[SEP]` token.
    ///
    /// # Errors
    /// A vocabulary without one.
    pub fn sep(&self) -> Result<u32> {
        self.required(self.special.sep, "sep", "[SEP] or </s>")
    }

    /// The id of the `[MASK]` token.
    ///
    /// # Errors
    /// A vocabulary without one.
    pub fn mask(&self) -> Result<u32> {
        self.required(self.special.mask, "mask", "[MASK] or <mask>")
    }

    fn required(&self, id: Option<u32>, which: &'static str, usual: &'static str) -> Result<u32> {
        id.ok_or_else(|| DataError::NoSpecialToken { path: self.dir.clone(), which, usual })
    }

    /// The largest id plus one: the rows that an embedding must have.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// A hash of the files that it was loaded from.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// The token of an id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The tokens of ids, parted by spaces: what the model sees, for a person to read.
    pub fn readable(&self, ids: &[u32]) -> String {
        let token = |&id: &u32| self.token(id).unwrap_or_else(|| format!("<id {id}>"));
        ids.iter().map(token).collect::<Vec<_>>().join(" ")
    }

    /// The special tokens that go around one text or a pair.
    pub fn added_tokens(&self, pair: bool) -> usize {
        self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(pair))
    }

    /// Copies the files that the tokenizer is made of to another folder.
    ///
    /// # Errors
    /// A file that cannot be copied.
    pub fn save(&self, dir: &Path) -> Result<()> {
        load::copy_files(&self.dir, dir)
    }

    /// Tokenizes texts and pairs, special tokens around them, in parallel; the result does not depend on the number of
    /// threads. `source` is what messages call the file.
    ///
    /// # Errors
    /// A length that leaves no room for text; overlong texts where `options` call that an error.
    pub fn encode_all(&self, examples: &[Example], source: &Path, options: EncodeOptions) -> Result<Encoded> {
        let added = self.added_tokens(examples.iter().any(|example| example.pair.is_some()));
        if options.max_length <= added {
            return Err(DataError::Request {
                what: "max_length",
                found: options.max_length.to_string(),
                expected: format!("more than the {added} special tokens"),
                help: "128 is usual for short texts; leave it out for the most that the model takes",
            });
        }
        self.run(examples, source, Some(options))
    }

    /// Tokenizes texts whole, without special tokens and without a limit: what [`crate::blocks()`] packs.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn encode_documents(&self, documents: &[Example], source: &Path) -> Result<Corpus> {
        Ok(self.run(documents, source, None)?.corpus)
    }

    /// The tokens that each text or pair has uncut, special tokens included.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn lengths(&self, examples: &[Example], source: &Path) -> Result<Vec<u32>> {
        let lengths: Vec<Result<Vec<u32>>> = examples
            .par_chunks(CHUNK)
            .map(|chunk| {
                let length = |example: &Example| {
                    let (first, second) = self.pieces(example, source)?;
                    let text = first.len() + second.as_ref().map_or(0, Encoding::len);
                    Ok((text + self.added_tokens(second.is_some())) as u32)
                };
                guarded(chunk, source, || chunk.iter().map(length).collect())
            })
            .collect();
        lengths.into_iter().collect::<Result<Vec<_>>>().map(|chunks| chunks.concat())
    }

    fn run(&self, examples: &[Example], source: &Path, options: Option<EncodeOptions>) -> Result<Encoded> {
        let parts: Vec<Result<Part>> = examples
            .par_chunks(CHUNK)
            .enumerate()
            .map(|(chunk, examples)| {
                guarded(examples, source, || self.encode_chunk(examples, chunk * CHUNK, source, options))
            })
            .collect();
        let mut all = Encoded::default();
        let mut overlong: Option<(u64, usize)> = None;
        let mut count = 0;
        for part in parts {
            let part = part?;
            all.corpus.append(&part.encoded.corpus);
            all.kept.extend(part.encoded.kept);
            all.truncated.extend(part.encoded.truncated);
            all.dropped.extend(part.encoded.dropped);
            all.tokens_cut += part.encoded.tokens_cut;
            count += part.overlong;
            overlong = overlong.or(part.first_overlong);
        }
        match (options, overlong) {
            (Some(EncodeOptions { max_length, on_overlong: Overlong::Error }), Some((line, length))) => {
                Err(DataError::Overlong { path: source.to_path_buf(), line, length, max_length, count })
            }
            _ => Ok(all),
        }
    }

    fn encode_chunk(
        &self,
        examples: &[Example],
        start: usize,
        source: &Path,
        options: Option<EncodeOptions>,
    ) -> Result<Part> {
        let mut part = Part::default();
        let out = &mut part.encoded;
        for (index, example) in (start as u32..).zip(examples) {
            let (mut first, mut second) = self.pieces(example, source)?;
            if let Some(EncodeOptions { max_length, on_overlong }) = options {
                let added = self.added_tokens(second.is_some());
                let length = first.len() + second.as_ref().map_or(0, Encoding::len) + added;
                if length > max_length {
                    part.overlong += 1;
                    part.first_overlong.get_or_insert((example.line, length));
                    match on_overlong {
                        Overlong::Error => continue,
                        Overlong::Drop => {
                            out.dropped.push(index);
                            continue;
                        }
                        Overlong::Truncate => {
                            out.truncated.push(index);
                            out.tokens_cut += (length - max_length) as u64;
                        }
                    }
                    let room = TruncationParams { max_length: max_length - added, ..TruncationParams::default() };
                    (first, second) = truncate_encodings(first, second, &room).map_err(refused(source, example))?;
                    // What was cut off hangs on the rest and would be processed with it.
                    first.take_overflowing();
                    second.as_mut().map(Encoding::take_overflowing);
                }
            }
            let special = options.is_some();
            let whole = self.inner.post_process(first, second, special).map_err(refused(source, example))?;
            self.append(&mut out.corpus, &whole);
            out.kept.push(index);
        }
        Ok(part)
    }

    /// The tokens of a text, and of its pair, without special tokens; the words of the pair count on.
    fn pieces(&self, example: &Example, source: &Path) -> Result<(Encoding, Option<Encoding>)> {
        let encode = |text: &str| self.inner.encode(text, false).map_err(refused(source, example));
        let first = encode(&example.text)?;
        let Some(pair) = &example.pair else { return Ok((first, None)) };
        let mut second = encode(pair)?;
        let words = first.get_word_ids().iter().flatten().max().map_or(0, |word| word + 1);
        second.get_word_ids_mut().iter_mut().flatten().for_each(|word| *word += words);
        second.set_type_ids(vec![1; second.len()]);
        Ok((first, Some(second)))
    }

    fn append(&self, corpus: &mut Corpus, encoding: &Encoding) {
        let tokens = encoding.get_ids().iter().zip(encoding.get_type_ids()).zip(encoding.get_word_ids());
        for (((&id, &kind), word), &special) in tokens.zip(encoding.get_special_tokens_mask()) {
            // A special token spelled out in a text is one to the model, so it is one here.
            let special = special == 1 || self.is_special(id);
            corpus.push(id, kind as u8, word.filter(|_| !special).unwrap_or(SPECIAL));
        }
        corpus.end();
    }

    fn is_special(&self, id: u32) -> bool {
        [self.special.cls, self.special.sep, self.special.pad, self.special.mask].contains(&Some(id))
    }
}

/// How many texts one task takes: enough to hide its cost, few enough to share the work out.
const CHUNK: usize = 64;

#[derive(Default)]
struct Part {
    encoded: Encoded,
    overlong: usize,
    /// The line and the length of the first.
    first_overlong: Option<(u64, usize)>,
}

/// The work on a chunk of texts; a panic of the `tokenizers` crate becomes an error at the chunk's first line.
fn guarded<T>(chunk: &[Example], source: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    load::guarded(work).unwrap_or_else(|reason| {
        let (path, line) = (source.to_path_buf(), chunk.first().map_or(0, |example| example.line));
        Err(DataError::Tokenize { path, line, reason: format!("{reason} (here or up to {CHUNK} texts later)") })
    })
}

fn refused<'a>(source: &'a Path, example: &'a Example) -> impl Fn(tokenizers::Error) -> DataError + 'a {
    move |error| DataError::Tokenize { path: source.to_path_buf(), line: example.line, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
    }

    fn example(text: &str, pair: Option<&str>) -> Example {
        Example { text: text.to_string(), pair: pair.map(str::to_string), label: None, line: 1 }
    }

    const WHOLE: EncodeOptions = EncodeOptions { max_length: 512, on_overlong: Overlong::Error };

    #[derive(Deserialize)]
    struct Golden {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        text: String,
        pair: Option<String>,
        ids: Vec<u32>,
        token_type_ids: Vec<u8>,
    }

    /// The ids and types that transformers gives, through tokenizer.json and through vocab.txt alone.
    #[test]
    fn ids_are_those_of_transformers() -> Result<(), Box<dyn std::error::Error>> {
        let golden: Golden = serde_json::from_slice(&std::fs::read(fixture("tokenize.json"))?)?;
        assert!(golden.cases.len() >= 20);
        let only_vocabulary = tempfile::tempdir()?;
        std::fs::copy(fixture("bert-tiny/vocab.txt"), only_vocabulary.path().join("vocab.txt"))?;
        for dir in [fixture("bert-tiny").as_path(), only_vocabulary.path()] {
            let tokenizer = Tokenizer::load(dir)?;
            for case in &golden.cases {
                let encoded = tokenizer.encode_all(&[example(&case.text, case.pair.as_deref())], dir, WHOLE)?;
                let (mut ids, mut types) = (case.ids.clone(), case.token_type_ids.clone());
                // Given one pair whose second text is empty, transformers forgets that it is a pair; given a list of
                // pairs, as training does, it does not. Here an empty second text is a second text.
                if case.pair.as_deref() == Some("") {
                    ids.push(tokenizer.sep()?);
                    types.push(1);
                }
                assert_eq!(encoded.corpus.ids, ids, "{:?} + {:?}", case.text, case.pair);
                assert_eq!(encoded.corpus.types, types, "{:?} + {:?}", case.text, case.pair);
            }
        }
        Ok(())
    }

    #[test]
    fn words_hold_their_pieces_together() -> Result<()> {
        let tokenizer = Tokenizer::load(&fixture("bert-tiny"))?;
        let encoded =
            tokenizer.encode_all(&[example("Walking, walked", Some("the [MASK] cat"))], Path::new("t"), WHOLE)?;
        // [CLS] walk ##ing , walk ##ed [SEP] the [MASK] cat [SEP]
        let s = SPECIAL;
        assert_eq!(
            encoded.corpus.words,
            [s, 0, 0, 1, 2, 2, s, 3, s, 5, s],
            "{}",
            tokenizer.readable(&encoded.corpus.ids)
        );
        Ok(())
    }

    /// The longest text, then the tokens that are left of each text of the pair below.
    const TRUNCATED: [(usize, usize, usize); 8] =
        [(4, 1, 0), (5, 1, 1), (8, 3, 2), (11, 4, 4), (13, 5, 5), (14, 6, 5), (15, 7, 5), (19, 7, 5)];

    /// Expected from transformers 5.23 with `truncation=True` (longest first) on the same fixture.
    #[test]
    fn pairs_lose_tokens_from_the_longer_text() -> Result<()> {
        let tokenizer = Tokenizer::load(&fixture("bert-tiny"))?;
        let pair = example("the cat sat on the mat .", Some("the dog ran"));
        for (max_length, first, second) in TRUNCATED {
            let options = EncodeOptions { max_length, on_overlong: Overlong::Truncate };
            let encoded = tokenizer.encode_all(std::slice::from_ref(&pair), Path::new("t"), options)?;
            let types = &encoded.corpus.types;
            let seconds = types.iter().filter(|&&kind| kind == 1).count();
            assert_eq!((types.len() - seconds - 2, seconds - 1), (first, second), "at {max_length}");
            assert_eq!(encoded.truncated, if max_length < 15 { vec![0] } else { vec![] }, "at {max_length}");
        }
        Ok(())
    }

    #[test]
    fn overlong_texts_are_cut_dropped_or_refused_as_said() -> Result<()> {
        let tokenizer = Tokenizer::load(&fixture("bert-tiny"))?;
        let mut examples: Vec<Example> = (0..200).map(|_| example("the cat", None)).collect();
        examples[70] = Example { line: 71, ..example("the cat the cat", None) };
        examples[130] = Example { line: 131, ..example("the the cat", None) };
        let encode = |on_overlong| {
            tokenizer.encode_all(&examples, Path::new("t.csv"), EncodeOptions { max_length: 4, on_overlong })
        };
        let cut = encode(Overlong::Truncate)?;
        assert_eq!((cut.truncated, cut.tokens_cut, cut.corpus.len()), (vec![70, 130], 3, 200));
        assert!(cut.corpus.lengths().iter().all(|&length| length == 4));
        let dropped = encode(Overlong::Drop)?;
        assert_eq!((dropped.dropped, dropped.corpus.len(), dropped.kept[70]), (vec![70, 130], 198, 71));
        let error = encode(Overlong::Error).map(|_| ()).map_err(|e| e.to_string()).expect_err("too long");
        assert!(error.starts_with("t.csv:71: found a text of 6 tokens (2 texts"), "{error}");
        assert!(tokenizer.encode_all(&examples, Path::new("t.csv"), EncodeOptions { max_length: 2, ..WHOLE }).is_err());
        assert_eq!(tokenizer.lengths(&examples, Path::new("t.csv"))?[70], 6);
        Ok(())
    }

    #[test]
    fn a_saved_tokenizer_is_the_same() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let tokenizer = Tokenizer::load(&fixture("bert-tiny"))?;
        tokenizer.save(dir.path())?;
        assert_eq!(Tokenizer::load(dir.path())?.fingerprint(), tokenizer.fingerprint());
        assert!(tokenizer.save(&dir.path().join("missing")).is_err());
        std::fs::write(dir.path().join("tokenizer_config.json"), "{\"do_lower_case\": false}")?;
        let cased = Tokenizer::load(dir.path())?;
        assert_ne!(cased.fingerprint(), tokenizer.fingerprint());
        let upper = [example("THE", None)];
        assert_eq!(tokenizer.readable(&tokenizer.encode_documents(&upper, dir.path())?.ids), "the");
        assert_eq!(cased.readable(&cased.encode_documents(&upper, dir.path())?.ids), "[UNK]");
        Ok(())
    }

    #[test]
    fn broken_folders_are_answered_with_a_sentence() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let error = |files: &[(&str, &str)]| {
            for (name, text) in files {
                std::fs::write(dir.path().join(name), text).expect("a temporary folder can be written");
            }
            let error =
                Tokenizer::load(dir.path()).map(|_| ()).map_err(|e| e.to_string()).expect_err("a broken tokenizer");
            for (name, _) in files {
                std::fs::remove_file(dir.path().join(name)).expect("it was written just now");
            }
            error
        };
        assert!(error(&[]).contains("neither tokenizer.json nor vocab.txt"));
        assert!(error(&[("vocab.txt", "a\nb\n")]).contains("2 tokens without [CLS]"));
        assert!(
            error(&[("tokenizer.json", "{\"version\": \"1.0\"")])
                .contains("tokenizer.json: found a file that cannot be read")
        );
        let sound = String::from_utf8(std::fs::read(fixture("bert-tiny/tokenizer.json"))?)?;
        let ids = sound.find("\"ids\": [").ok_or("the fixture lists the ids of special tokens")? + 8;
        let strange = format!("{}999999, {}", &sound[..ids], &sound[ids..]);
        assert!(
            error(&[("tokenizer.json", &strange)]).contains("a special token of id 999999, beyond its vocabulary of ")
        );
        assert!(error(&[("vocab.txt", "[CLS]\n"), ("tokenizer_config.json", "[1]")]).contains("tokenizer_config.json"));
        Ok(())
    }
}
