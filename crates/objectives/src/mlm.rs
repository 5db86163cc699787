//! Masked language modelling: hide some tokens of a text and have the network tell them from the rest.
//!
//! Paper: Devlin, Chang, Lee and Toutanova 2019, <https://arxiv.org/abs/1810.04805>, section 3.1 and appendix A.1;
//! masks anew in every epoch: Liu et al. 2019, <https://arxiv.org/abs/1907.11692>, section 4.1.
//! `loss = -log softmax(W h + b)[token]`, summed over the chosen tokens; `W` is the network's own token embedding.
//! Trains: what the method says, and the head.
//! Defaults: 15 % of the tokens are chosen; of those 80 % become the mask token, 10 % a random one, 10 % stay (the paper's).
//!
//! Paper: exactly 15 % of a sequence's tokens. Here: each token, or each word, by a draw of its own. Because: it is what
//! transformers does, it needs no rounding in short texts, and a draw hangs on nothing but its place.
//! A text of which nothing was chosen adds nothing to the loss and counts for nothing; none is forced, which would weigh
//! the tokens of short texts more than those of long ones.
//!
//! Never chosen: the special tokens around the texts, and tokens of the text that are special ones (`[UNK]`: nobody wants
//! it predicted).

use luthier_data::{Corpus, Labels, SPECIAL, Tokenizer};
use luthier_metrics::MetricKind;
use luthier_nn::{About, Batch, Cx, Head, Loss, Network, NnError, Score, Tensor, Var};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{ObjectiveError, Result};
use crate::pack::{Draw, Examples, pack};
use crate::{Intent, Objective, Prediction, Task};

/// `kind = "mlm"`: masked language modelling, on texts without labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaskedLm {
    /// The share of tokens (or words) that are chosen to be predicted (Devlin et al. 2019: 0.15).
    pub probability: f64,
    /// Whether all pieces of a word are chosen together (BERT's later models; Cui et al. 2019,
    /// <https://arxiv.org/abs/1906.08101>).
    pub whole_word: bool,
    /// The share of chosen tokens that become the mask token (Devlin et al. 2019: 0.8).
    pub mask_share: f64,
    /// The share of chosen tokens that become a random token of the vocabulary; the rest stay (Devlin et al. 2019: 0.1).
    pub random_share: f64,
}

impl Default for MaskedLm {
    fn default() -> MaskedLm {
        MaskedLm { probability: 0.15, whole_word: false, mask_share: 0.8, random_share: 0.1 }
    }
}

impl Intent for MaskedLm {
    fn about(&self) -> About {
        About { paper: "Devlin et al. 2019", link: "https://arxiv.org/abs/1810.04805" }
    }

    fn task(&self) -> Task {
        let metrics = &[MetricKind::Loss, MetricKind::Perplexity, MetricKind::MaskedAccuracy];
        Task { labelled: false, steady: false, logits: false, metrics }
    }

    fn check(&self) -> Result<()> {
        let wrong = |key, found, expected| Err(ObjectiveError::Value { key, found, expected });
        if !(self.probability > 0.0 && self.probability <= 1.0) {
            return wrong("probability", self.probability, "a number above 0 and up to 1 (0.15 is usual)");
        }
        for (key, share) in [("mask_share", self.mask_share), ("random_share", self.random_share)] {
            if !(0.0..=1.0).contains(&share) {
                return wrong(key, share, "a number from 0 to 1");
            }
        }
        // Shares such as 0.9 and 0.1 may add up to a little more than 1 in binary.
        if self.mask_share + self.random_share > 1.0 + 1e-9 {
            return wrong("random_share", self.random_share, "at most what mask_share leaves of 1");
        }
        Ok(())
    }

    fn build(&self, _: Option<&Labels>, tokenizer: &Tokenizer) -> Result<Box<dyn Objective>> {
        self.check()?;
        let special = tokenizer.special();
        let special = [special.cls, special.sep, special.pad, special.mask, special.unk];
        Ok(Box::new(Masker {
            config: self.clone(),
            mask: tokenizer.mask()?,
            vocabulary: tokenizer.vocab_size() as u64,
            special: special.into_iter().flatten().collect(),
        }))
    }
}

struct Masker {
    config: MaskedLm,
    mask: u32,
    vocabulary: u64,
    special: Vec<u32>,
}

impl Masker {
    /// Chooses tokens of one text and hides them: `ids` are its tokens in the batch, the first of them at `row`.
    /// The same draw and example give the same choice in whatever batch.
    fn hide(&self, corpus: &Corpus, example: u32, draw: Draw, row: u32, ids: &mut [u32], hidden: &mut Hidden) {
        let chosen = draw.stream("mask", example);
        let (fate, random) = (chosen.named("fate"), chosen.named("token"));
        for (position, (id, &word)) in ids.iter_mut().zip(corpus.words(example as usize)).enumerate() {
            let position = position as u64;
            let unit = if self.config.whole_word { u64::from(word) } else { position };
            let candidate = word != SPECIAL && !self.special.contains(id);
            if !candidate || chosen.uniform(unit) >= self.config.probability {
                continue;
            }
            hidden.rows.push(row + position as u32);
            hidden.targets.push(*id);
            let fate = fate.uniform(position);
            if fate < self.config.mask_share {
                *id = self.mask;
            } else if fate < self.config.mask_share + self.config.random_share {
                *id = random.below(position, self.vocabulary) as u32;
            }
        }
    }
}

#[derive(Default)]
struct Hidden {
    rows: Vec<u32>,
    targets: Vec<u32>,
}

impl Score for Masker {
    fn loss(&self, network: &dyn Network, batch: &Batch, cx: &mut Cx) -> Result<Loss, NnError> {
        if batch.rows.is_empty() {
            // Nothing was chosen in any of these texts: there is nothing to compute.
            let sum = Var::constant(Tensor::zeros(cx.tape.device(), &[1]));
            return Ok(Loss { sum, count: 0, logits: None, predictions: Vec::new(), losses: Vec::new() });
        }
        let output = network.vocabulary().ok_or_else(|| NnError::Unsupported {
            what: "masked language modelling".to_owned(),
            reason: "the network has no projection onto the vocabulary".to_owned(),
        })?;
        let features = network.forward(batch, cx)?; // [rows, width]
        let weight = cx.param(&output.weight)?; // [vocabulary, width]
        let bias = output.bias.as_ref().map(|path| cx.param(path)).transpose()?;
        let found = cx.tape.vocabulary_loss(&features, &weight, bias.as_ref(), &batch.targets)?;
        let count = batch.targets.len() as u64;
        Ok(Loss { sum: found.loss, count, logits: None, predictions: found.predictions, losses: found.losses })
    }
}

impl Objective for Masker {
    fn head(&self) -> Head {
        Head::MaskedLm
    }

    fn batch(&self, examples: &Examples, chosen: &[u32], slots: &[u32], draw: Draw) -> Result<Batch> {
        let mut batch = pack(&examples.corpus, chosen, slots)?;
        let mut hidden = Hidden::default();
        for (bounds, &example) in batch.offsets.windows(2).zip(chosen) {
            let ids = &mut batch.ids[bounds[0] as usize..bounds[1] as usize];
            self.hide(&examples.corpus, example, draw, bounds[0], ids, &mut hidden);
        }
        (batch.rows, batch.targets) = (hidden.rows, hidden.targets);
        Ok(batch)
    }

    fn predict(&self, _: &dyn Network, _: &Batch, _: &mut Cx) -> Result<Vec<Prediction>> {
        Err(ObjectiveError::NoPredictions { kind: "mlm" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fixed, tokenizer};
    use luthier_nn::Grads;

    const VOCABULARY: u64 = 1000;
    const MASK: u32 = 4;

    fn masker(config: MaskedLm) -> Masker {
        config.check().expect("in range");
        Masker { config, mask: MASK, vocabulary: VOCABULARY, special: vec![1, MASK] }
    }

    /// 500 texts of 42 tokens: a special one at each end, an unknown one at place 7, and words of two pieces each.
    fn examples() -> Examples {
        let (mut ids, mut words) = (Vec::new(), Vec::new());
        for text in 0..500u32 {
            ids.push(2);
            words.push(SPECIAL);
            ids.extend((0..40).map(|i| if i == 6 { 1 } else { 100 + (text * 40 + i) % 900 }));
            words.extend((0..40).map(|i| i / 2));
            ids.push(3);
            words.push(SPECIAL);
        }
        let corpus = Corpus::new(ids, vec![0; 21_000], words, (0..=500).map(|i| i * 42).collect()).expect("it fits");
        Examples { corpus, labels: Vec::new() }
    }

    fn train(epoch: u64) -> Draw {
        Draw::Train { seed: 3, epoch }
    }

    fn all(masker: &Masker, examples: &Examples, draw: Draw) -> Batch {
        let every: Vec<u32> = (0..examples.corpus.len() as u32).collect();
        masker.batch(examples, &every, &every, draw).expect("a batch")
    }

    /// 500 x 39 tokens may be chosen. Bounds are four standard deviations of the binomial distribution.
    #[test]
    fn shares_are_those_of_the_paper() {
        let examples = examples();
        let batch = all(&masker(MaskedLm::default()), &examples, train(0));
        let near = |found: usize, of: f64, share: f64| {
            (found as f64 - of * share).abs() < 4.0 * (of * share * (1.0 - share)).sqrt()
        };
        let chosen = batch.rows.len();
        assert!(near(chosen, 500.0 * 39.0, 0.15), "{chosen} chosen");
        let now = |row: &u32| batch.ids[*row as usize];
        let masked = batch.rows.iter().filter(|&row| now(row) == MASK).count();
        let kept = batch.rows.iter().zip(&batch.targets).filter(|(row, target)| now(row) == **target).count();
        assert!(near(masked, chosen as f64, 0.8 + 0.1 / VOCABULARY as f64), "{masked} of {chosen} masked");
        assert!(near(kept, chosen as f64, 0.1 + 0.1 / VOCABULARY as f64), "{kept} of {chosen} kept");
        let random: Vec<u32> = batch
            .rows
            .iter()
            .zip(&batch.targets)
            .map(|(row, target)| (now(row), *target))
            .filter(|(now, target)| *now != MASK && now != target)
            .map(|(now, _)| now)
            .collect();
        let mean = random.iter().map(|&id| f64::from(id)).sum::<f64>() / random.len() as f64;
        // Uniform in 0..1000: deviation 289 over about 290 draws.
        assert!((mean - 499.5).abs() < 4.0 * 289.0 / (random.len() as f64).sqrt(), "mean {mean}");
    }

    #[test]
    fn targets_are_the_tokens_and_nothing_else_changes() {
        let examples = examples();
        for whole_word in [false, true] {
            let config = MaskedLm { probability: 0.5, whole_word, ..MaskedLm::default() };
            let batch = all(&masker(config), &examples, train(1));
            assert!(batch.rows.is_sorted_by(|a, b| a < b) && batch.rows.len() == batch.targets.len());
            let mut restored = batch.ids.clone();
            for (&row, &target) in batch.rows.iter().zip(&batch.targets) {
                assert!(target >= 100, "a special token was chosen");
                restored[row as usize] = target;
            }
            assert_eq!(restored, examples.corpus.ids);
        }
        let batch = all(&masker(MaskedLm { probability: 1.0, ..MaskedLm::default() }), &examples, train(1));
        assert_eq!(batch.rows.len(), 500 * 39, "everything that may be chosen is");
    }

    #[test]
    fn whole_words_are_chosen_together() {
        let examples = examples();
        let config = MaskedLm { whole_word: true, ..MaskedLm::default() };
        let batch = all(&masker(config), &examples, train(0));
        let chosen: std::collections::BTreeSet<u32> = batch.rows.iter().copied().collect();
        for &row in &batch.rows {
            // Words are pairs of tokens at odd and even places; the word with the unknown piece is chosen in part.
            let place = row % 42;
            let other = if place % 2 == 1 { row + 1 } else { row - 1 };
            assert!(chosen.contains(&other) || place == 8, "{row}");
        }
        let share = batch.rows.len() as f64 / (500.0 * 39.0);
        assert!((share - 0.15).abs() < 0.015, "{share}");
        let single = all(&masker(MaskedLm::default()), &examples, train(0));
        let alone = |row: &&u32| !single.rows.contains(&(if *row % 2 == 1 { **row + 1 } else { **row - 1 }));
        assert!(single.rows.iter().filter(alone).count() > 1000, "without the option pieces are chosen alone");
    }

    /// What is hidden does not depend on how a step is cut, nor on order or slots.
    #[test]
    fn masks_are_the_same_in_any_batch() {
        let (examples, masker) = (examples(), masker(MaskedLm::default()));
        let whole = all(&masker, &examples, train(2));
        for size in [1, 7, 100] {
            let (mut ids, mut targets) = (vec![0; 21_000], vec![Vec::new(); 500]);
            let order: Vec<u32> = (0..500).rev().collect();
            for part in order.chunks(size) {
                let slots: Vec<u32> = (0..part.len() as u32).collect();
                let batch = masker.batch(&examples, part, &slots, train(2)).expect("a batch");
                for (i, &example) in part.iter().enumerate() {
                    let start = example as usize * 42;
                    ids[start..start + 42].copy_from_slice(&batch.ids[i * 42..(i + 1) * 42]);
                    let here = |row: &u32| *row as usize / 42 == i;
                    targets[example as usize] =
                        batch.rows.iter().zip(&batch.targets).filter(|(row, _)| here(row)).map(|(_, t)| *t).collect();
                }
            }
            assert_eq!((&ids, &targets.concat()), (&whole.ids, &whole.targets), "in batches of {size}");
        }
    }

    #[test]
    fn masks_change_with_the_epoch_and_not_in_evaluation() {
        let (examples, masker) = (examples(), masker(MaskedLm::default()));
        let rows = |draw| all(&masker, &examples, draw).rows;
        assert_ne!(rows(train(0)), rows(train(1)));
        assert_ne!(rows(train(0)), rows(Draw::Train { seed: 4, epoch: 0 }));
        assert_eq!(rows(train(0)), rows(train(0)));
        assert_eq!(rows(Draw::Evaluate), rows(Draw::Evaluate));
    }

    /// Features and projection of width 1 with logits `f w + b`: by hand for `f` = ln 2 and weights 0, 1, 2 the
    /// probabilities are 1/7, 2/7, 4/7; with `f` = 0 and biases 0, 0, ln 2 they are 1/4, 1/4, 2/4.
    #[test]
    fn loss_by_hand() {
        let masker = masker(MaskedLm::default());
        let mut batch = Batch::new(vec![0; 3], vec![0; 3], vec![0, 3], &[0]).expect("it fits");
        (batch.rows, batch.targets) = (vec![2], vec![1]);
        let network = Fixed::masked_lm(&[[9.0], [0.0], [2f32.ln()]], &[[0.0], [1.0], [2.0]], &[0.0; 3]);
        let loss = masker.loss(&network, &batch, &mut network.context()).expect("shapes fit");
        assert!((loss.sum.value().item().expect("a number") - 3.5f32.ln()).abs() < 1e-6);
        assert_eq!((loss.count, &loss.predictions[..], loss.logits.is_none()), (1, &[2][..], true));

        (batch.rows, batch.targets) = (vec![1, 2], vec![2, 0]);
        let network = Fixed::masked_lm(&[[9.0], [0.0], [0.0]], &[[0.0], [1.0], [2.0]], &[0.0, 0.0, 2f32.ln()]);
        let mut cx = network.context();
        let loss = masker.loss(&network, &batch, &mut cx).expect("shapes fit");
        let expected = [2f32.ln(), 4f32.ln()];
        assert_eq!(loss.losses.len(), 2);
        assert!(loss.losses.iter().zip(expected).all(|(found, right)| (found - right).abs() < 1e-6));
        let mut grads = Grads::default();
        cx.tape.backward(&loss.sum, &mut grads).expect("a scalar");
        let gradient = grads.get("bias").expect("the bias moves").to_dense().to_vec();
        // Both rows have the probabilities 1/4, 1/4, 1/2; one of them wants token 2, the other token 0.
        assert!(gradient.iter().zip([-0.5, 0.5, 0.0]).all(|(found, right)| (found - right).abs() < 1e-6));
    }

    #[test]
    fn nothing_chosen_costs_nothing() {
        let network = Fixed::masked_lm(&[[1.0]], &[[1.0]], &[0.0]);
        let batch = Batch::new(vec![2, 3], vec![0; 2], vec![0, 2], &[0]).expect("it fits");
        let mut cx = network.context();
        let loss = masker(MaskedLm::default()).loss(&network, &batch, &mut cx).expect("nothing to do");
        assert_eq!((loss.count, loss.sum.value().item()), (0, Some(0.0)));
        let mut grads = Grads::default();
        cx.tape.backward(&loss.sum, &mut grads).expect("a scalar");
        assert_eq!(grads.iter().count(), 0);
    }

    #[test]
    fn values_out_of_range_are_named() {
        let error = |config: MaskedLm| config.check().expect_err("out of range").to_string();
        let base = MaskedLm::default;
        assert!(error(MaskedLm { probability: 0.0, ..base() }).starts_with("objective.probability is 0; expected"));
        assert!(error(MaskedLm { probability: f64::NAN, ..base() }).contains("probability"));
        assert!(error(MaskedLm { mask_share: 1.5, ..base() }).contains("mask_share is 1.5"));
        assert!(error(MaskedLm { mask_share: 0.95, ..base() }).contains("random_share is 0.1"));
        assert!(MaskedLm { mask_share: 0.9, ..base() }.build(None, &tokenizer()).is_ok());
    }

    #[test]
    fn the_shares_turn() {
        let examples = examples();
        let share = |mask_share, random_share| {
            let config = MaskedLm { mask_share, random_share, ..MaskedLm::default() };
            let batch = all(&masker(config), &examples, train(0));
            let changed = batch.ids.iter().zip(&examples.corpus.ids).filter(|(now, then)| now != then).count();
            let masked = batch.ids.iter().filter(|&&id| id == MASK).count();
            (masked as f64 / batch.rows.len() as f64, changed as f64 / batch.rows.len() as f64)
        };
        assert_eq!(share(1.0, 0.0), (1.0, 1.0));
        assert_eq!(share(0.0, 0.0), (0.0, 0.0));
        let (masked, changed) = share(0.0, 1.0);
        assert!(masked < 0.01 && changed > 0.99);
    }
}
