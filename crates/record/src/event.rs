//! What happens during a run, one value for each kind of thing.
//!
//! The enum is closed and its JSON is pinned. Steps are optimiser steps of the stage at hand, counted from 1; an event
//! that names no stage belongs to the last `stage_started` or `resumed` before it.
use crate::{Profile, Scores, StageSummary, Summary, number};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One line of `events.jsonl`: an event and when it happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Seconds since the run began. The caller supplies them: the libraries have no clock.
    #[serde(deserialize_with = "number::or_nan")]
    pub time: f64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// A run begins.
    RunStarted {
        /// The hash of the resolved recipe.
        recipe: String,
        /// The run's seed.
        seed: u64,
        /// The version of Luthier.
        version: String,
    },
    /// An interrupted run goes on from a checkpoint; what was logged of this stage after that step is superseded.
    Resumed {
        /// The stage it goes on with.
        stage: String,
        /// The last step that the checkpoint contains.
        step: u64,
    },
    /// Something a person should know: what was missing, new, unused or cut.
    Notice {
        /// How much it matters.
        level: Level,
        /// A sentence.
        text: String,
        /// The numbers in it, by name.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        counts: BTreeMap<String, u64>,
    },
    /// The data of a stage is ready.
    Data {
        /// The stage it is for.
        stage: String,
        /// By split (`train`, `dev`, `test`).
        splits: BTreeMap<String, Split>,
    },
    /// A stage begins.
    StageStarted {
        /// The stage's name in the recipe.
        name: String,
        /// The objective's kind.
        objective: String,
        /// How many optimiser steps it will take, if nothing stops it.
        steps: u64,
        /// How many parameters move.
        trainable_parameters: u64,
        /// How many parameters there are.
        total_parameters: u64,
    },
    /// An optimiser step is done.
    Step {
        /// Its number.
        step: u64,
        /// How many times the training data has been gone through after it, with the fraction.
        #[serde(deserialize_with = "number::or_nan")]
        epoch: f64,
        /// The mean loss of the step's batch, in nats.
        #[serde(deserialize_with = "number::or_nan")]
        loss: f64,
        /// The Euclidean norm of the gradient before clipping.
        #[serde(deserialize_with = "number::or_nan")]
        gradient_norm: f64,
        /// The learning rate of the step, before the factors of single parameters.
        #[serde(deserialize_with = "number::or_nan")]
        learning_rate: f64,
        /// Real tokens in the step's batch.
        tokens: u64,
        /// Real tokens per second, over the step.
        #[serde(deserialize_with = "number::or_nan")]
        tokens_per_second: f64,
    },
    /// The parameters have been evaluated.
    Evaluated {
        /// After which step; 0 is before the first.
        step: u64,
        /// The split they were evaluated on.
        split: String,
        /// The scores.
        scores: Scores,
        /// The best evaluation of the stage so far, this one included, where a metric is watched.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        best: Option<Best>,
    },
    /// A checkpoint is on disk.
    Checkpoint {
        /// The last step it contains.
        step: u64,
        /// Where it is, in the run directory.
        path: String,
    },
    /// The watched metric has not improved for too long: the stage ends here.
    StoppedEarly {
        /// The last step.
        step: u64,
        /// The evaluation whose parameters are kept.
        best: Best,
        /// How many evaluations without improvement it takes to stop.
        patience: u64,
    },
    /// The run was asked to stop; it can be resumed.
    Interrupted {
        /// The last step.
        step: u64,
        /// By whom or what, `SIGINT` for one.
        reason: String,
    },
    /// Where the time of a stage's steps went, if somebody asked.
    Profiled {
        /// The stage's name in the recipe.
        stage: String,
        /// What took how long.
        profile: Profile,
    },
    /// A stage is done.
    StageFinished(
        /// What came out of it.
        StageSummary,
    ),
    /// The run is done.
    RunFinished(
        /// What came out of it.
        Summary,
    ),
}

/// How much a notice matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Good to know.
    Info,
    /// Probably not what was wanted.
    Warning,
    /// Why the run ends.
    Error,
}

/// The size of a split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// How many examples.
    pub examples: u64,
    /// How many tokens the model sees in all.
    pub tokens: u64,
    /// How many examples were cut because they are longer than the model takes.
    pub cut: u64,
}

/// The best evaluation of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// The metric that decides.
    pub metric: String,
    /// Its value.
    #[serde(deserialize_with = "number::or_nan")]
    pub value: f64,
    /// After which step.
    pub step: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Interval, Score};

    /// One event of every kind, and its line.
    fn pinned() -> Vec<(Event, &'static str)> {
        let best = Best { metric: "accuracy".into(), value: 0.9, step: 40 };
        let stage = StageSummary {
            name: "intents".into(),
            steps: 80,
            scores: BTreeMap::new(),
            tokens_per_second: 5000.0,
            seconds: 12.5,
        };
        let summary = Summary {
            stages: vec![stage.clone()],
            peak_memory_bytes: 1024,
            seconds_to_first_step: 0.5,
            run: "runs/a".into(),
        };
        let score = Score { value: 0.9, interval: Some(Interval { low: 0.85, high: 0.95 }) };
        vec![
            (
                Event::RunStarted { recipe: "4af1".into(), seed: u64::MAX, version: "0.1.0".into() },
                r#"{"time":1.5,"event":"run_started","recipe":"4af1","seed":18446744073709551615,"version":"0.1.0"}"#,
            ),
            (
                Event::Resumed { stage: "intents".into(), step: 40 },
                r#"{"time":1.5,"event":"resumed","stage":"intents","step":40}"#,
            ),
            (
                Event::Notice {
                    level: Level::Warning,
                    text: "3 texts are cut at 128 tokens.".into(),
                    counts: BTreeMap::from([("cut".into(), 3)]),
                },
                r#"{"time":1.5,"event":"notice","level":"warning","text":"3 texts are cut at 128 tokens.","counts":{"cut":3}}"#,
            ),
            (
                Event::Notice { level: Level::Info, text: "The pooler is new.".into(), counts: BTreeMap::new() },
                r#"{"time":1.5,"event":"notice","level":"info","text":"The pooler is new."}"#,
            ),
            (
                Event::Data {
                    stage: "intents".into(),
                    splits: BTreeMap::from([("train".into(), Split { examples: 9, tokens: 90, cut: 1 })]),
                },
                r#"{"time":1.5,"event":"data","stage":"intents","splits":{"train":{"examples":9,"tokens":90,"cut":1}}}"#,
            ),
            (
                Event::StageStarted {
                    name: "intents".into(),
                    objective: "classify".into(),
                    steps: 80,
                    trainable_parameters: 10,
                    total_parameters: 1000,
                },
                r#"{"time":1.5,"event":"stage_started","name":"intents","objective":"classify","steps":80,"trainable_parameters":10,"total_parameters":1000}"#,
            ),
            (
                Event::Step {
                    step: 1,
                    epoch: 0.25,
                    loss: 4.3125,
                    gradient_norm: 2.5,
                    learning_rate: 0.0005,
                    tokens: 640,
                    tokens_per_second: 6400.0,
                },
                r#"{"time":1.5,"event":"step","step":1,"epoch":0.25,"loss":4.3125,"gradient_norm":2.5,"learning_rate":0.0005,"tokens":640,"tokens_per_second":6400.0}"#,
            ),
            (
                Event::Evaluated {
                    step: 40,
                    split: "dev".into(),
                    scores: [("accuracy", score)].into_iter().collect(),
                    best: Some(best.clone()),
                },
                r#"{"time":1.5,"event":"evaluated","step":40,"split":"dev","scores":{"accuracy":{"value":0.9,"low":0.85,"high":0.95}},"best":{"metric":"accuracy","value":0.9,"step":40}}"#,
            ),
            (
                Event::Evaluated { step: 0, split: "test".into(), scores: Scores::default(), best: None },
                r#"{"time":1.5,"event":"evaluated","step":0,"split":"test","scores":{}}"#,
            ),
            (
                Event::Checkpoint { step: 40, path: "checkpoints/intents-40".into() },
                r#"{"time":1.5,"event":"checkpoint","step":40,"path":"checkpoints/intents-40"}"#,
            ),
            (
                Event::StoppedEarly { step: 70, best, patience: 3 },
                r#"{"time":1.5,"event":"stopped_early","step":70,"best":{"metric":"accuracy","value":0.9,"step":40},"patience":3}"#,
            ),
            (
                Event::Interrupted { step: 12, reason: "SIGINT".into() },
                r#"{"time":1.5,"event":"interrupted","step":12,"reason":"SIGINT"}"#,
            ),
            (
                Event::StageFinished(stage),
                r#"{"time":1.5,"event":"stage_finished","name":"intents","steps":80,"scores":{},"tokens_per_second":5000.0,"seconds":12.5}"#,
            ),
            (
                Event::RunFinished(summary),
                r#"{"time":1.5,"event":"run_finished","stages":[{"name":"intents","steps":80,"scores":{},"tokens_per_second":5000.0,"seconds":12.5}],"peak_memory_bytes":1024,"seconds_to_first_step":0.5,"run":"runs/a"}"#,
            ),
        ]
    }

    #[test]
    fn json_is_pinned() {
        for (event, json) in pinned() {
            let line = Line { time: 1.5, event };
            assert_eq!(serde_json::to_string(&line).expect("JSON"), json);
            assert_eq!(serde_json::from_str::<Line>(json).expect("reads back"), line);
        }
    }

    /// A name, a number or a field that nobody knows is an error in every kind of event.
    #[test]
    fn unknown_fields_and_events_are_errors() {
        for (_, json) in pinned() {
            let json = json.replacen(r#""time":1.5,"#, r#""time":1.5,"surprise":1,"#, 1);
            assert!(serde_json::from_str::<Line>(&json).is_err(), "{json}");
        }
        assert!(serde_json::from_str::<Line>(r#"{"time":1.5,"event":"step_done","step":1}"#).is_err());
        assert!(serde_json::from_str::<Line>(r#"{"event":"resumed","stage":"a","step":1}"#).is_err(), "no time");
    }

    #[test]
    fn a_loss_that_is_no_number_is_null_and_reads_as_nan() {
        let step = |loss| Event::Step {
            step: 1,
            epoch: 0.0,
            loss,
            gradient_norm: 1.0,
            learning_rate: 1.0,
            tokens: 1,
            tokens_per_second: 1.0,
        };
        let json = serde_json::to_string(&Line { time: 0.0, event: step(f64::INFINITY) }).expect("JSON");
        assert!(json.contains(r#""loss":null"#), "{json}");
        let back = serde_json::from_str::<Line>(&json).expect("reads back").event;
        assert!(matches!(back, Event::Step { loss, .. } if loss.is_nan()));
    }
}
