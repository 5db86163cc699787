//! `luthier train`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use luthier_record::{Event, Line, Summary};
use luthier_train::Clock;
use luthier_train::parse::Source;
use luthier_train::run::{Options, Outcome, run};
use luthier_train::step::Watch;
use serde_json::json;

use crate::args::Train;
use crate::environment::{Environment, run_directory};
use crate::failure::{DONE, Wrong};
use crate::render::plain::Plain;
use crate::render::progress::Progress;
use crate::render::scores::{comparison, summary};
use crate::screen::Screen;
use crate::signals::Signals;

/// Runs recipes in turn and shows how it goes; several are set side by side at the end.
pub(crate) fn train(arguments: &Train, environment: &Environment, screen: Screen, start: Instant) -> Result<u8> {
    let signals = Signals::listen()?;
    let recipes: Vec<&Path> =
        std::iter::once(&arguments.recipe.recipe).chain(&arguments.more).map(PathBuf::as_path).collect();
    // Every recipe is read before the first one runs: the last one's mistake should not wait for the others.
    let resolved =
        recipes.iter().map(|path| Source::read(path, &arguments.recipe.sets())).collect::<Result<Vec<_>, _>>()?;
    let outs: Vec<PathBuf> =
        recipes.iter().map(|path| arguments.out.clone().unwrap_or_else(|| run_directory(path))).collect();
    if let Some((i, out)) = outs.iter().enumerate().find(|(i, out)| outs[..*i].contains(out)) {
        return Err(Wrong(format!(
            "{}: found a recipe whose run directory, {}, is that of an earlier recipe, expected one of its own; rename a \
             recipe, or run them one by one with --out",
            recipes[i].display(),
            out.display()
        ))
        .into());
    }
    let mut results = Vec::new();
    for (resolved, out) in resolved.iter().zip(outs) {
        let options = Options { out: out.clone(), resume: arguments.resume, cache: environment.cache.clone() };
        // The first run is timed from the start of the process, later ones from their own.
        let began = if results.is_empty() { start } else { Instant::now() };
        let clock = || began.elapsed().as_secs_f64();
        let interrupted = || signals.asked();
        let profile = arguments.profile.then(|| -> Clock { Arc::new(move || began.elapsed().as_secs_f64()) });
        let watch = Watch { clock: &clock, interrupted: &interrupted, profile };
        let mut view = View::new(screen);
        let mut predicts = false;
        let outcome = run(resolved, &options, &watch, &mut |line| {
            if let Event::StageStarted { objective, .. } = &line.event {
                predicts = objective == "classify";
            }
            view.show(line);
        });
        view.close();
        match outcome? {
            Outcome::Finished(result) => {
                if !screen.json {
                    screen.print(&summary(&result, &next(&result, predicts), screen.paint))?;
                }
                results.push(result);
            }
            Outcome::Interrupted { stage, step } => {
                let paths: Vec<String> = recipes.iter().map(|path| path.display().to_string()).collect();
                let again = format!("luthier train {} --resume{}", paths.join(" "), flags(arguments));
                screen.say(&format!("next: {}", screen.paint.bold(&again)));
                if screen.json {
                    screen.document(&json!({"interrupted": {"stage": stage, "step": step}, "run": out}))?;
                }
                return Ok(signals.exit_code());
            }
        }
    }
    match results.as_slice() {
        [only] if screen.json => screen.document(only)?,
        [_] => {}
        all if screen.json => screen.document(&json!({"runs": all}))?,
        all => screen.print(&comparison(all, screen.paint))?,
    }
    Ok(DONE)
}

/// What a person may want to type now: a classifier answers, anything else is handed on.
fn next(result: &Summary, predicts: bool) -> String {
    let run = &result.run;
    match predicts {
        true => format!("luthier predict {run} FILE"),
        false => format!("luthier export {run} --to hf --out {}", Path::new(run).join("hf").display()),
    }
}

/// The flags that a resumed run needs again.
fn flags(arguments: &Train) -> String {
    let sets = arguments.recipe.sets().into_iter().map(|set| format!(" --set '{set}'"));
    let out = arguments.out.iter().map(|out| format!(" --out {}", out.display()));
    sets.chain(out).collect()
}

/// How events are shown.
enum View {
    Bar(Box<Progress>),
    Lines(Plain, Screen),
}

impl View {
    fn new(screen: Screen) -> View {
        match screen.terminal {
            true => View::Bar(Box::new(Progress::new(screen))),
            false => View::Lines(Plain::default(), screen),
        }
    }

    fn show(&mut self, line: &Line) {
        match self {
            View::Bar(progress) => progress.show(line),
            View::Lines(plain, screen) => {
                plain.lines(line, screen.paint).iter().for_each(|line| screen.say(line));
            }
        }
    }

    fn close(&mut self) {
        if let View::Bar(progress) = self {
            progress.clear();
        }
    }
}
