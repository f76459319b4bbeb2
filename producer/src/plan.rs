//! Which hosts a promotion is for, wave by wave.

pub mod waves;
pub mod words;

use landfall_bus::Bus;
use landfall_schema::Timestamp;
use landfall_schema::ids::{AppName, EnvName, HostName};
use landfall_schema::layout::PRESENCE_MAX_AGE;
use landfall_schema::presence::Presence;
use landfall_schema::promotion::{BundleRef, Offline, RolloutPlan};
use landfall_schema::roster::Roster;

use crate::error::{CliError, ExitCode};
pub use crate::host_keys::HostKeys;
use crate::output::Output;
use crate::reading::{self, Read, age};
use crate::rollout_args::Options;

/// A host that gave a sign of life in the last months.
#[derive(Debug, Clone)]
pub struct KnownHost {
    pub presence: Presence,
    /// By the server's clock.
    pub seen_at: Timestamp,
    pub here: bool,
}

impl KnownHost {
    pub fn new(read: Read<Presence>, now: Timestamp) -> Self {
        let here = is_here(read.published_at, now);
        Self { presence: read.event.data, seen_at: read.published_at, here }
    }
}

/// Whether a host whose last sign of life is this old counts as here.
pub fn is_here(seen_at: Timestamp, now: Timestamp) -> bool {
    now.duration_since(seen_at).unsigned_abs() <= PRESENCE_MAX_AGE || now < seen_at
}

/// Who gave signs of life in an environment, and who is away by now.
pub async fn known(bus: &Bus, env: &EnvName, output: &Output) -> Result<Vec<KnownHost>, CliError> {
    let read = reading::presences(&bus.presence(env).await?, output);
    let now = Timestamp::now();
    Ok(read.into_iter().map(|read| KnownHost::new(read, now)).collect())
}

/// What a plan is for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub env: &'a EnvName,
    /// Of a preview its own name.
    pub app: &'a AppName,
    /// The application that it is a preview of.
    pub preview_of: Option<&'a AppName>,
}

impl Subject<'_> {
    pub fn is_taken_by(&self, host: &Presence) -> bool {
        let of_preview = self.preview_of.is_some_and(|of| host.previews.contains(of));
        of_preview || host.apps.contains_key(self.app)
    }
}

/// A plan, and what belongs beside it.
#[derive(Debug, Clone)]
pub struct Planned {
    pub plan: RolloutPlan,
    pub keys: HostKeys,
    /// The hosts of the plan that are away, and since when if that is known.
    pub away: Vec<(HostName, Option<Timestamp>)>,
    roster: Option<(Vec<u8>, BundleRef)>,
}

impl Planned {
    /// Puts the roster where the hosts find it; to be done before the plan is published.
    pub async fn store(&self, bus: &Bus) -> Result<(), CliError> {
        match &self.roster {
            Some((bytes, reference)) => Ok(bus.put_bundle(bytes, reference).await?),
            None => Ok(()),
        }
    }

    /// Makes it each host's own.
    pub fn act_alone(&mut self) {
        self.plan.roster = None;
        self.roster = None;
    }

    /// One line a host that is away.
    pub fn away_lines(&self, now: Timestamp) -> Vec<String> {
        self.away.iter().map(|(host, since)| away_line(host, *since, now)).collect()
    }
}

fn away_line(host: &HostName, since: Option<Timestamp>, now: Timestamp) -> String {
    match since {
        Some(since) => format!("{host} is away since {} UTC ({} ago)", reading::time(since), age(since, now)),
        None => format!("{host} was never here"),
    }
}

/// The plan for the hosts that there are. Pure.
///
/// # Errors
/// When no host takes it, a host that was named cannot, a host is away that must not be, or a host's key is not known.
pub fn make(
    subject: &Subject<'_>,
    options: &Options,
    known: &[KnownHost],
    keys: HostKeys,
    now: Timestamp,
) -> Result<Planned, CliError> {
    let (here, away) = chosen(subject, options, known)?;
    if options.offline == Offline::Block && !away.is_empty() {
        let lines: Vec<String> = away.iter().map(|(host, since)| away_line(host, *since, now)).collect();
        let message = format!("{}, and `offline` is `block`: nothing was published", lines.join("; "));
        let hint = "start its executor again, go on without it with --offline skip, or choose others with --hosts";
        return Err(CliError::new(message).hint(hint).exit(ExitCode::NotReached));
    }
    let waves = waves::cut(&here, &options.cuts, options.deadline_ms, options.max_parallel);
    let away_names: Vec<HostName> = away.iter().map(|(host, _)| host.clone()).collect();
    let all: Vec<&HostName> = here.iter().chain(&away_names).collect();
    // With nobody here there is nobody to decide anything: each host takes it by itself when it is back.
    let roster = if all.len() > 1 && !here.is_empty() { Some(roster(&all, &keys, subject)?) } else { None };
    let plan = RolloutPlan {
        waves,
        only_named: !options.hosts.is_empty(),
        labels: options.labels.clone(),
        deadline_ms: options.deadline_ms,
        bake_ms: options.bake_ms,
        on_failure: options.on_failure,
        offline: options.offline,
        away: away_names,
        roster: roster.as_ref().map(|(_, reference)| reference.clone()),
    };
    Ok(Planned { plan, keys, away, roster })
}

type Away = Vec<(HostName, Option<Timestamp>)>;

/// The hosts of the plan: those that were named, else all that take the application; by whether they are here.
fn chosen(subject: &Subject<'_>, options: &Options, known: &[KnownHost]) -> Result<(Vec<HostName>, Away), CliError> {
    let has_labels = |host: &Presence| options.labels.iter().all(|(key, value)| host.labels.get(key) == Some(value));
    for name in &options.hosts {
        let Some(host) = known.iter().map(|known| &known.presence).find(|host| host.host == *name) else { continue };
        if !subject.is_taken_by(host) {
            return Err(CliError::new(format!("{name} does not take {}", subject.app)).hint(how_to_take(subject)));
        }
        if !has_labels(host) {
            let message = format!("{name} does not have the labels {}", shown_labels(options));
            return Err(CliError::new(message).hint("leave it out of --hosts, or leave --label away"));
        }
    }
    let is_meant = |host: &Presence| match options.hosts.is_empty() {
        true => subject.is_taken_by(host) && has_labels(host),
        false => options.hosts.contains(&host.host),
    };
    let (mut here, mut away) = (Vec::new(), Away::new());
    for host in known.iter().filter(|host| is_meant(&host.presence)) {
        let name = host.presence.host.clone();
        if host.here { here.push(name) } else { away.push((name, Some(host.seen_at))) }
    }
    for name in &options.hosts {
        if !known.iter().any(|host| host.presence.host == *name) && !away.iter().any(|(host, _)| host == name) {
            away.push((name.clone(), None));
        }
    }
    here.sort();
    away.sort();
    if here.is_empty() && away.is_empty() { Err(no_host(subject, options, known)) } else { Ok((here, away)) }
}

fn no_host(subject: &Subject<'_>, options: &Options, known: &[KnownHost]) -> CliError {
    let (env, app) = (subject.env, subject.app);
    let see = format!("see `landfall hosts --env {env}`");
    let takers: Vec<&str> = known
        .iter()
        .filter(|host| subject.is_taken_by(&host.presence))
        .map(|host| host.presence.host.as_str())
        .collect();
    if !takers.is_empty() {
        let message = format!("no host of {env} that takes {app} has the labels {}", shown_labels(options));
        return CliError::new(message).hint(format!("{see}; it is taken by {}", takers.join(", ")));
    }
    let what = subject.preview_of.map_or(app.to_string(), |of| format!("previews of {of}"));
    let error = CliError::new(format!("no host of {env} takes {what}"));
    let names: Vec<&str> = known.iter().map(|host| host.presence.host.as_str()).collect();
    match names[..] {
        [] => error.hint(format!("no executor of {env} is known; {see}")),
        _ => error.hint(format!("{}; known are {}", how_to_take(subject), names.join(", "))),
    }
}

fn how_to_take(subject: &Subject<'_>) -> String {
    match subject.preview_of {
        Some(of) => format!("add `[previews.{of}]` to the host's executor.toml"),
        None => format!("add `[apps.{}]` to the host's executor.toml", subject.app),
    }
}

fn shown_labels(options: &Options) -> String {
    options.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

fn roster(hosts: &[&HostName], keys: &HostKeys, subject: &Subject<'_>) -> Result<(Vec<u8>, BundleRef), CliError> {
    let unknown: Vec<&str> = hosts.iter().filter(|host| keys.of(host).is_none()).map(|host| host.as_str()).collect();
    if !unknown.is_empty() {
        let message = format!(
            "the key of {} is not known, so the other hosts could not believe what it says",
            unknown.join(", ")
        );
        let hint = format!(
            "name it in `host_keys` of the context, start its executor (see `landfall hosts --env {}`), or leave it out of --hosts",
            subject.env
        );
        return Err(CliError::new(message).hint(hint));
    }
    let keys = hosts.iter().filter_map(|host| Some(((*host).clone(), keys.of(host)?.clone()))).collect();
    Roster::new(keys)
        .encode()
        .map_err(|error| CliError::from_error(&error).hint("promote to fewer hosts at a time, with --label or --hosts"))
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
