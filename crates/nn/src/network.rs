//! What a family file implements.

use luthier_tensor::Var;

use crate::batch::Batch;
use crate::cx::Cx;
use crate::error::Result;
use crate::spec::Spec;

/// What an objective needs on top of a network. The family knows how its checkpoints name and shape it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// One of `labels` classes for a sequence.
    Classify {
        /// How many classes.
        labels: usize,
    },
    /// A token of the vocabulary for a position of a bidirectional encoder.
    MaskedLm,
}

/// Where the projection onto the vocabulary lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VocabularyOutput {
    /// Path of the weight `[vocabulary, width]`; the token embedding's when they are tied.
    pub weight: String,
    /// Path of the bias `[vocabulary]`, if there is one.
    pub bias: Option<String>,
}

/// A network with a head. Immutable: parameters are lent by [`Cx`], and every method acts through it.
pub trait Network: Send + Sync {
    /// Its sites and parameters.
    fn spec(&self) -> &Spec;

    /// The hidden states after the lowest `layers` layers, `[tokens, width]`: after the embeddings for 0, the last ones for
    /// as many as there are. Layers that a pass leaves out at random are left out here too.
    fn hidden(&self, batch: &Batch, layers: usize, cx: &mut Cx) -> Result<Var>;

    /// What the head puts out: logits `[sequences, labels]` of a classifier; for a language model the features
    /// `[batch.rows, width]` that its vocabulary projection reads. The top of the network is computed only for the rows
    /// that the head reads, which changes no value.
    fn forward(&self, batch: &Batch, cx: &mut Cx) -> Result<Var>;

    /// The vocabulary projection of a language-model head.
    fn vocabulary(&self) -> Option<&VocabularyOutput>;
}
