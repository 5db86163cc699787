//! Labels: names to a person, ids to a network.

use crate::error::{DataError, Result};
use crate::nearest::{did_you_mean, listed};
use crate::read::Example;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The labels of a task; the id of a label is its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels {
    names: Vec<String>,
}

impl Labels {
    /// The labels that occur in training examples, sorted: by value if all are whole numbers, so that label `10`
    /// follows label `9`, and else by their bytes. `path` is what messages call the file.
    ///
    /// # Errors
    /// An example without a label, and fewer than two labels in all.
    pub fn from_examples(examples: &[Example], path: &Path) -> Result<Labels> {
        let mut names: Vec<String> = Vec::new();
        for example in examples {
            names.push(label(example, path)?.to_string());
        }
        names.sort_unstable();
        names.dedup();
        if names.len() < 2 {
            let found = match names.first() {
                Some(name) => format!("only the label `{name}`"),
                None => "no label".to_string(),
            };
            let help = "check that `label` names the right column, or add examples of the other labels";
            return Err(DataError::TooFewLabels { path: path.to_path_buf(), found, help });
        }
        // Names that are numbers but spelled in two ways ("1", "01") stay two labels, in byte order.
        if names.iter().all(|name| name.parse::<i64>().is_ok()) {
            names.sort_by_key(|name| name.parse::<i64>().unwrap_or_default());
        }
        Ok(Labels { names })
    }

    /// Labels in a given order, that of a saved model.
    ///
    /// # Errors
    /// A name that comes twice.
    pub fn from_names(names: Vec<String>) -> Result<Labels> {
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = names.iter().find(|name| !seen.insert(name.as_str())) {
            return Err(DataError::Request {
                what: "labels",
                found: format!("`{twice}` twice"),
                expected: "different names".to_string(),
                help: "give each label a name of its own in config.json (id2label)",
            });
        }
        Ok(Labels { names })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The names, by id.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The name of an id.
    pub fn name(&self, id: u32) -> Option<&str> {
        self.names.get(id as usize).map(String::as_str)
    }

    /// The id of a name.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.names.iter().position(|known| known == name).map(|id| id as u32)
    }

    /// The ids of the labels of examples; `path` is what messages call their file.
    ///
    /// # Errors
    /// An example without a label; labels that are not among these, all of them counted and the first named.
    pub fn encode(&self, examples: &[Example], path: &Path) -> Result<Vec<u32>> {
        let known: BTreeMap<&str, u32> = self.names.iter().map(String::as_str).zip(0..).collect();
        let mut ids = Vec::with_capacity(examples.len());
        let (mut places, mut more) = (Vec::new(), 0);
        for example in examples {
            let name = label(example, path)?;
            match known.get(name) {
                Some(id) => ids.push(*id),
                None if places.len() < 5 => {
                    let nearest = did_you_mean(name, self.names.iter().map(String::as_str));
                    places.push((example.line, name.to_string(), nearest));
                }
                None => more += 1,
            }
        }
        if !places.is_empty() {
            let known = listed(self.names.iter().map(String::as_str), 20);
            return Err(DataError::UnknownLabels { path: path.to_path_buf(), places, more, known });
        }
        Ok(ids)
    }

    /// How many of the ids are of each label.
    pub fn counts(&self, ids: &[u32]) -> Vec<u64> {
        let mut counts = vec![0; self.names.len()];
        for &id in ids {
            if let Some(count) = counts.get_mut(id as usize) {
                *count += 1;
            }
        }
        counts
    }
}

fn label<'a>(example: &'a Example, path: &Path) -> Result<&'a str> {
    example.label.as_deref().ok_or_else(|| DataError::Malformed {
        path: path.to_path_buf(),
        line: example.line,
        found: "a text without a label".to_string(),
        expected: "a label".to_string(),
        help: "name the column of the labels with `label`".to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(labels: &[&str]) -> Vec<Example> {
        let example = |(i, label): (usize, &&str)| Example {
            text: format!("text {i}"),
            pair: None,
            label: Some(label.to_string()),
            line: i as u64 + 2,
        };
        labels.iter().enumerate().map(example).collect()
    }

    #[test]
    fn numbers_sort_by_value_and_names_by_bytes() -> Result<()> {
        let path = Path::new("train.csv");
        assert_eq!(Labels::from_examples(&examples(&["10", "9", "-1", "9"]), path)?.names(), ["-1", "9", "10"]);
        assert_eq!(Labels::from_examples(&examples(&["10", "9", "x"]), path)?.names(), ["10", "9", "x"]);
        Ok(())
    }

    #[test]
    fn unseen_labels_are_named_with_line_and_neighbour() -> Result<()> {
        let labels = Labels::from_examples(&examples(&["joy", "anger"]), Path::new("train.csv"))?;
        assert_eq!(labels.encode(&examples(&["anger", "joy", "joy"]), Path::new("dev.csv"))?, [0, 1, 1]);
        let wrong = ["joy", "Anger", "x", "x", "x", "x", "x"];
        let error = labels.encode(&examples(&wrong), Path::new("dev.csv")).map_err(|e| e.to_string());
        let error = error.expect_err("an unseen label");
        assert!(error.starts_with("dev.csv:3: found label `Anger` (did you mean `anger`?)"), "{error}");
        assert!(error.contains("and 1 more such row"), "{error}");
        Ok(())
    }

    #[test]
    fn one_label_is_too_few() {
        let error = Labels::from_examples(&examples(&["a", "a"]), Path::new("t.csv")).map_err(|e| e.to_string());
        assert!(error.is_err_and(|e| e.starts_with("t.csv: found only the label `a`")));
    }
}
