//! BERT and what shares its code: mBERT, MiniLM, multilingual-e5.
//!
//! Paper: Devlin, Chang, Lee and Toutanova 2019, <https://arxiv.org/abs/1810.04805>. Post-norm layers, learned positions.

use luthier_nn::{
    Activation, Batch, Cx, Extent, Head, Heads, Network, NnError, Role, Site, Spec, Var, VocabularyOutput,
};
use serde::Deserialize;

use crate::Family;
use crate::error::{ModelError, Result};

/// `model_type = "bert"`
pub(crate) const FAMILY: Family = Family {
    model_type: "bert",
    prefix: "bert.",
    build: |config, head| Ok(Box::new(Bert::new(config, head)?)),
    rename,
    architecture: |head| match head {
        Head::Classify { .. } => "BertForSequenceClassification",
        Head::MaskedLm => "BertForMaskedLM",
    },
};

/// The keys of `config.json` that change what is computed. Others are carried along and not read.
#[derive(Debug, Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "epsilon")]
    layer_norm_eps: f64,
    #[serde(default = "dropout")]
    hidden_dropout_prob: f64,
    #[serde(default = "dropout")]
    attention_probs_dropout_prob: f64,
    classifier_dropout: Option<f64>,
    #[serde(default = "range")]
    initializer_range: f64,
    #[serde(default = "absolute")]
    position_embedding_type: String,
    #[serde(default)]
    is_decoder: bool,
    /// Whether the language model's projection is the word embedding.
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
}

// The defaults of transformers' BertConfig.
fn two() -> usize {
    2
}
fn gelu() -> String {
    "gelu".to_owned()
}
fn epsilon() -> f64 {
    1e-12
}
fn dropout() -> f64 {
    0.1
}
fn range() -> f64 {
    0.02
}
fn yes() -> bool {
    true
}
fn absolute() -> String {
    "absolute".to_owned()
}

impl Config {
    fn read(json: &serde_json::Value) -> Result<Config> {
        let wrong = |key: &str, found: String, expected: &str| {
            Err(ModelError::Config { key: key.to_owned(), found, expected: expected.to_owned() })
        };
        let config: Config = match serde_json::from_value(json.clone()) {
            Ok(config) => config,
            Err(error) => return wrong("a key", error.to_string(), "the keys of a BERT configuration"),
        };
        let sizes = [
            ("vocab_size", config.vocab_size),
            ("hidden_size", config.hidden_size),
            ("num_hidden_layers", config.num_hidden_layers),
            ("num_attention_heads", config.num_attention_heads),
            ("intermediate_size", config.intermediate_size),
            ("max_position_embeddings", config.max_position_embeddings),
            ("type_vocab_size", config.type_vocab_size),
        ];
        for (key, size) in sizes {
            if size == 0 || size > 1 << 24 {
                return wrong(key, size.to_string(), "a number from 1 to 16777216");
            }
        }
        if config.num_hidden_layers > 1024 {
            return wrong("num_hidden_layers", config.num_hidden_layers.to_string(), "at most 1024");
        }
        if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            let found = config.num_attention_heads.to_string();
            return wrong("num_attention_heads", found, &format!("a divisor of hidden_size ({})", config.hidden_size));
        }
        for (key, p) in [
            ("hidden_dropout_prob", config.hidden_dropout_prob),
            ("attention_probs_dropout_prob", config.attention_probs_dropout_prob),
            ("classifier_dropout", config.classifier_dropout.unwrap_or(0.0)),
        ] {
            if !(0.0..1.0).contains(&p) {
                return wrong(key, p.to_string(), "a probability from 0 up to, not including, 1");
            }
        }
        if !(config.layer_norm_eps.is_finite() && config.layer_norm_eps > 0.0) {
            return wrong("layer_norm_eps", config.layer_norm_eps.to_string(), "a small positive number");
        }
        if config.position_embedding_type != "absolute" {
            return wrong("position_embedding_type", config.position_embedding_type, "\"absolute\"");
        }
        if config.is_decoder {
            return wrong("is_decoder", "true".to_owned(), "false: a bidirectional encoder");
        }
        Ok(config)
    }
}

/// The canonical name of a checkpoint's tensor: the old TensorFlow norms' names, and base models saved without a prefix.
fn rename(name: &str) -> String {
    let mut name = name.to_owned();
    for (old, new) in [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")] {
        if let Some(stem) = name.strip_suffix(old) {
            name = format!("{stem}{new}");
        }
    }
    if ["embeddings.", "encoder.", "pooler."].iter().any(|start| name.starts_with(start)) {
        name.insert_str(0, "bert.");
    }
    // A buffer of old versions, not a weight: moved out of the base model's names so that it counts as unused.
    if name == "bert.embeddings.position_ids" { "position_ids".to_owned() } else { name }
}

struct Layer {
    query: Site,
    key: Site,
    value: Site,
    out: Site,
    attention: Site,
    attention_norm: Site,
    up: Site,
    down: Site,
    feed_forward: Site,
    feed_forward_norm: Site,
}

enum Top {
    Classify { pooler: Site, classifier: Site },
    MaskedLm { transform: Site, norm: Site, output: VocabularyOutput },
}

struct Bert {
    config: Config,
    activation: Activation,
    spec: Spec,
    words: Site,
    positions: Site,
    segments: Site,
    embed_norm: Site,
    layers: Vec<Layer>,
    head: Top,
}

impl Bert {
    fn new(json: &serde_json::Value, head: Head) -> Result<Bert> {
        let config = Config::read(json)?;
        let activation = Activation::from_name(&config.hidden_act).ok_or_else(|| ModelError::Config {
            key: "hidden_act".to_owned(),
            found: config.hidden_act.clone(),
            expected: "gelu, gelu_new, relu, silu or tanh".to_owned(),
        })?;
        let width = config.hidden_size;
        let mut spec = Spec::new(
            "bert",
            config.num_hidden_layers,
            width,
            config.num_attention_heads,
            config.max_position_embeddings,
        );
        spec.initializer_range = config.initializer_range;
        let norm = Extent::Norm { width, epsilon: config.layer_norm_eps as f32 };
        let table = |rows| Extent::Table { rows, width };
        let linear = |inputs, outputs| Extent::Linear { inputs, outputs };
        let join = Extent::Join { width };

        let at = "bert.embeddings";
        let words = spec.site(Role::Embed, None, &format!("{at}.word_embeddings"), table(config.vocab_size), false);
        let rows = table(config.max_position_embeddings);
        let positions = spec.site(Role::Position, None, &format!("{at}.position_embeddings"), rows, false);
        let rows = table(config.type_vocab_size);
        let segments = spec.site(Role::Segment, None, &format!("{at}.token_type_embeddings"), rows, false);
        let embed_norm = spec.site(Role::EmbedNorm, None, &format!("{at}.LayerNorm"), norm, true);
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for i in 0..config.num_hidden_layers {
            let mut site = |role, name: &str, extent| {
                spec.site(role, Some(i), &format!("bert.encoder.layer.{i}.{name}"), extent, true)
            };
            layers.push(Layer {
                query: site(Role::Query, "attention.self.query", linear(width, width)),
                key: site(Role::Key, "attention.self.key", linear(width, width)),
                value: site(Role::Value, "attention.self.value", linear(width, width)),
                out: site(Role::Out, "attention.output.dense", linear(width, width)),
                attention: site(Role::Attention, "attention.output", join),
                attention_norm: site(Role::AttentionNorm, "attention.output.LayerNorm", norm),
                up: site(Role::Up, "intermediate.dense", linear(width, config.intermediate_size)),
                down: site(Role::Down, "output.dense", linear(config.intermediate_size, width)),
                feed_forward: site(Role::FeedForward, "output", join),
                feed_forward_norm: site(Role::FeedForwardNorm, "output.LayerNorm", norm),
            });
        }
        let head = match head {
            Head::Classify { labels } => Top::Classify {
                pooler: spec.site(Role::Pooler, None, "bert.pooler.dense", linear(width, width), true),
                classifier: spec.site(Role::Head, None, "classifier", linear(width, labels), true),
            },
            Head::MaskedLm => {
                let at = "cls.predictions.transform";
                let transform = spec.site(Role::Head, None, &format!("{at}.dense"), linear(width, width), true);
                let norm = spec.site(Role::Head, None, &format!("{at}.LayerNorm"), norm, true);
                let (weight, bias) = if config.tie_word_embeddings {
                    (format!("{}.weight", words.path), "cls.predictions.bias".to_owned())
                } else {
                    let decoder = "cls.predictions.decoder";
                    spec.site(Role::Head, None, decoder, table(config.vocab_size), false);
                    (format!("{decoder}.weight"), format!("{decoder}.bias"))
                };
                spec.site(Role::Head, None, &bias, Extent::Vector { width: config.vocab_size }, true);
                Top::MaskedLm { transform, norm, output: VocabularyOutput { weight, bias: Some(bias) } }
            }
        };
        Ok(Bert { config, activation, spec, words, positions, segments, embed_norm, layers, head })
    }

    fn embedded(&self, batch: &Batch, cx: &mut Cx) -> Result<Var, NnError> {
        let tables: [(&Site, &[u32]); 3] =
            [(&self.words, &batch.ids), (&self.positions, &batch.positions), (&self.segments, &batch.segments)];
        let x = cx.embed(&tables, batch)?; // [tokens, width]
        let x = cx.norm(&self.embed_norm, &x, None)?;
        cx.dropout("embeddings", &x, self.config.hidden_dropout_prob as f32, &batch.keys)
    }

    /// A layer, for every token or for `rows` alone: only its keys and values need all tokens.
    fn layer(&self, i: usize, x: &Var, rows: Option<&[u32]>, batch: &Batch, cx: &mut Cx) -> Result<Var, NnError> {
        let layer = &self.layers[i];
        let (p, attention_p) =
            (self.config.hidden_dropout_prob as f32, self.config.attention_probs_dropout_prob as f32);
        let (own, keys) = match rows {
            Some(rows) => (cx.tape.select_rows(x, rows)?, batch.keys_of(rows)), // [rows, width]
            None => (x.clone(), batch.keys.clone()),
        };
        let query = cx.linear(&layer.query, &own, None)?;
        let heads = Heads { count: self.config.num_attention_heads, dropout: attention_p };
        let context = cx.attend(&query, [&layer.key, &layer.value], x, heads, batch, rows)?;
        let out = cx.linear(&layer.out, &context, None)?;
        let x = cx.join(&layer.attention, &layer.attention_norm, out, &own, p, &keys)?;
        let up = cx.linear(&layer.up, &x, Some(self.activation))?; // [tokens, intermediate]
        let down = cx.linear(&layer.down, &up, None)?;
        cx.join(&layer.feed_forward, &layer.feed_forward_norm, down, &x, p, &keys)
    }

    /// The last hidden states of `rows`.
    fn rows(&self, batch: &Batch, rows: &[u32], cx: &mut Cx) -> Result<Var, NnError> {
        let (done, mut x) = match cx.start(batch) {
            Some(start) => start,
            None => (0, self.embedded(batch, cx)?),
        };
        let kept: Vec<usize> = (done..self.layers.len()).filter(|&i| !cx.skips(i)).collect();
        let Some((&last, below)) = kept.split_last() else {
            return Ok(cx.tape.select_rows(&x, rows)?);
        };
        for &i in below {
            x = self.layer(i, &x, None, batch, cx)?;
        }
        self.layer(last, &x, Some(rows), batch, cx)
    }
}

impl Network for Bert {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn hidden(&self, batch: &Batch, layers: usize, cx: &mut Cx) -> Result<Var, NnError> {
        let mut x = self.embedded(batch, cx)?;
        for i in (0..layers.min(self.layers.len())).filter(|&i| !cx.skips(i)).collect::<Vec<_>>() {
            x = self.layer(i, &x, None, batch, cx)?;
        }
        Ok(x)
    }

    fn forward(&self, batch: &Batch, cx: &mut Cx) -> Result<Var, NnError> {
        match &self.head {
            Top::Classify { pooler, classifier } => {
                let rows = batch.first_rows();
                let first = self.rows(batch, rows, cx)?; // [sequences, width]
                let pooled = cx.linear(pooler, &first, Some(Activation::Tanh))?;
                let p = self.config.classifier_dropout.unwrap_or(self.config.hidden_dropout_prob) as f32;
                let pooled = cx.dropout("pooled", &pooled, p, &batch.keys_of(rows))?;
                cx.linear(classifier, &pooled, None) // [sequences, labels]
            }
            Top::MaskedLm { transform, norm, .. } => {
                let masked = self.rows(batch, &batch.rows, cx)?; // [rows, width]
                let features = cx.linear(transform, &masked, Some(self.activation))?;
                cx.norm(norm, &features, None)
            }
        }
    }

    fn vocabulary(&self) -> Option<&VocabularyOutput> {
        match &self.head {
            Top::MaskedLm { output, .. } => Some(output),
            Top::Classify { .. } => None,
        }
    }
}
