//! Several hosts act together: executors of one engine, each with a project of its own. What runs is asked of the engine.

use anyhow::{Context as _, Result, ensure};
use landfall_executor::announce::Announcer;
use landfall_executor::identity::StateDir;
use landfall_schema::event::{CloudEvent, TYPE_HALTED};
use landfall_schema::halt::{Halt, HaltCommand};
use landfall_schema::ids::EventId;
use landfall_schema::layout::{OUTCOMES, ROLLOUT};
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::promotion::OnFailure;
use landfall_schema::{Timestamp, subject};
use landfall_tests::image::AppImage;
use landfall_tests::process::until;
use landfall_tests::promotion::Draft;
use landfall_tests::scenario::{DEPLOY_LIMIT, Scenario};
use landfall_tests::stack::Stack;
use uuid::Uuid;

const HOSTS: [&str; 4] = ["h1", "h2", "h3", "h4"];
const WAVES: [&[&str]; 3] = [&["h1"], &["h2", "h3"], &["h4"]];

/// Four hosts on which `v1` serves.
async fn fleet() -> Result<Scenario> {
    let mut scenario = Scenario::without_hosts().await?;
    for name in HOSTS {
        scenario.add_host(name, |_| {}).await?;
    }
    scenario.deploy_v1().await?;
    Ok(scenario)
}

async fn draft(scenario: &mut Scenario, stack: &Stack) -> Result<Draft> {
    let draft = scenario.draft(stack)?;
    draft.coordinate(&scenario.bus, &WAVES).await
}

/// The rollout's last word.
async fn word(scenario: &mut Scenario, counter: u64) -> Result<Outcome> {
    let logs: Vec<String> =
        scenario.hosts.iter().map(|host| format!("{}:\n{}", host.name, host.executor.log())).collect();
    let ended = |outcome: &Outcome| {
        outcome.counter.0 == counter && outcome.rollout.as_ref().is_some_and(|state| state.word().is_some())
    };
    let what = format!("the last word about #{counter}");
    scenario.outcomes.wait(&what, DEPLOY_LIMIT, ended).await.with_context(|| logs.join("\n"))
}

fn containers(scenario: &Scenario) -> Result<Vec<String>> {
    scenario.hosts.iter().map(|host| scenario.engine.container_id(&host.project, "app")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_release_goes_through_three_waves() -> Result<()> {
    let mut scenario = fleet().await?;
    let image = scenario.push("v2", AppImage::version("v2")).await?;
    let draft = draft(&mut scenario, &Stack::app(&image)).await?;
    scenario.publish(&draft).await?;
    let last = word(&mut scenario, draft.counter()).await?;
    ensure!(last.kind == OutcomeKind::RolloutSucceeded, "{last:#?}");
    for host in 0..HOSTS.len() {
        let ended = scenario.terminal(host, draft.counter()).await?;
        ensure!(ended.kind == OutcomeKind::DeploySucceeded, "{ended:#?}");
    }
    scenario.assert_serves("v2").await?;
    // Nobody updated before the wave before it had committed.
    let position = |host: &str, kind: OutcomeKind| {
        let is_it =
            |seen: &Outcome| seen.counter.0 == draft.counter() && seen.host.as_str() == host && seen.kind == kind;
        let found = scenario.outcomes.seen().iter().position(|seen| is_it(&seen.data));
        found.with_context(|| format!("{host} never said {kind}"))
    };
    for (before, after) in [("h1", "h2"), ("h1", "h3"), ("h2", "h4"), ("h3", "h4")] {
        let committed = position(before, OutcomeKind::ReleaseCommitted)?;
        ensure!(
            committed < position(after, OutcomeKind::StackUpdating)?,
            "{after} began before {before} had committed"
        );
    }
    // The pull did not wait for the wave.
    ensure!(position("h4", OutcomeKind::ImagePulled)? < position("h4", OutcomeKind::ReleaseWaiting)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_in_the_first_wave_touches_no_other_host() -> Result<()> {
    let mut scenario = fleet().await?;
    let before = containers(&scenario)?;
    let image = scenario.push("v2", AppImage::version("v2").exits(7)).await?;
    let draft = draft(&mut scenario, &Stack::app(&image)).await?;
    scenario.publish(&draft).await?;
    let last = word(&mut scenario, draft.counter()).await?;
    ensure!(last.kind == OutcomeKind::RolloutRolledBack, "{last:#?}");
    ensure!(scenario.terminal(0, draft.counter()).await?.kind == OutcomeKind::DeployRolledBack);
    for host in 1..HOSTS.len() {
        let ended = scenario.terminal(host, draft.counter()).await?;
        ensure!(ended.kind == OutcomeKind::DeployFailed, "{ended:#?}");
    }
    ensure!(containers(&scenario)?[1..] == before[1..], "a host of a later wave was touched");
    scenario.assert_serves("v1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_in_the_second_wave_takes_all_back() -> Result<()> {
    let mut scenario = fleet().await?;
    let before = containers(&scenario)?;
    // It is broken only where the host's own setting says so.
    let script = "test -z \"$BROKEN\" || exit 7; exec httpd -f -p 8080 -h /www";
    let image = scenario.push("v2", AppImage::version("v2").script(script)).await?;
    let stack = Stack::app(&image).app_lines("environment: {BROKEN: \"${BROKEN:-}\"}");
    let settings = scenario.hosts[2].directory.join(".env");
    std::fs::write(&settings, format!("{}BROKEN=1\n", std::fs::read_to_string(&settings)?))?;
    let draft = draft(&mut scenario, &stack).await?;
    scenario.publish(&draft).await?;
    let last = word(&mut scenario, draft.counter()).await?;
    ensure!(last.kind == OutcomeKind::RolloutRolledBack, "{last:#?}");
    for host in 0..2 {
        let ended = scenario.terminal(host, draft.counter()).await?;
        ensure!(ended.kind == OutcomeKind::DeployRolledBack, "{ended:#?}");
    }
    ensure!(containers(&scenario)?[3] == before[3], "h4 was touched");
    scenario.assert_serves("v1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn held_stays_as_it_is() -> Result<()> {
    let mut scenario = fleet().await?;
    let image = scenario.push("v2", AppImage::version("v2")).await?;
    // The second wave cannot read its settings.
    std::fs::remove_file(scenario.hosts[1].directory.join(".env"))?;
    let mut draft = draft(&mut scenario, &Stack::app(&image)).await?;
    draft.event.data.plan.on_failure = OnFailure::Hold;
    scenario.publish(&draft).await?;
    let last = word(&mut scenario, draft.counter()).await?;
    ensure!(last.kind == OutcomeKind::RolloutHeld, "{last:#?}");
    ensure!(last.reason.is_some(), "it says why");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn halted_resumed_and_aborted() -> Result<()> {
    let mut scenario = fleet().await?;
    let before = containers(&scenario)?;
    let image = scenario.push("v2", AppImage::version("v2")).await?;
    let mut draft = draft(&mut scenario, &Stack::app(&image)).await?;
    // Time to halt it while the canary is watched.
    draft.event.data.plan.waves[0].bake_ms = Some(3_000);
    scenario.publish(&draft).await?;
    scenario.reaches(0, draft.counter(), OutcomeKind::BakeStarted).await?;
    say(&scenario, &draft, HaltCommand::Halt).await?;
    scenario.reaches(0, draft.counter(), OutcomeKind::ReleaseCommitted).await?;
    let halted = |outcome: &Outcome| outcome.host.as_str() == "h2" && outcome.message.contains("tests halted it");
    scenario.outcomes.wait("h2 waits since it is halted", DEPLOY_LIMIT, halted).await?;
    ensure!(containers(&scenario)?[1..] == before[1..], "a halted rollout went on");
    say(&scenario, &draft, HaltCommand::Resume).await?;
    scenario.reaches(1, draft.counter(), OutcomeKind::ReleaseCommitted).await?;
    say(&scenario, &draft, HaltCommand::Abort).await?;
    let last = word(&mut scenario, draft.counter()).await?;
    if last.kind != OutcomeKind::RolloutSucceeded {
        // The abort came in time.
        ensure!(last.kind == OutcomeKind::RolloutAborted, "{last:#?}");
        scenario.assert_serves("v1").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_away_gets_what_the_fleet_runs() -> Result<()> {
    let mut scenario = fleet().await?;
    scenario.hosts[3].executor.kill();
    let others: [&[&str]; 2] = [&["h1"], &["h2", "h3"]];
    let good = scenario.push("v2", AppImage::version("v2")).await?;
    let v2 = scenario.draft(&Stack::app(&good))?.coordinate(&scenario.bus, &others).await?;
    scenario.publish(&v2).await?;
    ensure!(word(&mut scenario, v2.counter()).await?.kind == OutcomeKind::RolloutSucceeded);
    let bad = scenario.push("v3", AppImage::version("v3").exits(7)).await?;
    let v3 = scenario.draft(&Stack::app(&bad))?.coordinate(&scenario.bus, &others).await?;
    scenario.publish(&v3).await?;
    ensure!(word(&mut scenario, v3.counter()).await?.kind == OutcomeKind::RolloutRolledBack);

    scenario.start_executor(3).await?;
    // The newest did not stand, so it is not even tried; the one before it does.
    let refused = scenario.terminal(3, v3.counter()).await?;
    ensure!(refused.kind == OutcomeKind::DeployFailed, "{refused:#?}");
    let taken = scenario.terminal(3, v2.counter()).await?;
    ensure!(taken.kind == OutcomeKind::DeploySucceeded, "{taken:#?}");
    scenario.assert_serves("v2").await
}

/// The register has only the newest, and that one is for another host.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_for_one_host_hides_the_one_before_it_from_nobody() -> Result<()> {
    let mut scenario = fleet().await?;
    scenario.hosts[3].executor.kill();
    let wide = scenario.push("v2", AppImage::version("v2")).await?;
    let v2 = scenario.draft(&Stack::app(&wide))?.coordinate(&scenario.bus, &[&["h1"], &["h2", "h3"]]).await?;
    scenario.publish(&v2).await?;
    ensure!(word(&mut scenario, v2.counter()).await?.kind == OutcomeKind::RolloutSucceeded);
    let narrow = scenario.push("v3", AppImage::version("v3")).await?;
    let mut v3 = scenario.draft(&Stack::app(&narrow))?.coordinate(&scenario.bus, &[&["h1"]]).await?;
    v3.event.data.plan.only_named = true;
    scenario.publish(&v3).await?;
    ensure!(word(&mut scenario, v3.counter()).await?.kind == OutcomeKind::RolloutSucceeded);

    scenario.start_executor(3).await?;
    let taken = scenario.terminal(3, v2.counter()).await?;
    ensure!(taken.kind == OutcomeKind::DeploySucceeded, "{taken:#?}");
    ensure!(scenario.outcomes.kinds("h4", v3.counter()).is_empty(), "h4 has taken what is for h1");
    let running = scenario.engine.running_digests(&scenario.hosts[3].project)?;
    ensure!(running.get("app").is_some_and(|digests| digests.contains(&wide.digest)), "h4 runs {running:?}");
    Ok(())
}

/// Somebody stops what the canary has committed, while the others are waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_committed_host_is_watched_until_the_last_word() -> Result<()> {
    let mut scenario = fleet().await?;
    let image = scenario.push("v2", AppImage::version("v2")).await?;
    let mut draft = draft(&mut scenario, &Stack::app(&image)).await?;
    draft.event.data.plan.waves[1].bake_ms = Some(15_000);
    scenario.publish(&draft).await?;
    scenario.reaches(0, draft.counter(), OutcomeKind::ReleaseCommitted).await?;
    let container = scenario.engine.container_id(&scenario.hosts[0].project, "app")?;
    scenario.engine.docker(&["stop", "--time", "0", &container])?;
    let told = scenario.reaches(0, draft.counter(), OutcomeKind::DriftDetected).await?;
    ensure!(told.promotion == draft.event.id && told.reason.is_some(), "{told:#?}");
    let is_last = |outcome: &Outcome| {
        outcome.counter.0 == draft.counter() && outcome.rollout.as_ref().is_some_and(|state| state.word().is_some())
    };
    ensure!(!scenario.outcomes.seen().iter().any(|seen| is_last(&seen.data)), "it was told after the last word");
    let last = word(&mut scenario, draft.counter()).await?;
    ensure!(last.kind == OutcomeKind::RolloutRolledBack, "{last:#?}");
    scenario.assert_serves("v1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_go_on_where_they_were_after_a_crash() -> Result<()> {
    let mut scenario = fleet().await?;
    let image = scenario.push("v2", AppImage::version("v2")).await?;
    let draft = draft(&mut scenario, &Stack::app(&image)).await?;
    scenario.publish(&draft).await?;
    scenario.reaches(0, draft.counter(), OutcomeKind::ReleaseCommitted).await?;
    for host in 0..HOSTS.len() {
        scenario.hosts[host].executor.kill();
    }
    for host in 0..HOSTS.len() {
        scenario.start_executor(host).await?;
    }
    let last = word(&mut scenario, draft.counter()).await?;
    ensure!(last.kind == OutcomeKind::RolloutSucceeded, "{last:#?}");
    scenario.assert_serves("v2").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_promotion_ends_the_older_rollout() -> Result<()> {
    let mut scenario = fleet().await?;
    let image = scenario.push("v2", AppImage::version("v2")).await?;
    let mut older = draft(&mut scenario, &Stack::app(&image)).await?;
    older.event.data.plan.waves[0].bake_ms = Some(3_000);
    scenario.publish(&older).await?;
    scenario.reaches(0, older.counter(), OutcomeKind::BakeStarted).await?;
    let image = scenario.push("v3", AppImage::version("v3")).await?;
    let newer = draft(&mut scenario, &Stack::app(&image)).await?;
    scenario.publish(&newer).await?;
    let last = word(&mut scenario, older.counter()).await?;
    ensure!(last.kind == OutcomeKind::RolloutAborted, "{last:#?}");
    // The canary was past the point of no return and finished first; the others never began.
    ensure!(scenario.terminal(0, older.counter()).await?.kind == OutcomeKind::DeploySucceeded);
    ensure!(scenario.terminal(3, older.counter()).await?.kind == OutcomeKind::DeploySuperseded);
    let last = word(&mut scenario, newer.counter()).await?;
    ensure!(last.kind == OutcomeKind::RolloutSucceeded, "{last:#?}");
    scenario.assert_serves("v3").await
}

/// Every executor of the environment may write to the bucket: what none of the plan's hosts signed holds nobody up.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_not_believed_is_written_over() -> Result<()> {
    let mut scenario = fleet().await?;
    let image = scenario.push("v2", AppImage::version("v2")).await?;
    let mut draft = draft(&mut scenario, &Stack::app(&image)).await?;
    draft.event.data.plan.waves[0].bake_ms = Some(3_000);
    let promotion = draft.event.data.clone();
    let key = subject::rollout_key(&promotion.env, &promotion.app, promotion.counter);
    scenario.publish(&draft).await?;
    scenario.reaches(0, draft.counter(), OutcomeKind::BakeStarted).await?;
    scenario.bus.write_entry(ROLLOUT, &key, "junk".into(), 0).await?;
    scenario.reaches(0, draft.counter(), OutcomeKind::ReleaseCommitted).await?;
    let last = word(&mut scenario, draft.counter()).await?;
    ensure!(last.kind == OutcomeKind::RolloutSucceeded, "{last:#?}");
    scenario.assert_serves("v2").await
}

/// The host that decided it died before it could tell: the bucket has the word, and no event does.
#[tokio::test(flavor = "multi_thread")]
async fn a_last_word_that_nobody_heard_is_told_after_the_next_start() -> Result<()> {
    let mut scenario = fleet().await?;
    let image = scenario.push("v2", AppImage::version("v2")).await?;
    let draft = draft(&mut scenario, &Stack::app(&image)).await?;
    scenario.publish(&draft).await?;
    let first = word(&mut scenario, draft.counter()).await?;
    for host in 0..HOSTS.len() {
        scenario.terminal(host, draft.counter()).await?;
        scenario.hosts[host].executor.kill();
    }
    let (env, app, state) = (first.env, first.app, first.rollout.context("the state")?);
    let outcomes = scenario.bus.jetstream().get_stream(OUTCOMES).await?;
    outcomes.purge().filter(subject::rollout_filter(&env, Some(&app))).await?;
    // Written once more, so that the server does not take the event for the one that is gone.
    let decided_by = scenario.hosts.iter().find(|host| host.name == state.decided_by).context("the host")?;
    let host_key = StateDir::open(&decided_by.executor.state_dir())?.host_key()?;
    let announcer = Announcer::new(env.clone(), state.decided_by.clone(), host_key);
    let key = subject::rollout_key(&env, &app, state.counter);
    let entry = scenario.bus.entry(ROLLOUT, &key).await?.context("the entry")?;
    let body = announcer.rollout_state(&state, Timestamp::now())?;
    scenario.bus.write_entry(ROLLOUT, &key, body.into(), entry.revision).await?;
    for host in 0..HOSTS.len() {
        scenario.start_executor(host).await?;
    }
    let filter = subject::outcome_kind_filter(&env, &app, first.kind);
    let told = until("the last word is told", DEPLOY_LIMIT, async || {
        let mut told = scenario.bus.outcomes_so_far(&filter).await?;
        told.pop().context("nothing was told")
    });
    let event: CloudEvent<Outcome> = serde_json::from_slice(&told.await?.body)?;
    ensure!(event.data.rollout == Some(state) && event.data.counter == first.counter, "{event:#?}");
    Ok(())
}

async fn say(scenario: &Scenario, draft: &Draft, command: HaltCommand) -> Result<()> {
    let promotion = &draft.event.data;
    let halt = Halt {
        env: promotion.env.clone(),
        app: promotion.app.clone(),
        counter: promotion.counter,
        promotion: draft.event.id,
        command,
        reason: "a test".to_owned(),
        author: "tests".to_owned(),
    };
    let id = EventId(Uuid::now_v7());
    let body = CloudEvent::new(id, "/landfall/producer/tests", TYPE_HALTED, Timestamp::now(), halt).encode()?;
    let signature = scenario.promoter.header(&body)?;
    let subject = subject::halted(&promotion.env, &promotion.app);
    Ok(scenario.bus.publish_signed(&subject, id, &body, Some(&signature), None).await?)
}
