//! The ledger keeps every event once, on SQLite and on the lab's PostgreSQL, and keeps what it cannot read.
#![allow(clippy::unwrap_used, reason = "tests")]

use landfall_audit::ledger::Ledger;
use landfall_audit::record::{Record, Trust};
use landfall_bus::Delivered;
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_PROMOTED};
use landfall_schema::ids::EventId;
use landfall_schema::layout::{OUTCOMES, RELEASES};
use landfall_schema::promotion::Promotion;
use landfall_schema::signature::SigningKey;
use sqlx::Connection as _;

const GOLDEN_PROMOTION: &[u8] = include_bytes!("../../schema/golden/dev.landfall.release.promoted.v1.json");
const GOLDEN_OUTCOME: &[u8] = include_bytes!("../../schema/golden/dev.landfall.deploy.succeeded.v1.json");
const RELEASE_SUBJECT: &str = "landfall.production.release.shop.promoted";
const OUTCOME_SUBJECT: &str = "landfall.production.outcome.shop.host-a.deploy.succeeded";

fn delivered(subject: &str, body: &[u8], signature: Option<String>) -> Delivered {
    Delivered {
        subject: subject.to_owned(),
        sequence: 7,
        body: body.to_vec().into(),
        signature,
        traceparent: None,
        published_at: Timestamp::UNIX_EPOCH,
    }
}

async fn check(url: &str) {
    let ledger = Ledger::open(url).await.unwrap();
    let key = SigningKey::generate();
    let trust = Trust::Keys(vec![key.public()]);
    let signed = delivered(RELEASE_SUBJECT, GOLDEN_PROMOTION, Some(key.header(GOLDEN_PROMOTION).unwrap()));
    assert!(ledger.keep(RELEASES, &Record::of(&signed, &trust)).await.unwrap());
    assert!(!ledger.keep(RELEASES, &Record::of(&signed, &trust)).await.unwrap(), "a redelivery is kept once");

    let stranger = delivered(OUTCOME_SUBJECT, GOLDEN_OUTCOME, None);
    assert!(ledger.keep(OUTCOMES, &Record::of(&stranger, &trust)).await.unwrap());
    let poison = delivered(OUTCOME_SUBJECT, b"{not json", None);
    assert!(ledger.keep(OUTCOMES, &Record::of(&poison, &trust)).await.unwrap());
    assert!(!ledger.keep(OUTCOMES, &Record::of(&poison, &trust)).await.unwrap());
    assert_eq!(ledger.counts().await.unwrap(), [1, 1, 1]);

    let event = CloudEvent::<Promotion>::decode(GOLDEN_PROMOTION, TYPE_PROMOTED).unwrap();
    let other_env = "elsewhere".parse().unwrap();
    assert!(ledger.releases(Some(&other_env), None, 10).await.unwrap().is_empty());
    let releases = ledger.releases(Some(&event.data.env), Some(&event.data.app), 10).await.unwrap();
    assert_eq!(releases.len(), 1);
    assert_eq!(releases[0].signature, "trusted");
    assert_eq!(releases[0].event_id.parse::<EventId>().unwrap(), event.id);
    for row in ledger.terminal(&releases[0].event_id).await.unwrap() {
        assert_eq!((row.kind.as_str(), row.signature.as_str()), ("deploy.succeeded", "untrusted"));
    }
    ledger.close().await;
    let again = Ledger::open(url).await.unwrap();
    assert_eq!(again.counts().await.unwrap(), [1, 1, 1], "it is all there after a restart");
    again.close().await;
}

#[tokio::test]
async fn sqlite_keeps_every_event_once() {
    let folder = tempfile::tempdir().unwrap();
    check(&format!("sqlite://{}/ledger.db", folder.path().display())).await;
}

#[tokio::test]
async fn postgres_keeps_every_event_once() {
    let admin = std::env::var("LANDFALL_LAB_POSTGRES_URL").expect("no lab; hint: run `make test`, which starts one");
    let name = format!("audit_{}", std::process::id());
    let (server, _) = admin.rsplit_once('/').unwrap();
    let mut connection = sqlx::PgConnection::connect(&admin).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.unwrap();
    let url = format!("{server}/{name}");
    let checked = tokio::spawn(async move { check(&url).await }).await;
    sqlx::query(sqlx::AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)")))
        .execute(&mut connection)
        .await
        .unwrap();
    checked.unwrap();
}

#[tokio::test]
async fn a_wrong_url_is_said() {
    let error = Ledger::open("mysql://localhost/x").await.unwrap_err();
    assert_eq!(error.to_string(), "the ledger's URL is not one: expected sqlite://FILE or postgres://…");
}
