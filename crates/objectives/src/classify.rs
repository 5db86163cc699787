//! Classification: one label for a text or a pair of texts.
//!
//! Paper: Devlin, Chang, Lee and Toutanova 2019, <https://arxiv.org/abs/1810.04805>, section 4.1.
//! `loss = -log softmax(logits)[label]`, summed over texts; the logits are the network's own business.
//! Trains: what the method says, and the head. No settings.

use luthier_data::{Labels, Tokenizer};
use luthier_metrics::MetricKind;
use luthier_nn::{About, Batch, Cx, Head, Loss, Network, NnError, Score};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{ObjectiveError, Result};
use crate::pack::{Draw, Examples, pack};
use crate::{Intent, Objective, Prediction, Task};

/// `kind = "classify"`: one label for a text or a pair of texts.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Classify {}

impl Intent for Classify {
    fn about(&self) -> About {
        About { paper: "Devlin et al. 2019", link: "https://arxiv.org/abs/1810.04805" }
    }

    fn task(&self) -> Task {
        use MetricKind::{Accuracy, Loss, MacroF1, Matthews, MicroF1};
        Task { labelled: true, steady: true, logits: true, metrics: &[Accuracy, MacroF1, MicroF1, Matthews, Loss] }
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn build(&self, labels: Option<&Labels>, _: &Tokenizer) -> Result<Box<dyn Objective>> {
        let labels = labels.ok_or_else(|| no_labels("none"))?;
        Ok(Box::new(Classifier { labels: labels.clone() }))
    }
}

fn no_labels(found: impl Into<String>) -> ObjectiveError {
    ObjectiveError::NoLabels { kind: "classify", found: found.into() }
}

struct Classifier {
    labels: Labels,
}

impl Score for Classifier {
    fn loss(&self, network: &dyn Network, batch: &Batch, cx: &mut Cx) -> Result<Loss, NnError> {
        let logits = network.forward(batch, cx)?; // [sequences, labels]
        let sum = cx.tape.cross_entropy(&logits, &batch.targets)?;
        let width = logits.value().width().max(1);
        let values = logits.value().to_vec();
        let rows = values.chunks(width).map(Answer::of);
        let (mut predictions, mut losses) = (Vec::new(), Vec::new());
        for ((answer, row), &target) in rows.zip(values.chunks(width)).zip(&batch.targets) {
            predictions.push(answer.label);
            losses.push((answer.log_sum - f64::from(row[target as usize])) as f32);
        }
        Ok(Loss { sum, count: batch.targets.len() as u64, logits: Some(logits), predictions, losses })
    }
}

impl Objective for Classifier {
    fn head(&self) -> Head {
        Head::Classify { labels: self.labels.len() }
    }

    fn batch(&self, examples: &Examples, chosen: &[u32], slots: &[u32], _: Draw) -> Result<Batch> {
        let mut batch = pack(&examples.corpus, chosen, slots)?;
        let (found, texts) = (examples.labels.len(), examples.corpus.len());
        if found == texts {
            batch.targets = chosen.iter().map(|&example| examples.labels[example as usize]).collect();
        } else if found != 0 {
            return Err(no_labels(format!("{found} labels for {texts} texts")));
        }
        Ok(batch)
    }

    fn predict(&self, network: &dyn Network, batch: &Batch, cx: &mut Cx) -> Result<Vec<Prediction>> {
        let logits = network.forward(batch, cx)?;
        let (values, width) = (logits.value().to_vec(), logits.value().width());
        if width != self.labels.len() {
            return Err(ObjectiveError::Parts { found: width, expected: self.labels.len() });
        }
        let prediction = |row: &[f32]| {
            let answer = Answer::of(row);
            let label = self.labels.names()[answer.label as usize].clone();
            Prediction { label, probability: answer.probability, logits: row.to_vec() }
        };
        Ok(values.chunks(width.max(1)).map(prediction).collect())
    }
}

/// What a row of logits says.
struct Answer {
    /// The label of the largest logit; the first of several that are equal.
    label: u32,
    /// Its probability.
    probability: f64,
    /// The logarithm of the sum of the exponentials of the logits.
    log_sum: f64,
}

impl Answer {
    fn of(row: &[f32]) -> Answer {
        let mut label = 0;
        for (i, logit) in row.iter().enumerate() {
            if *logit > row[label] {
                label = i;
            }
        }
        let largest = row.get(label).map_or(0.0, |&logit| f64::from(logit));
        let sum: f64 = row.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
        Answer { label: label as u32, probability: 1.0 / sum, log_sum: largest + sum.ln() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fixed, tokenizer};
    use luthier_data::Corpus;
    use luthier_nn::Grads;

    fn objective() -> Box<dyn Objective> {
        let labels = Labels::from_names(["no", "yes", "maybe"].map(String::from).to_vec()).expect("three names");
        Classify {}.build(Some(&labels), &tokenizer()).expect("labels are there")
    }

    fn examples(labels: &[u32]) -> Examples {
        let corpus = Corpus::new(vec![1, 2, 3, 4], vec![0, 0, 0, 1], vec![0; 4], vec![0, 1, 4]).expect("it fits");
        Examples { corpus, labels: labels.to_vec() }
    }

    /// Softmax of (ln 1, ln 2, ln 5) is (1/8, 2/8, 5/8), and of (ln 3, ln 1, ln 1) it is (3/5, 1/5, 1/5).
    fn network() -> Fixed {
        let row = |weights: [f32; 3]| weights.map(f32::ln);
        Fixed::logits(&[row([1.0, 2.0, 5.0]), row([3.0, 1.0, 1.0])])
    }

    #[test]
    fn loss_answers_and_gradient_by_hand() {
        let (objective, network) = (objective(), network());
        assert_eq!(objective.head(), Head::Classify { labels: 3 });
        let batch = objective.batch(&examples(&[0, 2]), &[1, 0], &[5, 6], Draw::Evaluate).expect("a batch");
        assert_eq!((&batch.targets[..], &batch.segments[..]), (&[2, 0][..], &[0, 0, 1, 0][..]));
        let mut cx = network.context();
        let loss = objective.loss(&network, &batch, &mut cx).expect("shapes fit");
        let expected = [(8.0f32 / 5.0).ln(), (5.0f32 / 3.0).ln()];
        assert!((loss.sum.value().item().expect("a number") - expected[0] - expected[1]).abs() < 1e-6);
        assert!(loss.losses.iter().zip(expected).all(|(found, right)| (found - right).abs() < 1e-6));
        assert_eq!((loss.count, &loss.predictions[..]), (2, &[2, 0][..]));
        let mut grads = Grads::default();
        cx.tape.backward(&loss.sum, &mut grads).expect("a scalar");
        let gradient = grads.get("logits").expect("the logits move").to_dense().to_vec();
        let expected = [0.125, 0.25, 0.625 - 1.0, 0.6 - 1.0, 0.2, 0.2];
        assert!(gradient.iter().zip(expected).all(|(found, right)| (found - right).abs() < 1e-6), "{gradient:?}");
    }

    #[test]
    fn predictions_have_names_and_probabilities() {
        let (objective, network) = (objective(), network());
        let batch = objective.batch(&examples(&[]), &[0, 1], &[0, 1], Draw::Evaluate).expect("labels are not needed");
        let found = objective.predict(&network, &batch, &mut network.context()).expect("shapes fit");
        let labels: Vec<&str> = found.iter().map(|prediction| prediction.label.as_str()).collect();
        assert_eq!(labels, ["maybe", "no"]);
        assert_eq!(found[1].logits, [3.0, 1.0, 1.0].map(f32::ln));
        assert!((found[0].probability - 0.625).abs() < 1e-6 && (found[1].probability - 0.6).abs() < 1e-6);
    }

    #[test]
    fn missing_labels_are_an_error() {
        let error = Classify {}.build(None, &tokenizer()).map(|_| ()).expect_err("no labels").to_string();
        assert!(error.contains("needs a label for every example and got none"), "{error}");
        let error = objective().batch(&examples(&[1]), &[0], &[0], Draw::Evaluate).expect_err("one label short");
        assert!(error.to_string().contains("1 labels for 2 texts"), "{error}");
        let (objective, network) = (objective(), network());
        let batch = objective.batch(&examples(&[]), &[0, 1], &[0, 1], Draw::Evaluate).expect("a batch");
        assert!(objective.loss(&network, &batch, &mut network.context()).is_err(), "a loss needs targets");
    }

    /// Logits far from zero, as a diverging run has them, must not overflow.
    #[test]
    fn large_logits_stay_finite() {
        let answer = Answer::of(&[1e4, -1e4]);
        assert_eq!((answer.label, answer.probability, answer.log_sum), (0, 1.0, 1e4));
        assert_eq!(Answer::of(&[2.0, 2.0]).label, 0);
    }
}
