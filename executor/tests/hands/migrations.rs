//! Backups and migrations, of both kinds.

use std::time::Duration;

use landfall_deploy::{Effect, Evidence, Order};
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
    assert_eq!(reason.code, ReasonCode::MigrationUnknown);
    assert!(reason.message.contains("did not end within"), "{}", reason.message);
    let hint = reason.hint.unwrap();
    assert!(hint.contains("landfall migration resolve shop.migrator") && hint.contains("deadline_ms"), "{hint}");
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

#[tokio::test]
async fn older_sql_files_on_sqlite_after_newer_ones() {
    check_older("sqlite://shop.db").await;
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

const OTHER_TWO: (&str, &str) = ("migrations/0002_other.sql", "ALTER TABLE orders ADD COLUMN other TEXT;");
const THREE: (&str, &str) = ("migrations/0003_drop_note.sql", "ALTER TABLE orders DROP COLUMN note;");

/// Promotions in the order of their counters, of which the newest ones migrate first: what becomes of the others.
async fn check_older(url: &str) {
    let mut app = App::new();
    let mut order =
        |files: &[(&str, &str)]| app.order(&Release::new(&sql_stack(url), &[("app", &image("sql", files))]));
    let (older, stranger, newer) = (order(&[ONE]), order(&[ONE, OTHER_TWO]), order(&[ONE, TWO, THREE]));
    let broken = order(&[ONE, TWO, THREE, ("migrations/0004_broken.sql", "ALTER TABLE nowhere ADD COLUMN note TEXT;")]);
    let mut migrate = async |order: &Order| {
        app.observe(order).await.unwrap();
        app.carry_out(Effect::Pull, order).await.unwrap();
        match app.carry_out(Effect::Migrate, order).await {
            Ok(Evidence::Migrated { applied, notes }) => Ok((applied.len(), notes)),
            Ok(other) => panic!("{other:?}"),
            Err(reason) => Err(reason),
        }
    };
    assert_eq!(migrate(&newer).await.unwrap(), (3, Vec::new()));
    let told = vec!["shop: migrated by host-a for promotion #3, which is newer".to_owned()];
    assert_eq!(migrate(&older).await.unwrap(), (0, told));
    let reason = migrate(&stranger).await.unwrap_err();
    // An edited file is found out; one that is new to the database is not applied behind its back.
    assert!(reason.message.contains("migration 2 was changed after it was applied"), "{}", reason.message);
    // Nothing was lowered: the newer one is not begun again.
    assert_eq!(migrate(&newer).await.unwrap(), (3, Vec::new()));
    assert_eq!(migrate(&broken).await.unwrap_err().code, ReasonCode::MigrationFailed);
    let (applied, notes) = migrate(&older).await.unwrap();
    assert_eq!((applied, notes.len()), (0, 1), "{notes:?}");
}

#[tokio::test]
async fn older_sql_files_on_postgres_after_newer_ones() {
    check_older(&own_database("hands_older").await).await;
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
    let again = app.order(&Release::new(&sql_stack(&url), &[("app", &image)]));
    app.observe(&again).await.unwrap();
    app.carry_out(Effect::Migrate, &again).await.unwrap();
}

/// A migrator that says when it begins, and then takes its time; for each of `urls` with or without a fence.
fn slow_stack(seconds: u32, settings: &str) -> String {
    format!(
        "services: {{\
           app: {{image: x, init: true}}, \
           migrator: {{image: x, init: true, restart: 'no', volumes: ['data:/data'], \
             command: [sh, -c, 'echo step >> /data/steps; cat /data/steps; sleep {seconds}'], \
             x-landfall: {{role: migrate, database: shop{settings}}}}}}}\n\
         volumes: {{data: {{}}}}"
    )
}

async fn ready(app: &mut App, compose: &str) -> Order {
    let image = image("slow", &[]);
    let order = app.order(&Release::new(compose, &[("app", &image), ("migrator", &image)]));
    app.observe(&order).await.unwrap();
    app.carry_out(Effect::Pull, &order).await.unwrap();
    order
}

/// The executor dies while the migrator runs.
async fn crash_in_the_middle(app: &mut App, order: &Order) {
    let name = format!("landfall-{}-{}-migrator-migration", app.project, order.promotion.counter.0);
    let filter = format!("name={name}");
    tokio::select! {
        ended = app.carry_out(Effect::Migrate, order) => panic!("{ended:?}"),
        () = async {
            while docker(&["ps", "-q", "--filter", &filter]).is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            // Not a wait for something: the answer of Compose comes after the container's start.
            tokio::time::sleep(Duration::from_secs(2)).await;
        } => {}
    }
    app.restart();
}

/// In the middle of a migrator something ends it: nobody runs it again, until somebody has looked.
async fn check_unknown(settings: &str, end: impl AsyncFn(&mut App, &Order) -> Reason) {
    let mut app = App::new();
    let order = ready(&mut app, &slow_stack(30, settings)).await;
    let reason = end(&mut app, &order).await;
    assert_eq!(reason.code, ReasonCode::MigrationUnknown, "{reason:#?}");
    assert!(reason.hint.unwrap().contains("landfall migration resolve shop --env test"));
    let next = ready(&mut app, &slow_stack(0, settings)).await;
    assert_eq!(app.carry_out(Effect::Migrate, &next).await.unwrap_err().code, ReasonCode::MigrationUnknown);
    app.leases.resolve();
    let Evidence::Migrated { applied, .. } = app.carry_out(Effect::Migrate, &next).await.unwrap() else { panic!() };
    assert_eq!(applied.len(), 1);
    let kept = format!("landfall-{}-{}-migrator-migration", app.project, next.promotion.counter.0);
    assert_eq!(docker(&["logs", &kept]), "step\nstep");
}

#[tokio::test]
async fn a_migrator_whose_container_is_gone_is_not_started_again() {
    let gone = async |app: &mut App, order: &Order| {
        crash_in_the_middle(app, order).await;
        docker(&["rm", "--force", &app.id("migrator")]);
        app.carry_out(Effect::Migrate, order).await.unwrap_err()
    };
    check_unknown("", gone).await;
    let url = own_database("hands_gone").await;
    check_unknown(&format!(", database_url: '{url}'"), gone).await;
}

#[tokio::test]
async fn a_migrator_that_is_stopped_in_the_middle_is_not_started_again() {
    check_unknown("", async |app, order| {
        crash_in_the_middle(app, order).await;
        docker(&["kill", &app.id("migrator")]);
        app.carry_out(Effect::Migrate, order).await.unwrap_err()
    })
    .await;
    let url = own_database("hands_late").await;
    check_unknown(&format!(", deadline_ms: 500, database_url: '{url}'"), async |app, order| {
        app.carry_out(Effect::Migrate, order).await.unwrap_err()
    })
    .await;
}

#[tokio::test]
async fn an_older_migrator_is_not_run_after_a_newer_one() {
    let url = own_database("hands_older_service").await;
    for settings in [String::new(), format!(", database_url: '{url}'")] {
        let mut app = App::new();
        let older = ready(&mut app, &slow_stack(0, &settings)).await;
        let newer = ready(&mut app, &slow_stack(0, &settings)).await;
        app.carry_out(Effect::Migrate, &newer).await.unwrap();
        let Evidence::Migrated { applied, notes } = app.carry_out(Effect::Migrate, &older).await.unwrap() else {
            panic!()
        };
        assert!(applied.is_empty());
        assert_eq!(notes, ["shop: migrated by host-a for promotion #2, which is newer"]);
        let runs = format!("landfall-{}-1-migrator-migration", app.project);
        assert_eq!(docker(&["ps", "-aq", "--filter", &format!("name={runs}")]), "");
    }
}
