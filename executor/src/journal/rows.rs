//! Rows of the journal, to and from what they stand for.

use std::fmt;
use std::str::FromStr;

use landfall_deploy::{Input, Order};
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_PROMOTED};
use landfall_schema::ids::{AppName, Counter, EnvName, EventId, HostName};
use landfall_schema::outcome::OutcomeKind;
use landfall_schema::promotion::Promotion;
use landfall_schema::subject::Subject;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{Row as _, Sqlite, Transaction};

use super::{JournalError, failed, seal};
use crate::announce::Announcement;
use crate::hands::Committed;
use crate::intake::{MessageId, Taken};

/// A promotion whose deploy has not ended.
#[derive(Debug, Clone)]
pub struct Unfinished {
    pub taken: Taken,
    /// Of the deploy span, when it began before a restart.
    pub deploy_traceparent: Option<String>,
    /// Empty when it has not begun.
    pub entries: Vec<(Timestamp, Input)>,
}

/// An event that waits in the outbox.
#[derive(Debug, Clone)]
pub struct Unpublished {
    pub position: i64,
    pub announcement: Announcement,
}

/// An event that the bus has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub position: i64,
    pub id: EventId,
    pub subject: Subject,
}

fn unreadable(what: impl fmt::Display) -> JournalError {
    JournalError::Unreadable { what: what.to_string() }
}

/// SQLite's integers are signed.
pub(super) fn integer(counter: Counter) -> Result<i64, JournalError> {
    i64::try_from(counter.0).map_err(|_| unreadable(format!("counter {counter}")))
}

fn text(row: &SqliteRow, column: &str) -> Result<String, JournalError> {
    row.try_get(column).map_err(failed("read a row"))
}

fn optional_text(row: &SqliteRow, column: &str) -> Result<Option<String>, JournalError> {
    row.try_get(column).map_err(failed("read a row"))
}

pub(super) fn parsed<T>(row: &SqliteRow, column: &str) -> Result<T, JournalError>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    text(row, column)?.parse().map_err(|error: T::Err| unreadable(format!("{column}: {error}")))
}

pub(super) fn counter(row: &SqliteRow, column: &str) -> Result<Counter, JournalError> {
    let number: i64 = row.try_get(column).map_err(failed("read a row"))?;
    u64::try_from(number).map(Counter).map_err(|_| unreadable(format!("{column}: {number}")))
}

pub(super) fn promotion(row: &SqliteRow) -> Result<Promotion, JournalError> {
    serde_json::from_str(&text(row, "promotion")?).map_err(|error| unreadable(format!("a promotion: {error}")))
}

pub(super) fn committed(row: &SqliteRow) -> Result<Committed, JournalError> {
    let promotion = promotion(row)?;
    let bundle = serde_json::from_str(&text(row, "bundle")?)
        .map_err(|error| unreadable(format!("a committed bundle: {error}")))?;
    Ok(Committed { counter: promotion.counter, release: promotion.release.clone(), promotion, bundle })
}

pub(super) async fn insert_announcements(
    tx: &mut Transaction<'static, Sqlite>,
    announcements: &[Announcement],
    now: Timestamp,
) -> Result<(), JournalError> {
    for announcement in announcements {
        sqlx::query(
            "INSERT INTO outbox (event_id, subject, body, signature, traceparent, settles, created_at, seal) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(announcement.id.to_string())
        .bind(announcement.subject.as_str())
        .bind(&announcement.body)
        .bind(announcement.signature.as_deref())
        .bind(announcement.traceparent.as_deref())
        .bind(announcement.settles.as_ref().map(MessageId::as_str))
        .bind(now.as_millisecond())
        .bind(seal::of_announcement(announcement))
        .execute(&mut **tx)
        .await
        .map_err(failed("fill the outbox"))?;
    }
    Ok(())
}

pub(super) async fn set_state(
    tx: &mut Transaction<'static, Sqlite>,
    order: &Order,
    terminal: Option<OutcomeKind>,
    now: Timestamp,
) -> Result<(), JournalError> {
    let promotion = &order.promotion;
    sqlx::query("UPDATE releases SET state = ?, terminal = ?, ended_at = ? WHERE env = ? AND app = ? AND counter = ?")
        .bind(if terminal.is_some() { "done" } else { "running" })
        .bind(terminal.map(|kind| kind.to_string()))
        .bind(terminal.map(|_| now.as_millisecond()))
        .bind(promotion.env.as_str())
        .bind(promotion.app.as_str())
        .bind(integer(promotion.counter)?)
        .execute(&mut **tx)
        .await
        .map_err(failed("record a state"))?;
    Ok(())
}

/// What was committed, and then taken back with the whole fleet, is nothing to go back to.
pub(super) async fn take_back_commit(tx: &mut Transaction<'static, Sqlite>, order: &Order) -> Result<(), JournalError> {
    let promotion = &order.promotion;
    sqlx::query("DELETE FROM committed WHERE env = ? AND app = ? AND counter = ?")
        .bind(promotion.env.as_str())
        .bind(promotion.app.as_str())
        .bind(integer(promotion.counter)?)
        .execute(&mut **tx)
        .await
        .map_err(failed("take back a commit"))?;
    Ok(())
}

pub(super) async fn unfinished(pool: &SqlitePool, host: &HostName) -> Result<Vec<Unfinished>, JournalError> {
    let what = "read what has not ended";
    let rows = sqlx::query(
        "SELECT message, body, signature, traceparent, deploy_traceparent, env, app, counter FROM releases \
         WHERE state <> 'done' ORDER BY env, app, counter",
    )
    .fetch_all(pool)
    .await
    .map_err(failed(what))?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let taken = taken(row, host)?;
        let entries = entries(pool, &taken.order).await?;
        found.push(Unfinished { deploy_traceparent: optional_text(row, "deploy_traceparent")?, taken, entries });
    }
    Ok(found)
}

pub(super) async fn newest(
    pool: &SqlitePool,
    host: &HostName,
    env: &EnvName,
    app: &AppName,
) -> Result<Option<Taken>, JournalError> {
    let row = sqlx::query(
        "SELECT message, body, signature, traceparent FROM releases WHERE env = ? AND app = ? ORDER BY counter DESC LIMIT 1",
    )
    .bind(env.as_str())
    .bind(app.as_str())
    .fetch_optional(pool)
    .await
    .map_err(failed("read the newest promotion"))?;
    row.map(|row| taken(&row, host)).transpose()
}

fn taken(row: &SqliteRow, host: &HostName) -> Result<Taken, JournalError> {
    let body: Vec<u8> = row.try_get("body").map_err(failed("read a promotion"))?;
    // These bytes were verified before they were written.
    let event = CloudEvent::<Promotion>::decode(&body, TYPE_PROMOTED)
        .map_err(|error| unreadable(format!("a promotion: {error}")))?;
    Ok(Taken {
        order: Order { host: host.clone(), id: event.id, promotion: event.data },
        message: MessageId::stored(text(row, "message")?),
        body: body.into(),
        signature: optional_text(row, "signature")?,
        traceparent: optional_text(row, "traceparent")?,
    })
}

async fn entries(pool: &SqlitePool, order: &Order) -> Result<Vec<(Timestamp, Input)>, JournalError> {
    let what = "read a deploy's steps";
    let promotion = &order.promotion;
    let rows = sqlx::query("SELECT at, input FROM entries WHERE env = ? AND app = ? AND counter = ? ORDER BY position")
        .bind(promotion.env.as_str())
        .bind(promotion.app.as_str())
        .bind(integer(promotion.counter)?)
        .fetch_all(pool)
        .await
        .map_err(failed(what))?;
    rows.iter()
        .map(|row| {
            let input =
                serde_json::from_str(&text(row, "input")?).map_err(|error| unreadable(format!("an input: {error}")))?;
            let at = row.try_get("at").map_err(failed(what))?;
            Ok((Timestamp::from_millisecond(at).map_err(unreadable)?, input))
        })
        .collect()
}

pub(super) async fn told(pool: &SqlitePool) -> Result<Vec<Told>, JournalError> {
    let what = "read what was told";
    let sql = "SELECT position, event_id, subject FROM outbox WHERE published_at IS NOT NULL ORDER BY position";
    let rows = sqlx::query(sql).fetch_all(pool).await.map_err(failed(what))?;
    rows.iter()
        .map(|row| {
            let subject = text(row, "subject")?;
            Ok(Told {
                position: row.try_get("position").map_err(failed(what))?,
                id: parsed(row, "event_id")?,
                subject: Subject::stored(&subject).ok_or_else(|| unreadable(format!("subject {subject:?}")))?,
            })
        })
        .collect()
}

pub(super) async fn unpublished(pool: &SqlitePool, after: i64, most: u32) -> Result<Vec<Unpublished>, JournalError> {
    let what = "read the outbox";
    let rows = sqlx::query(
        "SELECT position, event_id, subject, body, signature, traceparent, settles FROM outbox \
         WHERE published_at IS NULL AND position > ? ORDER BY position LIMIT ?",
    )
    .bind(after)
    .bind(most)
    .fetch_all(pool)
    .await
    .map_err(failed(what))?;
    rows.iter()
        .map(|row| {
            let subject = text(row, "subject")?;
            let announcement = Announcement {
                id: parsed::<EventId>(row, "event_id")?,
                subject: Subject::stored(&subject).ok_or_else(|| unreadable(format!("subject {subject:?}")))?,
                body: row.try_get("body").map_err(failed(what))?,
                signature: optional_text(row, "signature")?,
                traceparent: optional_text(row, "traceparent")?,
                settles: optional_text(row, "settles")?.map(MessageId::stored),
            };
            Ok(Unpublished { position: row.try_get("position").map_err(failed(what))?, announcement })
        })
        .collect()
}
