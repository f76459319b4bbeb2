//! Every subject of the bus is spelled here and nowhere else.

use std::fmt;

use crate::ids::{AppName, EnvName, HostName};
use crate::outcome::OutcomeKind;

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
