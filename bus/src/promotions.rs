//! Publishing and reading promotions; and publishing anything that is signed.

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use landfall_schema::event::{CONTENT_TYPE, CloudEvent};
use landfall_schema::ids::{AppName, EnvName, EventId};
use landfall_schema::layout::{HEADER_CONTENT_TYPE, HEADER_SIGNATURE, HEADER_TRACEPARENT, OUTCOMES, RELEASES};
use landfall_schema::promotion::Promotion;
use landfall_schema::signature::SigningKey;
use landfall_schema::subject::{self, Subject};

use crate::connection::Bus;
use crate::delivered::Delivered;
use crate::error::BusError;
#[cfg(feature = "simulation")]
use crate::simulated::{NotTaken, Outgoing};

/// How often one message is sent when the acknowledgement does not come; its id makes the repetition harmless.
const PUBLISH_ATTEMPTS_MAX: u32 = 3;

/// A message that was not acknowledged.
pub(crate) struct Unpublished {
    /// The acknowledgement did not come in time; the message may have been taken all the same.
    is_late: bool,
    pub(crate) error: BusError,
}

impl Bus {
    /// The newest promotion of one application, from the source of truth.
    ///
    /// # Errors
    /// [`BusError::ReadLatest`].
    pub async fn latest_promotion(&self, env: &EnvName, app: &AppName) -> Result<Option<Delivered>, BusError> {
        self.last_message(RELEASES, subject::promoted(env, app).as_str()).await
    }

    /// Every promotion of an environment, or of one application in it, oldest first.
    ///
    /// # Errors
    /// [`BusError::ReadHistory`].
    pub async fn promotions(&self, env: &EnvName, app: Option<&AppName>) -> Result<Vec<Delivered>, BusError> {
        let filter = match app {
            Some(app) => subject::promoted(env, app).to_string(),
            None => subject::promoted_filter(env),
        };
        self.read_so_far(RELEASES, &filter, DeliverPolicy::All).await
    }

    /// Of every promotion of an application, oldest first, what `keep` makes of it. What it does not keep takes no memory, so that junk on the
    /// subject costs time and nothing else.
    ///
    /// # Errors
    /// [`BusError::ReadHistory`].
    pub async fn promotions_where<T>(
        &self,
        env: &EnvName,
        app: &AppName,
        keep: impl FnMut(Delivered) -> Option<T>,
    ) -> Result<Vec<T>, BusError> {
        self.read_each(RELEASES, subject::promoted(env, app).as_str(), DeliverPolicy::All, keep).await
    }

    /// Signs and publishes a promotion, provided that the last one on its subject is still `expected_last_sequence` (0 for none).
    /// Returns its sequence.
    ///
    /// # Errors
    /// [`BusError::Raced`] when another promotion was first; [`BusError::Encode`], [`BusError::Sign`], [`BusError::Publish`].
    pub async fn publish_promotion(
        &self,
        event: &CloudEvent<Promotion>,
        key: &SigningKey,
        expected_last_sequence: u64,
        traceparent: Option<&str>,
    ) -> Result<u64, BusError> {
        let body = event.encode()?;
        let signature = key.header(&body)?;
        let subject = subject::promoted(&event.data.env, &event.data.app);
        let mut headers = headers(event.id, Some(&signature), traceparent);
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected_last_sequence.to_string());
        self.publish(&subject, headers, Bytes::from(body)).await
    }

    /// Publishes bytes that are signed already and awaits the server's acknowledgement. Saying the same id again is harmless.
    ///
    /// # Errors
    /// [`BusError::Publish`].
    pub async fn publish_signed(
        &self,
        subject: &Subject,
        id: EventId,
        body: &[u8],
        signature: Option<&str>,
        traceparent: Option<&str>,
    ) -> Result<(), BusError> {
        self.publish(subject, headers(id, signature, traceparent), Bytes::copy_from_slice(body)).await.map(|_| ())
    }

    /// As [`Self::publish_signed`], provided that the last message on the subject is still `expected_last_sequence` (0 for none). Returns
    /// its sequence.
    ///
    /// # Errors
    /// [`BusError::Raced`] when somebody else was first; [`BusError::Publish`].
    pub async fn publish_expecting(
        &self,
        subject: &Subject,
        id: EventId,
        body: &[u8],
        signature: Option<&str>,
        traceparent: Option<&str>,
        expected_last_sequence: u64,
    ) -> Result<u64, BusError> {
        let mut headers = headers(id, signature, traceparent);
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected_last_sequence.to_string());
        self.publish(subject, headers, Bytes::copy_from_slice(body)).await
    }

    /// The newest message on a release or environment subject, from the source of truth.
    ///
    /// # Errors
    /// [`BusError::ReadLatest`].
    pub async fn last_said(&self, subject: &Subject) -> Result<Option<Delivered>, BusError> {
        self.last_message(RELEASES, subject.as_str()).await
    }

    /// All that was ever said on a release or environment subject, oldest first.
    ///
    /// # Errors
    /// [`BusError::ReadHistory`].
    pub async fn said(&self, subject: &Subject) -> Result<Vec<Delivered>, BusError> {
        self.read_so_far(RELEASES, subject.as_str(), DeliverPolicy::All).await
    }

    /// The newest outcome of one kind of one host.
    ///
    /// # Errors
    /// [`BusError::ReadLatest`].
    pub async fn last_outcome(&self, subject: &Subject) -> Result<Option<Delivered>, BusError> {
        self.last_message(OUTCOMES, subject.as_str()).await
    }

    async fn publish(&self, subject: &Subject, headers: HeaderMap, body: Bytes) -> Result<u64, BusError> {
        let mut attempt = 1;
        loop {
            match self.publish_once(subject.as_str(), headers.clone(), body.clone()).await {
                Ok(sequence) => return Ok(sequence),
                Err(Unpublished { is_late: true, .. }) if attempt < PUBLISH_ATTEMPTS_MAX => attempt += 1,
                Err(Unpublished { error, .. }) => return Err(error),
            }
        }
    }

    /// Sends a message and awaits the acknowledgement, once.
    pub(crate) async fn publish_once(
        &self,
        subject: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<u64, Unpublished> {
        let raced = || Unpublished { is_late: false, error: BusError::Raced { subject: subject.to_owned() } };
        let failed =
            |is_late, source| Unpublished { is_late, error: BusError::Publish { subject: subject.to_owned(), source } };
        #[cfg(feature = "simulation")]
        if let Some(server) = self.simulated() {
            let taken = server.publish(Outgoing::new(subject, &headers, body)).await;
            return taken.map_err(|why| match why {
                NotTaken::Raced => raced(),
                NotTaken::TimedOut => failed(true, self.cause("timed out")),
            });
        }
        let refused = |error: PublishError| match error.kind() {
            PublishErrorKind::WrongLastSequence => raced(),
            kind => failed(kind == PublishErrorKind::TimedOut, self.cause(error)),
        };
        let message = PublishMessage::build().headers(headers).payload(body);
        let sent = self.jetstream().send_publish(subject.to_owned(), message).await.map_err(refused)?;
        Ok(sent.await.map_err(refused)?.sequence)
    }

    /// The last message of one subject, read from the stream's leader.
    pub(crate) async fn last_message(&self, stream: &str, subject: &str) -> Result<Option<Delivered>, BusError> {
        let failed = |source| BusError::ReadLatest { subject: subject.to_owned(), source };
        #[cfg(feature = "simulation")]
        if let Some(server) = self.simulated() {
            return server.last(stream, subject).await.map_err(|error| failed(self.cause(error)));
        }
        let stream = self.jetstream().get_stream_no_info(stream).await.map_err(|error| failed(self.cause(error)))?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(Delivered::from_stream(message))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(failed(self.cause(error))),
        }
    }
}

fn headers(id: EventId, signature: Option<&str>, traceparent: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HEADER_CONTENT_TYPE, CONTENT_TYPE);
    headers.insert(NATS_MESSAGE_ID, id.to_string());
    if let Some(signature) = signature {
        headers.insert(HEADER_SIGNATURE, signature);
    }
    if let Some(traceparent) = traceparent {
        headers.insert(HEADER_TRACEPARENT, traceparent);
    }
    headers
}
