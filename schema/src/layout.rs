//! Streams, buckets and the executors' consumer as data. `landfall bus apply` creates what is missing from this list, executors
//! and the CLI compare what the server holds with it. Durations are milliseconds, sizes bytes; `None` is no limit.

use std::time::Duration;

use crate::ids::{EnvName, HostName};

/// Largest event that is accepted anywhere, in bytes (headers not counted).
pub const EVENT_MAX_BYTES: usize = 64 * 1024;
/// Largest bundle, in bytes.
pub const BUNDLE_MAX_BYTES: usize = 1024 * 1024;

pub const RELEASES: &str = "RELEASES";
pub const DESIRED: &str = "DESIRED";
pub const OUTCOMES: &str = "OUTCOMES";
pub const PRESENCE: &str = "PRESENCE";
pub const DEADLETTER: &str = "DEADLETTER";
/// Object store with the bundles, keyed by their digest.
pub const BUNDLES: &str = "landfall-bundles";
/// Key-value bucket with the state of rollouts.
pub const ROLLOUT: &str = "landfall-rollout";
/// Key-value bucket with the leases of those who migrate a database.
pub const LOCKS: &str = "landfall-locks";

/// Headers that Landfall sets besides NATS' own `Nats-Msg-Id`.
pub const HEADER_SIGNATURE: &str = "Landfall-Signature";
pub const HEADER_CONTENT_TYPE: &str = "Content-Type";
pub const HEADER_TRACEPARENT: &str = "traceparent";
pub const HEADER_TRACESTATE: &str = "tracestate";

/// How long a delivered promotion may go without a sign of life before the server delivers it again.
pub const ACK_WAIT: Duration = Duration::from_secs(30);
/// How often an executor says that it still works on a promotion.
pub const ACK_PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// How often an executor reads the register itself, since consumers can go deaf.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
pub const PRESENCE_INTERVAL: Duration = Duration::from_secs(30);
/// After this long without a beat a host is away.
pub const PRESENCE_MAX_AGE: Duration = Duration::from_secs(90);
/// The last sign of life of a host is kept this long, so that people see who is away and since when.
pub const PRESENCE_KEPT: Duration = Duration::from_secs(90 * 24 * 60 * 60);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    File,
    Memory,
}

/// What the server does with a message when the stream is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    Old,
    New,
}

/// One JetStream stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSpec {
    pub name: &'static str,
    pub description: &'static str,
    /// Empty for a mirror.
    pub subjects: &'static [&'static str],
    pub mirror_of: Option<&'static str>,
    pub storage: Storage,
    pub discard: Discard,
    pub max_messages_per_subject: Option<i64>,
    pub max_message_bytes: Option<i32>,
    pub max_age: Option<Duration>,
    pub deny_delete: bool,
    pub deny_purge: bool,
}

/// The streams, each after those that it depends on.
pub fn streams() -> [StreamSpec; 5] {
    let event_max = Some(EVENT_MAX_BYTES as i32 + 16 * 1024);
    let stream = StreamSpec {
        name: "",
        description: "",
        subjects: &[],
        mirror_of: None,
        storage: Storage::File,
        discard: Discard::Old,
        max_messages_per_subject: None,
        max_message_bytes: event_max,
        max_age: None,
        deny_delete: false,
        deny_purge: false,
    };
    [
        StreamSpec {
            name: RELEASES,
            description: "Landfall: every promotion ever made; the source of truth",
            subjects: &[
                "landfall.*.release.*.promoted",
                "landfall.*.release.*.approved",
                "landfall.*.release.*.halted",
                "landfall.*.release.*.condemned",
                "landfall.*.environment.policy",
                "landfall.*.environment.freeze",
            ],
            discard: Discard::New,
            deny_delete: true,
            deny_purge: true,
            ..stream.clone()
        },
        StreamSpec {
            name: DESIRED,
            description: "Landfall: the newest promotion per application; what executors follow",
            mirror_of: Some(RELEASES),
            max_messages_per_subject: Some(1),
            max_message_bytes: None,
            ..stream.clone()
        },
        StreamSpec {
            name: OUTCOMES,
            description: "Landfall: what every host did with every promotion",
            subjects: &["landfall.*.outcome.>"],
            max_messages_per_subject: Some(10_000),
            max_age: Some(DAY * 365),
            ..stream.clone()
        },
        StreamSpec {
            name: PRESENCE,
            description: "Landfall: which executors are here, and since when the others are away",
            // In memory the stream itself would be gone after a restart of the server, and with it every host.
            subjects: &["landfall.*.presence.*"],
            max_messages_per_subject: Some(1),
            max_age: Some(PRESENCE_KEPT),
            ..stream.clone()
        },
        StreamSpec {
            name: DEADLETTER,
            description: "Landfall: messages that no executor could believe",
            subjects: &["landfall.*.deadletter.*"],
            max_message_bytes: None,
            max_age: Some(DAY * 90),
            ..stream
        },
    ]
}

/// What kind of bucket stands behind a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketKind {
    KeyValue,
    Objects,
}

/// One key-value bucket or object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketSpec {
    pub name: &'static str,
    pub description: &'static str,
    pub kind: BucketKind,
}

pub fn buckets() -> [BucketSpec; 3] {
    [
        BucketSpec { name: BUNDLES, description: "Landfall: compose files by digest", kind: BucketKind::Objects },
        BucketSpec { name: ROLLOUT, description: "Landfall: state of rollouts", kind: BucketKind::KeyValue },
        BucketSpec { name: LOCKS, description: "Landfall: who migrates a database", kind: BucketKind::KeyValue },
    ]
}

/// The durable consumer of one host on [`DESIRED`]. One machine may serve several environments, each with an executor of its own.
pub fn executor_consumer(env: &EnvName, host: &HostName) -> String {
    format!("executor-{env}-{host}")
}
