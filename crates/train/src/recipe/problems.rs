//! What is wrong with a recipe: every problem with its place, all of them in one error.

use std::fmt;
use std::path::PathBuf;

/// How many problems are shown; the rest are counted.
const SHOWN: usize = 50;
/// How much of a name or value is shown.
const LONGEST: usize = 60;

/// Where something in a recipe comes from. Places of the file are offsets until a message needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A byte of the recipe's file.
    File(usize),
    /// The `--set` with this number.
    Set(usize),
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `recipe.toml:12:5` or ``--set `seed=x` ``.
    pub place: String,
    /// What is wrong, what was expected, what to do.
    pub message: String,
}

/// Everything that is wrong with a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The recipe's file.
    pub path: PathBuf,
    /// In the order of the file.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().take(SHOWN).enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}{}: {}", problem.place, problem.message)?;
        }
        match self.problems.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more problems in {}", self.path.display()),
        }
    }
}

impl std::error::Error for Problems {}

/// The text of a recipe with its lines, and the overrides: what turns a [`Place`] into words.
pub(crate) struct Places<'a> {
    name: String,
    text: &'a str,
    starts: Vec<usize>,
    sets: &'a [String],
}

impl<'a> Places<'a> {
    pub(crate) fn new(name: String, text: &'a str, sets: &'a [String]) -> Places<'a> {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Places { name, text, starts, sets }
    }

    /// The line of a byte, from 1.
    pub(crate) fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset)
    }

    /// A place in words.
    pub(crate) fn show(&self, place: Place) -> String {
        match place {
            Place::File(offset) => {
                let line = self.line(offset);
                let start = self.starts[line - 1];
                let before = self.text.get(start..offset).unwrap_or_default();
                format!("{}:{line}:{}", self.name, before.chars().count() + 1)
            }
            Place::Set(number) => format!("--set {}", quoted(self.set(number))),
        }
    }

    /// The `--set` with this number, as it was given.
    pub(crate) fn set(&self, number: usize) -> &str {
        self.sets.get(number).map_or("", String::as_str)
    }
}

/// A name or value between backquotes, cut where it is long, its control characters made visible.
pub(crate) fn quoted(text: &str) -> String {
    format!("`{}`", plain(text))
}

/// The same without quotes.
pub(crate) fn plain(text: &str) -> String {
    let mut shown: String = text.chars().take(LONGEST).flat_map(visible).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

fn visible(c: char) -> Vec<char> {
    // Besides control characters, those that change the direction of what follows.
    let hidden =
        c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if hidden { c.escape_default().collect() } else { vec![c] }
}

/// "; did you mean `rank`?", if one of the names is near enough, or begins as this one does.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    // The distance takes time and memory in proportion to the length; nobody misspells a name by hundreds of letters.
    if name.len() > 4 * LONGEST {
        return String::new();
    }
    let begins =
        |known: &&str| known.len() > 2 && name.len() > 2 && (known.starts_with(name) || name.starts_with(*known));
    let near = luthier_nn::nearest(name, known.clone()).or_else(|| known.into_iter().find(begins));
    near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
}
