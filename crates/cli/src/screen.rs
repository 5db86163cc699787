//! Where text goes: the result to standard output, the story of what happens beside it.

use std::io::{self, Write};

use crate::environment::Environment;
use crate::render::paint::Paint;

/// The two streams, and how they may look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    /// Whether the result is one JSON document.
    pub(crate) json: bool,
    /// Whether a progress bar can be drawn: standard output is a terminal that shows the story.
    pub(crate) terminal: bool,
    /// The colours of the story and of tables.
    pub(crate) paint: Paint,
}

impl Screen {
    pub(crate) fn new(json: bool, environment: &Environment) -> Screen {
        let colour = if json { environment.error_colour } else { environment.colour };
        Screen { json, terminal: environment.terminal && !json, paint: Paint { on: colour } }
    }

    /// A line of the story: to standard output, or to standard error where the output is JSON. Nobody listening is no
    /// reason to stop.
    pub(crate) fn say(&self, line: &str) {
        let _ = match self.json {
            true => writeln!(io::stderr(), "{line}"),
            false => writeln!(io::stdout(), "{line}"),
        };
    }

    /// The result in words.
    pub(crate) fn print(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text.trim_end_matches('\n'))?;
        out.flush()
    }

    /// The result as one JSON document on one line.
    pub(crate) fn document(&self, value: &impl serde::Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string(value)?;
        self.print(&text)?;
        Ok(())
    }
}
