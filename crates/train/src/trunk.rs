//! The layers below the first one that changes: computed once for each text, and kept.
//!
//! What a frozen trunk makes of a text is the same in every epoch as long as nothing in it is random, so with
//! `cache_trunk` it is computed without dropout before the first step, for the training texts and for those that the run is
//! measured on again and again. The hidden states of either stay in memory up to [`MEMORY`]; the rest goes into a file that
//! has no name and vanishes with the run.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use luthier_nn::{Device, Params, Tensor};
use luthier_objectives::Draw;

use crate::dataset::Part;
use crate::error::{Result, TrainError};
use crate::step::StageRun;

/// Numbers that are kept in memory: 1 GiB of them.
const MEMORY: usize = 1 << 28;

/// The hidden states of every text of a split.
pub struct Trunk {
    layers: usize,
    width: usize,
    /// Where each text begins, in tokens.
    offsets: Vec<usize>,
    memory: Vec<f32>,
    file: Option<File>,
}

impl Trunk {
    /// Computes the trunk of every text of a split.
    ///
    /// # Errors
    /// A network that cannot be computed, a disk that is full.
    pub fn compute(stage: &StageRun, part: &Part, params: &Params, scratch: &Path) -> Result<Trunk> {
        let lengths = part.examples.corpus.lengths();
        let mut trunk = Trunk::empty(stage, &lengths, scratch)?;
        for chosen in luthier_data::order::evaluation_batches(&lengths, stage.train.token_budget) {
            let slots: Vec<u32> = (0..chosen.len() as u32).collect();
            let batch = stage.objective.batch(&part.examples, &chosen, &slots, Draw::Evaluate)?;
            let mut cx = stage.evaluation(params).context();
            let hidden = stage.network.hidden(&batch, trunk.layers, &mut cx)?.value().to_vec();
            for (&example, rows) in chosen.iter().zip(batch.offsets.windows(2)) {
                let values = &hidden[rows[0] as usize * trunk.width..rows[1] as usize * trunk.width];
                trunk.write(example, values).map_err(|source| TrainError::file("write", scratch, source))?;
            }
        }
        Ok(trunk)
    }

    /// Room for texts of these lengths.
    fn empty(stage: &StageRun, lengths: &[u32], scratch: &Path) -> Result<Trunk> {
        let (layers, width) = (stage.plan.still_layers().unwrap_or(0), stage.plan.spec().width);
        let mut offsets = vec![0];
        for &length in lengths {
            offsets.push(offsets[offsets.len() - 1] + length as usize);
        }
        let total = offsets[offsets.len() - 1] * width;
        let file = (total > MEMORY).then(|| tempfile::tempfile_in(scratch)).transpose();
        let file = file.map_err(|source| TrainError::file("make a file in", scratch, source))?;
        Ok(Trunk { layers, width, offsets, memory: vec![0.0; total.min(MEMORY)], file })
    }

    /// Where a text's numbers are: how many of them are in memory, from where on, and how many there are.
    fn place(&self, example: u32) -> (usize, usize, usize) {
        let start = self.offsets[example as usize] * self.width;
        let len = self.offsets[example as usize + 1] * self.width - start;
        (self.memory.len().saturating_sub(start).min(len), start, len)
    }

    fn write(&mut self, example: u32, values: &[f32]) -> std::io::Result<()> {
        let (here, start, _) = self.place(example);
        if here > 0 {
            self.memory[start..start + here].copy_from_slice(&values[..here]);
        }
        if let (Some(mut file), true) = (self.file.as_ref(), here < values.len()) {
            file.seek(SeekFrom::Start(((start + here - self.memory.len()) * size_of::<f32>()) as u64))?;
            file.write_all(bytemuck::cast_slice(&values[here..]))?;
        }
        Ok(())
    }

    fn read(&self, example: u32, values: &mut Vec<f32>) -> std::io::Result<()> {
        let (here, start, len) = self.place(example);
        if here > 0 {
            values.extend_from_slice(&self.memory[start..start + here]);
        }
        if let (Some(mut file), true) = (self.file.as_ref(), here < len) {
            file.seek(SeekFrom::Start(((start + here - self.memory.len()) * size_of::<f32>()) as u64))?;
            let old = values.len();
            values.resize(old + len - here, 0.0);
            file.read_exact(bytemuck::cast_slice_mut(&mut values[old..]))?;
        }
        Ok(())
    }

    /// How many layers it is.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// The hidden states of some texts, end to end: `[tokens, width]`.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn hidden(&self, device: &Device, examples: &[u32]) -> Result<Tensor> {
        let mut values = Vec::new();
        for &example in examples {
            let read = self.read(example, &mut values);
            read.map_err(|source| TrainError::file("read", Path::new("the kept hidden states"), source))?;
        }
        Ok(Tensor::from_vec(device, &[values.len() / self.width, self.width], values)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_first_then_a_file() {
        let lengths = [3usize, 1, 4, 2];
        let offsets: Vec<usize> = (0..=4).map(|i| lengths[..i].iter().sum()).collect();
        // The third text lies in both.
        let file = tempfile::tempfile().ok();
        let mut trunk = Trunk { layers: 1, width: 2, offsets, memory: vec![0.0; 11], file };
        let text = |i: usize| -> Vec<f32> { (0..2 * lengths[i]).map(|j| (10 * i + j) as f32).collect() };
        for i in [2, 0, 3, 1] {
            trunk.write(i as u32, &text(i)).expect("it is written");
        }
        let hidden = trunk.hidden(&Device::cpu(), &[1, 2, 3, 0]).expect("it is read");
        assert_eq!(hidden.to_vec(), [text(1), text(2), text(3), text(0)].concat());
    }
}
