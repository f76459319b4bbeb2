//! Migrations of both kinds, before anything is swapped; and backups before them.

use anyhow::Result;
use landfall_schema::ids::Counter;
use landfall_schema::layout::LOCKS;
use landfall_schema::outcome::{OutcomeKind, ReasonCode};
use landfall_schema::promotion::Intent;
use landfall_schema::subject;
use landfall_tests::database::Database;
use landfall_tests::image::AppImage;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;

use crate::expect::{Served, ended};

const ORDERS: (&str, &str) = ("0001_create_orders.sql", "CREATE TABLE orders (id BIGINT PRIMARY KEY);");
const NOTE: (&str, &str) = ("0002_add_orders_note.sql", "ALTER TABLE orders ADD COLUMN note TEXT;");
const BROKEN: (&str, &str) = ("0002_broken.sql", "ALTER TABLE nowhere ADD COLUMN note TEXT;");
const FROM_ENV: &str = "migrations: {path: /migrations, url: \"${DATABASE_URL}\", database: shop}";

fn with(image: AppImage, files: &[(&str, &str)]) -> AppImage {
    files.iter().fold(image, |image, (name, sql)| image.migration(name, sql))
}

/// Adds a line to the `.env` of the first host.
fn set(scenario: &mut Scenario, name: &str, value: &str) -> Result<()> {
    let path = scenario.host().directory.join(".env");
    let text = std::fs::read_to_string(&path)?;
    Ok(std::fs::write(path, format!("{text}{name}={value}\n"))?)
}

#[tokio::test]
async fn sql_files_migrate_postgresql_once_each() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let database = Database::create(&scenario.lab).await?;
    set(&mut scenario, "DATABASE_URL", &database.url)?;
    let v1 = scenario.push("v1", with(AppImage::version("v1"), &[ORDERS])).await?;
    let v2 = scenario.push("v2", with(AppImage::version("v2"), &[ORDERS, NOTE])).await?;

    scenario.succeed(&Stack::app(&v1).app_settings(FROM_ENV)).await?;
    let applied = scenario.reaches(0, 1, OutcomeKind::MigrationApplied).await?.migrations;
    assert_eq!(applied.len(), 1, "{applied:?}");
    assert_eq!(applied[0].database, "shop");
    assert!(applied[0].description.contains("create orders"), "{applied:?}");

    scenario.succeed(&Stack::app(&v2).app_settings(FROM_ENV)).await?;
    let applied = scenario.reaches(0, 2, OutcomeKind::MigrationApplied).await?.migrations;
    assert!(applied.len() == 1 && applied[0].description.contains("add orders note"), "{applied:?}");
    scenario.assert_serves("v2").await?;

    let columns = "SELECT column_name::text FROM information_schema.columns WHERE table_name = 'orders' ORDER BY 1";
    assert_eq!(database.texts(columns).await?, ["id", "note"]);
    let kinds = scenario.outcomes.kinds("host-a", 2);
    let position = |kind| kinds.iter().position(|&found| found == kind).unwrap_or(usize::MAX);
    assert!(position(OutcomeKind::MigrationApplied) < position(OutcomeKind::StackUpdating), "{kinds:?}");

    // An older release is no promotion: its image does not know the schema any more.
    let older = Stack::app(&v1).app_settings(FROM_ENV);
    let outcome = scenario.deploy(&older).await?;
    ended(&outcome, OutcomeKind::DeployFailed, ReasonCode::MigrationFailed);
    scenario.assert_serves("v2").await?;
    // As a rollback it is one: the schema stays, and the newer migration in the database is no trouble.
    let mut back = scenario.draft(&older)?;
    back.event.data.intent = Intent::Rollback { to: Counter(1) };
    scenario.publish(&back).await?;
    let outcome = scenario.terminal(0, back.counter()).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeploySucceeded, "{outcome:#?}");
    scenario.assert_serves("v1").await?;
    assert_eq!(database.texts(columns).await?, ["id", "note"]);
    let published: String =
        scenario.outcomes.seen().iter().map(|published| String::from_utf8_lossy(&published.message.body)).collect();
    let password = database.url.split_once("landfall:").and_then(|(_, rest)| rest.split_once('@')).unwrap().0;
    assert!(!published.contains(password), "the database's password was published");
    assert!(!scenario.host().executor.whole_log()?.contains(password), "the database's password was logged");
    Ok(())
}

#[tokio::test]
async fn sql_files_migrate_sqlite() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let file = scenario.host().directory.join("shop.db");
    set(&mut scenario, "DATABASE_URL", &format!("sqlite://{}?mode=rwc", file.display()))?;
    let v1 = scenario.push("v1", with(AppImage::version("v1"), &[ORDERS])).await?;
    let v2 = scenario.push("v2", with(AppImage::version("v2"), &[ORDERS, NOTE])).await?;
    scenario.succeed(&Stack::app(&v1).app_settings(FROM_ENV)).await?;
    scenario.succeed(&Stack::app(&v2).app_settings(FROM_ENV)).await?;
    scenario.assert_serves("v2").await?;
    let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}", file.display())).await?;
    let columns: Vec<(String,)> =
        sqlx::query_as("SELECT name FROM pragma_table_info('orders') ORDER BY 1").fetch_all(&pool).await?;
    assert_eq!(columns, [("id".to_owned(),), ("note".to_owned(),)]);
    pool.close().await;
    Ok(())
}

#[tokio::test]
async fn a_sqlite_file_outside_of_the_stack_is_not_touched() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let file = scenario.folder().join("of-somebody-else.db");
    set(&mut scenario, "DATABASE_URL", &format!("sqlite://{}?mode=rwc", file.display()))?;
    let mut served = Served::over(scenario).await?;
    let v2 = served.scenario.push("v2", with(AppImage::version("v2"), &[ORDERS])).await?;
    served.assert_fails(&Stack::app(&v2).app_settings(FROM_ENV), ReasonCode::MigrationFailed).await?;
    assert!(!file.exists(), "the file was made");
    Ok(())
}

#[tokio::test]
async fn a_failing_sql_migration_touches_nothing() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let database = Database::create(&scenario.lab).await?;
    set(&mut scenario, "DATABASE_URL", &database.url)?;
    let mut served = Served::over(scenario).await?;
    let v2 = served.scenario.push("v2", with(AppImage::version("v2"), &[ORDERS, BROKEN])).await?;
    let reason = served.assert_fails(&Stack::app(&v2).app_settings(FROM_ENV), ReasonCode::MigrationFailed).await?;
    assert!(reason.message.contains("nowhere") || reason.message.contains("broken"), "{reason:#?}");
    let fixed = served.scenario.push("v3", with(AppImage::version("v3"), &[ORDERS, NOTE])).await?;
    served.scenario.succeed(&Stack::app(&fixed).app_settings(FROM_ENV)).await?;
    served.scenario.assert_serves("v3").await
}

#[tokio::test]
async fn a_migration_that_was_edited_after_it_was_applied_is_told() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let database = Database::create(&scenario.lab).await?;
    set(&mut scenario, "DATABASE_URL", &database.url)?;
    let v1 = scenario.push("v1", with(AppImage::version("v1"), &[ORDERS])).await?;
    scenario.succeed(&Stack::app(&v1).app_settings(FROM_ENV)).await?;
    let edited = ("0001_create_orders.sql", "CREATE TABLE orders (id TEXT PRIMARY KEY);");
    let v2 = scenario.push("v2", with(AppImage::version("v2"), &[edited])).await?;
    let outcome = scenario.deploy(&Stack::app(&v2).app_settings(FROM_ENV)).await?;
    ended(&outcome, OutcomeKind::DeployFailed, ReasonCode::MigrationFailed);
    scenario.assert_runs(&v1, "v1").await?;
    // The lock was given back: the next one does not wait for it.
    let v3 = scenario.push("v3", with(AppImage::version("v3"), &[ORDERS, NOTE])).await?;
    scenario.succeed(&Stack::app(&v3).app_settings(FROM_ENV)).await?;
    scenario.assert_serves("v3").await
}

#[tokio::test]
async fn a_database_that_is_away_fails_the_migration() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    set(&mut scenario, "DATABASE_URL", "postgres://shop:pa55word@127.0.0.1:1/shop")?;
    let mut served = Served::over(scenario).await?;
    let v2 = served.scenario.push("v2", with(AppImage::version("v2"), &[ORDERS])).await?;
    let settings = format!("{FROM_ENV}\ndeadline_ms: 2000");
    let reason = served.assert_fails(&Stack::app(&v2).app_settings(&settings), ReasonCode::MigrationFailed).await?;
    assert!(!reason.message.contains("pa55word"), "{reason:#?}");
    Ok(())
}

#[tokio::test]
async fn a_migrator_service_runs_before_the_swap() -> Result<()> {
    let mut served = Served::v1().await?;
    let directory = served.scenario.host().directory.clone();
    std::fs::create_dir_all(directory.join("data"))?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let migrator = served
        .scenario
        .push("migrator", AppImage::version("m").script("date > /data/migrated; echo 3 migrations applied"))
        .await?;
    let stack =
        Stack::app(&v2).app_lines("depends_on: {migrator: {condition: service_completed_successfully}}").service(
            "migrator",
            &migrator,
            "init: true\nrestart: \"no\"\nvolumes: [./data:/data]",
            "role: migrate\ndatabase: shop",
        );
    served.scenario.succeed(&stack).await?;
    let applied = served.scenario.reaches(0, 2, OutcomeKind::MigrationApplied).await?.migrations;
    assert_eq!(applied[0].database, "shop");
    assert!(applied[0].description.contains("3 migrations applied"), "{applied:?}");
    assert!(directory.join("data/migrated").exists());
    served.scenario.assert_runs(&v2, "v2").await?;
    let project = served.scenario.host().project.clone();
    let services: Vec<String> = served.scenario.engine.running_digests(&project)?.into_keys().collect();
    assert_eq!(services, ["app"]);
    Ok(())
}

#[tokio::test]
async fn a_failing_migrator_service_touches_nothing() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let migrator =
        served.scenario.push("migrator", AppImage::version("m").script("echo relation exists already; exit 7")).await?;
    let stack = Stack::app(&v2).service("migrator", &migrator, "init: true", "role: migrate");
    let reason = served.assert_fails(&stack, ReasonCode::MigrationFailed).await?;
    assert!(
        reason.logs.iter().flat_map(|tail| &tail.lines).any(|line| line.contains("relation exists")),
        "{reason:#?}"
    );
    served.assert_goes_on().await
}

#[tokio::test]
async fn a_migrator_service_that_hangs_is_ended() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let migrator = served.scenario.push("migrator", AppImage::version("m").script("exec sleep 600")).await?;
    let settings = "role: migrate\ndeadline_ms: 1500";
    let stack = Stack::app(&v2).service("migrator", &migrator, "init: true\nstop_grace_period: 1s", settings);
    let reason = served.assert_fails(&stack, ReasonCode::MigrationUnknown).await?;
    assert!(reason.message.contains("was stopped"), "{reason:#?}");
    let project = served.scenario.host().project.clone();
    let running = served.scenario.engine.running_digests(&project)?;
    assert_eq!(running.into_keys().collect::<Vec<_>>(), ["app"], "the migrator still runs");
    // It was in the middle of something, so nobody runs it again before somebody has looked.
    served.assert_fails(&stack, ReasonCode::MigrationUnknown).await?;
    let said = served.scenario.cli()?.run(&["migration", "resolve", "shop.migrator", "--host", "host-a"]).await?;
    assert_ne!(said.code, 0, "the database is no host's own: {said:?}");
    let said = served.scenario.cli()?.run(&["migration", "resolve", "shop.migrator"]).await?;
    assert_eq!(said.code, 0, "{said:?}");
    let quick = served.scenario.push("quick", AppImage::version("m").script("echo applied")).await?;
    served.scenario.succeed(&Stack::app(&v2).service("migrator", &quick, "init: true", "role: migrate")).await?;
    served.scenario.assert_serves("v2").await
}

#[tokio::test]
async fn junk_in_place_of_a_lease_stops_the_migration_until_somebody_has_looked() -> Result<()> {
    let mut served = Served::v1().await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let migrator = served.scenario.push("migrator", AppImage::version("m").script("echo applied")).await?;
    let stack = Stack::app(&v2).service("migrator", &migrator, "init: true", "role: migrate");
    // It could stand where "somebody has to look" stood.
    let key = subject::migration_key(&served.scenario.env, "shop.migrator", None);
    served.scenario.bus.write_entry(LOCKS, &key, "junk".into(), 0).await?;
    let reason = served.assert_fails(&stack, ReasonCode::MigrationUnknown).await?;
    assert!(reason.hint.unwrap_or_default().contains("landfall migration resolve shop.migrator --env test --force"));
    let cli = served.scenario.cli()?;
    for (args, code) in [(vec!["show"], 1), (vec!["resolve"], 1), (vec!["resolve", "--force"], 0)] {
        let args: Vec<&str> = ["migration"].into_iter().chain(args).chain(["shop.migrator"]).collect();
        let said = cli.run(&args).await?;
        assert_eq!(said.code, code, "{args:?}: {said:?}");
    }
    served.scenario.succeed(&stack).await?;
    served.scenario.assert_serves("v2").await
}

#[tokio::test]
async fn a_backup_runs_before_the_migration() -> Result<()> {
    let mut served = Served::v1().await?;
    let directory = served.scenario.host().directory.clone();
    std::fs::create_dir_all(directory.join("data"))?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let backup = served.scenario.push("backup", AppImage::version("b").script("echo backup >> /data/order")).await?;
    let migrator =
        served.scenario.push("migrator", AppImage::version("m").script("echo migration >> /data/order")).await?;
    let stack = Stack::app(&v2)
        .service("backup", &backup, "init: true\nvolumes: [./data:/data]", "role: backup")
        .service("migrator", &migrator, "init: true\nvolumes: [./data:/data]", "role: migrate");
    served.scenario.succeed(&stack).await?;
    assert_eq!(std::fs::read_to_string(directory.join("data/order"))?, "backup\nmigration\n");
    let kinds = served.scenario.outcomes.kinds("host-a", 2);
    assert!(kinds.contains(&OutcomeKind::BackupTaken), "{kinds:?}");
    served.scenario.assert_serves("v2").await
}

#[tokio::test]
async fn a_backup_command_runs_in_the_running_container() -> Result<()> {
    let mut served = Served::v1().await?;
    let directory = served.scenario.host().directory.clone();
    std::fs::create_dir_all(directory.join("data"))?;
    let database = served.scenario.push("database", AppImage::version("db").script("exec sleep 1000000")).await?;
    let migrator =
        served.scenario.push("migrator", AppImage::version("m").script("echo migration >> /data/order")).await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let stack = |backup: &str| {
        Stack::app(&v2)
            .service(
                "db",
                &database,
                "init: true\nstop_grace_period: 1s\nvolumes: [./data:/data]",
                &format!("backup: [sh, -c, \"{backup}\"]"),
            )
            .service("migrator", &migrator, "init: true\nvolumes: [./data:/data]", "role: migrate")
    };
    // The former release had no such service, so there is nothing to save.
    served.scenario.succeed(&stack("echo backup >> /data/order")).await?;
    std::fs::remove_file(directory.join("data/order"))?;
    served.scenario.succeed(&stack("echo backup >> /data/order").app_lines("environment: {NEXT: \"1\"}")).await?;
    assert_eq!(std::fs::read_to_string(directory.join("data/order"))?, "backup\nmigration\n");

    std::fs::remove_file(directory.join("data/order"))?;
    let before = served.scenario.container()?;
    let outcome =
        served.scenario.deploy(&stack("echo no space left; exit 1").app_lines("environment: {NEXT: \"2\"}")).await?;
    ended(&outcome, OutcomeKind::DeployFailed, ReasonCode::BackupFailed);
    assert!(!directory.join("data/order").exists(), "the migration ran although the backup failed");
    assert_eq!(served.scenario.container()?, before);
    served.scenario.assert_serves("v2").await
}

#[tokio::test]
async fn a_failing_backup_service_stops_the_deploy() -> Result<()> {
    let mut served = Served::v1().await?;
    let directory = served.scenario.host().directory.clone();
    std::fs::create_dir_all(directory.join("data"))?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let backup =
        served.scenario.push("backup", AppImage::version("b").script("echo no space left on device; exit 1")).await?;
    let migrator =
        served.scenario.push("migrator", AppImage::version("m").script("echo migration >> /data/order")).await?;
    let stack = Stack::app(&v2).service("backup", &backup, "init: true", "role: backup").service(
        "migrator",
        &migrator,
        "init: true\nvolumes: [./data:/data]",
        "role: migrate",
    );
    let reason = served.assert_fails(&stack, ReasonCode::BackupFailed).await?;
    assert!(reason.logs.iter().flat_map(|tail| &tail.lines).any(|line| line.contains("no space left")), "{reason:#?}");
    assert!(!directory.join("data/order").exists(), "the migration ran although the backup failed");
    Ok(())
}

/// The database as a service of the stack, which most stacks have: a relay to the lab's PostgreSQL, with a health check.
async fn with_database_service(scenario: &mut Scenario, stack: Stack) -> Result<Stack> {
    let port = scenario.lab.postgres_gateway_url.rsplit_once(':').and_then(|(_, rest)| rest.split_once('/')).unwrap().0;
    let relay = format!("touch /up; exec nc -ll -p 5432 -e /bin/nc {} {port}", scenario.lab.gateway);
    let relay = scenario.push("relay", AppImage::version("relay").script(&relay)).await?;
    let lines = "init: true\nstop_grace_period: 1s\nhealthcheck: {test: [CMD, test, -e, /up], interval: 100ms, timeout: 1s, retries: 50}";
    Ok(stack.service("db", &relay, lines, ""))
}

/// The URL by which this stack's services reach the database.
fn by_service(database: &Database) -> String {
    let (login, path) = database.url.rsplit_once('@').unwrap();
    format!("{login}@db:5432/{}", path.rsplit_once('/').unwrap().1)
}

#[tokio::test]
async fn a_database_of_the_stack_is_started_before_it_is_migrated() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let database = Database::create(&scenario.lab).await?;
    set(&mut scenario, "DATABASE_URL", &by_service(&database))?;
    let v1 = scenario.push("v1", with(AppImage::version("v1"), &[ORDERS])).await?;
    let app = Stack::app(&v1).app_settings(FROM_ENV).app_lines("depends_on: {db: {condition: service_healthy}}");
    let stack = with_database_service(&mut scenario, app).await?;
    scenario.succeed(&stack).await?;
    let applied = scenario.reaches(0, 1, OutcomeKind::MigrationApplied).await?.migrations;
    assert_eq!(applied.len(), 1, "{applied:?}");
    scenario.assert_serves("v1").await?;

    // The next release migrates while the same database container goes on.
    let project = scenario.host().project.clone();
    let before = scenario.engine.container_id(&project, "db")?;
    let v2 = scenario.push("v2", with(AppImage::version("v2"), &[ORDERS, NOTE])).await?;
    let app = Stack::app(&v2).app_settings(FROM_ENV).app_lines("depends_on: {db: {condition: service_healthy}}");
    let stack = with_database_service(&mut scenario, app).await?;
    scenario.succeed(&stack).await?;
    scenario.assert_serves("v2").await?;
    assert_eq!(scenario.engine.container_id(&project, "db")?, before, "the database was replaced");
    Ok(())
}

#[tokio::test]
async fn a_migrator_service_finds_its_database_up() -> Result<()> {
    let mut scenario = Scenario::start().await?;
    let v1 = scenario.push("v1", AppImage::version("v1")).await?;
    let migrator =
        scenario.push("migrator", AppImage::version("m").script("nc db 5432 </dev/null && echo done")).await?;
    let app = Stack::app(&v1).app_lines(
        "depends_on: {db: {condition: service_healthy}, migrator: {condition: service_completed_successfully}}",
    );
    let stack = with_database_service(&mut scenario, app).await?.service(
        "migrator",
        &migrator,
        "init: true\nrestart: \"no\"\ndepends_on: {db: {condition: service_healthy}}",
        "role: migrate",
    );
    scenario.succeed(&stack).await?;
    scenario.assert_serves("v1").await
}
