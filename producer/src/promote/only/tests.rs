#![allow(clippy::unwrap_used)]
use super::*;
use crate::fixtures::{promoted, said};

fn image(name: &str) -> PinnedImage {
    let digest = landfall_schema::ids::Digest::of(name.as_bytes());
    PinnedImage { repository: name.to_owned(), digest, tag: None }
}

fn by_service(names: &str) -> BTreeMap<ServiceName, PinnedImage> {
    names
        .split_whitespace()
        .map(|word| word.split_once('=').unwrap())
        .map(|(service, name)| (service.parse().unwrap(), image(name)))
        .collect()
}

fn combined(pinned: &str, base: &str) -> Result<BTreeMap<ServiceName, PinnedImage>, CliError> {
    let text = "services:\n  api: {image: a}\n  web: {image: w}\n  tool: {image: t, profiles: [tools]}\n";
    let stack = Stack::parse(vec![("compose.yml".into(), text.to_owned())]).unwrap();
    let pinned = by_service(pinned);
    let only = pinned.keys().cloned().collect();
    let mut promotion = promoted(1, 1, &["host-a"]).event.data;
    promotion.images = by_service(base);
    images(&stack, &only, pinned, &promotion)
}

#[test]
fn the_others_keep_their_images() {
    assert_eq!(combined("web=w2", "api=a1 web=w1 gone=g1").unwrap(), by_service("api=a1 web=w2"));
    assert_eq!(combined("web=w2", "api=a1 tool=t1").unwrap(), by_service("api=a1 tool=t1 web=w2"));
    let error = combined("web=w2", "web=w1").unwrap_err().to_string();
    assert!(error.contains("no image for api") && error.contains("--only web,api"), "{error}");
}

#[test]
fn what_the_others_stay_at() {
    let past = |outcomes: &[&str]| {
        let mut past: Vec<Past> =
            (1..=3).map(|counter| Past::new(&promoted(1, counter, &["host-a", "host-b"]).event)).collect();
        for words in outcomes {
            let outcome = said(5, words).event.data;
            past.iter_mut().for_each(|one| one.fold(&outcome));
        }
        newest(&past).map(|one| one.counter().0)
    };
    let both = |counter, end| [format!("host-a {counter} deploy.{end}"), format!("host-b {counter} deploy.{end}")];
    let [a1, b1] = both(1, "succeeded");
    let [a3, b3] = both(3, "rolled_back");
    assert_eq!(past(&[&a1, &b1, "host-a 2 deploy.succeeded", "host-b 2 deploy.failed", &a3, &b3]), Some(1));
    assert_eq!(past(&["host-a 2 deploy.succeeded", "host-b 2 deploy.failed", &a3, &b3]), Some(2));
    assert_eq!(past(&[&a3, &b3]), None);
}
