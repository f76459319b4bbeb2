//! Every subject of the bus is spelled here and nowhere else.

use std::fmt;

use crate::ids::{AppName, Counter, Digest, EnvName, HostName};
use crate::outcome::OutcomeKind;

/// Longest database name that stands in a key as it is.
const DATABASE_KEY_MAX_BYTES: usize = 100;
/// Between a database's name and the host whose own it is.
const OF_HOST: &str = ".on.";

/// A subject that a message is published to; made only by the functions of this module.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject(String);

impl Subject {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads back a subject that was written down earlier; `None` for what is no subject of Landfall without wildcards.
    pub fn stored(text: &str) -> Option<Self> {
        let ours = text.starts_with("landfall.");
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let whole = text.split('.').all(|token| !token.is_empty() && token.chars().all(plain));
        (ours && whole).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// All that may stand last in a release subject.
pub const RELEASE_VERBS: [&str; 4] = ["promoted", "approved", "halted", "condemned"];

pub fn promoted(env: &EnvName, app: &AppName) -> Subject {
    Subject(format!("landfall.{env}.release.{app}.promoted"))
}

/// What operators say about a rollout under way: halt, resume, abort. The newest counts.
pub fn halted(env: &EnvName, app: &AppName) -> Subject {
    Subject(format!("landfall.{env}.release.{app}.halted"))
}

/// Approvals and rejections of a promotion. The newest counts.
pub fn approved(env: &EnvName, app: &AppName) -> Subject {
    Subject(format!("landfall.{env}.release.{app}.approved"))
}

/// What people say about condemned digests. The newest counts.
pub fn condemned(env: &EnvName, app: &AppName) -> Subject {
    Subject(format!("landfall.{env}.release.{app}.condemned"))
}

/// Everything that is said about the releases of one application.
pub fn release_filter(env: &EnvName, app: &AppName) -> String {
    format!("landfall.{env}.release.{app}.*")
}

/// The environment's gates. The newest counts.
pub fn environment_policy(env: &EnvName) -> Subject {
    Subject(format!("landfall.{env}.environment.policy"))
}

/// The environment's freezes. The newest counts.
pub fn environment_freeze(env: &EnvName) -> Subject {
    Subject(format!("landfall.{env}.environment.freeze"))
}

pub fn environment_filter(env: &EnvName) -> String {
    format!("landfall.{env}.environment.*")
}

/// The key of a rollout's state in the bucket [`crate::layout::ROLLOUT`].
pub fn rollout_key(env: &EnvName, app: &AppName, counter: Counter) -> String {
    format!("{env}.{app}.{}", counter.0)
}

/// The key of an application's condemned digests in the same bucket.
pub fn condemned_key(env: &EnvName, app: &AppName) -> String {
    format!("{env}.{app}.condemned")
}

/// The key of a database's lease in the bucket [`crate::layout::LOCKS`]. A name that could not stand in a key gets a digest instead of what
/// could not, and so does one that would read as a host's own. With a host it is a database of that host alone.
pub fn migration_key(env: &EnvName, database: &str, host: Option<&HostName>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let fits = !database.is_empty() && database.len() <= DATABASE_KEY_MAX_BYTES && database.chars().all(plain);
    let stops = database.starts_with('.') || database.ends_with('.') || database.contains("..");
    let is_plain = fits && !stops && !database.contains(OF_HOST);
    let name = if is_plain { database.to_owned() } else { format!("={}", Digest::of(database.as_bytes()).short()) };
    match host {
        Some(host) => format!("{env}.migrate.{name}{OF_HOST}{host}"),
        None => format!("{env}.migrate.{name}"),
    }
}

/// The subject behind a key of that bucket (NATS ADR-8).
pub fn migration_subject(key: &str) -> String {
    format!("$KV.{}.{key}", crate::layout::LOCKS)
}

/// The subject behind a key of the rollouts' bucket (NATS ADR-8), on which every change can be heard.
pub fn rollout_subject(key: &str) -> String {
    format!("$KV.{}.{key}", crate::layout::ROLLOUT)
}

/// The filter of an environment's executors: the newest promotion of every application.
pub fn promoted_filter(env: &EnvName) -> String {
    format!("landfall.{env}.release.*.promoted")
}

pub fn outcome(env: &EnvName, app: &AppName, host: &HostName, kind: OutcomeKind) -> Subject {
    Subject(format!("landfall.{env}.outcome.{app}.{host}.{}.{}", kind.noun(), kind.verb()))
}

/// All outcomes of one environment, or of one application in it.
pub fn outcome_filter(env: &EnvName, app: Option<&AppName>) -> String {
    let app = app.map_or("*", AppName::as_str);
    format!("landfall.{env}.outcome.{app}.>")
}

/// One kind of outcome of every host of an application.
pub fn outcome_kind_filter(env: &EnvName, app: &AppName, kind: OutcomeKind) -> String {
    format!("landfall.{env}.outcome.{app}.*.{}.{}", kind.noun(), kind.verb())
}

/// All outcomes of one host.
pub fn host_filter(env: &EnvName, host: &HostName) -> String {
    format!("landfall.{env}.outcome.*.{host}.>")
}

/// Of which environment and host an outcome is that has this subject; `None` for any other subject.
pub fn parse_outcome(subject: &str) -> Option<(EnvName, HostName)> {
    let tokens: Vec<&str> = subject.split('.').collect();
    match tokens.as_slice() {
        ["landfall", env, "outcome", _app, host, _noun, _verb] => Some((env.parse().ok()?, host.parse().ok()?)),
        _ => None,
    }
}

/// What the rollouts of one application, or of all, came to.
pub fn rollout_filter(env: &EnvName, app: Option<&AppName>) -> String {
    let app = app.map_or("*", AppName::as_str);
    format!("landfall.{env}.outcome.{app}.*.rollout.*")
}

/// Only how deploys ended: of one application, or of all.
pub fn terminal_filter(env: &EnvName, app: Option<&AppName>) -> String {
    let app = app.map_or("*", AppName::as_str);
    format!("landfall.{env}.outcome.{app}.*.deploy.*")
}

pub fn presence(env: &EnvName, host: &HostName) -> Subject {
    Subject(format!("landfall.{env}.presence.{host}"))
}

pub fn presence_filter(env: &EnvName) -> String {
    format!("landfall.{env}.presence.*")
}

pub fn dead_letter(env: &EnvName, host: &HostName) -> Subject {
    Subject(format!("landfall.{env}.deadletter.{host}"))
}

pub fn dead_letter_filter(env: &EnvName) -> String {
    format!("landfall.{env}.deadletter.*")
}

/// What a release subject says before its message has been believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseSubject {
    pub env: EnvName,
    pub app: AppName,
    pub verb: String,
}

/// Takes `landfall.<env>.release.<app>.<verb>` apart; `None` for any other subject.
pub fn parse_release(subject: &str) -> Option<ReleaseSubject> {
    let mut tokens = subject.split('.');
    let (Some("landfall"), Some(env), Some("release"), Some(app), Some(verb), None) =
        (tokens.next(), tokens.next(), tokens.next(), tokens.next(), tokens.next(), tokens.next())
    else {
        return None;
    };
    Some(ReleaseSubject { env: env.parse().ok()?, app: app.parse().ok()?, verb: verb.to_owned() })
}
