//! The metrics by name: one line each.
use crate::{Accuracy, Direction, Evidence, Interval, Loss, MacroF1, Matthews, Metric, MicroF1, Perplexity, bootstrap};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Makes the enum of all metrics, and from a metric's name the type that computes it.
macro_rules! registry {
    ($($variant:ident = $name:literal => $metric:ty,)*) => {
        /// A metric, by name: what a recipe says, and what early stopping watches.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum MetricKind {
            $(#[doc = concat!("`", $name, "`: see [`", stringify!($metric), "`](crate::", stringify!($metric), ").")]
            $variant,)*
        }

        impl MetricKind {
            /// Every metric there is.
            pub const ALL: &'static [MetricKind] = &[$(MetricKind::$variant),*];

            /// The name in recipes, scores and reports.
            pub fn name(self) -> &'static str {
                match self { $(MetricKind::$variant => $name),* }
            }

            /// Whether a higher or a lower value is the better one.
            pub fn direction(self) -> Direction {
                match self { $(MetricKind::$variant => <$metric>::DIRECTION),* }
            }

            /// What it measures, in one sentence.
            pub fn about(self) -> &'static str {
                match self { $(MetricKind::$variant => <$metric>::ABOUT),* }
            }

            /// Its value on all examples; `None` when they hold nothing that it measures.
            pub fn score(self, evidence: &Evidence) -> Option<f64> {
                match self { $(MetricKind::$variant => value::<$metric>(evidence, 0..evidence.len())),* }
            }

            /// Its confidence interval of level [`LEVEL`](crate::LEVEL), by resampling examples (see [`bootstrap`]);
            /// `None` with fewer than two examples, or where the metric is undefined.
            pub fn interval(self, evidence: &Evidence, seed: u64) -> Option<Interval> {
                // More than 2^32 examples would need days of resampling, and an interval has no width left there.
                let examples = u32::try_from(evidence.len()).ok()?;
                match self {
                    $(MetricKind::$variant => bootstrap(examples, seed, |drawn| {
                        value::<$metric>(evidence, drawn.iter().map(|&index| index as usize))
                    })),*
                }
            }
        }
    };
}

registry! {
    Loss = "loss" => Loss,
    Perplexity = "perplexity" => Perplexity,
    Accuracy = "accuracy" => Accuracy,
    MaskedAccuracy = "masked_accuracy" => Accuracy,
    MacroF1 = "macro_f1" => MacroF1,
    MicroF1 = "micro_f1" => MicroF1,
    Matthews = "matthews" => Matthews,
}

fn value<M: Metric>(evidence: &Evidence, examples: impl Iterator<Item = usize>) -> Option<f64> {
    let mut metric = M::default();
    for example in examples.filter_map(|index| evidence.get(index)) {
        metric.add(&example);
    }
    metric.finish()
}

impl MetricKind {
    /// The metric called `name` among those a task offers.
    ///
    /// # Errors
    /// When no metric has that name (with the nearest one), or when the task does not offer it.
    pub fn choose(name: &str, offered: &[MetricKind]) -> Result<MetricKind, MetricError> {
        if let Some(metric) = offered.iter().find(|metric| metric.name() == name) {
            return Ok(*metric);
        }
        let known = list(offered);
        if MetricKind::ALL.iter().any(|metric| metric.name() == name) {
            return Err(MetricError::NotOffered { found: name.to_owned(), known });
        }
        let nearest = offered.iter().map(|metric| metric.name()).max_by(|a, b| {
            let likeness = |other| strsim::jaro_winkler(name, other);
            likeness(a).total_cmp(&likeness(b))
        });
        let nearest = nearest.filter(|other| strsim::jaro_winkler(name, other) > 0.7).unwrap_or_default();
        Err(MetricError::Unknown { found: name.to_owned(), nearest, known })
    }
}

/// Why a name does not stand for a metric here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetricError {
    /// No metric has this name.
    #[error("there is no metric `{found}`; {}the metrics here are {known}", did_you_mean(.nearest))]
    Unknown {
        /// The name as it was given.
        found: String,
        /// The known name that looks most like it; empty if none does.
        nearest: &'static str,
        /// The names that would do.
        known: String,
    },
    /// The metric exists, but the task at hand cannot be measured by it.
    #[error("metric `{found}` does not apply to this objective; choose one of {known}")]
    NotOffered {
        /// The name as it was given.
        found: String,
        /// The names that would do.
        known: String,
    },
}

fn did_you_mean(nearest: &str) -> String {
    if nearest.is_empty() { String::new() } else { format!("did you mean `{nearest}`? ") }
}

fn list(metrics: &[MetricKind]) -> String {
    metrics.iter().map(|metric| format!("`{metric}`")).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for MetricKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for MetricKind {
    type Err = MetricError;

    fn from_str(name: &str) -> Result<MetricKind, MetricError> {
        MetricKind::choose(name, MetricKind::ALL)
    }
}

impl serde::Serialize for MetricKind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for MetricKind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<MetricKind, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for MetricKind {
    fn schema_name() -> Cow<'static, str> {
        "MetricKind".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let names: Vec<&str> = MetricKind::ALL.iter().map(|metric| metric.name()).collect();
        schemars::json_schema!({ "type": "string", "enum": names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_metric() {
        for &metric in MetricKind::ALL {
            assert_eq!(metric.name().parse(), Ok(metric));
            let json = serde_json::to_string(&metric).expect("a name is JSON");
            assert_eq!(serde_json::from_str::<MetricKind>(&json).expect("reads back"), metric);
        }
        let lower: Vec<_> = MetricKind::ALL.iter().filter(|m| m.direction() == Direction::Lower).collect();
        assert_eq!(lower, [&MetricKind::Loss, &MetricKind::Perplexity]);
    }

    #[test]
    fn errors_say_what_would_do() {
        let offered = [MetricKind::Loss, MetricKind::Accuracy];
        let message = |name| MetricKind::choose(name, &offered).expect_err("a wrong name").to_string();
        let near = "there is no metric `acuracy`; did you mean `accuracy`? the metrics here are `loss`, `accuracy`";
        assert_eq!(message("acuracy"), near);
        assert_eq!(message("zzz"), "there is no metric `zzz`; the metrics here are `loss`, `accuracy`");
        let other = "metric `perplexity` does not apply to this objective; choose one of `loss`, `accuracy`";
        assert_eq!(message("perplexity"), other);
        let error = serde_json::from_str::<MetricKind>("\"macrof1\"").expect_err("a wrong name").to_string();
        assert!(error.contains("did you mean `macro_f1`?"), "{error}");
    }

    #[test]
    fn schema_lists_the_names() {
        let schema = schemars::schema_for!(MetricKind);
        let names = schema.get("enum").and_then(|names| names.as_array()).map(Vec::len);
        assert_eq!(names, Some(MetricKind::ALL.len()));
    }
}
