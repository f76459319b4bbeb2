//! Backups and migrations, of both kinds.

use std::time::Duration;

use landfall_deploy::{Effect, Evidence};
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::promotion::Intent;

use crate::lab::{App, Release, docker, image, required};

const STACK: &str = r#"
services:
  app:
    image: ${APP_IMAGE}
    init: true
    command: [sleep, "1000"]
    depends_on: {migrator: {condition: service_completed_successfully}, db: {condition: service_started}}
  db:
    image: x
    init: true
    command: [sh, -c, "touch /tmp/ready; sleep 1000"]
    volumes: ["data:/data"]
    x-landfall: {backup: [sh, -c, "echo dumping; echo saved > /data/dump"]}
  migrator:
    image: x
    restart: "no"
    volumes: ["data:/data"]
    command: [sh, -c, "echo step >> /data/steps; echo applied all"]
    depends_on: {db: {condition: service_started}}
    x-landfall: {role: migrate, database: shop}
  keeper:
    image: x
    command: [echo, kept]
    x-landfall: {role: backup}
volumes: {data: {}}
"#;

fn stack(compose: &str) -> Release {
    let image = image("migrated", &[]);
    Release::new(compose, &["app", "db", "migrator", "keeper"].map(|name| (name, &image)))
}

#[tokio::test]
async fn a_migrator_service_runs_once_before_the_swap() {
    let mut app = App::new();
    let order = app.order(&stack(STACK));
    let observed = app.observe(&order).await.unwrap();
    assert!(observed.has_migrations && observed.has_backup);
    assert_eq!(observed.services, ["app", "db"].map(|name| name.parse().unwrap()));
    app.carry_out(Effect::Pull, &order).await.unwrap();
    assert_eq!(
        app.carry_out(Effect::Backup, &order).await.unwrap(),
        Evidence::BackedUp { by: vec!["keeper".to_owned()] }
    );

    let Evidence::Migrated { applied, .. } = app.carry_out(Effect::Migrate, &order).await.unwrap() else {
        panic!("not migrated")
    };
    assert_eq!((applied[0].database.as_str(), applied[0].description.as_str()), ("shop", "applied all"));
    // Only what the migration needs was started; the application was not.
    assert_eq!(app.containers(), ["db running", "migrator exited"]);
    // After a crash the finished run counts; it is not begun again.
    app.restart();
    app.carry_out(Effect::Migrate, &order).await.unwrap();
    app.carry_out(Effect::Update, &order).await.unwrap();
    app.carry_out(Effect::Prove, &order).await.unwrap();
    let db = format!("{}-db-1", app.project);
    assert_eq!(docker(&["exec", &db, "cat", "/data/steps"]), "step");
    app.commit(&order).await;
    assert_eq!(app.containers(), ["app running", "db running"]);

    // The next release: now the backup command has something to run in.
    let order = app.order(&stack(STACK));
    app.observe(&order).await.unwrap();
    app.carry_out(Effect::Pull, &order).await.unwrap();
    let backed_up = app.carry_out(Effect::Backup, &order).await.unwrap();
    assert_eq!(backed_up, Evidence::BackedUp { by: vec!["keeper".to_owned(), "db".to_owned()] });
    assert_eq!(docker(&["exec", &db, "cat", "/data/dump"]), "saved");

    let rollback = Release { intent: Intent::Rollback { to: order.promotion.counter }, ..stack(STACK) };
    let order = app.order(&rollback);
    let observed = app.observe(&order).await.unwrap();
    assert!(!observed.has_migrations && !observed.has_backup);
}

#[tokio::test]
async fn failures_are_told_with_their_logs() {
    let mut app = App::new();
    let mut step = async |from: &str, to: &str, effect: Effect| -> Reason {
        let order = app.order(&stack(&STACK.replace(from, to)));
        app.observe(&order).await.unwrap();
        app.carry_out(Effect::Pull, &order).await.unwrap();
        app.carry_out(effect, &order).await.unwrap_err()
    };
    let reason = step("echo applied all", "echo broken column; exit 4", Effect::Migrate).await;
    assert_eq!(reason.code, ReasonCode::MigrationFailed);
    assert_eq!(reason.message, "migration of service migrator failed with code 4: broken column");
    assert_eq!(reason.logs[0].lines, ["broken column"]);
    let reason = step("[echo, kept]", "[sh, -c, 'echo disk is full; exit 1']", Effect::Backup).await;
    assert_eq!(reason.code, ReasonCode::BackupFailed);
    assert_eq!(reason.message, "backup of service keeper failed with code 1: disk is full");
    let reason = step("echo saved > /data/dump", "exit 9", Effect::Backup).await;
    assert_eq!(reason.message, "the backup command of service db failed with code 9: dumping");
    let reason = step(
        "{role: migrate, database: shop}",
        "{role: migrate, deadline_ms: 500}\n    init: true\n    entrypoint: [sh, -c, 'sleep 60']",
        Effect::Migrate,
    )
    .await;
    assert!(reason.message.contains("did not end within"), "{}", reason.message);
    // The runs that ended by themselves are kept until the next commit, for whoever looks into it.
    assert_eq!(app.containers(), ["db running", "migrator exited"]);
}

fn sql_stack(url: &str) -> String {
    format!(
        "services: {{app: {{image: x, init: true, x-landfall: {{migrations: {{path: /migrations/, url: '{url}', database: shop}}}}}}}}"
    )
}

const ONE: (&str, &str) = ("migrations/0001_create_orders.sql", "CREATE TABLE orders (id BIGINT PRIMARY KEY);");
const TWO: (&str, &str) = ("migrations/0002_add_note.sql", "ALTER TABLE orders ADD COLUMN note TEXT;");
const BROKEN: (&str, &str) = ("migrations/0003_broken.sql", "ALTER TABLE nowhere ADD COLUMN note TEXT;");
const CHANGED: (&str, &str) = ("migrations/0001_create_orders.sql", "CREATE TABLE orders (id INT PRIMARY KEY);");

/// Applies the migrations of each image in turn; what is applied, or why it failed.
async fn migrate_in_turn(url: &str, images: &[&[(&str, &str)]]) -> Vec<Result<Vec<String>, String>> {
    let mut app = App::new();
    let mut told = Vec::new();
    for files in images {
        let image = image("sql", files);
        let order = app.order(&Release::new(&sql_stack(url), &[("app", &image)]));
        assert!(app.observe(&order).await.unwrap().has_migrations);
        app.carry_out(Effect::Pull, &order).await.unwrap();
        told.push(match app.carry_out(Effect::Migrate, &order).await {
            Ok(Evidence::Migrated { applied, .. }) => Ok(applied.into_iter().map(|one| one.description).collect()),
            Ok(other) => panic!("{other:?}"),
            Err(reason) => {
                assert_eq!(reason.code, ReasonCode::MigrationFailed);
                Err(reason.message)
            }
        });
    }
    told
}

async fn check_sql(url: &str) {
    let told =
        migrate_in_turn(url, &[&[ONE], &[ONE, TWO], &[ONE, TWO], &[ONE, TWO, BROKEN], &[ONE], &[CHANGED, TWO], &[]])
            .await;
    let applied = |descriptions: &[&str]| Ok(descriptions.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
    assert_eq!(told[..3], [applied(&["1 create orders"]), applied(&["2 add note"]), applied(&[])]);
    let failed: Vec<&str> = told[3..].iter().map(|result| result.as_ref().unwrap_err().as_str()).collect();
    assert!(
        failed[0].starts_with("migrating shop: migration 3 failed: ") && failed[0].contains("nowhere"),
        "{}",
        failed[0]
    );
    assert_eq!(failed[1], "migrating shop: the database has migration 2, which this release does not know");
    assert_eq!(failed[2], "migrating shop: migration 1 was changed after it was applied");
    assert_eq!(failed[3], "migrating shop: the image of service app has no /migrations/");
}

#[tokio::test]
async fn sql_files_on_sqlite() {
    check_sql("sqlite://shop.db").await;
}

/// A database of its own on the lab's server.
async fn own_database(name: &str) -> String {
    use sqlx::{AssertSqlSafe, Connection, PgConnection};
    let server = required("LANDFALL_LAB_POSTGRES_URL");
    let name = format!("{name}_{}", std::process::id());
    let mut connection = PgConnection::connect(&server).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.unwrap();
    let (base, _) = server.rsplit_once('/').unwrap();
    format!("{base}/{name}")
}

#[tokio::test]
async fn sql_files_on_postgres() {
    check_sql(&own_database("hands_sql").await).await;
}

#[tokio::test]
async fn a_locked_database_is_not_waited_for_forever() {
    use sqlx::{Connection, PgConnection};
    let url = own_database("hands_lock").await;
    let mut holder = PgConnection::connect(&url).await.unwrap();
    let mut app = App::new();
    let image = image("sql", &[ONE]);
    let order = app.order(&Release::new(&sql_stack(&url), &[("app", &image)]));
    app.observe(&order).await.unwrap();
    app.carry_out(Effect::Pull, &order).await.unwrap();
    // Whoever migrates holds the lock; here everything that could be its key is tried by being first.
    let other = app.order(&Release::new(&sql_stack(&url), &[("app", &image)]));
    app.observe(&other).await.unwrap();
    let key: i64 = {
        app.carry_out(Effect::Migrate, &order).await.unwrap();
        let digest = landfall_schema::ids::Digest::of(b"landfall.migrate.shop");
        i64::from_str_radix(&digest.as_str()["sha256:".len()..][..15], 16).unwrap()
    };
    sqlx::query("SELECT pg_advisory_lock($1)").bind(key).execute(&mut holder).await.unwrap();
    let reason = app.carry_out_within(Effect::Migrate, &other, Duration::from_secs(4)).await.unwrap_err();
    assert_eq!(reason.message, "migrating shop: another migration of this database holds the lock");
    holder.close().await.unwrap();
    app.carry_out(Effect::Migrate, &other).await.unwrap();
}
