//! Opening the journal: nobody else may read it, and what is not as this host wrote it is refused before anything depends on it.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tracing::warn;

use super::{FILE_NAME, Journal, JournalError, disk, newest, seal};

/// Time for another process to let go of the file, e.g. a person who reads it with `sqlite3`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// SQLite's page cache, in KiB (negative is SQLite's way to say KiB).
const CACHE_KIB: i32 = -512;
/// The write-ahead log is cut back to this size.
const WAL_MAX_BYTES: i64 = 1024 * 1024;

impl Journal {
    /// Opens or creates the journal, brings its tables up to date and checks it.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] when SQLite's own check finds anything, or a row is not what was written; [`JournalError::Older`];
    /// otherwise what could not be done.
    pub async fn open(state_dir: &Path) -> Result<Self, JournalError> {
        let path = state_dir.join(FILE_NAME);
        keep_to_ourselves(&path).map_err(|source| JournalError::Open { path: path.clone(), source: source.into() })?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .statement_cache_capacity(32)
            .pragma("cache_size", CACHE_KIB.to_string())
            .pragma("journal_size_limit", WAL_MAX_BYTES.to_string());
        disk::read(Self::open_file(path, options)).await
    }

    async fn open_file(path: PathBuf, options: SqliteConnectOptions) -> Result<Self, JournalError> {
        // One connection: writes are serial anyway, and each connection costs a thread and a cache.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(|source| open_error(&path, source))?;
        let folder = path.parent().unwrap_or(&path).to_owned();
        let journal = Self { pool, folder };
        journal.check(&path).await?;
        sqlx::migrate!("./migrations").run(&journal.pool).await.map_err(|source| match source {
            sqlx::migrate::MigrateError::Execute(source) => open_error(&path, source),
            source => JournalError::Migrate { path: path.clone(), source },
        })?;
        seal::verify(&journal.pool, &path).await.map_err(|error| match error {
            JournalError::Query { source, .. } => open_error(&path, source),
            error => error,
        })?;
        newest::compare(&journal.pool, &journal.folder).await?;
        Ok(journal)
    }

    async fn check(&self, path: &Path) -> Result<(), JournalError> {
        let lines: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check(5)")
            .fetch_all(&self.pool)
            .await
            .map_err(|source| open_error(path, source))?;
        if lines == ["ok"] {
            return Ok(());
        }
        Err(JournalError::Damaged { path: path.to_owned(), detail: lines.join("; ") })
    }

    pub async fn close(&self) {
        let closed = disk::read(async {
            self.pool.close().await;
            Ok(())
        });
        if let Err(error) = closed.await {
            warn!(%error, "the journal was not closed; its write-ahead log is read at the next start");
        }
    }
}

/// Promotions may hold what is nobody else's business. SQLite gives the files beside it the same mode.
fn keep_to_ourselves(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    // One that is older than this rule.
    file.set_permissions(Permissions::from_mode(0o600))
}

fn open_error(path: &Path, source: sqlx::Error) -> JournalError {
    let code = source.as_database_error().and_then(|error| error.code()).and_then(|code| code.parse::<i32>().ok());
    match code.map(|code| code & 0xff) {
        // SQLITE_CORRUPT and SQLITE_NOTADB, with their extended codes.
        // SQLITE_ERROR: what this version writes itself is never wrong SQL, so the file has tables, or a form, that it never gave it.
        Some(1 | 11 | 26) => JournalError::Damaged { path: path.to_owned(), detail: source.to_string() },
        _ => JournalError::Open { path: path.to_owned(), source },
    }
}
