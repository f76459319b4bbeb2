//! Good and broken releases in waves: who was touched, and what serves in the end.

use anyhow::{Result, ensure};
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_PROMOTED};
use landfall_schema::outcome::OutcomeKind;
use landfall_schema::promotion::Promotion;
use landfall_tests::fleet::lease::Use;
use landfall_tests::fleet::scenario::FleetScenario;
use landfall_tests::fleet::snapshot::Snapshot;
use landfall_tests::image::AppImage;
use landfall_tests::stack::Stack;

const ROLLED_BACK: i32 = 3;
/// What is broken by a host's own setting, `BROKEN`, alone.
pub(super) const BREAKABLE: &str = "test -z \"$BROKEN\" || exit 7; exec httpd -f -p 8080 -h /www";
pub(super) const BREAKS: &str = "environment: {BROKEN: \"${BROKEN:-}\"}";
const THREE_WAVES: [&str; 3] = ["--waves", "1,25%,100%", "--wait"];

pub(super) fn snapshots(fleet: &FleetScenario) -> Result<Vec<Snapshot>> {
    fleet.hosts.iter().map(|host| host.snapshot()).collect()
}

/// The numbers of the hosts on which a container was replaced, stopped or restarted.
pub(super) fn touched(fleet: &FleetScenario, before: &[Snapshot]) -> Result<Vec<usize>> {
    let now = snapshots(fleet)?;
    Ok((1..)
        .zip(before.iter().zip(&now))
        .filter(|(_, (before, now))| before != now)
        .map(|(number, _)| number)
        .collect())
}

#[tokio::test]
#[ignore = "needs eight hosts: make test-fleet"]
async fn a_good_release_goes_through_three_waves() -> Result<()> {
    let (mut fleet, _) = FleetScenario::with_v1(8, Use::Shared).await?;
    let before = snapshots(&fleet)?;
    let v2 = fleet.push("v2", AppImage::version("v2")).await?;
    let run = fleet.promote_by_cli(&Stack::app(&v2), "v2", &THREE_WAVES).await?;
    assert_eq!(run.code, 0, "{}", run.stderr);
    fleet.assert_runs_everywhere(&v2, "v2").await?;
    assert_eq!(touched(&fleet, &before)?, fleet.numbers());
    let counter = fleet.newest().await?;
    let last = fleet.word(counter).await?;
    ensure!(last.kind == OutcomeKind::RolloutSucceeded, "{last:#?}");
    // By the engines' own times, nobody of a wave began before all of the wave before served.
    let message = fleet.bus.latest_promotion(&fleet.env, &fleet.app).await?.expect("it was promoted");
    let plan = CloudEvent::<Promotion>::decode(&message.body, TYPE_PROMOTED)?.data.plan;
    assert_eq!(plan.waves.iter().map(|wave| wave.hosts.len()).collect::<Vec<_>>(), [1, 1, 6]);
    let mut former = Timestamp::MIN;
    for wave in &plan.waves {
        let mut started = Vec::new();
        for host in fleet.hosts.iter().filter(|host| wave.hosts.contains(&host.name)) {
            started.push(host.snapshot()?.containers["app"].started_at.parse::<Timestamp>()?);
        }
        ensure!(started.iter().all(|&at| at > former), "{:?} began at {started:?}, before {former}", wave.hosts);
        former = started.into_iter().max().unwrap_or(former);
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs eight hosts: make test-fleet"]
async fn broken_in_the_first_wave_touches_no_other_of_eight_hosts() -> Result<()> {
    broken_everywhere(8, &THREE_WAVES).await
}

async fn broken_everywhere(hosts: usize, arguments: &[&str]) -> Result<()> {
    let (mut fleet, v1) = FleetScenario::with_v1(hosts, Use::Shared).await?;
    let before = snapshots(&fleet)?;
    let v2 = fleet.push("v2", AppImage::version("v2").exits(7)).await?;
    let run = fleet.promote_by_cli(&Stack::app(&v2), "v2", arguments).await?;
    assert_eq!(run.code, ROLLED_BACK, "{}", run.stderr);
    fleet.assert_runs_everywhere(&v1, "v1").await?;
    assert_eq!(touched(&fleet, &before)?.len(), 1, "only the canary may be touched");
    let counter = fleet.newest().await?;
    let last = fleet.word(counter).await?;
    ensure!(last.kind == OutcomeKind::RolloutRolledBack, "{last:#?}");
    Ok(())
}

#[tokio::test]
async fn broken_in_the_second_wave_takes_all_back() -> Result<()> {
    let (mut fleet, v1) = FleetScenario::with_v1(3, Use::Shared).await?;
    broken_on_one(&mut fleet, &[&["h1"], &["h2"], &["h3"]], 2).await?;
    fleet.assert_runs_everywhere(&v1, "v1").await
}

#[tokio::test]
#[ignore = "needs eight hosts: make test-fleet"]
async fn broken_in_the_second_wave_of_eight_hosts_takes_all_back() -> Result<()> {
    let (mut fleet, v1) = FleetScenario::with_v1(8, Use::Shared).await?;
    broken_on_one(&mut fleet, &[&["h1"], &["h2", "h3"], &["h4", "h5", "h6", "h7", "h8"]], 3).await?;
    fleet.assert_runs_everywhere(&v1, "v1").await
}

/// The release is broken on this host, of the second wave; those of the third must not be touched.
async fn broken_on_one(fleet: &mut FleetScenario, waves: &[&[&str]], broken: usize) -> Result<()> {
    let before = snapshots(fleet)?;
    let v2 = fleet.push("v2", AppImage::version("v2").script(BREAKABLE)).await?;
    fleet.host(broken).set("BROKEN", "1")?;
    let draft = fleet.draft(&Stack::app(&v2).app_lines(BREAKS)).await?.coordinate(&fleet.bus, waves).await?;
    fleet.publish(&draft).await?;
    let last = fleet.word(draft.counter()).await?;
    ensure!(last.kind == OutcomeKind::RolloutRolledBack, "{last:#?}");
    // The word comes when each host that had moved is proven to be back, so the engines show it already.
    let touched = touched(fleet, &before)?;
    let later = waves[0].len() + waves[1].len() + 1;
    ensure!(touched.contains(&1) && touched.contains(&broken), "{touched:?} were touched");
    ensure!(touched.iter().all(|&number| number < later), "{touched:?} were touched");
    let ended = fleet.terminal(1, draft.counter()).await?;
    ensure!(ended.kind == OutcomeKind::DeployRolledBack, "{ended:#?}");
    Ok(())
}

/// The canary's executor dies in the middle and says nothing more. No other host begins, and when it is back it goes back as well.
#[tokio::test]
#[ignore = "needs eight hosts: make test-fleet"]
async fn a_canary_that_dies_silently_stops_the_rollout() -> Result<()> {
    let (mut fleet, v1) = FleetScenario::with_v1(8, Use::Shared).await?;
    let before = snapshots(&fleet)?;
    let v2 = fleet.push("v2", AppImage::version("v2")).await?;
    let waves: [&[&str]; 3] = [&["h1"], &["h2", "h3"], &["h4", "h5", "h6", "h7", "h8"]];
    let mut draft = fleet.draft(&Stack::app(&v2)).await?.coordinate(&fleet.bus, &waves).await?;
    draft.event.data.plan.waves[0].bake_ms = Some(10_000);
    draft.event.data.plan.waves[0].deadline_ms = Some(15_000);
    fleet.publish(&draft).await?;
    fleet.reaches(1, draft.counter(), OutcomeKind::BakeStarted).await?;
    fleet.host(1).executor.kill();
    let last = fleet.word(draft.counter()).await?;
    ensure!(matches!(last.kind, OutcomeKind::RolloutMixed | OutcomeKind::RolloutRolledBack), "{last:#?}");
    let state = last.rollout.as_ref().expect("a rollout's word has its state");
    let named = state.not_reached.keys().chain(state.differing.keys()).any(|host| host.as_str() == "h1");
    let told = state.cause.as_ref().is_some_and(|cause| cause.message.contains("h1"));
    ensure!(named || told, "h1 is not named: {last:#?}");
    assert_eq!(touched(&fleet, &before)?, [1]);
    // Dead as it is, its container runs on; alive again, it goes back.
    fleet.host(1).assert_serves("v2").await?;
    fleet.start_executor(1).await?;
    let ended = fleet.terminal(1, draft.counter()).await?;
    ensure!(ended.kind == OutcomeKind::DeployRolledBack, "{ended:#?}");
    fleet.assert_runs_everywhere(&v1, "v1").await?;
    assert_eq!(touched(&fleet, &before)?, [1]);
    Ok(())
}
