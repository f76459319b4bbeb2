//! PostgreSQL that dies, or ends the session, during each statement of a migration.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use landfall_schema::outcome::{OutcomeKind, ReasonCode};
use landfall_tests::fault::Fault;
use landfall_tests::image::AppImage;
use landfall_tests::postgres::PostgresServer;
use landfall_tests::process::until;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::assert_host_told;
use crate::expect::Served;

const FROM_ENV: &str = "migrations: {path: /migrations, url: \"${DATABASE_URL}\", database: shop}";
const AT_STEP_LIMIT: Duration = Duration::from_secs(20);
const STEPS: [usize; 3] = [1, 2, 3];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    /// As an administrator does, or a failover.
    SessionEnded,
    /// SIGKILL for the whole server.
    ServerKilled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A file whose statements are one transaction.
    Transaction,
    /// A file that no transaction covers: what was done stays done.
    NoTransaction,
}

/// Each statement says which it is, where others see it at once, and takes its time when `is_slow`.
fn migration(kind: Kind, is_slow: bool) -> String {
    let seconds = if is_slow { "5" } else { "0" };
    match kind {
        Kind::Transaction => format!(
            "SET application_name = 'step 1'; CREATE TABLE runs (step int); SELECT pg_sleep({seconds});\n\
             SET application_name = 'step 2'; INSERT INTO runs VALUES (1); SELECT pg_sleep({seconds});\n\
             SET application_name = 'step 3'; INSERT INTO runs VALUES (2); SELECT pg_sleep({seconds});\n\
             SET application_name = 'landfall';"
        ),
        Kind::NoTransaction => {
            let step = |number: usize, sql: &str| {
                format!("SET application_name = 'step {number}'; {sql}; COMMIT; PERFORM pg_sleep({seconds});")
            };
            format!(
                "-- no-transaction\nDO $$ BEGIN {}\n{}\n{} END $$;",
                step(1, "CREATE TABLE IF NOT EXISTS runs (step int)"),
                step(2, "INSERT INTO runs VALUES (1)"),
                step(3, "INSERT INTO runs VALUES (2)")
            )
        }
    }
}

async fn rows(url: &str, query: &'static str) -> Result<Vec<String>> {
    let mut connection = PgConnection::connect(url).await?;
    let rows = sqlx::query_scalar(query).fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(rows)
}

async fn execute(url: &str, sql: &str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
    Ok(connection.close().await?)
}

async fn stack(scenario: &Scenario, version: &str, sql: &str) -> Result<Stack> {
    let image = AppImage::version(version).migration("0001_runs.sql", sql);
    Ok(Stack::app(&scenario.push(version, image).await?).app_settings(FROM_ENV))
}

async fn in_each_statement(harm: Harm, kind: Kind) -> Result<()> {
    let mut fault = Fault::new(format!("PostgreSQL, {harm:?} during a statement ({kind:?})"));
    let mut server = PostgresServer::start().await?;
    let mut served = Served::v1().await?;
    let env = served.scenario.host().directory.join(".env");
    let text = std::fs::read_to_string(&env)?;
    for step in STEPS {
        let database = format!("shop_{step}");
        execute(&server.url, &format!("CREATE DATABASE {database}")).await?;
        let url = format!("{}{database}", server.url.trim_end_matches("postgres"));
        std::fs::write(&env, format!("{text}DATABASE_URL={url}\n"))?;
        let slow = stack(&served.scenario, &format!("slow-{step}"), &migration(kind, true)).await?;
        let counter = served.scenario.promote(&slow).await?;
        let at = format!("step {step}");
        let session = until(&format!("the migration is at {at}"), AT_STEP_LIMIT, async || {
            let query = "SELECT pid::text || ' ' || application_name FROM pg_stat_activity \
                         WHERE datname = current_database() AND pid <> pg_backend_pid()";
            let found = rows(&url, query).await?.into_iter().find(|row| row.ends_with(&at));
            found.and_then(|row| Some(row.split_once(' ')?.0.to_owned())).context("not yet")
        })
        .await?;
        match harm {
            Harm::SessionEnded => execute(&url, &format!("SELECT pg_terminate_backend({session})")).await?,
            Harm::ServerKilled => {
                server.kill()?;
                ensure!(PgConnection::connect(&url).await.is_err(), "a killed server answers");
                server.up().await?;
            }
        }
        fault.fired(format!("{harm:?} at {at}"));
        let outcome = served.scenario.terminal(0, counter).await?;
        ensure!(outcome.kind == OutcomeKind::DeployFailed, "{outcome:#?}");
        let code = outcome.reason.as_ref().map(|reason| reason.code);
        ensure!(code == Some(ReasonCode::MigrationFailed), "{outcome:#?}");
        served.scenario.assert_serves(if step == STEPS[0] { "v1" } else { "good" }).await?;
        if kind == Kind::NoTransaction {
            halted_until_resolved(&mut served.scenario).await?;
            execute(&url, "TRUNCATE runs").await?;
        }
        let quick = stack(&served.scenario, &format!("quick-{step}"), &migration(kind, false)).await?;
        served.scenario.succeed(&quick).await?;
        let found = rows(&url, "SELECT step::text FROM runs ORDER BY 1").await?;
        ensure!(found == ["1", "2"], "each statement once: {found:?}");
        served.assert_goes_on().await?;
        fault.survived()?;
    }
    assert_host_told(&served.scenario).await?;
    fault.end()
}

/// Nobody knows how far it came, so it is not run again until somebody has looked.
async fn halted_until_resolved(scenario: &mut Scenario) -> Result<()> {
    let again = stack(scenario, "again", &migration(Kind::NoTransaction, false)).await?;
    let outcome = scenario.deploy(&again).await?;
    let code = outcome.reason.as_ref().map(|reason| reason.code);
    ensure!(code == Some(ReasonCode::MigrationUnknown), "{outcome:#?}");
    let said = scenario.cli()?.run(&["migration", "resolve", "shop"]).await?;
    ensure!(said.code == 0, "{said:?}");
    Ok(())
}

#[tokio::test]
#[ignore = "a while: make faults"]
async fn postgresql_fails_during_each_statement_of_a_transaction() -> Result<()> {
    in_each_statement(Harm::SessionEnded, Kind::Transaction).await?;
    in_each_statement(Harm::ServerKilled, Kind::Transaction).await
}

#[tokio::test]
#[ignore = "a while: make faults"]
async fn postgresql_fails_during_each_statement_without_a_transaction() -> Result<()> {
    in_each_statement(Harm::SessionEnded, Kind::NoTransaction).await?;
    in_each_statement(Harm::ServerKilled, Kind::NoTransaction).await
}
