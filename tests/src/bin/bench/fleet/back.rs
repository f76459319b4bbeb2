//! A broken release: how soon nobody else begins, and how soon every host that had moved is proven to be back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{FutureExt as _, StreamExt as _};
use landfall_schema::event::CloudEvent;
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::subject;
use landfall_tests::fleet::lease::Use;
use landfall_tests::fleet::scenario::FleetScenario;
use landfall_tests::image::AppImage;
use landfall_tests::promotion::Draft;
use landfall_tests::registry::PushedImage;
use landfall_tests::scenario::DEPLOY_LIMIT;
use landfall_tests::stack::Stack;
use tokio::time::timeout;

/// It serves, unless the host's own setting says that it does not work there.
const SCRIPT: &str = "test -z \"$BROKEN\" || exit 7; exec httpd -f -p 8080 -h /www";
const SETTING: &str = "environment: {BROKEN: \"${BROKEN:-}\"}";

#[derive(Default)]
pub(crate) struct Samples {
    pub(crate) hosts: usize,
    /// From the failing host's last outcome, which says that it failed, to the state that lets no other host begin.
    pub(crate) halted: Vec<Duration>,
    /// From the publication to that state.
    pub(crate) published_to_halted: Vec<Duration>,
    /// From `rollout.rolling_back` to `rollout.rolled_back`.
    pub(crate) taken_back: Vec<Duration>,
}

pub(crate) async fn measure(hosts: usize, runs: usize) -> Result<Samples> {
    let (mut fleet, v1) = FleetScenario::with_v1(hosts, Use::Shared).await?;
    let mut samples = Samples { hosts, ..Samples::default() };
    for run in 0..=runs {
        eprintln!("{hosts} hosts, a broken first wave: run {run} of {runs}");
        let (halted, published_to_halted) = halt(&mut fleet, run).await?;
        eprintln!("  halted within {halted:.3?}; all but one go back: run {run} of {runs}");
        let taken_back = take_back(&mut fleet, run).await?;
        eprintln!("  back within {taken_back:.2?}");
        fleet.assert_runs_everywhere(&v1, "v1").await?;
        if run > 0 {
            samples.halted.push(halted);
            samples.published_to_halted.push(published_to_halted);
            samples.taken_back.push(taken_back);
        }
    }
    Ok(samples)
}

/// The first of two waves is one host, and the release does not work on it.
async fn halt(fleet: &mut FleetScenario, run: usize) -> Result<(Duration, Duration)> {
    let before = fleet.hosts[1..].iter().map(|host| host.snapshot()).collect::<Result<Vec<_>>>()?;
    let version = format!("h{run}");
    let image = fleet.push(&version, AppImage::version(&version).exits(7)).await?;
    let draft = draft(fleet, Stack::app(&image), 1).await?;
    let times = publish(fleet, &draft).await?;
    let failed = times.failed.context("nobody failed")?;
    let rolling_back = times.state_changed.context("the state did not change")?;
    for (host, before) in fleet.hosts[1..].iter().zip(&before) {
        host.assert_untouched(before)?;
    }
    Ok((rolling_back.saturating_duration_since(failed), rolling_back - times.began))
}

/// The release works on all hosts but the last, which is a wave of its own.
async fn take_back(fleet: &mut FleetScenario, run: usize) -> Result<Duration> {
    let last = fleet.hosts.len();
    let settings = fleet.host(last).directory.join(".env");
    let text = std::fs::read_to_string(&settings)?;
    std::fs::write(&settings, format!("{text}BROKEN=1\n"))?;
    let version = format!("b{run}");
    let image: PushedImage = fleet.push(&version, AppImage::version(&version).script(SCRIPT)).await?;
    let draft = draft(fleet, Stack::app(&image).app_lines(SETTING), last - 1).await?;
    let times = publish(fleet, &draft).await?;
    std::fs::write(&settings, text)?;
    let counter = draft.counter();
    for ended in fleet.terminals(&fleet.numbers(), counter).await? {
        ensure!(ended.kind == OutcomeKind::DeployRolledBack, "{ended:#?}");
    }
    Ok(times.rolled_back.context("no last word")? - times.rolling_back.context("nobody said that it goes back")?)
}

/// Two waves: the first so many hosts, and the others.
async fn draft(fleet: &FleetScenario, stack: Stack, first: usize) -> Result<Draft> {
    let names: Vec<String> = fleet.hosts.iter().map(|host| host.name.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (first, second) = names.split_at(first);
    fleet.draft(&stack).await?.coordinate(&fleet.bus, &[first, second]).await
}

/// When each of these was heard, by this machine's one clock.
struct Times {
    began: Instant,
    failed: Option<Instant>,
    state_changed: Option<Instant>,
    rolling_back: Option<Instant>,
    rolled_back: Option<Instant>,
}

/// Publishes, and listens until the rollout's last word.
async fn publish(fleet: &FleetScenario, draft: &Draft) -> Result<Times> {
    let client = fleet.bus.client();
    let mut said = client.subscribe(subject::outcome_filter(&fleet.env, Some(&fleet.app))).await?;
    let key = subject::rollout_key(&fleet.env, &fleet.app, draft.event.data.counter);
    let mut states = client.subscribe(subject::rollout_subject(&key)).await?;
    client.flush().await?;
    let began = Instant::now();
    fleet.publish(draft).await?;
    let mut times = Times { began, failed: None, state_changed: None, rolling_back: None, rolled_back: None };
    let mut written = Vec::new();
    while times.rolled_back.is_none() {
        let left = DEPLOY_LIMIT.saturating_sub(began.elapsed());
        let next = async {
            // The state was written before it was told; when both are here, it comes first.
            tokio::select! {
                biased;
                state = states.next() => (state, false),
                said = said.next() => (said, true),
            }
        };
        let (message, is_outcome) = timeout(left, next).await.context("the rollout has no last word")?;
        let (Some(message), now) = (message, Instant::now()) else { bail!("the bus is not heard any more") };
        if !is_outcome {
            written.push(now);
            continue;
        }
        let outcome = serde_json::from_slice::<CloudEvent<Outcome>>(&message.payload)?.data;
        if outcome.counter != draft.event.data.counter {
            continue;
        }
        match outcome.kind {
            OutcomeKind::DeployRolledBack | OutcomeKind::DeployFailed | OutcomeKind::DeployStuck => {
                times.failed = times.failed.or(Some(now));
            }
            OutcomeKind::RolloutRollingBack => {
                times.rolling_back = Some(now);
                // It is said after it was written: what was written last before it is that state. Both may have come while the select looked.
                while states.next().now_or_never().flatten().is_some() {
                    written.push(now);
                }
                times.state_changed = written.last().copied();
            }
            OutcomeKind::RolloutRolledBack => times.rolled_back = Some(now),
            kind if kind.is_rollout() && kind.is_failure() => bail!("the rollout ended otherwise: {outcome:#?}"),
            _ => {}
        }
    }
    Ok(times)
}
