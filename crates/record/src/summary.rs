//! The result of a run in one JSON document: what `train --json` ends with.
//!
//! Scores are plain numbers there, for the programs that only want those; intervals stand beside them under
//! `intervals`, by the same keys.
use crate::{Interval, Score, Scores, number};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What came out of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// The stages in the order in which they ran.
    pub stages: Vec<StageSummary>,
    /// The largest resident size of the process, in bytes.
    pub peak_memory_bytes: u64,
    /// From the start of the process to the end of the first optimiser step.
    #[serde(deserialize_with = "number::or_nan")]
    pub seconds_to_first_step: f64,
    /// The run directory.
    pub run: String,
}

/// What came out of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StageJson", into = "StageJson")]
pub struct StageSummary {
    /// The stage's name in the recipe.
    pub name: String,
    /// How many optimiser steps it took.
    pub steps: u64,
    /// By split (`dev`, `test`), the scores of the parameters that it left.
    pub scores: BTreeMap<String, Scores>,
    /// Real tokens (no padding) trained on, per second of training.
    pub tokens_per_second: f64,
    /// How long training took, evaluation left out.
    pub seconds: f64,
}

type BySplit<T> = BTreeMap<String, BTreeMap<String, T>>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StageJson {
    name: String,
    steps: u64,
    scores: BySplit<Option<f64>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    intervals: BySplit<Interval>,
    #[serde(deserialize_with = "number::or_nan")]
    tokens_per_second: f64,
    #[serde(deserialize_with = "number::or_nan")]
    seconds: f64,
}

impl From<StageSummary> for StageJson {
    fn from(stage: StageSummary) -> StageJson {
        let (mut scores, mut intervals) = (BySplit::new(), BySplit::new());
        for (split, Scores(by_metric)) in stage.scores {
            let plain: BTreeMap<_, _> = by_metric.iter().map(|(m, s)| (m.clone(), number::to_json(s.value))).collect();
            let ranges: BTreeMap<_, _> = by_metric.into_iter().filter_map(|(m, s)| Some((m, s.interval?))).collect();
            if !ranges.is_empty() {
                intervals.insert(split.clone(), ranges);
            }
            scores.insert(split, plain);
        }
        StageJson {
            name: stage.name,
            steps: stage.steps,
            scores,
            intervals,
            tokens_per_second: stage.tokens_per_second,
            seconds: stage.seconds,
        }
    }
}

impl TryFrom<StageJson> for StageSummary {
    type Error = String;

    fn try_from(json: StageJson) -> Result<StageSummary, String> {
        let mut scores: BTreeMap<String, Scores> = BTreeMap::new();
        for (split, by_metric) in json.scores {
            let score = |value| Score { value: number::from_json(value), interval: None };
            scores.insert(split, by_metric.into_iter().map(|(metric, value)| (metric, score(value))).collect());
        }
        for (split, by_metric) in json.intervals {
            for (metric, interval) in by_metric {
                let score = scores.get_mut(&split).and_then(|scores| scores.0.get_mut(&metric));
                score.ok_or_else(|| format!("`intervals.{split}.{metric}` has no score beside it"))?.interval =
                    Some(interval);
            }
        }
        Ok(StageSummary {
            name: json.name,
            steps: json.steps,
            scores,
            tokens_per_second: json.tokens_per_second,
            seconds: json.seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(accuracy: f64, interval: Option<Interval>) -> Scores {
        [("accuracy", Score { value: accuracy, interval }), ("loss", Score { value: 0.5, interval: None })]
            .into_iter()
            .collect()
    }

    fn summary() -> Summary {
        let interval = Some(Interval { low: 0.90625, high: 0.9296875 });
        let splits = [("dev".to_owned(), scores(0.9375, None)), ("test".to_owned(), scores(0.92, interval))];
        let stage = |name: &str, steps, scores| StageSummary {
            name: name.into(),
            steps,
            scores,
            tokens_per_second: 12000.5,
            seconds: 60.25,
        };
        Summary {
            stages: vec![stage("adapt", 100, BTreeMap::new()), stage("intents", 2820, BTreeMap::from(splits))],
            peak_memory_bytes: 734_003_200,
            seconds_to_first_step: 0.75,
            run: "runs/intents".into(),
        }
    }

    const JSON: &str = concat!(
        r#"{"stages":[{"name":"adapt","steps":100,"scores":{},"tokens_per_second":12000.5,"seconds":60.25},"#,
        r#"{"name":"intents","steps":2820,"#,
        r#""scores":{"dev":{"accuracy":0.9375,"loss":0.5},"test":{"accuracy":0.92,"loss":0.5}},"#,
        r#""intervals":{"test":{"accuracy":{"low":0.90625,"high":0.9296875}}},"#,
        r#""tokens_per_second":12000.5,"seconds":60.25}],"#,
        r#""peak_memory_bytes":734003200,"seconds_to_first_step":0.75,"run":"runs/intents"}"#,
    );

    #[test]
    fn json_is_pinned() {
        assert_eq!(serde_json::to_string(&summary()).expect("JSON"), JSON);
        assert_eq!(serde_json::from_str::<Summary>(JSON).expect("reads back"), summary());
    }

    #[test]
    fn a_missing_number_is_an_error() {
        for field in [r#","seconds":60.25"#, r#""steps":100,"#, r#","seconds_to_first_step":0.75"#] {
            assert!(serde_json::from_str::<Summary>(&JSON.replacen(field, "", 1)).is_err(), "without {field}");
        }
    }

    #[test]
    fn an_interval_without_its_score_is_an_error() {
        let json = JSON.replace(r#""intervals":{"test":{"accuracy""#, r#""intervals":{"test":{"matthews""#);
        let error = serde_json::from_str::<Summary>(&json).expect_err("no such score").to_string();
        assert!(error.contains("`intervals.test.matthews` has no score beside it"), "{error}");
    }
}
