//! Hosts whose clock jumps. Time that passed is counted by a clock that nobody sets; the clock of the day says only what is expired.

use anyhow::{Result, ensure};
use landfall_schema::Timestamp;
use landfall_schema::event::CloudEvent;
use landfall_schema::outcome::{Outcome, OutcomeKind, ReasonCode};
use landfall_tests::clock::Clock;
use landfall_tests::fault::Fault;
use landfall_tests::image::AppImage;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;

use super::{SLOW, assert_host_told};
use crate::expect::{Served, ended};

const TWO_HOURS_S: i64 = 2 * 60 * 60;

/// How far the host's clock was ahead of the server's, by the last outcome of this kind.
fn ahead_s(scenario: &Scenario, counter: u64, kind: OutcomeKind) -> Result<i64> {
    let mut seen = scenario.outcomes.seen().iter().rev();
    let found = seen.find(|said| said.data.counter.0 == counter && said.data.kind == kind);
    let Some(said) = found else { anyhow::bail!("{kind} of #{counter} was not seen") };
    let event: CloudEvent<Outcome> = serde_json::from_slice(&said.message.body)?;
    let time: Timestamp = event.time;
    Ok(time.as_second() - said.message.published_at.as_second())
}

async fn jumps(ahead: i64) -> Result<()> {
    let way = if ahead > 0 { "forward" } else { "backward" };
    let mut fault = Fault::new(format!("clock of a host jumps 2 h {way}"));
    let mut scenario = Scenario::without_hosts().await?;
    let clock = Clock::new(scenario.folder())?;
    scenario.add_host("host-a", |settings| clock.give_to(settings)).await?;
    let mut served = Served::over(scenario).await?;

    // In the middle of a deploy.
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let counter = served.scenario.promote(&Stack::app_with(&v2, SLOW).settings("bake_ms: 1500")).await?;
    served.scenario.reaches(0, counter, OutcomeKind::ReadinessProbing).await?;
    clock.set(ahead)?;
    let outcome = served.scenario.terminal(0, counter).await?;
    let seen = ahead_s(&served.scenario, counter, OutcomeKind::DeploySucceeded)?;
    ensure!((seen - ahead).abs() < 60, "the host's clock was {seen} s ahead");
    fault.fired(format!("an outcome is {seen} s ahead of the server"));
    ensure!(outcome.kind == OutcomeKind::DeploySucceeded, "{outcome:#?}");
    served.scenario.assert_runs(&v2, "v2").await?;
    fault.survived()?;

    // Before one comes: what is over by the host's clock is refused, and why is said; else it is taken.
    let v3 = served.scenario.push("v3", AppImage::version("v3")).await?;
    let counter = served.scenario.promote(&Stack::app(&v3)).await?;
    let outcome = served.scenario.terminal(0, counter).await?;
    fault.fired(format!("a promotion came while the clock was {ahead} s ahead"));
    if ahead > 0 {
        let reason = ended(&outcome, OutcomeKind::DeployRefused, ReasonCode::Expired);
        ensure!(reason.hint.is_some_and(|hint| hint.contains("clock")), "the hint says nothing of the clock");
        served.scenario.assert_runs(&v2, "v2").await?;
    } else {
        ensure!(outcome.kind == OutcomeKind::DeploySucceeded, "{outcome:#?}");
    }
    fault.survived()?;

    // Across a restart, and back to what the clock should be.
    served.scenario.host().executor.kill();
    clock.set(0)?;
    served.scenario.start_executor(0).await?;
    fault.fired("the clock was right again");
    served.assert_goes_on().await?;
    assert_host_told(&served.scenario).await?;
    fault.survived()?;
    fault.end()
}

#[tokio::test]
async fn a_clock_jumps_forward() -> Result<()> {
    jumps(TWO_HOURS_S).await
}

#[tokio::test]
#[ignore = "a while: make faults"]
async fn a_clock_jumps_backward() -> Result<()> {
    jumps(-TWO_HOURS_S).await
}
