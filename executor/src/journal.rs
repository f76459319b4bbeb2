//! What this host remembers: every promotion it took, every input of its machine, what it goes back to, and what the bus must still be
//! told. SQLite, written through to the disk before anything is done.

mod disk;
mod error;
mod newest;
mod open;
mod rows;
mod rules;
mod seal;
mod serving;

use std::path::PathBuf;
use std::time::Duration;

use landfall_deploy::{Input, Order};
use landfall_schema::Timestamp;
use landfall_schema::bundle::Bundle;
use landfall_schema::ids::{AppName, EnvName, EventId, HostName};
use landfall_schema::outcome::{OutcomeKind, ReasonCode};
use landfall_schema::promotion::Intent;
use sqlx::sqlite::SqlitePool;
use sqlx::{Row as _, Sqlite, Transaction};

use crate::announce::Announcement;
use crate::hands::Committed;
use crate::intake::{Handled, MessageId, Standing, Taken};

use error::failed;

pub use error::JournalError;
pub use rows::{Told, Unfinished, Unpublished};
pub use rules::Rule;
pub use serving::Serving;

/// The journal's file in the state directory.
pub const FILE_NAME: &str = "journal.sqlite";
/// Ended promotions that are kept per application.
const RELEASES_KEPT: i64 = 50;
/// Refusals that are kept.
const REFUSALS_KEPT: i64 = 1_000;
const FORGET_TOLD: &str =
    "DELETE FROM outbox WHERE published_at IS NOT NULL AND position <= (SELECT max(position) FROM outbox) - ?";
const FORGET_REFUSALS: &str = "DELETE FROM refusals WHERE message IN (SELECT message FROM refusals ORDER BY refused_at DESC, rowid DESC LIMIT -1 OFFSET ?)";
/// Published events that are kept where junk makes them many.
const TOLD_KEPT: i64 = 1_000;
/// Published events are kept this long, for people who look.
const PUBLISHED_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

#[derive(Debug, Clone)]
pub struct Journal {
    pool: SqlitePool,
    folder: PathBuf,
}

/// One step of a deploy, as it is written: all of it or nothing.
#[derive(Debug)]
pub struct Step<'a> {
    pub order: &'a Order,
    pub at: Timestamp,
    pub input: &'a Input,
    pub announcements: &'a [Announcement],
    pub terminal: Option<OutcomeKind>,
}

impl Journal {
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, JournalError> {
        const BEGIN: &str = "BEGIN IMMEDIATE";
        let begun = match self.pool.begin_with(BEGIN).await {
            // SQLite itself rolls back when the disk is full or fails, and the client then takes its connection for one inside a
            // transaction for good. A new one knows better.
            Err(sqlx::Error::InvalidSavePointStatement) => {
                let connection = self.pool.acquire().await.map_err(failed("begin to write"))?;
                connection.close().await.map_err(failed("begin to write"))?;
                self.pool.begin_with(BEGIN).await
            }
            begun => begun,
        };
        begun.map_err(failed("begin to write"))
    }

    /// The promotion with the highest counter that was taken of this application.
    ///
    /// # Errors
    /// [`JournalError`]; so everywhere below.
    pub async fn standing(&self, env: &EnvName, app: &AppName) -> Result<Option<Standing>, JournalError> {
        disk::read(async {
            let row = sqlx::query(
                "SELECT counter, event_id FROM releases WHERE env = ? AND app = ? ORDER BY counter DESC LIMIT 1",
            )
            .bind(env.as_str())
            .bind(app.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(failed("look up a promotion"))?;
            row.map(|row| {
                Ok(Standing { counter: rows::counter(&row, "counter")?, id: rows::parsed(&row, "event_id")? })
            })
            .transpose()
        })
        .await
    }

    /// Whether this very message was taken or refused before.
    pub async fn handled(&self, message: &MessageId) -> Result<Option<Handled>, JournalError> {
        disk::read(async {
            let row = sqlx::query(
                "SELECT state = 'done' AS ended FROM releases WHERE message = ?1 \
             UNION ALL SELECT 1 FROM refusals WHERE message = ?1 LIMIT 1",
            )
            .bind(message.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(failed("look up a message"))?;
            let Some(row) = row else { return Ok(None) };
            if row.try_get::<i64, _>("ended").map_err(failed("look up a message"))? == 0 {
                return Ok(Some(Handled::UnderWay));
            }
            let waiting: i64 =
                sqlx::query_scalar("SELECT count(*) FROM outbox WHERE settles = ? AND published_at IS NULL")
                    .bind(message.as_str())
                    .fetch_one(&self.pool)
                    .await
                    .map_err(failed("look up a message"))?;
            Ok(Some(if waiting == 0 { Handled::Told } else { Handled::UnderWay }))
        })
        .await
    }

    /// Whether a promotion of this application was taken and has not ended.
    pub async fn is_under_way(&self, env: &EnvName, app: &AppName) -> Result<bool, JournalError> {
        disk::read(async {
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM releases WHERE env = ? AND app = ? AND state <> 'done')")
                .bind(env.as_str())
                .bind(app.as_str())
                .fetch_one(&self.pool)
                .await
                .map_err(failed("look up a promotion"))
        })
        .await
    }

    /// Whether the promotion with this event was ever taken.
    pub async fn has_taken(&self, id: EventId) -> Result<bool, JournalError> {
        disk::read(async {
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM releases WHERE event_id = ?)")
                .bind(id.to_string())
                .fetch_one(&self.pool)
                .await
                .map_err(failed("look up a promotion"))
        })
        .await
    }

    /// Whether this very message may still be taken when the fleet turns out to run it: it never came, or a newer one passed it by. What
    /// failed here by itself is not tried again.
    pub async fn may_catch_up(&self, message: &MessageId) -> Result<bool, JournalError> {
        disk::read(async {
            let passed_by: Option<bool> = sqlx::query_scalar(
                "SELECT terminal IS 'deploy.superseded' FROM releases WHERE message = ?1 \
             UNION ALL SELECT code = 'stale_counter' FROM refusals WHERE message = ?1 LIMIT 1",
            )
            .bind(message.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(failed("look up a message"))?;
            Ok(passed_by.unwrap_or(true))
        })
        .await
    }

    /// Records a promotion that will be carried out; one that was passed by for a newer one begins anew.
    pub async fn take(&self, taken: &Taken, now: Timestamp) -> Result<(), JournalError> {
        disk::write("take", async {
        let what = "record a promotion";
        let promotion = &taken.order.promotion;
        let mut tx = self.begin().await?;
        sqlx::query(
            "DELETE FROM releases WHERE env = ? AND app = ? AND counter = ? AND message = ? AND terminal = 'deploy.superseded'",
        )
        .bind(promotion.env.as_str())
        .bind(promotion.app.as_str())
        .bind(rows::integer(promotion.counter)?)
        .bind(taken.message.as_str())
        .execute(&mut *tx)
        .await
        .map_err(failed(what))?;
        sqlx::query(
            "INSERT INTO releases (env, app, counter, event_id, message, body, signature, traceparent, state, received_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'waiting', ?)",
        )
        .bind(promotion.env.as_str())
        .bind(promotion.app.as_str())
        .bind(rows::integer(promotion.counter)?)
        .bind(taken.order.id.to_string())
        .bind(taken.message.as_str())
        .bind(&taken.body[..])
        .bind(taken.signature.as_deref())
        .bind(taken.traceparent.as_deref())
        .bind(now.as_millisecond())
        .execute(&mut *tx)
        .await
        .map_err(failed(what))?;
        serving::remember(&mut tx, &taken.order).await?;
        tx.commit().await.map_err(failed(what))
        })
        .await?;
        newest::remember(self.folder.clone(), &taken.order.promotion).await;
        Ok(())
    }

    /// Records a message that was not taken, and what the bus must be told about it.
    pub async fn refuse(
        &self,
        message: &MessageId,
        code: ReasonCode,
        announcements: &[Announcement],
        now: Timestamp,
    ) -> Result<(), JournalError> {
        disk::write("refuse", async {
            let what = "record a refusal";
            let mut tx = self.begin().await?;
            sqlx::query(
                "INSERT INTO refusals (message, code, refused_at, seal) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            )
            .bind(message.as_str())
            .bind(code.as_str())
            .bind(now.as_millisecond())
            .bind(seal::of_refusal(message, &code.as_str()))
            .execute(&mut *tx)
            .await
            .map_err(failed(what))?;
            rows::insert_announcements(&mut tx, announcements, now).await?;
            // Whoever may write to the subject may send junk for ever, and no deploy need end in between, after which the rest is cleaned up.
            for (sql, most) in [(FORGET_TOLD, TOLD_KEPT), (FORGET_REFUSALS, REFUSALS_KEPT)] {
                sqlx::query(sql).bind(most).execute(&mut *tx).await.map_err(failed(what))?;
            }
            tx.commit().await.map_err(failed(what))
        })
        .await
    }

    /// Writes one input of the machine, together with the outcomes that followed from it.
    pub async fn record(&self, step: Step<'_>) -> Result<(), JournalError> {
        disk::write("record", async {
        let what = "record a step";
        let promotion = &step.order.promotion;
        let counter = rows::integer(promotion.counter)?;
        let input =
            serde_json::to_string(step.input).map_err(|error| JournalError::Unreadable { what: error.to_string() })?;
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO entries (env, app, counter, position, at, input, seal) SELECT ?1, ?2, ?3, coalesce(max(position), 0) + 1, ?4, ?5, ?6 \
             FROM entries WHERE env = ?1 AND app = ?2 AND counter = ?3",
        )
        .bind(promotion.env.as_str())
        .bind(promotion.app.as_str())
        .bind(counter)
        .bind(step.at.as_millisecond())
        .bind(&input)
        .bind(seal::of_entry(promotion, step.at, &input))
        .execute(&mut *tx)
        .await
        .map_err(failed(what))?;
        rows::insert_announcements(&mut tx, step.announcements, step.at).await?;
        rows::set_state(&mut tx, step.order, step.terminal, step.at).await?;
        if matches!(step.terminal, Some(OutcomeKind::DeployRolledBack | OutcomeKind::DeployStuck)) {
            rows::take_back_commit(&mut tx, step.order).await?;
        }
        if step.terminal == Some(OutcomeKind::DeploySucceeded) && step.order.promotion.intent == Intent::Remove {
            serving::forget(&mut tx, step.order).await?;
        }
        tx.commit().await.map_err(failed(what))
        })
        .await
    }

    /// Ends a promotion that never reached its machine, or whose machine cannot be made again.
    pub async fn end(
        &self,
        order: &Order,
        terminal: OutcomeKind,
        announcements: &[Announcement],
        now: Timestamp,
    ) -> Result<(), JournalError> {
        disk::write("end", async {
            let mut tx = self.begin().await?;
            rows::insert_announcements(&mut tx, announcements, now).await?;
            rows::set_state(&mut tx, order, Some(terminal), now).await?;
            tx.commit().await.map_err(failed("end a promotion"))
        })
        .await
    }

    /// Adds to the outbox what belongs to no step: progress.
    pub async fn announce(&self, announcements: &[Announcement], now: Timestamp) -> Result<(), JournalError> {
        disk::write("announce", async {
            let mut tx = self.begin().await?;
            rows::insert_announcements(&mut tx, announcements, now).await?;
            tx.commit().await.map_err(failed("fill the outbox"))
        })
        .await
    }

    /// Remembers the deploy span, so that its outcomes carry one trace before and after a restart.
    pub async fn set_deploy_traceparent(&self, order: &Order, traceparent: &str) -> Result<(), JournalError> {
        disk::write("set_deploy_traceparent", async {
            let promotion = &order.promotion;
            sqlx::query("UPDATE releases SET deploy_traceparent = ? WHERE env = ? AND app = ? AND counter = ?")
                .bind(traceparent)
                .bind(promotion.env.as_str())
                .bind(promotion.app.as_str())
                .bind(rows::integer(promotion.counter)?)
                .execute(&self.pool)
                .await
                .map_err(failed("remember a trace"))?;
            Ok(())
        })
        .await
    }

    /// What was taken and has not ended, with the inputs so far, lowest counter first.
    pub async fn unfinished(&self, host: &HostName) -> Result<Vec<Unfinished>, JournalError> {
        disk::read(async { rows::unfinished(&self.pool, host).await }).await
    }

    /// The promotion with the highest counter that was taken of an application, ended or not.
    pub async fn newest(&self, host: &HostName, env: &EnvName, app: &AppName) -> Result<Option<Taken>, JournalError> {
        disk::read(async { rows::newest(&self.pool, host, env, app).await }).await
    }

    /// From now on this host goes back to this release.
    pub async fn commit(&self, order: &Order, bundle: &Bundle, now: Timestamp) -> Result<(), JournalError> {
        disk::write("commit", async {
        let promotion = &order.promotion;
        let unreadable = |error: serde_json::Error| JournalError::Unreadable { what: error.to_string() };
        let written = serde_json::to_string(promotion).map_err(unreadable)?;
        let bundle = serde_json::to_string(bundle).map_err(unreadable)?;
        sqlx::query(
            "INSERT INTO committed (env, app, counter, promotion, bundle, committed_at, event_id, seal) VALUES (?, ?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (env, app, counter) DO NOTHING",
        )
        .bind(promotion.env.as_str())
        .bind(promotion.app.as_str())
        .bind(rows::integer(promotion.counter)?)
        .bind(&written)
        .bind(&bundle)
        .bind(now.as_millisecond())
        .bind(order.id.to_string())
        .bind(seal::of_stack(order, &[&written, &bundle]))
        .execute(&self.pool)
        .await
        .map_err(failed("commit a release"))?;
        Ok(())
        })
        .await
    }

    /// A disk that takes everything but this.
    #[cfg(test)]
    pub async fn refuse_commits(&self, refuse: bool) {
        let sql = match refuse {
            true => "CREATE TRIGGER full BEFORE INSERT ON committed BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
            false => "DROP TRIGGER full",
        };
        sqlx::query(sql).execute(&self.pool).await.expect("the trigger is changed");
    }

    /// The bytes and signature of a promotion that was taken; `None` when the journal does not have it.
    pub async fn believed(&self, order: &Order) -> Result<Option<(Vec<u8>, Option<String>)>, JournalError> {
        disk::read(async {
            let what = "read a promotion";
            let promotion = &order.promotion;
            sqlx::query_as(
                "SELECT body, signature FROM releases WHERE env = ? AND app = ? AND counter = ? AND event_id = ?",
            )
            .bind(promotion.env.as_str())
            .bind(promotion.app.as_str())
            .bind(rows::integer(promotion.counter)?)
            .bind(order.id.to_string())
            .fetch_optional(&self.pool)
            .await
            .map_err(failed(what))
        })
        .await
    }

    /// The last good releases of an application, newest first.
    pub async fn committed(&self, env: &EnvName, app: &AppName, most: usize) -> Result<Vec<Committed>, JournalError> {
        disk::read(async {
            let what = "read the committed releases";
            let rows = sqlx::query(
                "SELECT promotion, bundle FROM committed WHERE env = ? AND app = ? ORDER BY counter DESC LIMIT ?",
            )
            .bind(env.as_str())
            .bind(app.as_str())
            .bind(i64::try_from(most).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await
            .map_err(failed(what))?;
            rows.iter().map(rows::committed).collect()
        })
        .await
    }

    /// The oldest events after this position that the bus has not been told yet.
    pub async fn unpublished(&self, after: i64, most: u32) -> Result<Vec<Unpublished>, JournalError> {
        disk::read(async { rows::unpublished(&self.pool, after, most).await }).await
    }

    /// The bus was told everything up to this position but what it does not take.
    pub async fn mark_published(&self, position: i64, except: &[i64], now: Timestamp) -> Result<(), JournalError> {
        disk::write("mark_published", async {
            let except =
                serde_json::to_string(except).map_err(|error| JournalError::Unreadable { what: error.to_string() })?;
            let sql = "UPDATE outbox SET published_at = ? WHERE published_at IS NULL AND position <= ? \
                   AND position NOT IN (SELECT value FROM json_each(?))";
            sqlx::query(sql)
                .bind(now.as_millisecond())
                .bind(position)
                .bind(except)
                .execute(&self.pool)
                .await
                .map_err(failed("mark an event as published"))?;
            Ok(())
        })
        .await
    }

    /// What the bus was told, as far as that is kept, oldest first.
    pub async fn told(&self) -> Result<Vec<Told>, JournalError> {
        disk::read(async { rows::told(&self.pool).await }).await
    }

    /// The bus has lost these events: they are to be told again.
    pub async fn tell_again(&self, positions: &[i64]) -> Result<(), JournalError> {
        disk::write("tell_again", async {
            let positions = serde_json::to_string(positions)
                .map_err(|error| JournalError::Unreadable { what: error.to_string() })?;
            sqlx::query("UPDATE outbox SET published_at = NULL WHERE position IN (SELECT value FROM json_each(?))")
                .bind(positions)
                .execute(&self.pool)
                .await
                .map_err(failed("tell events again"))?;
            Ok(())
        })
        .await
    }

    /// Forgets what nobody needs any more. Never the newest promotion of an application, nor what has not ended or been told.
    pub async fn prune(&self, keep_committed: usize, now: Timestamp) -> Result<(), JournalError> {
        disk::write("prune", async {
        let what = "clean up";
        let keep_committed = i64::try_from(keep_committed).unwrap_or(i64::MAX);
        let published_before = now.as_millisecond() - i64::try_from(PUBLISHED_KEPT.as_millis()).unwrap_or(i64::MAX);
        let mut tx = self.begin().await?;
        for (sql, argument) in [
            ("DELETE FROM outbox WHERE published_at < ?", published_before),
            (
                "DELETE FROM releases WHERE state = 'done' AND (SELECT count(*) FROM releases AS newer WHERE newer.env = releases.env \
                 AND newer.app = releases.app AND newer.counter > releases.counter) >= ?",
                RELEASES_KEPT,
            ),
            (
                "DELETE FROM committed WHERE (SELECT count(*) FROM committed AS newer WHERE newer.env = committed.env \
                 AND newer.app = committed.app AND newer.counter > committed.counter) >= ?",
                keep_committed,
            ),
            (FORGET_REFUSALS, REFUSALS_KEPT),
        ] {
            sqlx::query(sql).bind(argument).execute(&mut *tx).await.map_err(failed(what))?;
        }
        tx.commit().await.map_err(failed(what))
        })
        .await
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
