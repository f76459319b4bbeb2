//! What SQLite's own check does not see: a changed text, a row that somebody took away. Each row that counts carries a sum of what it says,
//! and rows that belong together are compared, whenever the journal is opened.

use std::path::Path;

use landfall_deploy::Order;
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_PROMOTED};
use landfall_schema::ids::Digest;
use landfall_schema::outcome::OutcomeKind;
use landfall_schema::promotion::Promotion;
use landfall_schema::subject::{self, Subject};
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::{JournalError, Rule, failed, rows};
use crate::announce::Announcement;
use crate::intake::MessageId;

/// What is wrong is told up to this many rows.
const TOLD_MAX: usize = 5;
/// Per table the columns that its seal is over.
const SEALED: [(&str, &[&str]); 6] = [
    ("entries", &["env", "app", "counter", "at", "input"]),
    ("committed", &["env", "app", "counter", "event_id", "promotion", "bundle"]),
    ("outbox", &["event_id", "subject", "body", "signature", "settles"]),
    ("refusals", &["message", "code"]),
    ("previews", &["env", "app", "counter", "event_id", "promotion"]),
    ("rules", &["subject", "event_id", "body", "signature"]),
];

/// The sum of these values as SQLite writes them; with the lengths in front no two rows make the same bytes.
fn seal<'v>(values: impl IntoIterator<Item = Option<&'v [u8]>>) -> String {
    let mut bytes = Vec::new();
    for value in values {
        bytes.extend_from_slice(&value.map_or(u64::MAX, |value| value.len() as u64).to_be_bytes());
        bytes.extend_from_slice(value.unwrap_or_default());
    }
    Digest::of(&bytes).as_str().to_owned()
}

pub(super) fn of_entry(promotion: &Promotion, at: Timestamp, input: &str) -> String {
    let Promotion { env, app, counter, .. } = promotion;
    let (counter, at) = (counter.0.to_string(), at.as_millisecond().to_string());
    seal([env.as_str(), app.as_str(), &counter, &at, input].map(|text| Some(text.as_bytes())))
}

/// Of a row that keeps a promotion, and what belongs to it.
pub(super) fn of_stack(order: &Order, kept: &[&str]) -> String {
    let Promotion { env, app, counter, .. } = &order.promotion;
    let (counter, id) = (counter.0.to_string(), order.id.to_string());
    let of = [env.as_str(), app.as_str(), &counter, &id];
    seal(of.iter().chain(kept).map(|text| Some(text.as_bytes())))
}

pub(super) fn of_refusal(message: &MessageId, code: &str) -> String {
    seal([message.as_str(), code].map(|text| Some(text.as_bytes())))
}

pub(super) fn of_announcement(announcement: &Announcement) -> String {
    let Announcement { id, subject, body, signature, settles, .. } = announcement;
    let settles = settles.as_ref().map(|message| message.as_str().as_bytes());
    let signature = signature.as_deref().map(str::as_bytes);
    seal([Some(id.to_string().as_bytes()), Some(subject.as_str().as_bytes()), Some(body), signature, settles])
}

pub(super) fn of_rule(subject: &Subject, rule: &Rule) -> String {
    let signature = rule.signature.as_deref().map(str::as_bytes);
    seal([Some(subject.as_str().as_bytes()), Some(rule.id.to_string().as_bytes()), Some(&rule.body), signature])
}

/// # Errors
/// [`JournalError::Damaged`] when a row is not what was written, or is missing.
pub(super) async fn verify(pool: &SqlitePool, path: &Path) -> Result<(), JournalError> {
    let mut found = Vec::new();
    for (table, columns) in SEALED {
        broken_seals(pool, table, columns, &mut found).await?;
    }
    changed_releases(pool, &mut found).await?;
    // Only of rows that can be read.
    if found.is_empty() {
        missing_rows(pool, &mut found).await?;
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(JournalError::Damaged { path: path.to_owned(), detail: listed(found) })
}

fn listed(mut found: Vec<String>) -> String {
    let more = found.len().saturating_sub(TOLD_MAX);
    found.truncate(TOLD_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{more}", found.join("; "))
}

async fn broken_seals(
    pool: &SqlitePool,
    table: &str,
    columns: &[&str],
    found: &mut Vec<String>,
) -> Result<(), JournalError> {
    let what = "check the rows";
    // As the bytes that they are: a text that is no UTF-8 any more is a broken seal like any other.
    let listed: Vec<String> = columns.iter().map(|column| format!("CAST({column} AS BLOB)")).collect();
    let sql = format!("SELECT {}, seal, rowid FROM {table} WHERE seal IS NOT NULL", listed.join(", "));
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(pool).await.map_err(failed(what))?;
    for row in rows {
        let mut values = Vec::with_capacity(columns.len());
        for index in 0..columns.len() {
            values.push(row.try_get::<Option<Vec<u8>>, _>(index).map_err(failed(what))?);
        }
        let written: String = row.try_get(columns.len()).unwrap_or_default();
        if seal(values.iter().map(Option::as_deref)) != written {
            let id: i64 = row.try_get(columns.len() + 1).map_err(failed(what))?;
            found.push(format!("row {id} of {table} was changed"));
        }
    }
    Ok(())
}

/// A promotion is what its message was, and stands where it belongs.
async fn changed_releases(pool: &SqlitePool, found: &mut Vec<String>) -> Result<(), JournalError> {
    let what = "check the promotions";
    let sql = "SELECT env, app, counter, event_id, message, body, signature, terminal FROM releases";
    for row in sqlx::query(sql).fetch_all(pool).await.map_err(failed(what))? {
        if is_as_taken(&row) != Some(true) {
            let counter: i64 = row.try_get("counter").map_err(failed(what))?;
            found.push(format!("promotion {counter} was changed"));
        }
    }
    Ok(())
}

/// `None` when it cannot even be read.
fn is_as_taken(row: &SqliteRow) -> Option<bool> {
    let (env, app): (String, String) = (row.try_get("env").ok()?, row.try_get("app").ok()?);
    let (id, message): (String, String) = (row.try_get("event_id").ok()?, row.try_get("message").ok()?);
    let signature: Option<String> = row.try_get("signature").ok()?;
    let body: Vec<u8> = row.try_get("body").ok()?;
    let counter = rows::counter(row, "counter").ok()?;
    let terminal: Option<String> = row.try_get("terminal").ok()?;
    let event = CloudEvent::<Promotion>::decode(&body, TYPE_PROMOTED).ok()?;
    let Promotion { env: own_env, app: own_app, counter: own_counter, .. } = &event.data;
    let subject = subject::promoted(own_env, own_app);
    let is_known = terminal.is_none_or(|kind| OutcomeKind::ALL.iter().any(|known| known.to_string() == kind));
    Some(
        MessageId::of_parts(subject.as_str(), &body, signature.as_deref()).as_str() == message
            && (env.as_str(), app.as_str(), counter) == (own_env.as_str(), own_app.as_str(), *own_counter)
            && event.id.to_string() == id
            && is_known,
    )
}

/// Rows that others speak of.
async fn missing_rows(pool: &SqlitePool, found: &mut Vec<String>) -> Result<(), JournalError> {
    for (what, sql) in [
        (
            "a step is missing in promotion",
            "SELECT counter FROM entries GROUP BY env, app, counter HAVING max(position) <> count(*)",
        ),
        // What a host goes back to is written before its success. (A preview that was removed leaves nothing to go back to.)
        (
            "what is committed is missing of promotion",
            "SELECT counter FROM releases AS done WHERE terminal = 'deploy.succeeded' \
             AND json_extract(CAST(body AS TEXT), '$.data.preview') IS NULL \
             AND NOT EXISTS (SELECT 1 FROM releases WHERE env = done.env AND app = done.app AND counter > done.counter \
                             AND terminal = 'deploy.succeeded') \
             AND NOT EXISTS (SELECT 1 FROM committed WHERE env = done.env AND app = done.app AND counter >= done.counter)",
        ),
        (
            "the promotion is missing that is committed as",
            "SELECT counter FROM committed WHERE event_id IS NOT NULL \
             AND NOT EXISTS (SELECT 1 FROM releases WHERE env = committed.env AND app = committed.app \
                             AND counter >= committed.counter) \
             AND NOT EXISTS (SELECT 1 FROM committed AS newer WHERE newer.env = committed.env AND newer.app = committed.app \
                             AND newer.counter > committed.counter)",
        ),
    ] {
        let counters: Vec<i64> = sqlx::query_scalar(sql).fetch_all(pool).await.map_err(failed("compare the rows"))?;
        found.extend(counters.into_iter().map(|counter| format!("{what} {counter}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_mistakes_are_named() {
        let of = |count: usize| listed(vec!["x".to_owned(); count]);
        assert_eq!(
            (of(TOLD_MAX), of(TOLD_MAX + 1)),
            ("x; x; x; x; x".to_owned(), "x; x; x; x; x; and 1 more".to_owned())
        );
    }
}
