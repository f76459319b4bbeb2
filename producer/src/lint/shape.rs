//! `x-landfall` against its JSON Schema, the one that is generated from the types: every deviation with its place, not only the first.

use landfall_schema::json_schema;
use serde_json::Value as Json;

use crate::lint::nearest::{did_you_mean, listed};
use crate::lint::problem::{Place, Problem};
use crate::lint::yaml::{Node, Value};

/// One schema of `x-landfall`.
#[derive(Debug)]
pub(super) struct Shape {
    root: Json,
}

impl Shape {
    pub(super) fn of_stack() -> Self {
        Self::named("x-landfall.stack.json")
    }

    pub(super) fn of_service() -> Self {
        Self::named("x-landfall.service.json")
    }

    fn named(name: &str) -> Self {
        let file = json_schema::files().into_iter().find(|file| file.name == name);
        Self { root: file.map_or(Json::Bool(true), |file| file.schema) }
    }

    /// Every deviation of the node, found in the file of this index.
    pub(super) fn check(&self, node: &Node, file: usize) -> Vec<Problem> {
        let mut found = Checker { shape: self, file, problems: Vec::new() };
        found.node(&self.root, node, "x-landfall");
        found.problems
    }

    /// Follows `$ref` into this schema's own definitions.
    fn resolve<'a>(&'a self, schema: &'a Json) -> &'a Json {
        let name = schema.get("$ref").and_then(Json::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
        name.and_then(|name| self.root.get("$defs")?.get(name)).unwrap_or(schema)
    }

    /// Without the "or null" of optional fields.
    fn required_part<'a>(&'a self, schema: &'a Json) -> &'a Json {
        let alternatives = schema.get("anyOf").and_then(Json::as_array);
        let real = alternatives.and_then(|all| all.iter().find(|one| one.get("type") != Some(&Json::from("null"))));
        self.resolve(real.unwrap_or(schema))
    }
}

struct Checker<'a> {
    shape: &'a Shape,
    file: usize,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn error(&mut self, at: Place, code: &'static str, message: String, hint: Option<String>) {
        self.problems.push(Problem { hint, ..Problem::error(self.file, at, code, message) });
    }

    fn node(&mut self, schema: &Json, node: &Node, path: &str) {
        let schema = self.shape.resolve(schema);
        if node.is_null() && accepts_null(schema) {
            return;
        }
        let schema = self.shape.required_part(schema);
        if let Some(allowed) = allowed_values(schema) {
            return self.one_of(&allowed, node, path);
        }
        match expected_type(schema) {
            Some("object") => self.object(schema, node, path),
            Some("array") => self.array(schema, node, path),
            Some("integer") => self.integer(schema, node, path),
            Some("string") if node.text().is_none() => {
                let hint = matches!(node.value, Value::Int(_) | Value::Float(_) | Value::Bool(_))
                    .then(|| "put it in quotes".to_owned());
                self.expected("text", node, path, hint);
            }
            Some("boolean") if !matches!(node.value, Value::Bool(_)) => {
                self.expected("true or false", node, path, None)
            }
            _ => {}
        }
    }

    fn expected(&mut self, what: &str, node: &Node, path: &str, hint: Option<String>) {
        self.error(node.at, "wrong-type", format!("{path} must be {what}, this is {}", node.kind()), hint);
    }

    fn one_of(&mut self, allowed: &[&str], node: &Node, path: &str) {
        let Some(text) = node.text() else {
            return self.expected(&format!("one of {}", listed(allowed)), node, path, None);
        };
        if !allowed.contains(&text) {
            let shown: String = text.chars().take(40).collect();
            let message = format!("{path} cannot be `{}`; it is one of {}", shown.escape_debug(), listed(allowed));
            self.error(node.at, "unknown-value", message, did_you_mean(text, allowed));
        }
    }

    fn object(&mut self, schema: &Json, node: &Node, path: &str) {
        let Value::Map(entries) = &node.value else {
            return self.expected("a mapping", node, path, None);
        };
        let properties = schema.get("properties").and_then(Json::as_object);
        let known: Vec<&str> = properties.map(|map| map.keys().map(String::as_str).collect()).unwrap_or_default();
        for entry in entries {
            let inner = format!("{path}.{}", entry.key);
            if let Some(property) = properties.and_then(|map| map.get(&entry.key)) {
                self.node(property, &entry.value, &inner);
                continue;
            }
            match schema.get("additionalProperties") {
                Some(Json::Bool(false)) => {
                    let shown: String = entry.key.chars().take(60).collect();
                    let message = format!("{path} has no key `{}`; it has {}", shown.escape_debug(), listed(&known));
                    self.error(entry.key_at, "unknown-key", message, did_you_mean(&entry.key, &known));
                }
                Some(further @ Json::Object(_)) => self.node(further, &entry.value, &inner),
                _ => {}
            }
        }
        for key in schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str) {
            if node.entry(key).is_none() {
                self.error(node.at, "missing-key", format!("{path} needs the key `{key}`"), None);
            }
        }
    }

    fn array(&mut self, schema: &Json, node: &Node, path: &str) {
        let Value::List(items) = &node.value else {
            let hint = node.text().map(|_| "write it as a list: [program, argument, …]".to_owned());
            return self.expected("a list", node, path, hint);
        };
        if let Some(item_schema) = schema.get("items") {
            for (position, item) in items.iter().enumerate() {
                self.node(item_schema, item, &format!("{path}[{position}]"));
            }
        }
    }

    fn integer(&mut self, schema: &Json, node: &Node, path: &str) {
        let Value::Int(value) = node.value else {
            let hint = node.text().map(|text| match text.contains('$') {
                true => "Compose puts variables in as text; write the number itself".to_owned(),
                false if path.ends_with("_ms") => "milliseconds, without a unit: 5000".to_owned(),
                false => "a number without quotes".to_owned(),
            });
            return self.expected("a whole number", node, path, hint);
        };
        let limit = |name| schema.get(name).and_then(Json::as_i64);
        let message = match (limit("minimum"), limit("maximum")) {
            (Some(minimum), _) if value < minimum => format!("{path} is {value}, at least {minimum} is needed"),
            (_, Some(maximum)) if value > maximum => format!("{path} is {value}, at most {maximum} is allowed"),
            _ => return,
        };
        self.error(node.at, "out-of-range", message, None);
    }
}

fn accepts_null(schema: &Json) -> bool {
    let null = Json::from("null");
    let listed = |list: Option<&Json>| list.and_then(Json::as_array).is_some_and(|all| all.contains(&null));
    let alternative = |one: &Json| one.get("type") == Some(&null);
    listed(schema.get("type"))
        || schema.get("anyOf").and_then(Json::as_array).is_some_and(|all| all.iter().any(alternative))
}

fn expected_type(schema: &Json) -> Option<&str> {
    match schema.get("type")? {
        Json::String(name) => Some(name),
        Json::Array(names) => names.iter().filter_map(Json::as_str).find(|name| *name != "null"),
        _ => None,
    }
}

/// The values of an enum, however the generator spells it.
fn allowed_values(schema: &Json) -> Option<Vec<&str>> {
    let alternatives = match schema.get("oneOf").and_then(Json::as_array) {
        Some(all) => all.iter().collect(),
        None => vec![schema],
    };
    let mut values = Vec::new();
    for one in alternatives {
        let before = values.len();
        values.extend(one.get("enum").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str));
        values.extend(one.get("const").and_then(Json::as_str));
        if values.len() == before {
            return None;
        }
    }
    Some(values)
}
