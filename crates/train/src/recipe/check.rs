//! The check of a document against the JSON schema of the recipe: everything that is wrong, each with its place.
//!
//! serde stops at the first mistake and, inside tagged tables, no longer knows where it was. The schema is made from the same
//! types that serde reads, so the two agree.

use serde_json::Value as Json;

use super::document::{Found, Node, Value};
use super::problems::{did_you_mean, plain, quoted};

/// The key that says which kind of a registry a table is.
const TAG: &str = "kind";
/// No recipe is nested deeper; hostile ones could be.
const DEEPEST: usize = 100;

/// What a schema says, its references followed and its parts joined.
#[derive(Default, Clone)]
struct View<'s> {
    types: Vec<&'s str>,
    /// The only texts that are possible.
    words: Vec<&'s str>,
    properties: Vec<(&'s str, &'s Json)>,
    required: Vec<&'s str>,
    /// Whether other keys than the known ones are errors.
    closed: bool,
    /// What other keys hold, where they are allowed.
    others: Option<&'s Json>,
    items: Option<&'s Json>,
    least: Option<f64>,
    most: Option<f64>,
    alternatives: Vec<View<'s>>,
}

/// A checker of one document.
pub(crate) struct Check<'s> {
    schema: &'s Json,
    found: Vec<Found>,
}

/// Everything in which a document differs from a schema.
pub(crate) fn check(document: &Node, schema: &Json) -> Vec<Found> {
    let mut check = Check { schema, found: Vec::new() };
    let view = check.view(schema);
    check.node(document, &view, "the recipe", 0);
    check.found.sort();
    check.found
}

impl<'s> Check<'s> {
    fn view(&self, schema: &'s Json) -> View<'s> {
        let mut view = View::default();
        self.gather(schema, &mut view, 0);
        view
    }

    fn gather(&self, schema: &'s Json, view: &mut View<'s>, depth: usize) {
        if depth > DEEPEST {
            return;
        }
        let target = schema.get("$ref").and_then(Json::as_str).and_then(|path| path.strip_prefix('#'));
        if let Some(target) = target.and_then(|path| self.schema.pointer(path)) {
            self.gather(target, view, depth + 1);
        }
        match schema.get("type") {
            Some(Json::String(name)) => view.types.push(name),
            Some(Json::Array(names)) => view.types.extend(names.iter().filter_map(Json::as_str)),
            _ => {}
        }
        view.types.retain(|&name| name != "null");
        view.words.extend(schema.get("const").and_then(Json::as_str));
        view.words.extend(list(schema, "enum").iter().filter_map(Json::as_str));
        view.properties.extend(
            schema.get("properties").and_then(Json::as_object).into_iter().flatten().map(|(k, v)| (k.as_str(), v)),
        );
        view.required.extend(list(schema, "required").iter().filter_map(Json::as_str));
        for key in ["additionalProperties", "unevaluatedProperties"] {
            match schema.get(key) {
                Some(Json::Bool(allowed)) => view.closed |= !allowed,
                Some(other) => view.others = Some(other),
                None => {}
            }
        }
        view.items = view.items.or(schema.get("items"));
        view.least = view.least.or(schema.get("minimum").and_then(Json::as_f64));
        view.most = view.most.or(schema.get("maximum").and_then(Json::as_f64));
        if schema.get("format").and_then(Json::as_str) == Some("uint32") {
            view.most = view.most.or(Some(f64::from(u32::MAX)));
        }
        for part in list(schema, "allOf") {
            self.gather(part, view, depth + 1);
        }
        for alternative in list(schema, "oneOf").iter().chain(list(schema, "anyOf")) {
            let mut inner = View::default();
            self.gather(alternative, &mut inner, depth + 1);
            if !inner.says_nothing() {
                view.alternatives.push(inner);
            }
        }
        // A choice among words, one alternative a word, each with its description.
        let words = |inner: &View<'s>| !inner.words.is_empty() && inner.properties.is_empty();
        if !view.alternatives.is_empty() && view.alternatives.iter().all(words) {
            let alternatives = std::mem::take(&mut view.alternatives);
            view.words.extend(alternatives.into_iter().flat_map(|inner| inner.words));
            view.types = vec!["string"];
        }
        // An optional value: its alternative to nothing.
        if view.alternatives.len() == 1 && view.types.is_empty() && view.properties.is_empty() {
            *view = view.alternatives.remove(0);
        }
    }

    fn node(&mut self, node: &Node, view: &View<'s>, name: &str, depth: usize) {
        if depth > DEEPEST {
            self.found.push((node.place, "is nested too deeply for a recipe".to_owned()));
            return;
        }
        match &node.value {
            Value::Float(number) if !number.is_finite() => {
                self.found.push((node.place, format!("{} is `{number}`, expected a finite number", quoted(name))));
                return;
            }
            Value::TooLarge(_) | Value::Date => {
                self.wrong(node, view, name);
                return;
            }
            _ => {}
        }
        if !view.alternatives.is_empty() {
            return self.alternatives(node, view, name, depth);
        }
        if !fits(node, view) {
            return self.wrong(node, view, name);
        }
        match &node.value {
            Value::Text(text) if !view.words.is_empty() && !view.words.contains(&text.as_str()) => {
                let near = did_you_mean(text, view.words.iter().copied());
                let known = list_of(&view.words);
                self.found.push((
                    node.place,
                    format!("{} is {}{near} (known: {known})", quoted(name), quoted(&format!("{text:?}"))),
                ));
            }
            Value::Integer(number) => {
                let value = *number as f64;
                if view.least.is_some_and(|least| value < least) || view.most.is_some_and(|most| value > most) {
                    self.wrong(node, view, name);
                }
            }
            Value::List(items) => {
                if let Some(schema) = view.items {
                    let inner = self.view(schema);
                    for item in items {
                        self.node(item, &inner, name, depth + 1);
                    }
                }
            }
            Value::Table(_) => self.table(node, view, name, depth),
            _ => {}
        }
    }

    fn table(&mut self, node: &Node, view: &View<'s>, name: &str, depth: usize) {
        let Value::Table(table) = &node.value else { return };
        let whose = match node.get(TAG).and_then(Node::text) {
            Some(kind) if view.properties.iter().any(|(key, _)| *key == TAG) => format!("{name} {}", plain(kind)),
            _ => name.to_owned(),
        };
        for (key, (place, value)) in table {
            match view.properties.iter().find(|(known, _)| known == key) {
                Some((_, schema)) => {
                    let inner = self.view(schema);
                    self.node(value, &inner, key, depth + 1);
                }
                None if view.closed => {
                    let near = did_you_mean(key, view.properties.iter().map(|(known, _)| *known));
                    let owner = if near.is_empty() { self.owner(key, view) } else { String::new() };
                    let known: Vec<&str> = view.properties.iter().map(|(known, _)| *known).collect();
                    let known = list_of(&known);
                    self.found.push((
                        *place,
                        format!("unknown key {} in {whose}{near}{owner} (known: {known})", quoted(key)),
                    ));
                }
                None => {
                    let inner = view.others.map(|schema| self.view(schema)).unwrap_or_default();
                    self.node(value, &inner, key, depth + 1);
                }
            }
        }
        for &key in view.required.iter().filter(|&&key| !table.contains_key(key)) {
            let schema = view.properties.iter().find(|(known, _)| *known == key).map(|(_, schema)| *schema);
            let what = schema.map(|schema| self.expected(&self.view(schema))).unwrap_or_default();
            let about = schema.and_then(|schema| schema.get("description")).and_then(Json::as_str);
            let about = about.map(|text| format!(": {}", text.lines().next().unwrap_or_default())).unwrap_or_default();
            self.found.push((node.place, format!("missing key `{key}` in {whose}, expected {what}{about}")));
        }
    }

    /// "; it belongs in `train`", where a neighbouring table has this key.
    fn owner(&self, key: &str, view: &View<'s>) -> String {
        let has = |schema: &'s Json| self.view(schema).properties.iter().any(|(known, _)| *known == key);
        match view.properties.iter().find(|(_, schema)| has(schema)) {
            Some((owner, _)) => format!("; it belongs in `{owner}`"),
            None => String::new(),
        }
    }

    fn alternatives(&mut self, node: &Node, view: &View<'s>, name: &str, depth: usize) {
        let tag = |inner: &View<'s>| -> Option<&'s str> {
            inner.properties.iter().find(|(key, _)| *key == TAG).and_then(|(_, schema)| schema.get("const")?.as_str())
        };
        let tags: Vec<&str> = view.alternatives.iter().filter_map(tag).collect();
        if tags.len() == view.alternatives.len() {
            let Value::Table(table) = &node.value else {
                let example = tags.first().copied().unwrap_or_default();
                let found = node.describe();
                let text = format!("{} is {found}, expected a table such as {{ {TAG} = \"{example}\" }}", quoted(name));
                self.found.push((node.place, text));
                return;
            };
            let Some((_, kind)) = table.get(TAG) else {
                let known = list_of(&tags);
                self.found.push((node.place, format!("missing key `{TAG}` in {name} (known: {known})")));
                return;
            };
            let Some(word) = kind.text() else {
                let known = list_of(&tags);
                self.found.push((
                    kind.place,
                    format!("`{TAG}` of {name} is {}, expected text (known: {known})", kind.describe()),
                ));
                return;
            };
            match view.alternatives.iter().find(|inner| tag(inner) == Some(word)) {
                Some(inner) => self.node(node, inner, name, depth + 1),
                None => {
                    let near = did_you_mean(word, tags.iter().copied());
                    let known = list_of(&tags);
                    self.found.push((kind.place, format!("unknown {name} {}{near} (known: {known})", quoted(word))));
                }
            }
            return;
        }
        // Alternatives without a tag differ in type. Of two of one type, the first without problems is it.
        let mut first = None;
        for inner in view.alternatives.iter().filter(|inner| !inner.alternatives.is_empty() || fits(node, inner)) {
            let before = self.found.len();
            self.node(node, inner, name, depth + 1);
            let problems = self.found.split_off(before);
            if problems.is_empty() {
                return;
            }
            first.get_or_insert(problems);
        }
        match first {
            Some(problems) => self.found.extend(problems),
            None => self.wrong(node, view, name),
        }
    }

    fn wrong(&mut self, node: &Node, view: &View<'s>, name: &str) {
        self.found
            .push((node.place, format!("{} is {}, expected {}", quoted(name), node.describe(), self.expected(view))));
    }

    /// What a schema asks for, in words.
    fn expected(&self, view: &View<'s>) -> String {
        if !view.alternatives.is_empty() {
            let words: Vec<String> = view.alternatives.iter().map(|inner| self.expected(inner)).collect();
            let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
            words.dedup();
            return words.join(" or ");
        }
        if !view.words.is_empty() {
            let words: Vec<String> = view.words.iter().map(|word| format!("{word:?}")).collect();
            return words.join(" or ");
        }
        match view.types.first().copied() {
            Some("integer") => match (view.least, view.most) {
                (Some(least), Some(most)) => format!("a whole number from {least} to {most}"),
                (Some(least), None) => format!("a whole number from {least}"),
                _ => "a whole number".to_owned(),
            },
            Some("number") => "a number".to_owned(),
            Some("string") => "text in quotes".to_owned(),
            Some("boolean") => "true or false".to_owned(),
            Some("array") => match view.items {
                Some(schema) => format!("a list, each element {}", self.expected(&self.view(schema))),
                None => "a list".to_owned(),
            },
            Some("object") => "a table".to_owned(),
            _ => "a value".to_owned(),
        }
    }
}

impl View<'_> {
    /// Whether nothing is asked: the schema of nothing, or of anything.
    fn says_nothing(&self) -> bool {
        self.types.is_empty() && self.words.is_empty() && self.properties.is_empty() && self.alternatives.is_empty()
    }
}

/// Whether a value is of a type that a schema allows.
fn fits(node: &Node, view: &View<'_>) -> bool {
    let types = &view.types;
    if types.is_empty() {
        return view.words.is_empty() || matches!(node.value, Value::Text(_));
    }
    match node.value {
        Value::Table(_) => types.contains(&"object"),
        Value::List(_) => types.contains(&"array"),
        Value::Text(_) => types.contains(&"string"),
        Value::Integer(_) => types.contains(&"integer") || types.contains(&"number"),
        Value::Float(_) => types.contains(&"number"),
        Value::Boolean(_) => types.contains(&"boolean"),
        Value::Date | Value::TooLarge(_) => false,
    }
}

fn list<'s>(schema: &'s Json, key: &str) -> &'s [Json] {
    schema.get(key).and_then(Json::as_array).map_or(&[], Vec::as_slice)
}

fn list_of(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
