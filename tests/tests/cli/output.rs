//! Who reads along: programs, people who stop waiting, and pipes that break.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use landfall_schema::outcome::OutcomeKind;
use landfall_tests::image::AppImage;
use landfall_tests::stack::Stack;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::{BROKEN_PIPE, DONE, INTERRUPTED, Job};

#[tokio::test]
async fn json_is_one_event_a_line_and_ends_with_the_outcome() -> Result<()> {
    let job = Job::new().await?;
    let stack = job.push("v1").await?;
    let run = job.promote("v1", &stack, &["--wait", "--output", "json"]).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    let events = run.json_lines()?;
    assert_eq!(events[0]["type"], "dev.landfall.release.promoted.v1");
    assert_eq!(events[events.len() - 1]["type"], "dev.landfall.deploy.succeeded.v1", "{run:?}");
    assert!(events.iter().all(|event| event["specversion"] == "1.0" && event["data"]["app"] == "shop"), "{run:?}");
    Ok(())
}

#[tokio::test]
async fn waiting_is_interrupted_and_the_deploy_goes_on() -> Result<()> {
    let mut job = Job::new().await?;
    let slow = "ready: {http: {port: 8080, path: /ready}, interval_ms: 50, passes: 20}";
    let v1 = job.scenario.push("v1", AppImage::version("v1")).await?;
    let file = job.scenario.compose_file("v1", &Stack::app_with(&v1, slow))?;
    let arguments = ["promote", "shop", "--file", &file, "--release", "v1", "--wait"];
    let child = job.cli.command(&arguments)?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    job.scenario.reaches(0, 1, OutcomeKind::ReadinessProbing).await?;
    kill(Pid::from_raw(i32::try_from(child.id().unwrap())?), Signal::SIGINT)?;
    let output = child.wait_with_output().await?;
    assert_eq!(output.status.code(), Some(INTERRUPTED), "{}", String::from_utf8_lossy(&output.stderr));
    let outcome = job.scenario.terminal(0, 1).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    job.scenario.assert_serves("v1").await
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_it_quietly() -> Result<()> {
    let job = Job::new().await?;
    job.deploy("v1").await?;
    let mut child = job.cli.command(&["watch", "--all"])?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next_line().await?.unwrap();
    assert!(first.contains("host-a"), "{first}");
    drop(lines);
    // The next event is written to a pipe that nobody reads.
    job.deploy("v2").await?;
    let output = tokio::time::timeout(Duration::from_secs(10), child.wait_with_output()).await??;
    assert_eq!(output.status.code(), Some(BROKEN_PIPE));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("panic") && !errors.contains("error"), "{errors}");
    Ok(())
}
