//! Finding, opening and preparing the database.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use thiserror::Error;

use super::{Ledger, LedgerError, Pool};

/// Where the ledger is when nothing is said.
pub const DEFAULT_FILE: &str = "/var/lib/landfall-audit/ledger.sqlite";
/// Time for another process to let go of the SQLite file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections to PostgreSQL: one for each stream, and one to read.
const POSTGRES_CONNECTIONS_MAX: u32 = 3;
/// Time to get a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for another process that prepares the same ledger.
const PREPARE_LOCK_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two tries to become the one who prepares it.
const PREPARE_LOCK_POLL: Duration = Duration::from_millis(100);
/// Of PostgreSQL's advisory lock; the bytes spell "landfall".
const PREPARE_LOCK_KEY: i64 = i64::from_be_bytes(*b"landfall");
/// A table of our own: the database may be shared with an application that migrates with sqlx too.
const MIGRATIONS_TABLE: &str = "landfall_migrations";

/// A database that may hold a ledger. Its text shows no password.
#[derive(Clone)]
pub enum Database {
    Sqlite(PathBuf),
    Postgres { options: Box<PgConnectOptions>, shown: String },
}

#[derive(Debug, Error)]
pub enum DatabaseError {
    #[error("it is empty")]
    Empty,
    #[error("{scheme}:// is no database that can hold a ledger; there are sqlite:// and postgres://")]
    Scheme { scheme: String },
    #[error("the ledger must be a file, not memory only")]
    Memory,
    #[error("the PostgreSQL URL is not readable; it looks like postgres://user:password@host:5432/database")]
    Postgres,
}

impl FromStr for Database {
    type Err = DatabaseError;

    /// `postgres://…`, `sqlite://FILE`, or a plain file.
    fn from_str(text: &str) -> Result<Self, DatabaseError> {
        let text = text.trim();
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            // The parser's own words may repeat parts of the URL.
            let options = text.parse::<PgConnectOptions>().map_err(|_| DatabaseError::Postgres)?;
            let shown = format!(
                "postgres://{}:{}/{}",
                options.get_host(),
                options.get_port(),
                options.get_database().unwrap_or_default()
            );
            return Ok(Self::Postgres { options: Box::new(options), shown });
        }
        let file = match text.strip_prefix("sqlite:") {
            Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
            None => text,
        };
        match (file, file.split_once("://")) {
            ("", _) => Err(DatabaseError::Empty),
            (":memory:", _) => Err(DatabaseError::Memory),
            (_, Some((scheme, _))) => Err(DatabaseError::Scheme { scheme: scheme.to_owned() }),
            (file, None) => Ok(Self::Sqlite(file.into())),
        }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "{}", path.display()),
            Self::Postgres { shown, .. } => f.write_str(shown),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({self})")
    }
}

impl Ledger {
    /// Opens the ledger, makes it when it is missing, and brings it to this version's form.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn prepare(database: &Database) -> Result<Self, LedgerError> {
        let pool = match database {
            Database::Sqlite(path) => Pool::Sqlite(prepare_sqlite(path).await?),
            Database::Postgres { options, shown } => Pool::Postgres(prepare_postgres(options, shown).await?),
        };
        Ok(Self { pool })
    }

    /// Opens a ledger that is there, only to read.
    ///
    /// # Errors
    /// [`LedgerError::Missing`], [`LedgerError::Open`].
    pub async fn read(database: &Database) -> Result<Self, LedgerError> {
        let pool = match database {
            Database::Sqlite(path) if !path.exists() => return Err(LedgerError::Missing { path: path.clone() }),
            Database::Sqlite(path) => {
                let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY_TIMEOUT);
                let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await;
                Pool::Sqlite(pool.map_err(|source| LedgerError::Open { shown: database.to_string(), source })?)
            }
            Database::Postgres { options, shown } => Pool::Postgres(connect_postgres(options, shown).await?),
        };
        Ok(Self { pool })
    }
}

async fn prepare_sqlite(path: &Path) -> Result<SqlitePool, LedgerError> {
    let shown = path.display().to_string();
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|source| LedgerError::Folder { path: folder.to_owned(), source })?;
    }
    // SQLite's driver has no lock of its own for migrations.
    let _lock = lock_beside(path).await?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT);
    // One writer: SQLite has no more, and a second one would only wait for the first.
    let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(CONNECT_TIMEOUT).connect_with(options).await;
    let pool = pool.map_err(|source| LedgerError::Open { shown: shown.clone(), source })?;
    let mut migrator = sqlx::migrate!("./migrations/sqlite");
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    migrator.run(&pool).await.map_err(|source| LedgerError::Migrate { shown: shown.clone(), source })?;
    let named =
        sqlx::query("INSERT INTO ledger (single, id) VALUES (1, lower(hex(randomblob(16)))) ON CONFLICT DO NOTHING");
    named.execute(&pool).await.map_err(|source| LedgerError::Open { shown, source })?;
    Ok(pool)
}

/// Held until the file is dropped.
async fn lock_beside(path: &Path) -> Result<File, LedgerError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let folder = |source| LedgerError::Folder { path: name.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&name).map_err(folder)?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::Error(source)) => return Err(folder(source)),
            Err(std::fs::TryLockError::WouldBlock) if start.elapsed() > PREPARE_LOCK_TIMEOUT => {
                return Err(LedgerError::Locked { shown: path.display().to_string(), waited: start.elapsed() });
            }
            Err(std::fs::TryLockError::WouldBlock) => tokio::time::sleep(PREPARE_LOCK_POLL).await,
        }
    }
}

async fn connect_postgres(options: &PgConnectOptions, shown: &str) -> Result<PgPool, LedgerError> {
    let pool = PgPoolOptions::new().max_connections(POSTGRES_CONNECTIONS_MAX).acquire_timeout(CONNECT_TIMEOUT);
    let connected = pool.connect_with(options.clone().application_name("landfall-audit")).await;
    connected.map_err(|source| LedgerError::Open { shown: shown.to_owned(), source })
}

async fn prepare_postgres(options: &PgConnectOptions, shown: &str) -> Result<PgPool, LedgerError> {
    let open = |source| LedgerError::Open { shown: shown.to_owned(), source };
    // A connection of its own: the lock ends with it, whatever happens in between.
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, options.clone().connect()).await;
    let mut connection =
        connecting.unwrap_or_else(|late| Err(sqlx::Error::Io(std::io::Error::other(late)))).map_err(open)?;
    lock_postgres(&mut connection, shown).await?;
    let mut migrator: Migrator = sqlx::migrate!("./migrations/postgres");
    migrator.set_locking(false);
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    migrator.run(&mut connection).await.map_err(|source| LedgerError::Migrate { shown: shown.to_owned(), source })?;
    let named = sqlx::query(
        "INSERT INTO ledger (single, id) VALUES (1, replace(gen_random_uuid()::text, '-', '')) ON CONFLICT DO NOTHING",
    );
    named.execute(&mut connection).await.map_err(open)?;
    connection.close().await.map_err(open)?;
    connect_postgres(options, shown).await
}

async fn lock_postgres(connection: &mut PgConnection, shown: &str) -> Result<(), LedgerError> {
    let start = Instant::now();
    loop {
        let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(PREPARE_LOCK_KEY)
            .fetch_one(&mut *connection)
            .await
            .map_err(|source| LedgerError::Open { shown: shown.to_owned(), source })?;
        if locked {
            return Ok(());
        }
        if start.elapsed() > PREPARE_LOCK_TIMEOUT {
            return Err(LedgerError::Locked { shown: shown.to_owned(), waited: start.elapsed() });
        }
        tokio::time::sleep(PREPARE_LOCK_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_database_is_a_file_or_a_url_and_shows_no_password() {
        for (text, expect) in [
            ("/var/lib/a.sqlite", "/var/lib/a.sqlite"),
            ("sqlite:///var/lib/a.sqlite", "/var/lib/a.sqlite"),
            ("sqlite:a.sqlite", "a.sqlite"),
            ("postgres://landfall:s3cr3t@db:5433/audit?sslmode=disable", "postgres://db:5433/audit"),
        ] {
            let database: Database = text.parse().unwrap();
            assert_eq!(database.to_string(), expect);
            assert!(!format!("{database:?}").contains("s3cr3t"));
        }
        for text in ["", "sqlite://", "sqlite::memory:", "mysql://a:s3cr3t@b/c", "postgres://a:s3cr3t@b:port/c"] {
            let error = text.parse::<Database>().unwrap_err().to_string();
            assert!(!error.contains("s3cr3t"), "{error}");
        }
    }
}
