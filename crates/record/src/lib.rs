//! What a run leaves behind, as values and as JSON: its events, its scores, its manifest.
//!
//! The library that trains makes [`Event`]s; the caller adds the time and appends them to `events.jsonl`
//! ([`EventLog`]); progress bars, reports and resumed runs read them back ([`read_events`]). The last event holds the
//! [`Summary`], the machine-readable result. The [`Manifest`] says what the run was made of.
//!
//! This crate knows neither clocks nor tensors, and its JSON is pinned by tests: a change here is a change for every
//! program that reads a run directory.
//!
//! JSON has no notation for infinities and NaN. They are written as `null`, and a `null` number is read as NaN.

mod error;
mod event;
mod log;
mod manifest;
mod number;
mod profile;
mod scores;
mod summary;

pub use error::RecordError;
pub use event::{Best, Event, Level, Line, Split};
pub use log::{EventLog, Events, Torn, parse_events, read_events};
pub use manifest::{Change, Machine, Manifest};
pub use profile::{Operation, Profile};
pub use scores::{Interval, Score, Scores};
pub use summary::{StageSummary, Summary};
