//! `landfall hosts`: who is here, who is away and since when, and what each runs. A host whose last sign of life is old is away; so is one
//! that took part once and gave none in the last months.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use landfall_schema::Timestamp;
use landfall_schema::ids::{AppName, HostName};
use landfall_schema::outcome::Outcome;
use landfall_schema::presence::{EngineState, Presence, RunningRelease};
use landfall_schema::promotion::Promotion;
use landfall_schema::subject;
use serde::Serialize;

use crate::error::{CliError, ExitCode};
use crate::host_keys::HostKeys;
use crate::plan::{is_here, words::of_changed_key};
use crate::reading::{self, Read, age};
use crate::rollout_args::{labels, parse_label};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct HostsArgs {
    /// Only hosts that are here
    #[arg(long)]
    pub here: bool,
    /// Only hosts with this label; repeatable: they have all of them
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
}

#[derive(Debug, Serialize)]
struct HostLine {
    host: HostName,
    here: bool,
    /// Of a host that is away.
    away_since: Option<Timestamp>,
    /// Its last sign of life or last outcome, by the server's clock.
    last_seen: Option<Timestamp>,
    executor_version: Option<String>,
    engine: Option<EngineState>,
    disk_free_bytes: Option<u64>,
    labels: BTreeMap<String, String>,
    /// The key that signs its outcomes, as it says.
    key: Option<String>,
    apps: BTreeMap<AppName, Option<RunningRelease>>,
    /// The applications of which it takes previews.
    previews: BTreeSet<AppName>,
}

pub async fn run(args: HostsArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let env = cli.env()?;
    let bus = cli.bus().await?;
    let output = &cli.output;
    let present = reading::presences(&bus.presence(env).await?, output);
    let promotions = reading::promotions(&bus.register(env).await?, output);
    let named = HostKeys::new(&cli.settings.host_keys, &[]);
    for host in present.iter().map(|read| &read.event.data).filter(|host| !named.agree_with(host)) {
        output.warn(of_changed_key(&host.host));
    }
    let outcomes = reading::outcomes(&bus.newest_outcomes(&subject::outcome_filter(env, None)).await?, output);

    let wanted = labels(&args.labels)?;
    let now = Timestamp::now();
    let mut lines = lines(present, &promotions, &outcomes, now);
    lines.retain(|line| line.here || !args.here);
    let known = lines.len();
    lines.retain(|line| wanted.iter().all(|(key, value)| line.labels.get(key) == Some(value)));
    if output.is_json() {
        output.json(&serde_json::json!({ "env": env, "hosts": lines }))?;
    } else if lines.is_empty() && known > 0 {
        output.note(format!("none of the {known} hosts of {env} has these labels"));
    } else if lines.is_empty() {
        output.note(format!("no host of {env} is known; start landfall-executor on one, with `env = \"{env}\"`"));
    } else {
        output.table(&HEADER, lines.iter().map(|line| row(line, now)))?;
    }
    Ok(ExitCode::Done)
}

const HEADER: [&str; 8] = ["host", "state", "version", "engine", "disk free", "runs", "labels", "last seen"];

fn lines(
    present: Vec<Read<Presence>>,
    promotions: &[Read<Promotion>],
    outcomes: &[Read<Outcome>],
    now: Timestamp,
) -> Vec<HostLine> {
    let mut lines: BTreeMap<HostName, HostLine> = BTreeMap::new();
    for Read { published_at, event, .. } in present {
        let said = event.data;
        let here = is_here(published_at, now);
        let line = HostLine {
            host: said.host.clone(),
            here,
            away_since: (!here).then_some(published_at),
            last_seen: Some(published_at),
            executor_version: Some(said.executor_version),
            engine: Some(said.engine),
            disk_free_bytes: Some(said.disk_free_bytes),
            labels: said.labels,
            key: Some(said.key),
            apps: said.apps,
            previews: said.previews,
        };
        lines.insert(said.host, line);
    }
    for host in promotions.iter().flat_map(|promotion| promotion.event.data.plan.hosts()) {
        lines.entry(host.clone()).or_insert_with(|| HostLine::away(host.clone()));
    }
    for Read { published_at, event, .. } in outcomes {
        let host = &event.data.host;
        let line = lines.entry(host.clone()).or_insert_with(|| HostLine::away(host.clone()));
        line.last_seen = line.last_seen.max(Some(*published_at));
        line.away_since = line.last_seen.filter(|_| !line.here);
    }
    lines.into_values().collect()
}

impl HostLine {
    fn away(host: HostName) -> Self {
        Self {
            host,
            here: false,
            away_since: None,
            last_seen: None,
            executor_version: None,
            engine: None,
            disk_free_bytes: None,
            labels: BTreeMap::new(),
            key: None,
            apps: BTreeMap::new(),
            previews: BTreeSet::new(),
        }
    }
}

fn row(line: &HostLine, now: Timestamp) -> Vec<String> {
    let dash = || "-".to_owned();
    let joined = |parts: Vec<String>| if parts.is_empty() { dash() } else { parts.join(", ") };
    let runs = line.apps.iter().map(|(app, runs)| match runs {
        Some(runs) => format!("{app} {}", runs.release),
        None => format!("{app} (nothing yet)"),
    });
    let previews = line.previews.iter().map(|app| format!("{app} (previews)"));
    vec![
        line.host.to_string(),
        if line.here { "here" } else { "away" }.to_owned(),
        line.executor_version.clone().unwrap_or_else(dash),
        match &line.engine {
            Some(EngineState::Answering { version }) => version.clone(),
            Some(EngineState::Silent { .. }) => "silent".to_owned(),
            None => dash(),
        },
        line.disk_free_bytes.map_or_else(dash, bytes),
        joined(runs.chain(previews).collect()),
        joined(line.labels.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        line.last_seen.map_or_else(dash, |at| format!("{} ago", age(at, now))),
    ]
}

/// `512 MB`, `41.5 GB`.
pub fn bytes(count: u64) -> String {
    match count {
        0..1_000_000_000 => format!("{} MB", count / 1_000_000),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

#[cfg(test)]
#[path = "hosts/tests.rs"]
mod tests;
