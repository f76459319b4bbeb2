//! The ledger: SQLite by default, PostgreSQL when outgrown. The same statements serve both. Every write is idempotent by the event's id.

use std::str::FromStr as _;
use std::time::Duration;

use landfall_schema::ids::{AppName, EnvName};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use thiserror::Error;

use crate::record::{Kind, Record, intent};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Time to get a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long SQLite waits for another process, such as `history`, to let go.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// One writer, and readers beside it.
const CONNECTIONS_MAX: u32 = 3;

#[derive(Debug, Error)]
pub enum LedgerError {
    #[error("the ledger's URL is not one: expected sqlite://FILE or postgres://…")]
    Url,
    #[error("the ledger's URL is not readable")]
    Options(#[source] sqlx::Error),
    #[error("the ledger does not open")]
    Open(#[source] sqlx::Error),
    #[error("the ledger's tables cannot be brought up to date")]
    Migrate(#[from] MigrateError),
    #[error("writing to the ledger failed")]
    Write(#[source] sqlx::Error),
    #[error("reading from the ledger failed")]
    Read(#[source] sqlx::Error),
}

#[derive(Debug, Clone)]
pub enum Ledger {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// The same expression on either pool.
macro_rules! on {
    ($ledger:expr, $pool:ident => $body:expr) => {
        match $ledger {
            Ledger::Sqlite($pool) => $body,
            Ledger::Postgres($pool) => $body,
        }
    };
}

const INSERT_RELEASE: &str = "INSERT INTO releases (event_id, env, app, counter, release, intent, author, at_ms, signature, \
     stream_sequence, envelope) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING";
const INSERT_OUTCOME: &str = "INSERT INTO outcomes (event_id, promotion, env, app, host, counter, release, kind, terminal, duration_ms, \
     message, reason, at_ms, signature, stream_sequence, envelope) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) ON CONFLICT DO NOTHING";
const INSERT_REJECTED: &str = "INSERT INTO rejected (stream, stream_sequence, at_ms, subject, why, envelope) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
const SELECT_RELEASES: &str = "SELECT event_id, env, app, counter, release, intent, author, at_ms, signature FROM releases \
     WHERE ($1 = '' OR env = $1) AND ($2 = '' OR app = $2) ORDER BY at_ms DESC, counter DESC LIMIT $3";
const SELECT_TERMINAL: &str = "SELECT host, kind, duration_ms, message, reason, at_ms, signature FROM outcomes \
     WHERE promotion = $1 AND terminal = 1 ORDER BY host, at_ms";

/// A promotion as the ledger knows it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ReleaseRow {
    pub event_id: String,
    pub env: String,
    pub app: String,
    pub counter: i64,
    pub release: String,
    pub intent: String,
    pub author: String,
    pub at_ms: i64,
    pub signature: String,
}

/// How a promotion ended on one host.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct TerminalRow {
    pub host: String,
    pub kind: String,
    pub duration_ms: Option<i64>,
    pub message: String,
    pub reason: Option<String>,
    pub at_ms: i64,
    pub signature: String,
}

impl Ledger {
    /// Opens the ledger, and makes or updates its tables.
    ///
    /// # Errors
    /// [`LedgerError::Url`], [`LedgerError::Open`], [`LedgerError::Migrate`].
    pub async fn open(url: &str) -> Result<Self, LedgerError> {
        if url.starts_with("sqlite:") {
            let options = SqliteConnectOptions::from_str(url)
                .map_err(LedgerError::Options)?
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(BUSY_TIMEOUT);
            let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(ACQUIRE_TIMEOUT);
            let pool = pool.connect_with(options).await.map_err(LedgerError::Open)?;
            MIGRATIONS.run(&pool).await?;
            return Ok(Self::Sqlite(pool));
        }
        if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let options = PgConnectOptions::from_str(url).map_err(LedgerError::Options)?;
            let pool = PgPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(ACQUIRE_TIMEOUT);
            let pool = pool.connect_with(options).await.map_err(LedgerError::Open)?;
            MIGRATIONS.run(&pool).await?;
            return Ok(Self::Postgres(pool));
        }
        Err(LedgerError::Url)
    }

    pub async fn close(&self) {
        on!(self, pool => pool.close().await);
    }

    /// Keeps one record. Returns whether it was new.
    ///
    /// # Errors
    /// [`LedgerError::Write`]; the record can be given again.
    pub async fn keep(&self, stream: &str, record: &Record) -> Result<bool, LedgerError> {
        let sequence = signed(record.sequence);
        let rows = match &record.kind {
            Kind::Release { event, verdict } => {
                let promotion = &event.data;
                on!(self, pool => sqlx::query(INSERT_RELEASE)
                    .bind(event.id.to_string())
                    .bind(promotion.env.as_str())
                    .bind(promotion.app.as_str())
                    .bind(signed(promotion.counter.0))
                    .bind(promotion.release.as_str())
                    .bind(intent(promotion))
                    .bind(&promotion.author)
                    .bind(event.time.as_millisecond())
                    .bind(verdict.as_str())
                    .bind(sequence)
                    .bind(&record.envelope)
                    .execute(pool).await.map(|done| done.rows_affected()))
            }
            Kind::Outcome { event, verdict } => {
                let outcome = &event.data;
                on!(self, pool => sqlx::query(INSERT_OUTCOME)
                    .bind(event.id.to_string())
                    .bind(outcome.promotion.to_string())
                    .bind(outcome.env.as_str())
                    .bind(outcome.app.as_str())
                    .bind(outcome.host.as_str())
                    .bind(signed(outcome.counter.0))
                    .bind(outcome.release.as_str())
                    .bind(outcome.kind.to_string())
                    .bind(i64::from(outcome.kind.is_terminal()))
                    .bind(outcome.duration_ms.map(signed))
                    .bind(&outcome.message)
                    .bind(outcome.reason.as_ref().map(|reason| reason.code.as_str()))
                    .bind(event.time.as_millisecond())
                    .bind(verdict.as_str())
                    .bind(sequence)
                    .bind(&record.envelope)
                    .execute(pool).await.map(|done| done.rows_affected()))
            }
            Kind::Rejected { subject, at_ms, why } => on!(self, pool => sqlx::query(INSERT_REJECTED)
                .bind(stream)
                .bind(sequence)
                .bind(at_ms)
                .bind(subject)
                .bind(why)
                .bind(&record.envelope)
                .execute(pool).await.map(|done| done.rows_affected())),
        };
        Ok(rows.map_err(LedgerError::Write)? > 0)
    }

    /// Promotions, newest first.
    ///
    /// # Errors
    /// [`LedgerError::Read`].
    pub async fn releases(
        &self,
        env: Option<&EnvName>,
        app: Option<&AppName>,
        limit: u32,
    ) -> Result<Vec<ReleaseRow>, LedgerError> {
        let env = env.map_or("", EnvName::as_str);
        let app = app.map_or("", AppName::as_str);
        on!(self, pool => sqlx::query_as(SELECT_RELEASES).bind(env).bind(app).bind(i64::from(limit)).fetch_all(pool).await)
            .map_err(LedgerError::Read)
    }

    /// The terminal outcomes of one promotion, by host.
    ///
    /// # Errors
    /// [`LedgerError::Read`].
    pub async fn terminal(&self, promotion: &str) -> Result<Vec<TerminalRow>, LedgerError> {
        on!(self, pool => sqlx::query_as(SELECT_TERMINAL).bind(promotion).fetch_all(pool).await)
            .map_err(LedgerError::Read)
    }

    /// How many rows each table has: releases, outcomes, rejected.
    ///
    /// # Errors
    /// [`LedgerError::Read`].
    pub async fn counts(&self) -> Result<[i64; 3], LedgerError> {
        let mut counts = [0; 3];
        let queries =
            ["SELECT COUNT(*) FROM releases", "SELECT COUNT(*) FROM outcomes", "SELECT COUNT(*) FROM rejected"];
        for (count, query) in counts.iter_mut().zip(queries) {
            *count = on!(self, pool => sqlx::query_scalar(query).fetch_one(pool).await).map_err(LedgerError::Read)?;
        }
        Ok(counts)
    }
}

/// SQL has no unsigned integers; sequences and counters stay far below 2^63.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
