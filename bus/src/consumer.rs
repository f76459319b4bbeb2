//! What an executor reads: its durable consumer on the register, the sweep past all consumers, and who is present.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, Config as ConsumerConfig, Consumer, DeliverPolicy};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use landfall_schema::ids::{EnvName, HostName};
use landfall_schema::layout::{self, ACK_WAIT, DESIRED, PRESENCE};
use landfall_schema::subject;

use crate::connection::Bus;
use crate::delivered::Delivered;
use crate::error::{BusError, Cause};
use crate::layout::{Setting, listed};
use crate::receipt::Receipt;

/// Messages that are asked for at once; a host takes about one per application.
const PULL_MESSAGES: usize = 32;
/// The server tells twice in this time that a pull is alive.
const PULL_HEARTBEAT: Duration = Duration::from_secs(5);

impl Bus {
    /// Promotions for the host as its durable delivers them, each with its receipt. Ends with an error when something is wrong.
    ///
    /// # Errors
    /// As [`Self::executor_consumer`].
    pub async fn deliveries(
        &self,
        env: &EnvName,
        host: &HostName,
    ) -> Result<BoxStream<'static, Result<(Delivered, Receipt), BusError>>, BusError> {
        let name = layout::executor_consumer(env, host);
        let bus = self.clone();
        let failed = move |source: Cause| BusError::Consumer { name: name.clone(), source };
        #[cfg(feature = "simulation")]
        if let Some(server) = self.simulated() {
            let delivered = server.promotions(env, host).await.map_err(|error| failed(self.cause(error)))?;
            return Ok(delivered.map(move |next| next.map_err(|error| failed(bus.cause(error)))).boxed());
        }
        let consumer = self.executor_consumer(env, host).await?;
        let messages = consumer.stream().max_messages_per_batch(PULL_MESSAGES).heartbeat(PULL_HEARTBEAT).messages();
        let messages = messages.await.map_err(|error| failed(self.cause(error)))?;
        let delivered = messages.map(move |message| {
            let message = message.map_err(|error| failed(bus.cause(error)))?;
            let delivered = Delivered::from_consumer(&message).map_err(|error| failed(bus.cause(error)))?;
            Ok((delivered, Receipt::nats(message)))
        });
        Ok(delivered.boxed())
    }

    /// The host's durable on the register: the newest promotion per application, acknowledged one by one, kept for ever.
    ///
    /// # Errors
    /// [`BusError::Consumer`]; [`BusError::Differs`] when the server holds it otherwise than asked. An older server that dropped the
    /// filter would deliver other environments' promotions.
    pub async fn executor_consumer(&self, env: &EnvName, host: &HostName) -> Result<Consumer<PullConfig>, BusError> {
        let name = layout::executor_consumer(env, host);
        let wanted = PullConfig {
            durable_name: Some(name.clone()),
            description: Some(format!("Landfall: executor of {host} in {env}")),
            filter_subject: subject::promoted_filter(env),
            deliver_policy: DeliverPolicy::LastPerSubject,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            num_replicas: 1,
            ..PullConfig::default()
        };
        let consumer = self
            .jetstream()
            .create_consumer_on_stream(wanted.clone(), DESIRED)
            .await
            .map_err(|error| BusError::Consumer { name: name.clone(), source: self.cause(error) })?;
        let left = differences(&consumer.cached_info().config, &wanted);
        if left.is_empty() {
            Ok(consumer)
        } else {
            Err(BusError::Differs { what: format!("consumer {name}"), differences: listed(&left) })
        }
    }

    /// The newest promotion of every application of the environment, read from the register itself.
    ///
    /// # Errors
    /// [`BusError::Sweep`].
    pub async fn register(&self, env: &EnvName) -> Result<Vec<Delivered>, BusError> {
        self.last_per_subject(DESIRED, &subject::promoted_filter(env)).await
    }

    /// The last sign of life of every host of the environment, by name. Read in one go: message by message, thousands of hosts would keep
    /// a rollout waiting.
    ///
    /// # Errors
    /// [`BusError::ReadHistory`].
    pub async fn presence(&self, env: &EnvName) -> Result<Vec<Delivered>, BusError> {
        let filter = subject::presence_filter(env);
        let mut beats = self.read_so_far(PRESENCE, &filter, DeliverPolicy::LastPerSubject).await?;
        // A host that beats meanwhile is there twice; its newer word comes later.
        beats.reverse();
        beats.sort_by(|a, b| a.subject.cmp(&b.subject));
        beats.dedup_by(|a, b| a.subject == b.subject);
        Ok(beats)
    }

    async fn last_per_subject(&self, stream_name: &str, filter: &str) -> Result<Vec<Delivered>, BusError> {
        let failed = |source| BusError::Sweep { filter: filter.to_owned(), source };
        #[cfg(feature = "simulation")]
        if let Some(server) = self.simulated() {
            return server.read(stream_name, filter, true).await.map_err(|error| failed(self.cause(error)));
        }
        let stream =
            self.jetstream().get_stream_no_info(stream_name).await.map_err(|error| failed(self.cause(error)))?;
        let listing = stream.info_with_subjects(filter).await.map_err(|error| failed(self.cause(error)))?;
        let mut subjects: Vec<(String, usize)> =
            listing.try_collect().await.map_err(|error| failed(self.cause(error)))?;
        subjects.sort();
        // A listing that comes in pages may repeat a subject while the stream moves.
        subjects.dedup_by(|a, b| a.0 == b.0);
        let mut found = Vec::with_capacity(subjects.len());
        for (subject, _) in subjects {
            // It may have aged out since it was listed.
            found.extend(self.last_message(stream_name, &subject).await?);
        }
        Ok(found)
    }
}

fn differences(have: &ConsumerConfig, want: &PullConfig) -> Vec<Setting> {
    [
        ("filter_subject", have.filter_subject.clone(), want.filter_subject.clone()),
        ("deliver_policy", format!("{:?}", have.deliver_policy), format!("{:?}", want.deliver_policy)),
        ("ack_policy", format!("{:?}", have.ack_policy), format!("{:?}", want.ack_policy)),
        ("ack_wait", format!("{:?}", have.ack_wait), format!("{:?}", want.ack_wait)),
        ("inactive_threshold", format!("{:?}", have.inactive_threshold), format!("{:?}", want.inactive_threshold)),
    ]
    .into_iter()
    .filter(|(_, have, want)| have != want)
    .map(|(name, have, want)| Setting { name, have, want })
    .collect()
}
