//! One stream into the ledger: take what is there, commit it, acknowledge it. An acknowledgement means "it is in the ledger".

use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{StreamError, pull};
use futures_util::StreamExt as _;
use landfall_bus::{Bus, Delivered};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::consumer::{self, Attached, ConsumerError};
use crate::ledger::{Ledger, LedgerError, Position};
use crate::record::{Record, Source};
use crate::trust::Trust;

/// Messages that are committed together.
const BATCH_MESSAGES: usize = 64;
/// Without a sign of life for twice as long, the connection to the consumer is made anew.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long one request for messages stands.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// Between two tries when the bus or the ledger is away; doubles from the first to the second.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(15);

#[derive(Debug, Error)]
pub enum FollowError {
    #[error(transparent)]
    Consumer(#[from] ConsumerError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the stream {stream} is interrupted")]
    Interrupted { stream: &'static str, source: pull::MessagesError },
    #[error("a delivery of {stream} was lost: number {found} came instead of {expected}")]
    Lost { stream: &'static str, expected: u64, found: u64 },
}

impl FollowError {
    /// What a person can do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Consumer(error) => error.hint(),
            Self::Ledger(error) => error.hint().to_owned(),
            Self::Interrupted { .. } => "is NATS running and reachable from here?".to_owned(),
            Self::Lost { .. } => {
                "it is delivered again; if this repeats, a second landfall-audit uses the same --name".to_owned()
            }
        }
    }

    fn is_fatal(&self) -> bool {
        matches!(self, Self::Consumer(error) if error.is_fatal())
    }
}

#[derive(Debug, Clone)]
pub struct Follower {
    pub bus: Bus,
    pub ledger: Ledger,
    pub ledger_id: String,
    pub trust: Trust,
    pub source: Source,
    pub consumer: String,
}

impl Follower {
    /// Follows until `stop`. Interruptions of the bus and of the ledger are waited out.
    ///
    /// # Errors
    /// What waiting cannot heal.
    pub async fn run(&self, stop: &CancellationToken) -> Result<(), FollowError> {
        let mut delay = RETRY_MIN;
        loop {
            let attached = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                attached = self.attach() => attached,
            };
            let error = match attached {
                Ok(attached) => {
                    delay = RETRY_MIN;
                    match self.read(attached, stop).await {
                        Ok(()) => return Ok(()),
                        Err(error) => error,
                    }
                }
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) => error,
            };
            self.complain(&error, delay);
            if is_stopped_within(stop, delay).await {
                return Ok(());
            }
            delay = (delay * 2).min(RETRY_MAX);
        }
    }

    async fn attach(&self) -> Result<Attached, FollowError> {
        let found = consumer::find(&self.bus, self.source).await?;
        let held = self.ledger.position(self.source, found.created_ms).await?;
        let attached = consumer::attach(&found, self.source, &self.consumer, &self.ledger_id, held).await?;
        tracing::info!(stream = self.source.stream(), held, pending = attached.pending, "following");
        Ok(attached)
    }

    /// Ends without an error only when stopped.
    async fn read(&self, attached: Attached, stop: &CancellationToken) -> Result<(), FollowError> {
        let stream = self.source.stream();
        let unreadable =
            |source: StreamError| ConsumerError::Look { stream, name: self.consumer.clone(), source: source.into() };
        let messages = attached
            .consumer
            .stream()
            .max_messages_per_batch(BATCH_MESSAGES)
            .expires(PULL_EXPIRES)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(unreadable)?;
        let mut batches = messages.ready_chunks(BATCH_MESSAGES);
        let mut next_delivery = attached.next_delivery;
        loop {
            let batch = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                batch = batches.next() => batch,
            };
            // The stream ends only after an error that says why.
            let Some(batch) = batch else { return Ok(()) };
            let (taken, interrupted) = in_order(batch, stream, &mut next_delivery);
            if !self.keep(&taken, attached.stream_created_ms, stop).await {
                return Ok(());
            }
            if let Some(error) = interrupted {
                return Err(error);
            }
        }
    }

    /// Commits and acknowledges the messages; tries until it is done, or until stopped (then `false`, and nothing is acknowledged).
    async fn keep(&self, messages: &[Message], stream_created_ms: i64, stop: &CancellationToken) -> bool {
        let mut records = Vec::with_capacity(messages.len());
        for message in messages {
            match Delivered::from_consumer(message) {
                Ok(delivered) => records.push(Record::read(self.source, delivered, &self.trust)),
                // It is no message of a stream at all; there is nothing to acknowledge.
                Err(error) => {
                    tracing::warn!(%error, subject = %message.subject, "passing by a message without a sequence")
                }
            }
        }
        let Some(sequence) = records.iter().map(|record| record.message().sequence).max() else { return true };
        let position = Position { source: self.source, stream_created_ms, sequence };
        let span = tracing::info_span!("store", stream = self.source.stream(), records = records.len());
        let stored = self.store(&records, position, stop).instrument(span).await;
        if stored {
            for record in &records {
                narrate(record);
            }
            for message in messages {
                // What is not acknowledged comes again, and is found in the ledger.
                if let Err(error) = message.ack().await {
                    tracing::debug!(%error, "an acknowledgement was not sent");
                }
            }
        }
        stored
    }

    async fn store(&self, records: &[Record], position: Position, stop: &CancellationToken) -> bool {
        for record in records {
            if let Some(traceparent) = &record.message().traceparent {
                landfall_telemetry::link_current_span(traceparent);
            }
        }
        let mut delay = RETRY_MIN;
        loop {
            match self.ledger.store(records, position).await {
                Ok(new) => {
                    tracing::debug!(new, sequence = position.sequence, "stored");
                    return true;
                }
                Err(error) => self.complain(&FollowError::Ledger(error), delay),
            }
            if is_stopped_within(stop, delay).await {
                return false;
            }
            delay = (delay * 2).min(RETRY_MAX);
        }
    }

    fn complain(&self, error: &FollowError, delay: Duration) {
        tracing::warn!(
            stream = self.source.stream(),
            error = crate::service::with_causes(error),
            hint = error.hint(),
            retry_ms = delay.as_millis(),
            "not following; trying again"
        );
    }
}

/// The messages up to the first that is not the next one, and why it is not.
fn in_order(
    batch: Vec<Result<Message, pull::MessagesError>>,
    stream: &'static str,
    next_delivery: &mut u64,
) -> (Vec<Message>, Option<FollowError>) {
    let mut taken = Vec::with_capacity(batch.len());
    for message in batch {
        let message = match message {
            Ok(message) => message,
            Err(source) => return (taken, Some(FollowError::Interrupted { stream, source })),
        };
        // What carries no number is no delivery of this consumer; it counts as number 0, which is never the next.
        let found = message.info().map_or(0, |info| info.consumer_sequence);
        if found != *next_delivery {
            return (taken, Some(FollowError::Lost { stream, expected: *next_delivery, found }));
        }
        *next_delivery += 1;
        taken.push(message);
    }
    (taken, None)
}

/// One line for what an operator wants to know of; the rest is for debugging.
fn narrate(record: &Record) {
    match record {
        Record::Release(stored) => {
            let promotion = &stored.event.data;
            tracing::info!(
                env = %promotion.env, app = %promotion.app, counter = promotion.counter.0, release = %promotion.release,
                verdict = %stored.judgement.verdict, "promoted"
            );
        }
        Record::Outcome(stored) => {
            let outcome = &stored.event.data;
            if !outcome.kind.is_terminal() {
                return;
            }
            tracing::info!(
                env = %outcome.env, app = %outcome.app, host = %outcome.host, counter = outcome.counter.0,
                release = %outcome.release, duration_ms = outcome.duration_ms, verdict = %stored.judgement.verdict,
                "{}", outcome.kind.verb()
            );
        }
        Record::Word(stored) => {
            let word = &stored.event.data;
            let app = word.app.as_ref().map(ToString::to_string).unwrap_or_default();
            let author = word.author.as_deref().unwrap_or_default();
            tracing::info!(env = %word.env, app, author, verdict = %stored.judgement.verdict, "{}", stored.event.kind);
        }
        Record::Rejected(rejected) => tracing::warn!(
            stream = rejected.source.stream(), sequence = rejected.message.sequence, subject = ?rejected.message.subject,
            reason = rejected.reason.as_str(), detail = ?rejected.detail,
            "a message is not what its stream is for; it is kept among the rejected"
        ),
    }
}

/// Waits, unless stopped before.
pub(crate) async fn is_stopped_within(stop: &CancellationToken, delay: Duration) -> bool {
    tokio::time::timeout(delay, stop.cancelled()).await.is_ok()
}
