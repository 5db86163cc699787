//! Scores by metric name, each with its confidence interval where there is one.
use crate::number;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The scores on one split, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scores(
    /// From the metric's name to its score.
    pub BTreeMap<String, Score>,
);

/// The value of one metric.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ScoreJson", into = "ScoreJson")]
pub struct Score {
    /// The value on the whole split.
    pub value: f64,
    /// Where it would lie with another split of the same size, in 95 of 100 cases.
    pub interval: Option<Interval>,
}

/// A confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The lower end.
    #[serde(deserialize_with = "number::or_nan")]
    pub low: f64,
    /// The upper end.
    #[serde(deserialize_with = "number::or_nan")]
    pub high: f64,
}

impl Scores {
    /// Adds a score without an interval.
    pub fn insert(&mut self, metric: impl Into<String>, value: f64) {
        self.0.insert(metric.into(), Score { value, interval: None });
    }

    /// The value of a metric.
    pub fn value(&self, metric: &str) -> Option<f64> {
        self.0.get(metric).map(|score| score.value)
    }
}

impl<S: Into<String>> FromIterator<(S, Score)> for Scores {
    fn from_iter<T: IntoIterator<Item = (S, Score)>>(scores: T) -> Scores {
        Scores(scores.into_iter().map(|(metric, score)| (metric.into(), score)).collect())
    }
}

/// `{"value": 0.9, "low": 0.89, "high": 0.91}`, the last two together or not at all.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScoreJson {
    #[serde(deserialize_with = "number::or_nan")]
    value: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    low: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    high: Option<f64>,
}

impl From<Score> for ScoreJson {
    fn from(score: Score) -> ScoreJson {
        // An interval with an infinite end has no notation beside a number; it is left out.
        let interval = score.interval.filter(|interval| interval.low.is_finite() && interval.high.is_finite());
        ScoreJson {
            value: score.value,
            low: interval.map(|interval| interval.low),
            high: interval.map(|interval| interval.high),
        }
    }
}

impl TryFrom<ScoreJson> for Score {
    type Error = &'static str;

    fn try_from(json: ScoreJson) -> Result<Score, &'static str> {
        let interval = match (json.low, json.high) {
            (Some(low), Some(high)) => Some(Interval { low, high }),
            (None, None) => None,
            _ => return Err("an interval needs both `low` and `high`"),
        };
        Ok(Score { value: json.value, interval })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_pinned() {
        let mut scores = Scores::default();
        scores.insert("loss", 0.25);
        scores.insert("perplexity", f64::INFINITY);
        scores.0.insert("accuracy".into(), Score { value: 0.9, interval: Some(Interval { low: 0.875, high: 0.925 }) });
        let json =
            r#"{"accuracy":{"value":0.9,"low":0.875,"high":0.925},"loss":{"value":0.25},"perplexity":{"value":null}}"#;
        assert_eq!(serde_json::to_string(&scores).expect("JSON"), json);
        let back: Scores = serde_json::from_str(json).expect("reads back");
        assert_eq!((back.0["accuracy"], back.value("loss")), (scores.0["accuracy"], Some(0.25)));
        assert!(back.value("perplexity").is_some_and(f64::is_nan));
    }

    #[test]
    fn half_an_interval_is_an_error() {
        let error = serde_json::from_str::<Score>(r#"{"value":1.0,"low":0.5}"#).expect_err("half an interval");
        assert!(error.to_string().contains("both `low` and `high`"), "{error}");
        assert!(serde_json::from_str::<Score>(r#"{"low":0.5,"high":0.6}"#).is_err(), "an interval of nothing");
    }
}
