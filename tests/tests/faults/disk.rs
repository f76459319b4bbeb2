//! Disks that are full: at the pull, at the journal, at the backup.

use std::time::Duration;

use anyhow::{Result, ensure};
use landfall_schema::outcome::{OutcomeKind, ReasonCode};
use landfall_tests::fault::Fault;
use landfall_tests::fleet::lease::Use;
use landfall_tests::fleet::scenario::FleetScenario;
use landfall_tests::image::AppImage;
use landfall_tests::process::until;
use landfall_tests::scenario::Scenario;
use landfall_tests::small_disk::SmallDisk;
use landfall_tests::stack::Stack;

use super::{SLOW, assert_host_told, assert_told};
use crate::expect::{Served, ended};

const SAID_LIMIT: Duration = Duration::from_secs(15);

#[tokio::test]
async fn the_disk_is_full_at_the_journal() -> Result<()> {
    let mut fault = Fault::new("disk full at the journal");
    let mut scenario = Scenario::without_hosts().await?;
    let disk = SmallDisk::at(&scenario.folder().join("host-a/state"), 8)?;
    scenario.add_host("host-a", |_| {}).await?;
    let mut served = Served::over(scenario).await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let counter = served.scenario.promote(&Stack::app_with(&v2, SLOW)).await?;
    served.scenario.reaches(0, counter, OutcomeKind::ReadinessProbing).await?;
    disk.fill()?;
    let executor = &served.scenario.host().executor;
    until("the executor says so", SAID_LIMIT, async || {
        ensure!(executor.whole_log()?.contains("the journal does not answer"), "not yet");
        Ok(())
    })
    .await?;
    fault.fired("the journal does not answer");
    // Killed with a full disk, and started on it: nothing is begun, and nothing is lost.
    served.scenario.host().executor.kill();
    disk.free()?;
    served.scenario.start_executor(0).await?;
    let outcome = served.scenario.terminal(0, counter).await?;
    ensure!(outcome.kind == OutcomeKind::DeploySucceeded, "{outcome:#?}");
    served.scenario.assert_runs(&v2, "v2").await?;
    fault.survived()?;

    // Freed while it runs.
    let v3 = served.scenario.push("v3", AppImage::version("v3")).await?;
    let counter = served.scenario.promote(&Stack::app_with(&v3, SLOW)).await?;
    served.scenario.reaches(0, counter, OutcomeKind::ReadinessProbing).await?;
    disk.fill()?;
    served.scenario.assert_serves("v3").await?;
    let before = served.scenario.host().executor.whole_log()?.len();
    let executor = &served.scenario.host().executor;
    until("the executor says so", SAID_LIMIT, async || {
        ensure!(executor.whole_log()?[before..].contains("the journal does not answer"), "not yet");
        Ok(())
    })
    .await?;
    fault.fired("the journal does not answer, and the executor waits");
    disk.free()?;
    let outcome = served.scenario.terminal(0, counter).await?;
    ensure!(outcome.kind == OutcomeKind::DeploySucceeded, "{outcome:#?}");
    served.scenario.assert_runs(&v3, "v3").await?;
    served.assert_goes_on().await?;
    assert_host_told(&served.scenario).await?;
    fault.survived()?;
    fault.end()
}

#[tokio::test]
async fn the_disk_is_full_at_the_backup() -> Result<()> {
    let mut fault = Fault::new("disk full at the backup");
    let mut served = Served::v1().await?;
    let directory = served.scenario.host().directory.clone();
    std::fs::create_dir_all(directory.join("data"))?;
    // It ends as the disk does: a loop device's file, say.
    let backup = "cat /bin/busybox /bin/busybox > /tmp/backup && echo backed up >> /data/order";
    let backup = served.scenario.push("backup", AppImage::version("b").script(backup)).await?;
    let migrator =
        served.scenario.push("migrator", AppImage::version("m").script("echo migrated >> /data/order")).await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let stack = |size_mb: u32| {
        let lines = format!("init: true\nvolumes: [./data:/data]\ntmpfs: [\"/tmp:size={size_mb}m\"]");
        Stack::app(&v2).service("backup", &backup, &lines, "role: backup").service(
            "migrator",
            &migrator,
            "init: true\nvolumes: [./data:/data]",
            "role: migrate",
        )
    };
    let outcome = served.scenario.deploy(&stack(1)).await?;
    let reason = ended(&outcome, OutcomeKind::DeployFailed, ReasonCode::BackupFailed);
    let told = format!("{reason:?}");
    ensure!(told.contains("No space left on device"), "{told}");
    fault.fired("No space left on device");
    ensure!(!directory.join("data/order").exists(), "the migration ran without a backup");
    served.assert_untouched().await?;
    served.scenario.succeed(&stack(16)).await?;
    ensure!(std::fs::read_to_string(directory.join("data/order"))? == "backed up\nmigrated\n");
    assert_host_told(&served.scenario).await?;
    fault.survived()?;
    fault.end()
}

/// The engine's own disk, of a real host: the pull is cut short by the disk's end, and not by a look at it before.
#[tokio::test]
#[ignore = "a host of its own, and a while: make faults"]
async fn the_disk_is_full_at_the_pull() -> Result<()> {
    let mut fault = Fault::new("disk full at the pull");
    let mut fleet = FleetScenario::start(1, Use::Alone).await?;
    fleet.host(1).machine().put_engine_on_small_disk(30)?;
    let v1 = fleet.push("v1", AppImage::version("v1")).await?;
    fleet.succeed(&Stack::app(&v1)).await?;
    let before = fleet.host(1).snapshot()?;
    // Not to be compressed, and larger than what is left.
    let mut state = 1_u64;
    let ballast: String = (0..40_000_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b' ' + u8::try_from((state >> 33) % 94).unwrap_or(0))
        })
        .collect();
    let v2 = fleet.push("v2", AppImage::version("v2").file("ballast", &ballast)).await?;
    let counter = fleet.promote(&Stack::app(&v2)).await?;
    let outcome = fleet.terminal(1, counter).await?;
    let reason = ended(&outcome, OutcomeKind::DeployFailed, ReasonCode::DiskFull);
    ensure!(reason.hint.is_some(), "{reason:#?}");
    fault.fired(reason.message);
    fleet.host(1).assert_untouched(&before)?;
    fleet.host(1).assert_runs(&v1, "v1").await?;
    let v3 = fleet.push("v3", AppImage::version("v3")).await?;
    fleet.succeed(&Stack::app(&v3)).await?;
    fleet.host(1).assert_runs(&v3, "v3").await?;
    let state = fleet.host(1).executor.state_dir();
    assert_told(&fleet.bus, &state).await?;
    fault.survived()?;
    fault.end()
}
