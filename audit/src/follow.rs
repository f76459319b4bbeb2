//! Follows both streams with durable consumers: store, commit, then acknowledge. What is delivered again is stored once.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Config as PullConfig, Stream as Messages};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::{self, AckKind};
use futures_util::StreamExt as _;
use landfall_bus::{Bus, Delivered};
use landfall_schema::layout::{OUTCOMES, RELEASES};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{debug, info, warn};

use crate::ledger::Ledger;
use crate::record::{Kind, Record, Trust};

/// Messages that may be delivered and not yet acknowledged.
const MAX_ACK_PENDING: i64 = 256;
const ACK_WAIT: Duration = Duration::from_secs(30);
/// After the ledger failed, the message comes again this much later.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// After a stream failed it is opened again this much later.
const REOPEN_DELAY: Duration = Duration::from_secs(1);

#[derive(Debug, Error)]
pub enum FollowError {
    #[error("the consumer {name} on {stream} cannot be made")]
    Consumer { name: String, stream: &'static str, source: async_nats::Error },
    #[error("signals cannot be listened to")]
    Signals(#[source] std::io::Error),
}

/// Runs until SIGTERM or SIGINT; the message in hand is finished.
///
/// # Errors
/// [`FollowError`] at the start. Later trouble with bus or ledger is logged, and tried again.
pub async fn run(ledger: &Ledger, bus: &Bus, name: &str, trust: &Trust) -> Result<(), FollowError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(FollowError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(FollowError::Signals)?;
    let mut releases = open(bus, RELEASES, name).await?;
    let mut outcomes = open(bus, OUTCOMES, name).await?;
    info!(consumer = name, "following releases and outcomes");
    loop {
        let (stream, message) = tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            message = releases.next() => (RELEASES, message),
            message = outcomes.next() => (OUTCOMES, message),
        };
        match message {
            Some(Ok(message)) => settle(ledger, stream, &message, trust).await,
            Some(Err(error)) => warn!(stream, %error, "the bus is away; waiting for it"),
            None => {
                tokio::time::sleep(REOPEN_DELAY).await;
                let reopened = open(bus, stream, name).await;
                match (stream, reopened) {
                    (RELEASES, Ok(messages)) => releases = messages,
                    (_, Ok(messages)) => outcomes = messages,
                    (_, Err(error)) => warn!(stream, %error, "the stream does not open; trying again"),
                }
            }
        }
    }
    info!("stopped");
    Ok(())
}

async fn open(bus: &Bus, stream: &'static str, name: &str) -> Result<Messages, FollowError> {
    let failed = |source| FollowError::Consumer { name: name.to_owned(), stream, source };
    let config = PullConfig {
        durable_name: Some(name.to_owned()),
        description: Some("Landfall: the audit ledger".to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: MAX_ACK_PENDING,
        ..PullConfig::default()
    };
    let consumer =
        bus.jetstream().create_consumer_on_stream(config, stream).await.map_err(|error| failed(error.into()))?;
    consumer.messages().await.map_err(|error| failed(error.into()))
}

/// Stored, then acknowledged; if storing fails the message comes again.
async fn settle(ledger: &Ledger, stream: &'static str, message: &jetstream::Message, trust: &Trust) {
    let delivered = match Delivered::from_consumer(message) {
        Ok(delivered) => delivered,
        // Without a reply subject there is nothing to acknowledge either; the server delivers it again.
        Err(error) => return warn!(stream, %error, "a message without its place in the stream"),
    };
    let record = Record::of(&delivered, trust);
    if let Kind::Rejected { subject, why, .. } = &record.kind {
        warn!(stream, subject, why, "kept as rejected: not an event of Landfall's");
    }
    let answer = match ledger.keep(stream, &record).await {
        Ok(new) => {
            debug!(stream, sequence = delivered.sequence, new, "kept");
            message.double_ack().await
        }
        Err(error) => {
            warn!(stream, sequence = delivered.sequence, %error, "the ledger failed; the message will come again");
            message.ack_with(AckKind::Nak(Some(RETRY_DELAY))).await
        }
    };
    if let Err(error) = answer {
        warn!(stream, sequence = delivered.sequence, %error, "not acknowledged; the message will come again");
    }
}
