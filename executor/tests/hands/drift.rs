//! What somebody does to a committed stack by hand is seen, and put back.

use std::time::Duration;

use landfall_deploy::Evidence;
use landfall_executor::hands::Drift;
use tokio::time::Instant;

use crate::lab::{App, Release, docker, image};

const STACK: &str = "services:
  app: {image: x, init: true, command: [sleep, '1000'], stop_grace_period: 0s}
  many: {image: x, init: true, command: [sleep, '1000'], deploy: {replicas: 2}}
  busy: {image: x, init: true, command: [sleep, '1000'], restart: always}
";
const EVENT_LIMIT: Duration = Duration::from_secs(10);

async fn told(app: &App) -> Vec<String> {
    let drifts = app.hands.drifted(app.newest()).await.unwrap();
    drifts.iter().map(|drift| format!("{}: {}", drift.service, drift.what)).collect()
}

async fn put_back(app: &App) -> Vec<String> {
    let drifts: Vec<Drift> = app.hands.drifted(app.newest()).await.unwrap();
    let evidence = app.hands.put_back(app.newest(), &drifts, Instant::now() + Duration::from_secs(30)).await.unwrap();
    assert!(matches!(&evidence, Evidence::Running { services, .. } if services.len() == 3), "{evidence:?}");
    told(app).await
}

#[tokio::test]
async fn every_kind_of_drift_is_seen_and_put_back() {
    let mut app = App::new();
    let (image, other) = (image("drift", &[]), crate::lab::image("drift", &[]));
    app.deploy(&Release::new(STACK, &["app", "many", "busy"].map(|name| (name, &image)))).await;
    assert!(told(&app).await.is_empty());
    let untouched = app.id("busy");

    docker(&["stop", &app.id("app")]);
    let seen = told(&app).await;
    assert!(seen.len() == 1 && seen[0].starts_with("app: its container was stopped, or ended, with code "), "{seen:?}");
    assert!(put_back(&app).await.is_empty());

    docker(&["rm", "--force", &app.id("app")]);
    assert_eq!(told(&app).await, ["app: its container was removed"]);
    assert!(put_back(&app).await.is_empty());

    docker(&["rm", "--force", &format!("{}-many-2", app.project)]);
    assert_eq!(told(&app).await, ["many: 1 of its 2 containers were removed"]);
    assert!(put_back(&app).await.is_empty());

    docker(&["pause", &app.id("app")]);
    assert_eq!(told(&app).await, ["app: its container was paused"]);
    assert!(put_back(&app).await.is_empty());

    // The same name and labels, another image.
    docker(&["rm", "--force", &app.id("app")]);
    docker(&["pull", "--quiet", &other.reference()]);
    let name = format!("{}-app-1", app.project);
    let labels = [format!("com.docker.compose.project={}", app.project), "com.docker.compose.service=app".to_owned()];
    let oneoff = "com.docker.compose.oneoff=False";
    let number = "com.docker.compose.container-number=1";
    docker(&[
        "run",
        "--detach",
        "--init",
        "--name",
        &name,
        "--label",
        &labels[0],
        "--label",
        &labels[1],
        "--label",
        oneoff,
        "--label",
        number,
        &other.reference(),
        "sleep",
        "1000",
    ]);
    let seen = told(&app).await;
    assert!(seen.len() == 1 && seen[0].starts_with("app: its container was replaced by one of the image"), "{seen:?}");
    assert!(put_back(&app).await.is_empty());

    // A restart by the policy is no drift, and what had not drifted was never touched.
    assert_eq!(app.id("busy"), untouched);
    docker(&["restart", "--time", "0", &app.id("busy")]);
    assert!(told(&app).await.is_empty());
    app.restart();
    assert!(told(&app).await.is_empty(), "also after a restart of the executor");
}

#[tokio::test]
async fn events_of_the_engine_wake_the_watch() {
    let mut app = App::new();
    let image = image("drift", &[]);
    app.deploy(&Release::new(STACK, &["app", "many", "busy"].map(|name| (name, &image)))).await;
    let mut changes = app.hands.changes();
    // The first tick says that the engine is listened to.
    tokio::time::timeout(EVENT_LIMIT, changes.changed()).await.unwrap().unwrap();
    let id = app.id("app");
    // The subscription is made beside this; until it is, a container is killed and started again.
    let until = Instant::now() + EVENT_LIMIT;
    while tokio::time::timeout(Duration::from_millis(300), changes.changed()).await.is_err() {
        assert!(Instant::now() < until, "no event came");
        docker(&["kill", &id]);
        docker(&["start", &id]);
    }
}
