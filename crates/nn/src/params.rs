//! Parameters: one ordered map from path to tensor. Gradients, optimiser state and checkpoints use the same keys.

use std::collections::BTreeMap;

use luthier_tensor::Tensor;

use crate::error::{NnError, Result};

/// Parameters by path, in path order. Cloning shares the tensors' memory until one side writes.
#[derive(Debug, Clone, Default)]
pub struct Params(BTreeMap<String, Tensor>);

impl Params {
    /// The tensor under a path.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, path: &str) -> Result<&Tensor> {
        self.0.get(path).ok_or_else(|| NnError::MissingParameter { path: path.to_owned() })
    }

    /// The tensor under a path, for writing.
    pub fn get_mut(&mut self, path: &str) -> Result<&mut Tensor> {
        self.0.get_mut(path).ok_or_else(|| NnError::MissingParameter { path: path.to_owned() })
    }

    /// Whether there is a tensor under a path.
    pub fn contains(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// Puts a tensor under a path; gives back what was there.
    pub fn insert(&mut self, path: impl Into<String>, tensor: Tensor) -> Option<Tensor> {
        self.0.insert(path.into(), tensor)
    }

    /// Takes a tensor out.
    pub fn remove(&mut self, path: &str) -> Option<Tensor> {
        self.0.remove(path)
    }

    /// All of them, in path order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(path, tensor)| (path.as_str(), tensor))
    }

    /// All of them for writing, in path order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Tensor)> {
        self.0.iter_mut().map(|(path, tensor)| (path.as_str(), tensor))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(String, Tensor)> for Params {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(entries: I) -> Params {
        Params(entries.into_iter().collect())
    }
}
