//! Compose files, settings and registries' answers that nobody should have written: the CLI says what is wrong with them.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use landfall_fuzz::run;

use crate::compose::{Stack, env_file, interpolate};
use crate::image::ImageReference;
use crate::registry::challenge::{Challenge, form};

const COMPOSE: [&str; 3] = [
    "x-landfall: {app: shop, bake_ms: 5, rollout: {waves: [1, 25%, 100%]}}\nservices:\n  app:\n    image: ${APP_IMAGE:-x:${TAG:?no tag}}\n    \
     ports: ['80:80']\n    x-landfall:\n      ready: {http: {port: 80, path: /}}\n  m: {image: m, profiles: [t], x-landfall: {role: migrate, database: shop}}\n",
    "x-a: &a {image: x, environment: {A: b}}\nservices:\n  app:\n    <<: *a\n    extends: {service: b}\n  b: {build: .}\nvolumes: {v: {}}\n",
    "include: [other.yml]\nservices: {app: {image: !reset null, extends: {file: x.yml, service: y}}}\n---\nsecond: document\n",
];

fn seeds(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn compose_files() {
    run("compose-lint", &seeds(&COMPOSE), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        crate::lint::fuzz(&[&text]);
        crate::lint::fuzz(&[COMPOSE[0], &text]);
    });
}

#[test]
fn promoted_compose_files() {
    run("compose-promote", &seeds(&COMPOSE), |bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        if let Ok(compose) = Stack::parse(vec![(PathBuf::from("compose.yml"), text)]) {
            assert!(!compose.services.is_empty());
            compose.bundle().unwrap();
        }
    });
}

#[test]
fn interpolations() {
    let lookup = |name: &str| (name == "A").then(|| "a".to_owned());
    run("interpolation", &seeds(&["x:${A:-${B:-c}}", "$A$$B${C:?no}", "${A+x}"]), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let _ = (interpolate::interpolate(&text, &lookup), interpolate::sole_variable(&text));
        let _ = (interpolate::has_variables(&text), env_file::parse(&text));
    });
}

#[test]
fn image_references() {
    let digest = format!("r.example:5000/a/b:t@sha256:{}", "0".repeat(64));
    run("image-reference", &seeds(&["alpine", "ghcr.io/acme/shop:v1", &digest]), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Ok(image) = text.parse::<ImageReference>() else { return };
        for part in [&image.registry, &image.path] {
            assert!(!part.is_empty() && !part.starts_with('-'), "{image:?}");
            assert!(!part.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\'), "{image:?}");
            assert!(!part.split('/').any(|piece| piece == ".."), "{image:?}");
        }
    });
}

#[test]
fn registry_challenges() {
    let known =
        ["Bearer realm=\"https://a.example/token\",service=\"r\",scope=\"repository:x:pull\"", "Basic realm=\"x\""];
    run("registry-challenge", &seeds(&known), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Some(Challenge::Bearer { realm, service, scope }) = Challenge::parse(&text) {
            let text =
                form(&[("service", service.as_deref().unwrap_or("")), ("scope", scope.as_deref().unwrap_or(""))]);
            assert!(text.is_ascii() && !text.contains(char::is_whitespace));
            drop(realm);
        }
    });
}
