//! `landfall status`: what serves where, and what became of the last promotion of each application.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use landfall_schema::Timestamp;
use landfall_schema::ids::{AppName, Counter, EnvName, EventId, HostName, ReleaseName, ServiceName};
use landfall_schema::outcome::{Outcome, OutcomeKind, Reason};
use landfall_schema::presence::{Presence, RunningRelease};
use landfall_schema::promotion::{Intent, PinnedImage, Promotion};
use landfall_schema::rollout::{RolloutState, RolloutWord};
use landfall_schema::subject;
use serde::Serialize;

use crate::error::{CliError, ExitCode};
use crate::follow::words;
use crate::output::Output;
use crate::plan::is_here;
use crate::reading::{self, Read, age};
use crate::rollout::{HostState, HostView, RolloutView, state};
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
    /// Hosts run different releases, and none is at work; or the rollout's last word says so.
    mixed: bool,
    /// The last promotion's rollout, where its hosts act together.
    rollout: Option<RolloutState>,
    hosts: Vec<HostStatus>,
}

#[derive(Debug, Serialize)]
struct PromotionStatus {
    counter: Counter,
    release: ReleaseName,
    intent: Intent,
    /// The services that it changed; empty for all.
    only: BTreeSet<ServiceName>,
    /// What each service is, by tag where somebody named one.
    versions: BTreeMap<ServiceName, String>,
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
    /// Its last sign of life, of a host that is away.
    away_since: Option<Timestamp>,
    /// Whether the last promotion names it.
    planned: bool,
    /// Its wave in the last promotion, from 1.
    wave: Option<usize>,
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
    /// By promotion, as the hosts of its plan have signed it.
    rollouts: BTreeMap<EventId, RolloutState>,
    now: Timestamp,
}

pub async fn run(args: StatusArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let env = cli.env()?;
    let bus = cli.bus().await?;
    let output = &cli.output;
    let register = bus.register(env).await?;
    let app = args.app.as_ref().map(|app| cli.app(app)).transpose()?;
    let newest = bus.newest_outcomes(&subject::outcome_filter(env, app.as_ref())).await?;
    let presence = bus.presence(env).await?;
    let mut facts = Facts {
        promotions: reading::promotions(&register, output),
        outcomes: reading::outcomes(&newest, output),
        present: reading::presences(&presence, output),
        rollouts: BTreeMap::new(),
        now: Timestamp::now(),
    };
    if let Some(app) = &app {
        facts.promotions.retain(|promotion| promotion.event.data.app == *app);
        if facts.promotions.is_empty() {
            let message = format!("{app} was never promoted to {env}");
            return Err(CliError::new(message).hint(format!("landfall status --env {env} lists what was")));
        }
    }
    facts.rollouts = state::read_all(&bus, &facts.promotions, output).await;
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
    output.table(&HEADER, rows)?;
    for app in apps {
        for line in below(app) {
            output.note(line);
        }
        if app.mixed {
            let (app, said) = (&app.app, mixed_hosts(app));
            output.warn(format!(
                "{app} is MIXED in {env}: {said}. Promote again, or `landfall rollback {app} --env {env}`"
            ));
        }
        for host in app.hosts.iter().filter(|host| host.reason.is_some()) {
            output.note(format!("{} on {}: {}", app.app, host.host, host.message.as_deref().unwrap_or(&host.state)));
        }
    }
    Ok(())
}

const HEADER: [&str; 7] = ["app", "host", "here", "runs", "promoted", "state", "since"];

/// What there is to say of the last promotion besides its hosts.
fn below(app: &AppStatus) -> Vec<String> {
    let what = format!("{} {} {}", app.app, app.promotion.release, app.promotion.counter);
    let mut lines = Vec::new();
    if let Some(state) = &app.rollout {
        lines.push(format!("{what}: the rollout {}", words::status_of(state)));
    }
    let different: BTreeSet<&str> = app.promotion.versions.values().map(String::as_str).collect();
    if different.len() > 1 {
        let versions = app.promotion.versions.iter().map(|(service, version)| {
            let changed = if app.promotion.only.contains(service) { " (changed)" } else { "" };
            format!("{service} {version}{changed}")
        });
        lines.push(format!("{what}: {}", versions.collect::<Vec<_>>().join(", ")));
    }
    lines
}

/// `v2 #2 on host-a; v1 #1 on host-b`.
fn mixed_hosts(app: &AppStatus) -> String {
    let mut by_release: BTreeMap<(Counter, &ReleaseName), Vec<&str>> = BTreeMap::new();
    for host in &app.hosts {
        if let Some(runs) = &host.runs {
            by_release.entry((runs.counter, &runs.release)).or_default().push(host.host.as_str());
        }
    }
    let mut parts: Vec<String> = by_release
        .iter()
        .rev()
        .map(|((counter, release), hosts)| format!("{release} {counter} on {}", hosts.join(", ")))
        .collect();
    let differing = app.rollout.iter().flat_map(|state| &state.differing);
    parts.extend(differing.map(|(host, what)| format!("{host}: {what}")));
    parts.join("; ")
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
                match (host.here, host.away_since) {
                    (true, _) => "here".to_owned(),
                    (false, Some(since)) => format!("away {}", age(since, now)),
                    (false, None) => "away".to_owned(),
                },
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
        // What hosts say of the rollout is believed from its signed state alone.
        for outcome in said.iter().filter(|outcome| !outcome.event.data.kind.is_rollout()) {
            view.fold(&outcome.event.data);
        }
        if let Some(state) = self.rollouts.get(&view.id) {
            view.learn(state);
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
        let is_rolling = view.rollout.is_some() && view.word().is_none();
        let at_work = is_rolling || hosts.iter().any(|host| host.here && host.planned && !host.ended);
        let here: Vec<&HostStatus> = hosts.iter().filter(|host| host.here || host.away_since.is_none()).collect();
        let differ = the_same(here.iter().map(|host| host.runs.as_ref())).is_none();
        let mixed = !at_work && differ && here.iter().any(|host| host.runs.is_some());
        AppStatus {
            app: data.app.clone(),
            promotion: PromotionStatus {
                counter: data.counter,
                release: data.release.clone(),
                intent: data.intent.clone(),
                only: data.only.clone(),
                versions: data.images.iter().map(|(service, image)| (service.clone(), version(image))).collect(),
                author: data.author.clone(),
                link: data.link.clone(),
                published_at: promotion.published_at,
                expires_at: data.expires_at,
            },
            mixed: mixed || view.word() == Some(RolloutWord::Mixed),
            rollout: view.rollout.clone(),
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
        let seen_at =
            self.present.iter().find(|presence| presence.event.data.host == *host).map(|read| read.published_at);
        let here = seen_at.is_some_and(|at| is_here(at, self.now));
        HostStatus {
            host: host.clone(),
            here,
            away_since: seen_at.filter(|_| !here),
            wave: view.and_then(|view| Some(view.wave? + 1)),
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

/// The tag that somebody named, else the digest.
fn version(image: &PinnedImage) -> String {
    image.tag.clone().unwrap_or_else(|| image.digest.short().to_owned())
}

/// What all of them are, if they all are the same.
fn the_same<'a>(mut all: impl Iterator<Item = Option<&'a RunningRelease>>) -> Option<RunningRelease> {
    let first = all.next()??;
    all.all(|one| one == Some(first)).then(|| first.clone())
}

#[cfg(test)]
#[path = "status/tests.rs"]
mod tests;
