//! `landfall status`: what serves where, and what became of the last promotion of each application.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use landfall_bus::Bus;
use landfall_schema::Timestamp;
use landfall_schema::event::CloudEvent;
use landfall_schema::ids::{AppName, Counter, EnvName, EventId, HostName, ReleaseName, ServiceName};
use landfall_schema::outcome::{Outcome, OutcomeKind, Reason};
use landfall_schema::presence::{Presence, RunningRelease};
use landfall_schema::promotion::{Intent, PinnedImage, Promotion};
use landfall_schema::rollout::{RolloutState, RolloutWord};
use landfall_schema::subject;
use serde::Serialize;

use crate::error::{CliError, ExitCode};
use crate::follow::words;
use crate::host_keys::{self, Believed, HostKeys};
use crate::output::Output;
use crate::plan::words::listed;
use crate::plan::{self, KnownHost, is_here};
use crate::promoters::{Promoters, Trust};
use crate::reading::{self, Read, age};
use crate::rollout::{HostState, HostView, RolloutView, UNTOUCHED, state};
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
    /// Whether that was signed by the key that is known as the host's. Else it is a claim.
    runs_verified: bool,
    /// How the last promotion ended here, the step it is at, or `silent`.
    state: String,
    /// As `runs_verified`.
    state_verified: bool,
    ended: bool,
    /// The rollout ended before it was this host's turn, or while it was getting ready.
    untouched: bool,
    message: Option<String>,
    reason: Option<Reason>,
    /// When the last outcome of the last promotion was published.
    since: Option<Timestamp>,
}

/// What was read from the bus.
#[derive(Default)]
struct Facts {
    promotions: Vec<Read<Promotion>>,
    outcomes: Believed,
    present: Vec<Read<Presence>>,
    /// By which keys hosts are believed about each application.
    keys: BTreeMap<AppName, HostKeys>,
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
        present: reading::presences(&presence, output),
        now: Timestamp::now(),
        ..Facts::default()
    };
    if let Some(app) = &app {
        facts.promotions.retain(|promotion| promotion.event.data.app == *app);
        if facts.promotions.is_empty() {
            let message = format!("{app} was never promoted to {env}");
            return Err(CliError::new(message).hint(format!("landfall status --env {env} lists what was")));
        }
    }
    let trust = Promoters::of(cli).trust_each(&register);
    let trust = |read: &Read<Promotion>| trust.get(&read.sequence).copied().unwrap_or(Trust::Stranger);
    for Read { event, .. } in facts.promotions.iter().filter(|read| trust(read) == Trust::Stranger) {
        let Promotion { app, counter, .. } = &event.data;
        output.warn(format!(
            "promotion {counter} of {app} is signed by nobody whom `trusted_promoters` of the context names, so its plan is not believed"
        ));
    }
    facts.keys = keys(&bus, &facts, trust, cli).await;
    // Only what tells how it stands is verified: of a large fleet there is much more.
    let newest_ids: BTreeSet<EventId> = facts.promotions.iter().map(|promotion| promotion.event.id).collect();
    let matters = |said: &Outcome| {
        let is_news = newest_ids.contains(&said.promotion) && !said.kind.is_rollout();
        facts.keys.get(&said.app).filter(|_| is_news || said.kind == OutcomeKind::ReleaseCommitted)
    };
    facts.outcomes = Believed::sort_newest(&bus, &newest, matters, output).await?;
    for warning in facts.changed_keys() {
        output.warn(warning);
    }
    let believed: Vec<_> = facts.promotions.iter().filter(|read| trust(read) != Trust::Stranger).cloned().collect();
    facts.rollouts = state::read_all(&bus, &believed, output).await;
    let apps: Vec<AppStatus> = facts.promotions.iter().map(|promotion| facts.app(promotion)).collect();
    show(env, &apps, output)?;
    Ok(ExitCode::Done)
}

/// By application: the keys that the context names, else those of its last plan, else those that hosts announce.
async fn keys(
    bus: &Bus,
    facts: &Facts,
    trust: impl Fn(&Read<Promotion>) -> Trust,
    cli: &Session,
) -> BTreeMap<AppName, HostKeys> {
    let known: Vec<KnownHost> = facts.present.iter().map(|read| KnownHost::new(read.clone(), facts.now)).collect();
    let general = HostKeys::new(&cli.settings.host_keys, &known);
    let plans = facts.promotions.iter().map(|read| (read.event.id, &read.event.data, trust(read)));
    let by_plan = host_keys::by_promotion(bus, plans, &general, &cli.output).await;
    let of = |event: &CloudEvent<Promotion>| by_plan.get(&event.id).unwrap_or(&general).clone();
    facts.promotions.iter().map(|read| (read.event.data.app.clone(), of(&read.event))).collect()
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
        for line in reasons(app) {
            output.note(line);
        }
    }
    Ok(())
}

/// Why it ended so, host by host; those to which nothing was done have one line together.
fn reasons(app: &AppStatus) -> Vec<String> {
    let (untouched, own): (Vec<&HostStatus>, Vec<&HostStatus>) =
        app.hosts.iter().filter(|host| host.reason.is_some()).partition(|host| host.untouched);
    let line =
        |host: &HostStatus| format!("{} on {}: {}", app.app, host.host, host.message.as_deref().unwrap_or(&host.state));
    let mut lines: Vec<String> = own.into_iter().map(line).collect();
    if let Some(reason) = untouched.first().and_then(|host| host.reason.as_ref()) {
        let hosts: Vec<HostName> = untouched.iter().map(|host| host.host.clone()).collect();
        lines.push(format!("{}: nothing was touched on {}: {}", app.app, listed(&hosts), reason.message));
    }
    let claimed = |host: &&HostStatus| !host.state_verified || !host.runs_verified;
    let hosts: Vec<HostName> = app.hosts.iter().filter(claimed).map(|host| host.host.clone()).collect();
    if !hosts.is_empty() {
        lines.push(format!(
            "{}: what {} says cannot be verified: nobody here knows its key; name it in `host_keys` of the context",
            app.app,
            listed(&hosts)
        ));
    }
    lines
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
                host.runs.as_ref().map_or("-".to_owned(), |runs| {
                    plan::words::as_verified(&format!("{} {}", runs.release, runs.counter), host.runs_verified)
                }),
                promoted.clone(),
                plan::words::as_verified(if host.untouched { UNTOUCHED } else { &host.state }, host.state_verified),
                age(host.since.unwrap_or(app.promotion.published_at), now),
            ]);
        }
    }
    rows
}

impl Facts {
    fn app(&self, promotion: &Read<Promotion>) -> AppStatus {
        let data = &promotion.event.data;
        let is_ours = |read: &&Read<Outcome>| read.event.data.app == data.app && !read.event.data.kind.is_rollout();
        let mut said: Vec<&Read<Outcome>> = self.outcomes.proven.iter().filter(is_ours).collect();
        let mut view = RolloutView::new(&promotion.event);
        // What hosts say of the rollout is believed from its signed state alone.
        for outcome in &said {
            view.fold(&outcome.event.data);
        }
        // A claim is shown where there is nothing better, and as what it is.
        let is_about = |read: &Read<Outcome>, host: &HostName| {
            read.event.data.host == *host && read.event.data.promotion == promotion.event.id
        };
        let is_news = |claim: &&Read<Outcome>| !said.iter().any(|read| is_about(read, &claim.event.data.host));
        let claims: Vec<&Read<Outcome>> = self.outcomes.claimed.iter().filter(is_ours).filter(is_news).collect();
        for outcome in &claims {
            view.fold(&outcome.event.data);
        }
        said.extend(&claims);
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
                let since = said.iter().filter(|read| is_about(read, host)).map(|read| read.published_at).max();
                let is_claimed = claims.iter().any(|read| is_about(read, host));
                self.host(host, view.hosts.get(host), runs.get(host).cloned(), since, !is_claimed)
            })
            .collect();
        let serving = the_same(hosts.iter().map(|host| host.runs.as_ref().filter(|_| host.runs_verified)));
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
        runs: Option<(RunningRelease, bool)>,
        since: Option<Timestamp>,
        state_verified: bool,
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
            runs_verified: runs.as_ref().is_none_or(|(_, verified)| *verified),
            runs: runs.map(|(runs, _)| runs),
            state_verified,
            untouched: view.is_some_and(HostView::is_untouched),
            state: view.map_or("not in the plan".to_owned(), HostView::word),
            ended: end.is_some(),
            message,
            reason: end.and_then(|outcome| outcome.reason.clone()),
            since,
        }
    }

    /// What each host runs of an application, and whether that is verified: what it committed last, or what it has said itself since then.
    fn runs(&self, app: &AppName) -> BTreeMap<HostName, (RunningRelease, bool)> {
        let mut known: BTreeMap<HostName, (Timestamp, Option<RunningRelease>, bool)> = BTreeMap::new();
        let mut learn = |host: &HostName, at: Timestamp, runs: Option<RunningRelease>, verified| match known.get(host) {
            Some((earlier, ..)) if *earlier > at => {}
            _ => drop(known.insert(host.clone(), (at, runs, verified))),
        };
        let committed = |read: &&Read<Outcome>| {
            read.event.data.app == *app && read.event.data.kind == OutcomeKind::ReleaseCommitted
        };
        let runs = |said: &Outcome| RunningRelease { counter: said.counter, release: said.release.clone() };
        for Read { published_at, event, .. } in self.outcomes.proven.iter().filter(committed) {
            learn(&event.data.host, *published_at, Some(runs(&event.data)), true);
        }
        for Read { published_at, event, .. } in &self.present {
            if let Some(runs) = event.data.apps.get(app) {
                let verified = self.keys.get(app).is_none_or(|keys| keys.agree_with(&event.data));
                learn(&event.data.host, *published_at, runs.clone(), verified);
            }
        }
        for Read { published_at, event, .. } in self.outcomes.claimed.iter().filter(committed) {
            let claim = || (*published_at, Some(runs(&event.data)), false);
            known.entry(event.data.host.clone()).or_insert_with(claim);
        }
        known.into_iter().filter_map(|(host, (_, runs, verified))| Some((host, (runs?, verified)))).collect()
    }

    /// Hosts that announce another key than the one that is certain to be theirs.
    fn changed_keys(&self) -> Vec<String> {
        let differs =
            |host: &Presence| host.apps.keys().filter_map(|app| self.keys.get(app)).any(|keys| !keys.agree_with(host));
        let hosts = self.present.iter().map(|read| &read.event.data).filter(|host| differs(host));
        hosts.map(|host| plan::words::of_changed_key(&host.host)).collect()
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
