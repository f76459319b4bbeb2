//! A bus that is away fills no log, and rows that nobody can read start no executor.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use landfall_tests::image::AppImage;
use landfall_tests::process::until;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;
use sqlx::{AssertSqlSafe, SqlitePool};

/// How long the bus is away.
const AWAY: Duration = Duration::from_secs(20);
/// Lines that the executor may write in that time, of all its parts together: each tells its trouble once.
const LINES_MAX: usize = 12;
const END_LIMIT: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_dead_bus_does_not_fill_the_log() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let image = scenario.push("v1", AppImage::version("v1")).await?;
    // Something is under way that has much to tell.
    let counter = scenario.promote(&Stack::app(&image).settings("bake_ms: 4000")).await?;
    scenario.reaches(0, counter, landfall_schema::outcome::OutcomeKind::BakeStarted).await?;
    let lines = |scenario: &mut Scenario| scenario.host().executor.whole_log().map(|log| log.lines().count());
    scenario.nats.down().await?;
    let before = lines(&mut scenario)?;
    // Nothing else happens that could be waited for.
    tokio::time::sleep(AWAY).await;
    let log = scenario.host().executor.whole_log()?;
    // The tests' own filter has the executor tell of every attempt; nobody else's does.
    let new: Vec<&str> = log.lines().skip(before).filter(|line| !line.contains(" DEBUG ")).collect();
    eprintln!("{} lines in {AWAY:?}:\n{}", new.len(), new.join("\n"));
    ensure!(new.len() <= LINES_MAX, "{} lines in {AWAY:?}:\n{}", new.len(), new.join("\n"));
    ensure!(new.iter().any(|line| line.contains("WARN")), "the trouble is not told at all:\n{log}");
    scenario.nats.up().await?;
    let outcome = scenario.terminal(0, counter).await?;
    ensure!(outcome.kind == landfall_schema::outcome::OutcomeKind::DeploySucceeded, "{outcome:#?}");
    Ok(())
}

/// Each is a row that no version of Landfall wrote.
const DAMAGE: [(&str, &str); 7] = [
    (
        "a body that is no event",
        "UPDATE releases SET state = 'running', terminal = NULL, ended_at = NULL, body = x'00ff'",
    ),
    ("a negative number", "UPDATE releases SET counter = -5, state = 'waiting', terminal = NULL"),
    ("an event id that is none", "UPDATE releases SET event_id = '../../x', state = 'running', terminal = NULL"),
    (
        "an input that is none",
        "INSERT INTO entries (env, app, counter, position, at, input) SELECT env, app, counter, 999, 1, '{\"input\":\"nonsense\"}' FROM releases; UPDATE releases SET state = 'running', terminal = NULL",
    ),
    (
        "a time after all time",
        "UPDATE entries SET at = 9223372036854775807; UPDATE releases SET state = 'running', terminal = NULL",
    ),
    (
        "a preview that is none",
        "INSERT INTO previews (env, app, counter, event_id, promotion) VALUES ('test', 'shop--x', 1, 'x', '[[[[')",
    ),
    ("an outbox on another's subject", "UPDATE outbox SET subject = 'landfall.*.>', published_at = NULL"),
];

#[tokio::test]
async fn a_journal_with_strange_rows_is_refused_in_words_or_borne() -> Result<()> {
    let mut scenario = Scenario::with_v1().await?;
    scenario.host().executor.terminate().await?;
    let folder = scenario.host().executor.state_dir();
    let file = folder.join("journal.sqlite");
    let good = std::fs::read(&file)?;
    for (name, damage) in DAMAGE {
        std::fs::write(&file, &good)?;
        for ending in ["-wal", "-shm"] {
            let beside = folder.join(format!("journal.sqlite{ending}"));
            if beside.exists() {
                std::fs::remove_file(beside)?;
            }
        }
        let pool = SqlitePool::connect(&format!("sqlite://{}", file.display())).await?;
        sqlx::raw_sql(AssertSqlSafe(format!(
            "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON; {damage}"
        )))
        .execute(&pool)
        .await
        .with_context(|| name.to_owned())?;
        pool.close().await;
        let before = scenario.host().executor.whole_log()?.len();
        let is_up = scenario.start_executor(0).await.is_ok();
        let log = scenario.host().executor.whole_log()?[before..].to_owned();
        ensure!(!log.contains("panicked"), "{name}: {log}");
        if is_up {
            ensure!(scenario.host().executor.is_running(), "{name}: it ended later: {log}");
            scenario.assert_serves("v1").await?;
            scenario.host().executor.kill();
        } else {
            until(&format!("{name}: it ends"), END_LIMIT, async || {
                ensure!(!scenario.hosts[0].executor.is_running(), "it runs, and says nothing");
                Ok(())
            })
            .await?;
            ensure!(log.contains("journal") && log.contains("hint:"), "{name}: {log}");
            scenario.host().executor.kill();
        }
        eprintln!("{name}: {}", if is_up { "borne" } else { "refused" });
    }
    Ok(())
}
