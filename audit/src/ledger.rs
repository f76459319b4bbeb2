//! The ledger: SQLite by default, PostgreSQL by URL. Storing is idempotent by event id; what is in it is never changed or deleted.

mod open;
mod statement;

use std::path::PathBuf;
use std::time::Duration;

use landfall_schema::Timestamp;
use landfall_schema::ids::{AppName, EnvName};
use sqlx::{PgPool, SqlitePool};
use thiserror::Error;

use crate::record::{Record, RejectedFor, Source};
use statement::{Value, insertion};

pub use open::{DEFAULT_FILE, Database, DatabaseError};

/// Time for one batch to be committed, the wait for a connection included.
pub const STORE_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for a question to be answered.
pub const READ_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Error)]
pub enum LedgerError {
    #[error("cannot create the folder {}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("there is no ledger at {}", path.display())]
    Missing { path: PathBuf },
    #[error("cannot open the ledger {shown}")]
    Open { shown: String, source: sqlx::Error },
    #[error("another process has been preparing the ledger {shown} for {} s", waited.as_secs())]
    Locked { shown: String, waited: Duration },
    #[error("cannot bring the ledger {shown} to this version's form")]
    Migrate { shown: String, source: sqlx::migrate::MigrateError },
    #[error("cannot {what} in the ledger")]
    Query { what: &'static str, source: sqlx::Error },
    #[error("the ledger did not answer within {} s when asked to {what}", limit.as_secs())]
    Slow { what: &'static str, limit: Duration },
}

impl LedgerError {
    /// What a person can do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Folder { .. } => {
                "create it and give it to the user who runs landfall-audit, or name another with --database"
            }
            Self::Missing { .. } => "`landfall-audit run` makes one; or name the right one with --database",
            Self::Open { .. } => "is the database reachable, and may this user use it? Check --database",
            Self::Locked { .. } => "end the other landfall-audit, or try again when it is done",
            Self::Migrate { source: sqlx::migrate::MigrateError::VersionMissing(_), .. } => {
                "a newer landfall-audit has used this ledger; use that version"
            }
            Self::Migrate { .. } => "may this user create tables there? The ledger was not changed",
            Self::Query { source, .. } if is_missing_table(source) => {
                "this database holds no ledger; `landfall-audit run` makes one, or name the right one with --database"
            }
            Self::Query { source, .. } if is_disk_full(source) => "the disk is full; make room, nothing was lost",
            Self::Query { .. } | Self::Slow { .. } => "is the database reachable, and does its disk have room?",
        }
    }

    /// Whether the database would refuse this very record each time.
    fn is_about_the_data(&self) -> bool {
        let Self::Query { source: sqlx::Error::Database(error), .. } = self else { return false };
        let code = error.code().unwrap_or_default();
        // PostgreSQL: data exceptions and broken constraints. SQLite: too big, constraint, mismatch (in the lowest byte).
        let sqlite = code.parse::<u32>().is_ok_and(|code| code < 10_000 && matches!(code & 0xff, 18..=20));
        sqlite || (code.len() == 5 && (code.starts_with("22") || code.starts_with("23")))
    }
}

fn is_missing_table(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    error.code().as_deref() == Some("42P01") || error.message().contains("no such table")
}

fn is_disk_full(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    matches!(error.code().as_deref(), Some("53100" | "13"))
}

fn failed(what: &'static str) -> impl Fn(sqlx::Error) -> LedgerError {
    move |source| LedgerError::Query { what, source }
}

async fn within<T>(
    what: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, LedgerError>>,
) -> Result<T, LedgerError> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(LedgerError::Slow { what, limit }))
}

#[derive(Debug, Clone)]
pub struct Ledger {
    pool: Pool,
}

#[derive(Debug, Clone)]
enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// The same statements for both databases; only the driver's types differ.
macro_rules! on_pool {
    ($ledger:expr, $pool:ident => $body:expr) => {
        match &$ledger.pool {
            Pool::Sqlite($pool) => $body,
            Pool::Postgres($pool) => $body,
        }
    };
}

/// Binds a statement's values in their order.
macro_rules! bound {
    ($statement:expr) => {{
        let statement = $statement;
        let mut query = sqlx::query(statement.sql);
        for value in statement.values {
            query = match value {
                Value::Text(text) => query.bind(text),
                Value::Number(number) => query.bind(number),
                Value::Bytes(bytes) => query.bind(bytes),
            };
        }
        query
    }};
}

/// How far the ledger is complete, in one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub source: Source,
    /// When the stream was made, in milliseconds: its sequences mean something only together with it.
    pub stream_created_ms: i64,
    pub sequence: u64,
}

impl Ledger {
    /// Stores all records and moves the position, or nothing of it. A record that the database itself will not take is stored as
    /// rejected instead. Returns how many were new.
    ///
    /// # Errors
    /// When the database fails; nothing is stored then, and storing again is harmless.
    pub async fn store(&self, records: &[Record], position: Position) -> Result<u64, LedgerError> {
        let error = match within("store a batch", STORE_TIMEOUT, self.store_together(records, position)).await {
            Ok(new) => return Ok(new),
            Err(error) if error.is_about_the_data() => error,
            Err(error) => return Err(error),
        };
        tracing::warn!(%error, "the database refuses a record of this batch; storing one by one");
        let mut new = 0;
        for record in records {
            let position = Position { sequence: record.message().sequence, ..position };
            new += self.store_one(record, position).await?;
        }
        Ok(new)
    }

    async fn store_one(&self, record: &Record, position: Position) -> Result<u64, LedgerError> {
        let one = std::slice::from_ref(record);
        match within("store a record", STORE_TIMEOUT, self.store_together(one, position)).await {
            Err(error @ LedgerError::Query { .. }) if error.is_about_the_data() => {
                let LedgerError::Query { source, .. } = &error else { return Err(error) };
                let rejected = record.rejected(position.source, RejectedFor::LedgerRefused, source.to_string());
                let rejected = [Record::Rejected(rejected)];
                within("store a rejected record", STORE_TIMEOUT, self.store_together(&rejected, position)).await
            }
            done => done,
        }
    }

    async fn store_together(&self, records: &[Record], position: Position) -> Result<u64, LedgerError> {
        let now = Timestamp::now();
        let mut new = 0;
        on_pool!(self, pool => {
            let mut transaction = pool.begin().await.map_err(failed("begin a batch"))?;
            for record in records {
                let insertion = insertion(record, now);
                let done = bound!(insertion.insert).execute(&mut *transaction).await.map_err(failed("store a record"))?;
                new += done.rows_affected();
                if done.rows_affected() == 0 && let Some(otherwise) = insertion.otherwise {
                    bound!(otherwise).execute(&mut *transaction).await.map_err(failed("compare a record"))?;
                }
            }
            let moved = statement::position(position.source, position.stream_created_ms, position.sequence);
            bound!(moved).execute(&mut *transaction).await.map_err(failed("move the position"))?;
            transaction.commit().await.map_err(failed("commit a batch"))?;
        });
        Ok(new)
    }

    /// The last sequence of this stream that the ledger holds, with everything before it; 0 when it knows nothing of the stream.
    ///
    /// # Errors
    /// [`LedgerError`]; so everywhere below.
    pub async fn position(&self, source: Source, stream_created_ms: i64) -> Result<u64, LedgerError> {
        let what = "read the position";
        let sql = "SELECT stream_sequence FROM positions WHERE stream = $1 AND stream_created_ms = $2";
        within(what, READ_TIMEOUT, async {
            let found: Option<i64> = on_pool!(self, pool => {
                let query = sqlx::query_scalar(sql).bind(source.stream()).bind(stream_created_ms);
                query.fetch_optional(pool).await.map_err(failed(what))?
            });
            Ok(found.and_then(|sequence| u64::try_from(sequence).ok()).unwrap_or(0))
        })
        .await
    }

    /// The ledger's own name; a consumer on the bus belongs to exactly one ledger.
    pub async fn id(&self) -> Result<String, LedgerError> {
        let what = "read the ledger's name";
        within(what, READ_TIMEOUT, async {
            on_pool!(self, pool => {
                sqlx::query_scalar("SELECT id FROM ledger").fetch_one(pool).await.map_err(failed(what))
            })
        })
        .await
    }

    /// How many of each there are.
    pub async fn counts(&self) -> Result<Counts, LedgerError> {
        let what = "count";
        let sql = "SELECT (SELECT count(*) FROM releases) AS releases, (SELECT count(*) FROM outcomes) AS outcomes, \
                   (SELECT count(*) FROM words) AS words, (SELECT count(*) FROM rejected) AS rejected";
        within(what, READ_TIMEOUT, async {
            on_pool!(self, pool => sqlx::query_as(sql).fetch_one(pool).await.map_err(failed(what)))
        })
        .await
    }

    /// The newest promotions, newest first.
    pub async fn releases(&self, which: &Which<'_>) -> Result<Vec<ReleaseRow>, LedgerError> {
        let what = "read promotions";
        let sql = "SELECT event_id, env, app, counter, release_name, intent, rollback_to, author, link, hosts, published_at_ms, verdict, \
                   signer FROM releases WHERE ($1 IS NULL OR env = $1) AND ($2 IS NULL OR app = $2) \
                   ORDER BY published_at_ms DESC, stream_sequence DESC LIMIT $3";
        let (env, app) = (which.env.map(ToString::to_string), which.app.map(ToString::to_string));
        within(what, READ_TIMEOUT, async {
            on_pool!(self, pool => {
                let query = sqlx::query_as(sql).bind(env).bind(app).bind(i64::from(which.limit));
                query.fetch_all(pool).await.map_err(failed(what))
            })
        })
        .await
    }

    /// What the hosts said about one promotion, oldest first, without the progress of pulls.
    pub async fn outcomes(&self, promotion_id: &str) -> Result<Vec<OutcomeRow>, LedgerError> {
        let what = "read outcomes";
        let sql = "SELECT host, kind, is_terminal, duration_ms, message, reason_code, reason_message, occurred_at_ms, verdict \
                   FROM outcomes WHERE promotion_id = $1 AND kind <> 'image.pulling' ORDER BY stream_sequence, event_id";
        within(what, READ_TIMEOUT, async {
            on_pool!(self, pool => {
                sqlx::query_as(sql).bind(promotion_id).fetch_all(pool).await.map_err(failed(what))
            })
        })
        .await
    }

    /// The stored DSSE envelope of an event, as JSON.
    pub async fn envelope(&self, event_id: &str) -> Result<Option<String>, LedgerError> {
        let what = "read an envelope";
        let sql = "SELECT envelope FROM releases WHERE event_id = $1 UNION ALL SELECT envelope FROM outcomes WHERE event_id = $1";
        within(what, READ_TIMEOUT, async {
            on_pool!(self, pool => {
                sqlx::query_scalar(sql).bind(event_id).fetch_optional(pool).await.map_err(failed(what))
            })
        })
        .await
    }

    /// The rejected messages of a stream, oldest first: reason and body.
    pub async fn rejected(&self, source: Source) -> Result<Vec<RejectedRow>, LedgerError> {
        let what = "read rejected messages";
        let sql =
            "SELECT subject, reason, detail, body, signature FROM rejected WHERE stream = $1 ORDER BY stream_sequence";
        within(what, READ_TIMEOUT, async {
            on_pool!(self, pool => {
                sqlx::query_as(sql).bind(source.stream()).fetch_all(pool).await.map_err(failed(what))
            })
        })
        .await
    }

    pub async fn close(&self) {
        on_pool!(self, pool => pool.close().await);
    }
}

/// Which promotions to tell of.
#[derive(Debug, Clone, Copy)]
pub struct Which<'a> {
    pub env: Option<&'a EnvName>,
    pub app: Option<&'a AppName>,
    pub limit: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Counts {
    pub releases: i64,
    pub outcomes: i64,
    pub words: i64,
    pub rejected: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ReleaseRow {
    pub event_id: String,
    pub env: String,
    pub app: String,
    pub counter: i64,
    pub release_name: String,
    pub intent: String,
    pub rollback_to: Option<i64>,
    pub author: String,
    pub link: Option<String>,
    /// A JSON array of names.
    pub hosts: String,
    pub published_at_ms: i64,
    pub verdict: String,
    pub signer: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct OutcomeRow {
    pub host: String,
    pub kind: String,
    pub is_terminal: i64,
    pub duration_ms: Option<i64>,
    pub message: String,
    pub reason_code: Option<String>,
    pub reason_message: Option<String>,
    pub occurred_at_ms: i64,
    pub verdict: String,
}

#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct RejectedRow {
    pub subject: String,
    pub reason: String,
    pub detail: String,
    pub body: Vec<u8>,
    pub signature: Option<String>,
}
