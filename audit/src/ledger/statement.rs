//! Records as SQL that SQLite and PostgreSQL both understand: texts, whole numbers and bytes only.

use landfall_schema::Timestamp;
use landfall_schema::outcome::Outcome;
use landfall_schema::promotion::{Intent, Promotion};
use serde::Serialize;

use crate::record::{Record, Rejected, RejectedFor, Source, Stored, Word, digest_of, milliseconds};

/// One SQL statement with its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub sql: &'static str,
    pub values: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(Option<String>),
    Number(Option<i64>),
    Bytes(Vec<u8>),
}

/// What stores one record: `insert`, and when that found the event's id taken, `otherwise`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Insertion {
    pub insert: Statement,
    pub otherwise: Option<Statement>,
}

const INSERT_RELEASE: &str = "INSERT INTO releases (event_id, env, app, counter, release_name, intent, rollback_to, author, \
     link, hosts, expires_at_ms, occurred_at_ms, published_at_ms, stored_at_ms, stream_sequence, subject, envelope, body_sha256, \
     verdict, signer, traceparent) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21) \
     ON CONFLICT (event_id) DO NOTHING";

const INSERT_OUTCOME: &str = "INSERT INTO outcomes (event_id, promotion_id, env, app, host, counter, release_name, kind, \
     is_terminal, duration_ms, message, reason_code, reason_message, occurred_at_ms, published_at_ms, stored_at_ms, stream_sequence, \
     subject, envelope, body_sha256, verdict, signer, traceparent) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23) \
     ON CONFLICT (event_id) DO NOTHING";

const INSERT_WORD: &str = "INSERT INTO words (event_id, kind, env, app, author, occurred_at_ms, published_at_ms, stored_at_ms, \
     stream_sequence, subject, envelope, body_sha256, verdict, signer, traceparent) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) ON CONFLICT DO NOTHING";

const INSERT_REJECTED: &str = "INSERT INTO rejected (stream, stream_sequence, published_at_ms, stored_at_ms, subject, reason, \
     detail, body, body_sha256, signature) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING";

/// The same event again is nothing new; another one under its id is kept as rejected.
const REJECT_UNLESS_RELEASE: &str = "INSERT INTO rejected (stream, stream_sequence, published_at_ms, stored_at_ms, subject, \
     reason, detail, body, body_sha256, signature) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 \
     WHERE NOT EXISTS (SELECT 1 FROM releases WHERE event_id = $11 AND body_sha256 = $9) ON CONFLICT DO NOTHING";

const REJECT_UNLESS_OUTCOME: &str = "INSERT INTO rejected (stream, stream_sequence, published_at_ms, stored_at_ms, subject, \
     reason, detail, body, body_sha256, signature) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 \
     WHERE NOT EXISTS (SELECT 1 FROM outcomes WHERE event_id = $11 AND body_sha256 = $9) ON CONFLICT DO NOTHING";

/// A message that is delivered once more does not move the position back, unless its stream is another one by now.
const MOVE_POSITION: &str = "INSERT INTO positions (stream, stream_created_ms, stream_sequence) VALUES ($1, $2, $3) \
     ON CONFLICT (stream) DO UPDATE SET stream_created_ms = excluded.stream_created_ms, stream_sequence = CASE \
     WHEN positions.stream_created_ms = excluded.stream_created_ms \
     AND positions.stream_sequence > excluded.stream_sequence \
     THEN positions.stream_sequence ELSE excluded.stream_sequence END";

pub(super) fn insertion(record: &Record, stored_at: Timestamp) -> Insertion {
    match record {
        Record::Release(stored) => Insertion {
            insert: Statement { sql: INSERT_RELEASE, values: release_values(stored, stored_at) },
            otherwise: Some(reused(REJECT_UNLESS_RELEASE, Source::Releases, stored, stored_at)),
        },
        Record::Outcome(stored) => Insertion {
            insert: Statement { sql: INSERT_OUTCOME, values: outcome_values(stored, stored_at) },
            otherwise: Some(reused(REJECT_UNLESS_OUTCOME, Source::Outcomes, stored, stored_at)),
        },
        Record::Word(stored) => Insertion {
            insert: Statement { sql: INSERT_WORD, values: word_values(stored, stored_at) },
            otherwise: None,
        },
        Record::Rejected(rejected) => Insertion {
            insert: Statement { sql: INSERT_REJECTED, values: rejected_values(rejected, stored_at) },
            otherwise: None,
        },
    }
}

pub(super) fn position(source: Source, stream_created_ms: i64, sequence: u64) -> Statement {
    let values = vec![text(source.stream()), Value::Number(Some(stream_created_ms)), number(sequence)];
    Statement { sql: MOVE_POSITION, values }
}

fn release_values(stored: &Stored<Promotion>, stored_at: Timestamp) -> Vec<Value> {
    let promotion = &stored.event.data;
    let (intent, rollback_to) = match &promotion.intent {
        Intent::Promote => ("promote", None),
        Intent::Remove => ("remove", None),
        Intent::Rollback { to } => ("rollback", Some(saturated(to.0))),
    };
    let hosts: Vec<&str> = promotion.plan.hosts().map(|host| host.as_str()).collect();
    let mut values = vec![
        text(stored.event.id),
        text(&promotion.env),
        text(&promotion.app),
        number(promotion.counter.0),
        text(&promotion.release),
        text(intent),
        Value::Number(rollback_to),
        text(&promotion.author),
        Value::Text(promotion.link.as_deref().map(storable)),
        json(&hosts),
        time(promotion.expires_at),
    ];
    values.extend(message_values(stored, stored_at));
    values
}

fn outcome_values(stored: &Stored<Outcome>, stored_at: Timestamp) -> Vec<Value> {
    let outcome = &stored.event.data;
    let reason = outcome.reason.as_ref();
    let mut values = vec![
        text(stored.event.id),
        text(outcome.promotion),
        text(&outcome.env),
        text(&outcome.app),
        text(&outcome.host),
        number(outcome.counter.0),
        text(&outcome.release),
        text(outcome.kind),
        Value::Number(Some(i64::from(outcome.kind.is_terminal()))),
        Value::Number(outcome.duration_ms.map(saturated)),
        text(&outcome.message),
        Value::Text(reason.map(|reason| reason.code.as_str())),
        Value::Text(reason.map(|reason| storable(&reason.message))),
    ];
    values.extend(message_values(stored, stored_at));
    values
}

fn word_values(stored: &Stored<Word>, stored_at: Timestamp) -> Vec<Value> {
    let word = &stored.event.data;
    let mut values = vec![
        text(stored.event.id),
        text(&stored.event.kind),
        text(&word.env),
        Value::Text(word.app.as_ref().map(ToString::to_string)),
        Value::Text(word.author.as_deref().map(storable)),
    ];
    values.extend(message_values(stored, stored_at));
    values
}

/// The columns that all tables of events end with.
fn message_values<T>(stored: &Stored<T>, stored_at: Timestamp) -> Vec<Value> {
    let message = &stored.message;
    vec![
        time(stored.event.time),
        time(message.published_at),
        time(stored_at),
        number(message.sequence),
        text(&message.subject),
        json(&stored.envelope()),
        text(digest_of(message)),
        text(stored.judgement.verdict),
        Value::Text(stored.judgement.signer.as_ref().map(ToString::to_string)),
        Value::Text(message.traceparent.as_deref().map(storable)),
    ]
}

fn rejected_values(rejected: &Rejected, stored_at: Timestamp) -> Vec<Value> {
    let message = &rejected.message;
    vec![
        text(rejected.source.stream()),
        number(message.sequence),
        time(message.published_at),
        time(stored_at),
        text(&message.subject),
        text(rejected.reason.as_str()),
        text(&rejected.detail),
        Value::Bytes(message.body.to_vec()),
        text(digest_of(message)),
        Value::Text(message.signature.as_deref().map(storable)),
    ]
}

fn reused<T>(sql: &'static str, source: Source, stored: &Stored<T>, stored_at: Timestamp) -> Statement {
    let rejected = Rejected {
        source,
        reason: RejectedFor::IdReused,
        detail: format!("another event with the id {} was stored before", stored.event.id),
        message: stored.message.clone(),
    };
    let mut values = rejected_values(&rejected, stored_at);
    values.push(text(stored.event.id));
    Statement { sql, values }
}

fn text(value: impl ToString) -> Value {
    Value::Text(Some(storable(&value.to_string())))
}

/// PostgreSQL's texts cannot hold U+0000; the envelope keeps the original bytes.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn json<T: Serialize>(value: &T) -> Value {
    // Structs of strings always serialise.
    Value::Text(Some(serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())))
}

fn time(time: Timestamp) -> Value {
    Value::Number(Some(milliseconds(time)))
}

fn number(value: u64) -> Value {
    Value::Number(Some(saturated(value)))
}

/// Larger numbers were rejected when the message was read; a stream's own sequence never gets there.
fn saturated(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
