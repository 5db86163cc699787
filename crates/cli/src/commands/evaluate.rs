//! `luthier evaluate`.

use std::collections::BTreeMap;

use anyhow::Result;
use luthier_record::{Interval, Line, Scores};
use luthier_train::opened::Run;
use serde::Serialize;

use crate::args::Evaluate;
use crate::environment::Environment;
use crate::render::plain::sentences;
use crate::render::scores::measured;
use crate::screen::Screen;

/// Measures a run.
pub(crate) fn evaluate(arguments: &Evaluate, environment: &Environment, screen: Screen) -> Result<()> {
    let run = Run::open(&arguments.run)?;
    let (scores, notices) = run.evaluate(arguments.data.as_deref(), &environment.cache)?;
    for event in notices {
        sentences(&Line { time: 0.0, event }, screen.paint).iter().for_each(|line| screen.say(line));
    }
    if screen.json {
        let data = arguments.data.as_ref().or(run.stage().data.test.as_ref());
        let data = data.map(|data| data.display().to_string());
        return screen.document(&Document::new(arguments.run.display().to_string(), data, &scores));
    }
    screen.print(&measured(&scores, screen.paint))?;
    Ok(())
}

/// Scores in the shape that `train --json` has for a split: plain numbers, and beside them the intervals.
#[derive(Debug, Serialize)]
struct Document<'a> {
    run: String,
    data: Option<String>,
    scores: BTreeMap<&'a str, f64>,
    intervals: BTreeMap<&'a str, Interval>,
}

impl Document<'_> {
    fn new(run: String, data: Option<String>, scores: &Scores) -> Document<'_> {
        let values = scores.0.iter().map(|(metric, score)| (metric.as_str(), score.value));
        let intervals = scores.0.iter().filter_map(|(metric, score)| Some((metric.as_str(), score.interval?)));
        Document { run, data, scores: values.collect(), intervals: intervals.collect() }
    }
}
