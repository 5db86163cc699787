//! What the data looks like to the model: a report to read before the first step.

use crate::error::Result;
use crate::overlap::{Duplicates, Index, Leakage, NAMED, shown};
use crate::read::Example;
use crate::tokenize::{EncodeOptions, Overlong, Tokenizer};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A set of examples to report on.
#[derive(Debug, Clone, Copy)]
pub struct Set<'a> {
    /// "train", "dev", "test".
    pub name: &'a str,
    /// What messages call its file.
    pub source: &'a Path,
    /// Its examples.
    pub examples: &'a [Example],
}

/// The report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The most tokens of a text, special tokens included, that "overlong" is measured against; none where texts are packed
    /// into blocks, so that none is too long.
    pub max_length: Option<usize>,
    /// What happens to such a text.
    pub on_overlong: Overlong,
    /// Each set.
    pub sets: Vec<SetReport>,
    /// Each label of any set; none if there are no labels.
    pub labels: Vec<LabelReport>,
    /// Labels of which the training set, the first, has one example: too few to learn from, none for a dev set.
    pub single_example_labels: Vec<String>,
    /// Labels of later sets that the training set does not have.
    pub unseen_labels: Vec<String>,
    /// Labels that differ by case, blanks or punctuation only: one is a slip, most likely.
    pub lookalike_labels: Vec<Vec<String>>,
    /// Each later set that has texts of an earlier one.
    pub leakage: Vec<Leakage>,
    /// A few examples of the first set, as the model sees them.
    pub samples: Vec<Sample>,
}

/// One set.
#[derive(Debug, Clone, Serialize)]
pub struct SetReport {
    /// Its name.
    pub name: String,
    /// Its file.
    pub source: String,
    /// Its examples.
    pub examples: usize,
    /// Its tokens before any cut, special tokens included.
    pub tokens: u64,
    /// The tokens of a text, by rank.
    pub lengths: Quantiles,
    /// How many texts have how many tokens.
    pub histogram: Vec<Bin>,
    /// Texts longer than `max_length`.
    pub overlong: usize,
    /// Tokens that are lost with them: those beyond the limit where texts are cut, all of theirs where they are left out, none
    /// where that is an error.
    pub tokens_lost: u64,
    /// Texts of nothing or blanks.
    pub empty: usize,
    /// The first few of them, as `file:line`.
    pub empty_at: Vec<String>,
    /// Texts that come more than once.
    pub duplicates: Duplicates,
}

/// Quantiles by nearest rank: each is a length that occurs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// The least.
    pub min: u32,
    /// The median.
    pub p50: u32,
    /// Nine in ten are at most this.
    pub p90: u32,
    /// 99 in 100 are at most this.
    pub p99: u32,
    /// The most.
    pub max: u32,
}

/// A bar of a histogram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bin {
    /// The least length in it.
    pub from: u32,
    /// The largest length in it.
    pub to: u32,
    /// How many texts.
    pub count: usize,
}

/// One label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabelReport {
    /// Its name.
    pub name: String,
    /// Its examples in each set, in the order of the sets.
    pub counts: Vec<u64>,
}

/// One example as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// `file:line`.
    pub place: String,
    /// Its text, shortened.
    pub text: String,
    /// Its label.
    pub label: Option<String>,
    /// Its tokens, parted by spaces, as far as the model takes them.
    pub tokens: String,
    /// Whether there are more of them than that.
    pub overlong: bool,
}

/// Reports on sets of examples, the training set first.
///
/// # Errors
/// A text that the tokenizer refuses, or a length that leaves no room for text.
pub fn inspect(sets: &[Set<'_>], tokenizer: &Tokenizer, limit: Option<EncodeOptions>) -> Result<Report> {
    let indices: Vec<Index<'_>> = sets.iter().map(|set| Index::new(set.examples, set.source)).collect();
    let mut reports = Vec::with_capacity(sets.len());
    for (set, index) in sets.iter().zip(&indices) {
        reports.push(report(set, &tokenizer.lengths(set.examples, set.source)?, limit, index.duplicates()));
    }
    let mut leakage = Vec::new();
    for (j, later) in sets.iter().enumerate() {
        for (i, earlier) in sets[..j].iter().enumerate() {
            let found = indices[i].leakage(earlier.name, &indices[j], later.name);
            leakage.extend((found.rows > 0).then_some(found));
        }
    }
    let labels = labels(sets);
    let of_training = |count: u64| move |label: &&LabelReport| label.counts.first() == Some(&count);
    let names = |labels: Vec<&LabelReport>| labels.into_iter().map(|label| label.name.clone()).collect();
    Ok(Report {
        max_length: limit.map(|limit| limit.max_length),
        on_overlong: limit.map(|limit| limit.on_overlong).unwrap_or_default(),
        sets: reports,
        single_example_labels: names(labels.iter().filter(of_training(1)).collect()),
        unseen_labels: names(labels.iter().filter(of_training(0)).collect()),
        lookalike_labels: lookalikes(&labels),
        labels,
        leakage,
        samples: sets.first().map_or_else(|| Ok(Vec::new()), |set| samples(set, tokenizer, limit))?,
    })
}

fn report(set: &Set<'_>, lengths: &[u32], limit: Option<EncodeOptions>, duplicates: Duplicates) -> SetReport {
    let empty: Vec<&Example> = set.examples.iter().filter(|example| is_empty(example)).collect();
    // The tokens that are lost of a text that is too long.
    let lost = |&length: &u32| {
        let limit = limit.filter(|limit| length as usize > limit.max_length)?;
        Some(match limit.on_overlong {
            Overlong::Truncate => u64::from(length) - limit.max_length as u64,
            Overlong::Drop => u64::from(length),
            Overlong::Error => 0,
        })
    };
    SetReport {
        name: set.name.to_string(),
        source: set.source.display().to_string(),
        examples: set.examples.len(),
        tokens: lengths.iter().map(|&length| u64::from(length)).sum(),
        lengths: quantiles(lengths),
        histogram: histogram(lengths),
        overlong: lengths.iter().filter_map(lost).count(),
        tokens_lost: lengths.iter().filter_map(lost).sum(),
        empty: empty.len(),
        empty_at: empty.iter().take(NAMED).map(|example| place(set, example)).collect(),
        duplicates,
    }
}

fn is_empty(example: &Example) -> bool {
    example.text.trim().is_empty() || example.pair.as_ref().is_some_and(|pair| pair.trim().is_empty())
}

fn place(set: &Set<'_>, example: &Example) -> String {
    format!("{}:{}", set.source.display(), example.line)
}

fn quantiles(lengths: &[u32]) -> Quantiles {
    let mut sorted = lengths.to_vec();
    sorted.sort_unstable();
    let at =
        |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0);
    Quantiles { min: at(0), p50: at(50), p90: at(90), p99: at(99), max: at(100) }
}

/// Bars that double in width (up to 8, 16, 32, ...), from the first to the last that is not empty.
fn histogram(lengths: &[u32]) -> Vec<Bin> {
    let bin = |length: u32| length.max(8).next_power_of_two().trailing_zeros();
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    lengths.iter().for_each(|&length| *counts.entry(bin(length)).or_insert(0) += 1);
    let (Some(&first), Some(&last)) = (counts.keys().next(), counts.keys().next_back()) else { return Vec::new() };
    let bar = |bin: u32| Bin {
        from: if bin == 3 { 0 } else { (1 << (bin - 1)) + 1 },
        to: 1 << bin,
        count: counts.get(&bin).copied().unwrap_or(0),
    };
    (first..=last).map(bar).collect()
}

fn labels(sets: &[Set<'_>]) -> Vec<LabelReport> {
    let mut counts: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (i, set) in sets.iter().enumerate() {
        for label in set.examples.iter().filter_map(|example| example.label.as_deref()) {
            counts.entry(label).or_insert_with(|| vec![0; sets.len()])[i] += 1;
        }
    }
    counts.into_iter().map(|(name, counts)| LabelReport { name: name.to_string(), counts }).collect()
}

fn lookalikes(labels: &[LabelReport]) -> Vec<Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for label in labels {
        let plain: String = label.name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
        groups.entry(plain).or_default().push(label.name.clone());
    }
    // Labels of signs only ("+", "-") have nothing left to compare.
    groups.into_iter().filter(|(plain, names)| !plain.is_empty() && names.len() > 1).map(|(_, names)| names).collect()
}

/// The first, the middle and the last example.
fn samples(set: &Set<'_>, tokenizer: &Tokenizer, limit: Option<EncodeOptions>) -> Result<Vec<Sample>> {
    let n = set.examples.len();
    let mut rows = vec![0, n / 2, n.saturating_sub(1)];
    rows.dedup();
    let chosen: Vec<Example> = rows.into_iter().filter_map(|row| set.examples.get(row).cloned()).collect();
    let max_length = limit.map_or(u32::MAX as usize, |limit| limit.max_length);
    let options = EncodeOptions { max_length, on_overlong: Overlong::Truncate };
    let encoded = tokenizer.encode_all(&chosen, set.source, options)?;
    let sample = |(i, example): (usize, &Example)| Sample {
        place: place(set, example),
        text: shown(example),
        label: example.label.clone(),
        tokens: tokenizer.readable(encoded.corpus.ids(i)),
        overlong: encoded.truncated.contains(&(i as u32)),
    };
    Ok(chosen.iter().enumerate().map(sample).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_bars_by_hand() {
        let lengths: Vec<u32> = (1..=100).rev().collect();
        assert_eq!(quantiles(&lengths), Quantiles { min: 1, p50: 50, p90: 90, p99: 99, max: 100 });
        assert_eq!(quantiles(&[]), Quantiles::default());
        assert_eq!(quantiles(&[7]), Quantiles { min: 7, p50: 7, p90: 7, p99: 7, max: 7 });
        let bars: Vec<(u32, u32, usize)> =
            histogram(&[0, 8, 9, 33, 64]).iter().map(|b| (b.from, b.to, b.count)).collect();
        assert_eq!(bars, [(0, 8, 2), (9, 16, 1), (17, 32, 0), (33, 64, 2)]);
        assert!(histogram(&[]).is_empty());
    }

    #[test]
    fn a_report_says_what_is_wrong() -> Result<()> {
        let set = |rows: &[(&str, &str)]| -> Vec<Example> {
            let example = |(line, (text, label)): (u64, &(&str, &str))| Example {
                text: text.to_string(),
                pair: None,
                label: Some(label.to_string()),
                line,
            };
            (2..).zip(rows).map(example).collect()
        };
        let train = set(&[("the cat sat on the mat", "a"), ("the dog", "a"), (" ", "a"), ("the cat", "B")]);
        let test = set(&[("The Cat", "b"), ("walking", "c")]);
        let tokenizer = Tokenizer::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bert-tiny"))?;
        let sets = [
            Set { name: "train", source: Path::new("train.csv"), examples: &train },
            Set { name: "test", source: Path::new("test.csv"), examples: &test },
        ];
        let packed = inspect(&sets, &tokenizer, None)?;
        assert!(packed.sets.iter().all(|set| (set.overlong, set.tokens_lost) == (0, 0)));
        assert!(packed.samples.iter().all(|sample| !sample.overlong));
        let limit = |on_overlong| Some(EncodeOptions { max_length: 5, on_overlong });
        let dropped = inspect(&sets, &tokenizer, limit(Overlong::Drop))?;
        assert_eq!((dropped.sets[0].overlong, dropped.sets[0].tokens_lost), (1, 8));
        let refused = inspect(&sets, &tokenizer, limit(Overlong::Error))?;
        assert_eq!((refused.sets[0].overlong, refused.sets[0].tokens_lost), (1, 0));
        let report = inspect(&sets, &tokenizer, limit(Overlong::Truncate))?;
        let [first, second] = &report.sets[..] else { panic!("two sets go in") };
        // 8, 4, 2 and 4 tokens.
        assert_eq!((first.examples, first.tokens, first.overlong, first.tokens_lost), (4, 18, 1, 3));
        assert_eq!((first.empty, first.empty_at.as_slice()), (1, ["train.csv:4".to_string()].as_slice()));
        assert_eq!((second.tokens, second.overlong), (8, 0));
        assert_eq!(report.labels[1], LabelReport { name: "a".into(), counts: vec![3, 0] });
        assert_eq!(report.single_example_labels, ["B"]);
        assert_eq!(report.unseen_labels, ["b", "c"]);
        assert_eq!(report.lookalike_labels, [["B", "b"]]);
        assert_eq!((report.leakage.len(), report.leakage[0].rows, report.leakage[0].conflicting), (1, 1, 1));
        assert_eq!(report.samples[0].tokens, "[CLS] the cat sat [SEP]");
        assert!(report.samples[0].overlong && !report.samples[2].overlong);
        assert!(serde_json::to_string(&report).is_ok_and(|json| json.contains("\"single_example_labels\":[\"B\"]")));
        Ok(())
    }
}
