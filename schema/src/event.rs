//! The envelope: structured CloudEvents 1.0 in JSON. The body of a message is the event itself; its signatures travel in a header.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::ids::EventId;
use crate::layout::EVENT_MAX_BYTES;

pub const CONTENT_TYPE: &str = "application/cloudevents+json";
pub const SPEC_VERSION: &str = "1.0";

pub const TYPE_PROMOTED: &str = "dev.landfall.release.promoted.v1";
pub const TYPE_PRESENCE: &str = "dev.landfall.presence.v1";
pub const TYPE_HALTED: &str = "dev.landfall.release.halted.v1";
pub const TYPE_ROLLOUT_STATE: &str = "dev.landfall.rollout.state.v1";
pub const TYPE_MIGRATION_LEASE: &str = "dev.landfall.migration.lease.v1";
pub const TYPE_ENVIRONMENT_POLICY: &str = "dev.landfall.environment.policy.v1";
pub const TYPE_ENVIRONMENT_FROZEN: &str = "dev.landfall.environment.frozen.v1";
pub const TYPE_APPROVED: &str = "dev.landfall.release.approved.v1";
pub const TYPE_CONDEMNED: &str = "dev.landfall.release.condemned.v1";
pub const TYPE_ABSOLVED: &str = "dev.landfall.release.absolved.v1";
pub const TYPE_DEAD_LETTER: &str = "dev.landfall.deadletter.v1";
// Outcomes: `dev.landfall.<noun>.<verb>.v1`, see `OutcomeKind::event_type`.

/// A CloudEvent (cloudevents.io, 1.0.2). Unknown attributes are tolerated when read: within v1 there are only additions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CloudEvent<T> {
    pub specversion: String,
    pub id: EventId,
    /// Who says it, e.g. `/landfall/host/host-a` or `/landfall/producer/ci`.
    pub source: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[schemars(with = "String")]
    pub time: Timestamp,
    pub datacontenttype: String,
    pub data: T,
}

impl<T> CloudEvent<T> {
    pub fn new(id: EventId, source: impl Into<String>, kind: impl Into<String>, time: Timestamp, data: T) -> Self {
        Self {
            specversion: SPEC_VERSION.to_owned(),
            id,
            source: source.into(),
            kind: kind.into(),
            time,
            datacontenttype: "application/json".to_owned(),
            data,
        }
    }
}

/// Bytes that are not an event we can use.
#[derive(Debug, Error)]
pub enum EventError {
    #[error("the event has {bytes} bytes, at most {EVENT_MAX_BYTES} are allowed")]
    Oversized { bytes: usize },
    #[error("the event is not readable as {expected}")]
    Malformed { expected: String, source: serde_json::Error },
    #[error("the event is of type {found}, which this version of Landfall does not know; it knows {expected}")]
    UnknownType { found: String, expected: String },
    #[error("the event follows CloudEvents {found}, expected {SPEC_VERSION}")]
    UnknownSpec { found: String },
}

#[derive(Deserialize)]
struct Head {
    specversion: String,
    #[serde(rename = "type")]
    kind: String,
}

impl<T: Serialize> CloudEvent<T> {
    /// The bytes that are signed and published.
    ///
    /// # Errors
    /// [`EventError::Oversized`] above [`EVENT_MAX_BYTES`]; [`EventError::Malformed`] when the data cannot be written as JSON.
    pub fn encode(&self) -> Result<Vec<u8>, EventError> {
        let bytes =
            serde_json::to_vec(self).map_err(|source| EventError::Malformed { expected: self.kind.clone(), source })?;
        if bytes.len() > EVENT_MAX_BYTES {
            return Err(EventError::Oversized { bytes: bytes.len() });
        }
        Ok(bytes)
    }
}

impl<T: DeserializeOwned> CloudEvent<T> {
    /// Reads an event of exactly the type `expected`. Size first, then envelope and type, then data.
    ///
    /// # Errors
    /// Any [`EventError`].
    pub fn decode(bytes: &[u8], expected: &str) -> Result<Self, EventError> {
        Self::decode_where(bytes, expected, |kind| kind == expected)
    }

    /// As [`Self::decode`], for a family of types that `known` recognises and `expected` describes.
    ///
    /// # Errors
    /// Any [`EventError`].
    pub fn decode_where(bytes: &[u8], expected: &str, known: impl Fn(&str) -> bool) -> Result<Self, EventError> {
        if bytes.len() > EVENT_MAX_BYTES {
            return Err(EventError::Oversized { bytes: bytes.len() });
        }
        let malformed = |source| EventError::Malformed { expected: expected.to_owned(), source };
        let head: Head = serde_json::from_slice(bytes).map_err(malformed)?;
        if head.specversion != SPEC_VERSION {
            return Err(EventError::UnknownSpec { found: head.specversion });
        }
        if !known(&head.kind) {
            return Err(EventError::UnknownType { found: head.kind, expected: expected.to_owned() });
        }
        serde_json::from_slice(bytes).map_err(malformed)
    }
}
