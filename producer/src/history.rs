//! `landfall history`: the promotions of the past, newest first, and how each host ended.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use landfall_schema::Timestamp;
use landfall_schema::ids::{AppName, EventId, HostName};
use landfall_schema::outcome::{Outcome, Reason};
use landfall_schema::promotion::{Intent, PinnedImage, Promotion};
use landfall_schema::rollout::RolloutState;
use landfall_schema::subject;
use serde::Serialize;

use crate::error::{CliError, ExitCode};
use crate::host_keys::{self, Believed, HostKeys};
use crate::output;
use crate::plan::{self, words::as_verified};
use crate::promoters::{Promoters, Trust};
use crate::reading::{self, Read, time};
use crate::rollout::{Folded, HostState, HostView, RolloutView, UNTOUCHED, state};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Only this application
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
    /// At most this many promotions
    #[arg(long, short = 'n', default_value_t = 20, value_name = "COUNT")]
    pub limit: usize,
}

/// One promotion of the past.
#[derive(Debug, Serialize)]
struct Past {
    id: EventId,
    app: AppName,
    counter: u64,
    release: String,
    intent: Intent,
    author: String,
    link: Option<String>,
    published_at: Timestamp,
    images: BTreeMap<String, PinnedImage>,
    /// The rollout's last word where the hosts act together; else `succeeded` and so on when all hosts of the plan ended alike, `mixed`, or
    /// `running`.
    result: String,
    /// Why the rollout ended so.
    cause: Option<Reason>,
    hosts: Vec<PastHost>,
}

#[derive(Debug, Serialize)]
struct PastHost {
    host: HostName,
    planned: bool,
    /// Its wave, from 1.
    wave: Option<usize>,
    /// The terminal outcome's verb, `running`, or `silent` after the plan's deadline.
    outcome: String,
    /// Whether that was signed by the key that is known as the host's. Else it is a claim.
    verified: bool,
    /// The rollout ended before it was this host's turn, or while it was getting ready.
    untouched: bool,
    duration_ms: Option<u64>,
    timings_ms: BTreeMap<String, u64>,
    former: Option<String>,
    reason: Option<Reason>,
}

pub async fn run(args: HistoryArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let env = cli.env()?;
    let bus = cli.bus().await?;
    let app = args.app.as_ref().map(|app| cli.app(app)).transpose()?;
    let messages = bus.promotions(env, app.as_ref()).await?;
    let mut promotions = reading::promotions(&messages, &cli.output);
    let ends = bus.outcomes_so_far(&subject::terminal_filter(env, app.as_ref())).await?;
    promotions.sort_by_key(|promotion| std::cmp::Reverse(promotion.sequence));
    promotions.truncate(args.limit);
    let known = plan::known(&bus, env, &cli.output).await?;
    let general = HostKeys::new(&cli.settings.host_keys, &known);
    let trust = Promoters::of(cli).trust_each(&messages);
    let trust = |read: &Read<Promotion>| trust.get(&read.sequence).copied().unwrap_or(Trust::Stranger);
    let plans = promotions.iter().map(|read| (read.event.id, &read.event.data, trust(read)));
    let by_plan = host_keys::by_promotion(&bus, plans, &general, &cli.output).await;
    let shown: BTreeSet<EventId> = promotions.iter().map(|read| read.event.id).collect();
    let keys = |end: &Outcome| {
        let is_shown = shown.contains(&end.promotion) && !end.kind.is_rollout();
        is_shown.then(|| by_plan.get(&end.promotion).unwrap_or(&general))
    };
    let ends = Believed::sort(&ends, keys, &cli.output);
    let believed: Vec<_> = promotions.iter().filter(|read| trust(read) != Trust::Stranger).cloned().collect();
    let rollouts = state::read_all(&bus, &believed, &cli.output).await;

    let pasts = pasts(&promotions, &ends, &rollouts, Timestamp::now());
    if cli.output.is_json() {
        cli.output.json(&serde_json::json!({ "env": env, "promotions": pasts }))?;
    } else if pasts.is_empty() {
        let what = app.map_or("nothing was ever".to_owned(), |app| format!("{app} was never"));
        cli.output.note(format!("{what} promoted to {env}"));
    } else {
        cli.output.table(&HEADER, rows(&pasts))?;
    }
    Ok(ExitCode::Done)
}

const HEADER: [&str; 10] = ["app", "#", "release", "when (UTC)", "by", "result", "host", "outcome", "took", "why"];

fn pasts(
    promotions: &[Read<Promotion>],
    ends: &Believed,
    rollouts: &BTreeMap<EventId, RolloutState>,
    now: Timestamp,
) -> Vec<Past> {
    let mut views: BTreeMap<EventId, RolloutView> =
        promotions.iter().map(|promotion| (promotion.event.id, RolloutView::new(&promotion.event))).collect();
    for end in &ends.proven {
        if let Some(view) = views.get_mut(&end.event.data.promotion) {
            view.fold(&end.event.data);
        }
    }
    // Of a host that has ended by its own word a claim is folded into nothing.
    let mut claimed: BTreeSet<(EventId, HostName)> = BTreeSet::new();
    for Read { event, .. } in &ends.claimed {
        if let Some(view) = views.get_mut(&event.data.promotion)
            && view.fold(&event.data) == Folded::News
        {
            claimed.insert((event.data.promotion, event.data.host.clone()));
        }
    }
    for (id, state) in rollouts {
        if let Some(view) = views.get_mut(id) {
            view.learn(state);
        }
    }
    let mut pasts: Vec<Past> =
        promotions.iter().filter_map(|promotion| Some(past(promotion, views.get(&promotion.event.id)?, now))).collect();
    for past in &mut pasts {
        for host in &mut past.hosts {
            host.verified = !claimed.contains(&(past.id, host.host.clone()));
        }
        let is_claimed = past.hosts.iter().any(|host| host.planned && !host.verified);
        let has_word = views.get(&past.id).is_some_and(|view| view.word().is_some());
        past.result = as_verified(&past.result, has_word || !is_claimed);
    }
    pasts
}

fn past(promotion: &Read<Promotion>, view: &RolloutView, now: Timestamp) -> Past {
    let data = &promotion.event.data;
    let waited_ms = u64::try_from(now.as_millisecond() - promotion.published_at.as_millisecond()).unwrap_or(0);
    let late = waited_ms > view.limit_with_unwinding_ms() || view.word().is_some();
    let hosts: Vec<PastHost> = view.hosts.iter().map(|(host, view)| past_host(host, view, late)).collect();
    let mut outcomes: Vec<&str> = hosts.iter().filter(|host| host.planned).map(|host| host.outcome.as_str()).collect();
    outcomes.dedup();
    let result = match (view.word(), outcomes.as_slice()) {
        (Some(word), _) => word.outcome_kind().verb(),
        (None, _) if view.rollout.is_some() && !late => "running",
        (None, []) => "no host",
        (None, [one]) => one,
        (None, several) if several.contains(&"running") => "running",
        (None, _) => "mixed",
    };
    Past {
        id: promotion.event.id,
        app: data.app.clone(),
        counter: data.counter.0,
        release: data.release.to_string(),
        intent: data.intent.clone(),
        author: data.author.clone(),
        link: data.link.clone(),
        published_at: promotion.published_at,
        images: data.images.iter().map(|(service, image)| (service.to_string(), image.clone())).collect(),
        result: result.to_owned(),
        cause: view.rollout.as_ref().and_then(|state| state.cause.clone()),
        hosts,
    }
}

fn past_host(host: &HostName, view: &HostView, late: bool) -> PastHost {
    let end = view.end();
    let open = if late { "silent" } else { "running" };
    PastHost {
        host: host.clone(),
        planned: view.planned,
        wave: view.wave.map(|wave| wave + 1),
        outcome: match view.state {
            HostState::Away => "not_reached",
            _ => end.map_or(open, |outcome| outcome.kind.verb()),
        }
        .to_owned(),
        verified: true,
        untouched: view.is_untouched(),
        duration_ms: end.and_then(|outcome| outcome.duration_ms),
        timings_ms: end.map(|outcome| outcome.timings_ms.clone()).unwrap_or_default(),
        former: end.and_then(|outcome| outcome.former.as_ref()).map(ToString::to_string),
        reason: end.and_then(|outcome| outcome.reason.clone()),
    }
}

/// Longest reason in the table, in characters; JSON has it whole.
const WHY_MAX_CHARS: usize = 80;

/// A line per host; the promotion's own columns are filled in the first.
fn rows(pasts: &[Past]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for past in pasts {
        let release = match past.intent {
            Intent::Promote => past.release.clone(),
            Intent::Rollback { to } => format!("{} (back to {to})", past.release),
            Intent::Remove => "(removed)".to_owned(),
        };
        let counter = past.counter.to_string();
        let (when, by) = (time(past.published_at), past.author.clone());
        let mut own = vec![past.app.to_string(), counter, release, when, by, past.result.clone()];
        if past.hosts.is_empty() {
            rows.push([own.clone(), vec!["-".to_owned(), "-".to_owned()]].concat());
        }
        for host in &past.hosts {
            let mut row = own.clone();
            row.push(host.host.to_string());
            row.push(as_verified(if host.untouched { UNTOUCHED } else { &host.outcome }, host.verified));
            row.push(host.duration_ms.map_or("-".to_owned(), output::duration));
            row.push(why(host));
            rows.push(row);
            own.fill(String::new());
        }
    }
    rows
}

fn why(host: &PastHost) -> String {
    let Some(reason) = &host.reason else { return String::new() };
    shortened(&reason.message)
}

fn shortened(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let mut short: String = line.chars().take(WHY_MAX_CHARS).collect();
    if short.len() < message.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
#[path = "history/tests.rs"]
mod tests;
