//! The description of a network: its sites and its parameters, known from the configuration alone.
//!
//! A *site* is a place with a role, a layer and a path. Families publish their sites; methods pick among them and never
//! learn a family's name. Paths are the names that Hugging Face's checkpoints use.

use luthier_random::Rng;
use luthier_tensor::{Device, Tensor, TensorError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a site is for, in words that mean the same in every family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The token embedding.
    Embed,
    /// Learned positions.
    Position,
    /// Segment (token type) embeddings.
    Segment,
    /// The norm after the embeddings.
    EmbedNorm,
    /// The query projection of self-attention.
    Query,
    /// The key projection.
    Key,
    /// The value projection.
    Value,
    /// The output projection of self-attention.
    Out,
    /// The whole attention sub-layer, where its output meets the residual stream.
    Attention,
    /// The norm of the attention sub-layer.
    AttentionNorm,
    /// The first projection of the feed-forward block.
    Up,
    /// The gate of a gated feed-forward block.
    Gate,
    /// The second projection of the feed-forward block.
    Down,
    /// The whole feed-forward sub-layer, where its output meets the residual stream.
    FeedForward,
    /// The norm of the feed-forward sub-layer.
    FeedForwardNorm,
    /// The projection of the first token that pretraining left behind.
    Pooler,
    /// What an objective puts on top.
    Head,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 17] = [
        Role::Embed,
        Role::Position,
        Role::Segment,
        Role::EmbedNorm,
        Role::Query,
        Role::Key,
        Role::Value,
        Role::Out,
        Role::Attention,
        Role::AttentionNorm,
        Role::Up,
        Role::Gate,
        Role::Down,
        Role::FeedForward,
        Role::FeedForwardNorm,
        Role::Pooler,
        Role::Head,
    ];

    /// Its name in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Role::Embed => "embed",
            Role::Position => "position",
            Role::Segment => "segment",
            Role::EmbedNorm => "embed_norm",
            Role::Query => "query",
            Role::Key => "key",
            Role::Value => "value",
            Role::Out => "out",
            Role::Attention => "attention",
            Role::AttentionNorm => "attention_norm",
            Role::Up => "up",
            Role::Gate => "gate",
            Role::Down => "down",
            Role::FeedForward => "feed_forward",
            Role::FeedForwardNorm => "feed_forward_norm",
            Role::Pooler => "pooler",
            Role::Head => "head",
        }
    }
}

/// What stands at a site.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Extent {
    /// `y = x Wᵀ + b`, `weight` `[outputs, inputs]`.
    Linear {
        /// Width of `x`.
        inputs: usize,
        /// Width of `y`.
        outputs: usize,
    },
    /// A norm over `width`.
    Norm {
        /// Width of the rows.
        width: usize,
        /// What is added to the variance.
        epsilon: f32,
    },
    /// A table of `rows` vectors.
    Table {
        /// How many.
        rows: usize,
        /// How wide.
        width: usize,
    },
    /// A place without parameters of its own: the end of a sub-layer.
    Join {
        /// Width of the residual stream.
        width: usize,
    },
    /// A lone vector, such as the bias of an output vocabulary.
    Vector {
        /// Its length.
        width: usize,
    },
}

/// A place in a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// What it is for.
    pub role: Role,
    /// Which layer, counted from the input; `None` outside the layers.
    pub layer: Option<usize>,
    /// The path of the module in a Hugging Face checkpoint.
    pub path: String,
    /// What stands there.
    pub extent: Extent,
}

/// Which part of a site a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// A matrix, a table, or a norm's scale.
    Weight,
    /// An additive vector.
    Bias,
}

/// How a parameter begins when no checkpoint has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Normal with this standard deviation.
    Normal(f64),
    /// Uniform in `[-bound, bound]`.
    Uniform(f64),
    /// All zero.
    Zeros,
    /// All one.
    Ones,
}

impl Init {
    /// Draws a parameter. `rng` is the parameter's own stream.
    pub fn draw(self, device: &Device, shape: &[usize], rng: Rng) -> Result<Tensor, TensorError> {
        let n = shape.iter().product::<usize>() as u64;
        let values = match self {
            Init::Normal(deviation) => (0..n).map(|i| (deviation * rng.normal(i)) as f32).collect(),
            Init::Uniform(bound) => (0..n).map(|i| (bound * (2.0 * rng.uniform(i) - 1.0)) as f32).collect(),
            Init::Zeros => vec![0.0; n as usize],
            Init::Ones => vec![1.0; n as usize],
        };
        Tensor::from_vec(device, shape, values)
    }
}

/// A parameter as the network or a method describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// Its name in a Hugging Face checkpoint.
    pub path: String,
    /// Its extents.
    pub shape: Vec<usize>,
    /// The role of its site.
    pub role: Role,
    /// The layer of its site.
    pub layer: Option<usize>,
    /// Which part of the site.
    pub part: Part,
    /// How it begins when it is new.
    pub init: Init,
}

impl ParamSpec {
    /// How many numbers.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no numbers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The description of a network with its head.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Hugging Face's `model_type`.
    pub family: String,
    /// How many layers.
    pub layers: usize,
    /// The width of the residual stream.
    pub width: usize,
    /// How many attention heads.
    pub heads: usize,
    /// How many tokens a sequence may have.
    pub max_length: usize,
    /// Standard deviation of new weights (`initializer_range`).
    pub initializer_range: f64,
    /// The places, in the order of the forward pass.
    pub sites: Vec<Site>,
    /// The parameters, in the order of the forward pass.
    pub params: Vec<ParamSpec>,
}

impl Spec {
    /// An empty description, to be filled with [`Spec::site`].
    pub fn new(family: &str, layers: usize, width: usize, heads: usize, max_length: usize) -> Spec {
        Spec {
            family: family.to_owned(),
            layers,
            width,
            heads,
            max_length,
            initializer_range: 0.02,
            sites: Vec::new(),
            params: Vec::new(),
        }
    }

    /// Publishes a site, and the parameters that its extent implies (`weight`, and `bias` where there is one).
    pub fn site(&mut self, role: Role, layer: Option<usize>, path: &str, extent: Extent, bias: bool) -> Site {
        let mut param = |name: &str, shape: Vec<usize>, part, init| {
            self.params.push(ParamSpec { path: format!("{path}{name}"), shape, role, layer, part, init });
        };
        let normal = Init::Normal(self.initializer_range);
        match extent {
            Extent::Linear { inputs, outputs } => {
                param(".weight", vec![outputs, inputs], Part::Weight, normal);
                if bias {
                    param(".bias", vec![outputs], Part::Bias, Init::Zeros);
                }
            }
            Extent::Norm { width, .. } => {
                param(".weight", vec![width], Part::Weight, Init::Ones);
                if bias {
                    param(".bias", vec![width], Part::Bias, Init::Zeros);
                }
            }
            Extent::Table { rows, width } => param(".weight", vec![rows, width], Part::Weight, normal),
            Extent::Vector { width } => param("", vec![width], Part::Bias, Init::Zeros),
            Extent::Join { .. } => {}
        }
        let site = Site { role, layer, path: path.to_owned(), extent };
        self.sites.push(site.clone());
        site
    }

    /// The parameter under a path.
    pub fn param(&self, path: &str) -> Option<&ParamSpec> {
        self.params.iter().find(|p| p.path == path)
    }
}
