//! What the hosts say, read from the streams themselves as it is published.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use futures_util::StreamExt as _;
use landfall_bus::{Bus, Delivered};
use landfall_schema::dead_letter::DeadLetter;
use landfall_schema::event::{CloudEvent, TYPE_DEAD_LETTER};
use landfall_schema::ids::EventId;
use landfall_schema::layout::{DEADLETTER, OUTCOMES};
use landfall_schema::outcome::{Outcome, OutcomeKind};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

/// One event of a stream, with the message that it came in.
#[derive(Debug, Clone)]
pub struct Published<T> {
    pub id: EventId,
    pub event_type: String,
    pub data: T,
    pub message: Delivered,
}

/// Reads one stream from its beginning, across restarts of the server.
struct Reader {
    bus: Bus,
    stream: &'static str,
    next_sequence: u64,
    messages: Option<Ordered>,
}

impl Reader {
    fn new(bus: Bus, stream: &'static str) -> Self {
        Self { bus, stream, next_sequence: 1, messages: None }
    }

    /// The next message; waits until there is one.
    async fn next(&mut self) -> Result<Delivered> {
        let messages = match &mut self.messages {
            Some(messages) => messages,
            closed => closed.insert(open(&self.bus, self.stream, self.next_sequence).await?),
        };
        let message = match messages.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                self.messages = None;
                bail!("reading {}: {error}", self.stream);
            }
            None => bail!("the reader of {} has ended", self.stream),
        };
        let delivered = Delivered::from_consumer(&message).map_err(anyhow::Error::from_boxed)?;
        self.next_sequence = delivered.sequence + 1;
        Ok(delivered)
    }
}

async fn open(bus: &Bus, stream: &str, start_sequence: u64) -> Result<Ordered> {
    let stream = bus.jetstream().get_stream_no_info(stream).await?;
    let deliver_policy = DeliverPolicy::ByStartSequence { start_sequence };
    let consumer = stream.create_consumer(OrderedConfig { deliver_policy, ..OrderedConfig::default() }).await?;
    Ok(consumer.messages().await?)
}

fn read<T: DeserializeOwned>(message: Delivered) -> Result<Published<T>> {
    let event: CloudEvent<T> = serde_json::from_slice(&message.body)
        .with_context(|| format!("what was published on {} is no event", message.subject))?;
    Ok(Published { id: event.id, event_type: event.kind, data: event.data, message })
}

/// Everything that was published so far, and a way to wait for more.
pub struct Outcomes {
    outcomes: Reader,
    dead_letters: Reader,
    seen: Vec<Published<Outcome>>,
}

impl Outcomes {
    pub fn follow(bus: &Bus) -> Self {
        Self {
            outcomes: Reader::new(bus.clone(), OUTCOMES),
            dead_letters: Reader::new(bus.clone(), DEADLETTER),
            seen: Vec::new(),
        }
    }

    /// What [`Self::wait`] has come across so far, in the stream's order.
    pub fn seen(&self) -> &[Published<Outcome>] {
        &self.seen
    }

    /// The first outcome, from the stream's beginning, that this is true of.
    ///
    /// # Errors
    /// When there is none within `limit`; the error lists what there was.
    pub async fn wait(&mut self, what: &str, limit: Duration, is_it: impl Fn(&Outcome) -> bool) -> Result<Outcome> {
        if let Some(found) = self.seen.iter().find(|published| is_it(&published.data)) {
            return Ok(found.data.clone());
        }
        let deadline = Instant::now() + limit;
        let mut trouble = None;
        loop {
            match timeout_at(deadline, self.outcomes.next()).await {
                Ok(Ok(message)) => {
                    let published = read::<Outcome>(message)?;
                    let outcome = published.data.clone();
                    self.seen.push(published);
                    if is_it(&outcome) {
                        return Ok(outcome);
                    }
                }
                // The server may be restarting; the reader is opened again.
                Ok(Err(error)) => {
                    trouble = Some(error);
                    tokio::time::sleep(crate::process::POLL_INTERVAL).await;
                }
                Err(_) => {
                    let trouble = trouble.map(|error| format!("; last trouble: {error:#}")).unwrap_or_default();
                    bail!("{what}: not published within {limit:?}{trouble}; published was:\n{}", self.listing());
                }
            }
        }
    }

    /// The next outcome of the stream, however long that takes.
    ///
    /// # Errors
    /// When the server is away, or what was published is no outcome; the one after it is read next.
    pub async fn next(&mut self) -> Result<Published<Outcome>> {
        let published = read::<Outcome>(self.outcomes.next().await?)?;
        self.seen.push(published.clone());
        Ok(published)
    }

    /// The next dead letter.
    ///
    /// # Errors
    /// When there is none within `limit`.
    pub async fn dead_letter(&mut self, limit: Duration) -> Result<Published<DeadLetter>> {
        let message = timeout_at(Instant::now() + limit, self.dead_letters.next())
            .await
            .with_context(|| format!("no dead letter within {limit:?}; outcomes were:\n{}", self.listing()))??;
        let letter = read::<DeadLetter>(message)?;
        anyhow::ensure!(letter.event_type == TYPE_DEAD_LETTER, "a dead letter of type {}", letter.event_type);
        Ok(letter)
    }

    /// The kinds of what was published about one promotion, in order.
    pub fn kinds(&self, host: &str, counter: u64) -> Vec<OutcomeKind> {
        let ours = |outcome: &Outcome| outcome.host.as_str() == host && outcome.counter.0 == counter;
        self.seen.iter().filter(|published| ours(&published.data)).map(|published| published.data.kind).collect()
    }

    fn listing(&self) -> String {
        let line = |published: &Published<Outcome>| {
            let Outcome { host, counter, kind, message, reason, .. } = &published.data;
            let reason = reason.as_ref().map(|reason| format!(" [{}]", reason.code.as_str())).unwrap_or_default();
            format!("  {host} {counter} {kind}{reason}: {message}")
        };
        self.seen.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
