//! What the tests of objectives share: a tokenizer, and a network whose outputs are its parameters.

use std::path::Path;
use std::sync::Arc;

use luthier_data::Tokenizer;
use luthier_nn::{
    Batch, Cx, Device, Extent, Mode, Network, NnError, Params, Plan, Precision, Role, Spec, Tensor, Var,
    VocabularyOutput,
};

pub(crate) fn tokenizer() -> Tokenizer {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bert-tiny");
    Tokenizer::load(&dir).expect("the fixture has a tokenizer")
}

/// A network that puts out fixed numbers, all of them trained: logits, or the features of the rows asked for.
pub(crate) struct Fixed {
    plan: Plan,
    params: Params,
    vocabulary: Option<VocabularyOutput>,
}

impl Fixed {
    fn new(parts: &[(&str, usize, Vec<f32>)], vocabulary: Option<VocabularyOutput>) -> Fixed {
        let (mut spec, mut params) = (Spec::new("fixed", 1, 2, 1, 64), Params::default());
        for (path, width, values) in parts {
            spec.site(Role::Head, None, path, Extent::Vector { width: values.len() }, false);
            let shape = if *width == 0 { vec![values.len()] } else { vec![values.len() / width, *width] };
            params.insert(*path, Tensor::from_vec(&Device::cpu(), &shape, values.clone()).expect("it fits"));
        }
        Fixed { plan: Plan::new(Arc::new(spec)), params, vocabulary }
    }

    /// A classifier.
    pub(crate) fn logits<const N: usize>(rows: &[[f32; N]]) -> Fixed {
        Fixed::new(&[("logits", N, rows.concat())], None)
    }

    /// A language model with features `[tokens, width]`, a projection `[vocabulary, width]` and a bias.
    pub(crate) fn masked_lm<const N: usize>(features: &[[f32; N]], weight: &[[f32; N]], bias: &[f32]) -> Fixed {
        let output = VocabularyOutput { weight: "weight".to_owned(), bias: Some("bias".to_owned()) };
        let parts = [("features", N, features.concat()), ("weight", N, weight.concat()), ("bias", 0, bias.to_vec())];
        Fixed::new(&parts, Some(output))
    }

    /// A context for training.
    pub(crate) fn context(&self) -> Cx<'_> {
        let mode = Mode::Train { step: 0 };
        Cx::new(&Device::cpu(), Precision::F32, &self.plan, &self.params, &self.params, mode, 1)
    }
}

impl Network for Fixed {
    fn spec(&self) -> &Spec {
        self.plan.spec()
    }

    fn hidden(&self, batch: &Batch, _: usize, cx: &mut Cx) -> Result<Var, NnError> {
        self.forward(batch, cx)
    }

    fn forward(&self, batch: &Batch, cx: &mut Cx) -> Result<Var, NnError> {
        if self.vocabulary.is_none() {
            return cx.param("logits");
        }
        let features = cx.param("features")?;
        Ok(cx.tape.select_rows(&features, &batch.rows)?)
    }

    fn vocabulary(&self) -> Option<&VocabularyOutput> {
        self.vocabulary.as_ref()
    }
}
