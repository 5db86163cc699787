//! The commands, a file each. Each takes its arguments and what it prints with; what it returns is the exit code.

pub(crate) mod bench;
pub(crate) mod data;
pub(crate) mod evaluate;
pub(crate) mod export;
pub(crate) mod methods;
pub(crate) mod plan;
pub(crate) mod predict;
pub(crate) mod schema;
pub(crate) mod train;
