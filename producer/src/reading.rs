//! Events as they were read from the bus. What cannot be read is counted and told of; a message whose content belongs under another
//! subject is not believed.

use landfall_bus::Delivered;
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_PRESENCE, TYPE_PROMOTED};
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::presence::Presence;
use landfall_schema::promotion::Promotion;
use landfall_schema::signature::{PublicKey, verify};
use landfall_schema::subject;
use serde::de::DeserializeOwned;

use crate::output::Output;

/// One readable event.
#[derive(Debug, Clone)]
pub struct Read<T> {
    pub sequence: u64,
    /// The server's time, not the sender's.
    pub published_at: Timestamp,
    pub event: CloudEvent<T>,
}

pub fn promotions(messages: &[Delivered], output: &Output) -> Vec<Read<Promotion>> {
    readable(messages, promotion, output)
}

pub fn outcomes(messages: &[Delivered], output: &Output) -> Vec<Read<Outcome>> {
    readable(messages, outcome, output)
}

pub fn presences(messages: &[Delivered], output: &Output) -> Vec<Read<Presence>> {
    readable(messages, presence, output)
}

pub fn promotion(message: &Delivered) -> Option<Read<Promotion>> {
    read(
        message,
        |kind| kind == TYPE_PROMOTED,
        |event: &CloudEvent<Promotion>| subject::promoted(&event.data.env, &event.data.app).as_str() == message.subject,
    )
}

pub fn outcome(message: &Delivered) -> Option<Read<Outcome>> {
    let known = |kind: &str| OutcomeKind::from_event_type(kind).is_some();
    read(message, known, |event: &CloudEvent<Outcome>| {
        let said = &event.data;
        let subject = subject::outcome(&said.env, &said.app, &said.host, said.kind);
        subject.as_str() == message.subject && said.kind.event_type() == event.kind
    })
}

/// A sign of life, signed by the very key that it announces.
pub fn presence(message: &Delivered) -> Option<Read<Presence>> {
    let read = read(
        message,
        |kind| kind == TYPE_PRESENCE,
        |event: &CloudEvent<Presence>| subject::presence(&event.data.env, &event.data.host).as_str() == message.subject,
    )?;
    let key = PublicKey::new(&read.event.data.key).ok()?;
    verify(&message.body, message.signature.as_deref(), &[key]).ok()?;
    Some(read)
}

fn read<T: DeserializeOwned>(
    message: &Delivered,
    known: impl Fn(&str) -> bool,
    belongs: impl Fn(&CloudEvent<T>) -> bool,
) -> Option<Read<T>> {
    let event = match CloudEvent::decode_where(&message.body, "an event of Landfall", known) {
        Ok(event) => event,
        Err(error) => {
            tracing::debug!(subject = message.subject, sequence = message.sequence, %error, "unreadable event");
            return None;
        }
    };
    let own = belongs(&event);
    own.then_some(Read { sequence: message.sequence, published_at: message.published_at, event })
}

fn readable<T>(messages: &[Delivered], read: impl Fn(&Delivered) -> Option<Read<T>>, output: &Output) -> Vec<Read<T>> {
    let mut found = Vec::with_capacity(messages.len());
    let mut left_out = Vec::new();
    for message in messages {
        match read(message) {
            Some(event) => found.push(event),
            None => left_out.push(message),
        }
    }
    if let Some(first) = left_out.first() {
        let which = format!("e.g. number {} of {}", first.sequence, first.subject);
        output.warn(format!(
            "{} of {} events cannot be read or believed and are left out, {which}",
            left_out.len(),
            messages.len()
        ));
    }
    found
}

/// `5 s`, `3 min`, `2 h`, `6 d`: how long ago that was.
pub fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `2026-11-21 09:00:00` in UTC.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use landfall_schema::signature::SigningKey;

    use super::*;

    #[test]
    fn ages_are_as_exact_as_a_person_wants_them() {
        let now: Timestamp = "2026-11-21T09:00:00Z".parse().unwrap();
        for (then, expect) in [
            ("2026-11-21T08:59:30Z", "30 s"),
            ("2026-11-21T08:50:00Z", "10 min"),
            ("2026-11-20T20:00:00Z", "13 h"),
            ("2026-11-01T09:00:00Z", "20 d"),
            ("2026-11-21T09:00:05Z", "0 s"),
        ] {
            assert_eq!(age(then.parse().unwrap(), now), expect, "{then}");
        }
        assert_eq!(time(now), "2026-11-21 09:00:00");
    }

    #[test]
    fn an_event_under_another_subject_is_not_believed() {
        let golden = include_bytes!("../../schema/golden/dev.landfall.deploy.succeeded.v1.json");
        let message = |subject: &str| Delivered {
            subject: subject.to_owned(),
            sequence: 1,
            body: golden.to_vec().into(),
            signature: None,
            traceparent: None,
            published_at: Timestamp::UNIX_EPOCH,
        };
        assert!(outcome(&message("landfall.staging.outcome.shop.host-a.deploy.succeeded")).is_some());
        for other in ["production.outcome.shop.host-a.deploy.succeeded", "staging.outcome.shop.host-b.deploy.succeeded"]
        {
            assert!(outcome(&message(&format!("landfall.{other}"))).is_none(), "{other}");
        }
        assert!(promotion(&message("landfall.staging.release.shop.promoted")).is_none());
    }

    #[test]
    fn a_sign_of_life_is_signed_by_the_key_that_it_announces() {
        let (own, other) = (SigningKey::generate(), SigningKey::generate());
        let mut event = crate::fixtures::present(1, "host-a", None).event;
        event.data.key = own.public().to_string();
        let body = event.encode().unwrap();
        let signed = |signature: Option<String>| Delivered {
            subject: "landfall.staging.presence.host-a".to_owned(),
            sequence: 1,
            body: body.clone().into(),
            signature,
            traceparent: None,
            published_at: Timestamp::UNIX_EPOCH,
        };
        assert!(presence(&signed(Some(own.header(&body).unwrap()))).is_some());
        assert!(presence(&signed(Some(other.header(&body).unwrap()))).is_none());
        assert!(presence(&signed(None)).is_none());
    }
}
