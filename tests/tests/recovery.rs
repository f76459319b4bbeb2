//! Executors that are killed, stopped and cut off in the middle: every promotion ends exactly once, and what serves is what was said.

use std::collections::BTreeMap;

use anyhow::Result;
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_tests::image::AppImage;
use landfall_tests::registry::PushedImage;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;

use crate::expect::Served;

/// Slow enough to be interrupted while it proves readiness.
const SLOW: &str = "ready: {http: {port: 8080, path: /ready}, interval_ms: 50, passes: 20, deadline_ms: 10000}";

/// Every promotion has one terminal outcome per host, and no event was published under two ids.
fn assert_told_once(scenario: &Scenario) {
    let mut terminal = BTreeMap::new();
    for published in scenario.outcomes.seen() {
        let Outcome { host, counter, kind, .. } = &published.data;
        if kind.is_terminal() {
            *terminal.entry((host.to_string(), counter.0)).or_insert(0) += 1;
        }
    }
    assert!(terminal.values().all(|&times| times == 1), "{terminal:?}");
}

async fn slow_v2(served: &mut Served) -> Result<(PushedImage, Stack)> {
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let stack = Stack::app_with(&v2, SLOW);
    Ok((v2, stack))
}

/// Kills the executor when it says `kind`, starts it again, and expects that the deploy ends well all the same.
async fn killed_at(kind: OutcomeKind) -> Result<()> {
    let mut served = Served::v1().await?;
    let directory = served.scenario.host().directory.clone();
    std::fs::create_dir_all(directory.join("data"))?;
    let (v2, stack) = slow_v2(&mut served).await?;
    let migrator =
        served.scenario.push("migrator", AppImage::version("m").script("sleep 0.3; echo run >> /data/runs")).await?;
    let stack = stack
        .service("migrator", &migrator, "init: true\nvolumes: [./data:/data]", "role: migrate")
        .settings("smoke:\n  - run: {service: app, command: [sleep, \"0.3\"]}\nbake_ms: 300");
    let counter = served.scenario.promote(&stack).await?;
    served.scenario.reaches(0, counter, kind).await?;
    served.scenario.host().executor.kill();
    served.scenario.start_executor(0).await?;
    let outcome = served.scenario.terminal(0, counter).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "killed at {kind}: {outcome:#?}");
    served.scenario.assert_runs(&v2, "v2").await?;
    assert_eq!(std::fs::read_to_string(directory.join("data/runs"))?, "run\n", "the migration ran more than once");
    served.assert_goes_on().await?;
    assert_told_once(&served.scenario);
    Ok(())
}

/// The container of a migration is made, started, runs and ends: killed at each of these moments, it runs once.
#[tokio::test]
async fn killed_at_every_moment_of_a_migration() -> Result<()> {
    let mut served = Served::v1().await?;
    let data = served.scenario.host().directory.join("data");
    std::fs::create_dir_all(&data)?;
    let migrator =
        served.scenario.push("migrator", AppImage::version("m").script("echo run >> /data/runs; sleep 0.2")).await?;
    for moment_ms in [50, 150, 250, 400, 600] {
        let version = format!("v{moment_ms}");
        let image = served.scenario.push(&version, AppImage::version(&version)).await?;
        let stack =
            Stack::app(&image).service("migrator", &migrator, "init: true\nvolumes: [./data:/data]", "role: migrate");
        let counter = served.scenario.promote(&stack).await?;
        served.scenario.reaches(0, counter, OutcomeKind::MigrationStarted).await?;
        // Not a wait for something: the moment is what is tested.
        tokio::time::sleep(std::time::Duration::from_millis(moment_ms)).await;
        served.scenario.host().executor.kill();
        served.scenario.start_executor(0).await?;
        let outcome = served.scenario.terminal(0, counter).await?;
        assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "killed after {moment_ms} ms: {outcome:#?}");
        assert_eq!(std::fs::read_to_string(data.join("runs"))?, "run\n", "killed after {moment_ms} ms");
        std::fs::remove_file(data.join("runs"))?;
        served.scenario.assert_runs(&image, &version).await?;
    }
    assert_told_once(&served.scenario);
    Ok(())
}

#[tokio::test]
async fn killed_after_accepting() -> Result<()> {
    killed_at(OutcomeKind::ReleaseAccepted).await
}

#[tokio::test]
async fn killed_while_it_migrates() -> Result<()> {
    killed_at(OutcomeKind::MigrationStarted).await
}

#[tokio::test]
async fn killed_while_it_updates() -> Result<()> {
    killed_at(OutcomeKind::StackUpdating).await
}

#[tokio::test]
async fn killed_while_it_proves_readiness() -> Result<()> {
    killed_at(OutcomeKind::ReadinessProbing).await
}

#[tokio::test]
async fn killed_while_it_smoke_tests() -> Result<()> {
    killed_at(OutcomeKind::SmokeStarted).await
}

#[tokio::test]
async fn killed_while_it_bakes() -> Result<()> {
    killed_at(OutcomeKind::BakeStarted).await
}

#[tokio::test]
async fn killed_while_it_goes_back() -> Result<()> {
    let mut served = Served::v1().await?;
    let bad = served.scenario.push("v2", AppImage::version("v2").exits(1)).await?;
    let counter = served.scenario.promote(&Stack::app(&bad)).await?;
    served.scenario.reaches(0, counter, OutcomeKind::RollbackStarted).await?;
    served.scenario.host().executor.kill();
    served.scenario.start_executor(0).await?;
    let outcome = served.scenario.terminal(0, counter).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeployRolledBack, "{outcome:#?}");
    served.scenario.assert_runs(&served.v1, "v1").await?;
    served.assert_goes_on().await?;
    assert_told_once(&served.scenario);
    Ok(())
}

#[tokio::test]
async fn a_stopped_executor_ends_soon_and_goes_on_later() -> Result<()> {
    let mut served = Served::v1().await?;
    let (v2, stack) = slow_v2(&mut served).await?;
    let counter = served.scenario.promote(&stack).await?;
    served.scenario.reaches(0, counter, OutcomeKind::ReadinessProbing).await?;
    let status = served.scenario.host().executor.terminate().await?;
    assert!(status.success(), "SIGTERM ends with {status}");
    served.scenario.start_executor(0).await?;
    let outcome = served.scenario.terminal(0, counter).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    served.scenario.assert_runs(&v2, "v2").await?;
    served.assert_goes_on().await?;
    assert_told_once(&served.scenario);
    Ok(())
}

#[tokio::test]
async fn the_bus_restarts_during_a_deploy() -> Result<()> {
    let mut served = Served::v1().await?;
    let (v2, stack) = slow_v2(&mut served).await?;
    let counter = served.scenario.promote(&stack).await?;
    served.scenario.reaches(0, counter, OutcomeKind::ReadinessProbing).await?;
    served.scenario.nats.down().await?;
    // The host finishes by itself: the digest serves before the bus is there again.
    served.scenario.assert_serves("v2").await?;
    served.scenario.nats.up().await?;
    let outcome = served.scenario.terminal(0, counter).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    served.scenario.assert_runs(&v2, "v2").await?;
    served.assert_goes_on().await?;
    assert_told_once(&served.scenario);
    Ok(())
}

#[tokio::test]
async fn a_host_that_was_away_gets_only_the_newest_release() -> Result<()> {
    let mut served = Served::v1().await?;
    served.scenario.host().executor.terminate().await?;
    let mut images = Vec::new();
    for version in ["v2", "v3", "v4"] {
        let image = served.scenario.push(version, AppImage::version(version)).await?;
        served.scenario.promote(&Stack::app(&image)).await?;
        images.push(image);
    }
    served.scenario.start_executor(0).await?;
    let outcome = served.scenario.terminal(0, 4).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    served.scenario.assert_runs(&images[2], "v4").await?;
    for passed_by in [2, 3] {
        assert!(served.scenario.outcomes.kinds("host-a", passed_by).is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn the_same_message_again_is_done_once() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let draft = served.scenario.draft(&Stack::app(&v2))?;
    let mut message = served.scenario.publish(&draft).await?;
    let outcome = served.scenario.terminal(0, draft.counter()).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    let container = served.scenario.container()?;
    // The same bytes under another message id: past the server's own deduplication.
    message.id = landfall_schema::ids::EventId(uuid::Uuid::now_v7());
    message.publish(&served.scenario.bus).await?;
    served.scenario.host().executor.kill();
    served.scenario.start_executor(0).await?;
    assert_eq!(served.scenario.container()?, container);
    served.assert_goes_on().await?;
    assert_told_once(&served.scenario);
    let accepted = served.scenario.outcomes.kinds("host-a", draft.counter());
    assert_eq!(accepted.iter().filter(|&&kind| kind == OutcomeKind::ReleaseAccepted).count(), 1, "{accepted:?}");
    Ok(())
}

#[tokio::test]
async fn an_executor_that_starts_before_the_bus_waits_for_it() -> Result<()> {
    let mut scenario = Scenario::with_v1().await?;
    scenario.host().executor.terminate().await?;
    scenario.nats.down().await?;
    scenario.host().executor.start()?;
    scenario.nats.up().await?;
    let v2 = scenario.push("v2", AppImage::version("v2")).await?;
    scenario.succeed(&Stack::app(&v2)).await?;
    scenario.assert_runs(&v2, "v2").await
}

#[tokio::test]
async fn two_executors_of_one_state_folder_are_one_too_many() -> Result<()> {
    let mut scenario = Scenario::with_v1().await?;
    let first = &scenario.host().executor;
    let folder = first.state_dir().parent().unwrap().to_owned();
    let mut second = landfall_tests::executor::ExecutorProcess::new(&folder, first.settings.clone());
    second.start()?;
    landfall_tests::process::until("the second executor gives up", std::time::Duration::from_secs(10), async || {
        anyhow::ensure!(!second.is_running(), "it runs on:\n{}", second.log());
        Ok(())
    })
    .await?;
    let v2 = scenario.push("v2", AppImage::version("v2")).await?;
    scenario.succeed(&Stack::app(&v2)).await?;
    scenario.assert_serves("v2").await
}

#[tokio::test]
async fn an_executor_stops_while_the_bus_is_away_and_tells_later() -> Result<()> {
    let mut served = Served::v1().await?;
    let (v2, stack) = slow_v2(&mut served).await?;
    let counter = served.scenario.promote(&stack).await?;
    served.scenario.reaches(0, counter, OutcomeKind::ReadinessProbing).await?;
    served.scenario.nats.down().await?;
    served.scenario.assert_serves("v2").await?;
    let status = served.scenario.host().executor.terminate().await?;
    assert!(status.success(), "SIGTERM ends with {status}");
    served.scenario.nats.up().await?;
    served.scenario.start_executor(0).await?;
    let outcome = served.scenario.terminal(0, counter).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    served.scenario.assert_runs(&v2, "v2").await?;
    assert_told_once(&served.scenario);
    Ok(())
}

/// Rounds of the random test.
const ROUNDS: u64 = 3;
/// A deploy of these images takes about this long; kills come anywhere in it, and sometimes after it.
const KILL_WITHIN_MS: u64 = 2_500;

/// A small generator whose seed is printed, so that a failure can be had again with LANDFALL_TEST_SEED.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Releases good and bad, and kills at any moment, against the simplest model: what serves is the last good one.
#[tokio::test]
async fn kills_at_random_moments_never_make_it_lie() -> Result<()> {
    let given = std::env::var("LANDFALL_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed =
        given.unwrap_or_else(|| u64::from(uuid::Uuid::now_v7().as_fields().2) << 16 | u64::from(std::process::id()));
    eprintln!("LANDFALL_TEST_SEED={seed}");
    let mut random = Random(seed);
    let mut served = Served::v1().await?;
    let (mut model, mut model_image) = ("v1".to_owned(), served.v1.clone());
    for round in 2..2 + ROUNDS {
        let version = format!("v{round}");
        let image = AppImage::version(&version);
        let (image, expected) = match random.below(3) {
            0 => (image.exits(1), OutcomeKind::DeployRolledBack),
            1 => (image.never_ready(), OutcomeKind::DeployRolledBack),
            _ => (image, OutcomeKind::DeploySucceeded),
        };
        let image = served.scenario.push(&version, image).await?;
        let ready = landfall_tests::stack::READY.replace("deadline_ms: 3000", "deadline_ms: 1500");
        let counter = served.scenario.promote(&Stack::app_with(&image, &ready)).await?;
        // Not a wait for something: the moment is what is tested.
        let moment_ms = random.below(KILL_WITHIN_MS);
        tokio::time::sleep(std::time::Duration::from_millis(moment_ms)).await;
        served.scenario.host().executor.kill();
        served.scenario.start_executor(0).await?;
        let outcome = served.scenario.terminal(0, counter).await?;
        assert_eq!(outcome.kind, expected, "seed {seed}, round {round}, killed after {moment_ms} ms: {outcome:#?}");
        if expected == OutcomeKind::DeploySucceeded {
            (model, model_image) = (version, image);
        }
        served.scenario.assert_runs(&model_image, &model).await?;
    }
    assert_told_once(&served.scenario);
    Ok(())
}

#[tokio::test]
async fn what_people_removed_by_hand_comes_back_with_the_next_deploy() -> Result<()> {
    let mut served = Served::v1().await?;
    let container = served.scenario.container()?;
    served.scenario.engine.docker(&["rm", "--force", &container])?;
    let bad = served.scenario.push("v2", AppImage::version("v2").exits(1)).await?;
    let outcome = served.scenario.deploy(&Stack::app(&bad)).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeployRolledBack, "{outcome:#?}");
    served.scenario.assert_runs(&served.v1, "v1").await?;
    let container = served.scenario.container()?;
    served.scenario.engine.docker(&["rm", "--force", &container])?;
    let v1 = Stack::app(&served.v1);
    served.scenario.succeed(&v1).await?;
    served.scenario.assert_runs(&served.v1, "v1").await
}

#[tokio::test]
async fn a_host_that_lost_its_state_takes_over_what_runs() -> Result<()> {
    let mut served = Served::v1().await?;
    served.scenario.host().executor.terminate().await?;
    std::fs::remove_dir_all(served.scenario.host().executor.state_dir())?;
    served.scenario.start_executor(0).await?;
    let bad = served.scenario.push("v2", AppImage::version("v2").exits(1)).await?;
    let outcome = served.scenario.deploy(&Stack::app(&bad)).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeployRolledBack, "{outcome:#?}");
    served.scenario.assert_runs(&served.v1, "v1").await?;
    served.assert_goes_on().await
}
