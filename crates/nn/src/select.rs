//! The selector: picks sites or parameters by role, layer, part and path. One type serves freezing, LoRA targets, layer-wise
//! rates, decay exemption and re-initialisation; one that matches nothing is an error.

use crate::error::{NnError, Result};
use crate::spec::{ParamSpec, Part, Role, Site, Spec};

/// A choice of sites or parameters; an empty field does not restrict.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Select {
    /// Only these roles.
    pub roles: Vec<Role>,
    /// Only these layers.
    pub layers: Option<Vec<usize>>,
    /// Only weights, or only biases.
    pub part: Option<Part>,
    /// Only matrices and tables (two extents).
    pub matrices: bool,
    /// Not these roles.
    pub except: Vec<Role>,
}

impl Select {
    /// Everything.
    pub fn all() -> Select {
        Select::default()
    }

    /// Every bias.
    pub fn biases() -> Select {
        Select { part: Some(Part::Bias), ..Select::default() }
    }

    /// Sites or parameters of these roles; none given: any.
    pub fn roles(mut self, roles: &[Role]) -> Select {
        self.roles = roles.to_vec();
        self
    }

    /// Not of these roles.
    pub fn except(mut self, roles: &[Role]) -> Select {
        self.except = roles.to_vec();
        self
    }

    /// Only in these layers.
    pub fn layers(mut self, layers: impl IntoIterator<Item = usize>) -> Select {
        self.layers = Some(layers.into_iter().collect());
        self
    }

    /// Only weights with two extents.
    pub fn matrices(mut self) -> Select {
        self.matrices = true;
        self
    }

    fn place(&self, role: Role, layer: Option<usize>) -> bool {
        (self.roles.is_empty() || self.roles.contains(&role))
            && !self.except.contains(&role)
            && self.layers.as_ref().is_none_or(|layers| layer.is_some_and(|layer| layers.contains(&layer)))
    }

    /// The sites it picks; `method` is named in the error when there are none.
    pub fn sites<'a>(&self, method: &str, spec: &'a Spec) -> Result<Vec<&'a Site>> {
        let picked: Vec<&Site> = spec.sites.iter().filter(|s| self.place(s.role, s.layer)).collect();
        self.some(method, spec, picked)
    }

    /// The parameters it picks.
    pub fn params<'a>(&self, method: &str, spec: &'a Spec) -> Result<Vec<&'a ParamSpec>> {
        let picked: Vec<&ParamSpec> = spec.params.iter().filter(|p| self.matches(p)).collect();
        self.some(method, spec, picked)
    }

    /// Whether it picks this parameter.
    pub fn matches(&self, param: &ParamSpec) -> bool {
        self.place(param.role, param.layer)
            && self.part.is_none_or(|part| part == param.part)
            && (!self.matrices || param.shape.len() == 2)
    }

    fn some<T>(&self, method: &str, spec: &Spec, picked: Vec<T>) -> Result<Vec<T>> {
        if !picked.is_empty() {
            return Ok(picked);
        }
        let mut roles: Vec<&str> = spec.sites.iter().map(|s| s.role.name()).collect();
        roles.sort_unstable();
        roles.dedup();
        Err(NnError::NoMatch {
            method: method.to_owned(),
            wanted: self.describe(),
            available: format!(
                "{} layers (0 to {}) and the roles {}",
                spec.layers,
                spec.layers.max(1) - 1,
                roles.join(", ")
            ),
            hint: "Choose among those.".to_owned(),
        })
    }

    /// In words.
    pub fn describe(&self) -> String {
        let mut words = Vec::new();
        match self.part {
            Some(Part::Bias) => words.push("biases".to_owned()),
            Some(Part::Weight) => words.push("weights".to_owned()),
            None => {}
        }
        if self.matrices {
            words.push("matrices".to_owned());
        }
        if !self.roles.is_empty() {
            words.push(self.roles.iter().map(|r| r.name()).collect::<Vec<_>>().join(", "));
        }
        if !self.except.is_empty() {
            words.push(format!("except {}", self.except.iter().map(|r| r.name()).collect::<Vec<_>>().join(", ")));
        }
        match self.layers.as_deref() {
            None => {}
            Some([]) => words.push("in no layer".to_owned()),
            Some([one]) => words.push(format!("in layer {one}")),
            Some(layers) => {
                let names: Vec<String> = layers.iter().map(usize::to_string).collect();
                words.push(format!("in layers {}", names.join(", ")));
            }
        }
        if words.is_empty() { "everything".to_owned() } else { words.join(" ") }
    }
}
