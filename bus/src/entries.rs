//! Entries of the key-value buckets: read from the leader, changed by compare-and-set only; and hearing that something was said.

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use landfall_schema::Timestamp;
use landfall_schema::planted::planted;

use crate::connection::Bus;
use crate::error::BusError;

/// One entry as the leader holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What a change must name.
    pub revision: u64,
    pub body: Bytes,
    /// By the server's clock.
    pub written_at: Timestamp,
}

impl Bus {
    /// Reads an entry; `None` when nobody ever wrote it. It may be old by the time it is here: only a write decides.
    ///
    /// # Errors
    /// [`BusError::ReadLatest`].
    pub async fn entry(&self, bucket: &str, key: &str) -> Result<Option<Entry>, BusError> {
        let found = self.last_message(&format!("KV_{bucket}"), &subject(bucket, key)).await?;
        Ok(found.map(|message| Entry {
            revision: message.sequence,
            body: message.body,
            written_at: message.published_at,
        }))
    }

    /// Writes an entry, provided that its revision is still `expected_revision` (0: it does not exist). Returns the new revision. Not
    /// repeated by itself: when the answer is lost, reading tells what became of it.
    ///
    /// # Errors
    /// [`BusError::Raced`] when somebody else was first; [`BusError::Publish`].
    pub async fn write_entry(
        &self,
        bucket: &str,
        key: &str,
        body: Bytes,
        expected_revision: u64,
    ) -> Result<u64, BusError> {
        let subject = subject(bucket, key);
        let mut headers = HeaderMap::new();
        if !planted("trust_a_read") {
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected_revision.to_string());
        }
        self.publish_once(&subject, headers, body).await.map_err(|unpublished| unpublished.error)
    }

    /// Ticks whenever something is published under the subject. A tick may be missed while the connection is away, so it is a reason to
    /// look and nothing more.
    ///
    /// # Errors
    /// [`BusError::Hear`].
    pub async fn hear(&self, subject: String) -> Result<BoxStream<'static, ()>, BusError> {
        let failed = |source| BusError::Hear { subject: subject.clone(), source };
        #[cfg(feature = "simulation")]
        if let Some(server) = self.simulated() {
            return server.hear(subject.clone()).await.map_err(|error| failed(self.cause(error)));
        }
        let heard = self.client().subscribe(subject.clone()).await.map_err(|error| failed(self.cause(error)))?;
        // Without it the server may learn of the subscription after what follows.
        self.client().flush().await.map_err(|error| failed(self.cause(error)))?;
        Ok(heard.map(|_| ()).boxed())
    }
}

/// NATS ADR-8.
fn subject(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}
