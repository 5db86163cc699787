//! Numbers that JSON cannot write: infinities and NaN are written as `null`, and `null` is read as NaN.
use serde::{Deserialize, Deserializer};

/// For `#[serde(deserialize_with)]` on an `f64`; serde_json writes the `null` by itself.
pub(crate) fn or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(from_json(Option::deserialize(deserializer)?))
}

pub(crate) fn to_json(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

pub(crate) fn from_json(value: Option<f64>) -> f64 {
    value.unwrap_or(f64::NAN)
}
