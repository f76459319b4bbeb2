//! What really excludes: the PostgreSQL database's own lock on one dedicated connection, and a row of Landfall's own table in which every
//! runner writes its token. Each migration's transaction asserts the token, so a runner that was given up cannot apply anything any more;
//! and the row tells whoever comes next how the last one ended.

use std::str::FromStr;
use std::time::Duration;

use landfall_schema::ids::{Counter, Digest, HostName};
use landfall_schema::lease::Place;
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::planted::planted;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Row as _};
use tokio::time::Instant;
use tracing::info;

use super::Hands;
use super::lease::{Begun, Claim};
use super::redact::Redactor;
use super::sql::connect;
use crate::failpoint::failpoint;

/// Between two attempts to take the lock.
const LOCK_POLL: Duration = Duration::from_millis(100);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// For the last word in the row, after the migration itself.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);
/// The server notices within this time that a runner's host is gone, and frees its lock. Keepalives are in seconds.
const CLIENT_CHECK_INTERVAL: &str = "1s";
const KEEPALIVE_IDLE_S: u32 = 5;
const KEEPALIVE_INTERVAL_S: u32 = 3;
const KEEPALIVE_COUNT: u32 = 3;
/// What the assertion raises.
const FENCED_STATE: &str = "LF001";
/// In `doing`: a service of the compose file of which nobody but itself knows how far it is.
pub const DOING_SERVICE: &str = "service";

/// How a database is reached and guarded.
pub(crate) struct Gate<'a> {
    pub(crate) claim: &'a Claim<'a>,
    /// How the lease came to this host, if there is one.
    pub(crate) begun: Option<Begun>,
    pub(crate) url: &'a str,
    /// The setting that `url` stands in.
    pub(crate) setting: &'a str,
    pub(crate) redactor: &'a Redactor,
    pub(crate) deadline: Instant,
    pub(crate) lock_timeout_ms: u64,
    /// `None`: what is left until the deadline.
    pub(crate) statement_timeout_ms: Option<u64>,
}

/// The runner that has the lock, and whose token stands in the row.
pub(crate) struct Fence {
    connection: PgConnection,
    /// With its schema, quoted.
    table: String,
    key: String,
    token: i64,
}

pub(crate) enum Entered {
    Ours(Fence),
    /// This very migration came to a good end before.
    DoneBy(String),
    /// A newer promotion has migrated this database since, or has begun to.
    Newer(Newer),
}

/// What stands in the row of a newer promotion. The lock is held as long as this is.
pub(crate) struct Newer {
    pub(crate) connection: PgConnection,
    pub(crate) holder: String,
    pub(crate) counter: Counter,
    /// Whether it came to a good end.
    pub(crate) is_done: bool,
}

impl Gate<'_> {
    pub(crate) fn failed(&self, why: impl std::fmt::Display) -> Reason {
        self.reason(ReasonCode::MigrationFailed, why)
    }

    pub(crate) fn locked(&self) -> Reason {
        self.failed("another migration of this database holds the lock").hint(format!(
            "`landfall migration show {} --env {}` tells who migrates; wait for its end and promote again",
            self.claim.database, self.claim.order.promotion.env
        ))
    }

    fn reason(&self, code: ReasonCode, why: impl std::fmt::Display) -> Reason {
        let message = format!("migrating {}: {why}", self.claim.database);
        Reason::new(code, self.redactor.clean(&message))
    }

    /// The same for every host and release, and for nobody else's migrations.
    fn key(&self) -> String {
        let promotion = &self.claim.order.promotion;
        let parts = [promotion.env.as_str(), promotion.app.as_str(), self.claim.database, self.claim.service.as_str()];
        Digest::of(parts.join("\n").as_bytes()).as_str()["sha256:".len()..].to_owned()
    }
}

impl Hands {
    /// Waits for the lock, and writes this runner's token. `applied` says whether a version's migration was applied.
    pub(crate) async fn enter(&self, gate: &Gate<'_>) -> Result<Entered, Reason> {
        // The parser's error could repeat the URL, which has a password.
        let mut options = PgConnectOptions::from_str(gate.url)
            .map_err(|_| {
                gate.failed(format_args!("{} is not a PostgreSQL URL", gate.setting))
                    .hint("postgres://USER:PASSWORD@HOST:PORT/DATABASE, with special characters of the password percent-encoded")
            })?
            .application_name("landfall");
        if let Some(address) = self.address_of(options.get_host()).await? {
            options = options.host(&address);
        }
        let mut connection: PgConnection = connect(&options, gate).await?;
        match locked(gate, &mut connection).await {
            Ok(Row::Taken { table, token }) => Ok(Entered::Ours(Fence { connection, table, key: gate.key(), token })),
            Ok(Row::DoneBy(host)) => {
                close(connection).await;
                Ok(Entered::DoneBy(host))
            }
            Ok(Row::Newer { holder, counter, is_done }) => {
                Ok(Entered::Newer(Newer { connection, holder, counter, is_done }))
            }
            Err(reason) => {
                close(connection).await;
                Err(reason)
            }
        }
    }
}

/// Closing frees the lock, whatever happened; a server that does not answer frees it when the connection breaks.
pub(crate) async fn close(connection: PgConnection) {
    drop(tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await);
}

enum Row {
    Taken { table: String, token: i64 },
    DoneBy(String),
    Newer { holder: String, counter: Counter, is_done: bool },
}

async fn locked(gate: &Gate<'_>, connection: &mut PgConnection) -> Result<Row, Reason> {
    let deadline = gate.deadline;
    prepare(gate, connection).await.map_err(|error| gate.failed(error))?;
    let key = lock_key(gate.claim.database);
    let mut ends_others = gate.begun == Some(Begun::TakenOver);
    loop {
        let taken: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(key)
            .fetch_one(&mut *connection)
            .await
            .map_err(|error| gate.failed(error))?;
        if taken {
            failpoint!("fence.locked");
            break;
        }
        // A host that lost its lease may be asleep with an open connection. Its transaction is rolled back.
        if std::mem::take(&mut ends_others) {
            end_holders(key, connection).await;
        }
        if Instant::now() + LOCK_POLL >= deadline {
            return Err(gate.locked());
        }
        tokio::time::sleep(LOCK_POLL).await;
    }
    take(gate, connection).await
}

/// The session's limits.
async fn prepare(gate: &Gate<'_>, connection: &mut PgConnection) -> sqlx::Result<()> {
    let left_ms = gate.deadline.saturating_duration_since(Instant::now()).as_millis();
    let statement_ms = gate.statement_timeout_ms.map_or(left_ms, u128::from).min(left_ms).max(1);
    let limits = format!(
        "SET lock_timeout = {}; SET statement_timeout = {statement_ms}; SET tcp_keepalives_idle = {KEEPALIVE_IDLE_S}; \
         SET tcp_keepalives_interval = {KEEPALIVE_INTERVAL_S}; SET tcp_keepalives_count = {KEEPALIVE_COUNT}; \
         SELECT set_config(name, '{CLIENT_CHECK_INTERVAL}', false) FROM pg_settings WHERE name = 'client_connection_check_interval'",
        gate.lock_timeout_ms.max(1),
    );
    sqlx::raw_sql(AssertSqlSafe(limits)).execute(connection).await.map(drop)
}

/// Ends the sessions that hold the lock, as far as this role may.
async fn end_holders(key: i64, connection: &mut PgConnection) {
    let ended = sqlx::query(
        "SELECT pid, pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 \
         AND classid::bigint = $1 AND objid::bigint = $2 AND pid <> pg_backend_pid() \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    .bind(key >> 32)
    .bind(key & 0xffff_ffff)
    .fetch_all(connection)
    .await;
    match ended {
        Ok(rows) => info!(sessions = rows.len(), "ended the session of a host that had lost its lease"),
        Err(error) => info!(%error, "the session of a host that had lost its lease cannot be ended"),
    }
}

async fn take(gate: &Gate<'_>, connection: &mut PgConnection) -> Result<Row, Reason> {
    let failed = |error: sqlx::Error| gate.failed(error);
    let schema: Option<String> =
        sqlx::query_scalar("SELECT quote_ident(current_schema())").fetch_one(&mut *connection).await.map_err(failed)?;
    let schema = schema.ok_or_else(|| {
        gate.failed("the database has no schema that this role's search_path leads to")
            .hint("see `SHOW search_path` and `\\dn` in psql as this role; `CREATE SCHEMA` makes one")
    })?;
    let table = format!("{schema}._landfall_fence");
    let key = gate.key();
    let found = match read(&table, &key, connection).await {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => {
            let create = format!(
                "CREATE TABLE IF NOT EXISTS {table} (key text PRIMARY KEY, env text NOT NULL, app text NOT NULL, \
                 database text NOT NULL, service text NOT NULL, promotion text NOT NULL, counter bigint NOT NULL, \
                 release text NOT NULL, token bigint NOT NULL, holder text NOT NULL, state text NOT NULL, doing text, \
                 started_at timestamptz NOT NULL, finished_at timestamptz)"
            );
            sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut *connection).await.map_err(failed)?;
            None
        }
        read => read.map_err(failed)?,
    };
    if let Some(row) = found {
        let mut standing = row.standing(gate.claim, gate.begun);
        if let Standing::Unfinished { doing } = &standing {
            // It may have come to its end before the runner vanished.
            if doing == DOING_SERVICE || !is_applied(doing, &table, connection).await.map_err(failed)? {
                return Err(unknown(gate, &row, doing));
            }
            standing = row.place_in_order(gate.claim);
        }
        match standing {
            Standing::DoneBy(holder) => return Ok(Row::DoneBy(holder)),
            Standing::Newer { holder, counter, is_done } => return Ok(Row::Newer { holder, counter, is_done }),
            Standing::Free | Standing::Unfinished { .. } => {}
        }
    }
    let promotion = &gate.claim.order.promotion;
    let upsert = format!(
        "INSERT INTO {table} AS fence (key, env, app, database, service, promotion, counter, release, token, holder, state, started_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9, 'running', clock_timestamp()) ON CONFLICT (key) DO UPDATE SET \
         promotion = excluded.promotion, counter = excluded.counter, release = excluded.release, token = fence.token + 1, \
         holder = excluded.holder, state = 'running', doing = NULL, started_at = clock_timestamp(), finished_at = NULL \
         RETURNING token"
    );
    let token: i64 = sqlx::query_scalar(AssertSqlSafe(upsert))
        .bind(&key)
        .bind(promotion.env.as_str())
        .bind(promotion.app.as_str())
        .bind(gate.claim.database)
        .bind(gate.claim.service.as_str())
        .bind(gate.claim.order.id.to_string())
        .bind(i64::try_from(promotion.counter.0).unwrap_or(i64::MAX))
        .bind(promotion.release.as_str())
        .bind(gate.claim.order.host.as_str())
        .fetch_one(connection)
        .await
        .map_err(failed)?;
    failpoint!("fence.written");
    Ok(Row::Taken { table, token })
}

/// What the last runner left.
#[derive(Debug, Clone)]
pub struct Found {
    /// The id of the promotion's event.
    pub promotion: String,
    /// `None` for one that somebody wrote by hand.
    pub place: Option<Place>,
    pub release: String,
    pub holder: String,
    /// `running`, `done` or `failed`.
    pub state: String,
    /// What was begun that no transaction covers.
    pub doing: Option<String>,
}

/// What the last runner's row means for the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It may take the row over.
    Free,
    /// This very migration came to a good end, on this host.
    DoneBy(String),
    /// A row is never lowered: older migrations are not run on a newer schema.
    Newer { holder: String, counter: Counter, is_done: bool },
    /// The runner vanished while it did something that a transaction does not cover. Only if the database says that this was done, the
    /// row may be taken over.
    Unfinished { doing: String },
}

impl Found {
    pub fn standing(&self, claim: &Claim<'_>, begun: Option<Begun>) -> Standing {
        let is_same = self.promotion == claim.order.id.to_string();
        if is_same && self.state == "done" {
            return Standing::DoneBy(self.holder.clone());
        }
        // Its container is found again on its own host, and not started a second time.
        let resumes = is_same && self.holder == claim.order.host.as_str();
        match &self.doing {
            Some(doing)
                if self.state == "running"
                    && !planted("retry_blindly")
                    && begun != Some(Begun::Resolved)
                    && !(doing == DOING_SERVICE && resumes) =>
            {
                Standing::Unfinished { doing: doing.clone() }
            }
            _ => self.place_in_order(claim),
        }
    }

    /// Once it is known that nothing was left half done.
    pub fn place_in_order(&self, claim: &Claim<'_>) -> Standing {
        match self.place.filter(|place| place.is_after(&claim.place())) {
            Some(place) => {
                Standing::Newer { holder: self.holder.clone(), counter: place.counter, is_done: self.state == "done" }
            }
            None => Standing::Free,
        }
    }
}

async fn read(table: &str, key: &str, connection: &mut PgConnection) -> sqlx::Result<Option<Found>> {
    let select = format!("SELECT promotion, release, holder, state, doing, counter FROM {table} WHERE key = $1");
    let row = sqlx::query(AssertSqlSafe(select)).bind(key).fetch_optional(connection).await?;
    row.map(|row| {
        let promotion: String = row.try_get(0)?;
        let counter: i64 = row.try_get(5)?;
        let place = u64::try_from(counter).ok().zip(promotion.parse().ok());
        Ok(Found {
            place: place.map(|(counter, promotion)| Place { counter: Counter(counter), promotion }),
            promotion,
            release: row.try_get(1)?,
            holder: row.try_get(2)?,
            state: row.try_get(3)?,
            doing: row.try_get(4)?,
        })
    })
    .transpose()
}

/// Whether the database's own record has this version.
async fn is_applied(version: &str, table: &str, connection: &mut PgConnection) -> sqlx::Result<bool> {
    let applied = format!(
        "SELECT EXISTS (SELECT 1 FROM {} WHERE version::text = $1 AND success)",
        table.replace("_landfall_fence", super::sql::TABLE)
    );
    sqlx::query_scalar(AssertSqlSafe(applied)).bind(version).fetch_one(connection).await
}

fn unknown(gate: &Gate<'_>, row: &Found, doing: &str) -> Reason {
    let host: String = HostName::new(row.holder.as_str()).map_or("another host".to_owned(), String::from);
    let what = if doing == DOING_SERVICE {
        format!("service {}", gate.claim.service)
    } else {
        format!("migration {doing}, which has no transaction,")
    };
    let message = format!(
        "{host} began {what} for {:.60} and did not come to an end; nobody knows how far it came, so it is not run again",
        row.release
    );
    gate.reason(ReasonCode::MigrationUnknown, message).hint(gate.claim.resolve_hint())
}

impl Fence {
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// To stand before a migration's statements in its transaction: nobody can take the row over until that transaction has ended, and once
    /// somebody has, it fails.
    pub(crate) fn assertion(&self) -> String {
        let Self { table, key, token, .. } = self;
        format!(
            "DO $landfall_fence$ BEGIN PERFORM 1 FROM {table} WHERE key = '{key}' AND token = {token} FOR SHARE; IF NOT FOUND THEN \
             RAISE EXCEPTION 'this runner was given up, and another one fenced it off' USING ERRCODE = '{FENCED_STATE}'; \
             END IF; END $landfall_fence$;\n"
        )
    }

    /// Says what is about to be done that no transaction covers; `None` when it is over.
    pub(crate) async fn doing(&mut self, what: Option<&str>) -> sqlx::Result<()> {
        let update = format!("UPDATE {} SET doing = $1 WHERE key = $2 AND token = $3", self.table);
        let updated = sqlx::query(AssertSqlSafe(update))
            .bind(what)
            .bind(&self.key)
            .bind(self.token)
            .execute(&mut self.connection)
            .await?;
        failpoint!("fence.{}", if what.is_some() { "doing" } else { "not-doing" });
        if updated.rows_affected() == 1 { Ok(()) } else { Err(fenced()) }
    }

    /// The last word, and the end of the lock. A runner that was fenced off has none.
    pub(crate) async fn finish(self, gate: &Gate<'_>, succeeded: bool) -> Result<(), Reason> {
        let Self { mut connection, table, key, token } = self;
        let state = if succeeded { "done" } else { "failed" };
        let update = format!(
            "UPDATE {table} SET state = $1, doing = NULL, finished_at = clock_timestamp() WHERE key = $2 AND token = $3"
        );
        let update = sqlx::query(AssertSqlSafe(update)).bind(state).bind(&key).bind(token).execute(&mut connection);
        failpoint!("fence.finish.before");
        let told = tokio::time::timeout(FINISH_TIMEOUT, update).await;
        failpoint!("fence.finish.after");
        close(connection).await;
        match told {
            Ok(Ok(updated)) if updated.rows_affected() == 1 => Ok(()),
            Ok(Ok(_)) => Err(gate.failed(fenced())),
            Ok(Err(error)) => Err(gate.failed(error)),
            Err(_) => Err(gate.failed("the database does not take the end of the migration")),
        }
    }

    /// Leaves the row as it is: nobody knows what became of what it says.
    pub(crate) async fn abandon(self) {
        close(self.connection).await;
    }
}

fn fenced() -> sqlx::Error {
    sqlx::Error::Protocol("this runner was given up, and another one fenced it off".to_owned())
}

/// The same number on every host, so that the database's own lock keeps two hosts apart.
fn lock_key(database: &str) -> i64 {
    let digest = Digest::of(format!("landfall.migrate.{database}").as_bytes());
    let hex = &digest.as_str()["sha256:".len()..][..15];
    i64::from_str_radix(hex, 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_database_has_a_lock_of_its_own() {
        assert_ne!(lock_key("a"), lock_key("b"));
        assert!(lock_key("shop") > 0);
    }
}
