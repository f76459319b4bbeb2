//! The ledger's durable consumer on one stream.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::context::{ConsumerInfoErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{ConsumerErrorKind, Stream};
use landfall_bus::Bus;
use thiserror::Error;

use crate::record::Source;

/// After this long without an acknowledgement the server delivers a message again. Storing may take longer, since what is delivered twice
/// is stored once.
pub const ACK_WAIT: Duration = Duration::from_secs(30);
/// Messages that may be on their way at once.
pub const ACK_PENDING_MAX: i64 = 1_000;
/// The consumer's metadata entry that names its ledger.
const LEDGER_METADATA: &str = "landfall-ledger";

type Cause = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Error)]
pub enum ConsumerError {
    #[error("there is no stream {stream}")]
    NoStream { stream: &'static str },
    #[error("cannot look at the stream {stream}")]
    Stream { stream: &'static str, source: Cause },
    #[error("cannot set up the consumer {name} on {stream}")]
    Create { stream: &'static str, name: String, source: Cause },
    #[error("cannot look at the consumer {name} on {stream}")]
    Look { stream: &'static str, name: String, source: Cause },
    #[error("the consumer {name} on {stream} belongs to another ledger ({other})")]
    ForeignLedger { stream: &'static str, name: String, other: String },
    #[error("the server keeps the consumer {name} on {stream} differently from what was asked: {differences}")]
    Differs { stream: &'static str, name: String, differences: String },
}

impl ConsumerError {
    /// What a person can do next.
    pub fn hint(&self) -> String {
        match self {
            Self::NoStream { .. } => "the bus is not set up yet; run `landfall bus apply`".to_owned(),
            Self::Stream { .. } | Self::Create { .. } | Self::Look { .. } => {
                "does JetStream answer, and may these NATS credentials use it? docs/AUDIT.md lists the permissions"
                    .to_owned()
            }
            Self::ForeignLedger { stream, name, .. } => format!(
                "two ledgers cannot share a consumer, each would get half; give this one another --name, or if the other \
                 ledger is gone for good: nats consumer rm {stream} {name}"
            ),
            Self::Differs { stream, name, .. } => {
                format!("nats consumer rm {stream} {name}; it is made anew and the ledger takes nothing twice")
            }
        }
    }

    /// Whether waiting cannot help.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::ForeignLedger { .. } | Self::Differs { .. })
    }
}

/// A consumer that is ready to be read.
#[derive(Debug)]
pub struct Attached {
    pub consumer: Consumer<Config>,
    /// When the stream was made, in milliseconds since 1970.
    pub stream_created_ms: i64,
    /// The consumer's own number of the next delivery. Another one means that a delivery was lost on the way.
    pub next_delivery: u64,
    /// Messages that the ledger does not have yet, as far as the server knows.
    pub pending: u64,
}

/// A stream, and when it was made.
#[derive(Debug)]
pub struct Found {
    pub stream: Stream,
    pub created_ms: i64,
    first_sequence: u64,
}

/// Looks up the stream.
///
/// # Errors
/// [`ConsumerError::NoStream`], [`ConsumerError::Stream`].
pub async fn find(bus: &Bus, source: Source) -> Result<Found, ConsumerError> {
    let name = source.stream();
    match bus.jetstream().get_stream(name).await {
        Ok(stream) => {
            let info = stream.cached_info();
            let created_ms = i64::try_from(info.created.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
            let first_sequence = info.state.first_sequence;
            Ok(Found { stream, created_ms, first_sequence })
        }
        Err(error) => Err(match error.kind() {
            GetStreamErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                ConsumerError::NoStream { stream: name }
            }
            _ => ConsumerError::Stream { stream: name, source: error.into() },
        }),
    }
}

/// Finds or makes the durable, so that it goes on exactly where the ledger ends. It is made anew when it would not: when it has
/// acknowledged more than the ledger holds (restored from a backup), or when deliveries are open (to a process that crashed, say), which
/// would come again only after newer ones. Order is what lets one number say how far the ledger is complete.
///
/// # Errors
/// [`ConsumerError`].
pub async fn attach(
    found: &Found,
    source: Source,
    name: &str,
    ledger: &str,
    held: u64,
) -> Result<Attached, ConsumerError> {
    let stream = source.stream();
    let consumer = match look(found, source, name).await? {
        None => create(found, source, name, ledger, 1).await?,
        Some(consumer) => {
            check_owner(&consumer, source, name, ledger)?;
            let info = consumer.cached_info();
            let (acknowledged, open) = (info.ack_floor.stream_sequence, info.num_ack_pending);
            let is_ahead = acknowledged > held.max(found.first_sequence.saturating_sub(1));
            if is_ahead {
                tracing::warn!(
                    stream,
                    acknowledged,
                    held,
                    "the ledger was behind its consumer; reading again from there"
                );
            }
            if is_ahead || open > 0 {
                tracing::debug!(stream, open, held, "making the consumer anew");
                let failed = |cause: Cause| ConsumerError::Create { stream, name: name.to_owned(), source: cause };
                found.stream.delete_consumer(name).await.map_err(|error| failed(error.into()))?;
                create(found, source, name, ledger, held + 1).await?
            } else {
                consumer
            }
        }
    };
    check_settings(&consumer, source, name)?;
    let info = consumer.cached_info();
    let (next_delivery, pending) = (info.delivered.consumer_sequence + 1, info.num_pending);
    Ok(Attached { consumer, stream_created_ms: found.created_ms, next_delivery, pending })
}

async fn look(found: &Found, source: Source, name: &str) -> Result<Option<Consumer<Config>>, ConsumerError> {
    let failed = |cause: Cause| ConsumerError::Look { stream: source.stream(), name: name.to_owned(), source: cause };
    match found.stream.consumer_info(name).await {
        Ok(_) => found.stream.get_consumer(name).await.map(Some).map_err(failed),
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error.into())),
    }
}

async fn create(
    found: &Found,
    source: Source,
    name: &str,
    ledger: &str,
    from: u64,
) -> Result<Consumer<Config>, ConsumerError> {
    let config = Config {
        durable_name: Some(name.to_owned()),
        description: Some(format!("Landfall: audit ledger {ledger}")),
        deliver_policy: match from {
            0 | 1 => DeliverPolicy::All,
            start_sequence => DeliverPolicy::ByStartSequence { start_sequence },
        },
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: ACK_PENDING_MAX,
        num_replicas: 1,
        metadata: HashMap::from([(LEDGER_METADATA.to_owned(), ledger.to_owned())]),
        ..Config::default()
    };
    found.stream.create_consumer(config).await.map_err(|error| {
        let stream = source.stream();
        match error.kind() {
            ConsumerErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                ConsumerError::NoStream { stream }
            }
            _ => ConsumerError::Create { stream, name: name.to_owned(), source: error.into() },
        }
    })
}

fn check_owner(consumer: &Consumer<Config>, source: Source, name: &str, ledger: &str) -> Result<(), ConsumerError> {
    let owner = consumer.cached_info().config.metadata.get(LEDGER_METADATA);
    if owner.is_some_and(|owner| owner == ledger) {
        return Ok(());
    }
    let other = owner.map_or_else(|| "unnamed".to_owned(), |owner| owner.chars().take(40).collect());
    Err(ConsumerError::ForeignLedger { stream: source.stream(), name: name.to_owned(), other })
}

/// A consumer that filters or forgets would leave holes in the ledger.
fn check_settings(consumer: &Consumer<Config>, source: Source, name: &str) -> Result<(), ConsumerError> {
    let have = &consumer.cached_info().config;
    let whole = have.filter_subject.is_empty() && have.filter_subjects.is_empty();
    let mut differences = Vec::new();
    for (is_right, what) in [
        (whole, "it filters subjects"),
        (have.ack_policy == AckPolicy::Explicit, "it does not acknowledge one by one"),
        (have.max_deliver <= 0, "it gives messages up"),
        (have.deliver_subject.is_none(), "it pushes"),
    ] {
        if !is_right {
            differences.push(what);
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    let differences = differences.join(", ");
    Err(ConsumerError::Differs { stream: source.stream(), name: name.to_owned(), differences })
}
