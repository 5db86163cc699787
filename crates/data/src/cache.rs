//! Tokenized texts kept on disk, found again by what they were made of.
//!
//! A file's name is a hash of the tokenizer's files, the texts, the options and the layout below, so nothing ever has
//! to be thrown away because something changed. A file that is damaged, cut short or of another layout is made anew;
//! it is never trusted. Layout, all little-endian: the magic, six counts of 64 bits, `ids`, `words`, `kept`,
//! `truncated`, `dropped` (32 bits each), `offsets` (64 bits), `types` (8 bits), and a BLAKE3 hash of all before it.

use crate::corpus::Corpus;
use crate::error::{DataError, Result};
use crate::read::Example;
use crate::tokenize::{EncodeOptions, Encoded, Overlong, Tokenizer};
use std::path::{Path, PathBuf};

/// The layout's name and version; another layout is another name.
const MAGIC: &[u8; 8] = b"LUTHTOK1";
const HASH: usize = 32;

/// A folder of tokenized texts. It grows by one file for each new combination of texts, tokenizer and options, and can
/// be deleted at any time.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

/// What the cache gave.
#[derive(Debug)]
pub struct Cached {
    /// The tokenized texts.
    pub encoded: Encoded,
    /// Whether they were read rather than made.
    pub hit: bool,
    /// Why they could not be kept for the next time, if so; nothing else is wrong then.
    pub unwritten: Option<DataError>,
}

impl Cache {
    /// A cache in a folder, which is made when there is something to keep.
    pub fn new(dir: &Path) -> Cache {
        Cache { dir: dir.to_path_buf() }
    }

    /// As [`Tokenizer::encode_all`], or read from the folder.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn encode_all(
        &self,
        tokenizer: &Tokenizer,
        examples: &[Example],
        source: &Path,
        options: EncodeOptions,
    ) -> Result<Cached> {
        let make = || tokenizer.encode_all(examples, source, options);
        self.find_or_make(&self.path(tokenizer, examples, Some(options)), make)
    }

    /// As [`Tokenizer::encode_documents`], or read from the folder.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn encode_documents(&self, tokenizer: &Tokenizer, documents: &[Example], source: &Path) -> Result<Cached> {
        let make = || Ok(Encoded { corpus: tokenizer.encode_documents(documents, source)?, ..Encoded::default() });
        self.find_or_make(&self.path(tokenizer, documents, None), make)
    }

    fn find_or_make(&self, path: &Path, make: impl FnOnce() -> Result<Encoded>) -> Result<Cached> {
        if let Some(encoded) = std::fs::read(path).ok().and_then(|bytes| parse(&bytes)) {
            return Ok(Cached { encoded, hit: true, unwritten: None });
        }
        let encoded = make()?;
        let unwritten = self.write(path, &encoded).err();
        Ok(Cached { encoded, hit: false, unwritten })
    }

    fn path(&self, tokenizer: &Tokenizer, examples: &[Example], options: Option<EncodeOptions>) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        hasher.update(MAGIC).update(&tokenizer.fingerprint());
        let (max_length, on_overlong) = match options {
            None => (0, 0),
            Some(EncodeOptions { max_length, on_overlong: Overlong::Truncate }) => (max_length, 1),
            Some(EncodeOptions { max_length, on_overlong: Overlong::Drop }) => (max_length, 2),
            Some(EncodeOptions { max_length, on_overlong: Overlong::Error }) => (max_length, 3),
        };
        hasher.update(&(max_length as u64).to_le_bytes()).update(&[on_overlong]);
        for example in examples {
            // Lengths go first, so that no two lists of texts hash the same bytes; a missing pair is no empty pair.
            hasher.update(&(example.text.len() as u64).to_le_bytes()).update(example.text.as_bytes());
            match &example.pair {
                None => _ = hasher.update(&[0]),
                Some(pair) => {
                    hasher.update(&[1]).update(&(pair.len() as u64).to_le_bytes()).update(pair.as_bytes());
                }
            }
        }
        self.dir.join(format!("{}.tokens", hasher.finalize().to_hex()))
    }

    /// Writes aside and renames, so that a reader finds a whole file or none.
    fn write(&self, path: &Path, encoded: &Encoded) -> Result<()> {
        let aside = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = std::fs::create_dir_all(&self.dir)
            .and_then(|()| std::fs::write(&aside, bytes(encoded)))
            .and_then(|()| std::fs::rename(&aside, path));
        written.map_err(|source| {
            // What is left of it is of no use; if it cannot be taken away either, the first error says more.
            let _ = std::fs::remove_file(&aside);
            let help = "the texts are tokenized again next time; check the folder and the free space".to_string();
            DataError::Io { path: path.to_path_buf(), action: "keep the tokenized texts", source, help }
        })
    }
}

fn bytes(encoded: &Encoded) -> Vec<u8> {
    let Encoded { corpus, kept, truncated, dropped, tokens_cut } = encoded;
    let mut bytes = MAGIC.to_vec();
    let counts = [corpus.ids.len(), corpus.offsets.len(), kept.len(), truncated.len(), dropped.len()];
    for count in counts.into_iter().map(|count| count as u64).chain([*tokens_cut]) {
        bytes.extend(count.to_le_bytes());
    }
    for numbers in [&corpus.ids, &corpus.words, kept, truncated, dropped] {
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }
    bytes.extend(corpus.offsets.iter().flat_map(|number| number.to_le_bytes()));
    bytes.extend_from_slice(&corpus.types);
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

/// The contents of a file, if it is whole and sound.
fn parse(bytes: &[u8]) -> Option<Encoded> {
    let (payload, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH)?)?;
    if !payload.starts_with(MAGIC) || blake3::hash(payload) != *<&[u8; HASH]>::try_from(hash).ok()? {
        return None;
    }
    let mut rest = &payload[MAGIC.len()..];
    let mut counts = [0u64; 6];
    for count in &mut counts {
        *count = u64::from_le_bytes(*take(&mut rest, 8)?.first_chunk()?);
    }
    let [tokens, offsets, kept, truncated, dropped, tokens_cut] = counts;
    let [ids, words] = [numbers(&mut rest, tokens)?, numbers(&mut rest, tokens)?];
    let [kept, truncated, dropped] =
        [numbers(&mut rest, kept)?, numbers(&mut rest, truncated)?, numbers(&mut rest, dropped)?];
    let offsets: Vec<u64> = take(&mut rest, usize::try_from(offsets).ok()?.checked_mul(8)?)?
        .chunks_exact(8)
        .filter_map(|chunk| chunk.first_chunk().copied().map(u64::from_le_bytes))
        .collect();
    let types = take(&mut rest, usize::try_from(tokens).ok()?)?.to_vec();
    let corpus = Corpus::new(ids, types, words, offsets).ok()?;
    rest.is_empty().then_some(Encoded { corpus, kept, truncated, dropped, tokens_cut })
}

/// The next `n` bytes; nothing is allocated for a count that the file does not hold.
fn take<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(n)?;
    *rest = left;
    Some(taken)
}

fn numbers(rest: &mut &[u8], count: u64) -> Option<Vec<u32>> {
    let bytes = take(rest, usize::try_from(count).ok()?.checked_mul(4)?)?;
    Some(bytes.chunks_exact(4).filter_map(|chunk| chunk.first_chunk().copied().map(u32::from_le_bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn examples() -> Vec<Example> {
        let text = |i: u64| ["the cat sat", "the dog", "walking walked the cat"][i as usize % 3].to_string();
        (0..30)
            .map(|i| Example { text: text(i), pair: (i % 2 == 0).then(|| text(i + 1)), label: None, line: i })
            .collect()
    }

    fn tokenizer() -> Result<Tokenizer> {
        Tokenizer::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bert-tiny"))
    }

    const OPTIONS: EncodeOptions = EncodeOptions { max_length: 8, on_overlong: Overlong::Truncate };

    #[test]
    fn what_was_kept_is_found_and_what_differs_is_not() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let (cache, tokenizer) = (Cache::new(dir.path()), tokenizer()?);
        let encode = |examples: &[Example], options| cache.encode_all(&tokenizer, examples, Path::new("t"), options);
        let (first, again) = (encode(&examples(), OPTIONS)?, encode(&examples(), OPTIONS)?);
        assert!(!first.hit && again.hit && first.encoded == again.encoded);
        assert_eq!(again.encoded, tokenizer.encode_all(&examples(), Path::new("t"), OPTIONS)?);
        assert!(!again.encoded.truncated.is_empty());

        assert!(!encode(&examples()[1..], OPTIONS)?.hit);
        assert!(!encode(&examples(), EncodeOptions { max_length: 9, ..OPTIONS })?.hit);
        assert!(!encode(&examples(), EncodeOptions { on_overlong: Overlong::Drop, ..OPTIONS })?.hit);
        let mut other = examples();
        (other[1].text, other[1].pair) = ("the".to_string(), Some("dog".to_string()));
        assert!(!encode(&other, OPTIONS)?.hit);
        assert!(!cache.encode_documents(&tokenizer, &examples(), Path::new("t"))?.hit);
        assert!(cache.encode_documents(&tokenizer, &examples(), Path::new("t"))?.hit);
        Ok(())
    }

    #[test]
    fn a_damaged_file_is_made_anew() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let (cache, tokenizer) = (Cache::new(dir.path()), tokenizer()?);
        let encode = || cache.encode_all(&tokenizer, &examples(), Path::new("t"), OPTIONS);
        let first = encode()?;
        let path = cache.path(&tokenizer, &examples(), Some(OPTIONS));
        let whole = std::fs::read(&path)?;
        for damaged in [&whole[..whole.len() - 1], &whole[..20], &[], &[whole.as_slice(), &[0]].concat()] {
            std::fs::write(&path, damaged)?;
            let again = encode()?;
            assert!(!again.hit && again.encoded == first.encoded && encode()?.hit);
        }
        Ok(())
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_said_and_does_not_stop() -> Result<(), Box<dyn std::error::Error>> {
        let file = tempfile::NamedTempFile::new()?;
        let cached = Cache::new(file.path()).encode_all(&tokenizer()?, &examples(), Path::new("t"), OPTIONS)?;
        assert!(!cached.hit && cached.unwritten.is_some());
        Ok(())
    }

    proptest! {
        /// Any one byte changed is noticed.
        #[test]
        fn every_byte_counts(at in 0usize..1_000_000, flip in 1u8..) {
            let mut file = bytes(&tokenizer()?.encode_all(&examples()[..3], Path::new("t"), OPTIONS)?);
            prop_assert!(parse(&file).is_some());
            let at = at % file.len();
            file[at] ^= flip;
            prop_assert!(parse(&file).is_none());
        }

        /// Counts that lie under a good hash neither allocate nor panic.
        #[test]
        fn lying_counts_are_refused(counts in prop::array::uniform6(prop_oneof![0u64..9, any::<u64>()])) {
            let mut file = MAGIC.to_vec();
            counts.iter().for_each(|count| file.extend(count.to_le_bytes()));
            let hash = blake3::hash(&file);
            file.extend_from_slice(hash.as_bytes());
            prop_assert!(parse(&file).is_none());
        }
    }
}
