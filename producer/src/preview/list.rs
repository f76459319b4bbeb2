//! `landfall preview list`: which previews there are, where, and until when.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use landfall_schema::Timestamp;
use landfall_schema::ids::{AppName, Counter, EventId, HostName, ReleaseName};
use landfall_schema::outcome::Outcome;
use landfall_schema::promotion::{Intent, Promotion};
use landfall_schema::subject;
use serde::Serialize;

use crate::error::{CliError, ExitCode};
use crate::host_keys::{self, Believed, HostKeys};
use crate::plan::{self, words::as_verified};
use crate::promoters::{Promoters, Trust};
use crate::reading::{self, Read, age};
use crate::rollout::{Folded, RolloutView};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only previews of this application
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
    /// Those that were taken away or whose time is over as well
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    of: AppName,
    name: AppName,
    /// The preview's own application.
    app: AppName,
    counter: Counter,
    release: ReleaseName,
    author: String,
    /// `live`, `expired` or `removed`, as it was asked for.
    state: &'static str,
    expires_at: Timestamp,
    /// How the last promotion ended on each host, the step it is at, or `silent`.
    hosts: BTreeMap<HostName, String>,
}

pub async fn run(args: ListArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let env = cli.preview_env()?;
    let bus = cli.bus().await?;
    let register = bus.register(&env).await?;
    let promotions = reading::promotions(&register, &cli.output);
    let known = plan::known(&bus, &env, &cli.output).await?;
    let general = HostKeys::new(&cli.settings.host_keys, &known);
    let trust = Promoters::of(cli).trust_each(&register);
    let trust = |sequence| trust.get(&sequence).copied().unwrap_or(Trust::Stranger);
    let plans = promotions.iter().map(|read| (read.event.id, &read.event.data, trust(read.sequence)));
    let by_plan = host_keys::by_promotion(&bus, plans, &general, &cli.output).await;
    let newest: BTreeSet<EventId> = promotions.iter().map(|read| read.event.id).collect();
    let keys =
        |said: &Outcome| newest.contains(&said.promotion).then(|| by_plan.get(&said.promotion).unwrap_or(&general));
    let outcomes = bus.newest_outcomes(&subject::outcome_filter(&env, None)).await?;
    let outcomes = Believed::sort_newest(&bus, &outcomes, keys, &cli.output).await?;
    let now = Timestamp::now();
    let mut lines = lines(&promotions, &outcomes, now);
    lines.retain(|line| args.app.as_ref().is_none_or(|app| line.of == *app));
    lines.retain(|line| args.all || line.state == "live");
    if cli.output.is_json() {
        cli.output.json(&serde_json::json!({ "env": env, "previews": lines }))?;
    } else if lines.is_empty() {
        cli.output.note(format!("no preview is in {env}; make one with `landfall promote APP --env {env}/NAME`"));
    } else {
        let header = ["app", "preview", "release", "by", "state", "until (UTC)", "hosts"];
        cli.output.table(&header, lines.iter().map(|line| row(line, now)))?;
    }
    Ok(ExitCode::Done)
}

fn lines(promotions: &[Read<Promotion>], outcomes: &Believed, now: Timestamp) -> Vec<Line> {
    let line = |read: &Read<Promotion>| {
        let data = &read.event.data;
        let preview = data.preview.as_ref()?;
        let mut view = RolloutView::new(&read.event);
        for outcome in &outcomes.proven {
            view.fold(&outcome.event.data);
        }
        let mut claimed = BTreeSet::new();
        for Read { event, .. } in &outcomes.claimed {
            if view.fold(&event.data) == Folded::News {
                claimed.insert(event.data.host.clone());
            }
        }
        Some(Line {
            of: preview.of.clone(),
            name: preview.name.clone(),
            app: data.app.clone(),
            counter: data.counter,
            release: data.release.clone(),
            author: data.author.clone(),
            state: match data.intent {
                Intent::Remove => "removed",
                Intent::Promote | Intent::Rollback { .. } if preview.expires_at <= now => "expired",
                Intent::Promote | Intent::Rollback { .. } => "live",
            },
            expires_at: preview.expires_at,
            hosts: view
                .hosts
                .iter()
                .map(|(host, view)| (host.clone(), as_verified(&view.word(), !claimed.contains(host))))
                .collect(),
        })
    };
    let mut lines: Vec<Line> = promotions.iter().filter_map(line).collect();
    lines.sort_by(|one, other| (&one.of, &one.name).cmp(&(&other.of, &other.name)));
    lines
}

fn row(line: &Line, now: Timestamp) -> Vec<String> {
    let hosts: Vec<String> = line.hosts.iter().map(|(host, state)| format!("{host} {state}")).collect();
    let until = match line.state {
        "live" => format!("{} (in {})", reading::time(line.expires_at), age(now, line.expires_at)),
        _ => reading::time(line.expires_at),
    };
    vec![
        line.of.to_string(),
        line.name.to_string(),
        line.release.to_string(),
        line.author.clone(),
        line.state.to_owned(),
        until,
        if hosts.is_empty() { "-".to_owned() } else { hosts.join(", ") },
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use landfall_schema::promotion::Preview;

    use super::*;
    use crate::fixtures::{at, promoted, said};
    use crate::output::table;

    #[test]
    fn previews_and_until_when() {
        let preview = |counter: u64, name: &str, until: i64, intent: Intent| {
            let mut read = promoted(1, counter, &["host-a"]);
            let of: AppName = "shop".parse().unwrap();
            read.event.data.preview = Some(Preview { of, name: name.parse().unwrap(), expires_at: at(until) });
            read.event.data.intent = intent;
            read
        };
        let promotions = [
            preview(1, "pr-2", 50, Intent::Promote),
            preview(2, "pr-1", 90_100, Intent::Promote),
            preview(3, "pr-3", 90_100, Intent::Remove),
            promoted(1, 4, &["host-a"]),
        ];
        let outcomes = Believed { proven: vec![said(5, "host-a 2 deploy.succeeded")], ..Believed::default() };
        let lines = lines(&promotions, &outcomes, at(100));
        let expect = "\
APP   PREVIEW  RELEASE  BY  STATE    UNTIL (UTC)                    HOSTS
shop  pr-1     v2       ci  live     2027-01-16 09:01:40 (in 25 h)  host-a succeeded
shop  pr-2     v1       ci  expired  2027-01-15 08:00:50            host-a silent
shop  pr-3     v3       ci  removed  2027-01-16 09:01:40            host-a silent";
        let header = ["app", "preview", "release", "by", "state", "until (UTC)", "hosts"];
        let text = table(&header, lines.iter().map(|line| row(line, at(100))));
        assert_eq!(text, expect);
    }
}
