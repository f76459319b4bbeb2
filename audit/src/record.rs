//! From a message to what the ledger keeps of it. A message that is no event of ours becomes a [`Record::Rejected`], never an error.

use landfall_bus::Delivered;
use landfall_schema::event::{CloudEvent, EventError, TYPE_PROMOTED};
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::promotion::{Intent, Promotion};
use landfall_schema::signature::{DsseEnvelope, PublicKey, decode_header, verify};
use landfall_schema::subject;

/// Whose signatures count.
#[derive(Debug, Clone)]
pub enum Trust {
    Unchecked,
    Keys(Vec<PublicKey>),
}

/// What became of the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Trusted,
    Untrusted,
    Unchecked,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Untrusted => "untrusted",
            Self::Unchecked => "unchecked",
        }
    }
}

/// A row to be.
#[derive(Debug, Clone)]
pub struct Record {
    pub kind: Kind,
    pub sequence: u64,
    /// The whole event with its signatures, as DSSE in JSON.
    pub envelope: String,
}

#[derive(Debug, Clone)]
pub enum Kind {
    Release { event: Box<CloudEvent<Promotion>>, verdict: Verdict },
    Outcome { event: Box<CloudEvent<Outcome>>, verdict: Verdict },
    Rejected { subject: String, at_ms: i64, why: String },
}

impl Record {
    pub fn of(message: &Delivered, trust: &Trust) -> Self {
        let kind = read(message, trust).unwrap_or_else(|error| Kind::Rejected {
            subject: message.subject.clone(),
            at_ms: message.published_at.as_millisecond(),
            why: explain(&error),
        });
        Self { kind, sequence: message.sequence, envelope: envelope(message) }
    }
}

fn read(message: &Delivered, trust: &Trust) -> Result<Kind, EventError> {
    let verdict = verdict(message, trust);
    if subject::parse_release(&message.subject).is_some() {
        let event = CloudEvent::<Promotion>::decode(&message.body, TYPE_PROMOTED)?;
        return Ok(Kind::Release { event: Box::new(event), verdict });
    }
    let known = |kind: &str| OutcomeKind::from_event_type(kind).is_some();
    let event = CloudEvent::<Outcome>::decode_where(&message.body, "an outcome", known)?;
    Ok(Kind::Outcome { event: Box::new(event), verdict })
}

fn verdict(message: &Delivered, trust: &Trust) -> Verdict {
    match trust {
        Trust::Unchecked => Verdict::Unchecked,
        Trust::Keys(keys) if verify(&message.body, message.signature.as_deref(), keys).is_ok() => Verdict::Trusted,
        Trust::Keys(_) => Verdict::Untrusted,
    }
}

fn explain(error: &EventError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A header that is no list of signatures is left out: the bytes are what counts.
fn envelope(message: &Delivered) -> String {
    let signatures = decode_header(message.signature.as_deref()).unwrap_or_default();
    let envelope = DsseEnvelope::new(&message.body, signatures);
    // A struct of texts always serialises.
    serde_json::to_string(&envelope).unwrap_or_default()
}

/// `promote`, or `rollback`.
pub fn intent(promotion: &Promotion) -> &'static str {
    match promotion.intent {
        Intent::Promote => "promote",
        Intent::Rollback { .. } => "rollback",
    }
}
