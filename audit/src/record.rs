//! Reads a message as what it is. Nothing that arrives is lost: what cannot be read becomes a [`Rejected`] with the whole message.

use landfall_bus::Delivered;
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, EventError, TYPE_PROMOTED};
use landfall_schema::ids::{AppName, Digest, EnvName};
use landfall_schema::layout::{OUTCOMES, RELEASES};
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::promotion::{Intent, Promotion};
use landfall_schema::signature::{DsseEnvelope, decode_header};
use landfall_schema::subject;
use serde::Deserialize;

use crate::trust::{Judgement, Trust};

/// What the types of people's words begin with.
const WORDS: [&str; 2] = ["dev.landfall.release.", "dev.landfall.environment."];

/// A stream that the ledger keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    Releases,
    Outcomes,
}

impl Source {
    pub const ALL: [Self; 2] = [Self::Releases, Self::Outcomes];

    pub fn stream(self) -> &'static str {
        match self {
            Self::Releases => RELEASES,
            Self::Outcomes => OUTCOMES,
        }
    }
}

#[derive(Debug, Clone)]
pub enum Record {
    Release(Box<Stored<Promotion>>),
    Outcome(Box<Stored<Outcome>>),
    Word(Box<Stored<Word>>),
    Rejected(Rejected),
}

/// What people said about a release or an environment, as far as the ledger looks into it; the envelope has all of it.
#[derive(Debug, Clone, Deserialize)]
pub struct Word {
    pub env: EnvName,
    pub app: Option<AppName>,
    pub author: Option<String>,
}

/// An event, the message that brought it, and what its signature is worth.
#[derive(Debug, Clone)]
pub struct Stored<T> {
    pub event: CloudEvent<T>,
    pub message: Delivered,
    pub judgement: Judgement,
}

/// A message that is not what its stream is for.
#[derive(Debug, Clone)]
pub struct Rejected {
    pub source: Source,
    pub reason: RejectedFor,
    pub detail: String,
    pub message: Delivered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectedFor {
    Oversized,
    Malformed,
    UnknownType,
    UnknownSpec,
    /// The event says something else than the subject it was published to.
    SubjectMismatch,
    /// A number does not fit a database.
    OutOfRange,
    /// Another event of this id is stored already.
    IdReused,
    /// The database would not take it.
    LedgerRefused,
}

impl RejectedFor {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Oversized => "oversized",
            Self::Malformed => "malformed",
            Self::UnknownType => "unknown_type",
            Self::UnknownSpec => "unknown_spec",
            Self::SubjectMismatch => "subject_mismatch",
            Self::OutOfRange => "out_of_range",
            Self::IdReused => "id_reused",
            Self::LedgerRefused => "ledger_refused",
        }
    }
}

impl Record {
    pub fn read(source: Source, message: Delivered, trust: &Trust) -> Self {
        let read = match source {
            Source::Releases if is_promotion(&message) => read_release(&message, trust),
            Source::Releases => read_word(&message, trust),
            Source::Outcomes => read_outcome(&message, trust),
        };
        match read {
            Ok(record) => record,
            Err((reason, detail)) => Self::Rejected(Rejected { source, reason, detail, message }),
        }
    }

    pub fn message(&self) -> &Delivered {
        match self {
            Self::Release(stored) => &stored.message,
            Self::Outcome(stored) => &stored.message,
            Self::Word(stored) => &stored.message,
            Self::Rejected(rejected) => &rejected.message,
        }
    }

    /// The same message, to be stored among the rejected ones.
    pub fn rejected(&self, source: Source, reason: RejectedFor, detail: String) -> Rejected {
        Rejected { source, reason, detail, message: self.message().clone() }
    }
}

impl<T> Stored<T> {
    /// A header that cannot be read leaves the envelope without signatures; the verdict says so.
    pub fn envelope(&self) -> DsseEnvelope {
        let signatures = decode_header(self.message.signature.as_deref()).unwrap_or_default();
        DsseEnvelope::new(&self.message.body, signatures)
    }
}

/// The digest that tells two messages of one id apart.
pub fn digest_of(message: &Delivered) -> Digest {
    Digest::of(&message.body)
}

/// Milliseconds since 1970, as the ledger keeps times.
pub fn milliseconds(time: Timestamp) -> i64 {
    time.as_millisecond()
}

fn read_release(message: &Delivered, trust: &Trust) -> Result<Record, (RejectedFor, String)> {
    let event = CloudEvent::<Promotion>::decode(&message.body, TYPE_PROMOTED).map_err(unreadable)?;
    same_subject(message, subject::promoted(&event.data.env, &event.data.app).as_str())?;
    fits("counter", event.data.counter.0)?;
    if let Intent::Rollback { to } = &event.data.intent {
        fits("the counter to go back to", to.0)?;
    }
    let judgement = trust.of_promotion(&message.body, message.signature.as_deref());
    Ok(Record::Release(Box::new(Stored { event, message: message.clone(), judgement })))
}

fn is_promotion(message: &Delivered) -> bool {
    message.subject.ends_with(".promoted")
}

/// Everything else on the stream is for people, and of types that later versions add to.
fn read_word(message: &Delivered, trust: &Trust) -> Result<Record, (RejectedFor, String)> {
    let known = |kind: &str| WORDS.iter().any(|prefix| kind.starts_with(prefix));
    let expected = "dev.landfall.release.<verb>.v1 or dev.landfall.environment.<noun>.v1";
    let event = CloudEvent::<Word>::decode_where(&message.body, expected, known).map_err(unreadable)?;
    let Word { env, app, .. } = &event.data;
    let said_where = match app {
        Some(app) if message.subject.contains(".release.") => format!("landfall.{env}.release.{app}."),
        _ => format!("landfall.{env}.environment."),
    };
    if !message.subject.starts_with(&said_where) {
        let detail = format!("the event belongs below {said_where}, it came on {}", message.subject);
        return Err((RejectedFor::SubjectMismatch, detail));
    }
    let judgement = trust.of_word(&message.body, message.signature.as_deref());
    Ok(Record::Word(Box::new(Stored { event, message: message.clone(), judgement })))
}

fn read_outcome(message: &Delivered, trust: &Trust) -> Result<Record, (RejectedFor, String)> {
    let known = |kind: &str| OutcomeKind::from_event_type(kind).is_some();
    let event = CloudEvent::<Outcome>::decode_where(&message.body, "dev.landfall.<noun>.<verb>.v1", known)
        .map_err(unreadable)?;
    let outcome = &event.data;
    if event.kind != outcome.kind.event_type() {
        let detail = format!("the event is of type {}, its data tell of {}", event.kind, outcome.kind);
        return Err((RejectedFor::Malformed, detail));
    }
    same_subject(message, subject::outcome(&outcome.env, &outcome.app, &outcome.host, outcome.kind).as_str())?;
    fits("counter", outcome.counter.0)?;
    fits("duration_ms", outcome.duration_ms.unwrap_or_default())?;
    let judgement = trust.of_outcome(&outcome.host, &message.body, message.signature.as_deref());
    Ok(Record::Outcome(Box::new(Stored { event, message: message.clone(), judgement })))
}

fn unreadable(error: EventError) -> (RejectedFor, String) {
    let reason = match &error {
        EventError::Oversized { .. } => RejectedFor::Oversized,
        EventError::Malformed { .. } => RejectedFor::Malformed,
        EventError::UnknownType { .. } => RejectedFor::UnknownType,
        EventError::UnknownSpec { .. } => RejectedFor::UnknownSpec,
    };
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    (reason, format!("{error}{cause}"))
}

fn same_subject(message: &Delivered, expected: &str) -> Result<(), (RejectedFor, String)> {
    if message.subject == expected {
        return Ok(());
    }
    let detail = format!("the event belongs on {expected}, it came on {}", message.subject);
    Err((RejectedFor::SubjectMismatch, detail))
}

/// Databases have signed numbers only.
fn fits(what: &str, number: u64) -> Result<(), (RejectedFor, String)> {
    match i64::try_from(number) {
        Ok(_) => Ok(()),
        Err(_) => Err((RejectedFor::OutOfRange, format!("{what} is {number}, at most {} is stored", i64::MAX))),
    }
}
