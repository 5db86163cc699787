//! What can be known of a stage's data without training: how many texts and labels there are, how long the texts are.

use std::collections::BTreeSet;
use std::path::Path;

use luthier_data::{Columns, DataError, Example, Format, Rows, Tokenizer};
use serde::Serialize;
use serde_json::Value as Json;

use crate::error::Result;
use crate::recipe::{Dev, Stage};

/// How much text is read before the rest of a file is estimated from its size: `plan` answers at once.
const MAX_BYTES: u64 = 32 << 20;
/// How many texts are tokenised to learn how long they are.
const SAMPLE: usize = 512;
/// Pieces of a word, on average, where there is no tokenizer to ask (WordPiece on English text has about 1.3).
const PIECES_PER_WORD: f64 = 1.3;
/// Tokens of a text where there is no text either.
const ASSUMED_TOKENS: f64 = 128.0;
/// Labels where nothing says how many.
const ASSUMED_LABELS: u64 = 2;

/// How a number came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// Counted in the data.
    Counted,
    /// Estimated from a part of the data.
    Estimated,
    /// Read in `config.json`.
    Config,
    /// Assumed: there was nothing to read.
    Assumed,
}

/// A number, and how it came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Count {
    /// The number.
    pub count: u64,
    /// How it came about.
    pub known: Known,
}

/// What the training texts of a stage are like.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Texts {
    /// How many there are, dev data set aside; blocks, where texts are joined. `None`: nothing to read.
    pub examples: Option<Count>,
    /// Tokens of one, on average.
    pub tokens: f64,
    /// How the tokens came about.
    pub tokens_known: Known,
    /// The most tokens of one.
    pub max_length: u64,
    /// Whether texts are joined and cut into blocks.
    pub packed: bool,
}

/// What is known of a stage's data.
pub(super) struct Facts {
    /// How many labels, for an objective that has labels.
    pub(super) labels: Option<Count>,
    /// The texts.
    pub(super) texts: Texts,
}

/// What a pass over the training file found.
struct Read {
    rows: u64,
    /// What was read of the file, from 0 to 1.
    share: f64,
    labels: BTreeSet<String>,
    sample: Vec<Example>,
}

/// Looks at a stage's data; `folder` is the model's.
pub(super) fn facts(stage: &Stage, config: &Json, folder: Option<&Path>, max_length: usize) -> Result<Facts> {
    let data = &stage.data;
    let labelled = stage.objective.get().task().labelled;
    let format = data.format.map_or_else(|| Format::of(&data.train), Ok)?;
    let packed = !labelled && data.pack.unwrap_or(format == Format::Text);
    let found = read(stage, format, labelled)?;
    let labels = labelled.then(|| match &found {
        Some(found) if found.labels.len() >= 2 => {
            let known = if found.share < 1.0 { Known::Estimated } else { Known::Counted };
            Count { count: found.labels.len() as u64, known }
        }
        _ => labels_of(config),
    });
    let tokenizer = folder.map(Tokenizer::load).and_then(|loaded| loaded.ok());
    let (tokens, known) = tokens(found.as_ref(), tokenizer.as_ref(), &data.train)?;
    let mean = |tokens: &[f64]| tokens.iter().sum::<f64>() / tokens.len().max(1) as f64;
    let longest = max_length as f64;
    let (length, tokens_known) = match (tokens.is_empty(), packed) {
        (true, true) => (longest, Known::Assumed),
        (true, false) => (ASSUMED_TOKENS.min(longest), Known::Assumed),
        (false, true) => (longest, Known::Counted),
        (false, false) => (mean(&tokens.iter().map(|&n| n.min(longest)).collect::<Vec<_>>()), known),
    };
    let examples = found.map(|found| {
        let kept = match data.dev {
            Some(Dev::Fraction(part)) => 1.0 - part,
            _ => 1.0,
        };
        let rows = found.rows as f64 / found.share.max(1e-9);
        let exact = !packed && found.share >= 1.0;
        // A block holds the tokens of texts, a separator after each, between two special tokens.
        let examples = if packed { rows * (mean(&tokens) - 1.0).max(1.0) / (longest - 2.0).max(1.0) } else { rows };
        let known = if exact { Known::Counted } else { Known::Estimated };
        Count { count: ((examples * kept).round() as u64).max(1), known }
    });
    let max_length = max_length as u64;
    Ok(Facts { labels, texts: Texts { examples, tokens: length, tokens_known, max_length, packed } })
}

/// One pass over the training file, as far as it goes quickly; nothing where the file is not there.
fn read(stage: &Stage, format: Format, labelled: bool) -> Result<Option<Read>> {
    let path = &stage.data.train;
    let plain = format == Format::Text;
    let rows = match Rows::open(path, Some(format), stage.data.unit) {
        Ok(rows) => rows,
        Err(DataError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut columns = stage.data.columns(labelled);
    if plain {
        columns = Columns { text: "text".to_owned(), pair: None, label: None };
    }
    rows.check(&columns)?;
    let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let mut found = Read { rows: 0, share: 1.0, labels: BTreeSet::new(), sample: Vec::new() };
    let (mut bytes, mut stride) = (0, 1);
    for row in rows {
        let row = row?;
        bytes += row.fields.iter().map(|(_, value)| value.as_str().len() as u64 + 1).sum::<u64>();
        let mut example = luthier_data::read::example(&row, &columns, path)?;
        if plain && example.text.trim().is_empty() {
            continue;
        }
        found.labels.extend(example.label.take());
        // Every stride-th text, the stride doubled whenever the sample is full: spread over the file in one pass.
        if found.rows.is_multiple_of(stride) {
            found.sample.push(example);
            if found.sample.len() == 2 * SAMPLE {
                let mut keep = false;
                found.sample.retain(|_| {
                    keep = !keep;
                    keep
                });
                stride *= 2;
            }
        }
        found.rows += 1;
        if bytes > MAX_BYTES {
            found.share = (bytes as f64 / size.max(bytes) as f64).min(1.0);
            break;
        }
    }
    Ok(Some(found))
}

/// The tokens of the texts of the sample.
fn tokens(found: Option<&Read>, tokenizer: Option<&Tokenizer>, path: &Path) -> Result<(Vec<f64>, Known)> {
    let Some(found) = found else { return Ok((Vec::new(), Known::Assumed)) };
    let whole = found.sample.len() as u64 == found.rows && found.share >= 1.0;
    if let Some(tokenizer) = tokenizer {
        let lengths = tokenizer.lengths(&found.sample, path)?;
        let known = if whole { Known::Counted } else { Known::Estimated };
        return Ok((lengths.into_iter().map(f64::from).collect(), known));
    }
    let words = |text: &str| text.split_whitespace().count() as f64 * PIECES_PER_WORD;
    let length = |example: &Example| match &example.pair {
        Some(pair) => words(&example.text) + words(pair) + 3.0,
        None => words(&example.text) + 2.0,
    };
    Ok((found.sample.iter().map(length).collect(), Known::Estimated))
}

/// The labels that a fine-tuned base model has, else an assumption.
fn labels_of(config: &Json) -> Count {
    let named = config.get("id2label").and_then(Json::as_object).map(|labels| labels.len() as u64);
    let said =
        named.or(config.get("num_labels").and_then(Json::as_u64)).filter(|&count| (2..=1 << 20).contains(&count));
    match said {
        Some(count) => Count { count, known: Known::Config },
        None => Count { count: ASSUMED_LABELS, known: Known::Assumed },
    }
}
