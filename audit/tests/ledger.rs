//! The ledger on SQLite, and on the lab's PostgreSQL: every event once, everything that arrives kept, nothing half done.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use landfall_audit::history;
use landfall_audit::ledger::{Counts, Database, Ledger, Position, Which};
use landfall_audit::record::{Record, Source};
use landfall_audit::trust::Trust;
use landfall_bus::Delivered;
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_HALTED, TYPE_PROMOTED};
use landfall_schema::halt::Halt;
use landfall_schema::outcome::Outcome;
use landfall_schema::promotion::Promotion;
use landfall_schema::signature::{DsseEnvelope, SigningKey, encode_header, verify};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

const PROMOTED: &[u8] = include_bytes!("../../schema/golden/dev.landfall.release.promoted.v1.json");
const SUCCEEDED: &[u8] = include_bytes!("../../schema/golden/dev.landfall.deploy.succeeded.v1.json");
const HALTED: &[u8] = include_bytes!("../../schema/golden/dev.landfall.release.halted.v1.json");
const CREATED_MS: i64 = 1_790_000_000_000;
const ALL: Which<'static> = Which { env: None, app: None, limit: 10 };

fn promotion() -> CloudEvent<Promotion> {
    CloudEvent::decode(PROMOTED, TYPE_PROMOTED).unwrap()
}

fn succeeded() -> CloudEvent<Outcome> {
    CloudEvent::decode_where(SUCCEEDED, "an outcome", |_| true).unwrap()
}

fn message(sequence: u64, subject: &str, body: &[u8], signature: Option<String>) -> Delivered {
    Delivered {
        subject: subject.to_owned(),
        sequence,
        body: Bytes::copy_from_slice(body),
        signature,
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        published_at: Timestamp::from_millisecond(CREATED_MS).unwrap(),
    }
}

fn release_subject() -> String {
    let data = promotion().data;
    landfall_schema::subject::promoted(&data.env, &data.app).to_string()
}

fn outcome_subject() -> String {
    let data = succeeded().data;
    landfall_schema::subject::outcome(&data.env, &data.app, &data.host, data.kind).to_string()
}

fn at(source: Source, sequence: u64) -> Position {
    Position { source, stream_created_ms: CREATED_MS, sequence }
}

async fn keep(ledger: &Ledger, source: Source, messages: &[Delivered], trust: &Trust) -> u64 {
    let records: Vec<Record> = messages.iter().map(|message| Record::read(source, message.clone(), trust)).collect();
    let last = messages.iter().map(|message| message.sequence).max().unwrap();
    ledger.store(&records, at(source, last)).await.unwrap()
}

/// Everything that a ledger promises, on a database that is empty.
async fn check(url: &str) {
    let database: Database = url.parse().unwrap();
    let ledger = Ledger::prepare(&database).await.unwrap();
    let id = ledger.id().await.unwrap();
    every_event_once(&ledger).await;
    nothing_is_lost(&ledger).await;
    positions(&ledger).await;
    what_people_said(&ledger).await;
    let counts = ledger.counts().await.unwrap();
    ledger.close().await;

    let again = Ledger::prepare(&database).await.unwrap();
    assert_eq!(again.counts().await.unwrap(), counts, "it is all there after a restart");
    assert_eq!(again.id().await.unwrap(), id, "a ledger keeps its name");
    again.close().await;
    let reader = Ledger::read(&database).await.unwrap();
    let history = history::read(&reader, &ALL).await.unwrap();
    assert_eq!(history.len(), 1);
    assert_eq!(history[0].signature, "trusted");
    reader.close().await;
}

async fn every_event_once(ledger: &Ledger) {
    let key = SigningKey::generate();
    let trust = Trust(vec![key.public().to_string().parse().unwrap()]);
    let released = message(1, &release_subject(), PROMOTED, Some(key.header(PROMOTED).unwrap()));
    let batch = [released.clone(), released.clone()];
    assert_eq!(keep(ledger, Source::Releases, &batch, &trust).await, 1, "twice in a batch");
    assert_eq!(keep(ledger, Source::Releases, &[released], &trust).await, 0, "delivered again");
    let outcome = message(1, &outcome_subject(), SUCCEEDED, None);
    assert_eq!(keep(ledger, Source::Outcomes, std::slice::from_ref(&outcome), &trust).await, 1);
    assert_eq!(keep(ledger, Source::Outcomes, &[outcome], &trust).await, 0);
    assert_eq!(ledger.counts().await.unwrap(), Counts { releases: 1, outcomes: 1, words: 0, rejected: 0 });

    let data = promotion().data;
    let elsewhere = "elsewhere".parse().unwrap();
    let here = Which { env: Some(&data.env), app: Some(&data.app), limit: 1 };
    assert_eq!(ledger.releases(&here).await.unwrap().len(), 1);
    assert!(ledger.releases(&Which { env: Some(&elsewhere), ..ALL }).await.unwrap().is_empty());
    let row = &ledger.releases(&ALL).await.unwrap()[0];
    assert_eq!(row.signer.as_deref(), Some(key.public().as_str()));
    let stored = ledger.outcomes(&succeeded().data.promotion.to_string()).await.unwrap();
    assert_eq!((stored.len(), stored[0].verdict.as_str()), (1, "unsigned"));
    let envelope: DsseEnvelope = serde_json::from_str(&ledger.envelope(&row.event_id).await.unwrap().unwrap()).unwrap();
    assert_eq!(envelope, DsseEnvelope::new(PROMOTED, vec![key.sign(PROMOTED).unwrap()]));
}

/// Whatever arrives ends in the ledger, and what follows it too.
async fn nothing_is_lost(ledger: &Ledger) {
    let subject = release_subject();
    let mut forged = promotion();
    forged.data.author = "mallory".to_owned();
    let forged = forged.encode().unwrap();
    let mut unknown: serde_json::Value = serde_json::from_slice(PROMOTED).unwrap();
    unknown["type"] = "dev.landfall.release.promoted.v2".into();
    let mut boundless: serde_json::Value = serde_json::from_slice(PROMOTED).unwrap();
    boundless["data"]["counter"] = u64::MAX.into();
    let cases: Vec<(&str, String, Vec<u8>)> = vec![
        ("malformed", subject.clone(), b"{\xff\x00 no json".to_vec()),
        ("malformed", subject.clone(), Vec::new()),
        ("oversized", subject.clone(), vec![b' '; 70 * 1024]),
        ("unknown_type", subject.clone(), unknown.to_string().into_bytes()),
        ("subject_mismatch", "landfall.production.release.other.promoted".to_owned(), PROMOTED.to_vec()),
        ("out_of_range", subject.clone(), boundless.to_string().into_bytes()),
        ("id_reused", subject.clone(), forged),
    ];
    let messages: Vec<Delivered> = cases
        .iter()
        .zip(2..)
        .map(|((_, subject, body), sequence)| message(sequence, subject, body, Some("no\0 header".to_owned())))
        .collect();
    let trust = Trust::default();
    keep(ledger, Source::Releases, &messages, &trust).await;
    keep(ledger, Source::Releases, &messages, &trust).await;
    let rejected = ledger.rejected(Source::Releases).await.unwrap();
    let expect: Vec<(&str, &[u8])> = cases.iter().map(|(reason, _, body)| (*reason, body.as_slice())).collect();
    let found: Vec<(&str, &[u8])> = rejected.iter().map(|row| (row.reason.as_str(), row.body.as_slice())).collect();
    assert_eq!(found.len(), expect.len(), "{rejected:?}");
    for (found, expect) in found.iter().zip(&expect) {
        assert_eq!(found.0, expect.0);
        assert!(found.1 == expect.1, "the bytes of {} are kept as they came", expect.0);
    }
    assert_eq!(rejected[0].signature.as_deref(), Some("no\u{fffd} header"));

    // A text with U+0000 is legal JSON, and PostgreSQL cannot keep it as text.
    let mut nul = succeeded();
    nul.id.0 = uuid::Uuid::now_v7();
    nul.data.message = "\0binary".to_owned();
    let nul = message(2, &outcome_subject(), &nul.encode().unwrap(), None);
    assert_eq!(keep(ledger, Source::Outcomes, &[nul], &trust).await, 1);
}

/// The same words with one signature more are said anew, and both are kept.
async fn what_people_said(ledger: &Ledger) {
    let before = ledger.counts().await.unwrap();
    let (ann, ben) = (SigningKey::generate(), SigningKey::generate());
    let trust = Trust(vec![format!("admin={}", ann.public()).parse().unwrap()]);
    let event: CloudEvent<Halt> = CloudEvent::decode(HALTED, TYPE_HALTED).unwrap();
    let subject = landfall_schema::subject::halted(&event.data.env, &event.data.app).to_string();
    let once = message(3, &subject, HALTED, Some(ann.header(HALTED).unwrap()));
    let both = encode_header(&[ann.sign(HALTED).unwrap(), ben.sign(HALTED).unwrap()]);
    let twice = message(4, &subject, HALTED, Some(both));
    assert_eq!(keep(ledger, Source::Releases, &[once.clone(), twice, once], &trust).await, 2);
    let elsewhere = message(5, "landfall.other.release.shop.halted", HALTED, None);
    keep(ledger, Source::Releases, &[elsewhere], &trust).await;
    let after = ledger.counts().await.unwrap();
    assert_eq!((after.words, after.rejected), (before.words + 2, before.rejected + 1));
}

async fn positions(ledger: &Ledger) {
    assert_eq!(ledger.position(Source::Releases, CREATED_MS).await.unwrap(), 8);
    ledger.store(&[], at(Source::Releases, 5)).await.unwrap();
    assert_eq!(ledger.position(Source::Releases, CREATED_MS).await.unwrap(), 8, "it does not go back");
    let anew = Position { source: Source::Releases, stream_created_ms: CREATED_MS + 1, sequence: 1 };
    assert_eq!(ledger.position(Source::Releases, anew.stream_created_ms).await.unwrap(), 0, "another stream");
    ledger.store(&[], anew).await.unwrap();
    assert_eq!(ledger.position(Source::Releases, anew.stream_created_ms).await.unwrap(), 1);
    ledger.store(&[], at(Source::Releases, 8)).await.unwrap();
}

#[tokio::test]
async fn sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new folder/ledger.sqlite");
    check(&format!("sqlite://{}", file.display())).await;
}

/// Many at once prepare a new ledger; all find the same one.
#[tokio::test]
async fn several_may_open_a_new_ledger_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::new().await;
    let file: Database = folder.path().join("ledger.sqlite").display().to_string().parse().unwrap();
    let server: Database = lab.url.parse().unwrap();
    for database in [file, server] {
        let opening = (0..8).map(async |_| {
            let ledger = Ledger::prepare(&database).await.unwrap();
            let id = ledger.id().await.unwrap();
            ledger.close().await;
            id
        });
        let mut ids = futures_util::future::join_all(opening).await;
        ids.dedup();
        assert_eq!(ids.len(), 1, "{database}");
    }
    lab.end().await;
}

#[tokio::test]
async fn postgresql() {
    let lab = Lab::new().await;
    check(&lab.url).await;
    lab.end().await;
}

#[tokio::test]
async fn what_is_no_ledger_is_said_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.sqlite");
    let missing: Database = file.display().to_string().parse().unwrap();
    let error = Ledger::read(&missing).await.unwrap_err();
    assert!(error.to_string().contains("there is no ledger") && error.hint().contains("landfall-audit run"), "{error}");
    assert!(!file.exists(), "asking makes none");

    let lab = Lab::new().await;
    let empty = Ledger::read(&lab.url.parse().unwrap()).await.unwrap();
    let error = empty.releases(&ALL).await.unwrap_err();
    assert!(error.hint().contains("holds no ledger"), "{error}: {}", error.hint());
    empty.close().await;
    lab.end().await;

    let error = Ledger::prepare(&"postgres://landfall:s3cr3t@127.0.0.1:1/x".parse().unwrap()).await.unwrap_err();
    let text = landfall_audit::service::with_causes(&error);
    assert!(text.contains("127.0.0.1:1/x") && !text.contains("s3cr3t"), "{text}");
}

#[test]
fn the_stored_envelope_can_be_verified_later() {
    let key = SigningKey::generate();
    let header = key.header(PROMOTED).unwrap();
    let record =
        Record::read(Source::Releases, message(1, &release_subject(), PROMOTED, Some(header)), &Trust::default());
    let Record::Release(stored) = record else { panic!("{record:?}") };
    let envelope = stored.envelope();
    let header = landfall_schema::signature::encode_header(&envelope.signatures);
    assert_eq!(verify(&stored.message.body, Some(&header), &[key.public()]).unwrap(), key.public());
}

/// A database of the lab's PostgreSQL for one test.
struct Lab {
    admin: String,
    name: String,
    url: String,
}

impl Lab {
    async fn new() -> Self {
        let Ok(admin) = std::env::var("LANDFALL_LAB_POSTGRES_URL") else {
            panic!(
                "LANDFALL_LAB_POSTGRES_URL is not set: this test needs the real parts\nhint: run `make test`, which starts them"
            )
        };
        let name = format!("audit_{}", uuid::Uuid::now_v7().simple());
        let mut connection = PgConnection::connect(&admin).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.unwrap();
        let (base, _) = admin.rsplit_once('/').unwrap();
        Self { url: format!("{base}/{name}"), admin, name }
    }

    async fn end(self) {
        let mut connection = PgConnection::connect(&self.admin).await.unwrap();
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        sqlx::query(AssertSqlSafe(drop)).execute(&mut connection).await.unwrap();
    }
}
