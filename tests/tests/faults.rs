//! Faults on real parts: each is seen to have fired, and after it is gone everything that was promised holds.
//!
//! What takes longer than a few seconds is ignored here and run by `make faults`, which prints the table.

mod bus;
mod clock;
mod database;
mod disk;
mod engine;
mod images;
mod journal;
mod network;
mod registry;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use landfall_bus::Bus;
use landfall_executor::journal::FILE_NAME;
use landfall_schema::event::CloudEvent;
use landfall_schema::ids::EnvName;
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_tests::process::until;
use landfall_tests::scenario::{ENV, Scenario};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, Row as _, SqliteConnection};

/// For the outbox to be empty after the bus is well again; its own waits are at most two seconds.
const TOLD_LIMIT: Duration = Duration::from_secs(30);

/// Slow enough to be hit in each of its phases.
const SLOW: &str = "ready: {http: {port: 8080, path: /ready}, interval_ms: 50, passes: 20, deadline_ms: 20000}";

/// Every outcome that the host wrote down is on the bus, and each of its promotions ended exactly once, by the bus' own record.
async fn assert_told(bus: &Bus, state_dir: &Path) -> Result<()> {
    let env = EnvName::new(ENV)?;
    until("every outcome is on the bus", TOLD_LIMIT, async || {
        let written = written_outcomes(state_dir).await?;
        let said = bus.outcomes_so_far(&format!("landfall.{env}.outcome.>")).await?;
        let mut ids = BTreeSet::new();
        let mut terminal = BTreeMap::new();
        for said in &said {
            let event: CloudEvent<Outcome> = serde_json::from_slice(&said.body)?;
            let first = ids.insert(event.id.to_string());
            let Outcome { host, app, counter, kind, .. } = event.data;
            if first && kind.is_terminal() {
                terminal.entry((host.to_string(), app.to_string(), counter.0)).or_insert(Vec::new()).push(kind);
            }
        }
        let lost: Vec<&String> = written.difference(&ids).collect();
        ensure!(lost.is_empty(), "{} outcomes are written down and not on the bus: {lost:?}", lost.len());
        let twice: Vec<_> = terminal.iter().filter(|(_, kinds)| kinds.len() != 1).collect();
        ensure!(twice.is_empty(), "these ended more than once: {twice:?}");
        Ok(())
    })
    .await
}

/// The same of the only host.
async fn assert_host_told(scenario: &Scenario) -> Result<()> {
    assert_told(&scenario.bus, &scenario.hosts[0].executor.state_dir()).await
}

/// The ids of the outcomes that are in a host's journal, told or not.
async fn written_outcomes(state_dir: &Path) -> Result<BTreeSet<String>> {
    let mut connection = read_journal(state_dir).await?;
    let sql = "SELECT event_id FROM outbox WHERE subject LIKE 'landfall.%.outcome.%'";
    let rows = sqlx::query(sql).fetch_all(&mut connection).await?;
    connection.close().await?;
    rows.iter().map(|row| Ok(row.try_get::<String, _>(0)?)).collect()
}

async fn read_journal(state_dir: &Path) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(state_dir.join(FILE_NAME))
        .busy_timeout(Duration::from_secs(5))
        // What a test reads changes nothing, not even the file's form.
        .pragma("query_only", "on");
    Ok(SqliteConnection::connect_with(&options).await?)
}

/// How a deploy ended, and that what serves is what was said: the released digest, or the former one.
async fn assert_ended(
    scenario: &mut Scenario,
    counter: u64,
    released: (&landfall_tests::registry::PushedImage, &str),
    former: (&landfall_tests::registry::PushedImage, &str),
) -> Result<OutcomeKind> {
    let outcome = scenario.terminal(0, counter).await?;
    match outcome.kind {
        OutcomeKind::DeploySucceeded => scenario.assert_runs(released.0, released.1).await?,
        OutcomeKind::DeployFailed | OutcomeKind::DeployRolledBack => {
            scenario.assert_runs(former.0, former.1).await?;
        }
        _ => anyhow::bail!("it ended as {outcome:#?}"),
    }
    Ok(outcome.kind)
}
