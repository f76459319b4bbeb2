//! One real PostgreSQL, and every host of a fleet: a migration is applied once, whoever dies in the middle of it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use landfall_schema::outcome::OutcomeKind;
use landfall_tests::database::Database;
use landfall_tests::fleet::lease::Use;
use landfall_tests::fleet::scenario::FleetScenario;
use landfall_tests::image::AppImage;
use landfall_tests::process::until;
use landfall_tests::promotion::Draft;
use landfall_tests::stack::Stack;

const FROM_ENV: &str = "migrations: {path: /migrations, url: \"${DATABASE_URL}\", database: shop}";
const ORDERS: &str = "CREATE TABLE orders (id BIGINT PRIMARY KEY); INSERT INTO orders VALUES (1);";
/// Slow, so that whoever runs it can be killed in the middle; twice applied it fails.
const SLOW: &str = "CREATE TABLE orders (id BIGINT PRIMARY KEY); SELECT pg_sleep(4); INSERT INTO orders VALUES (1);";
const BEGUN_LIMIT: Duration = Duration::from_secs(60);

/// Eight hosts with `v1`, and a release that migrates one database of all of them, in one wave.
async fn migrating(sql: &str) -> Result<(FleetScenario, Database, Draft)> {
    let (fleet, _) = FleetScenario::with_v1(8, Use::Shared).await?;
    let database = Database::create(&fleet.lab).await?;
    for host in &fleet.hosts {
        host.set("DATABASE_URL", &database.gateway_url)?;
    }
    let v2 = fleet.push("v2", AppImage::version("v2").migration("0001_create_orders.sql", sql)).await?;
    let waves: [&[&str]; 1] = [&["h1", "h2", "h3", "h4", "h5", "h6", "h7", "h8"]];
    let stack = Stack::app(&v2).app_settings(FROM_ENV);
    let draft = fleet.draft(&stack).await?.coordinate(&fleet.bus, &waves).await?;
    Ok((fleet, database, draft))
}

async fn assert_applied_once(fleet: &mut FleetScenario, database: &Database, draft: &Draft) -> Result<()> {
    let all = fleet.numbers();
    fleet.assert_succeeded(&all, draft.counter()).await?;
    for host in &fleet.hosts {
        host.assert_serves("v2").await?;
    }
    assert_eq!(database.texts("SELECT id::text FROM orders").await?, ["1"]);
    assert_eq!(database.texts("SELECT version::text FROM _sqlx_migrations").await?.len(), 1);
    Ok(())
}

#[tokio::test]
#[ignore = "needs eight hosts: make test-fleet"]
async fn eight_hosts_migrate_one_database_once() -> Result<()> {
    let (mut fleet, database, draft) = migrating(ORDERS).await?;
    fleet.publish(&draft).await?;
    assert_applied_once(&mut fleet, &database, &draft).await?;
    let counter = draft.counter();
    let applied = |said: &&landfall_tests::outcomes::Published<landfall_schema::outcome::Outcome>| {
        said.data.counter.0 == counter
            && said.data.kind == OutcomeKind::MigrationApplied
            && !said.data.migrations.is_empty()
    };
    assert_eq!(fleet.outcomes.seen().iter().filter(applied).count(), 1, "one host applied it");
    Ok(())
}

#[tokio::test]
#[ignore = "needs eight hosts: make test-fleet"]
async fn a_runner_that_dies_hands_the_migration_over() -> Result<()> {
    let (mut fleet, database, draft) = migrating(SLOW).await?;
    fleet.publish(&draft).await?;
    // Who runs it is asked of the database: the address of the session that sleeps.
    let query = "SELECT host(client_addr) FROM pg_stat_activity WHERE datname = current_database() \
                 AND state = 'active' AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()";
    let address = until("a host migrates", BEGUN_LIMIT, async || {
        database.texts(query).await?.into_iter().next().context("nobody does yet")
    })
    .await?;
    let runner = fleet.hosts.iter().position(|host| host.machine().address.to_string() == address);
    let runner = runner.with_context(|| format!("{address} is no host's"))? + 1;
    fleet.host(runner).executor.kill();
    ensure!(!fleet.host(runner).executor.is_running());
    // Another takes over while it is dead.
    let other = if runner == 1 { 2 } else { 1 };
    fleet.reaches(other, draft.counter(), OutcomeKind::StackUpdating).await?;
    assert_eq!(database.texts("SELECT id::text FROM orders").await?, ["1"]);
    fleet.start_executor(runner).await?;
    assert_applied_once(&mut fleet, &database, &draft).await
}
