//! What the journal knows of stacks between deploys: which release serves, and which previews must go away.

use landfall_deploy::Order;
use landfall_schema::Timestamp;
use landfall_schema::ids::{AppName, EnvName, EventId, HostName};
use landfall_schema::promotion::{Intent, Promotion};
use sqlx::{Row as _, Sqlite, Transaction};

use super::{Journal, JournalError, disk, failed, rows, seal};
use crate::announce::Announcement;
use crate::hands::Committed;

/// The release that serves, as far as Landfall has a say in it.
#[derive(Debug, Clone)]
pub struct Serving {
    pub committed: Committed,
    /// Of the promotion's event.
    pub id: EventId,
}

impl Journal {
    /// The newest committed release. `None` without one, and after a deploy that is stuck: then nobody knows what should run.
    ///
    /// # Errors
    /// [`JournalError`]; so everywhere below.
    pub async fn serving(&self, env: &EnvName, app: &AppName) -> Result<Option<Serving>, JournalError> {
        disk::read(async {
        let what = "read what serves";
        let row = sqlx::query(
            "SELECT promotion, bundle, event_id, (SELECT terminal FROM releases WHERE env = ?1 AND app = ?2 AND counter > committed.counter \
             AND terminal IN ('deploy.stuck', 'deploy.rolled_back', 'deploy.succeeded') ORDER BY counter DESC LIMIT 1) AS ended \
             FROM committed WHERE env = ?1 AND app = ?2 AND event_id IS NOT NULL ORDER BY counter DESC LIMIT 1",
        )
        .bind(env.as_str())
        .bind(app.as_str())
        .fetch_optional(&self.pool)
        .await
        .map_err(failed(what))?;
        let Some(row) = row else { return Ok(None) };
        let ended: Option<String> = row.try_get("ended").map_err(failed(what))?;
        if ended.as_deref() == Some("deploy.stuck") {
            return Ok(None);
        }
        Ok(Some(Serving { committed: rows::committed(&row)?, id: rows::parsed(&row, "event_id")? }))
        })
        .await
    }

    /// Every preview on this host, as the order that was taken last.
    pub async fn previews(&self, env: &EnvName, host: &HostName) -> Result<Vec<Order>, JournalError> {
        disk::read(async {
            let what = "read the previews";
            let rows = sqlx::query("SELECT promotion, event_id FROM previews WHERE env = ? ORDER BY app")
                .bind(env.as_str())
                .fetch_all(&self.pool)
                .await
                .map_err(failed(what))?;
            rows.iter()
                .map(|row| {
                    Ok(Order {
                        host: host.clone(),
                        id: rows::parsed(row, "event_id")?,
                        promotion: rows::promotion(row)?,
                    })
                })
                .collect()
        })
        .await
    }

    /// The preview's stack is gone: nothing of it is left to go back to, or to be removed.
    pub async fn forget_preview(
        &self,
        order: &Order,
        announcements: &[Announcement],
        now: Timestamp,
    ) -> Result<(), JournalError> {
        disk::write("forget_preview", async {
            let mut tx = self.begin().await?;
            rows::insert_announcements(&mut tx, announcements, now).await?;
            forget(&mut tx, order).await?;
            tx.commit().await.map_err(failed("forget a preview"))
        })
        .await
    }
}

/// From when it is taken until it is removed, also when its deploy fails: it may have made volumes.
pub(super) async fn remember(tx: &mut Transaction<'static, Sqlite>, order: &Order) -> Result<(), JournalError> {
    let promotion = &order.promotion;
    if promotion.preview.is_none() || promotion.intent == Intent::Remove {
        return Ok(());
    }
    let written = json(promotion)?;
    sqlx::query(
        "INSERT OR REPLACE INTO previews (env, app, counter, event_id, promotion, seal) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(promotion.env.as_str())
    .bind(promotion.app.as_str())
    .bind(rows::integer(promotion.counter)?)
    .bind(order.id.to_string())
    .bind(&written)
    .bind(seal::of_stack(order, &[&written]))
    .execute(&mut **tx)
    .await
    .map_err(failed("remember a preview"))?;
    Ok(())
}

/// One that was taken meanwhile, with a higher number, stays.
pub(super) async fn forget(tx: &mut Transaction<'static, Sqlite>, order: &Order) -> Result<(), JournalError> {
    let promotion = &order.promotion;
    for sql in [
        "DELETE FROM previews WHERE env = ? AND app = ? AND counter <= ?",
        "DELETE FROM committed WHERE env = ? AND app = ? AND counter <= ?",
    ] {
        sqlx::query(sql)
            .bind(promotion.env.as_str())
            .bind(promotion.app.as_str())
            .bind(rows::integer(promotion.counter)?)
            .execute(&mut **tx)
            .await
            .map_err(failed("forget a preview"))?;
    }
    Ok(())
}

fn json(promotion: &Promotion) -> Result<String, JournalError> {
    serde_json::to_string(promotion).map_err(|error| JournalError::Unreadable { what: error.to_string() })
}
