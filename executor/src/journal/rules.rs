//! The rules of the environment as this host has read them last: what a bus has lost still holds here.

use landfall_schema::ids::EventId;
use landfall_schema::subject::Subject;
use sqlx::Row as _;

use super::{Journal, JournalError, disk, failed, rows, seal};

/// A policy or a list of freezes, as it was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Of its event.
    pub id: EventId,
    pub body: Vec<u8>,
    pub signature: Option<String>,
}

impl Journal {
    /// The newest rule of this subject that was kept.
    ///
    /// # Errors
    /// [`JournalError`]; so everywhere below.
    pub async fn rule(&self, subject: &Subject) -> Result<Option<Rule>, JournalError> {
        disk::read(async {
            let what = "read the rules of the environment";
            let row = sqlx::query("SELECT event_id, body, signature FROM rules WHERE subject = ?")
                .bind(subject.as_str())
                .fetch_optional(&self.pool)
                .await
                .map_err(failed(what))?;
            row.map(|row| {
                Ok(Rule {
                    id: rows::parsed(&row, "event_id")?,
                    body: row.try_get("body").map_err(failed(what))?,
                    signature: row.try_get("signature").map_err(failed(what))?,
                })
            })
            .transpose()
        })
        .await
    }

    /// Keeps a rule in the place of the one with this id, or of none; nothing happens when it is another by now.
    pub async fn keep_rule(&self, subject: &Subject, rule: &Rule, former: Option<EventId>) -> Result<(), JournalError> {
        disk::write("keep_rule", async {
            let what = "keep the rules of the environment";
            let mut tx = self.begin().await?;
            sqlx::query(
                "INSERT INTO rules (subject, event_id, body, signature, seal) VALUES (?, ?, ?, ?, ?) \
                 ON CONFLICT (subject) DO UPDATE SET event_id = excluded.event_id, body = excluded.body, \
                 signature = excluded.signature, seal = excluded.seal WHERE rules.event_id = ?",
            )
            .bind(subject.as_str())
            .bind(rule.id.to_string())
            .bind(&rule.body[..])
            .bind(rule.signature.as_deref())
            .bind(seal::of_rule(subject, rule))
            .bind(former.map(|id| id.to_string()))
            .execute(&mut *tx)
            .await
            .map_err(failed(what))?;
            tx.commit().await.map_err(failed(what))
        })
        .await
    }
}
