//! Journals that a disk or a hand has changed: refused with what is wrong and what to do, or rebuilt; never believed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use landfall_executor::journal::{FILE_NAME, Journal};
use landfall_schema::event::{CloudEvent, TYPE_ENVIRONMENT_FROZEN, TYPE_ENVIRONMENT_POLICY};
use landfall_schema::gates::{EnvironmentPolicy, Freezes};
use landfall_schema::ids::{AppName, EnvName, EventId, HostName};
use landfall_schema::outcome::OutcomeKind;
use landfall_schema::signature::SigningKey;
use landfall_schema::subject;
use landfall_tests::fault::Fault;
use landfall_tests::image::AppImage;
use landfall_tests::process::until;
use landfall_tests::scenario::{APP, ENV, Scenario};
use landfall_tests::stack::Stack;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection};
use tempfile::TempDir;
use uuid::Uuid;

use super::{SLOW, assert_host_told};
use crate::expect::Served;

/// What counts in each table. Times and traces are told to people and decide nothing.
const COUNTS: [(&str, &str); 7] = [
    ("releases", "env, app, counter, event_id, message, body, signature, state, terminal"),
    ("entries", "env, app, counter, position, at, input"),
    ("committed", "env, app, counter, event_id, promotion, bundle"),
    ("outbox", "event_id, subject, body, signature, settles"),
    ("refusals", "message, code"),
    ("previews", "env, app, counter, event_id, promotion"),
    ("rules", "subject, event_id, body, signature"),
];
const END_LIMIT: Duration = Duration::from_secs(10);

/// A host with a past: the rules of its environment, one release committed, one taken back, one refused, one under way, and events that nobody
/// was told yet. It was killed, so that its write-ahead log is full.
async fn past() -> Result<(Served, TempDir)> {
    let admin = SigningKey::generate();
    let mut scenario = Scenario::without_hosts().await?;
    scenario.add_host("host-a", |settings| settings.admins = vec![admin.public().to_string()]).await?;
    set_rules(&scenario, &admin).await?;
    let mut served = Served::over(scenario).await?;
    let bad = served.scenario.push("bad", AppImage::version("bad").exits(1)).await?;
    let ended = served.scenario.deploy(&Stack::app(&bad)).await?;
    ensure!(ended.kind == OutcomeKind::DeployRolledBack, "{ended:#?}");
    let mut stale = served.scenario.draft(&Stack::app(&bad))?;
    stale.event.data.expires_at = landfall_schema::Timestamp::now() - Duration::from_secs(60);
    served.scenario.publish(&stale).await?;
    served.scenario.terminal(0, stale.counter()).await?;
    let good = served.scenario.push("good", AppImage::version("good")).await?;
    let counter = served.scenario.promote(&Stack::app_with(&good, SLOW).settings("bake_ms: 20000")).await?;
    served.scenario.reaches(0, counter, OutcomeKind::ReadinessProbing).await?;
    served.scenario.nats.down().await?;
    let state = served.scenario.host().executor.state_dir();
    until("an event waits", END_LIMIT, async || {
        let mut journal = super::read_journal(&state).await?;
        let sql = "SELECT count(*) FROM outbox WHERE published_at IS NULL";
        let waiting: i64 = sqlx::query_scalar(sql).fetch_one(&mut journal).await?;
        ensure!(waiting > 0, "all is told");
        Ok(())
    })
    .await?;
    served.scenario.host().executor.kill();
    let kept = TempDir::with_prefix("landfall-journal-")?;
    copy(&state, kept.path())?;
    Ok((served, kept))
}

/// A policy and a list of freezes that hold nothing up.
async fn set_rules(scenario: &Scenario, admin: &SigningKey) -> Result<()> {
    let (env, now) = (&scenario.env, landfall_schema::Timestamp::now());
    let policy = EnvironmentPolicy {
        env: env.clone(),
        requires: None,
        approvals: None,
        freeze_windows: Vec::new(),
        author: "ann".to_owned(),
    };
    let freezes = Freezes { env: env.clone(), freezes: Vec::new() };
    let ids = [(); 2].map(|()| EventId(Uuid::now_v7()));
    let policy = CloudEvent::new(ids[0], "/test", TYPE_ENVIRONMENT_POLICY, now, policy).encode()?;
    let freezes = CloudEvent::new(ids[1], "/test", TYPE_ENVIRONMENT_FROZEN, now, freezes).encode()?;
    let to = [subject::environment_policy(env), subject::environment_freeze(env)];
    for ((id, subject), body) in ids.into_iter().zip(to).zip([policy, freezes]) {
        scenario.bus.publish_signed(&subject, id, &body, Some(&admin.header(&body)?), None).await?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

async fn edit(folder: &Path) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new().filename(folder.join(FILE_NAME)).foreign_keys(false);
    Ok(SqliteConnection::connect_with(&options).await?)
}

/// All in the one file, as after a clean end.
async fn checkpointed(folder: &Path) -> Result<Vec<u8>> {
    let mut journal = edit(folder).await?;
    sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut journal).await?;
    journal.close().await?;
    Ok(std::fs::read(folder.join(FILE_NAME))?)
}

/// Every value that counts, row by row.
async fn dump(folder: &Path) -> Result<Vec<String>> {
    let mut journal = edit(folder).await?;
    let mut lines = Vec::new();
    for (table, columns) in COUNTS {
        let columns: Vec<String> = columns.split(", ").map(|column| format!("quote({column})")).collect();
        let sql = format!("SELECT {} FROM {table} ORDER BY rowid", columns.join(" || ',' || "));
        for row in sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut journal).await? {
            lines.push(format!("{table}: {}", row.try_get::<String, _>(0)?));
        }
    }
    journal.close().await?;
    Ok(lines)
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// With what a person is told.
    Refused(String),
    /// It is what it was: the damage hit nothing that counts.
    Whole,
    /// Another past was believed.
    Believed(String),
}

/// What the executor does with the journal in this folder, as far as it depends on the journal: opens it, and reads all that it reads.
async fn found(folder: &Path, before: &[String]) -> Result<Found> {
    let read = async {
        let journal = Journal::open(folder).await?;
        let (env, app, host) = (EnvName::new(ENV)?, AppName::new(APP)?, HostName::new("host-a")?);
        let read = async {
            journal.unfinished(&host).await?;
            journal.newest(&host, &env, &app).await?;
            journal.committed(&env, &app, 10).await?;
            journal.previews(&env, &host).await?;
            journal.rule(&subject::environment_policy(&env)).await?;
            journal.rule(&subject::environment_freeze(&env)).await?;
            journal.unpublished(0, 1_000).await
        };
        let read = read.await;
        journal.close().await;
        anyhow::Ok(read.map(drop)?)
    };
    Ok(match read.await {
        Err(error) => Found::Refused(format!("{error:#}")),
        Ok(()) => match dump(folder).await {
            Ok(now) if now == before => Found::Whole,
            Ok(now) => {
                let other = now.iter().find(|line| !before.contains(line)).cloned();
                Found::Believed(other.unwrap_or_else(|| format!("{} rows instead of {}", now.len(), before.len())))
            }
            Err(error) => Found::Believed(format!("cannot be read afterwards: {error:#}")),
        },
    })
}

/// Damages a copy each time, and counts what became of it.
struct Bench {
    before: Vec<String>,
    bytes: Vec<u8>,
    work: TempDir,
    refused: usize,
    whole: usize,
}

impl Bench {
    async fn new(kept: &Path) -> Result<Self> {
        // In memory where there is such a folder: thousands of small files are written through to the disk otherwise.
        let memory = Path::new("/dev/shm");
        let work = if memory.is_dir() { TempDir::new_in(memory)? } else { TempDir::new()? };
        copy(kept, work.path())?;
        // As this version writes it.
        Journal::open(work.path()).await?.close().await;
        let bytes = checkpointed(work.path()).await?;
        let before = dump(work.path()).await?;
        for (table, _) in COUNTS.iter().filter(|(table, _)| *table != "previews") {
            ensure!(before.iter().any(|line| line.starts_with(table)), "the past has no row in {table}");
        }
        Ok(Self { before, bytes, work, refused: 0, whole: 0 })
    }

    fn fresh(&self) -> Result<PathBuf> {
        let folder = self.work.path().join("one");
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(FILE_NAME), &self.bytes)?;
        Ok(folder)
    }

    async fn judge(&mut self, fault: &mut Fault, what: &str, folder: &Path) -> Result<()> {
        fault.fired(what);
        match found(folder, &self.before).await? {
            Found::Whole => self.whole += 1,
            Found::Refused(told) => {
                ensure!(told.contains("hint: "), "{what}: no hint: {told}");
                self.refused += 1;
            }
            Found::Believed(other) => anyhow::bail!("{what}: another past was believed: {other:.600}"),
        }
        fault.survived()
    }

    async fn damage(&mut self, fault: &mut Fault, what: &str, change: impl Fn(&mut Vec<u8>)) -> Result<()> {
        let folder = self.fresh()?;
        let mut bytes = self.bytes.clone();
        change(&mut bytes);
        ensure!(bytes != self.bytes, "{what}: nothing was changed");
        std::fs::write(folder.join(FILE_NAME), &bytes)?;
        self.judge(fault, what, &folder).await
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % limit.max(1)
    }
}

/// Bytes, header, length, single bits of texts and whole rows; so many of each.
async fn damaged(random_bytes: usize, lengths: usize) -> Result<()> {
    let (mut served, kept) = past().await?;
    let mut bench = Bench::new(kept.path()).await?;
    let size = bench.bytes.len();
    let mut random = Random(0x5eed);

    let mut fault = Fault::new("journal: random bytes");
    for round in 0..random_bytes {
        let (at, count) = (100 + random.below(size - 164), 1 + random.below(64));
        let fill: Vec<u8> = (0..count).map(|_| u8::try_from(random.below(256)).unwrap_or(0)).collect();
        bench
            .damage(&mut fault, &format!("{count} bytes at {at} (round {round})"), |bytes| {
                bytes[at..at + count].copy_from_slice(&fill);
                bytes[at] = !bytes[at];
            })
            .await?;
    }
    fault.end()?;

    let mut fault = Fault::new("journal: header");
    for at in [0, 5, 16, 18, 20, 24, 28, 40, 44, 47, 52, 56, 60, 92, 96] {
        bench.damage(&mut fault, &format!("byte {at} of the header"), |bytes| bytes[at] = !bytes[at]).await?;
    }
    fault.end()?;

    let mut fault = Fault::new("journal: truncated");
    for round in 0..lengths {
        let length = 1 + random.below(size - 1);
        bench.damage(&mut fault, &format!("{length} of {size} bytes (round {round})"), |b| b.truncate(length)).await?;
    }
    fault.end()?;

    texts(&mut bench).await?;
    rows(&mut bench).await?;
    eprintln!("{} refused, {} had hit nothing that counts, of {} bytes", bench.refused, bench.whole, size);

    // The real program says so, ends, and takes the journal when it is whole again.
    let mut fault = Fault::new("journal: damaged, the executor itself");
    let state = served.scenario.host().executor.state_dir();
    let journal = state.join(FILE_NAME);
    let mut bytes = checkpointed(&state).await?;
    let good = bytes.clone();
    // Wherever the tables lie, so much of the file hits what counts.
    bytes[size / 4..size * 3 / 4].fill(0x5a);
    std::fs::write(&journal, &bytes)?;
    served.scenario.nats.up().await?;
    let executor = &mut served.scenario.host().executor;
    executor.start()?;
    executor.ends_within(END_LIMIT).await?;
    let log = executor.log();
    fault.fired("the executor ended");
    ensure!(log.contains("is damaged") && log.contains("hint: "), "{log}");
    executor.kill();
    std::fs::write(&journal, good)?;
    served.scenario.start_executor(0).await?;
    let outcome = served.scenario.terminal(0, 4).await?;
    ensure!(outcome.kind == OutcomeKind::DeploySucceeded, "{outcome:#?}");
    served.assert_goes_on().await?;
    assert_host_told(&served.scenario).await?;
    fault.survived()?;
    fault.end()
}

/// One bit of each text and blob that counts, past every check of the pages.
async fn texts(bench: &mut Bench) -> Result<()> {
    let mut fault = Fault::new("journal: one bit of a value");
    for (table, columns) in COUNTS {
        for column in columns.split(", ").filter(|column| !matches!(*column, "counter" | "position" | "at")) {
            let folder = bench.fresh()?;
            let mut journal = edit(&folder).await?;
            let sql =
                format!("SELECT rowid, CAST({column} AS BLOB) FROM {table} WHERE {column} IS NOT NULL ORDER BY rowid");
            let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut journal).await?;
            let kind = if column == "body" { "BLOB" } else { "TEXT" };
            journal.close().await?;
            for row in rows.iter().take(2).chain(rows.last()) {
                let (id, mut value): (i64, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
                let at = value.len() * 2 / 3;
                value[at] ^= 1;
                let folder = bench.fresh()?;
                let mut journal = edit(&folder).await?;
                // The bytes as they are: also those that the tables' own rules refuse, which is a refusal too.
                let sql = format!("UPDATE {table} SET {column} = CAST(? AS {kind}) WHERE rowid = ?");
                let changed = sqlx::query(AssertSqlSafe(sql)).bind(value).bind(id).execute(&mut journal).await;
                journal.close().await?;
                if changed.is_err() {
                    continue;
                }
                checkpointed(&folder).await?;
                bench.judge(&mut fault, &format!("bit of {table}.{column} in row {id}"), &folder).await?;
            }
        }
    }
    fault.end()
}

/// A row that somebody took away, of those whose absence would change what the host does.
async fn rows(bench: &mut Bench) -> Result<()> {
    let mut fault = Fault::new("journal: a row taken away");
    for (what, sql) in [
        ("the release that is committed", "DELETE FROM committed"),
        ("its promotion", "DELETE FROM releases"),
        ("the first step of a deploy", "DELETE FROM entries WHERE position = 1"),
        ("a step in the middle", "DELETE FROM entries WHERE position = 2"),
    ] {
        let folder = bench.fresh()?;
        let mut journal = edit(&folder).await?;
        let gone = sqlx::raw_sql(sql).execute(&mut journal).await?.rows_affected();
        journal.close().await?;
        ensure!(gone > 0, "{what}: there was none");
        bench.judge(&mut fault, what, &folder).await?;
    }
    fault.end()
}

#[tokio::test]
async fn a_damaged_journal_is_never_believed() -> Result<()> {
    damaged(30, 5).await
}

#[tokio::test]
#[ignore = "hundreds of damages: make faults"]
async fn a_journal_that_is_damaged_in_hundreds_of_ways_is_never_believed() -> Result<()> {
    damaged(500, 50).await
}

/// A copy of before, the write-ahead log taken away, and nothing left at all.
#[tokio::test]
async fn an_older_journal_is_refused_and_an_empty_state_directory_begins_anew() -> Result<()> {
    let mut served = Served::v1().await?;
    let state = served.scenario.host().executor.state_dir();
    served.scenario.host().executor.terminate().await?;
    let older = TempDir::new()?;
    copy(&state, older.path())?;
    served.scenario.start_executor(0).await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    served.scenario.succeed(&Stack::app(&v2)).await?;
    let container = served.scenario.container()?;
    served.scenario.host().executor.kill();
    let newest = TempDir::new()?;
    copy(&state, newest.path())?;

    let mut fault = Fault::new("journal: an older copy put back");
    put_back(&state, older.path(), &["journal.sqlite"])?;
    refuses(&mut served, &mut fault).await?;
    let mut lost = Fault::new("journal: write-ahead log deleted");
    put_back(&state, newest.path(), &["journal.sqlite"])?;
    refuses(&mut served, &mut lost).await?;
    lost.end()?;

    // The newest one is taken as it is, and nothing is done again.
    put_back(&state, newest.path(), &["journal.sqlite", "journal.sqlite-wal"])?;
    served.scenario.start_executor(0).await?;
    served.scenario.assert_runs(&v2, "v2").await?;
    ensure!(served.scenario.container()? == container, "something was done to what serves");
    fault.end()?;

    // As the hint says: what serves stays, and is what a broken release goes back to.
    let mut fault = Fault::new("state directory emptied");
    served.scenario.host().executor.kill();
    std::fs::remove_dir_all(&state)?;
    fault.fired("it is gone, with the host's key");
    served.scenario.start_executor(0).await?;
    let bad = served.scenario.push("bad", AppImage::version("bad").exits(1)).await?;
    let outcome = served.scenario.deploy(&Stack::app(&bad)).await?;
    ensure!(outcome.kind == OutcomeKind::DeployRolledBack, "{outcome:#?}");
    served.scenario.assert_runs(&v2, "v2").await?;
    served.assert_goes_on().await?;
    fault.survived()?;
    fault.end()
}

/// The journal's files are these of the copy, and no others.
fn put_back(state: &Path, from: &Path, names: &[&str]) -> Result<()> {
    for name in ["journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"] {
        let path = state.join(name);
        if path.exists() {
            std::fs::remove_file(&path)?;
        }
        if names.contains(&name) && from.join(name).exists() {
            std::fs::copy(from.join(name), path)?;
        }
    }
    Ok(())
}

/// The executor ends, says why and what to do, and has touched nothing.
async fn refuses(served: &mut Served, fault: &mut Fault) -> Result<()> {
    let before = served.scenario.container()?;
    let logged = served.scenario.host().executor.whole_log()?.len();
    let executor = &mut served.scenario.host().executor;
    executor.start()?;
    executor.ends_within(END_LIMIT).await?;
    let log = executor.whole_log()?[logged..].to_owned();
    executor.kill();
    ensure!(log.contains("is an older copy") && log.contains("hint: "), "{log}");
    fault.fired("the executor ended");
    ensure!(served.scenario.container()? == before, "something was done to what serves");
    fault.survived()
}
