//! Tells the bus what the journal's outbox holds: in order, each event until the bus has it. Nothing is lost while the bus is away.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use landfall_schema::Timestamp;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::announce::Announcement;
use crate::intake::MessageId;
use crate::journal::{Journal, JournalError, Unpublished};
use crate::pace::{Backoff, Throttle};

/// Events that are read from the journal at once.
const BATCH: u32 = 32;
/// Between two attempts to publish the same event, at least and at most.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Where events go.
pub trait Publish: Send + Sync {
    /// Resolves once the bus keeps the event. Saying the same id again is harmless. The error is one line.
    fn publish(&self, announcement: &Announcement) -> impl Future<Output = Result<(), String>> + Send;
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
    pub journal: Journal,
    pub publisher: P,
    pub bell: OutboxBell,
    /// Told which messages may be acknowledged.
    pub settled: mpsc::UnboundedSender<MessageId>,
}

impl<P: Publish> Outbox<P> {
    /// Works until `stop`; then publishes what is left, unless the bus is away.
    pub async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let mut trouble = Throttle::default();
        loop {
            match self.publish_batch().await {
                Ok(0) if stop.is_cancelled() => return,
                Ok(0) => {
                    tokio::select! {
                        () = self.bell.filled.notified() => {}
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
                    if stop.is_cancelled() {
                        return;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next_wait()) => {}
                        () = stop.cancelled() => {}
                    }
                }
            }
        }
    }

    /// How many were published. Stops at the first that was not, since order matters.
    async fn publish_batch(&self) -> Result<usize, String> {
        let shown = |error: JournalError| crate::causes(&error);
        let batch = self.journal.unpublished(BATCH).await.map_err(shown)?;
        let mut published = 0;
        for Unpublished { position, announcement } in batch {
            match self.publisher.publish(&announcement).await {
                Ok(()) => {}
                // What was published counts, so that the waits begin anew.
                Err(error) if published == 0 => return Err(error),
                Err(_) => return Ok(published),
            }
            self.journal.mark_published(position, Timestamp::now()).await.map_err(shown)?;
            published += 1;
            if let Some(message) = announcement.settles {
                // Nobody listens any more only while the daemon ends; the message then comes once more.
                let _ = self.settled.send(message);
            }
        }
        Ok(published)
    }
}

#[cfg(test)]
mod tests;
