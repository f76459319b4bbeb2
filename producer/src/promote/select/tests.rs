#![allow(clippy::unwrap_used)]
use std::path::PathBuf;

use super::*;

/// Compose file, `--image` arguments and environment in; one line a service, or the error with its hint.
fn check(compose: &str, images: &[&str], environment: &[(&str, &str)], expect: &str) {
    let stack = Stack::parse(vec![(PathBuf::from("c.yml"), compose.to_owned())]).unwrap();
    let args: Vec<ImageArg> = images.iter().map(|text| parse_image_arg(text).unwrap()).collect();
    let lookup =
        |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let shown = match select(&stack, &args, &BTreeSet::new(), &lookup) {
        Ok(selection) => {
            let line = |(name, found): (&ServiceName, &Selected)| {
                let variable = found.variable.as_ref().map_or(String::new(), |variable| format!(" <- {variable}"));
                format!("{name} {}{variable}", found.image)
            };
            let mut lines: Vec<String> = selection.services.iter().map(line).collect();
            lines.extend(selection.variables.iter().map(|(name, value)| format!("{name}={value}")));
            lines.join("\n")
        }
        Err(error) => CliError::from(error).to_string(),
    };
    assert_eq!(shown, expect, "{compose} {images:?}");
}

const TWO: &str = "services: {app: {image: '${APP_IMAGE}'}, db: {image: 'r.example/pg:15'}}";

#[test]
fn images_from_arguments_environment_and_file() {
    check(TWO, &["app=r.example/shop:v1"], &[], "app r.example/shop:v1 <- APP_IMAGE\ndb r.example/pg:15");
    check(TWO, &["r.example/shop:v1"], &[], "app r.example/shop:v1 <- APP_IMAGE\ndb r.example/pg:15");
    let expect = "app r.example/shop:v2 <- APP_IMAGE\ndb r.example/pg:15\nAPP_IMAGE=r.example/shop:v2";
    check(TWO, &[], &[("APP_IMAGE", "r.example/shop:v2")], expect);
    let tag = "services: {app: {image: 'r.example/shop:${TAG:-v0}'}}";
    check(tag, &[], &[("TAG", "v3")], "app r.example/shop:v3\nTAG=v3");
    check(tag, &[], &[], "app r.example/shop:v0");
    let shared = "services: {app: {image: $I}, worker: {image: $I}, db: {image: 'r.example/pg:15'}}";
    let expect = "app r.example/shop:v1 <- I\ndb r.example/pg:15\nworker r.example/shop:v1 <- I";
    check(shared, &["r.example/shop:v1"], &[], expect);
    check("services: {app: {build: .}}", &["r.example/shop:v1"], &[], "app r.example/shop:v1");
    let optional = "services: {app: {image: 'r.example/a:1'}, tool: {build: ., profiles: [x]}}";
    check(optional, &[], &[], "app r.example/a:1");
}

#[test]
fn what_is_missing_is_said_with_a_way_out() {
    let unset = "c.yml:1: the image of service app cannot be filled in\n  because: the variable APP_IMAGE is not set\n\
        hint: set APP_IMAGE in the environment, or use `--var APP_IMAGE=VALUE` or `--image app=REFERENCE`";
    check(TWO, &[], &[], unset);
    let unknown = "--image names the service web, which the compose files do not have\nhint: services are app, db";
    check(TWO, &["web=r.example/shop:v1"], &[], unknown);
    let built = "c.yml:3: service app is only built, it names no image\nhint: hosts never build: push the image from CI, \
        then add `image: ${APP_IMAGE}` or use `--image app=REFERENCE`";
    check("services:\n  app:\n    build: .", &[], &[], built);
    let twice = "--image is given twice for app\nhint: one image a service";
    check(TWO, &["app=r.example/a:1", "app=r.example/b:1"], &[], twice);
    let which = "--image r.example/c:1 does not say for which service\n\
        hint: write `--image SERVICE=r.example/c:1`; services are a, b";
    check("services: {a: {image: 'r.example/a:1'}, b: {image: 'r.example/b:1'}}", &["r.example/c:1"], &[], which);
    let bad = "c.yml:1: the image of service app is not usable\n  because: \"A B\" is not an image reference: \
        the repository's name must be lower-case\nhint: use `--image app=REFERENCE`";
    check("services: {app: {image: A B}}", &[], &[], bad);
}

#[test]
fn image_arguments() {
    assert_eq!(parse_image_arg("app=shop").unwrap().service.unwrap().as_str(), "app");
    assert_eq!(parse_image_arg("r.example/shop").unwrap().service, None);
    assert!(parse_image_arg("a/b=shop").unwrap_err().contains("service name"));
    assert!(parse_image_arg("app=").unwrap_err().contains("empty"));
}
