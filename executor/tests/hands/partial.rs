//! Promotions of some services only.

use landfall_deploy::{Effect, Evidence};
use landfall_schema::outcome::ReasonCode;

use crate::lab::{App, Release, docker, image};

/// Settings of every service can be changed by the text that stands for them.
fn compose(web: &str, others: &str) -> String {
    format!(
        "services:
  web: {{image: x, init: true, command: {web}, depends_on: [api]}}
  api: {{image: x, init: true, command: [sleep, '{others}'], depends_on: [db]}}
  db: {{image: x, init: true, command: [sleep, '{others}']}}
"
    )
}

const SLEEPS: &str = "[sleep, '1000']";

#[tokio::test]
async fn only_the_named_services_are_touched() {
    let mut app = App::new();
    let (one, two) = (image("partial", &[]), image("partial", &[]));
    app.deploy(&Release::new(&compose(SLEEPS, "1000"), &[("web", &one), ("api", &one), ("db", &one)])).await;
    let before = ["web", "api", "db"].map(|service| app.id(service));

    // The others' settings differ in the new compose file too.
    let mut release = Release::new(&compose(SLEEPS, "2000"), &[("web", &two), ("api", &one), ("db", &one)]);
    release.only = ["web".parse().unwrap()].into();
    let order = app.order(&release);
    app.observe(&order).await.unwrap();
    app.carry_out(Effect::Pull, &order).await.unwrap();
    let updated = app.carry_out(Effect::Update, &order).await.unwrap();
    assert_eq!(updated, Evidence::Updated { changed: vec!["web".to_owned()] });
    let running = app.running(Effect::Prove, &order).await;
    let expect = [("api", &one), ("db", &one), ("web", &two)];
    assert_eq!(running, expect.map(|(name, image)| (name.parse().unwrap(), image.digest.clone())).into());
    let after = ["web", "api", "db"].map(|service| app.id(service));
    assert!(after[0] != before[0] && after[1..] == before[1..], "{before:?} {after:?}");

    // The way back, after a restart, touches the same and no other.
    app.restart();
    app.carry_out(Effect::Restore, &order).await.unwrap();
    let running = app.running(Effect::ProveFormer, &order).await;
    assert!(running.len() == 3 && running.values().all(|digest| *digest == one.digest));
    let back = ["web", "api", "db"].map(|service| app.id(service));
    assert!(back[0] != after[0] && back[1..] == before[1..], "{before:?} {back:?}");
}

#[tokio::test]
async fn a_new_service_comes_alone_and_goes_alone() {
    let mut app = App::new();
    let (one, two) = (image("partial", &[]), image("partial", &[]));
    app.deploy(&Release::new(&compose(SLEEPS, "1000"), &[("web", &one), ("api", &one), ("db", &one)])).await;
    let before = ["web", "api", "db"].map(|service| app.id(service));
    let more = format!("{}  extra: {{image: x, init: true, command: ['false']}}\n", compose(SLEEPS, "1000"));
    let mut release = Release::new(&more, &[("web", &one), ("api", &one), ("db", &one), ("extra", &two)]);
    release.only = ["extra".parse().unwrap()].into();
    let order = app.order(&release);
    app.observe(&order).await.unwrap();
    app.carry_out(Effect::Pull, &order).await.unwrap();
    app.carry_out(Effect::Update, &order).await.unwrap();
    assert_eq!(app.carry_out(Effect::Prove, &order).await.unwrap_err().code, ReasonCode::ContainerExited);
    app.carry_out(Effect::Restore, &order).await.unwrap();
    app.carry_out(Effect::ProveFormer, &order).await.unwrap();
    assert_eq!(app.containers(), ["api running", "db running", "web running"]);
    assert_eq!(["web", "api", "db"].map(|service| app.id(service)), before);
}

#[tokio::test]
async fn a_host_that_runs_something_else_takes_all_of_it() {
    let mut app = App::new();
    let (one, two) = (image("partial", &[]), image("partial", &[]));
    app.deploy(&Release::new(&compose(SLEEPS, "1000"), &[("web", &one), ("api", &one), ("db", &one)])).await;
    // It missed the release that changed `api`.
    let mut release = Release::new(&compose(SLEEPS, "1000"), &[("web", &two), ("api", &two), ("db", &one)]);
    release.only = ["web".parse().unwrap()].into();
    let order = app.order(&release);
    app.observe(&order).await.unwrap();
    app.carry_out(Effect::Pull, &order).await.unwrap();
    let updated = app.carry_out(Effect::Update, &order).await.unwrap();
    assert_eq!(updated, Evidence::Updated { changed: vec!["api".to_owned(), "web".to_owned()] });
    app.running(Effect::Prove, &order).await;
    app.commit(&order).await;

    // Somebody stopped a service that the next promotion leaves alone: it has to run again.
    docker(&["stop", "--time", "0", &app.id("db")]);
    let mut release = Release::new(&compose(SLEEPS, "1000"), &[("web", &one), ("api", &two), ("db", &one)]);
    release.only = ["web".parse().unwrap()].into();
    let order = app.order(&release);
    app.observe(&order).await.unwrap();
    app.carry_out(Effect::Update, &order).await.unwrap();
    assert_eq!(app.running(Effect::Prove, &order).await.len(), 3);

    release.only = ["nothing".parse().unwrap()].into();
    let order = app.order(&release);
    assert_eq!(app.observe(&order).await.unwrap_err().code, ReasonCode::ServiceUnknown);
}
