//! Compose's interpolation (compose-spec, "Interpolation"): `$NAME`, `${NAME}`, `:-` `-` `:?` `?` `:+` `+`, nested, and `$$`.

use std::collections::BTreeMap;

use thiserror::Error;

/// How deep defaults may nest.
const DEPTH_MAX: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InterpolationError {
    #[error("the variable {name} is not set")]
    Unset { name: String },
    #[error("the variable {name} is required: {message}")]
    Required { name: String, message: String },
    #[error("the variable in {template:?} is not written as Compose expects")]
    Malformed { template: String },
}

/// The text, and the variables that were used with the values that they had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interpolated {
    pub text: String,
    pub used: BTreeMap<String, String>,
}

/// Replaces every variable. Unlike Compose, a variable without a value is an error: an image without its tag is never what was meant.
pub fn interpolate(
    template: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Interpolated, InterpolationError> {
    let mut result = Interpolated::default();
    expand(template, lookup, 0, &mut result)?;
    Ok(result)
}

/// The variable's name when the template is that variable and nothing else, whatever its default.
pub fn sole_variable(template: &str) -> Option<&str> {
    let template = template.trim();
    let rest = template.strip_prefix('$')?;
    match rest.strip_prefix('{') {
        Some(rest) => {
            let end = closing(rest)?;
            (end + 1 == rest.len()).then(|| &rest[..name_length(rest)]).filter(|name| !name.is_empty())
        }
        None => (!rest.is_empty() && name_length(rest) == rest.len()).then_some(rest),
    }
}

/// Whether anything in it would be replaced.
pub fn has_variables(template: &str) -> bool {
    template.replace("$$", "").contains('$')
}

fn expand(
    template: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    depth: usize,
    result: &mut Interpolated,
) -> Result<(), InterpolationError> {
    let malformed = || InterpolationError::Malformed { template: template.chars().take(80).collect() };
    if depth > DEPTH_MAX {
        return Err(malformed());
    }
    let mut rest = template;
    while let Some(dollar) = rest.find('$') {
        result.text.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.text.push('$');
            rest = after;
        } else if let Some(braced) = rest.strip_prefix('{') {
            let end = closing(braced).ok_or_else(malformed)?;
            let name = &braced[..name_length(&braced[..end])];
            if name.is_empty() {
                return Err(malformed());
            }
            substitute(name, &braced[name.len()..end], lookup, depth, result)?;
            rest = &braced[end + 1..];
        } else {
            let name = &rest[..name_length(rest)];
            if name.is_empty() {
                return Err(malformed());
            }
            substitute(name, "", lookup, depth, result)?;
            rest = &rest[name.len()..];
        }
    }
    result.text.push_str(rest);
    Ok(())
}

fn substitute(
    name: &str,
    modifier: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    depth: usize,
    result: &mut Interpolated,
) -> Result<(), InterpolationError> {
    let value = lookup(name);
    let filled = value.clone().filter(|value| !value.is_empty());
    if let Some(value) = &value {
        result.used.insert(name.to_owned(), value.clone());
    }
    let (operator, word) = match modifier {
        "" => ("", ""),
        _ if modifier.starts_with(':') && modifier.len() > 1 && modifier.is_char_boundary(2) => modifier.split_at(2),
        _ if modifier.is_char_boundary(1) => modifier.split_at(1),
        _ => (modifier, ""),
    };
    let present = if operator.starts_with(':') || operator.is_empty() { filled } else { value };
    match (operator, present) {
        ("" | ":-" | "-" | ":?" | "?", Some(value)) => result.text.push_str(&value),
        ("", None) => return Err(InterpolationError::Unset { name: name.to_owned() }),
        (":-" | "-", None) | (":+" | "+", Some(_)) => expand(word, lookup, depth + 1, result)?,
        (":?" | "?", None) => {
            return Err(InterpolationError::Required { name: name.to_owned(), message: word.to_owned() });
        }
        (":+" | "+", None) => {}
        _ => return Err(InterpolationError::Malformed { template: format!("${{{name}{modifier}}}") }),
    }
    Ok(())
}

fn name_length(text: &str) -> usize {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let length = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    if starts { length } else { 0 }
}

/// Where the brace ends that was opened before the text.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "TAG" => Some("v1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn compose_forms() {
        for (template, expect) in [
            ("shop:v0", "shop:v0"),
            ("shop:$TAG", "shop:v1"),
            ("shop:${TAG}-slim", "shop:v1-slim"),
            ("shop:${NONE:-v9}", "shop:v9"),
            ("shop:${EMPTY:-v9}", "shop:v9"),
            ("shop${EMPTY-v9}", "shop"),
            ("shop:${NONE-${TAG}}", "shop:v1"),
            ("shop:${NONE:-${NONE2:-v7}}", "shop:v7"),
            ("shop${TAG:+:tagged}", "shop:tagged"),
            ("shop${NONE+:tagged}", "shop"),
            ("shop:${TAG:?set it}", "shop:v1"),
            ("cost$$5", "cost$5"),
            ("shop:${NONE:-grün}", "shop:grün"),
        ] {
            assert_eq!(interpolate(template, &lookup).map(|found| found.text), Ok(expect.to_owned()), "{template}");
        }
    }

    #[test]
    fn what_cannot_be_replaced_is_an_error() {
        for (template, expect) in [
            ("${APP_IMAGE}", "the variable APP_IMAGE is not set"),
            ("${EMPTY}", "the variable EMPTY is not set"),
            ("${APP_IMAGE:?set it in CI}", "the variable APP_IMAGE is required: set it in CI"),
            ("shop:${TAG", "is not written as Compose expects"),
            ("shop:$", "is not written as Compose expects"),
            ("shop:${1}", "is not written as Compose expects"),
            ("shop:${TAG~x}", "is not written as Compose expects"),
            ("shop:${TAGü}", "is not written as Compose expects"),
        ] {
            let error = interpolate(template, &lookup).map(|found| found.text).map_err(|error| error.to_string());
            assert!(error.as_ref().is_err_and(|error| error.contains(expect)), "{template}: {error:?}");
        }
    }

    #[test]
    fn used_variables_are_told_and_a_sole_one_is_recognised() {
        let used = interpolate("${REG:-r}/shop:${TAG}", &lookup).map(|found| found.used);
        assert_eq!(used, Ok(BTreeMap::from([("TAG".to_owned(), "v1".to_owned())])));
        for (template, expect) in [
            ("${APP_IMAGE}", Some("APP_IMAGE")),
            ("$APP_IMAGE", Some("APP_IMAGE")),
            (" ${APP_IMAGE:-shop:${TAG}} ", Some("APP_IMAGE")),
            ("${APP_IMAGE:?set it}", Some("APP_IMAGE")),
            ("${REG}/shop", None),
            ("shop:${TAG}", None),
            ("${A}${B}", None),
            ("$", None),
            ("shop", None),
        ] {
            assert_eq!(sole_variable(template), expect, "{template}");
        }
    }

    #[test]
    fn defaults_nest_to_their_limit() {
        let of =
            |depth: usize| interpolate(&format!("{}x{}", "${A:-".repeat(depth), "}".repeat(depth)), &|_| None).is_ok();
        assert!(of(DEPTH_MAX) && !of(DEPTH_MAX + 1));
    }
}
