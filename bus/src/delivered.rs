//! A message as it was read from a stream: bytes first, nothing believed yet.

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::message::StreamMessage;
use bytes::Bytes;
use landfall_schema::Timestamp;
use landfall_schema::layout::{HEADER_SIGNATURE, HEADER_TRACEPARENT};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    pub subject: String,
    /// In the stream; a mirror keeps its origin's numbers.
    pub sequence: u64,
    /// The exact bytes that the signature covers.
    pub body: Bytes,
    pub signature: Option<String>,
    pub traceparent: Option<String>,
    /// When the server stored it.
    pub published_at: Timestamp,
}

impl Delivered {
    pub fn from_stream(message: StreamMessage) -> Self {
        Self {
            subject: message.subject.to_string(),
            sequence: message.sequence,
            signature: header(&message.headers, HEADER_SIGNATURE),
            traceparent: header(&message.headers, HEADER_TRACEPARENT),
            published_at: timestamp(message.time.unix_timestamp_nanos()),
            body: message.payload,
        }
    }

    /// From a consumer's message.
    ///
    /// # Errors
    /// When the message carries no JetStream reply subject, so that its sequence is unknown.
    pub fn from_consumer(message: &jetstream::Message) -> Result<Self, async_nats::Error> {
        let info = message.info()?;
        let headers = message.headers.as_ref();
        Ok(Self {
            subject: message.subject.to_string(),
            sequence: info.stream_sequence,
            signature: headers.and_then(|headers| header(headers, HEADER_SIGNATURE)),
            traceparent: headers.and_then(|headers| header(headers, HEADER_TRACEPARENT)),
            published_at: timestamp(info.published.unix_timestamp_nanos()),
            body: message.payload.clone(),
        })
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| value.as_str().to_owned())
}

/// A server's clock cannot leave the range of a [`Timestamp`] unless it is badly wrong; then the epoch shows it.
fn timestamp(nanoseconds: i128) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}
