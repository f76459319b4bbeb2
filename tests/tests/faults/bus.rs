//! A NATS server that is away, and one that comes back with less than it had.

use std::time::Duration;

use anyhow::{Result, ensure};
use landfall_schema::outcome::OutcomeKind;
use landfall_tests::fault::Fault;
use landfall_tests::image::AppImage;
use landfall_tests::outcomes::Outcomes;
use landfall_tests::process::until;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;
use tempfile::TempDir;

use super::{SLOW, assert_ended, assert_host_told};
use crate::expect::Served;

/// For words in a log, or on the bus: two rounds of what is tried every minute at most.
const HEARD_LIMIT: Duration = Duration::from_secs(130);

/// The server is away for this long in the middle of a deploy, and a release that is promoted afterwards is taken.
async fn stopped_for(away: Duration) -> Result<()> {
    let mut fault = Fault::new(format!("NATS stopped for {} s", away.as_secs()));
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let counter = served.scenario.promote(&Stack::app_with(&v2, SLOW)).await?;
    served.scenario.reaches(0, counter, OutcomeKind::ReadinessProbing).await?;
    served.scenario.nats.down().await?;
    let since = std::time::Instant::now();
    // What was taken ends: the digest serves while nobody can be told.
    served.scenario.assert_serves("v2").await?;
    ensure!(served.scenario.nats.connect().await.is_err(), "the server is there");
    // Not a wait for something: the time is what is tested.
    tokio::time::sleep(away.saturating_sub(since.elapsed())).await;
    fault.fired(format!("nobody was reached for {:?}", since.elapsed()));
    served.scenario.nats.up().await?;
    let ended = assert_ended(&mut served.scenario, counter, (&v2, "v2"), (&served.v1, "v1")).await?;
    ensure!(ended == OutcomeKind::DeploySucceeded, "{ended}");
    goes_on(&mut served).await?;
    fault.survived()?;
    fault.end()
}

async fn goes_on(served: &mut Served) -> Result<()> {
    served.assert_goes_on().await?;
    assert_host_told(&served.scenario).await
}

#[tokio::test]
async fn nats_is_away_for_a_second() -> Result<()> {
    stopped_for(Duration::from_secs(1)).await
}

#[tokio::test]
#[ignore = "minutes: make faults"]
async fn nats_is_away_for_up_to_two_minutes() -> Result<()> {
    for seconds in [5, 30, 120] {
        stopped_for(Duration::from_secs(seconds)).await?;
    }
    Ok(())
}

#[tokio::test]
#[ignore = "minutes: make faults"]
async fn nats_is_away_for_five_minutes() -> Result<()> {
    stopped_for(Duration::from_secs(300)).await
}

/// Promotes with the CLI, as a CI job: no number of the test's own.
async fn promote_by_cli(scenario: &Scenario, version: &str) -> Result<()> {
    let image = scenario.push(version, AppImage::version(version)).await?;
    let cli = scenario.cli()?;
    let file = scenario.compose_file(version, &Stack::app(&image))?;
    let address = &scenario.registry.address;
    let words = ["promote", "shop", "--release", version, "--file", &file, "--insecure-registry", address, "--wait"];
    let run = cli.run(&words).await?;
    ensure!(run.code == 0, "{}", run.stderr);
    scenario.assert_runs(&image, version).await
}

async fn logged(scenario: &mut Scenario, words: &str) -> Result<()> {
    let executor = &scenario.host().executor;
    until(&format!("the executor says {words:?}"), HEARD_LIMIT, async || {
        ensure!(executor.whole_log()?.contains(words), "not yet");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nats_comes_back_with_an_empty_store() -> Result<()> {
    let mut fault = Fault::new("NATS restarted with an empty store");
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let counter = served.scenario.promote(&Stack::app_with(&v2, SLOW)).await?;
    served.scenario.reaches(0, counter, OutcomeKind::ReadinessProbing).await?;
    let scenario = &mut served.scenario;
    scenario.nats.down().await?;
    scenario.nats.replace_store(None)?;
    scenario.nats.up().await?;
    ensure!(!scenario.bus.diff().await?.is_empty(), "the store is not empty");
    fault.fired("the server has no stream");
    // What was taken ends; and whoever looks is told what is missing, and what to do.
    scenario.assert_serves("v2").await?;
    logged(scenario, "landfall bus apply").await?;
    let doctor = scenario.cli()?.run(&["doctor"]).await?;
    ensure!(doctor.code != 0, "{doctor:?}");
    let told = format!("{}{}", doctor.stdout, doctor.stderr);
    ensure!(told.contains("RELEASES") && told.contains("landfall bus apply"), "{told}");
    let applied = scenario.cli()?.run(&["bus", "apply"]).await?;
    ensure!(applied.code == 0, "{applied:?}");
    // Everything that the host has to say is there again: of the deploy under way, and of what it told the store that is gone.
    scenario.outcomes = Outcomes::follow(&scenario.bus);
    scenario.terminal(0, counter).await?;
    assert_host_told(scenario).await?;
    ensure!(scenario.terminal(0, 1).await?.kind == OutcomeKind::DeploySucceeded);
    let container = scenario.container()?;
    until("the host is seen again", HEARD_LIMIT, async || {
        ensure!(!scenario.bus.presence(&scenario.env).await?.is_empty(), "nobody is");
        Ok(())
    })
    .await?;
    promote_by_cli(scenario, "v3").await?;
    ensure!(scenario.container()? != container);
    assert_host_told(scenario).await?;
    fault.survived()?;
    fault.end()
}

#[tokio::test]
async fn nats_comes_back_with_an_older_store() -> Result<()> {
    let mut fault = Fault::new("NATS restarted with an older store");
    let mut served = Served::v1().await?;
    let scenario = &mut served.scenario;
    let older = TempDir::new()?;
    scenario.nats.down().await?;
    scenario.nats.copy_store(older.path())?;
    scenario.nats.up().await?;
    for version in ["v2", "v3"] {
        let image = scenario.push(version, AppImage::version(version)).await?;
        scenario.succeed(&Stack::app(&image)).await?;
    }
    let container = scenario.container()?;
    scenario.nats.down().await?;
    scenario.nats.replace_store(Some(older.path()))?;
    scenario.nats.up().await?;
    let known = scenario.bus.promotions(&scenario.env, None).await?.len();
    ensure!(known == 1, "{known} promotions are on the bus");
    fault.fired("the bus knows the first promotion alone");
    logged(scenario, "the bus has lost what this host told it").await?;
    scenario.outcomes = Outcomes::follow(&scenario.bus);
    assert_host_told(scenario).await?;
    ensure!(scenario.terminal(0, 3).await?.kind == OutcomeKind::DeploySucceeded);
    // The first promotion is the newest that there is now. A start reads it in any case; nothing goes back to it.
    scenario.host().executor.terminate().await?;
    scenario.start_executor(0).await?;
    logged(scenario, "settled").await?;
    scenario.assert_serves("v3").await?;
    ensure!(scenario.container()? == container, "something was done to what serves");
    promote_by_cli(scenario, "v4").await?;
    assert_host_told(scenario).await?;
    fault.survived()?;
    fault.end()
}
