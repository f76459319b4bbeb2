//! A database is migrated once per release, whichever host does it, and whatever becomes of that host.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use landfall_schema::ids::Counter;
use landfall_schema::outcome::{OutcomeKind, ReasonCode};
use landfall_schema::promotion::{Intent, SchemaPromise, Wave};
use landfall_tests::database::Database;
use landfall_tests::image::AppImage;
use landfall_tests::process::until;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::expect::ended;

const ORDERS: (&str, &str) = ("0001_create_orders.sql", "CREATE TABLE orders (id BIGINT PRIMARY KEY);");
const FROM_ENV: &str = "migrations: {path: /migrations, url: \"${DATABASE_URL}\", database: shop}";
/// For something that a migration of a few seconds does.
const RUNNING_LIMIT: Duration = Duration::from_secs(20);

/// Hosts that share one database.
async fn sharing(hosts: &[&str]) -> Result<(Scenario, Database)> {
    let mut scenario = Scenario::without_hosts().await?;
    let database = Database::create(&scenario.lab).await?;
    for name in hosts {
        scenario.add_host(name, |_| {}).await?;
        let path = scenario.hosts[scenario.hosts.len() - 1].directory.join(".env");
        let text = std::fs::read_to_string(&path)?;
        std::fs::write(path, format!("{text}DATABASE_URL={}\n", database.url))?;
    }
    Ok((scenario, database))
}

async fn with(scenario: &Scenario, version: &str, files: &[(&str, &str)]) -> Result<Stack> {
    let image = files.iter().fold(AppImage::version(version), |image, (name, sql)| image.migration(name, sql));
    Ok(Stack::app(&scenario.push(version, image).await?).app_settings(FROM_ENV))
}

async fn run(database: &Database, sql: &str) -> Result<()> {
    let mut connection = PgConnection::connect(&database.url).await?;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
    Ok(connection.close().await?)
}

/// Which host migrates, as soon as one does.
async fn runner(scenario: &Scenario, database: &Database) -> Result<usize> {
    let mut holder = None;
    until("a host migrates", RUNNING_LIMIT, async || {
        let held = database.texts("SELECT holder FROM _landfall_fence WHERE state = 'running'").await?;
        holder = Some(held.into_iter().next().context("nobody yet")?);
        Ok(())
    })
    .await?;
    scenario.hosts.iter().position(|host| Some(host.name.as_str()) == holder.as_deref()).context("a stranger")
}

#[tokio::test]
async fn one_of_four_hosts_migrates_and_the_others_say_who() -> Result<()> {
    let (mut scenario, database) = sharing(&["host-a", "host-b", "host-c", "host-d"]).await?;
    // Run twice it would fail, and beside another run as well.
    let stack =
        with(&scenario, "v1", &[("0001_slow.sql", "SELECT pg_sleep(1); CREATE TABLE orders (id int);")]).await?;
    scenario.succeed(&stack).await?;
    let mut by = Vec::new();
    for host in 0..4 {
        let told = scenario.reaches(host, 1, OutcomeKind::MigrationApplied).await?;
        if told.migrations.is_empty() {
            by.push(told.message.clone());
        } else {
            assert_eq!(told.migrations[0].description, "1 slow");
        }
    }
    let fence = database.texts("SELECT holder || ' ' || state || ' ' || token FROM _landfall_fence").await?;
    let holder = fence[0].strip_suffix(" done 1").with_context(|| format!("{fence:?}"))?;
    assert_eq!(by, vec![format!("shop: migrated by {holder}"); 3]);
    scenario.assert_serves("v1").await
}

#[tokio::test]
async fn another_host_takes_over_when_the_runner_is_killed() -> Result<()> {
    let (mut scenario, database) = sharing(&["host-a", "host-b"]).await?;
    let slow = "CREATE TABLE runs (at timestamptz DEFAULT clock_timestamp()); INSERT INTO runs DEFAULT VALUES; SELECT pg_sleep(4);";
    let stack = with(&scenario, "v1", &[ORDERS, ("0002_slow.sql", slow)]).await?;
    let counter = scenario.promote(&stack).await?;
    let killed = runner(&scenario, &database).await?;
    until("the first migration is applied", RUNNING_LIMIT, async || {
        ensure!(!database.texts("SELECT version::text FROM _sqlx_migrations").await?.is_empty(), "not yet");
        Ok(())
    })
    .await?;
    scenario.hosts[killed].executor.kill();
    let outcome = scenario.terminal(1 - killed, counter).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    let applied = scenario.reaches(1 - killed, counter, OutcomeKind::MigrationApplied).await?.migrations;
    assert_eq!(applied.iter().map(|one| one.description.as_str()).collect::<Vec<_>>(), ["2 slow"]);
    assert_eq!(database.texts("SELECT count(*)::text FROM runs").await?, ["1"]);
    scenario.start_executor(killed).await?;
    let outcome = scenario.terminal(killed, counter).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    assert_eq!(database.texts("SELECT count(*)::text FROM runs").await?, ["1"]);
    Ok(())
}

#[tokio::test]
async fn a_migrator_of_which_nobody_knows_how_far_it_came_halts_until_somebody_has_looked() -> Result<()> {
    let (mut scenario, _database) = sharing(&["host-a", "host-b"]).await?;
    scenario.deploy_v1().await?;
    let v2 = scenario.push("v2", AppImage::version("v2")).await?;
    let slow = scenario.push("slow", AppImage::version("m").script("exec sleep 600")).await?;
    let quick = scenario.push("quick", AppImage::version("m").script("echo all applied")).await?;
    let stack = |migrator| {
        let lines = "init: true\nstop_grace_period: 1s";
        Stack::app(&v2).service("migrator", migrator, lines, "role: migrate\ndatabase: shop")
    };
    let counter = scenario.promote(&stack(&slow)).await?;
    let mut killed = None;
    until("a migrator runs", RUNNING_LIMIT, async || {
        let runs = |host: &landfall_tests::scenario::Host| {
            let name = format!("name=landfall-{}-{counter}-migrator-migration", host.project);
            Ok::<_, anyhow::Error>(!scenario.engine.docker(&["ps", "-q", "--filter", &name])?.trim().is_empty())
        };
        killed = scenario.hosts.iter().position(|host| runs(host).unwrap_or(false));
        killed.map(drop).context("none")
    })
    .await?;
    let killed = killed.context("no migrator runs")?;
    let other = 1 - killed;
    scenario.hosts[killed].executor.kill();
    let before = scenario.engine.container_id(&scenario.hosts[other].project, "app")?;
    let outcome = scenario.terminal(other, counter).await?;
    let reason = ended(&outcome, OutcomeKind::DeployFailed, ReasonCode::MigrationUnknown);
    assert!(reason.message.contains(scenario.hosts[killed].name.as_str()), "{reason:#?}");
    assert!(reason.hint.unwrap_or_default().contains("landfall migration resolve shop --env test"));
    assert_eq!(scenario.engine.container_id(&scenario.hosts[other].project, "app")?, before, "it was swapped");

    // The next promotion does not run it again either.
    let counter = scenario.promote(&stack(&quick)).await?;
    ended(&scenario.terminal(other, counter).await?, OutcomeKind::DeployFailed, ReasonCode::MigrationUnknown);
    let said = scenario.cli()?.run(&["migration", "resolve", "shop"]).await?;
    assert_eq!(said.code, 0, "{said:?}");
    let counter = scenario.promote(&stack(&quick)).await?;
    let outcome = scenario.terminal(other, counter).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    Ok(())
}

/// Each promotion is for one host alone, which knows no key but its own.
#[tokio::test]
async fn hosts_that_take_turns_migrate_one_database() -> Result<()> {
    let (mut scenario, _database) = sharing(&["host-a", "host-b"]).await?;
    scenario.deploy_v1().await?;
    let v2 = scenario.push("v2", AppImage::version("v2")).await?;
    let migrator = scenario.push("quick", AppImage::version("m").script("echo all applied")).await?;
    let stack = Stack::app(&v2).service("migrator", &migrator, "init: true", "role: migrate\ndatabase: shop");
    for host in [0, 1, 0] {
        let mut draft = scenario.draft(&stack)?;
        let plan = &mut draft.event.data.plan;
        plan.waves = vec![Wave::of(vec![scenario.hosts[host].name.clone()])];
        plan.only_named = true;
        scenario.publish(&draft).await?;
        let outcome = scenario.terminal(host, draft.counter()).await?;
        assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
        let applied = scenario.reaches(host, draft.counter(), OutcomeKind::MigrationApplied).await?;
        assert_eq!(applied.migrations.len(), 1, "{applied:#?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_runner_that_was_fenced_off_applies_nothing_any_more() -> Result<()> {
    let (mut scenario, database) = sharing(&["host-a"]).await?;
    let late = ("0002_late.sql", "CREATE TABLE late (id int);");
    let stack = with(&scenario, "v1", &[("0001_slow.sql", "SELECT pg_sleep(2);"), late]).await?;
    let counter = scenario.promote(&stack).await?;
    until("the first migration runs", RUNNING_LIMIT, async || {
        let running = "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' \
                       AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()";
        ensure!(!database.texts(running).await?.is_empty(), "not yet");
        Ok(())
    })
    .await?;
    // Waits for the migration under way, and comes before the next.
    run(&database, "UPDATE _landfall_fence SET token = token + 1, holder = 'host-z'").await?;
    let reason = ended(&scenario.terminal(0, counter).await?, OutcomeKind::DeployFailed, ReasonCode::MigrationFailed);
    assert!(reason.message.contains("fenced it off"), "{reason:#?}");
    assert_eq!(database.texts("SELECT version::text FROM _sqlx_migrations").await?, ["1"]);
    assert_eq!(database.texts("SELECT to_regclass('late') IS NULL || ''").await?, ["true"]);
    Ok(())
}

#[tokio::test]
async fn statements_and_locks_are_not_waited_for_longer_than_the_settings_say() -> Result<()> {
    let (mut scenario, database) = sharing(&["host-a"]).await?;
    let stack = with(&scenario, "v1", &[ORDERS]).await?;
    scenario.succeed(&stack).await?;
    let mut holder = PgConnection::connect(&database.url).await?;
    let mut held = holder.begin().await?;
    sqlx::raw_sql("LOCK TABLE orders IN ACCESS SHARE MODE").execute(&mut *held).await?;
    let alter = ("0002_note.sql", "ALTER TABLE orders ADD COLUMN note TEXT;");
    let v2 = with(&scenario, "v2", &[ORDERS, alter]).await?.app_settings("lock_timeout_ms: 300");
    let reason = ended(&scenario.deploy(&v2).await?, OutcomeKind::DeployFailed, ReasonCode::MigrationFailed);
    assert!(reason.message.contains("lock timeout"), "{reason:#?}");
    held.rollback().await?;
    let slow = ("0002_slow.sql", "SELECT pg_sleep(20);");
    let v3 = with(&scenario, "v3", &[ORDERS, slow]).await?.app_settings("statement_timeout_ms: 300");
    let reason = ended(&scenario.deploy(&v3).await?, OutcomeKind::DeployFailed, ReasonCode::MigrationFailed);
    assert!(reason.message.contains("statement timeout"), "{reason:#?}");
    scenario.assert_serves("v1").await
}

#[tokio::test]
async fn a_release_that_the_schema_does_not_serve_any_more_is_refused() -> Result<()> {
    let (mut scenario, _database) = sharing(&["host-a"]).await?;
    let old = with(&scenario, "v1", &[ORDERS]).await?;
    let new = with(&scenario, "v2", &[ORDERS, ("0002_drop.sql", "ALTER TABLE orders DROP COLUMN id;")]).await?;
    let mut release = async |stack: &Stack, name: &str, serves: Option<&str>, intent: Intent| {
        let mut draft = scenario.draft(stack)?;
        draft.event.data.release = name.parse()?;
        draft.event.data.schema = serves.map(|serves| SchemaPromise { compatible_with: serves.to_owned() });
        draft.event.data.intent = intent;
        scenario.publish(&draft).await?;
        scenario.terminal(0, draft.counter()).await
    };
    let outcome = release(&old, "1.3.0", None, Intent::Promote).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    let outcome = release(&new, "1.5.0", Some(">= 1.4"), Intent::Promote).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    let outcome = release(&old, "1.3.0", None, Intent::Rollback { to: Counter(1) }).await?;
    let reason = ended(&outcome, OutcomeKind::DeployRefused, ReasonCode::SchemaTooNew);
    assert!(reason.message.contains("2 drop") && reason.message.contains("1.5.0"), "{reason:#?}");
    let told = scenario.reaches(0, 2, OutcomeKind::MigrationApplied).await?;
    assert!(told.message.contains("warning") && told.message.contains("drops column id of orders"), "{}", told.message);
    let verified = scenario.reaches(0, 2, OutcomeKind::ReleaseVerified).await?;
    assert!(verified.message.contains("1.3.0 comes back"), "{}", verified.message);

    let said = scenario.cli()?.run(&["rollback", "shop", "--to", "1.3.0"]).await?;
    assert_eq!(said.code, 6, "{said:?}");
    let words = said.stderr.clone();
    assert!(words.contains("2 drop") && words.contains("1.5.0"), "{words}");
    scenario.assert_serves("v2").await
}
