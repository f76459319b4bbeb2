//! `schema::layout` against the server: what is missing, what differs. Nothing is ever deleted.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Source, StorageType};
use async_nats::jetstream::{self, ErrorCode};
use landfall_schema::layout::{self, BucketKind, BucketSpec, Discard, Storage, StreamSpec};

use crate::connection::Bus;
use crate::error::BusError;

/// The server's own default; a stream whose messages live shorter needs a shorter one.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// One stream or bucket that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutChange {
    /// E.g. `stream RELEASES`, `bucket landfall-rollout`, `object store landfall-bundles`.
    pub what: String,
    pub description: String,
    /// Empty when it is missing altogether and has to be created.
    pub settings: Vec<Setting>,
}

impl LayoutChange {
    pub fn creates(&self) -> bool {
        self.settings.is_empty()
    }
}

/// One setting that the server holds differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub name: &'static str,
    pub have: String,
    pub want: String,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, should be {}", self.name, self.have, self.want)
    }
}

struct Wanted {
    what: String,
    config: Config,
}

impl Bus {
    /// What [`Bus::apply`] would do.
    ///
    /// # Errors
    /// [`BusError::Inspect`].
    pub async fn diff(&self) -> Result<Vec<LayoutChange>, BusError> {
        let mut changes = Vec::new();
        for wanted in wanted() {
            let have = self.inspect(&wanted).await?;
            changes.extend(change(&wanted, have.as_ref()));
        }
        Ok(changes)
    }

    /// Creates what is missing and changes what differs; returns what was done. Deletes nothing.
    ///
    /// # Errors
    /// [`BusError::Inspect`], [`BusError::Create`], [`BusError::Change`]; [`BusError::Differs`] when the server's reply is not what was
    /// asked for (older servers drop settings that they do not know).
    pub async fn apply(&self) -> Result<Vec<LayoutChange>, BusError> {
        let mut changes = Vec::new();
        for wanted in wanted() {
            let have = self.inspect(&wanted).await?;
            let Some(change) = change(&wanted, have.as_ref()) else { continue };
            let reply = match have {
                None => self.create(&wanted).await?,
                Some(have) => self.change(&wanted, have).await?,
            };
            let left = differences(&reply, &wanted.config);
            if !left.is_empty() {
                return Err(BusError::Differs { what: wanted.what, differences: listed(&left) });
            }
            changes.push(change);
        }
        Ok(changes)
    }

    async fn inspect(&self, wanted: &Wanted) -> Result<Option<Config>, BusError> {
        match self.jetstream().get_stream(&wanted.config.name).await {
            Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(reply) if reply.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
                _ => Err(BusError::Inspect { what: wanted.what.clone(), source: self.cause(error) }),
            },
        }
    }

    async fn create(&self, wanted: &Wanted) -> Result<Config, BusError> {
        let failed = |error| BusError::Create { what: wanted.what.clone(), source: self.cause(error) };
        let stream: jetstream::stream::Stream =
            self.jetstream().create_stream(wanted.config.clone()).await.map_err(|error| failed(Box::new(error)))?;
        Ok(stream.cached_info().config.clone())
    }

    /// Starts from what the server holds, so that replicas and placement stay as the operator set them.
    async fn change(&self, wanted: &Wanted, have: Config) -> Result<Config, BusError> {
        let want = wanted.config.clone();
        let config = Config {
            subjects: want.subjects,
            description: want.description,
            discard: want.discard,
            max_messages_per_subject: want.max_messages_per_subject,
            max_message_size: want.max_message_size,
            max_age: want.max_age,
            duplicate_window: want.duplicate_window,
            deny_delete: want.deny_delete,
            deny_purge: want.deny_purge,
            allow_rollup: want.allow_rollup,
            allow_direct: want.allow_direct,
            // These two cannot change; the server says so, and the person sees it.
            storage: want.storage,
            mirror: want.mirror,
            ..have
        };
        let failed = |error| BusError::Change { what: wanted.what.clone(), source: self.cause(error) };
        let info = self.jetstream().update_stream(config).await.map_err(|error| failed(Box::new(error)))?;
        Ok(info.config)
    }
}

pub(crate) fn listed(settings: &[Setting]) -> String {
    settings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn wanted() -> Vec<Wanted> {
    let streams = layout::streams();
    let buckets = layout::buckets();
    let streams = streams.iter().map(|spec| Wanted { what: format!("stream {}", spec.name), config: stream(spec) });
    let buckets = buckets.iter().map(|spec| match spec.kind {
        BucketKind::KeyValue => Wanted { what: format!("bucket {}", spec.name), config: key_value(spec) },
        BucketKind::Objects => Wanted { what: format!("object store {}", spec.name), config: objects(spec) },
    });
    streams.chain(buckets).collect()
}

fn stream(spec: &StreamSpec) -> Config {
    let max_age = spec.max_age.unwrap_or_default();
    let mirror = spec.mirror_of.map(|name| Source { name: name.to_owned(), ..Source::default() });
    Config {
        name: spec.name.to_owned(),
        description: Some(spec.description.to_owned()),
        subjects: spec.subjects.iter().map(|&subject| subject.to_owned()).collect(),
        duplicate_window: match (&mirror, spec.max_age) {
            (Some(_), _) => Duration::ZERO,
            (None, Some(age)) => DUPLICATE_WINDOW.min(age),
            (None, None) => DUPLICATE_WINDOW,
        },
        mirror,
        storage: match spec.storage {
            Storage::File => StorageType::File,
            Storage::Memory => StorageType::Memory,
        },
        discard: match spec.discard {
            Discard::Old => DiscardPolicy::Old,
            Discard::New => DiscardPolicy::New,
        },
        max_messages: -1,
        max_bytes: -1,
        max_consumers: -1,
        max_messages_per_subject: spec.max_messages_per_subject.unwrap_or(-1),
        max_message_size: spec.max_message_bytes.unwrap_or(-1),
        max_age,
        deny_delete: spec.deny_delete,
        deny_purge: spec.deny_purge,
        num_replicas: 1,
        ..Config::default()
    }
}

/// The stream behind a key-value bucket (NATS ADR-8), made by hand: the client's own call asks for account information that older
/// servers cannot give. No direct reads: they may be stale, and these values decide.
fn key_value(spec: &BucketSpec) -> Config {
    Config {
        name: format!("KV_{}", spec.name),
        subjects: vec![format!("$KV.{}.>", spec.name)],
        max_messages_per_subject: 1,
        deny_delete: true,
        ..bucket(spec)
    }
}

/// The stream behind an object store (NATS ADR-20). No direct reads: a host looks for a bundle right after it was stored.
fn objects(spec: &BucketSpec) -> Config {
    Config {
        name: format!("OBJ_{}", spec.name),
        subjects: vec![format!("$O.{}.C.>", spec.name), format!("$O.{}.M.>", spec.name)],
        max_messages_per_subject: -1,
        ..bucket(spec)
    }
}

fn bucket(spec: &BucketSpec) -> Config {
    Config {
        description: Some(spec.description.to_owned()),
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        duplicate_window: DUPLICATE_WINDOW,
        allow_rollup: true,
        max_messages: -1,
        max_bytes: -1,
        max_consumers: -1,
        max_message_size: -1,
        num_replicas: 1,
        ..Config::default()
    }
}

fn change(wanted: &Wanted, have: Option<&Config>) -> Option<LayoutChange> {
    let description = wanted.config.description.clone().unwrap_or_default();
    let settings = match have {
        None => Vec::new(),
        Some(have) => {
            let settings = differences(have, &wanted.config);
            if settings.is_empty() {
                return None;
            }
            settings
        }
    };
    Some(LayoutChange { what: wanted.what.clone(), description, settings })
}

/// Compares only what Landfall sets. Replicas, placement and compression are the operator's.
fn differences(have: &Config, want: &Config) -> Vec<Setting> {
    let mirror = |config: &Config| config.mirror.as_ref().map_or("none".to_owned(), |source| source.name.clone());
    let milliseconds = |duration: Duration| format!("{} ms", duration.as_millis());
    let limit = |value: i64| if value <= 0 { "unlimited".to_owned() } else { value.to_string() };
    let subjects = |config: &Config| {
        let mut subjects = config.subjects.clone();
        subjects.sort();
        subjects.join(" ")
    };
    let description = |config: &Config| config.description.clone().unwrap_or_default();
    [
        ("description", description(have), description(want)),
        ("subjects", subjects(have), subjects(want)),
        ("mirror", mirror(have), mirror(want)),
        ("storage", format!("{:?}", have.storage), format!("{:?}", want.storage)),
        ("discard", format!("{:?}", have.discard), format!("{:?}", want.discard)),
        ("max_msgs_per_subject", limit(have.max_messages_per_subject), limit(want.max_messages_per_subject)),
        ("max_msg_size", limit(i64::from(have.max_message_size)), limit(i64::from(want.max_message_size))),
        ("max_age", milliseconds(have.max_age), milliseconds(want.max_age)),
        ("deny_delete", have.deny_delete.to_string(), want.deny_delete.to_string()),
        ("deny_purge", have.deny_purge.to_string(), want.deny_purge.to_string()),
        ("allow_rollup_hdrs", have.allow_rollup.to_string(), want.allow_rollup.to_string()),
        ("allow_direct", have.allow_direct.to_string(), want.allow_direct.to_string()),
    ]
    .into_iter()
    .filter(|(_, have, want)| have != want)
    .map(|(name, have, want)| Setting { name, have, want })
    .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_stream_and_bucket_is_wanted_once() {
        let names: Vec<String> = wanted().into_iter().map(|wanted| wanted.config.name).collect();
        let expect = [
            "RELEASES",
            "DESIRED",
            "OUTCOMES",
            "PRESENCE",
            "DEADLETTER",
            "OBJ_landfall-bundles",
            "KV_landfall-rollout",
            "KV_landfall-locks",
        ];
        assert_eq!(names, expect);
    }

    #[test]
    fn only_what_landfall_sets_is_a_difference() {
        let want = wanted().remove(0);
        let mut have = want.config.clone();
        have.num_replicas = 3;
        assert_eq!(change(&want, Some(&have)), None);
        have.deny_purge = false;
        let found = change(&want, Some(&have)).unwrap();
        assert_eq!(listed(&found.settings), "deny_purge is false, should be true");
        assert!(change(&want, None).unwrap().creates());
    }
}
