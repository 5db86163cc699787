//! The data of a stage, from files to tokens: read, split, tokenised, cached.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use luthier_data::{
    Cache, Cached, EncodeOptions, Example, Format, Labels, Tokenizer, blocks,
    overlap::Index,
    read::{read_documents, read_examples},
    split_dev,
};
use luthier_objectives::Examples;
use luthier_record::{Event, Level, Split};

use crate::error::Result;
use crate::recipe::{Data, Dev};

/// One split of a stage's data.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// The file it came from.
    pub source: PathBuf,
    /// The texts as tokens, with their labels where the objective has them.
    pub examples: Examples,
    /// The line of each text in its file; empty where texts were joined.
    pub lines: Vec<u64>,
    /// How many texts were cut because they were too long.
    pub cut: u64,
    /// How many were dropped because they were.
    pub dropped: u64,
}

/// The data of a stage.
#[derive(Debug, Clone, Default)]
pub struct StageData {
    /// The labels, sorted, for an objective that has them.
    pub labels: Option<Labels>,
    /// What is learned from.
    pub train: Part,
    /// What decides.
    pub dev: Option<Part>,
    /// What is measured once.
    pub test: Option<Part>,
    /// What a person should know.
    pub notices: Vec<Event>,
}

impl StageData {
    /// The splits there are, by name.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, &Part)> {
        let rest = [("dev", self.dev.as_ref()), ("test", self.test.as_ref())];
        [("train", Some(&self.train))].into_iter().chain(rest).filter_map(|(name, part)| Some((name, part?)))
    }

    /// The sizes of the splits.
    pub fn splits(&self) -> BTreeMap<String, Split> {
        let size = |part: &Part| Split {
            examples: part.examples.corpus.len() as u64,
            tokens: part.examples.corpus.tokens() as u64,
            cut: part.cut,
        };
        self.parts().map(|(name, part)| (name.to_owned(), size(part))).collect()
    }
}

/// How a stage's texts become tokens.
pub struct Preparation<'a> {
    /// The stage's data table.
    pub data: &'a Data,
    /// The tokenizer of the model.
    pub tokenizer: &'a Tokenizer,
    /// The most tokens of a sequence.
    pub max_length: usize,
    /// Where tokens are kept for the next time.
    pub cache: &'a Cache,
    /// The run's seed, for the dev split.
    pub seed: u64,
}

/// The texts of a split.
#[derive(Debug, Clone)]
pub struct Texts {
    /// Their file.
    pub source: PathBuf,
    /// The texts, with labels where the objective has them.
    pub examples: Vec<Example>,
}

/// The texts of a stage, before they become tokens.
#[derive(Debug, Clone)]
pub struct Sets {
    /// The labels of the training file.
    pub labels: Option<Labels>,
    /// What is learned from.
    pub train: Texts,
    /// What decides.
    pub dev: Option<Texts>,
    /// What is measured once.
    pub test: Option<Texts>,
}

impl Sets {
    /// The splits there are, by name.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, &Texts)> {
        let rest = [("dev", self.dev.as_ref()), ("test", self.test.as_ref())];
        [("train", Some(&self.train))].into_iter().chain(rest).filter_map(|(name, texts)| Some((name, texts?)))
    }

    /// What a person should know before the first step: labels with one example, texts of the training data that the
    /// later splits have as well.
    fn warnings(&self) -> Result<Vec<Event>> {
        let mut notices = Vec::new();
        if let Some(labels) = &self.labels {
            let counts = labels.counts(&labels.encode(&self.train.examples, &self.train.source)?);
            let single: Vec<&str> = labels
                .names()
                .iter()
                .zip(counts)
                .filter(|(_, count)| *count == 1)
                .map(|(name, _)| name.as_str())
                .collect();
            if !single.is_empty() {
                let text = format!("Labels with a single training example: {}.", single.join(", "));
                notices.push(warning(text, "labels", single.len() as u64));
            }
        }
        let train = Index::new(&self.train.examples, &self.train.source);
        for (name, texts) in self.parts().skip(1) {
            let rows = train.leakage("train", &Index::new(&texts.examples, &texts.source), name).rows as u64;
            if rows > 0 {
                let text = format!(
                    "{rows} of {} {name} texts are in the training data too: scores on them mean less. `luthier data` shows them.",
                    texts.examples.len()
                );
                notices.push(warning(text, "texts", rows));
            }
        }
        Ok(notices)
    }
}

fn warning(text: String, what: &str, count: u64) -> Event {
    Event::Notice { level: Level::Warning, text, counts: BTreeMap::from([(what.to_owned(), count)]) }
}

impl Preparation<'_> {
    /// Reads the files of a stage and sets the dev data aside.
    pub fn read(&self, labelled: bool) -> Result<Sets> {
        let all = self.texts_of(&self.data.train, labelled)?;
        let labels = labelled.then(|| Labels::from_examples(&all.examples, &all.source)).transpose()?;
        let (train, dev) = match &self.data.dev {
            Some(Dev::Fraction(fraction)) => {
                let targets = labels.as_ref().map(|labels| labels.encode(&all.examples, &all.source)).transpose()?;
                let split = split_dev(all.examples.len(), targets.as_deref(), *fraction, self.seed)?;
                let pick = |indices: &[u32]| Texts {
                    source: all.source.clone(),
                    examples: indices.iter().map(|&i| all.examples[i as usize].clone()).collect(),
                };
                (pick(&split.train), Some(pick(&split.dev)))
            }
            Some(Dev::File(path)) => (all, Some(self.texts_of(path, labelled)?)),
            None => (all, None),
        };
        let test = self.data.test.as_deref().map(|path| self.texts_of(path, labelled)).transpose()?;
        Ok(Sets { labels, train, dev, test })
    }

    /// The texts of one file.
    pub fn texts_of(&self, path: &Path, labelled: bool) -> Result<Texts> {
        let data = self.data;
        let examples = if self.plain(path)? && !labelled {
            read_documents(path, data.format, &data.text, data.unit)?
        } else {
            read_examples(path, data.format, &data.columns(labelled))?
        };
        Ok(Texts { source: path.to_owned(), examples })
    }

    /// Turns the texts of a stage into tokens.
    pub fn tokenize(&self, sets: &Sets) -> Result<StageData> {
        let mut notices = sets.warnings()?;
        let mut part = |texts: &Texts| self.part(texts, sets.labels.as_ref(), &mut notices);
        let train = part(&sets.train)?;
        let dev = sets.dev.as_ref().map(&mut part).transpose()?;
        let test = sets.test.as_ref().map(&mut part).transpose()?;
        Ok(StageData { labels: sets.labels.clone(), train, dev, test, notices })
    }

    /// Turns the texts of a split into tokens.
    pub fn part(&self, texts: &Texts, labels: Option<&Labels>, notices: &mut Vec<Event>) -> Result<Part> {
        let (path, examples) = (texts.source.as_path(), texts.examples.as_slice());
        if let Some(labels) = labels {
            let targets = labels.encode(examples, path)?;
            let mut part = self.texts(path, examples, notices)?;
            for label in &mut part.examples.labels {
                *label = targets[*label as usize];
            }
            return Ok(part);
        }
        if !self.packs(path)? {
            let mut part = self.texts(path, examples, notices)?;
            part.examples.labels.clear();
            return Ok(part);
        }
        let cached = noted(self.cache.encode_documents(self.tokenizer, examples, path)?, notices);
        let tokenizer = self.tokenizer;
        let corpus = blocks(&cached.encoded.corpus, self.max_length, tokenizer.cls()?, tokenizer.sep()?)?;
        Ok(Part { source: texts.source.clone(), examples: Examples { corpus, labels: Vec::new() }, ..Part::default() })
    }

    /// Whether texts are joined and cut into blocks.
    pub(crate) fn packs(&self, path: &Path) -> Result<bool> {
        self.data.pack.map_or_else(|| self.plain(path), Ok)
    }

    fn plain(&self, path: &Path) -> Result<bool> {
        Ok(self.data.format.map_or_else(|| Format::of(path), Ok)? == Format::Text)
    }

    /// Texts one by one. The labels of the result are the numbers of the examples that were kept.
    fn texts(&self, path: &Path, examples: &[Example], notices: &mut Vec<Event>) -> Result<Part> {
        let options = EncodeOptions { max_length: self.max_length, on_overlong: self.data.overlong };
        let encoded = noted(self.cache.encode_all(self.tokenizer, examples, path, options)?, notices).encoded;
        let (cut, dropped) = (encoded.truncated.len() as u64, encoded.dropped.len() as u64);
        for (count, what) in [(cut, "cut to"), (dropped, "dropped for more than")] {
            if count > 0 {
                notices.push(Event::Notice {
                    level: Level::Warning,
                    text: format!(
                        "{count} of {} texts of {} are {what} {} tokens.",
                        examples.len(),
                        path.display(),
                        self.max_length
                    ),
                    counts: BTreeMap::from([
                        ("texts".to_owned(), count),
                        ("tokens_cut".to_owned(), encoded.tokens_cut),
                    ]),
                });
            }
        }
        let lines = encoded.kept.iter().map(|&kept| examples[kept as usize].line).collect();
        let examples = Examples { corpus: encoded.corpus, labels: encoded.kept };
        Ok(Part { source: path.to_owned(), examples, lines, cut, dropped })
    }
}

impl Data {
    /// The columns of its tables.
    pub fn columns(&self, labelled: bool) -> luthier_data::Columns {
        luthier_data::Columns {
            text: self.text.clone(),
            pair: self.pair.clone(),
            label: labelled.then(|| self.label.clone()),
        }
    }
}

fn noted(cached: Cached, notices: &mut Vec<Event>) -> Cached {
    if let Some(error) = &cached.unwritten {
        notices.push(Event::Notice {
            level: Level::Warning,
            text: format!("The tokens could not be kept for the next run: {error}"),
            counts: BTreeMap::new(),
        });
    }
    cached
}
