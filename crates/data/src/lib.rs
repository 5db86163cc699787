//! From files to integers: what a network is trained on, before any tensor exists.
//!
//! [`read`] turns CSV, TSV, JSON lines and plain text into rows, [`labels`] names into ids, [`tokenize`] texts into a
//! [`Corpus`], [`split`] cuts a dev set off, [`order`] says which examples an optimiser step sees,
//! and [`inspect`] tells a person what of all this the model gets to see.
//!
//! Nothing here knows tensors, and nothing is cut, dropped or guessed without a count that says so.

pub mod blocks;
pub mod cache;
pub mod corpus;
pub mod error;
pub mod inspect;
pub mod labels;
pub mod nearest;
pub mod order;
pub mod overlap;
pub mod read;
pub mod split;
pub mod tokenize;
pub mod vocabulary;

pub use blocks::blocks;
pub use cache::{Cache, Cached};
pub use corpus::{Corpus, SPECIAL};
pub use error::DataError;
pub use labels::Labels;
pub use order::Order;
pub use read::{Columns, Example, Format, Row, Rows, TextUnit};
pub use split::{Split, split_dev};
pub use tokenize::{EncodeOptions, Encoded, Overlong, SpecialTokens, Tokenizer, panics_are_errors};
