//! The command line as CI and operators use it: what it prints, and the exit codes of `docs/exit-codes.md`.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use landfall_schema::event::CloudEvent;
use landfall_schema::ids::EventId;
use landfall_schema::outcome::OutcomeKind;
use landfall_schema::signature::SigningKey;
use landfall_schema::{Timestamp, subject};
use landfall_tests::cli::{Cli, Run};
use landfall_tests::image::AppImage;
use landfall_tests::lab::Lab;
use landfall_tests::nats::NatsServer;
use landfall_tests::registry_proxy::RegistryProxy;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::{READY, Stack};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};

const DONE: i32 = 0;
const ERROR: i32 = 1;
const USAGE: i32 = 2;
const ROLLED_BACK: i32 = 3;
const FAILED: i32 = 4;
const STUCK: i32 = 5;
const REFUSED: i32 = 6;
const NOT_REACHED: i32 = 7;
const RACED: i32 = 8;
const SUPERSEDED: i32 = 9;
const HELD: i32 = 12;
const ABORTED: i32 = 13;
const INTERRUPTED: i32 = 130;
const BROKEN_PIPE: i32 = 141;

/// One host, and the CLI as a CI job has it.
struct Job {
    scenario: Scenario,
    cli: Cli,
}

impl Job {
    async fn new() -> Result<Self> {
        let scenario = Scenario::start().await?;
        let cli = scenario.cli()?;
        Ok(Self { scenario, cli })
    }

    async fn push(&self, version: &str) -> Result<Stack> {
        Ok(Stack::app(&self.scenario.push(version, AppImage::version(version)).await?))
    }

    /// `landfall promote shop` with this stack and these arguments.
    async fn promote(&self, name: &str, stack: &Stack, arguments: &[&str]) -> Result<Run> {
        let file = self.scenario.compose_file(name, stack)?;
        let mut all = vec!["promote", "shop", "--file", &file, "--release", name];
        all.extend(arguments);
        self.cli.run(&all).await
    }

    /// Promotes a version that works, and waits.
    async fn deploy(&self, version: &str) -> Result<Stack> {
        let stack = self.push(version).await?;
        let run = self.promote(version, &stack, &["--wait"]).await?;
        assert_eq!(run.code, DONE, "{run:?}");
        self.scenario.assert_serves(version).await?;
        Ok(stack)
    }
}

#[tokio::test]
async fn init_and_bus_apply_prepare_an_empty_server() -> Result<()> {
    let (lab, home) = (Lab::from_env()?, TempDir::new()?);
    let nats = NatsServer::start(&lab).await?;
    let cli = Cli::new(home.path()).variable("NATS_URL", &nats.url()).variable("LANDFALL_ENV", "staging");
    let made = cli.run(&["init"]).await?;
    assert_eq!(made.code, DONE);
    assert!(made.stdout.starts_with("promote = [\"U"), "{made:?}");
    let again = cli.run(&["init"]).await?;
    assert_eq!((again.code, &again.stdout), (DONE, &made.stdout), "the key was made anew");

    let plan = cli.run(&["bus", "apply", "--dry-run"]).await?;
    assert_eq!(plan.code, DONE);
    assert!(plan.stdout.contains("create") && plan.stdout.contains("RELEASES"), "{plan:?}");
    assert!(!nats.connect().await?.diff().await?.is_empty(), "a dry run changed something");
    assert_eq!(cli.run(&["bus", "apply"]).await?.code, DONE);
    assert!(nats.connect().await?.diff().await?.is_empty());
    let again = cli.run(&["bus", "apply", "--output", "json"]).await?;
    assert_eq!(again.json()?["changes"], serde_json::json!([]));
    Ok(())
}

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
async fn rollback_needs_no_version() -> Result<()> {
    let job = Job::new().await?;
    job.deploy("v1").await?;
    let run = job.cli.run(&["rollback", "shop", "--wait"]).await?;
    assert_eq!(run.code, ERROR, "there was nothing to go back to: {run:?}");
    assert!(run.stderr.contains("hint:"), "{run:?}");
    job.scenario.assert_serves("v1").await?;

    job.deploy("v2").await?;
    let run = job.cli.run(&["rollback", "shop", "--wait"]).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    job.scenario.assert_serves("v1").await?;
    // Once more: not forth again to what was just left.
    job.deploy("v3").await?;
    let run = job.cli.run(&["rollback", "shop", "--env", "test", "--wait"]).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    job.scenario.assert_serves("v1").await?;
    let run = job.cli.run(&["rollback", "shop", "--to", "v2", "--wait"]).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    job.scenario.assert_serves("v2").await
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
        cli.run(&["abort", "shop", "--reason", "never mind"]).await
    });
    let (run, aborted) = (run?, aborted?);
    assert_eq!((run.code, aborted.code), (ABORTED, DONE), "{run:?}\n{aborted:?}");
    assert!(aborted.stderr.contains("host-a") && run.stderr.contains("never mind"), "{aborted:?}\n{run:?}");
    scenario.assert_serves("v2").await
}

#[tokio::test]
async fn only_some_services_change_and_the_others_keep_their_versions() -> Result<()> {
    let job = Job::new().await?;
    let [app, side] = ["app-1", "side-1"].map(|tag| job.scenario.push(tag, AppImage::version(tag)));
    let (app, side) = (app.await?, side.await?);
    let stack = Stack::app(&app).service("side", &side, "init: true", "role: serve");
    let file = job.scenario.compose_file("compose", &stack)?;
    let reference = job.scenario.push("app-2", AppImage::version("app-2")).await?.reference();
    let arguments = ["promote", "shop", "--file", &file, "--only", "app", "--image", &reference, "--wait"];
    let run = job.cli.run(&arguments).await?;
    assert!(run.code == ERROR && run.stderr.contains("without --only"), "{run:?}");
    let run = job.promote("v1", &stack, &["--wait"]).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    let before = job.scenario.engine.container_id(&job.scenario.hosts[0].project, "side")?;
    let run = job.cli.run(&arguments).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    job.scenario.assert_serves("app-2").await?;
    assert_eq!(job.scenario.engine.container_id(&job.scenario.hosts[0].project, "side")?, before, "side was restarted");
    let status = job.cli.run(&["status", "shop"]).await?;
    assert!(status.stderr.contains("app app-2 (changed), side side-1"), "{status:?}");
    let unknown = job.cli.run(&["promote", "shop", "--file", &file, "--only", "nothing"]).await?;
    assert_eq!(unknown.code, USAGE, "{unknown:?}");
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

#[tokio::test]
async fn nothing_is_promoted_when_something_is_wrong_before() -> Result<()> {
    let job = Job::new().await?;
    let v1 = job.scenario.push("v1", AppImage::version("v1")).await?;
    let stack = Stack::app(&v1);
    let missing = Stack::app(&landfall_tests::registry::PushedImage { tag: "v9".to_owned(), ..v1.clone() });
    let mut proxy = RegistryProxy::before(&job.scenario.registry.address).await?;
    proxy.stop().await;
    let down = Stack::app(&v1.by_way_of(&proxy.address));
    let private = Stack::app(&v1.by_way_of(&job.scenario.lab.private_registry.address));
    let built = Stack::raw("services:\n  app:\n    build: .\n", &[]);
    let broken = Stack::raw("services:\n  app: [\n", &[]);
    let cases = [
        ("missing", &missing, "v9"),
        ("down", &down, proxy.address.as_str()),
        ("private", &private, "docker login"),
        ("built", &built, "app"),
        ("broken", &broken, "broken.yml"),
    ];
    for (name, stack, told) in cases {
        let run = job.promote(name, stack, &["--wait"]).await?;
        assert_eq!(run.code, ERROR, "{run:?}");
        assert!(run.stderr.contains("error:") && run.stderr.contains("hint:") && run.stderr.contains(told), "{run:?}");
    }
    let run = job.promote("v1", &stack, &["--dry-run"]).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    assert!(run.stdout.contains(v1.digest.short()), "{run:?}");
    let run = job.promote("v1", &stack, &["--env", "nowhere"]).await?;
    assert_eq!(run.code, ERROR, "no host is there: {run:?}");
    let away = job.cli.clone().variable("NATS_URL", "nats://127.0.0.1:1").run(&["status"]).await?;
    assert_eq!(away.code, ERROR, "{away:?}");
    assert!(away.stderr.contains("127.0.0.1:1") && away.stderr.contains("hint:"), "{away:?}");
    for arguments in [&["promote", "shop", "--nonsense"][..], &["frobnicate"], &["rollback"]] {
        assert_eq!(job.cli.run(arguments).await?.code, USAGE);
    }
    assert!(job.scenario.bus.promotions(&job.scenario.env, None).await?.is_empty(), "something was promoted");
    Ok(())
}

#[tokio::test]
async fn images_come_from_variables_and_options_too() -> Result<()> {
    let mut job = Job::new().await?;
    let v1 = job.scenario.push("v1", AppImage::version("v1")).await?;
    let text = Stack::app(&v1).text().replace(&v1.reference(), "${APP_IMAGE}");
    let stack = Stack::raw(&text, &[]);
    let file = job.scenario.compose_file("compose", &stack)?;
    let by_variable = job.cli.clone().variable("APP_IMAGE", &v1.reference());
    let run = by_variable.run(&["promote", "shop", "--file", &file, "--wait"]).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    job.scenario.assert_runs(&v1, "v1").await?;
    let v2 = job.scenario.push("v2", AppImage::version("v2")).await?;
    let run = job.cli.run(&["promote", "shop", "--file", &file, "--image", &v2.reference(), "--wait"]).await?;
    assert_eq!(run.code, DONE, "{run:?}");
    job.scenario.assert_runs(&v2, "v2").await?;
    // The tag that was chosen names the release.
    let outcome = job.scenario.terminal(0, 2).await?;
    assert_eq!(outcome.release.as_str(), "v2");
    Ok(())
}

#[tokio::test]
async fn lint_doctor_and_completions_say_what_is_wrong() -> Result<()> {
    let job = Job::new().await?;
    let plain = Stack::raw("services:\n  web:\n    image: nginx:1.27\n    ports: [\"80:80\"]\n", &[]);
    let file = job.scenario.compose_file("plain", &plain)?;
    assert_eq!(job.cli.run(&["lint", &file]).await?.code, DONE);
    let wrong = Stack::raw("services:\n  web:\n    image: nginx:1.27\n    x-landfall:\n      redy: {}\n", &[]);
    let file = job.scenario.compose_file("wrong", &wrong)?;
    let run = job.cli.run(&["lint", &file]).await?;
    assert_eq!(run.code, ERROR);
    assert!(run.stdout.contains("wrong.yml:5") && run.stdout.contains("redy"), "{run:?}");

    let report = job.cli.run(&["doctor", "--output", "json", "--registry", &job.scenario.registry.address]).await?;
    assert_eq!(report.code, DONE, "{report:?}");
    assert_eq!(report.json()?["healthy"], true);
    let sick = job.cli.clone().variable("NATS_URL", "nats://127.0.0.1:1").run(&["doctor"]).await?;
    assert_eq!(sick.code, ERROR, "{sick:?}");
    for shell in ["bash", "zsh", "fish"] {
        let run = job.cli.run(&["completions", shell]).await?;
        assert!(run.code == DONE && run.stdout.contains("landfall"), "{run:?}");
    }
    let version = job.cli.run(&["--version"]).await?;
    assert!(version.code == DONE && version.stdout.starts_with("landfall "), "{version:?}");
    Ok(())
}

#[tokio::test]
async fn the_executor_checks_its_configuration() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let check = scenario.host().executor.check()?;
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    let executor = &mut scenario.host().executor;
    executor.settings.trusted = vec!["nobody".to_owned()];
    executor.settings.env = "a/b".to_owned();
    executor.settings.min_free_disk = "plenty".to_owned();
    let check = executor.check()?;
    assert!(!check.status.success());
    let told = String::from_utf8_lossy(&check.stderr).into_owned() + &String::from_utf8_lossy(&check.stdout);
    for mistake in ["nobody", "a/b", "plenty"] {
        assert!(told.contains(mistake), "{mistake} is not told:\n{told}");
    }
    Ok(())
}
