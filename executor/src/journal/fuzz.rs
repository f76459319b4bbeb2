//! Rows that nobody of this version wrote: the journal says what it cannot read, and what it can read the engine can bear.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use landfall_deploy::gates::documents::{self, Published};
use landfall_deploy::{Effect, Evidence, Machine};
use landfall_fuzz::run;
use landfall_schema::event::{CloudEvent, TYPE_ENVIRONMENT_POLICY};
use landfall_schema::gates::EnvironmentPolicy;
use landfall_schema::signature::SigningKey;
use landfall_schema::subject::{self, Subject};
use serde_json::{Value, json};

use super::*;
use crate::samples;

/// Table, columns by which a row is found, and the columns that are spoiled.
const COLUMNS: [(&str, &[&str]); 6] = [
    (
        "releases",
        &["counter", "event_id", "message", "body", "signature", "traceparent", "deploy_traceparent", "state"],
    ),
    ("entries", &["position", "at", "input"]),
    ("committed", &["counter", "promotion", "bundle", "event_id"]),
    ("outbox", &["event_id", "subject", "body", "signature", "traceparent", "settles", "position"]),
    ("previews", &["counter", "event_id", "promotion"]),
    ("rules", &["subject", "event_id", "body", "signature"]),
];

/// A policy as an admin signed it.
fn policy(admin: &SigningKey) -> Rule {
    let policy = EnvironmentPolicy {
        env: "staging".parse().unwrap(),
        requires: None,
        approvals: None,
        freeze_windows: Vec::new(),
        author: "ann".to_owned(),
    };
    let id = EventId(uuid::Uuid::from_u128(9));
    let body = CloudEvent::new(id, "/test", TYPE_ENVIRONMENT_POLICY, samples::now(), policy).encode().unwrap();
    Rule { id, signature: Some(admin.header(&body).unwrap()), body }
}

async fn filled(folder: &Path, policy: &Rule) -> Journal {
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await.unwrap();
    sqlx::migrate!("./migrations").run(&pool).await.unwrap();
    let journal = Journal { pool, folder: folder.to_owned() };
    let taken = samples::taken(5);
    journal.take(&taken, samples::now()).await.unwrap();
    let reason = landfall_schema::outcome::Reason::new(ReasonCode::Unhealthy, "why");
    let said = samples::announcer().ended(&taken.order, OutcomeKind::DeployFailed, reason, samples::now(), None);
    let step = |input| Step { order: &taken.order, at: samples::now(), input, announcements: &[], terminal: None };
    journal.record(step(&Input::Begin)).await.unwrap();
    journal.announce(&[said.unwrap()], samples::now()).await.unwrap();
    journal.commit(&taken.order, &samples::bundle(), samples::now()).await.unwrap();
    let preview = "INSERT INTO previews (env, app, counter, event_id, promotion) SELECT env, app, counter, event_id, promotion FROM committed";
    sqlx::query(preview).execute(&journal.pool).await.unwrap();
    journal.keep_rule(&about(), policy, None).await.unwrap();
    journal
}

fn about() -> Subject {
    subject::environment_policy(&"staging".parse().unwrap())
}

/// Whether what is kept is believed, as whoever asks the rules does.
async fn is_believed(journal: &Journal, policy: &Rule, admin: &SigningKey) -> Result<bool, JournalError> {
    let Some(kept) = journal.rule(&about()).await? else { return Ok(false) };
    let published = Published { body: &kept.body, signature: kept.signature.as_deref() };
    let is_believed = documents::policy(published, &"staging".parse().unwrap(), &[admin.public()]).is_ok();
    assert!(!is_believed || kept.body == policy.body, "other rules are believed than were signed");
    Ok(is_believed)
}

/// What the rows hold now, as one document that is spoiled as a whole.
async fn document(journal: &Journal) -> Vec<u8> {
    let mut tables = serde_json::Map::new();
    for (table, columns) in COLUMNS {
        let mut row = serde_json::Map::new();
        for column in columns {
            let sql = format!("SELECT CAST({column} AS TEXT) FROM {table} LIMIT 1");
            let text: Option<String> =
                sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&journal.pool).await.unwrap();
            let text = text.unwrap_or_default();
            // Text that is JSON is spoiled from within.
            row.insert((*column).to_owned(), serde_json::from_str(&text).unwrap_or(Value::String(text)));
        }
        tables.insert(table.to_owned(), Value::Object(row));
    }
    serde_json::to_vec(&tables).unwrap()
}

/// Puts the values into the rows; what the table itself refuses stays as it was.
async fn put(journal: &Journal, spoilt: &Value) {
    for (table, columns) in COLUMNS {
        for column in columns {
            let Some(value) = spoilt.get(table).and_then(|row| row.get(*column)) else { continue };
            let cast = if *column == "body" { "CAST(? AS BLOB)" } else { "?" };
            let sql = format!("UPDATE {table} SET {column} = {cast}");
            let query = sqlx::query(sqlx::AssertSqlSafe(sql));
            let query = match value {
                Value::Null => query.bind(None::<String>),
                Value::Number(number) if number.is_i64() => query.bind(number.as_i64()),
                Value::String(text) => query.bind(text.clone()),
                other => query.bind(other.to_string()),
            };
            drop(query.execute(&journal.pool).await);
        }
    }
}

/// Everything that a start reads, and what is done with it. An error says what it could not read.
async fn read_all(journal: &Journal) {
    let (host, env) = ("host-a".parse().unwrap(), "staging".parse().unwrap());
    let app = "shop".parse().unwrap();
    let order = samples::order(5);
    let message = crate::intake::MessageId::stored("sha256:00".to_owned());
    let mut errors = Vec::new();
    match journal.unfinished(&host).await {
        Ok(unfinished) => {
            for Unfinished { taken, entries, .. } in unfinished {
                if let Ok(mut machine) = Machine::replay(taken.order, entries) {
                    machine.deadline();
                    let _ = machine.handle(Input::Resumed, samples::now());
                    machine.deadline();
                    let evidence = Evidence::Admitted;
                    let _ = machine.handle(Input::Finished { effect: Effect::Admit, evidence }, samples::now());
                }
            }
        }
        Err(error) => errors.push(error),
    }
    errors.extend(journal.previews(&env, &host).await.err());
    errors.extend(journal.newest(&host, &env, &app).await.err());
    errors.extend(journal.standing(&env, &app).await.err());
    errors.extend(journal.committed(&env, &app, 3).await.err());
    errors.extend(journal.serving(&env, &app).await.err());
    errors.extend(journal.unpublished(0, 32).await.err());
    errors.extend(journal.handled(&message).await.err());
    errors.extend(journal.may_catch_up(&message).await.err());
    errors.extend(journal.believed(&order).await.err());
    for error in errors {
        assert!(!crate::causes(&error).is_empty());
    }
}

#[test]
fn rows() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let admin = SigningKey::generate();
    let policy = policy(&admin);
    let (journal, seed) = runtime.block_on(async {
        let journal = filled(folder.path(), &policy).await;
        let seed = document(&journal).await;
        // What was not spoiled is read.
        assert_eq!(journal.unfinished(&"host-a".parse().unwrap()).await.unwrap().len(), 1);
        assert!(is_believed(&journal, &policy, &admin).await.unwrap());
        (journal, seed)
    });
    let good: Value = serde_json::from_slice(&seed).unwrap();
    assert_ne!(good, json!({}));
    run("journal-rows", &[seed], |bytes| {
        let Ok(spoilt) = serde_json::from_slice::<Value>(bytes) else { return };
        runtime.block_on(async {
            put(&journal, &spoilt).await;
            read_all(&journal).await;
            if let Err(error) = is_believed(&journal, &policy, &admin).await {
                assert!(!crate::causes(&error).is_empty());
            }
            put(&journal, &good).await;
        });
    });
}
