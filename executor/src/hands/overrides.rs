//! The override file that Landfall lays over the promoted compose files. JSON with Compose's merge tags is valid YAML.

use std::collections::{BTreeMap, BTreeSet};

use landfall_schema::ids::ServiceName;
use serde_json::{Map, Value, json};

use super::mark::Mark;
use super::render::Service;

pub(crate) const FILE: &str = "landfall.override.yml";
/// The profile that keeps one-shot services out of `up`; nobody activates it.
const ONE_SHOT_PROFILE: &str = "landfall-oneshot";

/// Pins images; nothing is pulled by Compose.
pub(crate) fn pins(images: &BTreeMap<ServiceName, String>) -> String {
    let services: Map<String, Value> = images
        .iter()
        .map(|(name, image)| (name.to_string(), json!({ "image": image, "pull_policy": "never" })))
        .collect();
    json!({ "services": services }).to_string()
}

/// Pins images, and keeps one-shot services out of `up`: by a profile, and by taking them out of the others' `depends_on`.
/// Neither is part of what Compose compares to decide whether a container must be made anew.
/// The mark is, so that services in `unmarked` go without it.
pub(crate) fn full(
    images: &BTreeMap<ServiceName, String>,
    services: &BTreeMap<ServiceName, Service>,
    mark: &Mark,
    unmarked: &BTreeSet<ServiceName>,
) -> String {
    let asleep: BTreeSet<&ServiceName> =
        services.values().filter(|service| service.is_one_shot()).map(|service| &service.name).collect();
    let mut entries = Vec::new();
    for service in services.values() {
        let mut fields = Vec::new();
        if let Some(image) = images.get(&service.name) {
            fields.push(format!("\"image\": {}, \"pull_policy\": \"never\"", json!(image)));
        }
        if !unmarked.contains(&service.name) {
            fields.push(format!("\"labels\": {}", mark.labels()));
        }
        if asleep.contains(&service.name) {
            fields.push(format!("\"profiles\": !override {}", json!([ONE_SHOT_PROFILE])));
        }
        if service.depends_on.keys().any(|name| asleep.contains(name)) {
            let rest: Map<String, Value> = service
                .depends_on
                .iter()
                .filter(|(name, _)| !asleep.contains(name))
                .map(|(name, dependency)| (name.to_string(), dependency.clone()))
                .collect();
            let tag = if rest.is_empty() { "!reset" } else { "!override" };
            fields.push(format!("\"depends_on\": {tag} {}", Value::Object(rest)));
        }
        if !fields.is_empty() {
            entries.push(format!("{}: {{ {} }}", json!(service.name.as_str()), fields.join(", ")));
        }
    }
    format!("{{ \"services\": {{\n  {}\n}} }}\n", entries.join(",\n  "))
}

/// What the services' variables came to when the stack was rendered and checked, so that Compose reads no `env_file` once more. What
/// Compose compares to decide whether a container must be made anew is the same with it.
pub(crate) fn environment(model: &Value) -> String {
    let services = model.get("services").and_then(Value::as_object);
    let entry = |(name, service): (&String, &Value)| {
        let variables = service.get("environment").and_then(Value::as_object).filter(|variables| !variables.is_empty());
        let variables = variables.map_or("!reset {}".to_owned(), |variables| {
            let pair = |(name, value): (&String, &Value)| format!("{}: {}", quoted(name), literal(value));
            format!("!override {{ {} }}", variables.iter().map(pair).collect::<Vec<_>>().join(", "))
        });
        format!("{}: {{ \"env_file\": !reset [], \"environment\": {variables} }}", quoted(name))
    };
    let entries: Vec<String> = services.into_iter().flatten().map(entry).collect();
    format!("{{ \"services\": {{\n  {}\n}} }}\n", entries.join(",\n  "))
}

/// Compose puts variables into it, so that each `$` stands twice.
fn literal(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(&text.replace('$', "$$")),
        other => other.to_string(),
    }
}

/// A string of JSON that YAML takes too: it allows fewer characters, and breaks lines at more of them.
fn quoted(text: &str) -> String {
    let is_refused =
        |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}');
    let plain = json!(text).to_string();
    let escaped = |c: char| match is_refused(c) {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    plain.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::hands::render::Kind;
    use landfall_schema::stack::{Role, ServiceSettings};

    fn service(name: &str, kind: Kind, depends_on: &[&str]) -> Service {
        let depends_on = depends_on
            .iter()
            .map(|on| (on.parse().unwrap(), json!({ "condition": "service_healthy", "required": true })));
        Service {
            name: name.parse().unwrap(),
            settings: ServiceSettings::default(),
            kind,
            depends_on: depends_on.collect(),
        }
    }

    #[test]
    fn an_environment_is_written_down_as_it_was() {
        let model = json!({ "services": {
            "app": { "environment": { "P": "a$b\n\"é\u{7f}\u{85}\u{2028}", "UNSET": null }, "image": "x" },
            "db": { "image": "x" },
        } });
        let expect = r#"{ "services": {
  "app": { "env_file": !reset [], "environment": !override { "P": "a$$b\n\"é\u007f\u0085\u2028", "UNSET": null } },
  "db": { "env_file": !reset [], "environment": !reset {} }
} }
"#;
        assert_eq!(environment(&model), expect);
    }

    #[test]
    fn one_shots_sleep() {
        let services: BTreeMap<ServiceName, Service> = [
            service("app", Kind::Serving, &["db", "migrator"]),
            service("db", Kind::Serving, &[]),
            service("migrator", Kind::OneShot(Role::Migrate), &["db"]),
            service("web", Kind::Serving, &["migrator"]),
        ]
        .map(|service| (service.name.clone(), service))
        .into();
        let images = BTreeMap::from([("app".parse().unwrap(), "r/app@sha256:1".to_owned())]);
        let mark = Mark { env: "staging".parse().unwrap(), app: "shop".parse().unwrap() };
        let labels = r#""labels": {"dev.landfall.app":"shop","dev.landfall.env":"staging"}"#;
        let expect = r#"{ "services": {
  "app": { "image": "r/app@sha256:1", "pull_policy": "never", LABELS, "depends_on": !override {"db":{"condition":"service_healthy","required":true}} },
  "db": { LABELS },
  "migrator": { LABELS, "profiles": !override ["landfall-oneshot"] },
  "web": { "depends_on": !reset {} }
} }
"#;
        let unmarked = BTreeSet::from(["web".parse().unwrap()]);
        assert_eq!(full(&images, &services, &mark, &unmarked), expect.replace("LABELS", labels));
    }
}
