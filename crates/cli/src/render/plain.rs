//! A run in plain lines, for files and pipes: one for each thing worth knowing, and one in ten seconds of training.

use luthier_record::{Event, Level, Line, Scores, Split, StageSummary};
use std::collections::BTreeMap;

use super::number::{count, counted, duration, learning_rate, percent, rate, value};
use super::paint::Paint;
use super::profile::profile;
use super::track::Track;

/// Seconds between two lines about steps.
const PAUSE: f64 = 10.0;

/// A run so far.
#[derive(Debug, Default)]
pub(crate) struct Plain {
    track: Track,
    said: Option<f64>,
}

impl Plain {
    /// What is to be said about an event.
    pub(crate) fn lines(&mut self, line: &Line, paint: Paint) -> Vec<String> {
        self.track.observe(line);
        match &line.event {
            Event::StageStarted { .. } => self.said = Some(line.time),
            Event::Step { .. } => return self.step(line.time).into_iter().collect(),
            Event::Evaluated { step, split, scores, best } => {
                let steps = self.track.steps;
                let best = best.as_ref().is_some_and(|best| best.step == *step);
                let best = if best { " (the best so far)" } else { "" };
                return vec![format!("step {step}/{steps}: {split}: {}{best}", in_line(scores))];
            }
            _ => {}
        }
        sentences(line, paint)
    }

    fn step(&mut self, now: f64) -> Option<String> {
        let track = &self.track;
        let due = self.said.is_none_or(|said| now - said >= PAUSE);
        if !due {
            return None;
        }
        self.said = Some(now);
        let left = match track.seconds_left() {
            Some(left) if track.step < track.steps => format!(", {} left", duration(left)),
            _ => String::new(),
        };
        Some(format!(
            "step {}/{}: epoch {:.2}, loss {}, learning rate {}, {} tokens/s{left}",
            track.step,
            track.steps,
            track.epoch,
            value(track.loss()),
            learning_rate(track.learning_rate),
            rate(track.tokens_per_second()),
        ))
    }
}

/// What is said in the same words on a terminal and elsewhere: everything but steps and evaluations.
pub(crate) fn sentences(line: &Line, paint: Paint) -> Vec<String> {
    match &line.event {
        Event::Notice { level, text, .. } => vec![notice(*level, text, paint)],
        Event::Data { stage, splits } => vec![format!("data of stage {stage}: {}", sizes(splits))],
        Event::StageStarted { name, objective, steps, trainable_parameters: moving, total_parameters: total } => {
            let share = percent(*moving, *total);
            let title = paint.bold(&format!("stage {name} ({objective})"));
            let (steps, moving, total) = (counted(*steps, "step"), count(*moving), count(*total));
            vec![format!("{title}: {steps}; {moving} of {total} parameters move ({share})")]
        }
        Event::Resumed { stage, step } => vec![format!("stage {stage} goes on after step {step}")],
        Event::StoppedEarly { step, best, patience } => {
            let (metric, best_value, at) = (&best.metric, value(best.value), best.step);
            let without = counted(*patience, "evaluation");
            vec![format!(
                "stopped early at step {step}: {without} without a better {metric} than {best_value} at step {at}"
            )]
        }
        Event::Interrupted { step, .. } => {
            vec![format!("stopped after step {step}; a checkpoint is written")]
        }
        Event::Profiled { stage, profile: found } => vec![profile(stage, found, paint)],
        Event::StageFinished(stage) => vec![finished(stage)],
        Event::RunStarted { .. }
        | Event::Checkpoint { .. }
        | Event::RunFinished(_)
        | Event::Step { .. }
        | Event::Evaluated { .. } => Vec::new(),
    }
}

/// A notice, its level in front.
pub(crate) fn notice(level: Level, text: &str, paint: Paint) -> String {
    match level {
        Level::Info => format!("{} {text}", paint.dim("note:")),
        Level::Warning => format!("{} {text}", paint.yellow("warning:")),
        Level::Error => format!("{} {text}", paint.red("error:")),
    }
}

fn sizes(splits: &BTreeMap<String, Split>) -> String {
    let size = |name: &str, split: &Split| {
        let cut = if split.cut > 0 { format!(", {} cut", count(split.cut)) } else { String::new() };
        let examples = counted(split.examples, "example");
        format!("{name} {examples} ({} tokens{cut})", count(split.tokens))
    };
    ordered(splits.keys()).iter().map(|name| size(name, &splits[*name])).collect::<Vec<_>>().join("; ")
}

/// Splits in the order in which they are used: train, dev, test, then the rest by name.
pub(crate) fn ordered<'a>(names: impl Iterator<Item = &'a String>) -> Vec<&'a String> {
    let usual = ["train", "dev", "test"];
    let mut names: Vec<&String> = names.collect();
    names.sort_by_key(|name| (usual.iter().position(|usual| usual == name).unwrap_or(usual.len()), *name));
    names
}

fn finished(stage: &StageSummary) -> String {
    let (steps, time) = (counted(stage.steps, "step"), duration(stage.seconds));
    format!("stage {} is done: {steps} in {time}, {} tokens/s", stage.name, rate(stage.tokens_per_second))
}

fn in_line(scores: &Scores) -> String {
    let shown = |(metric, score): (&String, &luthier_record::Score)| match score.interval {
        Some(range) => format!("{metric} {} ({} to {})", value(score.value), value(range.low), value(range.high)),
        None => format!("{metric} {}", value(score.value)),
    };
    scores.0.iter().map(shown).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use expect_test::expect;
    use luthier_record::{Best, Interval, Score, Summary};

    pub(crate) fn scores(accuracy: f64, interval: bool) -> Scores {
        let interval = interval.then_some(Interval { low: accuracy - 0.01, high: accuracy + 0.01 });
        let loss = Score { value: 0.5, interval: None };
        [("accuracy", Score { value: accuracy, interval }), ("loss", loss)].into_iter().collect()
    }

    /// A short run of two stages, stopped early in the second.
    pub(crate) fn events() -> Vec<Line> {
        let stage = |name: &str, scores| StageSummary {
            name: name.into(),
            steps: 300,
            scores,
            tokens_per_second: 12_345.6,
            seconds: 185.0,
        };
        let started = |name: &str, objective: &str| Event::StageStarted {
            name: name.into(),
            objective: objective.into(),
            steps: 300,
            trainable_parameters: 147_456,
            total_parameters: 22_713_216,
        };
        let step = |step, loss| Event::Step {
            step,
            epoch: step as f64 / 100.0,
            loss,
            gradient_norm: 1.0,
            learning_rate: 5e-4,
            tokens: 640,
            tokens_per_second: 6400.0,
        };
        let best = Best { metric: "accuracy".into(), value: 0.9, step: 100 };
        let split = |examples, cut| Split { examples, tokens: examples * 12, cut };
        let splits = BTreeMap::from([("test".into(), split(3080, 0)), ("train".into(), split(9003, 3))]);
        let measured = BTreeMap::from([("dev".into(), scores(0.9, false)), ("test".into(), scores(0.92, true))]);
        let stages = vec![stage("adapt", BTreeMap::new()), stage("intents", measured)];
        let run = "runs/intents".to_owned();
        let summary =
            Summary { stages: stages.clone(), peak_memory_bytes: 734_003_200, seconds_to_first_step: 0.75, run };
        let notice = |level, text: &str| Event::Notice { level, text: text.into(), counts: BTreeMap::new() };
        let evaluated = |step, split: &str, scores, best| Event::Evaluated { step, split: split.into(), scores, best };
        [
            (0.1, Event::RunStarted { recipe: "4af1".into(), seed: 7, version: "0.1.0".into() }),
            (0.2, started("adapt", "mlm")),
            (0.3, step(1, 4.0)),
            (10.1, step(99, 4.0)),
            (10.2, step(100, 1.0)),
            (10.3, step(101, 1.0)),
            (30.0, Event::StageFinished(stages[0].clone())),
            (30.1, notice(Level::Warning, "3 texts are cut at 128 tokens.")),
            (30.1, notice(Level::Info, "The pooler is new.")),
            (30.2, Event::Data { stage: "intents".into(), splits }),
            (30.3, started("intents", "classify")),
            (30.3, Event::Resumed { stage: "intents".into(), step: 50 }),
            (40.3, step(51, 2.0)),
            (40.4, evaluated(100, "dev", scores(0.9, false), Some(best.clone()))),
            (41.0, Event::Checkpoint { step: 100, path: "checkpoints/intents-100".into() }),
            (41.0, evaluated(200, "dev", scores(0.85, false), Some(best.clone()))),
            (41.0, Event::StoppedEarly { step: 200, best, patience: 1 }),
            (41.5, evaluated(200, "test", scores(0.92, true), None)),
            (42.0, Event::Interrupted { step: 200, reason: "SIGINT".into() }),
            (42.0, Event::StageFinished(stages[1].clone())),
            (42.1, Event::RunFinished(summary)),
        ]
        .map(|(time, event)| Line { time, event })
        .to_vec()
    }

    #[test]
    fn a_run_in_plain_lines() {
        let mut plain = Plain::default();
        let lines: Vec<String> = events().iter().flat_map(|line| plain.lines(line, Paint { on: false })).collect();
        expect![[r#"
            stage adapt (mlm): 300 steps; 147,456 of 22,713,216 parameters move (0.6 %)
            step 100/300: epoch 1.00, loss 3.0000, learning rate 5.00e-4, 6,400 tokens/s, 20 s left
            stage adapt is done: 300 steps in 3 min 05 s, 12,346 tokens/s
            warning: 3 texts are cut at 128 tokens.
            note: The pooler is new.
            data of stage intents: train 9,003 examples (108,036 tokens, 3 cut); test 3,080 examples (36,960 tokens)
            stage intents (classify): 300 steps; 147,456 of 22,713,216 parameters move (0.6 %)
            stage intents goes on after step 50
            step 100/300: dev: accuracy 0.9000, loss 0.5000 (the best so far)
            step 200/300: dev: accuracy 0.8500, loss 0.5000
            stopped early at step 200: 1 evaluation without a better accuracy than 0.9000 at step 100
            step 200/300: test: accuracy 0.9200 (0.9100 to 0.9300), loss 0.5000
            stopped after step 200; a checkpoint is written
            stage intents is done: 300 steps in 3 min 05 s, 12,346 tokens/s"#]]
        .assert_eq(&lines.join("\n"));
    }
}
