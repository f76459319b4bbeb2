//! One release across real Docker hosts. What counts is what runs on each engine, and what the application answers there.
//!
//! A test that needs more than the three hosts of `make test` is ignored, and run by `make test-fleet`.

use anyhow::Result;
use landfall_tests::fleet::lease::Use;
use landfall_tests::fleet::scenario::FleetScenario;
use landfall_tests::image::AppImage;
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
    fleet.host(3).cut_off()?;
    let before = fleet.host(3).snapshot()?;
    let mut newest = v1.clone();
    for version in ["v2", "v3", "v4"] {
        newest = fleet.push(version, AppImage::version(version)).await?;
        let run = fleet.promote_by_cli(&Stack::app(&newest), version, &[]).await?;
        assert_eq!(run.code, 0, "{}", run.stderr);
        let counter = fleet.newest().await?;
        fleet.assert_succeeded(&[1, 2], counter).await?;
    }
    for number in [1, 2] {
        fleet.host(number).assert_runs(&newest, "v4").await?;
    }
    fleet.host(3).assert_untouched(&before)?;
    fleet.host(3).assert_runs(&v1, "v1").await?;

    fleet.host(3).reconnect()?;
    fleet.assert_succeeded(&[3], 4).await?;
    fleet.assert_runs_everywhere(&newest, "v4").await?;
    for passed_by in [2, 3] {
        let told = fleet.outcomes.kinds("h3", passed_by);
        assert!(told.is_empty(), "h3 began #{passed_by}: {told:?}");
    }
    Ok(())
}
