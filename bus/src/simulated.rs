//! A server that is simulated in the same process, in place of NATS. What is above it (repetitions, time limits, what errors are called) is
//! the same code.

use std::fmt::Debug;

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use landfall_schema::ids::{Digest, EnvName, HostName};
use landfall_schema::layout::{HEADER_SIGNATURE, HEADER_TRACEPARENT};

use crate::delivered::Delivered;
use crate::outcomes::OutcomesFrom;
use crate::receipt::{Receipt, Settlement};

/// A message that is published.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    pub subject: String,
    /// Saying the same id again adds nothing.
    pub id: Option<String>,
    pub signature: Option<String>,
    pub traceparent: Option<String>,
    pub body: Bytes,
    /// The last sequence that the subject must have.
    pub expected: Option<u64>,
}

impl Outgoing {
    /// As NATS would be given it.
    pub fn new(subject: &str, headers: &HeaderMap, body: Bytes) -> Self {
        let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
        Self {
            subject: subject.to_owned(),
            id: header(NATS_MESSAGE_ID.as_ref()),
            signature: header(HEADER_SIGNATURE),
            traceparent: header(HEADER_TRACEPARENT),
            body,
            expected: header(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE.as_ref()).and_then(|text| text.parse().ok()),
        }
    }
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotTaken {
    Raced,
    /// Nobody knows whether it was.
    TimedOut,
}

/// What a consumer delivers.
pub type Deliveries = BoxStream<'static, Result<(Delivered, Receipt), String>>;

/// What an executor asks of the bus.
pub trait Server: Debug + Send + Sync {
    fn is_connected(&self) -> bool;
    /// How often the connection was made so far.
    fn connections(&self) -> u64;
    fn publish(&self, message: Outgoing) -> BoxFuture<'_, Result<u64, NotTaken>>;
    fn last<'a>(&'a self, stream: &'a str, subject: &'a str) -> BoxFuture<'a, Result<Option<Delivered>, String>>;
    fn read<'a>(
        &'a self,
        stream: &'a str,
        filter: &'a str,
        newest_of_each: bool,
    ) -> BoxFuture<'a, Result<Vec<Delivered>, String>>;
    fn follow(
        &self,
        filters: Vec<String>,
        from: OutcomesFrom,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<Delivered, String>>, String>>;
    fn hear(&self, subject: String) -> BoxFuture<'_, Result<BoxStream<'static, ()>, String>>;
    fn bundle<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<Vec<u8>>, String>>;
    fn promotions<'a>(&'a self, env: &'a EnvName, host: &'a HostName) -> BoxFuture<'a, Result<Deliveries, String>>;
}

/// Takes what is said about a delivered message.
pub trait Settle: Debug + Send + Sync {
    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, Result<(), String>>;
}
