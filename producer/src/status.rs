//! `landfall status`: what serves where, and what became of the last promotion of each application.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use landfall_schema::Timestamp;
use landfall_schema::ids::{AppName, Counter, EnvName, HostName, ReleaseName};
use landfall_schema::outcome::{Outcome, OutcomeKind, Reason};
use landfall_schema::presence::{Presence, RunningRelease};
use landfall_schema::promotion::{Intent, Promotion};
use landfall_schema::subject;
use serde::Serialize;

use crate::error::{CliError, ExitCode};
use crate::output::Output;
use crate::reading::{self, Read, age};
use crate::rollout::{HostState, HostView, RolloutView};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only this application
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
}

/// One application in one environment.
#[derive(Debug, Serialize)]
struct AppStatus {
    app: AppName,
    promotion: PromotionStatus,
    /// The release that every host runs, when they all run the same.
    serving: Option<RunningRelease>,
    /// Hosts run different releases, and none is at work.
    mixed: bool,
    hosts: Vec<HostStatus>,
}

#[derive(Debug, Serialize)]
struct PromotionStatus {
    counter: Counter,
    release: ReleaseName,
    intent: Intent,
    author: String,
    link: Option<String>,
    published_at: Timestamp,
    expires_at: Timestamp,
}

#[derive(Debug, Serialize)]
struct HostStatus {
    host: HostName,
    /// Whether its executor gives signs of life.
    here: bool,
    /// Whether the last promotion names it.
    planned: bool,
    runs: Option<RunningRelease>,
    /// How the last promotion ended here, the step it is at, or `silent`.
    state: String,
    ended: bool,
    message: Option<String>,
    reason: Option<Reason>,
    /// When the last outcome of the last promotion was published.
    since: Option<Timestamp>,
}

/// What was read from the bus.
struct Facts {
    promotions: Vec<Read<Promotion>>,
    outcomes: Vec<Read<Outcome>>,
    present: Vec<Read<Presence>>,
}

pub async fn run(args: StatusArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let env = cli.env()?;
    let bus = cli.bus().await?;
    let output = &cli.output;
    let register = bus.register(env).await?;
    let newest = bus.newest_outcomes(&subject::outcome_filter(env, args.app.as_ref())).await?;
    let presence = bus.presence(env).await?;
    let mut facts = Facts {
        promotions: reading::promotions(&register, output),
        outcomes: reading::outcomes(&newest, output),
        present: reading::presences(&presence, output),
    };
    if let Some(app) = &args.app {
        facts.promotions.retain(|promotion| promotion.event.data.app == *app);
        if facts.promotions.is_empty() {
            let message = format!("{app} was never promoted to {env}");
            return Err(CliError::new(message).hint(format!("landfall status --env {env} lists what was")));
        }
    }
    let apps: Vec<AppStatus> = facts.promotions.iter().map(|promotion| facts.app(promotion)).collect();
    show(env, &apps, output)?;
    Ok(ExitCode::Done)
}

fn show(env: &EnvName, apps: &[AppStatus], output: &Output) -> Result<(), CliError> {
    if output.is_json() {
        return output.json(&serde_json::json!({ "env": env, "apps": apps }));
    }
    if apps.is_empty() {
        output.note(format!("nothing was promoted to {env} yet"));
        return Ok(());
    }
    let rows = rows(apps, Timestamp::now());
    output.table(&["app", "host", "here", "runs", "promoted", "state", "since"], rows)?;
    for app in apps {
        if app.mixed {
            output.warn(format!("{}: the hosts run different releases; promote again, or roll back", app.app));
        }
        for host in app.hosts.iter().filter(|host| host.reason.is_some()) {
            output.note(format!("{} on {}: {}", app.app, host.host, host.message.as_deref().unwrap_or(&host.state)));
        }
    }
    Ok(())
}

fn rows(apps: &[AppStatus], now: Timestamp) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for app in apps {
        let promoted = format!("{} {}", app.promotion.release, app.promotion.counter);
        if app.hosts.is_empty() {
            let age = age(app.promotion.published_at, now);
            rows.push([app.app.as_str(), "-", "-", "-", &promoted, "no host", &age].map(str::to_owned).to_vec());
        }
        for host in &app.hosts {
            rows.push(vec![
                app.app.to_string(),
                host.host.to_string(),
                if host.here { "here" } else { "away" }.to_owned(),
                host.runs.as_ref().map_or("-".to_owned(), |runs| format!("{} {}", runs.release, runs.counter)),
                promoted.clone(),
                host.state.clone(),
                age(host.since.unwrap_or(app.promotion.published_at), now),
            ]);
        }
    }
    rows
}

impl Facts {
    fn app(&self, promotion: &Read<Promotion>) -> AppStatus {
        let data = &promotion.event.data;
        let said: Vec<&Read<Outcome>> =
            self.outcomes.iter().filter(|outcome| outcome.event.data.app == data.app).collect();
        let mut view = RolloutView::new(&promotion.event);
        for outcome in &said {
            view.fold(&outcome.event.data);
        }
        let takers =
            self.present.iter().map(|presence| &presence.event.data).filter(|p| p.apps.contains_key(&data.app));
        let runs = self.runs(&data.app);
        let hosts: BTreeSet<&HostName> =
            view.hosts.keys().chain(takers.map(|presence| &presence.host)).chain(runs.keys()).collect();
        let hosts: Vec<HostStatus> = hosts
            .into_iter()
            .map(|host| {
                let mine = |outcome: &&&Read<Outcome>| {
                    outcome.event.data.host == *host && outcome.event.data.promotion == view.id
                };
                let since = said.iter().filter(mine).map(|outcome| outcome.published_at).max();
                self.host(host, view.hosts.get(host), runs.get(host).cloned(), since)
            })
            .collect();
        let serving = the_same(hosts.iter().map(|host| host.runs.as_ref()));
        let at_work = hosts.iter().any(|host| host.here && host.planned && !host.ended);
        AppStatus {
            app: data.app.clone(),
            promotion: PromotionStatus {
                counter: data.counter,
                release: data.release.clone(),
                intent: data.intent.clone(),
                author: data.author.clone(),
                link: data.link.clone(),
                published_at: promotion.published_at,
                expires_at: data.expires_at,
            },
            mixed: !at_work && serving.is_none() && hosts.iter().any(|host| host.runs.is_some()),
            serving,
            hosts,
        }
    }

    fn host(
        &self,
        host: &HostName,
        view: Option<&HostView>,
        runs: Option<RunningRelease>,
        since: Option<Timestamp>,
    ) -> HostStatus {
        let end = view.and_then(HostView::end);
        let message = match view.map(|view| &view.state) {
            Some(HostState::Working { message, .. }) => Some(message.clone()),
            Some(HostState::Ended(outcome)) => Some(outcome.message.clone()),
            Some(HostState::Silent | HostState::Away) | None => None,
        };
        HostStatus {
            host: host.clone(),
            here: self.present.iter().any(|presence| presence.event.data.host == *host),
            planned: view.is_some_and(|view| view.planned),
            runs,
            state: view.map_or("not in the plan".to_owned(), HostView::word),
            ended: end.is_some(),
            message,
            reason: end.and_then(|outcome| outcome.reason.clone()),
            since,
        }
    }

    /// What each host runs of an application: what it committed last, or what it has said itself since then.
    fn runs(&self, app: &AppName) -> BTreeMap<HostName, RunningRelease> {
        let mut known: BTreeMap<HostName, (Timestamp, Option<RunningRelease>)> = BTreeMap::new();
        let mut learn = |host: &HostName, at: Timestamp, runs: Option<RunningRelease>| match known.get(host) {
            Some((earlier, _)) if *earlier > at => {}
            _ => drop(known.insert(host.clone(), (at, runs))),
        };
        for Read { published_at, event, .. } in &self.outcomes {
            let said = &event.data;
            if said.app == *app && said.kind == OutcomeKind::ReleaseCommitted {
                let runs = RunningRelease { counter: said.counter, release: said.release.clone() };
                learn(&said.host, *published_at, Some(runs));
            }
        }
        for Read { published_at, event, .. } in &self.present {
            if let Some(runs) = event.data.apps.get(app) {
                learn(&event.data.host, *published_at, runs.clone());
            }
        }
        known.into_iter().filter_map(|(host, (_, runs))| Some((host, runs?))).collect()
    }
}

/// What all of them are, if they all are the same.
fn the_same<'a>(mut all: impl Iterator<Item = Option<&'a RunningRelease>>) -> Option<RunningRelease> {
    let first = all.next()??;
    all.all(|one| one == Some(first)).then(|| first.clone())
}

#[cfg(test)]
#[path = "status/tests.rs"]
mod tests;
