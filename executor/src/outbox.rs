//! Tells the bus what the journal's outbox holds: in order, each event until the bus has it. Nothing is lost while the bus is away.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use landfall_schema::planted::planted;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::announce::Announcement;
use crate::causes;
use crate::failpoint::failpoint;
use crate::intake::MessageId;
use crate::journal::{Journal, Told, Unpublished};
use crate::pace::{Backoff, Throttle};
use crate::world;

/// Events that are read from the journal at once.
const BATCH: u32 = 32;
/// Between two attempts to publish the same event, at least and at most.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// So often the server may say that it will never take an event; then those behind it go on without it.
const REFUSED_ATTEMPTS_MAX: u32 = 10;

/// Why an event was not published. The text is one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotPublished {
    /// The bus is away or in trouble.
    Now(String),
    /// The server does not let this host say this, or it is too large: trying again does not help.
    Refused(String),
}

impl NotPublished {
    pub fn into_text(self) -> String {
        match self {
            Self::Now(text) | Self::Refused(text) => text,
        }
    }
}

/// Where events go.
pub trait Publish: Send + Sync {
    /// Resolves once the bus keeps the event. Saying the same id again is harmless.
    fn publish(&self, announcement: &Announcement) -> impl Future<Output = Result<(), NotPublished>> + Send;

    /// How often the connection was made, while it stands: after each time the server may have lost the newest of what it had taken.
    fn connections(&self) -> Option<u64> {
        None
    }

    /// Resolves when the connection is another one than `since`.
    fn reconnected(&self, _since: Option<u64>) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// The positions of what was told, oldest first, that the bus does not have.
    fn missing(&self, _told: Vec<Told>) -> impl Future<Output = Result<Vec<i64>, String>> + Send {
        async { Ok(Vec::new()) }
    }
}

/// What others hold of the outbox.
#[derive(Debug, Clone, Default)]
pub struct OutboxBell {
    filled: Arc<Notify>,
    stalled: Arc<AtomicBool>,
}

impl OutboxBell {
    /// Something was put into the outbox.
    pub fn ring(&self) {
        self.filled.notify_one();
    }

    /// Whether the bus does not take events at the moment; then what is not worth keeping need not be put in.
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }
}

pub struct Outbox<P> {
    journal: Journal,
    publisher: P,
    bell: OutboxBell,
    /// Told which messages may be acknowledged.
    settled: mpsc::UnboundedSender<MessageId>,
    /// Up to here everything is published.
    published: i64,
    /// Up to here the journal knows.
    marked: i64,
    /// The connection on which it was seen that the bus has everything.
    compared: Option<u64>,
    /// The event that was refused last, and how often in a row.
    refused: (i64, u32),
    /// Events that the server will not take. The journal keeps them, and the next start tries them once more.
    set_aside: Vec<i64>,
}

impl<P: Publish> Outbox<P> {
    pub fn new(journal: Journal, publisher: P, bell: OutboxBell, settled: mpsc::UnboundedSender<MessageId>) -> Self {
        Self {
            journal,
            publisher,
            bell,
            settled,
            published: 0,
            marked: 0,
            compared: None,
            refused: (0, 0),
            set_aside: Vec::new(),
        }
    }

    /// Works until `stop`; then publishes what is left, unless the bus is away.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let mut trouble = Throttle::default();
        loop {
            let stopping = stop.is_cancelled();
            match self.publish_batch(stopping).await {
                Ok(0) if stopping => return,
                Ok(0) => {
                    tokio::select! {
                        biased;
                        () = self.bell.filled.notified() => {}
                        () = self.publisher.reconnected(self.compared) => {}
                        () = stop.cancelled() => {}
                    }
                }
                Ok(published) => {
                    backoff.reset();
                    self.bell.stalled.store(false, Ordering::Relaxed);
                    if trouble.over() {
                        info!(published, "the bus takes events again");
                    }
                }
                Err(error) => {
                    self.bell.stalled.store(true, Ordering::Relaxed);
                    if let Some(untold) = trouble.tell() {
                        warn!(error, untold, "cannot tell the bus what happened; it is kept and tried again");
                    }
                    if stopping {
                        return;
                    }
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep(backoff.next_wait()) => {}
                        () = stop.cancelled() => {}
                    }
                }
            }
        }
    }

    /// How many were published. Stops at the first that was not, since order matters.
    async fn publish_batch(&mut self, stopping: bool) -> Result<usize, String> {
        self.compare().await?;
        let batch = self.journal.unpublished(self.published, BATCH).await.map_err(|error| causes(&error))?;
        if batch.is_empty() && stopping {
            self.mark().await?;
        }
        if let Some(last) = batch.last().filter(|_| planted("mark_before_publish")) {
            let now = world::now();
            self.journal.mark_published(last.position, &[], now).await.map_err(|error| causes(&error))?;
        }
        let mut count = 0;
        for Unpublished { position, announcement } in batch {
            failpoint!("outbox.publish.before");
            let published = self.publisher.publish(&announcement).await;
            failpoint!("outbox.publish.after");
            match published {
                // It may be another server, or the same one with an older store: what was told before is looked for first, and this is said
                // again under the same id.
                Ok(()) if self.publisher.connections() != self.compared && count == 0 => {
                    return Err("the bus was connected anew meanwhile".to_owned());
                }
                Ok(()) if self.publisher.connections() != self.compared => break,
                Ok(()) => self.set_aside.retain(|aside| *aside != position),
                Err(NotPublished::Now(_)) if planted("skip_what_fails") => {
                    self.published = position;
                    continue;
                }
                Err(NotPublished::Refused(error)) if self.is_given_up(position) => {
                    error!(
                        event = %announcement.id, subject = %announcement.subject, error,
                        "the server never takes this event; it is set aside, and the next start tries it once more (check this host's permissions)"
                    );
                    self.set_aside.push(position);
                    self.published = position;
                    count += 1;
                    continue;
                }
                // What was published counts, so that the waits begin anew.
                Err(NotPublished::Now(error) | NotPublished::Refused(error)) if count == 0 => {
                    self.mark().await?;
                    return Err(error);
                }
                Err(_) => break,
            }
            self.published = position;
            count += 1;
            if let Some(message) = announcement.settles {
                self.mark().await?;
                // Nobody listens any more only while the daemon ends; the message then comes once more.
                let _ = self.settled.send(message);
            }
        }
        Ok(count)
    }

    /// A server that was started again may come with an older store, or an empty one: what is missing there is told again, before anything
    /// newer is.
    async fn compare(&mut self) -> Result<(), String> {
        let Some(connection) = self.publisher.connections() else { return Ok(()) };
        if self.compared == Some(connection) {
            return Ok(());
        }
        if planted("compare_never") || planted("skip_what_fails") {
            self.compared = Some(connection);
            return Ok(());
        }
        self.mark().await?;
        let told = self.journal.told().await.map_err(|error| causes(&error))?;
        let missing = self.publisher.missing(told).await?;
        if let Some(first) = missing.first() {
            warn!(
                events = missing.len(),
                "the bus has lost what this host told it (was its store restored, or emptied?); it is told again"
            );
            self.journal.tell_again(&missing).await.map_err(|error| causes(&error))?;
            (self.published, self.marked) = (first - 1, first - 1);
        }
        self.compared = Some(connection);
        Ok(())
    }

    /// Counts one more refusal of this event.
    fn is_given_up(&mut self, position: i64) -> bool {
        let times = if self.refused.0 == position { self.refused.1 + 1 } else { 1 };
        self.refused = (position, times);
        times >= REFUSED_ATTEMPTS_MAX
    }

    /// Written when a deploy has ended and not after each event: a write costs the deploy some milliseconds, and an event that is published
    /// again after a crash carries the same id.
    async fn mark(&mut self) -> Result<(), String> {
        if self.marked < self.published {
            self.journal
                .mark_published(self.published, &self.set_aside, world::now())
                .await
                .map_err(|error| causes(&error))?;
            self.marked = self.published;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
