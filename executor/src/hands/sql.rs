//! SQL migrations inside a service's image, applied with sqlx's own table, checksums and transactions.
//!
//! The files never touch this host's disk. A dedicated connection is used and closed, and the database's lock is polled for: waiting
//! inside the database would deadlock with `CREATE INDEX CONCURRENTLY`.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder};
use futures_util::StreamExt;
use landfall_schema::ids::{Digest, ServiceName};
use landfall_schema::outcome::{AppliedMigration, Reason, ReasonCode};
use landfall_schema::stack::SqlMigrations;
use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, SqlSafeStr};
use tokio::time::Instant;

mod confine;

use super::Hands;
use super::pull::repository_part;
use super::redact::Redactor;
use super::render::Stack;

/// All SQL files of one image together.
const FILES_MAX_BYTES: usize = 16 * 1024 * 1024;
/// Time for reading them out of the image.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a database may take to answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two attempts to connect, or to take the lock.
const POLL: Duration = Duration::from_millis(200);
/// How long one statement may wait for a lock that the application holds, before it fails rather than queue everybody behind it.
const LOCK_TIMEOUT_MS: u64 = 30_000;
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// sqlx's own table, so that `sqlx migrate info` shows the same.
const TABLE: &str = "_sqlx_migrations";

pub(crate) struct Plan<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) service: &'a ServiceName,
    pub(crate) image: String,
    pub(crate) settings: &'a SqlMigrations,
    pub(crate) database: String,
    /// For an older release against a newer schema.
    pub(crate) ignore_missing: bool,
    pub(crate) deadline: Instant,
}

impl Plan<'_> {
    fn failed(&self, why: impl std::fmt::Display) -> Reason {
        let message = format!("migrating {}: {why}", self.database);
        Reason::new(ReasonCode::MigrationFailed, self.redactor().clean(&message))
    }

    fn redactor(&self) -> &Redactor {
        &self.stack.redactor
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
    pub(crate) async fn apply_sql(&self, plan: Plan<'_>) -> Result<Vec<AppliedMigration>, Reason> {
        let files = tokio::time::timeout_at(plan.deadline.min(Instant::now() + READ_TIMEOUT), self.sql_files(&plan))
            .await
            .map_err(|_| plan.late("reading the SQL files out of the image"))??;
        let migrator = migrator(files).map_err(|why| plan.failed(why))?;
        if migrator.iter().next().is_none() {
            return Err(plan
                .failed(format_args!("the image has no SQL file in {}", plan.settings.path))
                .hint("files are named <version>_<description>.sql, e.g. 0001_create_orders.sql"));
        }
        if plan.settings.url.starts_with("sqlite:") {
            apply_to_sqlite(&plan, &migrator).await
        } else {
            self.apply_to_postgres(&plan, &migrator).await
        }
    }

    /// The directory's `*.sql` files by name, through a container that is never started.
    async fn sql_files(&self, plan: &Plan<'_>) -> Result<BTreeMap<String, String>, Reason> {
        let docker = self.engine.docker()?;
        let Stack { counter, invocation, .. } = plan.stack;
        let name =
            format!("landfall-{}-{}-{}-sql", invocation.project, counter.0, repository_part(plan.service.as_str()));
        self.engine.remove_container(&docker, &name).await?;
        // An image may have no command of its own; this one is never run.
        let body = ContainerCreateBody {
            image: Some(plan.image.clone()),
            cmd: Some(vec!["-".to_owned()]),
            ..Default::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        self.engine
            .call("making a container to read SQL files from", docker.create_container(Some(options), body))
            .await?;
        let path = format!("{}/.", plan.settings.path.trim_end_matches('/'));
        let options = DownloadFromContainerOptionsBuilder::new().path(&path).build();
        let mut stream = docker.download_from_container(&name, Some(options));
        let (mut archive, mut trouble) = (Vec::new(), None);
        while let Some(chunk) = stream.next().await {
            match chunk {
                Ok(bytes) if archive.len() + bytes.len() <= FILES_MAX_BYTES => archive.extend_from_slice(&bytes),
                Ok(_) => {
                    trouble = Some(plan.failed(format_args!(
                        "{} in the image holds more than {FILES_MAX_BYTES} bytes",
                        plan.settings.path
                    )))
                }
                Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {
                    trouble =
                        Some(plan.failed(format_args!(
                            "the image of service {} has no {}",
                            plan.service, plan.settings.path
                        )));
                }
                Err(error) => trouble = Some(self.engine.failed("reading the SQL files out of the image", &error)),
            }
            if trouble.is_some() {
                break;
            }
        }
        drop(stream);
        self.engine.remove_container(&docker, &name).await?;
        match trouble {
            Some(reason) => Err(reason),
            None => unpack(&archive).map_err(|error| plan.failed(error)),
        }
    }

    async fn apply_to_postgres(&self, plan: &Plan<'_>, migrator: &Migrator) -> Result<Vec<AppliedMigration>, Reason> {
        // The parser's error could repeat the URL, which has a password.
        let mut options = PgConnectOptions::from_str(&plan.settings.url)
            .map_err(|_| plan.failed("migrations.url is not a PostgreSQL URL"))?
            .application_name("landfall");
        if let Some(address) = self.address_of(options.get_host()).await? {
            options = options.host(&address);
        }
        let mut connection: PgConnection = connect(&options, plan).await?;
        let applied = postgres_locked(plan, migrator, &mut connection).await;
        // Closing frees the lock, whatever happened; a server that does not answer frees it when the connection breaks.
        drop(tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await);
        applied
    }

    /// The address of the service of this name, if the project has one that runs.
    async fn address_of(&self, host: &str) -> Result<Option<String>, Reason> {
        let containers = self.engine.containers().await?;
        let Some(container) = containers.iter().find(|c| c.running && !c.one_off && c.service.as_str() == host) else {
            return Ok(None);
        };
        let docker = self.engine.docker()?;
        let inspected = self.engine.inspect(&docker, &container.id).await?;
        Ok(inspected.and_then(|inspected| super::probe::addresses(&inspected).into_iter().next()))
    }
}

async fn postgres_locked(
    plan: &Plan<'_>,
    migrator: &Migrator,
    connection: &mut PgConnection,
) -> Result<Vec<AppliedMigration>, Reason> {
    let left_ms = plan.deadline.saturating_duration_since(Instant::now()).as_millis();
    let limits = format!("SET lock_timeout = {LOCK_TIMEOUT_MS}; SET statement_timeout = {left_ms}");
    sqlx::raw_sql(AssertSqlSafe(limits)).execute(&mut *connection).await.map_err(|error| plan.failed(error))?;
    let key = lock_key(&plan.database);
    loop {
        let taken: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(key)
            .fetch_one(&mut *connection)
            .await
            .map_err(|error| plan.failed(error))?;
        if taken {
            break;
        }
        if Instant::now() + POLL >= plan.deadline {
            return Err(plan.failed("another migration of this database holds the lock"));
        }
        tokio::time::sleep(POLL).await;
    }
    apply(plan, migrator, connection).await
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
    let mut connection: SqliteConnection = connect(&options.filename(&path), plan).await?;
    let applied = apply(plan, migrator, &mut connection).await;
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
            Err(TryLockError::WouldBlock) if Instant::now() + POLL >= plan.deadline => {
                return Err(plan.failed("another migration of this database holds the lock"));
            }
            Err(TryLockError::WouldBlock) => tokio::time::sleep(POLL).await,
        }
    }
}

/// A database that was started a moment ago may refuse connections yet.
async fn connect<O: ConnectOptions<Connection: Sized>>(options: &O, plan: &Plan<'_>) -> Result<O::Connection, Reason> {
    let deadline = plan.deadline.min(Instant::now() + CONNECT_TIMEOUT);
    let mut last = "no answer".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, options.connect()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => {
                let starting = matches!(&error, sqlx::Error::Database(e) if e.code().as_deref() == Some("57P03"));
                if !starting && !matches!(error, sqlx::Error::Io(_)) {
                    return Err(plan.failed(format_args!("the database refuses the connection: {error}")));
                }
                last = error.to_string();
            }
            Err(_) => {}
        }
        if Instant::now() + POLL >= deadline {
            return Err(plan
                .failed(format_args!("the database cannot be reached: {last}"))
                .hint("is it up, and is migrations.url right as seen from the host?"));
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
    let work = apply_missing(plan, migrator, connection, &mut applied);
    match tokio::time::timeout_at(plan.deadline, work).await {
        Ok(Ok(())) => Ok(applied),
        Ok(Err(error)) => Err(migrate_reason(plan, &Trouble { error, applied })),
        Err(_) => Err(plan.late("a migration")),
    }
}

/// sqlx's order of checks, one migration at a time so that each can be told.
async fn apply_missing<C: Migrate>(
    plan: &Plan<'_>,
    migrator: &Migrator,
    connection: &mut C,
    applied: &mut Vec<AppliedMigration>,
) -> Result<(), MigrateError> {
    connection.ensure_migrations_table(TABLE).await?;
    if let Some(version) = connection.dirty_version(TABLE).await? {
        return Err(MigrateError::Dirty(version));
    }
    let known = connection.list_applied_migrations(TABLE).await?;
    let known: BTreeMap<i64, _> = known.into_iter().map(|migration| (migration.version, migration)).collect();
    if let Some(version) = known.keys().find(|version| !plan.ignore_missing && !migrator.version_exists(**version)) {
        return Err(MigrateError::VersionMissing(*version));
    }
    for migration in migrator.iter().filter(|migration| !migration.migration_type.is_down_migration()) {
        match known.get(&migration.version) {
            Some(before) if before.checksum == migration.checksum => {}
            Some(_) => return Err(MigrateError::VersionMismatch(migration.version)),
            None => {
                let took = connection.apply(TABLE, migration).await?;
                applied.push(told(plan, migration, took));
            }
        }
    }
    Ok(())
}

fn told(plan: &Plan<'_>, migration: &Migration, took: Duration) -> AppliedMigration {
    AppliedMigration {
        database: plan.database.clone(),
        description: format!("{} {}", migration.version, migration.description),
        duration_ms: took.as_millis() as u64,
    }
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

/// The same number on every host, so that the database's own lock keeps two hosts apart.
fn lock_key(database: &str) -> i64 {
    let digest = Digest::of(format!("landfall.migrate.{database}").as_bytes());
    let hex = &digest.as_str()["sha256:".len()..][..15];
    i64::from_str_radix(hex, 16).unwrap_or(0)
}

/// Regular `*.sql` files directly in the directory; everything else is passed over.
fn unpack(archive: &[u8]) -> std::io::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let parts: Vec<_> = path.components().filter(|part| !matches!(part, Component::CurDir)).collect();
        let [Component::Normal(name)] = parts[..] else { continue };
        let Some(name) = name.to_str().filter(|name| name.ends_with(".sql")) else { continue };
        if entry.header().entry_type().is_file() {
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            files.insert(name.to_owned(), text);
        }
    }
    Ok(files)
}

/// sqlx's rules for file names: `<version>_<description>.sql`, `.up.sql` and `.down.sql`; others are ignored.
fn migrator(files: BTreeMap<String, String>) -> Result<Migrator, String> {
    let mut migrations = Vec::new();
    for (name, sql) in files {
        let Some((version, rest)) = name.split_once('_') else { continue };
        let version: i64 = version
            .parse()
            .map_err(|_| format!("{name}: a file's name begins with a number, e.g. 0001_create_orders.sql"))?;
        let kind = MigrationType::from_filename(rest);
        let description = rest.trim_end_matches(kind.suffix()).replace('_', " ");
        let no_tx = sql.starts_with("-- no-transaction");
        migrations.push(Migration::new(version, description.into(), kind, AssertSqlSafe(sql).into_sql_str(), no_tx));
    }
    migrations.sort();
    if let Some(pair) = migrations
        .windows(2)
        .find(|pair| pair[0].version == pair[1].version && pair[0].migration_type == pair[1].migration_type)
    {
        return Err(format!("there are two migrations with version {}", pair[0].version));
    }
    Ok(Migrator::with_migrations(migrations))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_plain_sql_files_are_unpacked() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind: tar::EntryType, text: &str| {
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            header.set_entry_type(kind);
            let name = header.as_ustar_mut().unwrap();
            name.name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, text.as_bytes()).unwrap();
        };
        add("./", tar::EntryType::Directory, "");
        add("./1_a.sql", tar::EntryType::Regular, "select 1");
        add("./sub/2_b.sql", tar::EntryType::Regular, "select 2");
        add("../3_c.sql", tar::EntryType::Regular, "select 3");
        add("/4_d.sql", tar::EntryType::Regular, "select 4");
        add("./5_e.sql", tar::EntryType::Symlink, "");
        add("./readme.md", tar::EntryType::Regular, "x");
        let files = unpack(&builder.into_inner().unwrap()).unwrap();
        assert_eq!(files.into_keys().collect::<Vec<_>>(), ["1_a.sql"]);
    }

    #[test]
    fn names_become_migrations() {
        let files = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "select 1".to_owned())).collect();
        let known = migrator(files(&["0002_b.sql", "1_create_orders.up.sql", "1_create_orders.down.sql", "notes.sql"]))
            .unwrap();
        let told: Vec<String> =
            known.iter().map(|m| format!("{} {} {}", m.version, m.description, m.migration_type.label())).collect();
        assert_eq!(told, ["1 create orders migrate", "1 create orders revert", "2 b migrate"]);
        assert!(migrator(files(&["x_b.sql"])).unwrap_err().contains("begins with a number"));
        assert!(migrator(files(&["1_a.sql", "01_b.sql"])).unwrap_err().contains("two migrations"));
    }

    #[test]
    fn hosts_of_urls() {
        assert_eq!(host("postgres://u:p@db:5432/x").as_deref(), Some("db"));
        assert_eq!(host("sqlite:///data/x.db"), None);
        assert_ne!(lock_key("a"), lock_key("b"));
    }
}
