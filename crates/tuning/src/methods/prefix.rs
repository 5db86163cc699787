//! Prefix tuning: extra keys and values that every token of a sequence may attend to.
//!
//! Paper: Li and Liang 2021, <https://arxiv.org/abs/2101.00190>; for encoders: Liu et al. 2022,
//! <https://arxiv.org/abs/2110.07602>.
//! Equation: `attention(q, [P_k; k], [P_v; v])` in each layer. With `projection`, `P = tanh(E W₁ᵀ + b₁) W₂ᵀ + b₂` from one
//! small table `E` that all layers share.
//! Trains: `prefix.{layer}.keys` and `prefix.{layer}.values`, `[length, width]` each; side by side in the order of the layers
//! they are the one table that peft calls `prompt_embeddings`. The network does not begin as the pretrained one.
//! Defaults: length 10, the paper's for table-to-text. No projection: the paper wants it for stability, Liu et al. find no
//! steady gain for encoders, and it multiplies what moves.

use luthier_nn::{Activation, Cx, Extent, Init, LayerPrefix, ParamSpec, Part, Var};

use crate::prelude::*;

/// `kind = "prefix"`: extra keys and values of attention move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prefix {
    /// How many extra keys and values a layer gets.
    pub length: usize,
    /// Compute them by a small network (which moves) from a shared table, instead of moving them directly.
    pub projection: bool,
    /// The inner width of that network; it needs `projection = true`.
    pub hidden: usize,
    /// Only in these layers; empty means all of them.
    pub layers: Vec<usize>,
}

/// Li and Liang's inner width.
const HIDDEN: usize = 512;

impl Default for Prefix {
    fn default() -> Prefix {
        Prefix { length: 10, projection: false, hidden: HIDDEN, layers: Vec::new() }
    }
}

impl Technique for Prefix {
    fn about(&self) -> About {
        About { paper: "Li and Liang 2021", link: "https://arxiv.org/abs/2101.00190" }
    }
}

const TABLE: &str = "prefix.embedding.weight";
const FIRST: [&str; 2] = ["prefix.transform.weight", "prefix.transform.bias"];

impl PlanMethod for Prefix {
    fn plan(&self, plan: &mut Plan, spec: &Spec) -> Result<()> {
        check::value(plan, "length", self.length, self.length >= 1, "1 or more")?;
        check::value(plan, "hidden", self.hidden, self.hidden >= 1, "1 or more")?;
        let idle = !self.projection && self.hidden != HIDDEN;
        check::value(plan, "hidden", self.hidden, !idle, "to be left out, as projection is false")?;
        let layers = check::layers(plan, spec, &self.layers)?;
        let method = plan.method().to_owned();
        let mut shared = self.projection.then(|| self.shared(spec.width));
        plan.prefix(&layers, |layer| {
            let mut params = shared.take().unwrap_or_default();
            for (name, role) in [("keys", Role::Key), ("values", Role::Value)] {
                let sites = Select::all().roles(&[role]).layers([layer]).sites(&method, spec)?;
                let outputs = sites.iter().find_map(|site| match site.extent {
                    Extent::Linear { outputs, .. } => Some(outputs),
                    _ => None,
                });
                let width = outputs.ok_or_else(|| NnError::Unsupported {
                    what: format!("a prefix in layer {layer}"),
                    reason: format!("its {name} do not come from a linear map"),
                })?;
                let path = format!("prefix.{layer}.{name}");
                let param = |path, shape, part, init| ParamSpec { path, shape, role, layer: Some(layer), part, init };
                if self.projection {
                    let weight = vec![width, self.hidden];
                    params.push(param(format!("{path}.weight"), weight, Part::Weight, NORMAL));
                    params.push(param(format!("{path}.bias"), vec![width], Part::Bias, Init::Zeros));
                } else {
                    params.push(param(path, vec![self.length, width], Part::Weight, NORMAL));
                }
            }
            Ok((Arc::new(Module { projection: self.projection }), params))
        })
    }
}

/// As small as the encoders' own new weights, so that a prefix does not drown the text at the first step.
const NORMAL: Init = Init::Normal(0.02);

impl Prefix {
    /// What all layers share when the prefix is projected.
    fn shared(&self, width: usize) -> Vec<ParamSpec> {
        let param = |path: &str, shape, part, init| ParamSpec {
            path: path.to_owned(),
            shape,
            role: Role::Attention,
            layer: None,
            part,
            init,
        };
        vec![
            param(TABLE, vec![self.length, width], Part::Weight, NORMAL),
            param(FIRST[0], vec![self.hidden, width], Part::Weight, NORMAL),
            param(FIRST[1], vec![self.hidden], Part::Bias, Init::Zeros),
        ]
    }
}

struct Module {
    projection: bool,
}

impl LayerPrefix for Module {
    fn prefix(&self, cx: &mut Cx, layer: usize) -> Result<(Var, Var)> {
        let paths = [format!("prefix.{layer}.keys"), format!("prefix.{layer}.values")];
        if !self.projection {
            let [keys, values] = paths;
            return Ok((cx.param(&keys)?, cx.param(&values)?));
        }
        let (table, weight, bias) = (cx.param(TABLE)?, cx.param(FIRST[0])?, cx.param(FIRST[1])?);
        let hidden = cx.tape.linear(&table, &weight, Some(&bias), Some(Activation::Tanh))?; // [length, hidden]
        let mut second = |path: &String| -> Result<Var> {
            let (weight, bias) = (cx.param(&format!("{path}.weight"))?, cx.param(&format!("{path}.bias"))?);
            Ok(cx.tape.linear(&hidden, &weight, Some(&bias), None)?) // [length, width]
        };
        Ok((second(&paths[0])?, second(&paths[1])?))
    }
}

#[cfg(test)]
mod tests {
    use luthier_nn::{Device, Mode, Params, Precision, Tensor};

    use super::*;
    use crate::testing::{WIDTH, moved, plan_of, refusal};

    #[test]
    fn keys_and_values_of_the_chosen_layers_move() {
        let plan = plan_of(3, &[("prefix", &Prefix { length: 4, layers: vec![0, 2], ..Prefix::default() })]).unwrap();
        let added: Vec<(&str, &[usize])> = plan.added().map(|p| (p.path.as_str(), p.shape.as_slice())).collect();
        let paths = ["prefix.0.keys", "prefix.0.values", "prefix.2.keys", "prefix.2.values"];
        assert_eq!(added, paths.map(|path| (path, &[4, WIDTH][..])));
        assert_eq!(moved(&plan).len(), 4 + 2);
        assert!(plan.prefix_of(1).is_none() && plan.prefix_of(2).is_some());
    }

    /// `tanh(E W₁ᵀ + b₁) W₂ᵀ + b₂`, written out.
    #[test]
    fn a_projected_prefix_is_the_small_networks_output() {
        let prefix = Prefix { length: 2, projection: true, hidden: 3, layers: vec![1] };
        let plan = plan_of(2, &[("prefix", &prefix)]).unwrap();
        assert_eq!(plan.added().count(), 3 + 4);
        let device = Device::cpu();
        let ramp = |p: &ParamSpec| {
            let values = (0..p.len()).map(|i| 0.1 * (i % 7) as f32 - 0.2).collect();
            Tensor::from_vec(&device, &p.shape, values).unwrap()
        };
        let params: Params = plan.added().map(|p| (p.path.clone(), ramp(p))).collect();
        let mut cx = Cx::new(&device, Precision::F32, &plan, &params, &params, Mode::Evaluate, 0);
        let (keys, _) = plan.prefix_of(1).unwrap().prefix(&mut cx, 1).unwrap();
        let get = |path: &str| params.get(path).unwrap().to_vec();
        let affine = |x: &[f32], weight: &[f32], bias: &[f32]| -> Vec<f32> {
            weight
                .chunks(x.len())
                .zip(bias)
                .map(|(w, b)| b + w.iter().zip(x).map(|(w, x)| w * x).sum::<f32>())
                .collect()
        };
        let mut expected = Vec::new();
        for row in get(TABLE).chunks(WIDTH) {
            let hidden: Vec<f32> = affine(row, &get(FIRST[0]), &get(FIRST[1])).iter().map(|x| x.tanh()).collect();
            expected.extend(affine(&hidden, &get("prefix.1.keys.weight"), &get("prefix.1.keys.bias")));
        }
        assert_eq!(keys.value().shape(), [2, WIDTH]);
        for (found, expected) in keys.value().to_vec().iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-5, "{found} against {expected}");
        }
    }

    #[test]
    fn layers_share_the_table_of_a_projected_prefix() {
        let plan = plan_of(3, &[("prefix", &Prefix { projection: true, ..Prefix::default() })]).unwrap();
        assert_eq!(plan.added().count(), 3 + 3 * 4);
        let table = plan.added().find(|p| p.path == TABLE).unwrap();
        assert_eq!(table.shape, [10, WIDTH]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |prefix: Prefix| refusal(&[("prefix", &prefix)]);
        assert_eq!(refused(Prefix { length: 0, ..Prefix::default() }), "prefix: length is 0; expected 1 or more");
        let idle = refused(Prefix { hidden: 8, ..Prefix::default() });
        assert_eq!(idle, "prefix: hidden is 8; expected to be left out, as projection is false");
        assert!(refused(Prefix { layers: vec![7], ..Prefix::default() }).contains("matches layer 7"));
        let twice = refusal(&[("prefix", &Prefix::default()), ("prefix", &Prefix::default())]);
        assert!(twice.contains("do not go together"), "{twice}");
    }
}
