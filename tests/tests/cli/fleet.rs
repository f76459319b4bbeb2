//! Several hosts in waves.

use anyhow::{Context as _, Result};
use landfall_schema::event::{CloudEvent, TYPE_PROMOTED};
use landfall_schema::ids::{Counter, EventId};
use landfall_schema::outcome::OutcomeKind;
use landfall_schema::promotion::Promotion;
use landfall_schema::subject;
use landfall_tests::image::AppImage;
use landfall_tests::stack::Stack;

use super::{ABORTED, DONE, ERROR, FAILED, HELD, Job, ROLLED_BACK};

#[tokio::test]
async fn a_failure_on_one_host_takes_all_back_or_holds_all() -> Result<()> {
    let mut job = Job::new().await?;
    job.scenario.add_host("host-b", |_| {}).await?;
    job.deploy("v1").await?;
    let env_file = job.scenario.hosts[1].directory.join(".env");
    let kept = std::fs::read_to_string(&env_file)?;
    // Only on host-b the new release never becomes ready.
    std::fs::write(&env_file, format!("{kept}READY_PATH=/nothing-here\n"))?;
    let v2 = job.scenario.push("v2", AppImage::version("v2")).await?;
    let ready = "ready: {http: {port: 8080, path: \"${READY_PATH:-/ready}\"}, interval_ms: 50, deadline_ms: 1500}";
    let stack = Stack::app_with(&v2, ready);
    let run = job.promote("v2", &stack, &["--wait", "--waves", "1,100%"]).await?;
    assert_eq!(run.code, ROLLED_BACK, "{run:?}");
    assert!(run.stderr.contains("rollout: rolled back"), "{run:?}");
    job.scenario.assert_serves("v1").await?;

    // Another one: what was rolled back is condemned.
    let v3 = job.scenario.push("v3", AppImage::version("v3")).await?;
    let stack = Stack::app_with(&v3, ready);
    let run = job.promote("v3", &stack, &["--wait", "--waves", "1,100%", "--on-failure", "hold"]).await?;
    assert_eq!(run.code, HELD, "{run:?}");
    assert_eq!(job.scenario.serving().await?, "v3");
    assert_eq!(landfall_tests::http::get(job.scenario.hosts[1].port, "/").await?, "v1");
    let status = job.cli.run(&["status", "shop", "--output", "json"]).await?.json()?;
    assert_eq!(status["apps"][0]["mixed"], true, "{status:#}");
    assert_eq!(status["apps"][0]["rollout"]["phase"]["word"], "held", "{status:#}");
    let history = job.cli.run(&["history", "shop", "--output", "json"]).await?.json()?;
    let results: Vec<_> = history["promotions"].as_array().unwrap().iter().map(|one| &one["result"]).collect();
    assert_eq!(results, ["held", "rolled_back", "succeeded"], "{history:#}");

    let run = job.cli.run(&["rollback", "shop", "--wait"]).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    job.scenario.assert_serves("v1").await?;

    // Where nothing had moved it has failed, and was not rolled back.
    std::fs::remove_file(&env_file)?;
    let v4 = job.scenario.push("v4", AppImage::version("v4")).await?;
    let stack = Stack::app_with(&v4, ready);
    let run = job.promote("v4", &stack, &["--wait", "--waves", "1,100%", "--bake", "5s"]).await?;
    assert_eq!(run.code, FAILED, "{run:?}");
    job.scenario.assert_serves("v1").await
}

#[tokio::test]
async fn wave_by_wave_with_a_halt_between() -> Result<()> {
    let mut job = Job::new().await?;
    job.scenario.add_host("host-b", |_| {}).await?;
    let stack = job.push("v1").await?;
    let dry = job.promote("v1", &stack, &["--waves", "1,100%", "--dry-run"]).await?;
    assert!(dry.stdout.contains("wave 1 of 2: host-a") && dry.stdout.contains("wave 2 of 2: host-b"), "{dry:?}");
    job.deploy("v1").await?;
    let stack = job.push("v2").await?;
    let run = job.promote("v2", &stack, &["--waves", "1,100%", "--bake", "3s,0s"]).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    job.scenario.reaches(0, 2, OutcomeKind::BakeStarted).await?;
    let halted = job.cli.run(&["halt", "shop", "--reason", "errors rise"]).await?;
    assert_eq!(halted.code, DONE, "{halted:?}");
    let again = job.cli.run(&["halt", "shop"]).await?;
    assert!(again.code == ERROR && again.stderr.contains("errors rise"), "{again:?}");
    job.scenario.reaches(0, 2, OutcomeKind::ReleaseCommitted).await?;
    assert_eq!(landfall_tests::http::get(job.scenario.hosts[1].port, "/").await?, "v1");
    // What nobody signed hides nothing of what was said.
    let place = subject::halted(&job.scenario.env, &job.scenario.app);
    job.scenario.bus.publish_signed(&place, EventId(uuid::Uuid::now_v7()), b"junk", None, None).await?;
    let resumed = job.cli.run(&["resume", "shop"]).await?;
    assert_eq!(resumed.code, DONE, "{resumed:?}");
    job.scenario.terminal(1, 2).await?;
    job.scenario.assert_serves("v2").await?;
    job.scenario.terminal(0, 2).await?;
    let late = job.cli.run(&["abort", "shop"]).await?;
    assert!(late.code == ERROR && late.stderr.contains("has ended already: it succeeded"), "{late:?}");

    let stack = job.push("v3").await?;
    let file = job.scenario.compose_file("v3", &stack)?;
    let waves = ["--waves", "1,100%", "--bake", "20s,0s", "--wait"];
    let arguments = [&["promote", "shop", "--file", &file, "--release", "v3"][..], &waves].concat();
    let Job { scenario, cli } = &mut job;
    let (run, aborted) = tokio::join!(cli.run(&arguments), async {
        scenario.reaches(0, 3, OutcomeKind::BakeStarted).await?;
        // What nobody signed replaces no promotion.
        let newest = scenario.bus.latest_promotion(&scenario.env, &scenario.app).await?;
        let mut forged = CloudEvent::<Promotion>::decode(&newest.context("nothing was promoted")?.body, TYPE_PROMOTED)?;
        forged.id = EventId(uuid::Uuid::now_v7());
        forged.data.counter = Counter(99);
        let place = subject::promoted(&scenario.env, &scenario.app);
        scenario.bus.publish_signed(&place, forged.id, &forged.encode()?, None, None).await?;
        cli.run(&["abort", "shop", "--reason", "never mind"]).await
    });
    let (run, aborted) = (run?, aborted?);
    assert_eq!((run.code, aborted.code), (ABORTED, DONE), "{run:?}\n{aborted:?}");
    assert!(aborted.stderr.contains("host-a") && run.stderr.contains("never mind"), "{aborted:?}\n{run:?}");
    scenario.assert_serves("v2").await
}
