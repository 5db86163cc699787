//! LoRA: a low-rank addition to frozen linear maps.
//!
//! Paper: Hu et al. 2022, <https://arxiv.org/abs/2106.09685>; the scale of `rslora`: Kalajdzievski 2023,
//! <https://arxiv.org/abs/2312.03732>.
//! Equation: `y = x Wᵀ + b + s · dropout(x) Aᵀ Bᵀ` with `s = alpha / rank`, or `alpha / √rank` with `rslora`.
//! Trains: `A` `[rank, inputs]` and `B` `[outputs, rank]` of each chosen site. `B` begins at zero, so the network begins
//! as the pretrained one. `merge` gives `W + s B A`.
//! Defaults: query and value, rank 8 (the paper's choice for RoBERTa); alpha 16 and no dropout, as most users of peft set
//! them.

use luthier_nn::{At, Cx, Extent, Init, OutputMap, ParamSpec, Params, Part, Site, Tensor, Var, added};

use crate::prelude::*;

/// `kind = "lora"`: low-rank additions to linear maps move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lora {
    /// The linear maps that get an addition, by role.
    pub on: Vec<Role>,
    /// The rank of the additions.
    pub rank: usize,
    /// The additions are multiplied by `alpha / rank`.
    pub alpha: f64,
    /// Dropout on what enters the additions, 0 to below 1.
    pub dropout: f64,
    /// Multiply by `alpha / √rank` instead, which keeps gradients of one size at high ranks.
    pub rslora: bool,
    /// Only in these layers; empty means all of them.
    pub layers: Vec<usize>,
}

impl Default for Lora {
    fn default() -> Lora {
        let on = vec![Role::Query, Role::Value];
        Lora { on, rank: 8, alpha: 16.0, dropout: 0.0, rslora: false, layers: Vec::new() }
    }
}

impl Lora {
    /// What the additions are multiplied by.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}

impl Technique for Lora {
    fn about(&self) -> About {
        About { paper: "Hu et al. 2022", link: "https://arxiv.org/abs/2106.09685" }
    }
}

impl PlanMethod for Lora {
    fn plan(&self, plan: &mut Plan, spec: &Spec) -> Result<()> {
        check::value(plan, "rank", self.rank, self.rank >= 1, "1 or more")?;
        check::value(plan, "alpha", self.alpha, self.alpha > 0.0 && self.alpha.is_finite(), "a number above 0")?;
        check::value(plan, "dropout", self.dropout, (0.0..1.0).contains(&self.dropout), "0 to below 1")?;
        check::value(plan, "on", "empty", !self.on.is_empty(), "at least one role, such as query")?;
        let head = self.on.contains(&Role::Head);
        check::value(plan, "on", "head", !head, "roles of the pretrained network; the head moves as a whole")?;
        let select = check::select(plan, spec, &self.on, &self.layers)?;
        let method = plan.method().to_owned();
        plan.output(&select, |site| {
            let Extent::Linear { inputs, outputs } = site.extent else {
                return Err(NnError::Value {
                    method: method.clone(),
                    key: "on",
                    found: site.role.name().to_owned(),
                    expected: format!("roles of linear maps: {}", linear_roles(spec)),
                });
            };
            let module = Module {
                a: format!("{}.lora_A.weight", site.path),
                b: format!("{}.lora_B.weight", site.path),
                scale: self.scale() as f32,
                dropout: self.dropout as f32,
            };
            // Paper: A is normal. Here: uniform within 1/√inputs, which is Kaiming's with slope √5. Because: the authors'
            // own code and peft do so.
            let bound = Init::Uniform(1.0 / (inputs as f64).sqrt());
            let params: Vec<ParamSpec> = vec![
                added(site, module.a.clone(), vec![self.rank, inputs], Part::Weight, bound),
                added(site, module.b.clone(), vec![outputs, self.rank], Part::Weight, Init::Zeros),
            ];
            Ok((Arc::new(module), params))
        })?;
        check::no_module_beside_its_moving_weight(plan, spec)
    }
}

fn linear_roles(spec: &Spec) -> String {
    let linear = |role: &&Role| {
        let mut sites = spec.sites.iter().filter(|site| site.role == **role);
        **role != Role::Head && sites.any(|site| matches!(site.extent, Extent::Linear { .. }))
    };
    Role::ALL.iter().filter(linear).map(|role| role.name()).collect::<Vec<_>>().join(", ")
}

struct Module {
    a: String,
    b: String,
    scale: f32,
    dropout: f32,
}

impl OutputMap for Module {
    fn output(&self, cx: &mut Cx, at: &At, out: Var) -> Result<Var> {
        let (a, b) = (cx.param(&self.a)?, cx.param(&self.b)?);
        if self.dropout == 0.0 || !cx.training() {
            return Ok(cx.tape.low_rank(out, at.input, &a, &b, self.scale)?);
        }
        let keys = cx.keys(at.input.value().rows())?;
        let x = cx.dropout(&self.a, at.input, self.dropout, &keys)?;
        Ok(cx.tape.low_rank(out, &x, &a, &b, self.scale)?)
    }

    fn folds(&self, training: bool) -> bool {
        self.dropout == 0.0 || !training
    }

    fn fold(&self, cx: &mut Cx, weight: &Var) -> Result<Option<Var>> {
        if !self.folds(cx.training()) {
            return Ok(None);
        }
        let (a, b) = (cx.param(&self.a)?, cx.param(&self.b)?);
        Ok(Some(cx.tape.fold_low_rank(weight, &a, &b, self.scale)?))
    }

    fn merge(&self, _: &Site, params: &Params, weight: &Tensor) -> Result<Option<Tensor>> {
        let (a, b) = (params.get(&self.a)?, params.get(&self.b)?);
        let (inputs, rank) = (a.width(), a.rows());
        let (a, b) = (a.to_vec(), b.to_vec());
        let mut product = vec![0.0; weight.len()]; // [outputs, inputs]
        for (row, b) in product.chunks_exact_mut(inputs.max(1)).zip(b.chunks_exact(rank.max(1))) {
            for (a, &b) in a.chunks_exact(inputs.max(1)).zip(b) {
                row.iter_mut().zip(a).for_each(|(sum, &a)| *sum += b * a);
            }
        }
        let product = Tensor::from_vec(weight.device(), weight.shape(), product)?;
        let mut merged = weight.clone();
        merged.add_scaled(self.scale, &product)?;
        Ok(Some(merged))
    }
}

#[cfg(test)]
mod tests {
    use luthier_nn::{Device, Mode, Precision, Rng};

    use super::*;
    use crate::testing::{INNER, WIDTH, moved, plan_of, refusal};

    #[test]
    fn only_the_additions_and_the_head_move() {
        let lora = Lora { on: vec![Role::Query, Role::Up], rank: 3, layers: vec![1], ..Lora::default() };
        let plan = plan_of(2, &[("lora", &lora)]).unwrap();
        let query = "bert.encoder.layer.1.attention.self.query";
        let up = "bert.encoder.layer.1.intermediate.dense";
        let mut expected: Vec<String> = vec!["classifier.bias".into(), "classifier.weight".into()];
        expected.extend([query, up].iter().flat_map(|at| ["A", "B"].map(|m| format!("{at}.lora_{m}.weight"))));
        expected.sort();
        assert_eq!(moved(&plan), expected);
        let shape = |path: String| plan.added().find(|p| p.path == path).map(|p| p.shape.clone()).unwrap();
        assert_eq!(shape(format!("{up}.lora_A.weight")), [3, WIDTH]);
        assert_eq!(shape(format!("{up}.lora_B.weight")), [INNER, 3]);
    }

    #[test]
    fn the_additions_begin_as_peft_makes_them() {
        let plan = plan_of(2, &[("lora", &Lora { rank: 3, ..Lora::default() })]).unwrap();
        for param in plan.added() {
            // Kaiming's uniform bound, √(6 / ((1 + slope²) inputs)), with a slope of √5.
            let bound = (6.0 / (6.0 * WIDTH as f64)).sqrt();
            let a = param.path.ends_with("lora_A.weight");
            let fits = match param.init {
                Init::Uniform(found) => a && (found - bound).abs() < 1e-12,
                other => !a && other == Init::Zeros,
            };
            assert!(fits, "{}: {:?}", param.path, param.init);
        }
        assert_eq!(plan.added().count(), 2 * 2 * 2);
    }

    #[test]
    fn scales() {
        assert_eq!(Lora { rank: 4, ..Lora::default() }.scale(), 4.0);
        assert_eq!(Lora { rank: 4, rslora: true, ..Lora::default() }.scale(), 8.0);
    }

    /// Through the network's own path, and against the sums written out.
    #[test]
    fn merged_is_unmerged() {
        let lora = Lora { on: vec![Role::Up], rank: 2, alpha: 3.0, layers: vec![0], ..Lora::default() };
        let plan = plan_of(1, &[("lora", &lora)]).unwrap();
        let device = Device::cpu();
        let site = plan.spec().sites.iter().find(|site| site.role == Role::Up).unwrap().clone();
        let draw =
            |name: &str, shape: &[usize]| Init::Normal(1.0).draw(&device, shape, Rng::at(1, name, 0, 0)).unwrap();
        let weight = format!("{}.weight", site.path);
        let params: Params = plan
            .params()
            .filter(|p| p.path.starts_with(&site.path))
            .map(|p| (p.path.clone(), draw(&p.path, &p.shape)))
            .collect();
        let x = Var::constant(draw("x", &[5, WIDTH]));
        let mut cx = Cx::new(&device, Precision::F32, &plan, &params, &params, Mode::Evaluate, 0);
        let unmerged = cx.linear(&site, &x, None).unwrap().value().to_vec();

        let (_, module) = &plan.outputs_of(&site.path)[0];
        let merged = module.merge(&site, &params, params.get(&weight).unwrap()).unwrap().unwrap();
        let values = |path: String| params.get(&path).unwrap().to_vec();
        let (a, b) = (values(format!("{}.lora_A.weight", site.path)), values(format!("{}.lora_B.weight", site.path)));
        let (w, bias) = (values(weight), values(format!("{}.bias", site.path)));
        let (x, merged) = (x.value().to_vec(), merged.to_vec());
        for row in 0..5 {
            for out in 0..INNER {
                let sum = |matrix: &dyn Fn(usize) -> f64| {
                    let terms = (0..WIDTH).map(|i| f64::from(x[row * WIDTH + i]) * matrix(i));
                    f64::from(bias[out]) + terms.sum::<f64>()
                };
                let by_hand = sum(&|i| {
                    let low = (0..2).map(|r| f64::from(b[out * 2 + r]) * f64::from(a[r * WIDTH + i])).sum::<f64>();
                    f64::from(w[out * WIDTH + i]) + 1.5 * low
                });
                let through_merged = sum(&|i| f64::from(merged[out * WIDTH + i]));
                let found = f64::from(unmerged[row * INNER + out]);
                assert!((found - by_hand).abs() < 1e-4, "{found} against {by_hand}");
                assert!((through_merged - by_hand).abs() < 1e-4, "{through_merged} against {by_hand}");
            }
        }
    }

    #[test]
    fn folded_is_merged_unless_its_dropout_acts() {
        let device = Device::cpu();
        let draw =
            |name: &str, shape: &[usize]| Init::Normal(1.0).draw(&device, shape, Rng::at(1, name, 0, 0)).unwrap();
        for (dropout, mode, folds) in
            [(0.0, Mode::Train { step: 0 }, true), (0.1, Mode::Train { step: 0 }, false), (0.1, Mode::Evaluate, true)]
        {
            let lora = Lora { on: vec![Role::Value], rank: 2, alpha: 3.0, dropout, ..Lora::default() };
            let plan = plan_of(1, &[("lora", &lora)]).unwrap();
            let site = plan.spec().sites.iter().find(|site| site.role == Role::Value).unwrap().clone();
            let params: Params = plan
                .params()
                .filter(|p| p.path.starts_with(&site.path))
                .map(|p| (p.path.clone(), draw(&p.path, &p.shape)))
                .collect();
            let weight = params.get(&format!("{}.weight", site.path)).unwrap();
            let (_, module) = &plan.outputs_of(&site.path)[0];
            let mut cx = Cx::new(&device, Precision::F32, &plan, &params, &params, mode, 0);
            let folded = module.fold(&mut cx, &Var::constant(weight.clone())).unwrap();
            assert_eq!(folded.is_some(), folds, "dropout {dropout} in {mode:?}");
            let merged = module.merge(&site, &params, weight).unwrap().unwrap().to_vec();
            for (found, expected) in folded.iter().flat_map(|var| var.value().to_vec()).zip(merged) {
                assert!((found - expected).abs() < 1e-5, "{found} against {expected}");
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let with = |change: &dyn Fn(&mut Lora)| {
            let mut lora = Lora::default();
            change(&mut lora);
            refusal(&[("lora", &lora)])
        };
        assert_eq!(with(&|l| l.rank = 0), "lora: rank is 0; expected 1 or more");
        assert_eq!(with(&|l| l.alpha = f64::NAN), "lora: alpha is NaN; expected a number above 0");
        assert_eq!(with(&|l| l.dropout = 1.0), "lora: dropout is 1; expected 0 to below 1");
        assert_eq!(with(&|l| l.on.clear()), "lora: on is empty; expected at least one role, such as query");
        let join = with(&|l| l.on = vec![Role::FeedForward]);
        let roles = "query, key, value, out, up, down, pooler";
        assert_eq!(join, format!("lora: on is feed_forward; expected roles of linear maps: {roles}"));
        assert!(with(&|l| l.on.push(Role::Gate)).contains("nothing in this network matches gate"));
        assert!(with(&|l| l.layers = vec![0, 2]).contains("matches layer 2; it has 2 layers (0 to 1)"));
        assert!(with(&|l| l.on = vec![Role::Head]).contains("the head moves as a whole"));
        let lora = Lora::default();
        assert!(refusal(&[("lora", &lora), ("lora", &lora)]).contains("both own the parameter"));
        let full = crate::methods::full::Full::default();
        assert!(refusal(&[("full", &full), ("lora", &lora)]).starts_with("lora and full do not go together"));
    }
}
