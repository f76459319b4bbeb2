//! One release across real Docker hosts. What counts is what runs on each engine, and what the application answers there.
//!
//! A test that needs more than the three hosts of `make test`, or minutes, is ignored, and run by `make test-fleet`.

mod away;
mod gates;
mod migrations;
mod parts;
mod race;
mod waves;

use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;
use landfall_schema::outcome::OutcomeKind;
use landfall_tests::fleet::cut::Direction;
use landfall_tests::fleet::lease::Use;
use landfall_tests::fleet::scenario::FleetScenario;
use landfall_tests::image::AppImage;
use landfall_tests::registry::PushedImage;
use landfall_tests::stack::Stack;

#[tokio::test]
async fn one_release_reaches_every_engine() -> Result<()> {
    reaches_every_engine(3).await
}

#[tokio::test]
#[ignore = "needs eight hosts: make test-fleet"]
async fn one_release_reaches_eight_engines() -> Result<()> {
    reaches_every_engine(8).await
}

async fn reaches_every_engine(hosts: usize) -> Result<()> {
    let (mut fleet, v1) = FleetScenario::with_v1(hosts, Use::Shared).await?;
    let before: Vec<_> = fleet.hosts.iter().map(|host| host.snapshot()).collect::<Result<_>>()?;
    let v2 = fleet.push("v2", AppImage::version("v2")).await?;
    assert_ne!(v1.digest, v2.digest);
    let run = fleet.promote_by_cli(&Stack::app(&v2), "v2", &["--wait"]).await?;
    assert_eq!(run.code, 0, "{}", run.stderr);
    fleet.assert_runs_everywhere(&v2, "v2").await?;
    for (host, before) in fleet.hosts.iter().zip(&before) {
        assert_eq!(before.containers.len(), 1, "{before:?}");
        assert!(host.assert_untouched(before).is_err(), "{} still has the container of v1", host.name);
    }
    let all = fleet.numbers();
    fleet.assert_succeeded(&all, 2).await
}

#[tokio::test]
async fn a_host_that_was_cut_off_takes_only_the_newest_release_when_it_is_back() -> Result<()> {
    let (mut fleet, v1) = FleetScenario::with_v1(3, Use::Shared).await?;
    fleet.host(3).cut_off_for_long()?;
    misses(&mut fleet, &v1, &["v2", "v3", "v4"]).await?;
    for passed_by in [2, 3] {
        let told = fleet.outcomes.kinds("h3", passed_by);
        assert!(told.is_empty(), "h3 began #{passed_by}: {told:?}");
    }
    Ok(())
}

/// The connection survives, and with it what was on its way to the host: it hears of each release, and does none but the newest.
#[tokio::test]
async fn a_host_that_was_cut_off_shortly_does_only_the_newest_release() -> Result<()> {
    let (mut fleet, v1) = FleetScenario::with_v1(3, Use::Shared).await?;
    fleet.host(3).cut_off()?;
    misses(&mut fleet, &v1, &["v2", "v3"]).await?;
    let told = fleet.outcomes.kinds("h3", 2);
    let harmless = |kind: &OutcomeKind| matches!(kind, OutcomeKind::ReleaseAccepted | OutcomeKind::DeploySuperseded);
    assert!(told.iter().all(harmless), "h3 began #2: {told:?}");
    Ok(())
}

/// These releases come while `h3` is away with `v1`; then it comes back, and takes the last one.
async fn misses(fleet: &mut FleetScenario, v1: &PushedImage, versions: &[&str]) -> Result<()> {
    let before = fleet.host(3).snapshot()?;
    let (mut newest, mut version) = (v1.clone(), "v1");
    for &next in versions {
        newest = fleet.push(next, AppImage::version(next)).await?;
        version = next;
        let run = fleet.promote_by_cli(&Stack::app(&newest), version, &[]).await?;
        assert_eq!(run.code, 0, "{}", run.stderr);
        let counter = fleet.newest().await?;
        for number in [1, 2] {
            // The rollout may still wait for h3, which was seen a moment ago; the release serves all the same.
            fleet.reaches(number, counter, OutcomeKind::ReleaseCommitted).await?;
            fleet.host(number).assert_runs(&newest, version).await?;
        }
    }
    fleet.host(3).assert_untouched(&before)?;
    fleet.host(3).assert_runs(v1, "v1").await?;
    fleet.host(3).reconnect()?;
    let counter = fleet.newest().await?;
    fleet.assert_succeeded(&[1, 2, 3], counter).await?;
    fleet.assert_runs_everywhere(&newest, version).await
}

/// The harness itself: what it does to a machine is what happens to it, and is gone afterwards.
#[tokio::test]
async fn machines_are_cut_off_stopped_and_killed() -> Result<()> {
    let (mut fleet, v1) = FleetScenario::with_v1(2, Use::Alone).await?;
    let port = fleet.nats.port();
    let gateway = fleet.lab.gateway.clone();
    let reach = async |fleet: &FleetScenario| {
        let gateway = gateway.clone();
        let address = std::net::SocketAddr::new(gateway.parse()?, port);
        let connect = move || Ok(TcpStream::connect_timeout(&address, Duration::from_millis(300))?);
        fleet.hosts[1].machine().on_network(connect).await
    };
    reach(&fleet).await?;
    for direction in [Direction::In, Direction::Out, Direction::Both] {
        fleet.host(2).cut_off_one_way(direction)?;
        assert!(reach(&fleet).await.is_err(), "{direction:?}: the bus is still reached");
        fleet.host(2).reconnect()?;
        reach(&fleet).await?;
    }
    fleet.host(2).cut_off_from_everything()?;
    assert!(reach(&fleet).await.is_err());
    fleet.host(2).assert_serves("v1").await?;
    fleet.host(2).reconnect()?;

    fleet.host(2).stop_engine()?;
    assert!(fleet.host(2).machine().ping().is_err(), "a stopped engine answers");
    fleet.host(2).assert_serves("v1").await?;
    fleet.host(2).continue_engine()?;
    fleet.host(2).machine().ping()?;

    fleet.host(2).kill_engine()?;
    assert!(fleet.host(2).machine().ping().is_err(), "a killed engine answers");
    fleet.host(2).start_engine()?;
    fleet.host(1).assert_runs(&v1, "v1").await?;
    let v2 = fleet.push("v2", AppImage::version("v2")).await?;
    fleet.succeed(&Stack::app(&v2)).await?;
    fleet.assert_runs_everywhere(&v2, "v2").await
}
