//! Values to text. Nothing here prints: every function returns what is to be shown.

pub(crate) mod data;
pub(crate) mod methods;
pub(crate) mod number;
pub(crate) mod paint;
pub(crate) mod plain;
pub(crate) mod plan;
pub(crate) mod profile;
pub(crate) mod progress;
pub(crate) mod scores;
pub(crate) mod table;
pub(crate) mod track;
