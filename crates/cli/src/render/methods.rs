//! What a recipe can say, as tables.

use serde_json::Value;

use super::paint::Paint;
use super::table::Rows;
use crate::kinds::{Group, Kind};

/// All kinds, a table for each key of a stage.
pub(crate) fn all(groups: &[Group], paint: Paint) -> String {
    let table = |group: &Group| {
        let mut rows = Rows::new([group.key, "what it does", "source"]);
        for kind in &group.kinds {
            rows.push([&kind.name, &kind.summary, kind.paper]);
        }
        rows.render(paint)
    };
    let tables = groups.iter().map(table).collect::<Vec<_>>().join("\n\n");
    format!("{tables}\n\nluthier methods NAME shows the keys of one.\n")
}

/// One kind with its keys, and how a recipe says it.
pub(crate) fn one(group: &Group, kind: &Kind, paint: Paint) -> String {
    let mut text = format!("{}: {}\n", paint.bold(&kind.name), kind.summary);
    text.push_str(&format!("source: {}, {}\n", kind.paper, kind.link));
    if !kind.keys.is_empty() {
        let mut rows = Rows::new(["key", "default", "meaning"]);
        for key in &kind.keys {
            rows.push([&key.name, &value(&key.default), &key.meaning]);
        }
        text.push_str(&format!("\n{}\n", rows.render(paint)));
    }
    text.push_str(&format!("\nIn a stage of a recipe:\n{}\n", example(group, kind)));
    text
}

fn example(group: &Group, kind: &Kind) -> String {
    // The first key with a default shows how keys are written.
    let key = kind.keys.iter().find(|key| !key.default.is_null());
    let key = key.map_or_else(String::new, |key| format!(", {} = {}", key.name, value(&key.default)));
    let table = format!("{{ kind = \"{}\"{key} }}", kind.name);
    if group.list { format!("  {} = [{table}]", group.key) } else { format!("  {} = {table}", group.key) }
}

/// A value as a recipe writes it.
fn value(value: &Value) -> String {
    match value {
        Value::Null => "(none)".to_owned(),
        Value::Array(items) => format!("[{}]", items.iter().map(self::value).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Key;
    use expect_test::expect;
    use serde_json::json;

    fn group() -> Group {
        let key = |name: &str, default, meaning: &str| Key { name: name.into(), default, meaning: meaning.into() };
        let lora = Kind {
            name: "lora".into(),
            summary: "low-rank additions move".into(),
            paper: "Hu et al. 2022",
            link: "https://arxiv.org/abs/2106.09685",
            keys: vec![
                key("on", json!(["query", "value"]), "Where."),
                key("rank", json!(8), "The rank."),
                key("most", Value::Null, "No default."),
            ],
        };
        let full = Kind {
            name: "full".into(),
            summary: "every weight moves".into(),
            paper: "Devlin et al. 2019",
            link: "https://arxiv.org/abs/1810.04805",
            keys: vec![],
        };
        Group { key: "method", list: true, kinds: vec![full, lora] }
    }

    #[test]
    fn a_table_of_all_and_a_page_of_one() {
        let (group, paint) = (group(), Paint { on: false });
        let text =
            format!("{}\n---\n{}", all(std::slice::from_ref(&group), paint), one(&group, &group.kinds[1], paint));
        expect![[r#"
            method  what it does             source
            full    every weight moves       Devlin et al. 2019
            lora    low-rank additions move  Hu et al. 2022

            luthier methods NAME shows the keys of one.

            ---
            lora: low-rank additions move
            source: Hu et al. 2022, https://arxiv.org/abs/2106.09685

            key   default             meaning
            on    ["query", "value"]  Where.
            rank  8                   The rank.
            most  (none)              No default.

            In a stage of a recipe:
              method = [{ kind = "lora", on = ["query", "value"] }]
        "#]]
        .assert_eq(&text);
    }
}
