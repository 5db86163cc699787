//! What can go wrong in the engine: always a mistake of the caller in shapes or dtypes, never of a user's data.

/// An operation was asked for something it cannot do.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// Shapes that do not go together.
    #[error("{op}: the shape {found:?} does not fit {expected}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The shape that was found.
        found: Vec<usize>,
        /// What would fit, in words.
        expected: String,
    },
    /// A tensor of the wrong element type.
    #[error("{op}: the tensor holds {found}, and {expected} is needed")]
    DType {
        /// The operation.
        op: &'static str,
        /// What was found.
        found: &'static str,
        /// What is needed.
        expected: &'static str,
    },
    /// An index outside its table.
    #[error("{op}: the index {index} is outside 0..{len}")]
    Index {
        /// The operation.
        op: &'static str,
        /// The index.
        index: usize,
        /// How many there are.
        len: usize,
    },
}

/// The engine's result type.
pub type Result<T, E = TensorError> = std::result::Result<T, E>;

/// Checks a shape: `expected` is only built when it does not hold.
pub(crate) fn ensure_shape(
    op: &'static str,
    ok: bool,
    found: &[usize],
    expected: impl FnOnce() -> String,
) -> Result<()> {
    if ok { Ok(()) } else { Err(TensorError::Shape { op, found: found.to_vec(), expected: expected() }) }
}
