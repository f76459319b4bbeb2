//! Judges a delivered message: believed, and ours to carry out, or not. Pure: what the journal and the configuration know are arguments.

mod preview;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use landfall_bus::Delivered;
use landfall_deploy::Order;
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, EventError, TYPE_PROMOTED};
use landfall_schema::ids::{AppName, Counter, Digest, EnvName, EventId, HostName};
use landfall_schema::layout::EVENT_MAX_BYTES;
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::planted::planted;
use landfall_schema::promotion::Promotion;
use landfall_schema::signature::{PublicKey, SignatureError, verify};
use landfall_schema::subject::{ReleaseSubject, parse_release};

pub use preview::{PreviewFacts, SEPARATOR};

/// Highest counter that the journal can hold.
const COUNTER_MAX: u64 = i64::MAX as u64;

/// SHA-256 over subject, body and signature: names a message, however often and by whichever way it comes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageId(String);

impl MessageId {
    pub fn of(message: &Delivered) -> Self {
        Self::of_parts(&message.subject, &message.body, message.signature.as_deref())
    }

    pub fn of_parts(subject: &str, body: &[u8], signature: Option<&str>) -> Self {
        let mut bytes = Vec::with_capacity(body.len() + 512);
        for part in [subject.as_bytes(), body, signature.unwrap_or("").as_bytes()] {
            // With the lengths in front no two messages make the same bytes.
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        Self(Digest::of(&bytes).as_str().to_owned())
    }

    /// From the journal.
    pub fn stored(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A promotion that was believed, with the bytes that were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub order: Order,
    pub message: MessageId,
    pub body: Bytes,
    pub signature: Option<String>,
    pub traceparent: Option<String>,
}

/// What became of a message that came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// Its deploy has not ended, or the bus has not been told all of it.
    UnderWay,
    /// The bus knows what became of it.
    Told,
}

/// The promotion with the highest counter that this host took of an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub counter: Counter,
    pub id: EventId,
}

/// All that a judgement depends on.
#[derive(Debug)]
pub struct Facts<'a, A> {
    pub host: &'a HostName,
    pub env: &'a EnvName,
    pub labels: &'a BTreeMap<String, String>,
    pub trusted: &'a [PublicKey],
    pub apps: &'a BTreeMap<AppName, A>,
    pub previews: PreviewFacts<'a>,
    pub now: Timestamp,
    /// Of the application that the subject names.
    pub standing: Option<Standing>,
    /// Whether this host once took the promotion that the message claims to be.
    pub is_known: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Ours to carry out.
    Take(Box<Taken>),
    /// Nothing for this host to do; it is acknowledged.
    Ignore(Ignored),
    /// Believed, but a rule forbids it.
    Refuse { reason: Reason, refused: Refused },
    /// Not believed. `refused` is there when the body can be read as a promotion for this environment, so that whoever waits learns it.
    DeadLetter { reason: Reason, refused: Option<Refused> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    NotOnThisHost,
    /// The application is on this host; the plan is for others.
    ForOthers(Counter),
    TakenAlready,
}

/// What the outcome of a refusal says about the promotion.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    pub app: AppName,
    pub event: Box<CloudEvent<Promotion>>,
}

/// The application that a release subject of this environment names.
pub fn app_of(subject: &str, env: &EnvName) -> Option<AppName> {
    parse_release(subject).filter(|parsed| &parsed.env == env).map(|parsed| parsed.app)
}

/// The event that the message claims to be, before anything of it is believed.
pub fn claimed(message: &Delivered) -> Option<EventId> {
    CloudEvent::<Promotion>::decode(&message.body, TYPE_PROMOTED).ok().map(|event| event.id)
}

/// Size, signature over the exact bytes, form and version, subject against content, environment, expiry, counter; in this order. That the
/// application is one of this host is looked at first: otherwise every host would dead-letter what concerns one.
pub fn judge<A>(message: &Delivered, facts: &Facts<'_, A>) -> Verdict {
    let Some(subject) = parse_release(&message.subject) else {
        let text = format!("the subject {:?} is none of a release", cut(&message.subject));
        return Verdict::DeadLetter { reason: Reason::new(ReasonCode::Malformed, text), refused: None };
    };
    let is_app = facts.apps.contains_key(&subject.app);
    if !is_app && !preview::may_be(&subject.app, facts.previews.takes) {
        return Verdict::Ignore(Ignored::NotOnThisHost);
    }
    let event = match believe(message, facts.trusted) {
        Ok(event) => event,
        Err(reason) => {
            // A copy of what this host has taken ends nothing, whoever wrote it: its refusal would count as the word about the original.
            let refused = readable(message, &subject, facts.env).filter(|_| !facts.is_known);
            return Verdict::DeadLetter { reason, refused };
        }
    };
    if facts.standing.is_some_and(|standing| standing.id == event.id && standing.counter == event.data.counter) {
        return Verdict::Ignore(Ignored::TakenAlready);
    }
    if facts.is_known && facts.standing.is_some_and(|standing| event.data.counter < standing.counter) {
        return Verdict::Ignore(Ignored::TakenAlready);
    }
    if &event.data.env == facts.env && !is_app && event.data.preview.is_none() {
        return Verdict::Ignore(Ignored::NotOnThisHost);
    }
    if &event.data.env == facts.env && is_for_others(&event.data, facts) {
        return Verdict::Ignore(Ignored::ForOthers(event.data.counter));
    }
    match permitted(&event, &subject, facts) {
        Err(reason) => Verdict::Refuse { reason, refused: Refused { app: subject.app, event: Box::new(event) } },
        Ok(()) => Verdict::Take(Box::new(Taken {
            order: Order { host: facts.host.clone(), id: event.id, promotion: event.data },
            message: MessageId::of(message),
            body: message.body.clone(),
            signature: message.signature.clone(),
            traceparent: message.traceparent.clone(),
        })),
    }
}

fn is_for_others<A>(promotion: &Promotion, facts: &Facts<'_, A>) -> bool {
    let plan = &promotion.plan;
    if plan.hosts().chain(&plan.away).any(|named| named == facts.host) {
        return false;
    }
    plan.only_named || plan.labels.iter().any(|(key, value)| facts.labels.get(key) != Some(value))
}

/// Bytes, then signature, then content.
fn believe(message: &Delivered, trusted: &[PublicKey]) -> Result<CloudEvent<Promotion>, Reason> {
    if message.body.len() > EVENT_MAX_BYTES {
        let text = format!("the event has {} bytes, at most {EVENT_MAX_BYTES} are allowed", message.body.len());
        return Err(Reason::new(ReasonCode::Oversized, text));
    }
    if !planted("persist_before_verify") {
        verify(&message.body, message.signature.as_deref(), trusted).map_err(signature_reason)?;
    }
    CloudEvent::decode(&message.body, TYPE_PROMOTED).map_err(event_reason)
}

fn signature_reason(error: SignatureError) -> Reason {
    let (code, hint) = match &error {
        SignatureError::Unsigned => (ReasonCode::Unsigned, "promote with `landfall promote`, which signs"),
        SignatureError::Untrusted { .. } => (
            ReasonCode::UntrustedKey,
            "if that key may promote here, add it to trust.promote in the executor's configuration",
        ),
        SignatureError::Malformed(_) | SignatureError::Mismatch { .. } | SignatureError::BadKey(_) => {
            (ReasonCode::BadSignature, "the event was changed after it was signed; find out who writes to this subject")
        }
    };
    Reason::new(code, error.to_string()).hint(hint)
}

fn event_reason(error: EventError) -> Reason {
    let code = match &error {
        EventError::Oversized { .. } => ReasonCode::Oversized,
        EventError::Malformed { .. } => ReasonCode::Malformed,
        EventError::UnknownType { .. } | EventError::UnknownSpec { .. } => ReasonCode::UnknownVersion,
    };
    let text = match &error {
        EventError::Malformed { source, .. } => format!("{error}: {source}"),
        _ => error.to_string(),
    };
    match code {
        ReasonCode::UnknownVersion => {
            Reason::new(code, text).hint("upgrade the executor on this host, or promote with an older `landfall`")
        }
        _ => Reason::new(code, text),
    }
}

/// The rules for a promotion that is believed.
fn permitted<A>(event: &CloudEvent<Promotion>, subject: &ReleaseSubject, facts: &Facts<'_, A>) -> Result<(), Reason> {
    let promotion = &event.data;
    let refuse = |code, text: String, hint: &str| Err(Reason::new(code, text).hint(hint));
    if &promotion.env != facts.env || &subject.env != facts.env {
        let text = format!("the promotion is for {}, this host is of {}", promotion.env, facts.env);
        return refuse(ReasonCode::ForeignEnvironment, text, "promote it to the environment that it is meant for");
    }
    if promotion.app != subject.app {
        let text = format!("the promotion is of {}, it came on the subject of {}", promotion.app, subject.app);
        return refuse(ReasonCode::Malformed, text, "promote with `landfall promote`, which chooses the subject");
    }
    if promotion.counter == Counter::NONE || promotion.counter.0 > COUNTER_MAX {
        let text = format!("the promotion's number {} is out of range", promotion.counter);
        return refuse(ReasonCode::Malformed, text, "promote with `landfall promote`, which numbers promotions");
    }
    if facts.now >= promotion.expires_at {
        return Err(expired(promotion, facts.now));
    }
    match facts.standing {
        Some(standing) if promotion.counter <= standing.counter && !planted("ignore_the_counter") => {
            let text = format!(
                "promotion {} comes after {}, which this host took already",
                promotion.counter, standing.counter
            );
            refuse(ReasonCode::StaleCounter, text, "promote again; to go back use `landfall rollback`")
        }
        _ => preview::check(promotion, facts.apps.contains_key(&promotion.app), facts.previews, facts.now),
    }
}

/// Why an expired promotion is not begun.
pub fn expired(promotion: &Promotion, now: Timestamp) -> Reason {
    let text = format!("the promotion expired at {}, it is {} now", promotion.expires_at, Second(now));
    Reason::new(ReasonCode::Expired, text).hint("promote it again; if that was a moment ago, compare this host's clock")
}

struct Second(Timestamp);

impl fmt::Display for Second {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}", self.0)
    }
}

/// What can be told about a message that was not believed. Nothing of it is acted upon.
fn readable(message: &Delivered, subject: &ReleaseSubject, env: &EnvName) -> Option<Refused> {
    let event = CloudEvent::<Promotion>::decode(&message.body, TYPE_PROMOTED).ok()?;
    let concerns_us = &event.data.env == env && &subject.env == env && event.data.app == subject.app;
    concerns_us.then(|| Refused { app: subject.app.clone(), event: Box::new(event) })
}

fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests;
