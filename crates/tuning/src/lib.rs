//! What moves, and what keeps it steady: tuning methods and stabilisers.
//!
//! Each is one file with its configuration, a `plan` that writes verbs of [`luthier_nn::Plan`], the small hooks that those
//! verbs need, and one line in [`methods`] or [`stabilisers`]. None knows a model family, an objective or the loop: they
//! see sites with roles and layers, and compute through [`luthier_nn::Cx`].
//!
//! Methods are planned before stabilisers, so a stabiliser may ask what moves.

mod check;
pub mod methods;
pub mod stabilisers;
#[cfg(test)]
mod testing;

pub use luthier_nn::About;
use luthier_nn::PlanMethod;

pub use methods::Method;
pub use stabilisers::Stabiliser;

/// A plan's writer that can say what it is.
pub trait Technique: PlanMethod {
    /// Where it comes from.
    fn about(&self) -> About;
}

/// What most files of this crate use.
pub(crate) mod prelude {
    pub(crate) use std::sync::Arc;

    pub(crate) use luthier_nn::{NnError, Plan, PlanMethod, Result, Role, Select, Spec};
    pub(crate) use schemars::JsonSchema;
    pub(crate) use serde::{Deserialize, Serialize};

    pub(crate) use crate::{About, Technique, check};
}

#[cfg(test)]
mod tests {
    use super::{About, Method, Stabiliser};
    use crate::methods::full::Full;
    use crate::testing::plan_of;

    #[test]
    fn every_kind_can_be_planned_with_its_defaults() {
        for layers in [2, 12] {
            for method in Method::all() {
                let plan = plan_of(layers, &[(method.kind(), method.get())]).unwrap();
                assert!(plan.entries().iter().all(|entry| entry.method == method.kind()));
            }
            for stabiliser in Stabiliser::all() {
                let kind = stabiliser.kind();
                let plan = plan_of(layers, &[("full", &Full::default()), (kind, stabiliser.get())]).unwrap();
                assert!(plan.entries().iter().any(|entry| entry.method == kind), "{kind} says nothing");
            }
        }
    }

    #[test]
    fn every_kind_is_described() {
        let methods = Method::all().iter().map(|m| (m.kind(), m.get().about())).collect::<Vec<_>>();
        let stabilisers = Stabiliser::all().iter().map(|s| (s.kind(), s.get().about())).collect::<Vec<_>>();
        for (kind, About { paper, link }) in methods.into_iter().chain(stabilisers) {
            assert!(link.starts_with("https://"), "{kind}");
            assert!(paper.ends_with(|c: char| c.is_ascii_digit()), "{kind}: {paper} has no year");
        }
        for schema in [schemars::schema_for!(Method), schemars::schema_for!(Stabiliser)] {
            let schema = schema.to_value();
            for variant in schema["oneOf"].as_array().unwrap() {
                for definition in schema["$defs"].as_object().unwrap().values().chain([variant]) {
                    let properties = definition["properties"].as_object().into_iter().flatten();
                    for (key, property) in properties.filter(|(key, _)| *key != "kind") {
                        assert!(property["description"].is_string(), "{key} has no description");
                    }
                }
            }
        }
    }

    #[test]
    fn every_kind_survives_a_recipe() {
        for method in Method::all() {
            let text = toml::to_string(&method).unwrap();
            assert!(text.starts_with(&format!("kind = \"{}\"", method.kind())), "{text}");
            assert_eq!(toml::to_string(&toml::from_str::<Method>(&text).unwrap()).unwrap(), text);
        }
        for stabiliser in Stabiliser::all() {
            let text = toml::to_string(&stabiliser).unwrap();
            assert_eq!(toml::to_string(&toml::from_str::<Stabiliser>(&text).unwrap()).unwrap(), text);
        }
    }

    #[test]
    fn recipes_are_read_as_written_and_mistakes_are_named() {
        let text = "kind = \"lora\"\non = [\"query\", \"up\"]\nalpha = 4\nlayers = [1]";
        let Method::Lora(lora) = toml::from_str::<Method>(text).unwrap() else { panic!("not LoRA") };
        assert_eq!((lora.alpha, lora.rank, lora.layers.as_slice()), (4.0, 8, &[1][..]));
        let refused = |text: &str| toml::from_str::<Method>(text).unwrap_err().to_string();
        assert!(refused("kind = \"lora\"\nrnak = 4").contains("unknown field `rnak`"));
        assert!(refused("kind = \"lorra\"").contains("unknown variant `lorra`"));
        assert!(refused("kind = \"lora\"\non = [\"qeury\"]").contains("unknown variant `qeury`"));
        assert!(refused("kind = \"lora\"\nrank = -1").contains("-1"));
        assert!(refused("kind = \"adapter\"\narchitecture = \"pfeifer\"").contains("`pfeiffer` or `houlsby`"));
    }
}
