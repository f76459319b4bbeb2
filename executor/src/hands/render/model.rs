//! What `docker compose config` printed.

use std::collections::BTreeMap;

use landfall_schema::outcome::{Reason, ReasonCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::hands::yaml;

/// Compose prints every `$` twice, and the default format because its JSON leaves the services' extension fields out.
pub(crate) fn parse(rendered: &str) -> Result<Value, Reason> {
    let text = rendered.replace("$$", "$");
    // The parser's message could repeat values.
    let unreadable =
        |_| Reason::new(ReasonCode::ComposeInvalid, "the output of `docker compose config` is not readable");
    let mut model = yaml::read(&text).map_err(unreadable)?;
    // Compose leaves quotes away where its own reader would see a text, which is not everywhere where ours does: `yEs`.
    for (name, service) in yaml::read_as::<Environments>(&text).map_err(unreadable)?.services {
        if let Some(environment) = model.pointer_mut(&format!("/services/{name}/environment")) {
            *environment = json!(service.environment);
        }
    }
    Ok(model)
}

/// The rendered variables of each service, as texts.
#[derive(Deserialize)]
struct Environments {
    #[serde(default)]
    services: BTreeMap<String, Environment>,
}

#[derive(Deserialize)]
struct Environment {
    #[serde(default)]
    environment: BTreeMap<String, Option<String>>,
}

pub(super) fn rendered_variables(model: &Value) -> Vec<(&str, &str)> {
    let services = model.get("services").and_then(Value::as_object).into_iter().flat_map(|services| services.values());
    services
        .filter_map(|service| service.get("environment")?.as_object())
        .flatten()
        .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn dollars_are_printed_twice() {
        let model = parse("services: {a: {environment: {P: 'a$$b', N: \"no\", U: null}}, b: {image: x}}").unwrap();
        assert_eq!(rendered_variables(&model), [("N", "no"), ("P", "a$b")]);
        assert!(model.pointer("/services/a/environment/U").unwrap().is_null());
    }

    #[test]
    fn variables_are_texts() {
        let model = parse("services: {a: {environment: {A: yEs, B: 1e3, C: tRUE, D: 0x10, E: ''}}}").unwrap();
        let expect = [("A", "yEs"), ("B", "1e3"), ("C", "tRUE"), ("D", "0x10"), ("E", "")];
        assert_eq!(rendered_variables(&model), expect);
    }
}
