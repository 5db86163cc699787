//! The data of a stage, from files to tokens: read, split, tokenised, cached.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use luthier_data::{
    Cache, Cached, EncodeOptions, Example, Format, Labels, Tokenizer, blocks, read::{read_documents, read_examples}, split_dev,
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

impl Preparation<'_> {
    /// Labelled texts: the labels are those of the training file, or `known` ones.
    pub fn labelled(&self) -> Result<StageData> {
        let mut out = StageData::default();
        let examples = self.examples(&self.data.train)?;
        let labels = Labels::from_examples(&examples, &self.data.train)?;
        match &self.data.dev {
            Some(Dev::Fraction(fraction)) => {
                let targets = labels.encode(&examples, &self.data.train)?;
                let split = split_dev(examples.len(), Some(&targets), *fraction, self.seed)?;
                let dev = pick(&examples, &split.dev);
                out.dev = Some(self.labelled_part(&self.data.train, &dev, &labels, &mut out.notices)?);
                out.train =
                    self.labelled_part(&self.data.train, &pick(&examples, &split.train), &labels, &mut out.notices)?;
            }
            dev => {
                out.train = self.labelled_part(&self.data.train, &examples, &labels, &mut out.notices)?;
                if let Some(Dev::File(path)) = dev {
                    out.dev = Some(self.labelled_file(path, &labels, &mut out.notices)?);
                }
            }
        }
        if let Some(path) = &self.data.test {
            out.test = Some(self.labelled_file(path, &labels, &mut out.notices)?);
        }
        out.labels = Some(labels);
        Ok(out)
    }

    /// A file of labelled texts under labels that are known.
    pub fn labelled_file(&self, path: &Path, labels: &Labels, notices: &mut Vec<Event>) -> Result<Part> {
        self.labelled_part(path, &self.examples(path)?, labels, notices)
    }

    fn examples(&self, path: &Path) -> Result<Vec<Example>> {
        Ok(read_examples(path, self.data.format, &self.data.columns(true))?)
    }

    fn labelled_part(
        &self,
        path: &Path,
        examples: &[Example],
        labels: &Labels,
        notices: &mut Vec<Event>,
    ) -> Result<Part> {
        let targets = labels.encode(examples, path)?;
        let mut part = self.texts(path, examples, notices)?;
        let kept = std::mem::take(&mut part.examples.labels);
        part.examples.labels = kept.iter().map(|&kept| targets[kept as usize]).collect();
        Ok(part)
    }

    /// Texts for a language model.
    pub fn unlabelled(&self) -> Result<StageData> {
        let mut out = StageData::default();
        let documents = self.documents(&self.data.train)?;
        match &self.data.dev {
            Some(Dev::Fraction(fraction)) => {
                let split = split_dev(documents.len(), None, *fraction, self.seed)?;
                let dev = pick(&documents, &split.dev);
                out.dev = Some(self.unlabelled_part(&self.data.train, &dev, &mut out.notices)?);
                out.train =
                    self.unlabelled_part(&self.data.train, &pick(&documents, &split.train), &mut out.notices)?;
            }
            dev => {
                out.train = self.unlabelled_part(&self.data.train, &documents, &mut out.notices)?;
                if let Some(Dev::File(path)) = dev {
                    out.dev = Some(self.unlabelled_file(path, &mut out.notices)?);
                }
            }
        }
        if let Some(path) = &self.data.test {
            out.test = Some(self.unlabelled_file(path, &mut out.notices)?);
        }
        Ok(out)
    }

    /// A file of texts for a language model.
    pub fn unlabelled_file(&self, path: &Path, notices: &mut Vec<Event>) -> Result<Part> {
        self.unlabelled_part(path, &self.documents(path)?, notices)
    }

    fn documents(&self, path: &Path) -> Result<Vec<Example>> {
        let data = self.data;
        Ok(read_documents(path, data.format, &data.text, data.unit)?)
    }

    fn unlabelled_part(&self, path: &Path, documents: &[Example], notices: &mut Vec<Event>) -> Result<Part> {
        if !self.packs(path)? {
            let mut part = self.texts(path, documents, notices)?;
            part.examples.labels.clear();
            return Ok(part);
        }
        let cached = self.cache.encode_documents(self.tokenizer, documents, path)?;
        let cached = noted(cached, notices);
        let tokenizer = self.tokenizer;
        let corpus = blocks(&cached.encoded.corpus, self.max_length, tokenizer.cls()?, tokenizer.sep()?)?;
        Ok(Part { source: path.to_owned(), examples: Examples { corpus, labels: Vec::new() }, ..Part::default() })
    }

    /// Whether texts are joined and cut into blocks.
    fn packs(&self, path: &Path) -> Result<bool> {
        let format = self.data.format.map_or_else(|| Format::of(path), Ok)?;
        Ok(self.data.pack.unwrap_or(format == Format::Text))
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
                    counts: BTreeMap::from([("texts".to_owned(), count), ("tokens_cut".to_owned(), encoded.tokens_cut)]),
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

fn pick(examples: &[Example], indices: &[u32]) -> Vec<Example> {
    indices.iter().map(|&i| examples[i as usize].clone()).collect()
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
