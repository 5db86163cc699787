//! A vocabulary made from texts, for a model that is trained from scratch.

use crate::error::{DataError, Result};
use crate::tokenize::{Tokenizer, bert_tokenizer};
use rayon::prelude::*;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::path::Path;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

/// The special tokens of BERT; their ids are their places.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// The most characters with a token of their own; words with rarer ones become `[UNK]`.
const ALPHABET: usize = 1000;
/// The longest word that BERT's tokenizer spells.
const LONGEST_WORD: usize = 100;
/// Below this a vocabulary has no room for an alphabet.
const SMALLEST: usize = 64;

/// Makes a WordPiece vocabulary of at most `size` tokens from texts and writes it to `dir` as `tokenizer.json`,
/// `vocab.txt` and `tokenizer_config.json`, which transformers' `AutoTokenizer` loads. Lower-case, as BERT's uncased
/// models. The same texts give the same files.
///
/// # Errors
/// A size below 64; a folder that cannot be written.
pub fn from_scratch(texts: &[&str], size: usize, max_length: usize, dir: &Path) -> Result<Tokenizer> {
    if size < SMALLEST {
        return Err(DataError::Request {
            what: "the size of the vocabulary",
            found: size.to_string(),
            expected: format!("at least {SMALLEST}"),
            help: "8000 suits a small model, 30000 is BERT's",
        });
    }
    let vocabulary = wordpieces(&count_words(texts)?, size);
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        let help = "check the folder and the free space".to_string();
        std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&path, bytes)).map_err(|source| DataError::Io {
            path,
            action: "write the tokenizer",
            source,
            help,
        })
    };
    let others = ["[PAD]".to_string(), "[MASK]".to_string()];
    let json = bert_tokenizer(&vocabulary, "[CLS]", "[SEP]", "[UNK]", &others, BertNormalizer::default())
        .and_then(|tokenizer| tokenizer.to_string(true))
        .map_err(|error| DataError::Tokenizer {
            path: dir.to_path_buf(),
            found: error.to_string(),
            expected: "a tokenizer".to_string(),
            help: "this is a fault of the program",
        })?;
    let config = serde_json::json!({
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": true,
        "strip_accents": null,
        "tokenize_chinese_chars": true,
        "model_max_length": max_length,
        "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]", "unk_token": "[UNK]",
    });
    write("tokenizer.json", json.as_bytes())?;
    write("vocab.txt", (vocabulary.join("\n") + "\n").as_bytes())?;
    write("tokenizer_config.json", format!("{config:#}\n").as_bytes())?;
    Tokenizer::load(dir)
}

/// How often each word occurs, as BERT's normaliser and splitter see words.
fn count_words(texts: &[&str]) -> Result<BTreeMap<String, u64>> {
    let normalizer = BertNormalizer::default();
    let count = |texts: &[&str]| -> tokenizers::Result<BTreeMap<String, u64>> {
        let mut counts = BTreeMap::new();
        for &text in texts {
            let mut text = NormalizedString::from(text);
            normalizer.normalize(&mut text)?;
            let mut words = PreTokenizedString::from(text);
            BertPreTokenizer.pre_tokenize(&mut words)?;
            for (word, _, _) in words.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
                match counts.get_mut(word) {
                    Some(count) => *count += 1,
                    None => _ = counts.insert(word.to_string(), 1),
                }
            }
        }
        Ok(counts)
    };
    let parts: Vec<_> = texts.par_chunks(1024).map(count).collect();
    let mut all = BTreeMap::new();
    for part in parts {
        let part = part.map_err(|error| DataError::Request {
            what: "the texts of the vocabulary",
            found: error.to_string(),
            expected: "texts".to_string(),
            help: "this is a fault of the program",
        })?;
        for (word, count) in part {
            *all.entry(word).or_insert(0) += count;
        }
    }
    Ok(all)
}

type Pair = (u32, u32);

/// The vocabulary: special tokens, the alphabet at the start and inside (`##`) of words, then pieces made by joining
/// the most frequent pair of neighbours again and again, as BPE does (Sennrich, Haddow and Birch 2016,
/// <https://arxiv.org/abs/1508.07909>); of equally frequent pairs, the one of the older pieces. Pairs that occur once
/// are not joined, so few texts may give fewer tokens than asked for.
fn wordpieces(counts: &BTreeMap<String, u64>, size: usize) -> Vec<String> {
    let mut characters: BTreeMap<char, u64> = BTreeMap::new();
    for (word, count) in counts {
        word.chars().for_each(|c| *characters.entry(c).or_insert(0) += count);
    }
    let mut by_count: Vec<(Reverse<u64>, char)> =
        characters.into_iter().map(|(c, count)| (Reverse(count), c)).collect();
    by_count.sort_unstable();
    // Each character takes two tokens; at least half of the vocabulary is left to longer pieces.
    by_count.truncate(ALPHABET.min((size - SPECIAL.len()) / 4));
    let alphabet: BTreeSet<char> = by_count.into_iter().map(|(_, c)| c).collect();

    let mut pieces: Vec<String> = SPECIAL.iter().map(|token| token.to_string()).collect();
    pieces.extend(alphabet.iter().map(char::to_string));
    // Many signs are always words of their own and never stand inside one.
    let inside: BTreeSet<char> = counts.keys().flat_map(|word| word.chars().skip(1)).collect();
    pieces.extend(alphabet.intersection(&inside).map(|c| format!("##{c}")));
    let mut ids: BTreeMap<String, u32> = pieces.iter().cloned().zip(0..).collect();

    // Words that the alphabet does not spell would be [UNK] whole, so they have no say.
    let mut words: Vec<(Vec<u32>, i64)> = Vec::new();
    for (word, &count) in counts {
        let spelled = word
            .chars()
            .enumerate()
            .map(|(i, c)| if i == 0 { ids.get(&c.to_string()).copied() } else { ids.get(&format!("##{c}")).copied() });
        if let Some(word) = spelled.collect::<Option<Vec<u32>>>().filter(|word| word.len() <= LONGEST_WORD) {
            words.push((word, count as i64));
        }
    }

    let mut pairs: BTreeMap<Pair, (i64, BTreeSet<usize>)> = BTreeMap::new();
    for (index, (word, count)) in words.iter().enumerate() {
        for pair in word.windows(2) {
            let entry = pairs.entry((pair[0], pair[1])).or_default();
            entry.0 += count;
            entry.1.insert(index);
        }
    }
    let mut heap: BinaryHeap<(i64, Reverse<Pair>)> =
        pairs.iter().map(|(&pair, entry)| (entry.0, Reverse(pair))).collect();
    while pieces.len() < size {
        let Some((count, Reverse(pair))) = heap.pop() else { break };
        let now = pairs.get(&pair).map_or(0, |entry| entry.0);
        if now != count {
            // Its count changed since it was put here; with the right one it was put here again.
            continue;
        }
        if count < 2 {
            break;
        }
        let joined = format!("{}{}", pieces[pair.0 as usize], pieces[pair.1 as usize].trim_start_matches("##"));
        let id = *ids.entry(joined.clone()).or_insert(pieces.len() as u32);
        if id as usize == pieces.len() {
            pieces.push(joined);
        }
        let Some((_, members)) = pairs.remove(&pair) else { continue };
        let mut changed: BTreeSet<Pair> = BTreeSet::new();
        for index in members {
            let (word, count) = &mut words[index];
            let joined = join(word, pair, id);
            for (pieces, sign) in [(&*word, -1), (&joined, 1)] {
                for neighbours in pieces.windows(2).map(|w| (w[0], w[1])).filter(|&p| p != pair) {
                    let entry = pairs.entry(neighbours).or_default();
                    entry.0 += sign * *count;
                    entry.1.insert(index);
                    changed.insert(neighbours);
                }
            }
            *word = joined;
        }
        heap.extend(changed.into_iter().map(|pair| (pairs[&pair].0, Reverse(pair))));
    }
    pieces
}

/// The word with each occurrence of the pair joined.
fn join(word: &[u32], pair: Pair, id: u32) -> Vec<u32> {
    let mut joined = Vec::with_capacity(word.len());
    let mut i = 0;
    while i < word.len() {
        let here = i + 1 < word.len() && (word[i], word[i + 1]) == pair;
        joined.push(if here { id } else { word[i] });
        i += 1 + usize::from(here);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::Example;

    fn counts(words: &[(&str, u64)]) -> BTreeMap<String, u64> {
        words.iter().map(|(word, count)| (word.to_string(), *count)).collect()
    }

    /// Joined by hand: l+o occurs 10 times, then lo+w 7 and lo+g 3, e+r... of "lower" 3 times.
    #[test]
    fn pairs_are_joined_by_count() {
        let pieces = wordpieces(&counts(&[("low", 4), ("lower", 3), ("log", 3), ("x", 9), ("rare", 1)]), 64);
        let alphabet = ["a", "e", "g", "l", "o", "r", "w", "x", "##a", "##e", "##g", "##o", "##r", "##w"];
        assert_eq!(pieces[..5], SPECIAL);
        assert_eq!(pieces[5..19], alphabet);
        // ##e ##r and low ##e are equally frequent: the pair of the older pieces goes first.
        assert_eq!(pieces[19..], ["lo", "low", "##er", "log", "lower"]);
    }

    #[test]
    fn a_made_vocabulary_spells_its_texts_and_is_made_the_same_again() -> Result<(), Box<dyn std::error::Error>> {
        let texts = ["The cat sat on the mat, the CAT sat.", "Café déjà-vu", "walking walked walker walks the walk"];
        let dirs = [tempfile::tempdir()?, tempfile::tempdir()?];
        let tokenizer = from_scratch(&texts, 128, 64, dirs[0].path())?;
        from_scratch(&texts, 128, 64, dirs[1].path())?;
        for name in ["tokenizer.json", "vocab.txt", "tokenizer_config.json"] {
            assert_eq!(std::fs::read(dirs[0].path().join(name))?, std::fs::read(dirs[1].path().join(name))?, "{name}");
        }
        assert_eq!((tokenizer.special().pad, tokenizer.cls()?, tokenizer.mask()?), (Some(0), 2, 4));
        let document = |text: &str| Example { text: text.to_string(), pair: None, label: None, line: 1 };
        let documents: Vec<Example> = texts.iter().map(|text| document(text)).collect();
        let corpus = tokenizer.encode_documents(&documents, Path::new("t"))?;
        let unknown = tokenizer.special().unk.ok_or("no [UNK]")?;
        assert!(!corpus.ids.contains(&unknown), "{}", tokenizer.readable(&corpus.ids));
        assert_eq!(tokenizer.readable(corpus.ids(0)).split(' ').take(3).collect::<Vec<_>>(), ["the", "cat", "sat"]);
        let unseen = tokenizer.encode_documents(&[document("☃")], Path::new("t"))?;
        assert_eq!(unseen.ids, [unknown]);
        assert!(from_scratch(&texts, 8, 64, dirs[0].path()).is_err());
        Ok(())
    }
}
