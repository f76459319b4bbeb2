#![allow(clippy::unwrap_used)]
use super::*;

fn stack(texts: &[&str]) -> Result<Stack, ComposeError> {
    let files = texts.iter().enumerate();
    Stack::parse(files.map(|(index, text)| (PathBuf::from(format!("dir/{index}.yml")), (*text).to_owned())).collect())
}

/// One line a service: name, place, image, where it is built, whether it is optional.
fn shown(stack: &Stack) -> String {
    let line = |(name, service): (&ServiceName, &Service)| {
        let image = service.image.as_ref().map_or("-".to_owned(), |(image, place)| format!("{image} at {place}"));
        let build = service.build.as_ref().map_or(String::new(), |place| format!(", built at {place}"));
        let optional = if service.optional { ", optional" } else { "" };
        format!("{name} {}: {image}{build}{optional}\n", service.place)
    };
    stack.services.iter().map(line).collect()
}

#[test]
fn services_and_their_images_with_places() {
    let text = "\
x-common: &common
  restart: always
services:
  app:
    <<: *common
    image: ${APP_IMAGE:?set it}
    ports: !reset []
  db: {image: 'postgres:15', environment: {A: 012}}
  web:
    build: .
  debug:
    image: busybox
    profiles: [tools]
  migrate:
    image: shop
    profiles: [tools]
    x-landfall: {role: migrate}
  empty:
volumes: {data: {}}
";
    let expect = "\
app dir/0.yml:5: ${APP_IMAGE:?set it} at dir/0.yml:6
db dir/0.yml:8: postgres:15 at dir/0.yml:8
debug dir/0.yml:12: busybox at dir/0.yml:12, optional
empty dir/0.yml:18: -
migrate dir/0.yml:15: shop at dir/0.yml:15
web dir/0.yml:10: -, built at dir/0.yml:10
";
    assert_eq!(shown(&stack(&[text]).unwrap()), expect);
}

#[test]
fn later_files_override_earlier_ones() {
    let found = stack(&["services: {app: {build: .}}", "services: {app: {image: shop}, db: {image: d}}"]).unwrap();
    let expect = "app dir/0.yml:1: shop at dir/1.yml:1, built at dir/0.yml:1\ndb dir/1.yml:1: d at dir/1.yml:1\n";
    assert_eq!(shown(&found), expect);
    let names: Vec<String> = found.bundle().unwrap().compose.into_iter().map(|file| file.name).collect();
    assert_eq!(names, ["0.yml", "1.yml"]);
}

#[test]
fn what_cannot_be_used_is_said_with_its_place() {
    for (text, expect) in [
        ("services: {}", "define no service"),
        ("", "define no service"),
        ("services:\n  app:\n  - image", "dir/0.yml does not parse"),
        ("services: {app: {image: a}", "dir/0.yml does not parse"),
        ("services:\n  a/b: {image: a}", "dir/0.yml:2: the service's name cannot be used"),
        ("include: [other.yml]\nservices: {app: {image: a}}", "dir/0.yml:1: `include` names another file"),
        ("services:\n  app:\n    extends: {file: o.yml, service: a}", "dir/0.yml:3: `extends.file` names another file"),
    ] {
        let error = stack(&[text]).unwrap_err().to_string();
        assert!(error.contains(expect), "{text}: {error}");
    }
    assert!(stack(&["services: {app: {image: a}, b: {extends: {service: app}}, c: {extends: app}}"]).is_ok());
}
