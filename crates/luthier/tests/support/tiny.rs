//! A random BERT, small enough for finite differences, and data for it.

use std::sync::Arc;

use luthier::nn::{Batch, Device, Head, Network, Params, Part, Plan, Rng, Spec, Tensor};

use super::build;

pub(crate) const LABELS: usize = 3;

/// The sizes of a random network.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) vocabulary: usize,
    pub(crate) width: usize,
    pub(crate) dropout: f64,
}

/// Two layers of width 16 without dropout: what the laws are tried on.
pub(crate) const SMALL: Size = Size { vocabulary: 40, width: 16, dropout: 0.0 };

pub(crate) fn config(size: Size) -> serde_json::Value {
    serde_json::json!({
        "model_type": "bert",
        "vocab_size": size.vocabulary,
        "hidden_size": size.width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 2 * size.width,
        "max_position_embeddings": 32,
        "hidden_dropout_prob": size.dropout,
        "attention_probs_dropout_prob": size.dropout,
    })
}

pub(crate) fn classifier(size: Size) -> Arc<dyn Network> {
    build(&config(size), Head::Classify { labels: LABELS })
}

pub(crate) fn masked_lm(size: Size) -> Arc<dyn Network> {
    build(&config(size), Head::MaskedLm)
}

/// Values that make every part of the network matter: a pretrained model's own weights are far from the zeros, ones and
/// very small numbers that training from scratch begins with.
pub(crate) fn params(spec: &Spec, seed: u64) -> Params {
    let device = Device::cpu();
    let draw = |path: &str, n: usize, mean: f64, deviation: f64| -> Vec<f32> {
        let rng = Rng::at(seed, "tiny", 0, 0).named(path);
        (0..n as u64).map(|i| (mean + deviation * rng.normal(i)) as f32).collect()
    };
    let values = spec.params.iter().map(|p| {
        let values = match (p.part, p.shape.len()) {
            (Part::Weight, 1) => draw(&p.path, p.len(), 1.0, 0.2),
            (Part::Bias, _) => draw(&p.path, p.len(), 0.0, 0.2),
            _ => draw(&p.path, p.len(), 0.0, 1.5 / (spec.width as f64).sqrt()),
        };
        (p.path.clone(), Tensor::from_vec(&device, &p.shape, values).unwrap())
    });
    values.collect()
}

/// Everything moves.
pub(crate) fn full(network: &dyn Network) -> Plan {
    let mut plan = Plan::new(network.spec().clone().into());
    plan.train(&luthier::nn::Select::all()).unwrap();
    plan
}

/// One labelled sequence.
#[derive(Debug, Clone)]
pub(crate) struct Example {
    pub(crate) ids: Vec<u32>,
    pub(crate) segments: Vec<u32>,
    pub(crate) label: u32,
}

/// Random sequences of these lengths; the label says which of three groups of tokens is the most frequent.
pub(crate) fn examples(lengths: &[usize], vocabulary: usize, seed: u64) -> Vec<Example> {
    let one = |(i, &length): (usize, &usize)| {
        let rng = Rng::at(seed, "examples", i as u64, 0);
        // Two thirds of the tokens come from the label's own group, so that the label can be read off the text.
        let label = rng.below(0, LABELS as u64);
        let token = |position: u64| {
            let group = if rng.below(3 * position + 1, 3) < 2 { label } else { rng.below(3 * position + 2, 3) };
            (group + LABELS as u64 * rng.below(3 * position + 3, vocabulary as u64 / LABELS as u64)) as u32
        };
        let ids = (0..length as u64).map(token).collect();
        let second = length - length / 3;
        let segments = (0..length).map(|position| u32::from(position >= second)).collect();
        Example { ids, segments, label: label as u32 }
    };
    lengths.iter().enumerate().map(one).collect()
}

/// The batch of some examples. A slot is an example's place in its step; here, its index.
pub(crate) fn batch(examples: &[Example], chosen: &[usize]) -> Batch {
    let mut offsets = vec![0];
    let (mut ids, mut segments) = (Vec::new(), Vec::new());
    for &i in chosen {
        ids.extend(&examples[i].ids);
        segments.extend(&examples[i].segments);
        offsets.push(ids.len() as u32);
    }
    let slots: Vec<u32> = chosen.iter().map(|&i| i as u32).collect();
    let mut batch = Batch::new(ids, segments, offsets, &slots).unwrap();
    batch.targets = chosen.iter().map(|&i| examples[i].label).collect();
    batch
}

/// The same, wanting every third token of each sequence instead of its label.
pub(crate) fn masked(examples: &[Example], chosen: &[usize]) -> Batch {
    let mut batch = batch(examples, chosen);
    batch.rows = (0..batch.tokens() as u32).filter(|&row| batch.positions[row as usize].is_multiple_of(3)).collect();
    batch.targets = batch.rows.iter().map(|&row| (batch.ids[row as usize] + 7) % 40).collect();
    batch
}

/// All of them at once.
pub(crate) fn all(examples: &[Example]) -> Batch {
    batch(examples, &(0..examples.len()).collect::<Vec<_>>())
}
