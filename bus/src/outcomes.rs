//! Reading streams from a given point: outcomes as they come, and everything that there is so far.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Config as PullConfig, OrderedConfig};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use landfall_schema::layout::OUTCOMES;

use crate::connection::{Bus, REQUEST_TIMEOUT};
use crate::delivered::Delivered;
use crate::error::{BusError, Cause};

/// Messages asked for at a time.
const BATCH_MESSAGES: usize = 500;
/// The server forgets a reading consumer this long after its reader went away.
const READER_INACTIVE_MAX: Duration = Duration::from_secs(30);

/// Where to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomesFrom {
    All,
    /// Only what is published from now on.
    New,
    /// This sequence of `OUTCOMES` and later.
    Sequence(u64),
    /// The newest of every subject, and then whatever is published.
    NewestOfEach,
}

impl Bus {
    /// Follows outcomes, in order and without gaps, across reconnects. The consumer exists when this returns, so what is published
    /// afterwards is seen.
    ///
    /// # Errors
    /// [`BusError::Follow`]; also as an item, after which the stream can be polled on.
    pub async fn outcomes(
        &self,
        filter: String,
        from: OutcomesFrom,
    ) -> Result<BoxStream<'static, Result<Delivered, BusError>>, BusError> {
        self.outcomes_among(vec![filter], from).await
    }

    /// As [`Self::outcomes`], for several filters that do not overlap.
    ///
    /// # Errors
    /// As [`Self::outcomes`].
    pub async fn outcomes_among(
        &self,
        filters: Vec<String>,
        from: OutcomesFrom,
    ) -> Result<BoxStream<'static, Result<Delivered, BusError>>, BusError> {
        let filter = filters.join(", ");
        let failed = |source: Cause| BusError::Follow { filter: filter.clone(), source };
        #[cfg(feature = "simulation")]
        if let Some(server) = self.simulated() {
            let followed = server.follow(filters, from).await.map_err(|error| failed(self.cause(error)))?;
            let bus = self.clone();
            let told = followed.map(move |said| {
                said.map_err(|error| BusError::Follow { filter: filter.clone(), source: bus.cause(error) })
            });
            return Ok(told.boxed());
        }
        let stream = self.jetstream().get_stream(OUTCOMES).await.map_err(|error| failed(self.cause(error)))?;
        // "New" is turned into a number: an ordered consumer that is made again before its first message would else skip some.
        let from_sequence = |start_sequence| DeliverPolicy::ByStartSequence { start_sequence };
        let deliver_policy = match from {
            OutcomesFrom::All => from_sequence(1),
            OutcomesFrom::New => from_sequence(stream.cached_info().state.last_sequence + 1),
            OutcomesFrom::Sequence(sequence) => from_sequence(sequence.max(1)),
            OutcomesFrom::NewestOfEach => DeliverPolicy::LastPerSubject,
        };
        let (filter_subject, filter_subjects) = match <[String; 1]>::try_from(filters) {
            Ok([one]) => (one, Vec::new()),
            Err(several) => (String::new(), several),
        };
        let config = OrderedConfig {
            name: Some(self.unique_name("follow")),
            filter_subject,
            filter_subjects,
            deliver_policy,
            ..OrderedConfig::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(|error| failed(self.cause(error)))?;
        let messages = consumer.messages().await.map_err(|error| failed(self.cause(error)))?;
        let bus = self.clone();
        let told = messages.map(move |message| {
            let failed = |source| BusError::Follow { filter: filter.clone(), source };
            let message = message.map_err(|error| failed(bus.cause(error)))?;
            Delivered::from_consumer(&message).map_err(|error| failed(bus.cause(error)))
        });
        Ok(told.boxed())
    }

    /// Every outcome under the filter up to now, oldest first.
    ///
    /// # Errors
    /// [`BusError::ReadHistory`].
    pub async fn outcomes_so_far(&self, filter: &str) -> Result<Vec<Delivered>, BusError> {
        self.read_so_far(OUTCOMES, filter, DeliverPolicy::All).await
    }

    /// What `keep` makes of each outcome that the stream holds now under the filter, oldest first.
    ///
    /// # Errors
    /// [`BusError::ReadHistory`].
    pub async fn each_outcome<T>(
        &self,
        filter: &str,
        keep: impl FnMut(Delivered) -> Option<T>,
    ) -> Result<Vec<T>, BusError> {
        self.read_each(OUTCOMES, filter, DeliverPolicy::All, keep).await
    }

    /// The newest outcome of every kind per application and host under the filter, oldest first: what there is to say about now.
    ///
    /// # Errors
    /// [`BusError::ReadHistory`].
    pub async fn newest_outcomes(&self, filter: &str) -> Result<Vec<Delivered>, BusError> {
        self.read_so_far(OUTCOMES, filter, DeliverPolicy::LastPerSubject).await
    }

    /// What the stream holds now under the filter. The server's own count of what is pending says when it is complete.
    pub(crate) async fn read_so_far(
        &self,
        stream: &str,
        filter: &str,
        deliver_policy: DeliverPolicy,
    ) -> Result<Vec<Delivered>, BusError> {
        self.read_each(stream, filter, deliver_policy, Some).await
    }

    /// As [`Self::read_so_far`], keeping only what is made of each message: a stream may hold more than fits into memory.
    pub(crate) async fn read_each<T>(
        &self,
        stream: &str,
        filter: &str,
        deliver_policy: DeliverPolicy,
        mut keep: impl FnMut(Delivered) -> Option<T>,
    ) -> Result<Vec<T>, BusError> {
        let failed = |source: Cause| BusError::ReadHistory { filter: filter.to_owned(), source };
        #[cfg(feature = "simulation")]
        if let Some(server) = self.simulated() {
            let newest_of_each = matches!(deliver_policy, DeliverPolicy::LastPerSubject);
            let read = server.read(stream, filter, newest_of_each).await.map_err(|error| failed(self.cause(error)))?;
            return Ok(read.into_iter().filter_map(keep).collect());
        }
        let stream = self.jetstream().get_stream_no_info(stream).await.map_err(|error| failed(self.cause(error)))?;
        let name = self.unique_name("read");
        let config = PullConfig {
            name: Some(name.clone()),
            filter_subject: filter.to_owned(),
            deliver_policy,
            ack_policy: AckPolicy::None,
            inactive_threshold: READER_INACTIVE_MAX,
            memory_storage: true,
            num_replicas: 1,
            ..PullConfig::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(|error| failed(self.cause(error)))?;
        let mut pending = consumer.cached_info().num_pending;
        let mut found = Vec::new();
        while pending > 0 {
            let mut batch = consumer
                .batch()
                .max_messages(BATCH_MESSAGES.min(usize::try_from(pending).unwrap_or(BATCH_MESSAGES)))
                .expires(REQUEST_TIMEOUT)
                .messages()
                .await
                .map_err(|error| failed(self.cause(error)))?;
            let mut is_empty = true;
            while let Some(message) = batch.next().await {
                is_empty = false;
                let message = message.map_err(|error| failed(self.cause(error)))?;
                pending = message.info().map_err(|error| failed(self.cause(error)))?.pending;
                found.extend(keep(Delivered::from_consumer(&message).map_err(|error| failed(self.cause(error)))?));
            }
            if is_empty {
                return Err(failed(self.cause(format!("{pending} messages are pending but timed out"))));
            }
        }
        // It would go away by itself; the answer does not matter.
        let _ = stream.delete_consumer(&name).await;
        Ok(found)
    }
}
