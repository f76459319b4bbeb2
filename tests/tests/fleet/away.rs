//! Hosts that are cut off from the bus before, during and after their wave, and one that was down for several releases.

use anyhow::{Result, ensure};
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_tests::fleet::lease::Use;
use landfall_tests::fleet::scenario::FleetScenario;
use landfall_tests::image::AppImage;
use landfall_tests::stack::Stack;

const WAVES: [&[&str]; 3] = [&["h1"], &["h2"], &["h3"]];

/// It was here when it was promoted, and is gone before its wave: nothing is done to it, and back it takes what the others run.
#[tokio::test]
#[ignore = "waits until the host counts as away, 90 s: make test-fleet"]
async fn cut_off_before_its_wave() -> Result<()> {
    let (mut fleet, v1) = FleetScenario::with_v1(3, Use::Shared).await?;
    let before = fleet.host(2).snapshot()?;
    let v2 = fleet.push("v2", AppImage::version("v2")).await?;
    let mut draft = fleet.draft(&Stack::app(&v2)).await?.coordinate(&fleet.bus, &WAVES).await?;
    draft.event.data.plan.waves[1].deadline_ms = Some(8_000);
    fleet.host(2).cut_off_for_long()?;
    fleet.publish(&draft).await?;
    let last = fleet.word(draft.counter()).await?;
    fleet.host(2).assert_untouched(&before)?;
    fleet.host(2).assert_runs(&v1, "v1").await?;
    agree(&mut fleet, &last, 2, draft.counter()).await
}

/// It has begun, and is not heard any more. The others do not go on without it, and it does not go on without them.
#[tokio::test]
#[ignore = "waits until the host counts as away, 90 s: make test-fleet"]
async fn cut_off_during_its_wave() -> Result<()> {
    let (mut fleet, v1) = FleetScenario::with_v1(3, Use::Shared).await?;
    let before = fleet.host(3).snapshot()?;
    let v2 = fleet.push("v2", AppImage::version("v2")).await?;
    let mut draft = fleet.draft(&Stack::app(&v2)).await?.coordinate(&fleet.bus, &WAVES).await?;
    draft.event.data.plan.waves[1].bake_ms = Some(3_000);
    draft.event.data.plan.waves[1].deadline_ms = Some(8_000);
    fleet.publish(&draft).await?;
    fleet.reaches(2, draft.counter(), OutcomeKind::BakeStarted).await?;
    fleet.host(2).cut_off_for_long()?;
    let last = fleet.word(draft.counter()).await?;
    ensure!(matches!(last.kind, OutcomeKind::RolloutMixed | OutcomeKind::RolloutRolledBack), "{last:#?}");
    fleet.host(3).assert_untouched(&before)?;
    fleet.host(1).assert_runs(&v1, "v1").await?;
    fleet.host(2).reconnect()?;
    fleet.terminal(2, draft.counter()).await?;
    fleet.assert_runs_everywhere(&v1, "v1").await
}

/// It has committed. The rollout goes on without hearing of it, and it serves what all serve.
#[tokio::test]
async fn cut_off_after_its_wave() -> Result<()> {
    let (mut fleet, _) = FleetScenario::with_v1(3, Use::Shared).await?;
    let v2 = fleet.push("v2", AppImage::version("v2")).await?;
    let mut draft = fleet.draft(&Stack::app(&v2)).await?.coordinate(&fleet.bus, &WAVES).await?;
    draft.event.data.plan.waves[1].bake_ms = Some(2_000);
    fleet.publish(&draft).await?;
    fleet.reaches(2, draft.counter(), OutcomeKind::BakeStarted).await?;
    fleet.host(1).cut_off_for_long()?;
    let last = fleet.word(draft.counter()).await?;
    ensure!(last.kind == OutcomeKind::RolloutSucceeded, "{last:#?}");
    fleet.assert_runs_everywhere(&v2, "v2").await?;
    let served = fleet.host(1).snapshot()?;
    fleet.host(1).reconnect()?;
    fleet.assert_succeeded(&[1, 2, 3], draft.counter()).await?;
    fleet.host(1).assert_untouched(&served)
}

/// After a word that named the host, it comes back: what it then serves is what the others serve.
async fn agree(fleet: &mut FleetScenario, last: &Outcome, away: usize, counter: u64) -> Result<()> {
    let name = format!("h{away}");
    let state = last.rollout.as_ref().expect("a rollout's word has its state");
    let named = state.not_reached.keys().chain(state.differing.keys()).any(|host| host.as_str() == name);
    let told = state.cause.as_ref().is_some_and(|cause| cause.message.contains(&name));
    ensure!(named || told, "{name} is not named: {last:#?}");
    fleet.host(away).reconnect()?;
    fleet.terminal(away, counter).await?;
    let expect = fleet.host(1).serving().await?;
    let digests = fleet.host(1).running_digests()?;
    for host in &fleet.hosts {
        host.assert_serves(&expect).await?;
        ensure!(host.running_digests()? == digests, "{} runs something else than h1", host.name);
    }
    Ok(())
}

/// Its executor is down for three releases, not only unreachable. It does the newest alone.
#[tokio::test]
async fn a_host_that_was_down_for_three_releases_applies_only_the_newest() -> Result<()> {
    let (mut fleet, v1) = FleetScenario::with_v1(3, Use::Shared).await?;
    fleet.host(3).executor.kill();
    let before = fleet.host(3).snapshot()?;
    let mut newest = v1;
    for version in ["v2", "v3", "v4"] {
        newest = fleet.push(version, AppImage::version(version)).await?;
        let draft = fleet.draft(&Stack::app(&newest)).await?.coordinate(&fleet.bus, &[&["h1"], &["h2"]]).await?;
        fleet.publish(&draft).await?;
        let last = fleet.word(draft.counter()).await?;
        ensure!(last.kind == OutcomeKind::RolloutSucceeded, "{last:#?}");
    }
    fleet.host(3).assert_untouched(&before)?;
    fleet.start_executor(3).await?;
    fleet.assert_succeeded(&[1, 2, 3], 4).await?;
    fleet.assert_runs_everywhere(&newest, "v4").await?;
    for passed_by in [2, 3] {
        let told = fleet.outcomes.kinds("h3", passed_by);
        let harmless =
            |kind: &OutcomeKind| matches!(kind, OutcomeKind::ReleaseAccepted | OutcomeKind::DeploySuperseded);
        ensure!(told.iter().all(harmless), "h3 began #{passed_by}: {told:?}");
    }
    // One image was never on it.
    let images = fleet.host(3).engine().images(&format!("{}/{}", fleet.registry.address, fleet.repository))?;
    ensure!(images.contains(&newest.digest), "{images:?}");
    Ok(())
}
