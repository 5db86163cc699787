//! Bottleneck adapters: two small linear maps at the end of sub-layers, with AdapterHub's exact computation.
//!
//! Paper: Pfeiffer et al. 2021, <https://arxiv.org/abs/2005.00247> (`pfeiffer`); Houlsby et al. 2019,
//! <https://arxiv.org/abs/1902.00751> (`houlsby`).
//! Equation: with `h` the sub-layer's output, `x` the residual stream, `LN` the norm that follows them:
//! `pfeiffer`: `a = Up(f(Down(LN(h + x)))) + h`, after the feed-forward block. `houlsby`: `a = Up(f(Down(h))) + h`, after
//! attention and after the feed-forward block. Both: the stream becomes `LN(a + x)`.
//! Trains: `Down` and `Up` with their biases; no `merge`, as a bottleneck is not linear.
//! Defaults: `seq_bn` and `double_seq_bn` of the adapters library: reduction factor 16, relu or swish, weights normal with
//! deviation 0.02, biases zero. The library reads these names and shapes.

use luthier_nn::{Activation, At, Cx, Extent, Init, OutputMap, Params, Part, Site, Tensor, Var, added};

use crate::prelude::*;

/// Where the bottlenecks stand and what they read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// One a layer, after the feed-forward block, reading the normed sum.
    #[default]
    Pfeiffer,
    /// Two a layer, after attention and after the feed-forward block, reading the sub-layer's output.
    Houlsby,
}

/// The function in the middle of a bottleneck, by its name in the adapters library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NonLinearity {
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + e^-x)`.
    Swish,
    /// `x Φ(x)`.
    Gelu,
    /// The approximation of gelu by a hyperbolic tangent.
    GeluNew,
    /// `tanh x`.
    Tanh,
}

impl NonLinearity {
    /// Its name in the adapters library.
    pub fn name(self) -> &'static str {
        match self {
            NonLinearity::Relu => "relu",
            NonLinearity::Swish => "swish",
            NonLinearity::Gelu => "gelu",
            NonLinearity::GeluNew => "gelu_new",
            NonLinearity::Tanh => "tanh",
        }
    }

    fn activation(self) -> Activation {
        match self {
            NonLinearity::Relu => Activation::Relu,
            NonLinearity::Swish => Activation::Silu,
            NonLinearity::Gelu => Activation::Gelu,
            NonLinearity::GeluNew => Activation::GeluTanh,
            NonLinearity::Tanh => Activation::Tanh,
        }
    }
}

/// `kind = "adapter"`: bottlenecks at the end of sub-layers move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Adapter {
    /// Where the bottlenecks stand and what they read.
    pub architecture: Architecture,
    /// How many times narrower than the network a bottleneck is (rounded down, at least one).
    pub reduction_factor: f64,
    /// The function in the middle; absent: relu for `pfeiffer`, swish for `houlsby`.
    pub non_linearity: Option<NonLinearity>,
    /// The name under which the adapter is stored: letters, digits, `_` and `-`.
    pub name: String,
}

impl Default for Adapter {
    fn default() -> Adapter {
        let name = "adapter".to_owned();
        Adapter { architecture: Architecture::Pfeiffer, reduction_factor: 16.0, non_linearity: None, name }
    }
}

impl Adapter {
    /// The function in the middle.
    pub fn non_linearity(&self) -> NonLinearity {
        self.non_linearity.unwrap_or(match self.architecture {
            Architecture::Pfeiffer => NonLinearity::Relu,
            Architecture::Houlsby => NonLinearity::Swish,
        })
    }

    /// The inner width in a network of this width.
    pub fn bottleneck(&self, width: usize) -> usize {
        // Python's floor division, which the adapters library uses: what rounding adds to a quotient is not in it.
        let width = width as f64;
        (((width - width % self.reduction_factor) / self.reduction_factor).round() as usize).max(1)
    }
}

impl Technique for Adapter {
    fn about(&self) -> About {
        About { paper: "Houlsby et al. 2019; Pfeiffer et al. 2021", link: "https://arxiv.org/abs/2005.00247" }
    }
}

impl PlanMethod for Adapter {
    fn plan(&self, plan: &mut Plan, spec: &Spec) -> Result<()> {
        let factor = self.reduction_factor;
        check::value(plan, "reduction_factor", factor, factor >= 0.1 && factor.is_finite(), "0.1 or more")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let fits = !self.name.is_empty() && self.name.chars().all(plain);
        check::value(plan, "name", format!("{:?}", self.name), fits, "letters, digits, _ and -")?;
        let roles: &[Role] = match self.architecture {
            Architecture::Pfeiffer => &[Role::FeedForward],
            Architecture::Houlsby => &[Role::Attention, Role::FeedForward],
        };
        let select = check::select(plan, spec, roles, &[])?;
        plan.output(&select, |site| {
            let Extent::Join { width } = site.extent else {
                return Err(NnError::Unsupported {
                    what: format!("an adapter at {}", site.path),
                    reason: "the site is not the end of a sub-layer".to_owned(),
                });
            };
            let inner = self.bottleneck(width);
            let at = format!("{}.adapters.{}", site.path, self.name);
            let module = Module {
                down: [format!("{at}.adapter_down.0.weight"), format!("{at}.adapter_down.0.bias")],
                up: [format!("{at}.adapter_up.weight"), format!("{at}.adapter_up.bias")],
                architecture: self.architecture,
                activation: self.non_linearity().activation(),
            };
            let mut params = Vec::new();
            for ([weight, bias], inputs, outputs) in [(&module.down, width, inner), (&module.up, inner, width)] {
                // Paper: truncated normal near zero. Here and in the library: normal, 0.02, as BERT's own weights.
                let normal = Init::Normal(0.02);
                params.push(added(site, weight.clone(), vec![outputs, inputs], Part::Weight, normal));
                params.push(added(site, bias.clone(), vec![outputs], Part::Bias, Init::Zeros));
            }
            Ok((Arc::new(module), params))
        })
    }
}

struct Module {
    down: [String; 2],
    up: [String; 2],
    architecture: Architecture,
    activation: Activation,
}

impl OutputMap for Module {
    fn output(&self, cx: &mut Cx, at: &At, out: Var) -> Result<Var> {
        let read = match (self.architecture, at.norm) {
            (Architecture::Houlsby, _) => out.clone(),
            (Architecture::Pfeiffer, Some(norm)) => cx.norm(norm, &out, Some(at.input))?,
            // A network that norms before its sub-layers has no norm here, and the library then reads the plain sum.
            (Architecture::Pfeiffer, None) => cx.tape.add(&out, at.input)?,
        };
        let [weight, bias] = &self.down;
        let (weight, bias) = (cx.param(weight)?, cx.param(bias)?);
        let inner = cx.tape.linear(&read, &weight, Some(&bias), Some(self.activation))?; // [tokens, bottleneck]
        let [weight, bias] = &self.up;
        let (weight, bias) = (cx.param(weight)?, cx.param(bias)?);
        let up = cx.tape.linear(&inner, &weight, Some(&bias), None)?; // [tokens, width]
        Ok(cx.tape.add(&up, &out)?)
    }

    fn merge(&self, _: &Site, _: &Params, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use luthier_nn::{Device, Mode, Precision, Rng};

    use super::*;
    use crate::testing::{WIDTH, moved, plan_of, refusal};

    /// Names and shapes as the adapters library has them in `fixtures/pfeiffer` and `fixtures/houlsby`.
    #[test]
    fn parameters_are_adapterhubs() {
        let pfeiffer = Adapter { name: "sst".into(), reduction_factor: 2.0, ..Adapter::default() };
        let plan = plan_of(1, &[("adapter", &pfeiffer)]).unwrap();
        let at = "bert.encoder.layer.0.output.adapters.sst";
        let expected = [
            format!("{at}.adapter_down.0.bias"),
            format!("{at}.adapter_down.0.weight"),
            format!("{at}.adapter_up.bias"),
            format!("{at}.adapter_up.weight"),
            "classifier.bias".into(),
            "classifier.weight".into(),
        ];
        assert_eq!(moved(&plan), expected);
        let shapes: Vec<&[usize]> = plan.added().map(|p| p.shape.as_slice()).collect();
        assert_eq!(shapes, [&[WIDTH / 2][..], &[WIDTH / 2, WIDTH], &[WIDTH], &[WIDTH, WIDTH / 2]]);

        let houlsby = Adapter { architecture: Architecture::Houlsby, ..pfeiffer };
        let plan = plan_of(1, &[("adapter", &houlsby)]).unwrap();
        let attention = "bert.encoder.layer.0.attention.output.adapters.sst.adapter_down.0.weight";
        assert!(plan.moves(attention) && plan.added().count() == 8);
        assert_eq!(plan.outputs_of("bert.encoder.layer.0.attention.output").len(), 1);
    }

    #[test]
    fn defaults_follow_the_architecture() {
        let adapter = Adapter::default();
        assert_eq!((adapter.non_linearity(), adapter.bottleneck(384)), (NonLinearity::Relu, 24));
        let houlsby = Adapter { architecture: Architecture::Houlsby, ..Adapter::default() };
        assert_eq!(houlsby.non_linearity(), NonLinearity::Swish);
        assert_eq!(NonLinearity::GeluNew.name(), serde_name(NonLinearity::GeluNew));
        assert_eq!(Adapter { reduction_factor: 3.0, ..Adapter::default() }.bottleneck(8), 2);
        assert_eq!(adapter.bottleneck(8), 1);
    }

    fn serde_name(value: NonLinearity) -> String {
        // The schema's name is what a recipe may say.
        let schema = schemars::schema_for!(NonLinearity).to_value().to_string();
        let name = value.name();
        assert!(schema.contains(&format!("\"{name}\"")), "{schema}");
        name.to_owned()
    }

    /// Both architectures through the network's own path, against the equations written out.
    #[test]
    fn the_end_of_a_sub_layer_is_as_the_equations_say() {
        for architecture in [Architecture::Pfeiffer, Architecture::Houlsby] {
            let plan = plan_of(1, &[("adapter", &Adapter { architecture, ..small() })]).unwrap();
            let device = Device::cpu();
            let draw =
                |name: &str, shape: &[usize]| Init::Normal(1.0).draw(&device, shape, Rng::at(2, name, 0, 0)).unwrap();
            let params: Params = plan.params().map(|p| (p.path.clone(), draw(&p.path, &p.shape))).collect();
            let (h, x) = (draw("h", &[3, WIDTH]), draw("x", &[3, WIDTH]));
            let site = |path: &str| plan.spec().sites.iter().find(|site| site.path == path).unwrap();
            let (join, norm) = (site("bert.encoder.layer.0.output"), site("bert.encoder.layer.0.output.LayerNorm"));
            let mut cx = Cx::new(&device, Precision::F32, &plan, &params, &params, Mode::Evaluate, 0);
            let keys: Arc<[u64]> = Arc::new([0, 1, 2]);
            let residual = Var::constant(x.clone());
            let found = cx.join(join, norm, Var::constant(h.clone()), &residual, 0.1, &keys).unwrap();

            let get = |path: String| params.get(&path).unwrap().to_vec().into_iter().map(f64::from).collect::<Vec<_>>();
            let of = |name: &str| get(format!("{}.adapters.adapter.{name}", join.path));
            let layer_norm = |row: &[f64]| -> Vec<f64> {
                let n = row.len() as f64;
                let mean = row.iter().sum::<f64>() / n;
                let deviation = (row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + 1e-12).sqrt();
                let (scale, shift) = (get(format!("{}.weight", norm.path)), get(format!("{}.bias", norm.path)));
                row.iter().zip(scale.iter().zip(shift)).map(|(x, (g, b))| (x - mean) / deviation * g + b).collect()
            };
            let affine = |x: &[f64], name: &str| -> Vec<f64> {
                let (weight, bias) = (of(&format!("{name}.weight")), of(&format!("{name}.bias")));
                let row = |w: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
                weight.chunks(x.len()).zip(bias).map(|(w, b)| row(w) + b).collect()
            };
            let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<f64>>();
            let wide = |t: &Tensor| t.to_vec().into_iter().map(f64::from).collect::<Vec<f64>>();
            for (i, (h, x)) in wide(&h).chunks(WIDTH).zip(wide(&x).chunks(WIDTH)).enumerate() {
                let (read, f): (Vec<f64>, fn(f64) -> f64) = match architecture {
                    Architecture::Pfeiffer => (layer_norm(&sum(h, x)), |x| x.max(0.0)),
                    Architecture::Houlsby => (h.to_vec(), |x| x / (1.0 + (-x).exp())),
                };
                let inner: Vec<f64> = affine(&read, "adapter_down.0").into_iter().map(f).collect();
                let expected = layer_norm(&sum(&sum(&affine(&inner, "adapter_up"), h), x));
                for (found, expected) in found.value().to_vec()[i * WIDTH..].iter().zip(expected) {
                    assert!(
                        (f64::from(*found) - expected).abs() < 1e-4,
                        "{architecture:?}: {found} against {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn two_adapters_stack_and_need_two_names() {
        let first = Adapter { name: "language".into(), ..small() };
        let second = Adapter { name: "task".into(), ..small() };
        let plan = plan_of(2, &[("language", &first), ("task", &second)]).unwrap();
        let order: Vec<&str> =
            plan.outputs_of("bert.encoder.layer.0.output").iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(order, ["language", "task"]);
        assert!(refusal(&[("adapter", &first), ("adapter", &first)]).contains("both own the parameter"));
    }

    fn small() -> Adapter {
        Adapter { reduction_factor: 2.0, ..Adapter::default() }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for reduction_factor in [0.0, f64::NAN, f64::INFINITY] {
            let error = refusal(&[("adapter", &Adapter { reduction_factor, ..Adapter::default() })]);
            assert!(error.ends_with("expected 0.1 or more"), "{error}");
        }
        let dotted = refusal(&[("adapter", &Adapter { name: "a.b".into(), ..small() })]);
        assert_eq!(dotted, "adapter: name is \"a.b\"; expected letters, digits, _ and -");
    }
}
