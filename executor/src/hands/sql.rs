//! SQL migrations inside a service's image, applied with sqlx's own table, checksums and transactions.
//!
//! The files never touch this host's disk. A dedicated connection is used and closed, and the database's lock is polled for: waiting
//! inside the database would deadlock with `CREATE INDEX CONCURRENTLY`.

mod confine;
mod files;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use landfall_schema::ids::Counter;
use landfall_schema::outcome::{AppliedMigration, Reason};
use landfall_schema::stack::SqlMigrations;
use landfall_sql::Language;
use sqlx::migrate::{Migrate, MigrateError, Migration, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, SqlSafeStr};
use tokio::time::Instant;

use super::Hands;
use super::fence::{Entered, Fence, Gate, close};
use super::lease::DoneBy;
use super::render::Stack;
use crate::failpoint::failpoint;
use files::migrator;

/// Time for reading them out of the image.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a database may take to answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two attempts to connect, or to take the lock.
const POLL: Duration = Duration::from_millis(200);
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// Warnings that one outcome carries.
const WARNINGS_MAX: usize = 5;
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// sqlx's own table, so that `sqlx migrate info` shows the same.
pub(crate) const TABLE: &str = "_sqlx_migrations";

pub(crate) struct Plan<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) image: String,
    pub(crate) settings: &'a SqlMigrations,
    pub(crate) gate: Gate<'a>,
    /// What was done before, as the lease says.
    pub(crate) done: Option<&'a DoneBy>,
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Migrated {
    pub(crate) applied: Vec<AppliedMigration>,
    /// What another host applied for this release.
    pub(crate) elsewhere: Vec<AppliedMigration>,
    /// The host that had done it before.
    pub(crate) done_by: Option<String>,
    /// The newer promotion that it did it for, if not for this one.
    pub(crate) newer: Option<Counter>,
    /// For people: what the applied migrations take away.
    pub(crate) warnings: Vec<String>,
}

impl Migrated {
    /// By somebody else, or at an earlier time.
    pub(crate) fn before(host: &str, newer: Option<Counter>) -> Self {
        Self { done_by: Some(host.to_owned()), newer, ..Self::default() }
    }
}

impl Plan<'_> {
    fn failed(&self, why: impl std::fmt::Display) -> Reason {
        self.gate.failed(why)
    }

    fn deadline(&self) -> Instant {
        self.gate.deadline
    }

    fn late(&self, doing: &str) -> Reason {
        self.failed(format_args!("{doing} took too long"))
            .hint("raise deadline_ms in the service's x-landfall settings if it needs longer")
    }
}

/// The host of a database's URL, without port and login.
pub(crate) fn host(url: &str) -> Option<String> {
    let (scheme, _) = url.split_once("://")?;
    if scheme == "sqlite" {
        return None;
    }
    PgConnectOptions::from_str(url).ok().map(|options| options.get_host().to_owned())
}

impl Hands {
    pub(crate) async fn apply_sql(&self, plan: &Plan<'_>) -> Result<Migrated, Reason> {
        if is_sqlite(&plan.settings.url) {
            let migrator = self.migrator(plan).await?;
            let applied = apply_to_sqlite(plan, &migrator).await?;
            if let Some(done) = plan.done.filter(|_| applied.is_empty()) {
                return Ok(Migrated::before(done.host.as_str(), done.newer));
            }
            return Ok(Migrated { warnings: warnings(plan, &migrator, &applied), applied, ..Migrated::default() });
        }
        let mut fence = match self.enter(&plan.gate).await? {
            Entered::Ours(fence) => fence,
            Entered::DoneBy(host) => return Ok(Migrated::before(&host, None)),
            Entered::Newer(mut newer) => {
                let stands = match self.migrator(plan).await {
                    Ok(migrator) => stands(plan, &migrator, newer.counter, &mut newer.connection).await,
                    Err(reason) => Err(reason),
                };
                close(newer.connection).await;
                return stands.map(|()| Migrated::before(&newer.holder, Some(newer.counter)));
            }
        };
        let worked = match self.migrator(plan).await {
            Ok(migrator) => apply_to_postgres(plan, &migrator, &mut fence).await.map(|applied| (migrator, applied)),
            Err(reason) => Err(Failure::Told(reason)),
        };
        match worked {
            Ok((migrator, applied)) => {
                fence.finish(&plan.gate, true).await?;
                Ok(Migrated { warnings: warnings(plan, &migrator, &applied), applied, ..Migrated::default() })
            }
            Err(Failure::Told(reason)) => {
                // What the row says is for whoever comes next; the reason is why this one failed.
                drop(fence.finish(&plan.gate, false).await);
                Err(reason)
            }
            Err(Failure::Unfinished(reason)) => {
                fence.abandon().await;
                Err(reason)
            }
        }
    }

    async fn migrator(&self, plan: &Plan<'_>) -> Result<Migrator, Reason> {
        let files = tokio::time::timeout_at(plan.deadline().min(Instant::now() + READ_TIMEOUT), self.sql_files(plan))
            .await
            .map_err(|_| plan.late("reading the SQL files out of the image"))??;
        let migrator = migrator(files).map_err(|why| plan.failed(why))?;
        if migrator.iter().next().is_none() {
            return Err(plan
                .failed(format_args!("the image has no SQL file in {}", plan.settings.path))
                .hint("files are named <version>_<description>.sql, e.g. 0001_create_orders.sql"));
        }
        Ok(migrator)
    }

    /// The address of the service of this name, if the project has one that runs.
    pub(crate) async fn address_of(&self, host: &str) -> Result<Option<String>, Reason> {
        let containers = self.engine.containers().await?;
        let Some(container) = containers.iter().find(|c| c.running && !c.one_off && c.service.as_str() == host) else {
            return Ok(None);
        };
        let docker = self.engine.docker()?;
        let inspected = self.engine.inspect(&docker, &container.id).await?;
        Ok(inspected.and_then(|inspected| super::probe::addresses(&inspected).into_iter().next()))
    }
}

pub(crate) fn is_sqlite(url: &str) -> bool {
    url.starts_with("sqlite:")
}

/// A migration that did not come to a good end.
enum Failure {
    Told(Reason),
    /// It was stopped, and may have been in the middle of what no transaction covers.
    Unfinished(Reason),
}

async fn apply_to_postgres(
    plan: &Plan<'_>,
    migrator: &Migrator,
    fence: &mut Fence,
) -> Result<Vec<AppliedMigration>, Failure> {
    let mut applied = Vec::new();
    let work = apply_fenced(plan, migrator, fence, &mut applied);
    match tokio::time::timeout_at(plan.deadline(), work).await {
        Ok(Ok(())) => Ok(applied),
        // Where the connection broke, the row says what was under way.
        Ok(Err(error)) => {
            let is_broken = matches!(
                &error,
                MigrateError::Execute(sqlx::Error::Io(_)) | MigrateError::ExecuteMigration(sqlx::Error::Io(_), _)
            );
            let reason = migrate_reason(plan, &Trouble { error, applied });
            Err(if is_broken { Failure::Unfinished(reason) } else { Failure::Told(reason) })
        }
        Err(_) => Err(Failure::Unfinished(plan.late("a migration"))),
    }
}

async fn apply_fenced(
    plan: &Plan<'_>,
    migrator: &Migrator,
    fence: &mut Fence,
    applied: &mut Vec<AppliedMigration>,
) -> Result<(), MigrateError> {
    for migration in missing(migrator, fence.connection(), Strangers::Refused).await? {
        failpoint!("sql.before");
        let took = if migration.no_tx {
            let version = migration.version.to_string();
            fence.doing(Some(&version)).await?;
            let took = fence.connection().apply(TABLE, migration).await?;
            failpoint!("sql.without-transaction.applied");
            fence.doing(None).await?;
            took
        } else {
            // sqlx's checksum is of the file as it is.
            let sql = format!("{}{}", fence.assertion(), migration.sql.as_str());
            let fenced = Migration {
                sql: AssertSqlSafe(sql).into_sql_str(),
                description: Cow::clone(&migration.description),
                checksum: Cow::clone(&migration.checksum),
                ..*migration
            };
            fence.connection().apply(TABLE, &fenced).await?
        };
        failpoint!("sql.after");
        applied.push(told(plan, migration, took));
    }
    Ok(())
}

async fn apply_to_sqlite(plan: &Plan<'_>, migrator: &Migrator) -> Result<Vec<AppliedMigration>, Reason> {
    let options = SqliteConnectOptions::from_str(&plan.settings.url)
        .map_err(|_| plan.failed("migrations.url is not a SQLite URL"))?
        .create_if_missing(true)
        .busy_timeout(BUSY_TIMEOUT);
    let path = confine::path_inside(&plan.stack.invocation.directory, options.get_filename()).map_err(|why| {
        plan.failed(why)
            .hint("a SQLite database is a file below the stack's directory on the host, e.g. sqlite://data/shop.db")
    })?;
    if let Some((migration, word)) = migrator.iter().find_map(|m| Some((m, confine::reaches_out(m.sql.as_str())?))) {
        return Err(plan.failed(format_args!("migration {} uses {word}", migration.version)).hint(
            "SQLite migrations run in the executor and may not open other files; use a migrator service for that",
        ));
    }
    // SQLite has no lock that spans transactions.
    let lock = lock_file(plan, &path).await?;
    let mut connection: SqliteConnection = connect(&options.filename(&path), &plan.gate).await?;
    let applied = match plan.done.and_then(|done| done.newer) {
        Some(newer) => stands(plan, migrator, newer, &mut connection).await.map(|()| Vec::new()),
        None => apply(plan, migrator, &mut connection).await,
    };
    drop(tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await);
    drop(lock);
    applied
}

async fn lock_file(plan: &Plan<'_>, database: &Path) -> Result<File, Reason> {
    let mut name = database.as_os_str().to_owned();
    name.push(".landfall-lock");
    let path = PathBuf::from(name);
    let opened = File::options().create(true).truncate(false).read(true).write(true).open(&path);
    let file = opened.map_err(|error| plan.failed(format_args!("{}: {error}", path.display())))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(plan.failed(format_args!("{}: {error}", path.display()))),
            Err(TryLockError::WouldBlock) if Instant::now() + POLL >= plan.deadline() => {
                return Err(plan.gate.locked());
            }
            Err(TryLockError::WouldBlock) => tokio::time::sleep(POLL).await,
        }
    }
}

/// A database that was started a moment ago may refuse connections yet.
pub(crate) async fn connect<O: ConnectOptions<Connection: Sized>>(
    options: &O,
    gate: &Gate<'_>,
) -> Result<O::Connection, Reason> {
    let deadline = gate.deadline.min(Instant::now() + CONNECT_TIMEOUT);
    let mut last = "no answer".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, options.connect()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => {
                let starting = matches!(&error, sqlx::Error::Database(e) if e.code().as_deref() == Some("57P03"));
                if !starting && !matches!(error, sqlx::Error::Io(_)) {
                    return Err(gate.failed(format_args!("the database refuses the connection: {error}")));
                }
                last = error.to_string();
            }
            Err(_) => {}
        }
        if Instant::now() + POLL >= deadline {
            return Err(gate
                .failed(format_args!("the database cannot be reached: {last}"))
                .hint(format!("is it up, and is {} right as seen from the host?", gate.setting)));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A failed migration, and those before it that stand.
struct Trouble {
    error: MigrateError,
    applied: Vec<AppliedMigration>,
}

async fn apply<C: Migrate>(
    plan: &Plan<'_>,
    migrator: &Migrator,
    connection: &mut C,
) -> Result<Vec<AppliedMigration>, Reason> {
    let mut applied = Vec::new();
    let work = async {
        for migration in missing(migrator, connection, Strangers::Refused).await? {
            failpoint!("sqlite.before");
            let took = connection.apply(TABLE, migration).await?;
            failpoint!("sqlite.after");
            applied.push(told(plan, migration, took));
        }
        Ok(())
    };
    match tokio::time::timeout_at(plan.deadline(), work).await {
        Ok(Ok(())) => Ok(applied),
        Ok(Err(error)) => Err(migrate_reason(plan, &Trouble { error, applied })),
        Err(_) => Err(plan.late("a migration")),
    }
}

/// A newer promotion has migrated this database since: nothing of an older one is applied any more, and all of it must be there. What only
/// the newer one knows is no trouble.
async fn stands<C: Migrate>(
    plan: &Plan<'_>,
    migrator: &Migrator,
    newer: Counter,
    connection: &mut C,
) -> Result<(), Reason> {
    match tokio::time::timeout_at(plan.deadline(), missing(migrator, connection, Strangers::Allowed)).await {
        Ok(Ok(missing)) => match missing.first() {
            None => Ok(()),
            Some(migration) => Err(plan
                .failed(format_args!(
                    "migration {:?} of this release is not applied, and promotion {newer}, which is newer, has migrated since; older migrations are not run after newer ones",
                    described(migration)
                ))
                .hint(plan.gate.claim.again_hint())),
        },
        Ok(Err(error)) => Err(migrate_reason(plan, &Trouble { error, applied: Vec::new() })),
        Err(_) => Err(plan.late("reading what is applied")),
    }
}

/// Migrations in the database that this release does not know.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strangers {
    Refused,
    Allowed,
}

/// Those that are not applied yet, in order; by sqlx's order of checks.
async fn missing<'m, C: Migrate>(
    migrator: &'m Migrator,
    connection: &mut C,
    strangers: Strangers,
) -> Result<Vec<&'m Migration>, MigrateError> {
    connection.ensure_migrations_table(TABLE).await?;
    if let Some(version) = connection.dirty_version(TABLE).await? {
        return Err(MigrateError::Dirty(version));
    }
    let known = connection.list_applied_migrations(TABLE).await?;
    let known: BTreeMap<i64, _> = known.into_iter().map(|migration| (migration.version, migration)).collect();
    if let Some(version) =
        known.keys().find(|version| strangers == Strangers::Refused && !migrator.version_exists(**version))
    {
        return Err(MigrateError::VersionMissing(*version));
    }
    let mut missing = Vec::new();
    for migration in migrator.iter().filter(|migration| !migration.migration_type.is_down_migration()) {
        match known.get(&migration.version) {
            Some(before) if before.checksum == migration.checksum => {}
            Some(_) => return Err(MigrateError::VersionMismatch(migration.version)),
            None => missing.push(migration),
        }
    }
    Ok(missing)
}

fn told(plan: &Plan<'_>, migration: &Migration, took: Duration) -> AppliedMigration {
    AppliedMigration {
        database: plan.gate.claim.database.to_owned(),
        description: described(migration),
        duration_ms: took.as_millis() as u64,
    }
}

fn described(migration: &Migration) -> String {
    format!("{} {}", migration.version, migration.description)
}

/// What the migrations that were applied take away from the former release, where that was not said to be meant.
fn warnings(plan: &Plan<'_>, migrator: &Migrator, applied: &[AppliedMigration]) -> Vec<String> {
    if plan.stack.settings.contract {
        return Vec::new();
    }
    let applied: BTreeSet<&str> = applied.iter().map(|one| one.description.as_str()).collect();
    let fresh: Vec<(String, &Migration)> = migrator
        .iter()
        .filter(|migration| !migration.migration_type.is_down_migration())
        .map(|migration| (described(migration), migration))
        .filter(|(name, _)| applied.contains(name.as_str()))
        .collect();
    let files = fresh.iter().map(|(name, migration)| (name.as_str(), migration.sql.as_str()));
    let found: Vec<String> = landfall_sql::check(files, Language::of_url(&plan.settings.url))
        .into_iter()
        .map(|finding| format!("warning: {}", plan.stack.redactor.clean(&finding.to_string())))
        .collect();
    in_few_words(found)
}

fn in_few_words(mut found: Vec<String>) -> Vec<String> {
    let more = found.len().saturating_sub(WARNINGS_MAX);
    found.truncate(WARNINGS_MAX);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    if !found.is_empty() {
        found.push("the release is not marked `contract: true`".to_owned());
    }
    found
}

fn migrate_reason(plan: &Plan<'_>, trouble: &Trouble) -> Reason {
    let before = match trouble.applied.last() {
        None => String::new(),
        Some(last) => format!("; {} before it stand, the last is {:?}", trouble.applied.len(), last.description),
    };
    let (why, hint) = match &trouble.error {
        MigrateError::ExecuteMigration(error, version) => (format!("migration {version} failed: {error}"), None),
        MigrateError::VersionMissing(version) => (
            format!("the database has migration {version}, which this release does not know"),
            Some("the release is older than the schema: promote a newer one, or go back with `landfall rollback`"),
        ),
        MigrateError::VersionMismatch(version) => (
            format!("migration {version} was changed after it was applied"),
            Some("restore the file as it was applied, and add a new migration for the change"),
        ),
        MigrateError::Dirty(version) => (
            format!("migration {version} was applied in part"),
            Some("repair the schema by hand and correct its row in _sqlx_migrations"),
        ),
        other => (other.to_string(), None),
    };
    let reason = plan.failed(format_args!("{why}{before}"));
    match hint {
        Some(hint) => reason.hint(hint),
        None => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_urls() {
        assert_eq!(host("postgres://u:p@db:5432/x").as_deref(), Some("db"));
        assert_eq!(host("sqlite:///data/x.db"), None);
    }

    #[test]
    fn so_many_warnings_are_told() {
        let of = |count: usize| in_few_words(vec!["x".to_owned(); count]);
        assert_eq!((of(0).len(), of(WARNINGS_MAX).len()), (0, WARNINGS_MAX + 1));
        assert_eq!(of(WARNINGS_MAX + 1)[WARNINGS_MAX], "and 1 more");
    }
}
