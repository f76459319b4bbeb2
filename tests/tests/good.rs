//! Deploys that go well.

use std::collections::BTreeMap;

use anyhow::Result;
use landfall_schema::event::TYPE_PRESENCE;
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::presence::Presence;
use landfall_schema::signature::{PublicKey, verify};
use landfall_tests::image::AppImage;
use landfall_tests::lab::Lab;
use landfall_tests::nats::NatsServer;
use landfall_tests::promotion::Draft;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;

#[tokio::test]
async fn a_first_deploy_serves_the_promised_digest() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let v1 = scenario.push("v1", AppImage::version("v1")).await?;
    let outcome = scenario.succeed(&Stack::app(&v1)).await?;
    scenario.assert_runs(&v1, "v1").await?;
    assert_eq!(outcome.running.values().collect::<Vec<_>>(), [&v1.digest]);
    assert!(outcome.duration_ms.is_some() && outcome.timings_ms.contains_key("image"), "{outcome:#?}");
    let steps = scenario.outcomes.kinds("host-a", 1);
    let expected = [
        OutcomeKind::ReleaseAccepted,
        OutcomeKind::ReleaseVerified,
        OutcomeKind::ImagePulled,
        OutcomeKind::StackUpdating,
        OutcomeKind::StackUpdated,
        OutcomeKind::ReadinessProbing,
        OutcomeKind::ReadinessHealthy,
        OutcomeKind::ReleaseCommitted,
        OutcomeKind::DeploySucceeded,
    ];
    let told: Vec<OutcomeKind> = steps.into_iter().filter(|&kind| kind != OutcomeKind::ImagePulling).collect();
    assert_eq!(told, expected);
    Ok(())
}

#[tokio::test]
async fn every_outcome_is_signed_by_its_host_and_follows_the_schema() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    scenario.deploy_v1().await?;
    let bad = scenario.push("v2", AppImage::version("v2").exits(1)).await?;
    scenario.deploy(&Stack::app(&bad)).await?;
    let beat = scenario.bus.presence(&scenario.env).await?.remove(0);
    let presence = landfall_schema::event::CloudEvent::<Presence>::decode(&beat.body, TYPE_PRESENCE)?;
    let key = [PublicKey::new(presence.data.key)?];
    verify(&beat.body, beat.signature.as_deref(), &key)?;
    let schema = landfall_schema::json_schema::files().into_iter().find(|file| file.name == "outcome.v1.json").unwrap();
    let validator = jsonschema::validator_for(&schema.schema)?;
    assert!(scenario.outcomes.seen().len() > 10);
    for published in scenario.outcomes.seen() {
        verify(&published.message.body, published.message.signature.as_deref(), &key)?;
        let event = serde_json::from_slice(&published.message.body)?;
        if let Err(error) = validator.validate(&event) {
            panic!("{error}: {event:#}");
        }
        assert_eq!(published.data.kind.is_failure(), published.data.reason.is_some(), "{event:#}");
    }
    Ok(())
}

#[tokio::test]
async fn a_second_release_replaces_the_first() -> Result<()> {
    let mut scenario = Scenario::with_v1().await?;
    let v2 = scenario.push("v2", AppImage::version("v2").ignores_term()).await?;
    scenario.succeed(&Stack::app(&v2)).await?;
    scenario.assert_runs(&v2, "v2").await?;
    let v3 = scenario.push("v3", AppImage::version("v3")).await?;
    scenario.succeed(&Stack::app(&v3)).await?;
    scenario.assert_runs(&v3, "v3").await?;
    let project = scenario.host().project.clone();
    assert_eq!(scenario.engine.containers(&project)?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn the_same_release_again_changes_nothing_and_succeeds() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let v1 = scenario.push("v1", AppImage::version("v1")).await?;
    scenario.succeed(&Stack::app(&v1)).await?;
    let container = scenario.container()?;
    scenario.succeed(&Stack::app(&v1)).await?;
    assert_eq!(scenario.container()?, container);
    Ok(())
}

#[tokio::test]
async fn a_plain_compose_file_that_knows_nothing_of_landfall() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let v1 = scenario.push("v1", AppImage::version("v1")).await?;
    let text = "services:\n  app:\n    image: ${APP_IMAGE}\n    ports: [\"127.0.0.1:${HTTP_PORT}:8080\"]\n    stop_grace_period: 1s\n";
    let mut draft = scenario.draft(&Stack::raw(text, &[("app", &v1)]))?;
    draft.event.data.variables = BTreeMap::from([("APP_IMAGE".to_owned(), v1.reference())]);
    scenario.publish(&draft).await?;
    let outcome = scenario.terminal(0, 1).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    scenario.assert_runs(&v1, "v1").await
}

#[tokio::test]
async fn several_services_with_dependencies_profiles_and_build_beside_image() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let v1 = scenario.push("v1", AppImage::version("v1")).await?;
    let worker = scenario.push("worker", AppImage::version("w").script("exec sleep 1000000")).await?;
    let quick = "init: true\nstop_grace_period: 1s";
    let stack = Stack::app(&v1)
        .app_lines("depends_on: [queue]\nbuild: .\ncontainer_name: ${COMPOSE_PROJECT_NAME}-the-app")
        .service("queue", &worker, quick, "")
        .service("worker", &worker, &format!("{quick}\ndeploy: {{replicas: 2}}"), "")
        .service("seed", &worker, &format!("{quick}\nprofiles: [seed]"), "");
    let outcome = scenario.succeed(&stack).await?;
    assert_eq!(outcome.running.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["app", "queue", "worker"]);
    let project = scenario.host().project.clone();
    assert_eq!(scenario.engine.containers(&project)?.len(), 4);
    scenario.assert_runs(&v1, "v1").await
}

#[tokio::test]
async fn health_checks_tcp_probes_and_smoke_tests_pass() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let v1 = scenario.push("v1", AppImage::version("v1")).await?;
    let smoke = "smoke:\n  - http: {url: \"http://127.0.0.1:${HTTP_PORT}/\", expect: {status: 200, body: v1}}\n  - run: {service: check}";
    let check = "init: true\ncommand: [wget, -q, -O, \"-\", \"http://app:8080/ready\"]";
    let stack = Stack::app_with(&v1, "ready: {tcp: {port: 8080}, interval_ms: 50}")
        .app_lines("healthcheck: {test: [CMD, test, -e, /www/ready], interval: 100ms, timeout: 1s, retries: 20}")
        .service("check", &v1, check, "role: smoke")
        .settings(smoke)
        .settings("bake_ms: 200");
    scenario.succeed(&stack).await?;
    let kinds = scenario.outcomes.kinds("host-a", 1);
    for kind in [OutcomeKind::SmokePassed, OutcomeKind::BakePassed] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    scenario.assert_serves("v1").await?;
    let project = scenario.host().project.clone();
    assert_eq!(scenario.engine.containers(&project)?.len(), 1, "the smoke test's container is still there");
    Ok(())
}

#[tokio::test]
async fn two_hosts_deploy_at_the_same_time() -> Result<()> {
    let mut scenario = Scenario::without_hosts().await?;
    for name in ["host-a", "host-b"] {
        scenario.add_host(name, |_| {}).await?;
    }
    let v1 = scenario.push("v1", AppImage::version("v1")).await?;
    scenario.succeed(&Stack::app(&v1)).await?;
    scenario.assert_serves("v1").await?;
    let v2 = scenario.push("v2", AppImage::version("v2")).await?;
    scenario.succeed(&Stack::app(&v2)).await?;
    scenario.assert_serves("v2").await?;
    let (a, b) = (span(&scenario, "host-a", 2), span(&scenario, "host-b", 2));
    assert!(a.0 < b.1 && b.0 < a.1, "one host waited for the other: {a:?} {b:?}");

    let bad = scenario.push("v3", AppImage::version("v3").exits(1)).await?;
    let counter = scenario.promote(&Stack::app(&bad)).await?;
    for host in [0, 1] {
        assert_eq!(scenario.terminal(host, counter).await?.kind, OutcomeKind::DeployRolledBack);
    }
    scenario.assert_serves("v2").await
}

/// When the deploy began and ended, as sequences of the stream.
fn span(scenario: &Scenario, host: &str, counter: u64) -> (u64, u64) {
    let ours = |outcome: &Outcome| outcome.host.as_str() == host && outcome.counter.0 == counter;
    let mut sequences = scenario.outcomes.seen().iter().filter(|one| ours(&one.data)).map(|one| one.message.sequence);
    let first = sequences.next().unwrap();
    (first, sequences.next_back().unwrap())
}

#[tokio::test]
async fn a_host_that_joins_later_takes_the_newest_release() -> Result<()> {
    let mut scenario = Scenario::with_v1().await?;
    let v2 = scenario.push("v2", AppImage::version("v2")).await?;
    scenario.succeed(&Stack::app(&v2)).await?;
    scenario.add_host("host-b", |_| {}).await?;
    let outcome = scenario.terminal(1, 2).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    assert!(scenario.outcomes.kinds("host-b", 1).is_empty(), "it deployed a release of the past");
    scenario.assert_serves("v2").await
}

#[tokio::test]
async fn two_applications_of_one_host_deploy_at_the_same_time() -> Result<()> {
    let mut scenario = Scenario::without_hosts().await?;
    let other = scenario.folder().join("other");
    std::fs::create_dir_all(&other)?;
    let port = landfall_tests::names::free_port()?;
    std::fs::write(other.join(".env"), format!("HTTP_PORT={port}\n"))?;
    let project = landfall_tests::names::unique("landfall-test-other");
    let app = ("other".to_owned(), other, project.clone());
    scenario.add_host("host-a", |settings| settings.apps.push(app)).await?;
    let slow = "ready: {http: {port: 8080, path: /ready}, interval_ms: 50, passes: 20}";
    let v1 = scenario.push("v1", AppImage::version("v1")).await?;
    scenario.promote(&Stack::app_with(&v1, slow)).await?;
    scenario.reaches(0, 1, OutcomeKind::ReadinessProbing).await?;
    let hosts = vec![scenario.host().name.clone()];
    let name = landfall_schema::ids::AppName::new("other")?;
    let draft = Draft::of(&Stack::app(&v1), &scenario.env, &name, hosts, 7)?;
    scenario.publish(&draft).await?;
    let begun = scenario.reaches(0, 7, OutcomeKind::ReleaseAccepted).await?;
    assert!(!scenario.outcomes.kinds("host-a", 1).contains(&OutcomeKind::DeploySucceeded), "it waited: {begun:?}");
    let ended = [scenario.terminal(0, 7).await?, scenario.terminal(0, 1).await?];
    let served = landfall_tests::http::get(port, "/").await;
    scenario.engine.remove_project(&project)?;
    assert!(ended.iter().all(|outcome| outcome.kind == OutcomeKind::DeploySucceeded), "{ended:#?}");
    assert_eq!(served?, "v1");
    Ok(())
}

#[tokio::test]
async fn old_images_are_cleaned_up_and_the_last_three_are_kept() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let mut images = Vec::new();
    for number in 1..=6 {
        let version = format!("v{number}");
        let image = scenario.push(&version, AppImage::version(&version)).await?;
        scenario.succeed(&Stack::app(&image)).await?;
        images.push(image);
    }
    scenario.assert_serves("v6").await?;
    let here = scenario.engine.images(&images[0].repository)?;
    let kept: Vec<bool> = images.iter().map(|image| here.contains(&image.digest)).collect();
    assert_eq!(kept[..2], [false, false], "old images are still there");
    assert_eq!(kept[3..], [true, true, true], "recent images are gone");
    // Images of others were not touched.
    scenario.succeed(&Stack::app(&images[3])).await?;
    scenario.assert_serves("v4").await
}

#[tokio::test]
async fn a_newer_promotion_comes_before_one_that_has_touched_nothing() -> Result<()> {
    let mut scenario = Scenario::with_v1().await?;
    let directory = scenario.host().directory.clone();
    std::fs::create_dir_all(directory.join("data"))?;
    // The backup waits until it is told to go on, so that the newer promotion comes in the middle of it.
    let wait = "while [ ! -e /data/go ]; do sleep 0.05; done";
    let backup = scenario.push("backup", AppImage::version("b").script(wait)).await?;
    let migrator = scenario.push("migrator", AppImage::version("m").script("touch /data/migrated")).await?;
    let v2 = scenario.push("v2", AppImage::version("v2")).await?;
    let stack = Stack::app(&v2)
        .service("backup", &backup, "init: true\nstop_grace_period: 1s\nvolumes: [./data:/data]", "role: backup")
        .service("migrator", &migrator, "init: true\nvolumes: [./data:/data]", "role: migrate");
    let counter = scenario.promote(&stack).await?;
    scenario.reaches(0, counter, OutcomeKind::BackupStarted).await?;
    let v3 = scenario.push("v3", AppImage::version("v3")).await?;
    scenario.succeed(&Stack::app(&v3)).await?;
    let outcome = scenario.terminal(0, counter).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySuperseded, "{outcome:#?}");
    assert!(!directory.join("data/migrated").exists(), "the superseded release migrated");
    scenario.assert_runs(&v3, "v3").await
}

#[tokio::test]
async fn the_oldest_supported_server_will_do() -> Result<()> {
    let lab = Lab::from_env()?;
    let nats = NatsServer::start_floor(&lab).await?;
    let mut scenario = Scenario::on(lab, nats).await?;
    scenario.add_host("host-a", |_| {}).await?;
    scenario.deploy_v1().await?;
    let bad = scenario.push("v2", AppImage::version("v2").exits(1)).await?;
    assert_eq!(scenario.deploy(&Stack::app(&bad)).await?.kind, OutcomeKind::DeployRolledBack);
    scenario.assert_serves("v1").await
}

#[tokio::test]
async fn the_trace_of_the_promotion_goes_on_in_every_outcome() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let v1 = scenario.push("v1", AppImage::version("v1")).await?;
    let draft = scenario.draft(&Stack::app(&v1))?;
    draft.store_bundle(&scenario.bus).await?;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    scenario.bus.publish_promotion(&draft.event, &scenario.promoter, 0, Some(parent)).await?;
    assert_eq!(scenario.terminal(0, 1).await?.kind, OutcomeKind::DeploySucceeded);
    for published in scenario.outcomes.seen() {
        let trace = published.message.traceparent.as_deref().unwrap_or_default();
        assert!(trace.contains("4bf92f3577b34da6a3ce929d0e0e4736"), "{trace:?} of {}", published.data.kind);
    }
    Ok(())
}
