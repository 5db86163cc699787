//! The operations: each a file with its forward, its backward, a plain reference in f64, and a differential test.

pub mod absorbed;
pub mod activation;
pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod divergence;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod linear;
pub mod low_rank;
pub mod mixout;
pub mod norm;
pub mod rows;
pub mod vocabulary;

#[cfg(test)]
pub(crate) mod check;
