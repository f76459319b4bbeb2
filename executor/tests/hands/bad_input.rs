//! What is refused, and how it is told: before anything that runs is touched.

use std::collections::BTreeMap;

use landfall_deploy::Effect;
use landfall_schema::ids::Digest;
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::promotion::PinnedImage;

use crate::lab::{App, Release, free_port, image, registry, required};

fn nowhere() -> PinnedImage {
    PinnedImage { repository: format!("{}/nothing", registry()), digest: Digest::of(b"nothing"), tag: None }
}

async fn observe(app: &mut App, compose: &str, services: &[&str]) -> Reason {
    let image = nowhere();
    let images: Vec<(&str, &PinnedImage)> = services.iter().map(|name| (*name, &image)).collect();
    let order = app.order(&Release::new(compose, &images));
    app.observe(&order).await.unwrap_err()
}

#[tokio::test]
async fn stacks_that_cannot_work() {
    let mut app = App::new();
    for (compose, services, code, says) in [
        ("services: {app: {image: [}}", &["app"][..], ReasonCode::ComposeInvalid, "not valid"),
        ("services: {app: {imagee: x}}", &["app"], ReasonCode::ComposeInvalid, "imagee"),
        ("services: {app: {image: x, depends_on: [db]}}", &["app"], ReasonCode::ComposeInvalid, "db"),
        (
            "services: {app: {image: x, depends_on: [db]}, db: {image: x, profiles: [p]}}",
            &["app"],
            ReasonCode::ComposeInvalid,
            "profile",
        ),
        ("services: {app: {image: x}}", &["app", "web"], ReasonCode::ServiceUnknown, "service web"),
        ("services: {app: {image: x}, web: {image: x}}", &["app"], ReasonCode::ImageMissing, "service web"),
        ("services: {app: {build: .}}", &[], ReasonCode::ImageMissing, "only built"),
        ("services: {app: {image: x, env_file: none.env}}", &["app"], ReasonCode::EnvFileMissing, "none.env"),
        (
            "services: {app: {image: x, environment: {P: '${DB_PASSWORD}'}}}",
            &["app"],
            ReasonCode::EnvFileMissing,
            "DB_PASSWORD",
        ),
        (
            "services: {app: {image: x, environment: {P: '${P:?set it}'}}}",
            &["app"],
            ReasonCode::EnvFileMissing,
            "required variable P",
        ),
        (
            "services: {app: {image: x, x-landfall: {redy: {}}}}",
            &["app"],
            ReasonCode::SettingsInvalid,
            "service app: unknown field `redy`",
        ),
        (
            "x-landfall: {smoke: [{}]}\nservices: {app: {image: x}}",
            &["app"],
            ReasonCode::SettingsInvalid,
            "smoke test 1",
        ),
        ("services: {app: {image: x, privileged: true}}", &["app"], ReasonCode::PolicyViolation, "privileged"),
        (
            "services: {app: {image: x, volumes: ['/var/run/docker.sock:/s']}}",
            &["app"],
            ReasonCode::PolicyViolation,
            "socket",
        ),
        (
            "services: {app: {image: x, volumes: ['/:/host:ro']}}",
            &["app"],
            ReasonCode::PolicyViolation,
            "root file system",
        ),
        ("services: {app: {image: x, network_mode: host}}", &["app"], ReasonCode::PolicyViolation, "network"),
    ] {
        let reason = observe(&mut app, compose, services).await;
        assert_eq!(reason.code, code, "{compose}: {reason:?}");
        assert!(reason.message.contains(says), "{compose}: {reason:?}");
    }
    assert!(app.containers().is_empty());
}

#[tokio::test]
async fn a_plain_image_variable_needs_no_env_file() {
    let mut app = App::new();
    let image = nowhere();
    let order = app.order(&Release::new("services: {app: {image: '${APP_IMAGE}'}}", &[("app", &image)]));
    app.observe(&order).await.unwrap();
}

#[tokio::test]
async fn variables_and_registries_that_are_not_allowed() {
    let mut app = App::new();
    let image = nowhere();
    let mut release = Release::new("services: {app: {image: x}}", &[("app", &image)]);
    release.variables = BTreeMap::from([("DOCKER_HOST".to_owned(), "tcp://evil".to_owned())]);
    let order = app.order(&release);
    assert_eq!(app.observe(&order).await.unwrap_err().code, ReasonCode::PolicyViolation);

    app.config.allowed_registries = vec!["ghcr.io/acme".to_owned()];
    app.restart();
    let reason = observe(&mut app, "services: {app: {image: x}}", &["app"]).await;
    assert_eq!(reason.code, ReasonCode::PolicyViolation);
    assert!(reason.hint.unwrap().contains("ghcr.io/acme"));
}

async fn pull(app: &mut App, image: &PinnedImage) -> Reason {
    let order = app.order(&Release::new("services: {app: {image: x}}", &[("app", image)]));
    app.observe(&order).await.unwrap();
    app.carry_out(Effect::Pull, &order).await.unwrap_err()
}

#[tokio::test]
async fn images_that_cannot_be_pulled() {
    let mut app = App::new();
    let reason = pull(&mut app, &nowhere()).await;
    assert_eq!(reason.code, ReasonCode::ImageNotFound, "{reason:?}");
    let denied = PinnedImage { repository: format!("{}/private", required("LANDFALL_LAB_REGISTRY_AUTH")), ..nowhere() };
    let reason = pull(&mut app, &denied).await;
    assert_eq!(reason.code, ReasonCode::RegistryDenied, "{reason:?}");
    let down = PinnedImage { repository: format!("127.0.0.1:{}/x", free_port()), ..nowhere() };
    let reason = pull(&mut app, &down).await;
    assert_eq!(reason.code, ReasonCode::RegistryUnreachable, "{reason:?}");
    app.config.min_free_bytes = u64::MAX;
    app.restart();
    let reason = pull(&mut app, &nowhere()).await;
    assert_eq!(reason.code, ReasonCode::DiskFull, "{reason:?}");
}

#[tokio::test]
async fn a_port_that_is_taken() {
    let mut app = App::new();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let image = image("port", &[]);
    let compose = format!("services: {{app: {{image: x, init: true, ports: ['127.0.0.1:{port}:80']}}}}");
    let order = app.order(&Release::new(&compose, &[("app", &image)]));
    app.observe(&order).await.unwrap();
    app.carry_out(Effect::Pull, &order).await.unwrap();
    let reason = app.carry_out(Effect::Update, &order).await.unwrap_err();
    assert_eq!(reason.code, ReasonCode::PortTaken, "{reason:?}");
    assert!(reason.message.contains(&port.to_string()), "{reason:?}");
    app.carry_out(Effect::Restore, &order).await.unwrap();
    assert!(app.containers().is_empty());
}

#[tokio::test]
async fn an_engine_that_does_not_answer() {
    let mut app = App::new();
    let folder = tempfile::tempdir().unwrap();
    app.config.docker = Some(format!("unix://{}/none.sock", folder.path().display()));
    app.restart();
    let reason = observe(&mut app, "services: {app: {image: x}}", &["app"]).await;
    assert_eq!(reason.code, ReasonCode::EngineUnreachable, "{reason:?}");

    // One that takes connections and says nothing.
    let socket = folder.path().join("silent.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    app.config.docker = Some(format!("unix://{}", socket.display()));
    app.restart();
    let reason = observe(&mut app, "services: {app: {image: x}}", &["app"]).await;
    assert_eq!(reason.code, ReasonCode::EngineUnreachable, "{reason:?}");
}
