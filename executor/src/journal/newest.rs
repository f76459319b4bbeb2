//! A journal that is an older copy of itself is whole, and wrong: it would go on with deploys that are over, and back to releases that were
//! left. A small file beside it says which promotions were taken last.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use landfall_schema::promotion::Promotion;
use sqlx::sqlite::SqlitePool;
use tracing::warn;

use super::{FILE_NAME, JournalError, failed};

const NEWEST_FILE: &str = "newest.json";

/// By environment and application the highest counter that was taken.
type Taken = BTreeMap<String, u64>;

fn key(env: &str, app: &str) -> String {
    format!("{env}/{app}")
}

fn read(folder: &Path) -> std::io::Result<Taken> {
    match std::fs::read(folder.join(NEWEST_FILE)) {
        // It is written whole or not at all. What a hand has made of it says nothing.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            warn!(%error, "{NEWEST_FILE} in the state directory is not readable; an older copy of the journal would not be noticed");
            Taken::new()
        })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Taken::new()),
        Err(error) => Err(error),
    }
}

/// # Errors
/// [`JournalError::Older`]. A journal that knows nothing at all is a new one, and begins anew.
pub(super) async fn compare(pool: &SqlitePool, folder: &Path) -> Result<(), JournalError> {
    let what = "compare the newest promotions";
    let taken = read(folder).map_err(|error| failed(what)(error.into()))?;
    let sql = "SELECT env, app, max(counter) FROM releases GROUP BY env, app";
    let known: Vec<(String, String, i64)> = sqlx::query_as(sql).fetch_all(pool).await.map_err(failed(what))?;
    if known.is_empty() {
        if !taken.is_empty() {
            warn!(
                "the journal is a new one, though this host has taken promotions before: it takes the newest of every application once more"
            );
            // Whoever moved the old journal away knows; compared with what this one will take, it would stop the next start.
            std::fs::remove_file(folder.join(NEWEST_FILE)).map_err(|error| failed(what)(error.into()))?;
        }
        return Ok(());
    }
    let known: BTreeMap<String, u64> =
        known.into_iter().map(|(env, app, counter)| (key(&env, &app), counter.cast_unsigned())).collect();
    for (of, taken) in taken {
        let known = known.get(&of).copied().unwrap_or_default();
        if known < taken {
            return Err(JournalError::Older { path: folder.join(FILE_NAME), of, known, taken });
        }
    }
    Ok(())
}

/// Said once the journal has it; what is not written here is only not noticed later. Previews come and go, and are made by one promotion mostly; they are not in it.
pub(super) async fn remember(folder: PathBuf, promotion: &Promotion) {
    // A simulated machine may lose its power, and with it what a real disk keeps.
    if cfg!(feature = "simulation") || promotion.preview.is_some() {
        return;
    }
    let (of, counter) = (key(promotion.env.as_str(), promotion.app.as_str()), promotion.counter.0);
    let written = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        let mut taken = read(&folder)?;
        let newest = taken.entry(of).or_default();
        if *newest >= counter {
            return Ok(());
        }
        *newest = counter;
        let mut file = tempfile::NamedTempFile::new_in(&folder)?;
        file.write_all(&serde_json::to_vec(&taken)?)?;
        file.as_file().sync_all()?;
        file.persist(folder.join(NEWEST_FILE))?;
        Ok(())
    });
    let written = written.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    if let Err(error) = written {
        warn!(%error, "{NEWEST_FILE} was not written; an older copy of the journal would not be noticed");
    }
}
