//! `landfall hosts`: who is here, and with what. Presence ages out of the bus; a host that took part once and is silent now is away.

use std::collections::BTreeMap;

use clap::Args;
use landfall_schema::Timestamp;
use landfall_schema::ids::{AppName, HostName};
use landfall_schema::outcome::Outcome;
use landfall_schema::presence::{EngineState, Presence, RunningRelease};
use landfall_schema::promotion::Promotion;
use landfall_schema::subject;
use serde::Serialize;

use crate::error::{CliError, ExitCode};
use crate::reading::{self, Read, age};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct HostsArgs {
    /// Only hosts that are here
    #[arg(long)]
    pub here: bool,
}

#[derive(Debug, Serialize)]
struct HostLine {
    host: HostName,
    here: bool,
    /// Its last sign of life or last outcome, by the server's clock.
    last_seen: Option<Timestamp>,
    executor_version: Option<String>,
    engine: Option<EngineState>,
    disk_free_bytes: Option<u64>,
    labels: BTreeMap<String, String>,
    /// The key that signs its outcomes, as it says.
    key: Option<String>,
    apps: BTreeMap<AppName, Option<RunningRelease>>,
}

pub async fn run(args: HostsArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let env = cli.env()?;
    let bus = cli.bus().await?;
    let output = &cli.output;
    let present = reading::presences(&bus.presence(env).await?, output);
    let promotions = reading::promotions(&bus.register(env).await?, output);
    let outcomes = reading::outcomes(&bus.newest_outcomes(&subject::outcome_filter(env, None)).await?, output);

    let mut lines = lines(present, &promotions, &outcomes);
    lines.retain(|line| line.here || !args.here);
    if output.is_json() {
        output.json(&serde_json::json!({ "env": env, "hosts": lines }))?;
    } else if lines.is_empty() {
        output.note(format!("no host of {env} is known; start landfall-executor on one, with `env = \"{env}\"`"));
    } else {
        let header = ["host", "state", "version", "engine", "disk free", "runs", "labels", "last seen"];
        output.table(&header, lines.iter().map(|line| row(line, Timestamp::now())))?;
    }
    Ok(ExitCode::Done)
}

fn lines(present: Vec<Read<Presence>>, promotions: &[Read<Promotion>], outcomes: &[Read<Outcome>]) -> Vec<HostLine> {
    let mut lines: BTreeMap<HostName, HostLine> = BTreeMap::new();
    for Read { published_at, event, .. } in present {
        let said = event.data;
        let line = HostLine {
            host: said.host.clone(),
            here: true,
            last_seen: Some(published_at),
            executor_version: Some(said.executor_version),
            engine: Some(said.engine),
            disk_free_bytes: Some(said.disk_free_bytes),
            labels: said.labels,
            key: Some(said.key),
            apps: said.apps,
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
    }
    lines.into_values().collect()
}

impl HostLine {
    fn away(host: HostName) -> Self {
        Self {
            host,
            here: false,
            last_seen: None,
            executor_version: None,
            engine: None,
            disk_free_bytes: None,
            labels: BTreeMap::new(),
            key: None,
            apps: BTreeMap::new(),
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
        joined(runs.collect()),
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
