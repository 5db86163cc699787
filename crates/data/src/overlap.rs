//! Texts that come more than once: inside a set, and in two sets.

use crate::read::Example;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How many places a report names; the counts are of all.
pub const NAMED: usize = 5;

/// The same text in several rows of one set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Duplicates {
    /// Rows beyond the first of each text.
    pub rows: usize,
    /// Texts that come more than once.
    pub texts: usize,
    /// Texts that come with more than one label.
    pub conflicting: usize,
    /// A few of them, conflicting ones first.
    pub examples: Vec<Repeated>,
}

/// One text that comes more than once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repeated {
    /// The text, as it is in its first row, shortened.
    pub text: String,
    /// Where it is, as `file:line`: the first few rows.
    pub places: Vec<String>,
    /// Its labels, if rows of it have several.
    pub labels: Vec<String>,
}

/// Texts of one set that are in another too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leakage {
    /// The set that ought to be unseen.
    pub split: String,
    /// The set whose texts are in it.
    pub within: String,
    /// How many rows of `split` have a text of `within`.
    pub rows: usize,
    /// How many of these have a label in `within` that is not theirs.
    pub conflicting: usize,
    /// A few of them.
    pub examples: Vec<Repeated>,
}

/// The rows of each text of a set, by the text with its case and blanks made equal.
#[derive(Debug)]
pub struct Index<'a> {
    path: &'a Path,
    examples: &'a [Example],
    rows: BTreeMap<String, Vec<usize>>,
}

impl<'a> Index<'a> {
    /// Indexes a set; `path` is what messages call its file. Empty texts are left out: they are counted elsewhere.
    pub fn new(examples: &'a [Example], path: &'a Path) -> Index<'a> {
        let mut rows: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (row, example) in examples.iter().enumerate() {
            let key = normalized(example);
            if !key.trim().is_empty() {
                rows.entry(key).or_default().push(row);
            }
        }
        Index { path, examples, rows }
    }

    /// What comes more than once in the set.
    pub fn duplicates(&self) -> Duplicates {
        let mut found = Duplicates::default();
        let mut groups: Vec<&Vec<usize>> = self.rows.values().filter(|rows| rows.len() > 1).collect();
        // By conflict, then by place: the order of the keys means nothing to a reader.
        groups.sort_by_key(|rows| (self.labels(rows).len() < 2, rows[0]));
        for rows in groups {
            found.texts += 1;
            found.rows += rows.len() - 1;
            found.conflicting += usize::from(self.labels(rows).len() > 1);
            if found.examples.len() < NAMED {
                found.examples.push(self.repeated(rows, self.places(rows)));
            }
        }
        found
    }

    /// Which texts of `other` are in this set too.
    pub fn leakage(&self, name: &str, other: &Index<'_>, other_name: &str) -> Leakage {
        let mut found = Leakage {
            split: other_name.to_string(),
            within: name.to_string(),
            rows: 0,
            conflicting: 0,
            examples: Vec::new(),
        };
        let mut groups: Vec<(&Vec<usize>, &Vec<usize>)> =
            other.rows.iter().filter_map(|(key, rows)| Some((rows, self.rows.get(key)?))).collect();
        groups.sort_by_key(|(rows, _)| rows[0]);
        for (theirs, ours) in groups {
            let labels = self.labels(ours);
            found.rows += theirs.len();
            let differs =
                |row: &&usize| labels.iter().any(|label| Some(*label) != other.examples[**row].label.as_deref());
            found.conflicting += theirs.iter().filter(differs).count();
            if found.examples.len() < NAMED {
                let places = other.places(theirs).into_iter().chain(self.places(ours)).collect();
                let mut repeated = other.repeated(theirs, places);
                let all: BTreeSet<&str> = labels.union(&other.labels(theirs)).copied().collect();
                repeated.labels = if all.len() > 1 { owned(&all) } else { Vec::new() };
                found.examples.push(repeated);
            }
        }
        found
    }

    fn labels(&self, rows: &[usize]) -> BTreeSet<&str> {
        rows.iter().filter_map(|&row| self.examples[row].label.as_deref()).collect()
    }

    fn places(&self, rows: &[usize]) -> Vec<String> {
        rows.iter().take(NAMED).map(|&row| format!("{}:{}", self.path.display(), self.examples[row].line)).collect()
    }

    fn repeated(&self, rows: &[usize], places: Vec<String>) -> Repeated {
        let labels = self.labels(rows);
        let labels = if labels.len() > 1 { owned(&labels) } else { Vec::new() };
        Repeated { text: shown(&self.examples[rows[0]]), places, labels }
    }
}

fn owned(labels: &BTreeSet<&str>) -> Vec<String> {
    labels.iter().map(|label| label.to_string()).collect()
}

/// The text and its pair in lower case, each run of blanks as one space, a tab between the two.
fn normalized(example: &Example) -> String {
    let plain = |text: &str| text.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ");
    match &example.pair {
        None => plain(&example.text),
        Some(pair) => format!("{}\t{}", plain(&example.text), plain(pair)),
    }
}

/// A text for a line of a report: its first characters, runs of blanks and line breaks as one space.
pub(crate) fn shown(example: &Example) -> String {
    const WIDTH: usize = 100;
    let pair = example.pair.iter().flat_map(|pair| std::iter::once("|").chain(pair.split_whitespace()));
    let mut text = String::new();
    for word in example.text.split_whitespace().chain(pair) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
        if let Some((end, _)) = text.char_indices().nth(WIDTH) {
            text.truncate(end);
            text.push('…');
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(rows: &[(&str, &str)]) -> Vec<Example> {
        let example = |(line, (text, label)): (u64, &(&str, &str))| Example {
            text: text.to_string(),
            pair: None,
            label: Some(label.to_string()),
            line,
        };
        (2..).zip(rows).map(example).collect()
    }

    #[test]
    fn duplicates_conflicts_and_leaks_are_counted() {
        let train = set(&[
            ("A  cat", "x"),
            ("a dog", "y"),
            ("a CAT ", "x"),
            ("A dog", "x"),
            ("", "x"),
            (" ", "x"),
            ("new", "y"),
        ]);
        let test = set(&[("other", "x"), ("A Cat", "y"), ("a cat", "x"), ("", "y")]);
        let (train_path, test_path) = (Path::new("train.csv"), Path::new("test.csv"));
        let (train, test) = (Index::new(&train, train_path), Index::new(&test, test_path));

        let duplicates = train.duplicates();
        assert_eq!((duplicates.rows, duplicates.texts, duplicates.conflicting), (2, 2, 1));
        assert_eq!(duplicates.examples[0].text, "a dog");
        assert_eq!(duplicates.examples[0].labels, ["x", "y"]);
        assert_eq!(duplicates.examples[1].places, ["train.csv:2", "train.csv:4"]);
        assert!(duplicates.examples[1].labels.is_empty());

        let leakage = train.leakage("train", &test, "test");
        assert_eq!((leakage.rows, leakage.conflicting), (2, 1));
        assert_eq!(leakage.examples[0].places, ["test.csv:3", "test.csv:4", "train.csv:2", "train.csv:4"]);
        assert_eq!(test.duplicates().conflicting, 1);
    }

    #[test]
    fn texts_are_shown_on_one_line() {
        let example = |text: &str, pair: Option<&str>| Example {
            text: text.into(),
            pair: pair.map(str::to_string),
            label: None,
            line: 1,
        };
        assert_eq!(shown(&example("\n a  b\nc", Some("d"))), "a b c | d");
        assert_eq!(shown(&example(&"é".repeat(101), None)), "é".repeat(100) + "…");
        assert_eq!(shown(&example(&"é".repeat(100), None)), "é".repeat(100));
    }

    #[test]
    fn pairs_are_compared_as_pairs() {
        let pair =
            |text: &str, pair: &str| Example { text: text.into(), pair: Some(pair.into()), label: None, line: 1 };
        let rows = [pair("a b", "c"), pair("a", "b c"), pair("A b", "C")];
        assert_eq!(Index::new(&rows, Path::new("p")).duplicates().rows, 1);
    }
}
