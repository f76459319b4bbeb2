//! Good releases: from nothing to the first, from one to the next, and what is kept.

use std::collections::BTreeMap;

use landfall_deploy::{Effect, Evidence};
use landfall_schema::outcome::ReasonCode;

use crate::lab::{App, Release, docker, free_port, image};

pub(crate) const WEB: &str = r#"
x-landfall:
  smoke:
    - http: {url: "http://127.0.0.1:${PORT}/", expect: {status: 200, body: "${SAYS}"}}
    - run: {service: checker, command: [sh, -c, "echo checking; test -f /www/index.html"]}
services:
  app:
    image: ${APP_IMAGE}
    init: true
    command: [httpd, -f, -p, "8080", -h, /www]
    ports: ["127.0.0.1:${PORT}:8080"]
    environment: {TOKEN: "${TOKEN:-}"}
    x-landfall: {ready: {http: {port: 8080}, interval_ms: 50}}
  worker:
    image: ${APP_IMAGE}
    init: true
    command: [sleep, "1000"]
    depends_on: [app]
  checker:
    image: anything:latest
    x-landfall: {role: smoke}
"#;

pub(crate) fn web(app: &App, says: &str, port: u16) -> (Release, landfall_schema::promotion::PinnedImage) {
    let image = image("web", &[("www/index.html", says)]);
    app.write(".env", "TOKEN=s3cret-token\n");
    let mut release = Release::new(WEB, &[("app", &image), ("worker", &image), ("checker", &image)]);
    release.variables = BTreeMap::from([("PORT".to_owned(), port.to_string()), ("SAYS".to_owned(), says.to_owned())]);
    (release, image)
}

#[tokio::test]
async fn a_first_release_and_the_next() {
    let mut app = App::new();
    let port = free_port();
    let (first, first_image) = web(&app, "one", port);
    let order = app.order(&first);
    let observed = app.observe(&order).await.unwrap();
    assert_eq!(observed.former, None);
    assert_eq!(observed.services, ["app", "worker"].map(|name| name.parse().unwrap()));
    assert_eq!((observed.has_backup, observed.has_migrations, observed.smoke_tests), (false, false, 2));

    let pulled = app.carry_out(Effect::Pull, &order).await.unwrap();
    assert!(matches!(pulled, Evidence::Pulled { images: 1, already_here: 0, .. }), "{pulled:?}");
    let last = app.told.last().unwrap();
    assert!(last.layers_total == 1 && last.layers_done == 1, "{last:?}");
    let pulled = app.carry_out(Effect::Pull, &order).await.unwrap();
    assert!(matches!(pulled, Evidence::Pulled { images: 1, already_here: 1, bytes: 0 }), "{pulled:?}");

    assert_eq!(
        app.carry_out(Effect::Update, &order).await.unwrap(),
        Evidence::Updated { changed: vec!["app".to_owned(), "worker".to_owned()] }
    );
    let services = app.running(Effect::Prove, &order).await;
    assert_eq!(services.len(), 2);
    assert!(services.values().all(|digest| *digest == first_image.digest));
    assert_eq!(app.carry_out(Effect::Smoke, &order).await.unwrap(), Evidence::Smoked { passed: 2 });
    app.commit(&order).await;
    assert_eq!(app.containers(), ["app running", "worker running"]);

    // The same again changes nothing, as after a crash.
    assert_eq!(app.carry_out(Effect::Update, &order).await.unwrap(), Evidence::Updated { changed: vec![] });

    app.restart();
    let (second, second_image) = web(&app, "two", port);
    let order = app.order(&second);
    let observed = app.observe(&order).await.unwrap();
    let former = observed.former.unwrap();
    assert_eq!(former.release, Some("v1".parse().unwrap()));
    assert_eq!(former.images.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["app", "worker"]);
    for effect in [Effect::Pull, Effect::Update] {
        app.carry_out(effect, &order).await.unwrap();
    }
    assert!(app.running(Effect::Prove, &order).await.values().all(|digest| *digest == second_image.digest));
    app.carry_out(Effect::Smoke, &order).await.unwrap();
    app.commit(&order).await;
}

#[tokio::test]
async fn old_releases_are_removed_and_good_ones_kept() {
    let mut app = App::new();
    let port = free_port();
    let mut images = Vec::new();
    let mut removed = Vec::new();
    for says in ["one", "two", "three"] {
        let (release, image) = web(&app, says, port);
        let order = app.order(&release);
        for effect in [Effect::Observe, Effect::Pull, Effect::Update, Effect::Prove] {
            app.carry_out(effect, &order).await.unwrap();
        }
        let Evidence::Committed { images_removed } = app.commit(&order).await else { panic!("not committed") };
        removed.push(images_removed);
        images.push(image);
    }
    // One release beside the running one is kept.
    assert_eq!(removed, [0, 0, 1]);
    let here = docker(&["images", "--digests", "--format", "{{.Digest}}"]);
    let here: Vec<bool> = images.iter().map(|image| here.contains(image.digest.as_str())).collect();
    assert_eq!(here, [false, true, true]);
    let folders = std::fs::read_dir(app.state_dir().join("stacks").join(&app.project)).unwrap();
    let mut folders: Vec<String> = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    assert_eq!(folders, ["2", "3", "lock"]);
    // A plain prune leaves what is kept.
    docker(&["image", "prune", "--force"]);
    assert!(docker(&["images", "--digests", "--format", "{{.Digest}}"]).contains(images[1].digest.as_str()));
}

#[tokio::test]
async fn an_image_that_another_project_uses_stays() {
    let mut app = App::new();
    let port = free_port();
    let (first, image) = web(&app, "one", port);
    app.deploy(&first).await;
    let other = docker(&["run", "--detach", "--init", &image.reference(), "sleep", "1000"]);
    for says in ["two", "three"] {
        let (release, _) = web(&app, says, port);
        app.deploy(&release).await;
    }
    let here = docker(&["images", "--digests", "--format", "{{.Digest}}"]);
    docker(&["rm", "--force", &other]);
    assert!(here.contains(image.digest.as_str()));
}

#[tokio::test]
async fn baking_passes_and_fails() {
    let mut app = App::new();
    let (mut release, _) = web(&app, "one", free_port());
    release.bake_ms = 300;
    let order = app.order(&release);
    for effect in [Effect::Observe, Effect::Pull, Effect::Update, Effect::Prove] {
        app.carry_out(effect, &order).await.unwrap();
    }
    assert_eq!(app.carry_out(Effect::Bake, &order).await.unwrap(), Evidence::Baked);

    release.bake_ms = 30_000;
    let order = app.order(&release);
    app.carry_out(Effect::Observe, &order).await.unwrap();
    let project = app.project.clone();
    // Whether the watch sees it run before or not, it ends with the same reason.
    let killer = std::thread::spawn(move || docker(&["kill", &format!("{project}-worker-1")]));
    let reason = app.carry_out(Effect::Bake, &order).await.unwrap_err();
    killer.join().unwrap();
    assert_eq!(reason.code, ReasonCode::ContainerExited);
    assert!(
        reason.message.contains("service worker") && reason.message.contains("while it was watched"),
        "{}",
        reason.message
    );
}

#[tokio::test]
async fn an_unknown_one_shot_runs_as_compose_does_it() {
    let compose = r#"
services:
  app: {image: "x", init: true, command: [sleep, "1000"], depends_on: {init: {condition: service_completed_successfully}}}
  init: {image: "x", command: [sh, -c, "echo prepared"], restart: "no"}
  seed: {image: "x", profiles: [tools]}
"#;
    let mut app = App::new();
    let image = image("job", &[]);
    let release = Release::new(compose, &[("app", &image), ("init", &image)]);
    let order = app.order(&release);
    assert_eq!(app.observe(&order).await.unwrap().services, ["app".parse().unwrap()]);
    for effect in [Effect::Pull, Effect::Update] {
        app.carry_out(effect, &order).await.unwrap();
    }
    let services = app.running(Effect::Prove, &order).await;
    assert_eq!(services.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["app"]);
    assert_eq!(app.containers(), ["app running", "init exited"]);
}

#[tokio::test]
async fn probes_reach_shared_networks_and_every_replica() {
    let compose = r#"
services:
  net: {image: x, init: true, command: [sleep, "1000"]}
  app:
    image: x
    init: true
    network_mode: "service:net"
    command: [httpd, -f, -p, "8080", -h, /www]
    x-landfall: {ready: {http: {port: 8080}, deadline_ms: 5000}}
  many:
    image: x
    init: true
    deploy: {replicas: 2}
    command: [httpd, -f, -p, "9000", -h, /www]
    x-landfall: {ready: {tcp: {port: 9000}, passes: 1}}
"#;
    let mut app = App::new();
    let image = image("shared", &[("www/index.html", "hello")]);
    let order = app.order(&Release::new(compose, &["app", "net", "many"].map(|name| (name, &image))));
    for effect in [Effect::Observe, Effect::Pull, Effect::Update] {
        app.carry_out(effect, &order).await.unwrap();
    }
    assert_eq!(app.running(Effect::Prove, &order).await.len(), 3);
    assert_eq!(app.containers(), ["app running", "many running", "many running", "net running"]);
}
