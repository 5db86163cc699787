//! Golden files: numbers that Python's libraries computed (`reference/README.md` says what each tensor is).

use std::collections::BTreeMap;

use luthier::nn::{Batch, Device, Tensor};
use safetensors::{Dtype, SafeTensors};

use super::fixture;

/// A golden file: shapes and values by name.
pub(crate) struct Golden {
    floats: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    integers: BTreeMap<String, Vec<u32>>,
}

impl Golden {
    pub(crate) fn open(path: &str) -> Golden {
        let bytes = std::fs::read(fixture(path)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut golden = Golden { floats: BTreeMap::new(), integers: BTreeMap::new() };
        for (name, view) in file.tensors() {
            let words = view.data().chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
            match view.dtype() {
                Dtype::F32 => {
                    let values = words.map(f32::from_le_bytes).collect();
                    golden.floats.insert(name, (view.shape().to_vec(), values));
                }
                Dtype::I32 => {
                    let values = words.map(|word| u32::try_from(i32::from_le_bytes(word)).unwrap()).collect();
                    golden.integers.insert(name, values);
                }
                other => panic!("{path}: {name} holds {other:?}"),
            }
        }
        golden
    }

    pub(crate) fn floats(&self, name: &str) -> &[f32] {
        &self.floats.get(name).unwrap_or_else(|| panic!("the golden file lacks {name}")).1
    }

    pub(crate) fn integers(&self, name: &str) -> &[u32] {
        self.integers.get(name).unwrap_or_else(|| panic!("the golden file lacks {name}"))
    }

    /// The tensors whose names begin with `prefix`, under what follows it.
    pub(crate) fn under(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let device = Device::cpu();
        let named = self.floats.iter().filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value)));
        named
            .map(|(name, (shape, values))| (name.to_owned(), Tensor::from_vec(&device, shape, values.clone()).unwrap()))
            .collect()
    }

    /// The five sequences, each wanting its label, or the tokens that were masked.
    pub(crate) fn batch(&self) -> Batch {
        let offsets = self.integers("offsets").to_vec();
        let slots: Vec<u32> = (0..offsets.len() as u32 - 1).collect();
        let (ids, segments) = (self.integers("input_ids").to_vec(), self.integers("token_type_ids").to_vec());
        let mut batch = Batch::new(ids, segments, offsets, &slots).unwrap();
        if self.integers.contains_key("labels") {
            batch.targets = self.integers("labels").to_vec();
        } else {
            batch.rows = self.integers("positions").to_vec();
            batch.targets = self.integers("targets").to_vec();
        }
        batch
    }
}
