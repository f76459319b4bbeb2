//! Words and signs what this host tells the bus.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use landfall_bus::Delivered;
use landfall_deploy::Order;
use landfall_schema::Timestamp;
use landfall_schema::dead_letter::{BODY_MAX_BYTES, DeadLetter};
use landfall_schema::event::{
    CloudEvent, EventError, TYPE_CONDEMNED, TYPE_DEAD_LETTER, TYPE_MIGRATION_LEASE, TYPE_PRESENCE, TYPE_ROLLOUT_STATE,
};
use landfall_schema::gates::CondemnedList;
use landfall_schema::ids::{EnvName, EventId, HostName};
use landfall_schema::layout::DESIRED;
use landfall_schema::lease::MigrationLease;
use landfall_schema::outcome::{Outcome, OutcomeKind, Reason};
use landfall_schema::presence::Presence;
use landfall_schema::rollout::RolloutState;
use landfall_schema::signature::{DsseEnvelope, PublicKey, SignatureError, SigningKey};
use landfall_schema::subject::{self, Subject};
use serde::Serialize;
use thiserror::Error;

use crate::intake::{MessageId, Refused};
use crate::world;

/// Most bytes of a foreign signature header, or subject, that a dead letter keeps. Escaped they are six times as long, and must still fit.
const FOREIGN_MAX_BYTES: usize = 4 * 1024;
/// Most characters of why a message is not believed.
const COMPLAINT_MAX_CHARS: usize = 400;
/// A message that made an event too large is cut to this many characters.
const MESSAGE_MAX_CHARS: usize = 4_000;

/// An event, signed and addressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    pub id: EventId,
    pub subject: Subject,
    pub body: Vec<u8>,
    pub signature: Option<String>,
    pub traceparent: Option<String>,
    /// The message that is settled with the bus once this was published.
    pub settles: Option<MessageId>,
}

#[derive(Debug, Error)]
pub enum AnnounceError {
    #[error("cannot write the event")]
    Encode(#[from] EventError),
    #[error("cannot sign the event")]
    Sign(#[from] SignatureError),
}

/// Speaks for one host.
#[derive(Debug)]
pub struct Announcer {
    env: EnvName,
    host: HostName,
    key: SigningKey,
}

impl Announcer {
    pub fn new(env: EnvName, host: HostName, key: SigningKey) -> Self {
        Self { env, host, key }
    }

    pub fn host(&self) -> &HostName {
        &self.host
    }

    pub fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    /// An outcome; logs that make it too large are cut from their beginning.
    ///
    /// # Errors
    /// [`AnnounceError`] when it cannot be written or signed.
    pub fn outcome(
        &self,
        outcome: Outcome,
        now: Timestamp,
        traceparent: Option<&str>,
    ) -> Result<Announcement, AnnounceError> {
        self.outcome_as(world::new_id(), outcome, now, traceparent)
    }

    /// What was decided about a rollout. Whoever tells of the same decision uses the same id, so that it counts once.
    ///
    /// # Errors
    /// As [`Self::outcome`].
    pub fn decision(&self, id: EventId, outcome: Outcome, now: Timestamp) -> Result<Announcement, AnnounceError> {
        self.outcome_as(id, outcome, now, None)
    }

    fn outcome_as(
        &self,
        id: EventId,
        mut outcome: Outcome,
        now: Timestamp,
        traceparent: Option<&str>,
    ) -> Result<Announcement, AnnounceError> {
        let subject = subject::outcome(&self.env, &outcome.app, &self.host, outcome.kind);
        let kind = outcome.kind.event_type();
        loop {
            match self.event(id, subject.clone(), kind.clone(), now, &outcome) {
                Err(AnnounceError::Encode(EventError::Oversized { .. })) if shrink(&mut outcome) => {}
                event => return Ok(Announcement { traceparent: traceparent.map(str::to_owned), ..event? }),
            }
        }
    }

    /// That a promotion ended without its machine.
    ///
    /// # Errors
    /// As [`Self::outcome`].
    pub fn ended(
        &self,
        order: &Order,
        kind: OutcomeKind,
        reason: Reason,
        now: Timestamp,
        traceparent: Option<&str>,
    ) -> Result<Announcement, AnnounceError> {
        let promotion = &order.promotion;
        let message = format!("{} {}: {}", promotion.app, promotion.release, reason.message);
        let outcome = Outcome {
            env: self.env.clone(),
            message,
            reason: Some(reason),
            ..Outcome::new(kind, &self.host, promotion, order.id)
        };
        self.outcome(outcome, now, traceparent)
    }

    /// That a message was refused.
    ///
    /// # Errors
    /// As [`Self::outcome`].
    pub fn refused(
        &self,
        refused: &Refused,
        reason: Reason,
        now: Timestamp,
        traceparent: Option<&str>,
    ) -> Result<Announcement, AnnounceError> {
        let mut promotion = refused.event.data.clone();
        promotion.app.clone_from(&refused.app);
        let order = Order { host: self.host.clone(), id: refused.event.id, promotion };
        self.ended(&order, OutcomeKind::DeployRefused, reason, now, traceparent)
    }

    /// A message that could not be believed, kept for people.
    ///
    /// # Errors
    /// As [`Self::outcome`].
    pub fn dead_letter(
        &self,
        message: &Delivered,
        reason: Reason,
        now: Timestamp,
    ) -> Result<Announcement, AnnounceError> {
        let mut letter = DeadLetter {
            env: self.env.clone(),
            host: self.host.clone(),
            stream: DESIRED.to_owned(),
            sequence: message.sequence,
            subject: cut(&message.subject),
            reason,
            body_base64: String::new(),
            body_bytes: message.body.len() as u64,
            signature: message.signature.as_deref().map(cut),
        };
        // A reader's complaint may repeat whatever the message holds.
        cut_message(&mut letter.reason.message, COMPLAINT_MAX_CHARS);
        let (id, subject) = (world::new_id(), subject::dead_letter(&self.env, &self.host));
        let mut kept = message.body.len().min(BODY_MAX_BYTES);
        loop {
            letter.body_base64 = BASE64.encode(&message.body[..kept]);
            match self.event(id, subject.clone(), TYPE_DEAD_LETTER.to_owned(), now, &letter) {
                // What has to be escaped is longer when it is written.
                Err(AnnounceError::Encode(EventError::Oversized { .. })) if kept > 0 => kept /= 2,
                event => return Ok(Announcement { traceparent: message.traceparent.clone(), ..event? }),
            }
        }
    }

    /// # Errors
    /// As [`Self::outcome`].
    pub fn presence(&self, presence: &Presence, now: Timestamp) -> Result<Announcement, AnnounceError> {
        let (id, subject) = (world::new_id(), subject::presence(&self.env, &self.host));
        self.event(id, subject, TYPE_PRESENCE.to_owned(), now, presence)
    }

    /// The rollout's state as this host decided it: the bytes of a DSSE envelope.
    ///
    /// # Errors
    /// As [`Self::outcome`].
    pub fn rollout_state(&self, state: &RolloutState, now: Timestamp) -> Result<Vec<u8>, AnnounceError> {
        self.envelope(TYPE_ROLLOUT_STATE, now, state)
    }

    /// The releases that were condemned, the last one by this host: the bytes of a DSSE envelope.
    ///
    /// # Errors
    /// As [`Self::outcome`].
    pub fn condemned(&self, list: &CondemnedList, now: Timestamp) -> Result<Vec<u8>, AnnounceError> {
        self.envelope(TYPE_CONDEMNED, now, list)
    }

    /// A lease as this host wrote it: the bytes of a DSSE envelope.
    ///
    /// # Errors
    /// As [`Self::outcome`].
    pub fn lease(&self, lease: &MigrationLease, now: Timestamp) -> Result<Vec<u8>, AnnounceError> {
        self.envelope(TYPE_MIGRATION_LEASE, now, lease)
    }

    fn envelope<T: Serialize>(&self, kind: &str, now: Timestamp, data: &T) -> Result<Vec<u8>, AnnounceError> {
        let id = world::new_id();
        let source = format!("/landfall/host/{}", self.host);
        let payload = CloudEvent::new(id, source, kind, now, data).encode()?;
        let envelope = DsseEnvelope::new(&payload, vec![self.key.sign(&payload)?]);
        serde_json::to_vec(&envelope)
            .map_err(|source| AnnounceError::Encode(EventError::Malformed { expected: kind.to_owned(), source }))
    }

    fn event<T: Serialize>(
        &self,
        id: EventId,
        subject: Subject,
        kind: String,
        now: Timestamp,
        data: &T,
    ) -> Result<Announcement, AnnounceError> {
        let body = CloudEvent::new(id, format!("/landfall/host/{}", self.host), kind, now, data).encode()?;
        let signature = self.key.header(&body)?;
        Ok(Announcement { id, subject, body, signature: Some(signature), traceparent: None, settles: None })
    }
}

/// Makes an outcome smaller; `false` when nothing is left to cut.
fn shrink(outcome: &mut Outcome) -> bool {
    let Some(reason) = outcome.reason.as_mut() else { return cut_message(&mut outcome.message, MESSAGE_MAX_CHARS) };
    let longest = reason.logs.iter_mut().max_by_key(|tail| tail.lines.iter().map(String::len).sum::<usize>());
    match longest {
        Some(tail) if !tail.lines.is_empty() => {
            let half = tail.lines.len().div_ceil(2);
            tail.lines.drain(..half);
            true
        }
        _ => {
            let reason_cut = cut_message(&mut reason.message, MESSAGE_MAX_CHARS);
            cut_message(&mut outcome.message, MESSAGE_MAX_CHARS) || reason_cut
        }
    }
}

fn cut_message(message: &mut String, max_chars: usize) -> bool {
    match message.char_indices().nth(max_chars) {
        Some((end, _)) => {
            message.truncate(end);
            true
        }
        None => false,
    }
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(FOREIGN_MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use landfall_schema::layout::EVENT_MAX_BYTES;
    use landfall_schema::outcome::{LogTail, ReasonCode};
    use landfall_schema::signature::verify;

    use super::*;
    use crate::samples;

    #[test]
    fn outcomes_are_signed_and_never_too_large() {
        let announcer = samples::announcer();
        let lines: Vec<String> = (0..400).map(|n| format!("{n} {}", "x".repeat(396))).collect();
        let logs = vec![
            LogTail { source: "app".to_owned(), lines: lines.clone() },
            LogTail { source: "db".to_owned(), lines },
        ];
        let reason = Reason::new(ReasonCode::Unhealthy, "m".repeat(100_000)).logs(logs);
        let order = samples::order(7);
        let made =
            announcer.ended(&order, OutcomeKind::DeployFailed, reason, samples::now(), Some("00-a-b-01")).unwrap();
        assert!(made.body.len() <= EVENT_MAX_BYTES);
        verify(&made.body, made.signature.as_deref(), &[announcer.public_key()]).unwrap();
        assert_eq!(made.subject.as_str(), "landfall.staging.outcome.shop.host-a.deploy.failed");
        assert_eq!(made.traceparent.as_deref(), Some("00-a-b-01"));
    }

    #[test]
    fn a_dead_letter_keeps_a_bounded_part_of_the_body() {
        let announcer = samples::announcer();
        let mut message = samples::message(b"x".repeat(200_000), None);
        message.signature = Some("ü".repeat(10_000));
        let made =
            announcer.dead_letter(&message, Reason::new(ReasonCode::Oversized, "too large"), samples::now()).unwrap();
        let event: CloudEvent<DeadLetter> = CloudEvent::decode(&made.body, TYPE_DEAD_LETTER).unwrap();
        assert_eq!(event.data.body_bytes, 200_000);
        assert_eq!(BASE64.decode(event.data.body_base64).unwrap().len(), BODY_MAX_BYTES);
        assert!(event.data.signature.unwrap().len() <= FOREIGN_MAX_BYTES);
    }

    /// One that could not be written would come again for ever.
    #[test]
    fn a_dead_letter_is_never_too_large_to_be_told() {
        let announcer = samples::announcer();
        for junk in ["x", "\u{1}", "\"", "é"] {
            let mut message = samples::message(junk.repeat(60_000).into_bytes(), Some(junk.repeat(60_000)));
            message.subject = junk.repeat(60_000);
            let reason = Reason::new(ReasonCode::Malformed, junk.repeat(60_000));
            let made = announcer.dead_letter(&message, reason, samples::now()).unwrap();
            assert!(made.body.len() <= EVENT_MAX_BYTES);
        }
    }
}
