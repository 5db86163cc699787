//! R3F: predictions should not change when the embeddings tremble.
//!
//! Paper: Aghajanyan et al. 2021, <https://arxiv.org/abs/2008.03156>.
//! Equation: `L(f(x)) + lambda · (KL(p ‖ q) + KL(q ‖ p))` with `p = f(x)`, `q = f(x + z)`, `z ~ U(-epsilon, epsilon)` or
//! `N(0, epsilon²)` on the token embeddings; summed over sequences as the loss is. No gradient reaches the embedding table
//! through the second pass; the first one's logits are not cut off (both as in the authors' code).
//! Trains: nothing of its own. Two forward passes a step.
//! Defaults: lambda 1 (of the paper's 0.1 to 5), epsilon 1e-5, uniform.

use luthier_nn::{Batch, Cx, Loss, Network, Noise, Score, Wrap};

use crate::prelude::*;

/// The distribution of the noise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// Uniform in `[-epsilon, epsilon]`.
    #[default]
    Uniform,
    /// Normal with deviation `epsilon`.
    Normal,
}

/// `kind = "r3f"`: predictions should not change when the embeddings tremble.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct R3f {
    /// The weight of the divergence, above 0.
    pub lambda: f64,
    /// The size of the noise, above 0.
    pub epsilon: f64,
    /// Its distribution.
    pub noise: Distribution,
}

impl Default for R3f {
    fn default() -> R3f {
        R3f { lambda: 1.0, epsilon: 1e-5, noise: Distribution::Uniform }
    }
}

impl Technique for R3f {
    fn about(&self) -> About {
        About { paper: "Aghajanyan et al. 2021", link: "https://arxiv.org/abs/2008.03156" }
    }
}

impl PlanMethod for R3f {
    fn plan(&self, plan: &mut Plan, _: &Spec) -> Result<()> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        check::value(plan, "lambda", self.lambda, positive(self.lambda), "a number above 0")?;
        check::value(plan, "epsilon", self.epsilon, positive(self.epsilon), "a number above 0")?;
        check::once(plan)?;
        plan.wrap(Arc::new(self.clone()));
        Ok(())
    }
}

impl Wrap for R3f {
    fn loss(&self, inner: &dyn Score, network: &dyn Network, batch: &Batch, cx: &mut Cx) -> Result<Loss> {
        let clean = inner.loss(network, batch, cx)?;
        cx.next_pass(Some(Noise { epsilon: self.epsilon, normal: self.noise == Distribution::Normal }));
        let noised = inner.loss(network, batch, cx)?;
        cx.next_pass(None);
        let (Some(p), Some(q)) = (&clean.logits, &noised.logits) else {
            return Err(NnError::Unsupported {
                what: "r3f".to_owned(),
                reason: "the objective has no distribution over labels to compare; it works with `classify`".to_owned(),
            });
        };
        let divergence = cx.tape.symmetric_kl(p, q)?;
        let sum = cx.tape.add_scaled(&clean.sum, self.lambda as f32, &divergence)?;
        Ok(Loss { sum, ..clean })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use luthier_nn::{Device, Mode, Params, Precision, Tensor, Var, VocabularyOutput};

    use super::*;
    use crate::methods::full::Full;
    use crate::testing::{plan_of, refusal, spec};

    /// Logits that differ from pass to pass, as noise would make them.
    struct Passes {
        seen: AtomicUsize,
        logits: bool,
    }

    const LOGITS: [[f32; 4]; 2] = [[1.0, 0.0, -0.5, 2.0], [0.5, 0.25, 0.0, 1.0]];

    impl Score for Passes {
        fn loss(&self, _: &dyn Network, _: &Batch, cx: &mut Cx) -> Result<Loss> {
            let pass = self.seen.fetch_add(1, Ordering::Relaxed);
            let values = LOGITS[pass].to_vec();
            let logits = Var::constant(Tensor::from_vec(cx.tape.device(), &[2, 2], values)?);
            let sum = Var::constant(Tensor::full(cx.tape.device(), &[1], 10.0 + pass as f32));
            Ok(Loss {
                sum,
                count: 2 + pass as u64,
                logits: self.logits.then_some(logits),
                predictions: vec![0, 1],
                losses: vec![5.0; 2],
            })
        }
    }

    struct Nothing(Arc<Spec>);

    impl Network for Nothing {
        fn spec(&self) -> &Spec {
            &self.0
        }
        fn hidden(&self, _: &Batch, _: usize, cx: &mut Cx) -> Result<Var> {
            Ok(Var::constant(Tensor::zeros(cx.tape.device(), &[1])))
        }
        fn forward(&self, batch: &Batch, cx: &mut Cx) -> Result<Var> {
            self.hidden(batch, 0, cx)
        }
        fn vocabulary(&self) -> Option<&VocabularyOutput> {
            None
        }
    }

    fn wrapped(inner: &Passes) -> Result<Loss> {
        let r3f = R3f { lambda: 0.5, ..R3f::default() };
        let plan = plan_of(1, &[("full", &Full::default()), ("r3f", &r3f)]).unwrap();
        let (device, params) = (Device::cpu(), Params::default());
        let mut cx = Cx::new(&device, Precision::F32, &plan, &params, &params, Mode::Train { step: 0 }, 1);
        let batch = Batch::new(vec![1, 2], vec![0, 0], vec![0, 1, 2], &[0, 1]).unwrap();
        plan.wraps().next().unwrap().loss(inner, &Nothing(spec(1)), &batch, &mut cx)
    }

    #[test]
    fn the_loss_gains_both_divergences() {
        let inner = Passes { seen: AtomicUsize::new(0), logits: true };
        let loss = wrapped(&inner).unwrap();
        let softmax = |logits: &[f32]| {
            let exps: Vec<f64> = logits.iter().map(|&x| f64::from(x).exp()).collect();
            let sum: f64 = exps.iter().sum();
            exps.into_iter().map(|x| x / sum).collect::<Vec<f64>>()
        };
        let mut both = 0.0;
        for (p, q) in LOGITS[0].chunks(2).zip(LOGITS[1].chunks(2)) {
            for (p, q) in softmax(p).into_iter().zip(softmax(q)) {
                both += p * (p / q).ln() + q * (q / p).ln();
            }
        }
        assert_eq!(inner.seen.load(Ordering::Relaxed), 2);
        assert_eq!((loss.count, loss.predictions), (2, vec![0, 1]));
        let found = f64::from(loss.sum.value().item().unwrap());
        assert!((found - (10.0 + 0.5 * both)).abs() < 1e-5, "{found} against 10 + 0.5 * {both}");
    }

    #[test]
    fn an_objective_without_logits_is_refused() {
        let error = wrapped(&Passes { seen: AtomicUsize::new(0), logits: false }).unwrap_err().to_string();
        assert!(error.starts_with("r3f is not possible here"), "{error}");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let full = Full::default();
        let lambda = refusal(&[("full", &full), ("r3f", &R3f { lambda: 0.0, ..R3f::default() })]);
        assert_eq!(lambda, "r3f: lambda is 0; expected a number above 0");
        let epsilon = refusal(&[("full", &full), ("r3f", &R3f { epsilon: f64::NAN, ..R3f::default() })]);
        assert_eq!(epsilon, "r3f: epsilon is NaN; expected a number above 0");
    }
}
