//! The ledger: every release and every outcome, once, whatever the bus and the process go through.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use landfall_schema::outcome::OutcomeKind;
use landfall_tests::database::Database;
use landfall_tests::image::AppImage;
use landfall_tests::lab::program;
use landfall_tests::process::{Process, until};
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;
use serde_json::Value;

const LEDGER_LIMIT: Duration = Duration::from_secs(15);

pub(crate) struct Audit {
    folder: PathBuf,
    database: String,
    server: String,
}

impl Audit {
    pub(crate) fn new(folder: &Path, database: &str, server: &str) -> Self {
        Self { folder: folder.to_owned(), database: database.to_owned(), server: server.to_owned() }
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(program("landfall-audit")?);
        command
            .args(["--database", &self.database])
            .args(arguments)
            .env_remove("LANDFALL_ENV")
            .env("NATS_URL", &self.server);
        Ok(command)
    }

    /// Follows the bus with durables of this name.
    fn run(&self, name: &str) -> Result<Process> {
        self.run_trusting(name, &[])
    }

    /// The same, with these keys for what they may sign.
    pub(crate) fn run_trusting(&self, name: &str, keys: &[String]) -> Result<Process> {
        let mut arguments = vec!["run", "--name", name];
        arguments.extend(keys.iter().flat_map(|key| ["--trust", key]));
        Process::start("landfall-audit", &mut self.command(&arguments)?, &self.folder.join("audit.log"))
    }

    fn history(&self) -> Result<Vec<Value>> {
        let output = self.command(&["history", "--output", "json"])?.output()?;
        ensure!(output.status.success(), "landfall-audit history: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Waits until the newest promotion has ended in the ledger.
    pub(crate) async fn has_ended(&self, counter: u64) -> Result<Vec<Value>> {
        until("the ledger is complete", LEDGER_LIMIT, async || {
            let history = self.history()?;
            let newest = history.first();
            let is_complete =
                newest.is_some_and(|one| one["counter"] == counter && one["hosts"][0]["outcome"].is_string());
            ensure!(is_complete, "the newest is {newest:#?}");
            Ok(history)
        })
        .await
    }
}

/// v1 succeeds, v2 rolls back; returns after the second has ended.
async fn two_promotions(scenario: &mut Scenario) -> Result<()> {
    scenario.deploy_v1().await?;
    let bad = scenario.push("v2", AppImage::version("v2").exits(1)).await?;
    assert_eq!(scenario.deploy(&Stack::app(&bad)).await?.kind, OutcomeKind::DeployRolledBack);
    Ok(())
}

fn assert_complete(history: &[Value]) {
    let told: Vec<(u64, &str, &str)> = history
        .iter()
        .map(|one| {
            let host = &one["hosts"][0];
            (one["counter"].as_u64().unwrap(), host["host"].as_str().unwrap(), host["outcome"].as_str().unwrap())
        })
        .collect();
    assert_eq!(told, [(2, "host-a", "rolled_back"), (1, "host-a", "succeeded")]);
}

#[tokio::test]
async fn the_ledger_has_every_event_once_after_redelivery() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let file = scenario.folder().join("ledger.db");
    let audit = Audit::new(scenario.folder(), &format!("sqlite://{}", file.display()), &scenario.nats.url());
    let mut running = audit.run("audit")?;
    two_promotions(&mut scenario).await?;
    // Killed, started again, and told everything from the beginning once more by new durables.
    running.kill();
    let again = audit.run("audit")?;
    assert_complete(&audit.has_ended(2).await?);
    let mut whole = audit.run("audit-from-the-beginning")?;
    let everything: i64 = i64::try_from(scenario.outcomes.seen().len())?;
    let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}", file.display())).await?;
    until("the second follower has read everything", LEDGER_LIMIT, async || {
        let stream = scenario.bus.jetstream().get_stream("OUTCOMES").await?;
        let mut names = stream.consumer_names();
        while let Some(name) = futures_util::StreamExt::next(&mut names).await.transpose()? {
            let info = stream.consumer_info(&name).await?;
            let is_ledger = name.starts_with("audit");
            ensure!(!is_ledger || (info.num_pending == 0 && info.num_ack_pending == 0), "{name} is behind");
        }
        let (count,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM outcomes").fetch_one(&pool).await?;
        ensure!(count >= everything, "{count} of {everything}");
        Ok(())
    })
    .await?;
    let stored: Vec<(String,)> =
        sqlx::query_as("SELECT event_id FROM outcomes ORDER BY event_id").fetch_all(&pool).await?;
    let mut published: Vec<(String,)> = scenario.outcomes.seen().iter().map(|one| (one.id.to_string(),)).collect();
    published.sort();
    assert_eq!(stored, published);
    assert_complete(&audit.history()?);
    assert!(whole.is_running());
    pool.close().await;
    drop(again);
    Ok(())
}

#[tokio::test]
async fn the_ledger_is_kept_in_postgresql_too() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    two_promotions(&mut scenario).await?;
    let database = Database::create(&scenario.lab).await?;
    let audit = Audit::new(scenario.folder(), &database.url, &scenario.nats.url());
    let mut running = audit.run("audit")?;
    assert_complete(&audit.has_ended(2).await?);
    let status = running.terminate(Duration::from_secs(10)).await?;
    assert!(status.success(), "SIGTERM ends it with {status}");
    Ok(())
}
