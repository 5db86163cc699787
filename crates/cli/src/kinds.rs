//! What a recipe can say under `objective`, `method` and `stabilise`: every kind with its keys, taken from the schema, and
//! its source, taken from the kind itself.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use luthier_train::recipe::Recipe;
use serde::Serialize;
use serde_json::{Value, json};

/// A kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Kind {
    /// Its name: `kind = "lora"`.
    pub(crate) name: String,
    /// What it does, in one line.
    pub(crate) summary: String,
    /// Who proposed it, and when.
    pub(crate) paper: &'static str,
    /// Where to read it.
    pub(crate) link: &'static str,
    /// What can be said about it.
    pub(crate) keys: Vec<Key>,
}

/// A key of a kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Key {
    /// Its name.
    pub(crate) name: String,
    /// Its value where a recipe does not say.
    pub(crate) default: Value,
    /// What it means.
    pub(crate) meaning: String,
}

/// The kinds under one key of a stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Group {
    /// The key of the stage.
    pub(crate) key: &'static str,
    /// Whether the key takes a list of them.
    pub(crate) list: bool,
    /// The kinds, in the order in which they are registered.
    pub(crate) kinds: Vec<Kind>,
}

/// Every kind, by the key of the stage that it stands under.
///
/// # Errors
/// A schema that is not what this crate takes it for, which its tests rule out.
pub(crate) fn groups() -> Result<Vec<Group>> {
    let schema = luthier_train::schema::schema();
    let of = |definition: &str| kinds(&schema, definition).with_context(|| format!("the schema lacks {definition}"));
    let mut groups = vec![
        Group { key: "objective", list: false, kinds: of("ObjectiveConfig")? },
        Group { key: "method", list: true, kinds: of("Method")? },
        Group { key: "stabilise", list: true, kinds: of("Stabiliser")? },
    ];
    let sources = sources(&groups)?;
    for kind in groups.iter_mut().flat_map(|group| &mut group.kinds) {
        if let Some((paper, link)) = sources.get(&kind.name) {
            (kind.paper, kind.link) = (paper, link);
        }
    }
    Ok(groups)
}

fn kinds(schema: &Value, definition: &str) -> Option<Vec<Kind>> {
    let alternatives = schema.get("$defs")?.get(definition)?.get("oneOf")?.as_array()?;
    alternatives.iter().map(kind).collect()
}

fn kind(schema: &Value) -> Option<Kind> {
    let properties = schema.get("properties")?.as_object()?;
    let name = properties.get("kind")?.get("const")?.as_str()?.to_owned();
    let text = |schema: &Value| {
        let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let whole = text(schema);
    // The description repeats how the kind is written; a person who reads its name knows.
    let summary = whole.strip_prefix(&format!("`kind = \"{name}\"`: ")).unwrap_or(&whole).trim_end_matches('.');
    let key = |(name, schema): (&String, &Value)| Key {
        name: name.clone(),
        default: schema.get("default").cloned().unwrap_or_default(),
        meaning: text(schema),
    };
    let keys = properties.iter().filter(|(name, _)| *name != "kind").map(key).collect();
    Some(Kind { name, summary: summary.to_owned(), paper: "", link: "", keys })
}

/// Paper and link of every kind. A recipe that names them all makes them: a stage for each objective.
fn sources(groups: &[Group]) -> Result<BTreeMap<String, (&'static str, &'static str)>> {
    let named = |key: &str| -> Vec<Value> {
        let kinds = groups.iter().filter(|group| group.key == key).flat_map(|group| &group.kinds);
        kinds.map(|kind| json!({ "kind": kind.name })).collect()
    };
    let stage = |objective: Value| {
        json!({
            "name": "all",
            "objective": objective,
            "data": {"train": ""},
            "method": named("method"),
            "stabilise": named("stabilise"),
        })
    };
    let stages: Vec<Value> = named("objective").into_iter().map(stage).collect();
    let recipe: Recipe = serde_json::from_value(json!({ "model": {}, "stage": stages }))?;
    let mut sources = BTreeMap::new();
    for stage in &recipe.stage {
        let objective = (stage.objective.kind(), stage.objective.get().about());
        let methods = stage.method.iter().map(|method| (method.kind(), method.get().about()));
        let stabilisers = stage.stabilise.iter().map(|one| (one.kind(), one.get().about()));
        for (kind, about) in methods.chain(stabilisers).chain([objective]) {
            sources.insert(kind.to_owned(), (about.paper, about.link));
        }
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_summary_keys_and_a_source() {
        let groups = groups().expect("the schema is as expected");
        let names: Vec<&str> = groups.iter().flat_map(|group| &group.kinds).map(|kind| kind.name.as_str()).collect();
        for name in ["mlm", "classify", "full", "lora", "clip"] {
            assert!(names.contains(&name), "{name} is not among {names:?}");
        }
        for kind in groups.iter().flat_map(|group| &group.kinds) {
            assert!(!kind.summary.is_empty() && !kind.summary.contains("kind ="), "{kind:?}");
            assert!(kind.keys.iter().all(|key| !key.meaning.is_empty()), "{kind:?}");
            assert!(!kind.paper.is_empty() && kind.link.starts_with("https://"), "{kind:?}");
        }
        let lora = groups[1].kinds.iter().find(|kind| kind.name == "lora").expect("lora is a method");
        assert_eq!(lora.paper, "Hu et al. 2022");
        assert_eq!(
            lora.keys[1],
            Key { name: "rank".into(), default: json!(8), meaning: "The rank of the additions.".into() }
        );
    }
}
