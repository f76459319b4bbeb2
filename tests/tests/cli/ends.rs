//! How a promotion ends, and the exit code that says so.

use std::time::Duration;

use anyhow::Result;
use landfall_schema::event::CloudEvent;
use landfall_schema::ids::EventId;
use landfall_schema::outcome::OutcomeKind;
use landfall_schema::signature::SigningKey;
use landfall_schema::{Timestamp, subject};
use landfall_tests::image::AppImage;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::{READY, Stack};

use crate::audit::Audit;

use super::{DONE, FAILED, Job, NOT_REACHED, RACED, REFUSED, ROLLED_BACK, STUCK, SUPERSEDED};

#[tokio::test]
async fn promote_waits_until_the_release_is_proven_or_gone_back() -> Result<()> {
    let job = Job::new().await?;
    job.deploy("v1").await?;

    let bad = job.scenario.push("v2", AppImage::version("v2").never_ready()).await?;
    let ready = READY.replace("deadline_ms: 3000", "deadline_ms: 500");
    let run = job.promote("v2", &Stack::app_with(&bad, &ready), &["--wait"]).await?;
    assert_eq!(run.code, ROLLED_BACK, "{run:?}");
    for told in ["host-a", "rolled back", "v1", "cannot reach the payment service"] {
        assert!(run.stderr.contains(told) || run.stdout.contains(told), "{told} is not told: {run:?}");
    }
    job.scenario.assert_serves("v1").await?;

    let status = job.cli.run(&["status", "--output", "json"]).await?.json()?;
    assert_eq!(status["apps"][0]["serving"]["release"], "v1", "{status:#}");
    assert_eq!(status["apps"][0]["hosts"][0]["state"], "rolled_back", "{status:#}");
    let history = job.cli.run(&["history", "shop", "--output", "json"]).await?.json()?;
    let results: Vec<_> = history["promotions"].as_array().unwrap().iter().map(|one| &one["result"]).collect();
    assert_eq!(results, ["rolled_back", "succeeded"], "{history:#}");
    let hosts = job.cli.run(&["hosts", "--output", "json"]).await?.json()?;
    assert_eq!(hosts["hosts"][0]["host"], "host-a", "{hosts:#}");
    assert_eq!(hosts["hosts"][0]["here"], true, "{hosts:#}");
    for arguments in [["status"], ["history"], ["hosts"]] {
        let run = job.cli.run(&arguments).await?;
        assert!(run.code == DONE && run.stdout.contains("host-a"), "{run:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_deploy_that_touched_nothing_is_told_as_failed() -> Result<()> {
    let mut job = Job::new().await?;
    job.deploy("v1").await?;
    let stack = job.push("v2").await?.app_lines("env_file: [missing.env]");
    let run = job.promote("v2", &stack, &["--wait"]).await?;
    assert_eq!(run.code, FAILED, "{run:?}");
    assert!(run.stderr.contains("missing.env"), "{run:?}");
    job.scenario.assert_serves("v1").await?;
    let run = job.cli.run(&["rollback", "shop", "--to", "v2"]).await?;
    assert!(run.code == REFUSED && run.stderr.contains("never worked") && run.stderr.contains("hint:"), "{run:?}");

    let stack = job.push("v3").await?.app_lines("privileged: true");
    let run = job.promote("v3", &stack, &["--wait"]).await?;
    assert_eq!(run.code, REFUSED, "{run:?}");
    job.scenario.host().executor.terminate().await?;
    job.scenario.host().executor.settings.trusted = vec![SigningKey::generate().public().to_string()];
    job.scenario.start_executor(0).await?;
    let stack = job.push("v4").await?;
    let run = job.promote("v4", &stack, &["--wait"]).await?;
    assert_eq!(run.code, REFUSED, "{run:?}");
    job.scenario.assert_serves("v1").await
}

#[tokio::test]
async fn a_rollback_that_fails_too_is_told_as_stuck() -> Result<()> {
    let mut job = Job::new().await?;
    job.deploy("v1").await?;
    let bad = job.scenario.push("v2", AppImage::version("v2").never_ready()).await?;
    let text = Stack::app(&bad).text();
    let unpublished: String =
        text.lines().filter(|line| !line.contains("ports:")).map(|line| format!("{line}\n")).collect();
    let (port, stack) = (job.scenario.host().port, Stack::raw(&unpublished, &[("app", &bad)]));
    let Job { scenario, cli } = &mut job;
    let file = scenario.compose_file("v2", &stack)?;
    let arguments = ["promote", "shop", "--file", &file, "--release", "v2", "--wait"];
    let (run, occupant) = tokio::join!(cli.run(&arguments), async {
        scenario.reaches(0, 2, OutcomeKind::ReadinessProbing).await?;
        anyhow::Ok(tokio::net::TcpListener::bind(("127.0.0.1", port)).await?)
    });
    let (run, _occupant) = (run?, occupant?);
    assert_eq!(run.code, STUCK, "{run:?}");
    assert!(run.stderr.contains("people are needed"), "{run:?}");
    Ok(())
}

#[tokio::test]
async fn a_silent_host_is_not_reached_and_a_stranger_cannot_speak_for_it() -> Result<()> {
    let mut job = Job::new().await?;
    job.deploy("v1").await?;
    let stack = job.push("v2").await?;
    job.scenario.host().executor.kill();
    let Job { scenario, cli } = &mut job;
    let file = scenario.compose_file("v2", &stack)?;
    let arguments =
        ["promote", "shop", "--file", &file, "--release", "v2", "--wait", "--deadline", "2s", "--hosts", "host-a"];
    let (run, lied) = tokio::join!(cli.run(&arguments), lie(scenario));
    lied?;
    let run = run?;
    assert_eq!(run.code, NOT_REACHED, "{run:?}");
    assert!(run.stderr.contains("host-a"), "{run:?}");
    let status = cli.run(&["status"]).await?;
    assert!(status.stdout.contains("v1 #1") && status.stdout.contains("succeeded (unverified)"), "{status:?}");
    let history = cli.run(&["history", "shop", "--output", "json"]).await?.json()?;
    let results: Vec<_> = history["promotions"].as_array().unwrap().iter().map(|one| &one["result"]).collect();
    assert_eq!(results, ["succeeded (unverified)", "succeeded"], "{history:#}");
    // Neither does the ledger take the lie for a fact.
    let hosts = cli.run(&["hosts", "--output", "json"]).await?.json()?;
    let key = hosts["hosts"][0]["key"].as_str().unwrap().to_owned();
    let ledger = format!("sqlite://{}", scenario.folder().join("ledger.db").display());
    let audit = Audit::new(scenario.folder(), &ledger, &scenario.nats.url());
    let trusted = [format!("promote={}", scenario.promoter.public()), format!("host:host-a={key}")];
    let _running = audit.run_trusting("audit", &trusted)?;
    let kept = audit.has_ended(2).await?;
    let kept: Vec<_> = kept.iter().map(|one| (&one["outcome"], &one["hosts"][0]["signature"])).collect();
    assert_eq!(
        format!("{kept:?}"),
        r#"[(String("succeeded (unverified)"), String("untrusted")), (String("succeeded"), String("trusted"))]"#
    );
    scenario.assert_serves("v1").await
}

/// Says in the host's name that the second promotion succeeded, signed by a key that nobody knows.
async fn lie(scenario: &mut Scenario) -> Result<()> {
    let truth = scenario.terminal(0, 1).await?;
    let (bus, env, app) = (scenario.bus.clone(), scenario.env.clone(), scenario.app.clone());
    let promotion = landfall_tests::process::until("the promotion is published", Duration::from_secs(10), async || {
        let latest = bus.latest_promotion(&env, &app).await?.filter(|latest| latest.sequence > 1);
        latest.ok_or_else(|| anyhow::anyhow!("not yet"))
    })
    .await?;
    let promotion: CloudEvent<landfall_schema::promotion::Promotion> = serde_json::from_slice(&promotion.body)?;
    let mut lie = truth;
    (lie.counter, lie.promotion, lie.release) = (promotion.data.counter, promotion.id, promotion.data.release.clone());
    let place = subject::outcome(&env, &app, &lie.host, lie.kind);
    let id = EventId(uuid::Uuid::now_v7());
    let event = CloudEvent::new(id, "/landfall/host/host-a", lie.kind.event_type(), Timestamp::now(), lie);
    let body = event.encode()?;
    let signature = SigningKey::generate().header(&body)?;
    Ok(bus.publish_signed(&place, id, &body, Some(&signature), None).await?)
}

#[tokio::test]
async fn of_promoters_at_the_same_time_each_wins_or_learns_that_it_lost() -> Result<()> {
    let job = Job::new().await?;
    let stack = job.push("v1").await?;
    let file = job.scenario.compose_file("v1", &stack)?;
    let arguments = ["promote", "shop", "--file", &file, "--release", "v1"];
    let runs = futures_util::future::try_join_all((0..4).map(|_| job.cli.run(&arguments))).await?;
    let won = runs.iter().filter(|run| run.code == DONE).count();
    assert!(won >= 1 && runs.iter().all(|run| [DONE, RACED].contains(&run.code)), "{runs:?}");
    let published = job.scenario.bus.promotions(&job.scenario.env, None).await?;
    assert_eq!(published.len(), won, "a loser published");
    let counters = published.iter().map(|message| {
        let event: CloudEvent<landfall_schema::promotion::Promotion> = serde_json::from_slice(&message.body).unwrap();
        event.data.counter.0
    });
    assert_eq!(counters.collect::<Vec<_>>(), (1..=won as u64).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn a_promotion_that_is_overtaken_says_so() -> Result<()> {
    let mut job = Job::new().await?;
    let directory = job.scenario.host().directory.clone();
    std::fs::create_dir_all(directory.join("data"))?;
    job.deploy("v1").await?;
    let wait = "while [ ! -e /data/go ]; do sleep 0.05; done";
    let backup = job.scenario.push("backup", AppImage::version("b").script(wait)).await?;
    let migrator = job.scenario.push("migrator", AppImage::version("m").script("true")).await?;
    let slow = job
        .push("v2")
        .await?
        .service("backup", &backup, "init: true\nstop_grace_period: 1s\nvolumes: [./data:/data]", "role: backup")
        .service("migrator", &migrator, "init: true", "role: migrate");
    let fast = job.push("v3").await?;
    let Job { scenario, cli } = &mut job;
    let files = [scenario.compose_file("v2", &slow)?, scenario.compose_file("v3", &fast)?];
    let first = ["promote", "shop", "--file", &files[0], "--release", "v2", "--wait"];
    let second = ["promote", "shop", "--file", &files[1], "--release", "v3", "--wait"];
    let (first, second) = tokio::join!(cli.run(&first), async {
        scenario.reaches(0, 2, OutcomeKind::BackupStarted).await?;
        cli.run(&second).await
    });
    let (first, second) = (first?, second?);
    assert_eq!((first.code, second.code), (SUPERSEDED, DONE), "{first:?}\n{second:?}");
    scenario.assert_serves("v3").await
}
