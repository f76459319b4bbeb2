//! The whole crate against real NATS servers: the newest that is supported, and the oldest (the floor).
#![allow(clippy::unwrap_used)]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use landfall_bus::{Bus, BusError, ConnectOptions, Delivered, OutcomesFrom};
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_PROMOTED};
use landfall_schema::ids::{Counter, Digest, EventId};
use landfall_schema::layout::{BUNDLE_MAX_BYTES, ROLLOUT};
use landfall_schema::outcome::OutcomeKind;
use landfall_schema::promotion::{BundleRef, Intent, Promotion, RolloutPlan};
use landfall_schema::signature::{SigningKey, verify};
use landfall_schema::subject;
use uuid::Uuid;

/// Time for anything that a test waits for.
const WAIT_LIMIT: Duration = Duration::from_secs(10);

struct Server {
    process: Child,
    port: u16,
    store: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program(variable: &str, name: &str) -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.landfall/tools/bin").join(name);
    let path = std::env::var_os(variable).map_or(installed, PathBuf::from);
    assert!(path.is_file(), "no {name} at {}\nhint: run `scripts/setup`, or `make test`", path.display());
    path
}

fn start(program: &Path, configuration: &str) -> Server {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let store = tempfile::tempdir().unwrap();
    let file = store.path().join("nats.conf");
    let text = format!("host: 127.0.0.1\nport: {port}\njetstream {{ store_dir: {:?} }}\n{configuration}", store.path());
    std::fs::write(&file, text).unwrap();
    let process = spawn(program, &file);
    let server = Server { process, port, store };
    server.listens();
    server
}

fn spawn(program: &Path, configuration: &Path) -> Child {
    Command::new(program).arg("-c").arg(configuration).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

impl Server {
    fn listens(&self) {
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begin.elapsed() < WAIT_LIMIT, "nats-server in {} does not listen", self.store.path().display());
            std::thread::yield_now();
        }
    }

    /// As after a power cut: killed, then started on what it had stored.
    fn crash_and_restart(&mut self, program: &Path) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(program, &self.store.path().join("nats.conf"));
        self.listens();
    }
}

fn options(server: &Server) -> ConnectOptions {
    let url = format!("nats://127.0.0.1:{}", server.port);
    ConnectOptions { url, name: "bus-test".to_owned(), ..ConnectOptions::default() }
}

fn promotion(env: &str, app: &str, counter: u64) -> CloudEvent<Promotion> {
    let data = Promotion {
        env: env.parse().unwrap(),
        app: app.parse().unwrap(),
        counter: Counter(counter),
        release: format!("v{counter}").parse().unwrap(),
        intent: Intent::Promote,
        images: Default::default(),
        variables: Default::default(),
        bundle: BundleRef { digest: Digest::of(b"bundle"), bytes: 6 },
        plan: RolloutPlan { deadline_ms: 1, ..RolloutPlan::default() },
        only: Default::default(),
        preview: None,
        schema: None,
        evidence: None,
        author: "test".to_owned(),
        link: None,
        expires_at: Timestamp::UNIX_EPOCH,
    };
    CloudEvent::new(EventId(Uuid::now_v7()), "/landfall/test", TYPE_PROMOTED, Timestamp::UNIX_EPOCH, data)
}

async fn on_every_version(check: impl AsyncFn(&Bus)) {
    for (variable, name) in
        [("LANDFALL_LAB_NATS_SERVER", "nats-server"), ("LANDFALL_LAB_NATS_SERVER_FLOOR", "nats-server-2.10")]
    {
        let server = start(&program(variable, name), "");
        let bus = Bus::connect(&options(&server)).await.unwrap();
        bus.apply().await.unwrap();
        check(&bus).await;
    }
}

/// Asks until the answer is as long as expected; the mirror and the memory stream lag a little.
async fn until_found(expected: usize, ask: impl AsyncFn() -> Vec<Delivered>) -> Vec<Delivered> {
    let begin = Instant::now();
    loop {
        let found = ask().await;
        if found.len() == expected {
            return found;
        }
        assert!(begin.elapsed() < WAIT_LIMIT, "{} found, {expected} expected", found.len());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_layout_is_applied_once_and_repaired() {
    on_every_version(async |bus| {
        assert_eq!(bus.diff().await.unwrap(), []);
        assert_eq!(bus.apply().await.unwrap(), []);
        let mut config = bus.jetstream().get_stream("OUTCOMES").await.unwrap().cached_info().config.clone();
        config.max_age = Duration::from_secs(3600);
        bus.jetstream().update_stream(&config).await.unwrap();
        let changes = bus.apply().await.unwrap();
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].settings[0].to_string(), "max_age is 3600000 ms, should be 31536000000 ms");
        assert_eq!(bus.diff().await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn a_bundle_comes_back_as_it_was_stored() {
    on_every_version(async |bus| {
        let bytes = vec![7_u8; BUNDLE_MAX_BYTES];
        let reference = BundleRef { digest: Digest::of(&bytes), bytes: bytes.len() as u64 };
        assert!(matches!(bus.get_bundle(&reference).await, Err(BusError::BundleMissing { .. })));
        bus.put_bundle(&bytes, &reference).await.unwrap();
        bus.put_bundle(&bytes, &reference).await.unwrap();
        assert_eq!(bus.get_bundle(&reference).await.unwrap(), bytes);
        let oversized = bus.put_bundle(&vec![7; BUNDLE_MAX_BYTES + 1], &reference).await;
        assert!(matches!(oversized, Err(BusError::BundleOversized { .. })));
    })
    .await;
}

#[tokio::test]
async fn of_two_promotions_one_loses() {
    on_every_version(async |bus| {
        let key = SigningKey::generate();
        let (env, app) = ("staging".parse().unwrap(), "shop".parse().unwrap());
        assert_eq!(bus.latest_promotion(&env, &app).await.unwrap(), None);
        let first = bus.publish_promotion(&promotion("staging", "shop", 1), &key, 0, Some("00-1-2-01")).await.unwrap();
        let raced = bus.publish_promotion(&promotion("staging", "shop", 1), &key, 0, None).await;
        assert!(matches!(raced, Err(BusError::Raced { .. })), "{raced:?}");

        let latest = bus.latest_promotion(&env, &app).await.unwrap().unwrap();
        assert_eq!((latest.sequence, latest.traceparent.as_deref()), (first, Some("00-1-2-01")));
        verify(&latest.body, latest.signature.as_deref(), &[key.public()]).unwrap();

        let second = bus.publish_promotion(&promotion("staging", "shop", 2), &key, first, None).await.unwrap();
        bus.publish_promotion(&promotion("staging", "blog", 1), &key, 0, None).await.unwrap();
        bus.publish_promotion(&promotion("production", "shop", 1), &key, 0, None).await.unwrap();
        assert_eq!(bus.promotions(&env, Some(&app)).await.unwrap().len(), 2);
        assert_eq!(bus.promotions(&env, None).await.unwrap().len(), 3);

        let register = until_found(2, async || bus.register(&env).await.unwrap()).await;
        assert_eq!(register[0].subject, "landfall.staging.release.blog.promoted");
        let newest = until_found(2, async || {
            let found = bus.register(&env).await.unwrap();
            if found.iter().any(|found| found.sequence == second) { found } else { Vec::new() }
        });
        newest.await;
    })
    .await;
}

#[tokio::test]
async fn an_executor_gets_only_the_newest_of_its_environment() {
    on_every_version(async |bus| {
        let key = SigningKey::generate();
        let env = "staging".parse().unwrap();
        let mut last = 0;
        for counter in 1..=3 {
            last = bus.publish_promotion(&promotion("staging", "shop", counter), &key, last, None).await.unwrap();
        }
        bus.publish_promotion(&promotion("production", "shop", 1), &key, 0, None).await.unwrap();
        until_found(1, async || bus.register(&env).await.unwrap()).await;
        let host = "host-a".parse().unwrap();
        bus.executor_consumer(&env, &host).await.unwrap();
        let consumer = bus.executor_consumer(&env, &host).await.unwrap();
        let mut messages = consumer.messages().await.unwrap();
        let message = tokio::time::timeout(WAIT_LIMIT, messages.next()).await.unwrap().unwrap().unwrap();
        let delivered = Delivered::from_consumer(&message).unwrap();
        let event = CloudEvent::<Promotion>::decode(&delivered.body, TYPE_PROMOTED).unwrap();
        assert_eq!((event.data.env.as_str(), event.data.counter), ("staging", Counter(3)));
        message.double_ack().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn outcomes_are_followed_and_read_back() {
    on_every_version(async |bus| {
        let (env, app) = ("staging".parse().unwrap(), "shop".parse().unwrap());
        let host = "host-a".parse().unwrap();
        let say = async |kind: OutcomeKind, body: &str| {
            let subject = subject::outcome(&env, &app, &host, kind);
            bus.publish_signed(&subject, EventId(Uuid::now_v7()), body.as_bytes(), Some("[]"), None).await.unwrap();
        };
        say(OutcomeKind::ReleaseAccepted, "before").await;
        let filter = subject::outcome_filter(&env, Some(&app));
        let mut followed = bus.outcomes(filter.clone(), OutcomesFrom::New).await.unwrap();
        say(OutcomeKind::DeploySucceeded, "after").await;
        let first = tokio::time::timeout(WAIT_LIMIT, followed.next()).await.unwrap().unwrap().unwrap();
        assert_eq!((&first.body[..], first.signature.as_deref()), (&b"after"[..], Some("[]")));

        let all = bus.outcomes_so_far(&filter).await.unwrap();
        assert_eq!(all.iter().map(|found| &found.body[..]).collect::<Vec<_>>(), [&b"before"[..], b"after"]);
        assert_eq!(bus.outcomes_so_far("landfall.other.outcome.>").await.unwrap(), []);

        let id = EventId(Uuid::now_v7());
        let beat = subject::presence(&env, &host);
        for _ in 0..2 {
            bus.publish_signed(&beat, id, b"here", None, None).await.unwrap();
        }
        assert_eq!(until_found(1, async || bus.presence(&env).await.unwrap()).await[0].body, "here");
    })
    .await;
}

#[tokio::test]
async fn the_newest_of_each_of_several_kinds_comes_first() {
    on_every_version(async |bus| {
        let (env, app) = ("staging".parse().unwrap(), "shop".parse().unwrap());
        let say = async |host: &str, kind: OutcomeKind, body: &str| {
            let subject = subject::outcome(&env, &app, &host.parse().unwrap(), kind);
            bus.publish_signed(&subject, EventId(Uuid::now_v7()), body.as_bytes(), None, None).await.unwrap();
        };
        say("a", OutcomeKind::ReleaseCommitted, "old").await;
        say("a", OutcomeKind::ReleaseCommitted, "new").await;
        say("a", OutcomeKind::ImagePulled, "not asked for").await;
        say("b", OutcomeKind::DeployFailed, "b failed").await;
        let filters = vec![
            subject::outcome_kind_filter(&env, &app, OutcomeKind::ReleaseCommitted),
            subject::terminal_filter(&env, Some(&app)),
        ];
        let mut followed = bus.outcomes_among(filters, OutcomesFrom::NewestOfEach).await.unwrap();
        say("c", OutcomeKind::ReleaseCommitted, "live").await;
        for expect in ["new", "b failed", "live"] {
            let found = tokio::time::timeout(WAIT_LIMIT, followed.next()).await.unwrap().unwrap().unwrap();
            assert_eq!(found.body, expect);
        }
        let subject = subject::outcome(&env, &app, &"a".parse().unwrap(), OutcomeKind::ReleaseCommitted);
        assert_eq!(bus.last_outcome(&subject).await.unwrap().unwrap().body, "new");
    })
    .await;
}

#[tokio::test]
async fn an_entry_is_changed_by_one_of_two() {
    on_every_version(async |bus| {
        let (env, app) = ("staging".parse().unwrap(), "shop".parse().unwrap());
        let key = subject::rollout_key(&env, &app, Counter(7));
        assert_eq!(bus.entry(ROLLOUT, &key).await.unwrap(), None);
        let mut heard = bus.hear(subject::rollout_subject(&key)).await.unwrap();
        let first = bus.write_entry(ROLLOUT, &key, "one".into(), 0).await.unwrap();
        tokio::time::timeout(WAIT_LIMIT, heard.next()).await.unwrap().unwrap();
        let raced = bus.write_entry(ROLLOUT, &key, "other".into(), 0).await;
        assert!(matches!(raced, Err(BusError::Raced { .. })), "{raced:?}");
        let second = bus.write_entry(ROLLOUT, &key, "two".into(), first).await.unwrap();
        assert!(bus.write_entry(ROLLOUT, &key, "late".into(), first).await.is_err());
        let entry = bus.entry(ROLLOUT, &key).await.unwrap().unwrap();
        assert_eq!((entry.revision, &entry.body[..]), (second, &b"two"[..]));
    })
    .await;
}

#[tokio::test]
async fn what_is_said_about_a_release_may_expect_what_was_said_before() {
    on_every_version(async |bus| {
        let subject = subject::halted(&"staging".parse().unwrap(), &"shop".parse().unwrap());
        assert_eq!(bus.last_said(&subject).await.unwrap(), None);
        let id = || EventId(Uuid::now_v7());
        let first = bus.publish_expecting(&subject, id(), b"halt", Some("[]"), None, 0).await.unwrap();
        let raced = bus.publish_expecting(&subject, id(), b"resume", Some("[]"), None, 0).await;
        assert!(matches!(raced, Err(BusError::Raced { .. })), "{raced:?}");
        let said = bus.last_said(&subject).await.unwrap().unwrap();
        assert_eq!((said.sequence, &said.body[..]), (first, &b"halt"[..]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn following_goes_on_after_the_server_crashed() {
    let program = program("LANDFALL_LAB_NATS_SERVER", "nats-server");
    let mut server = start(&program, "");
    let bus = Bus::connect(&options(&server)).await.unwrap();
    bus.apply().await.unwrap();
    let (env, app, host) = ("staging".parse().unwrap(), "shop".parse().unwrap(), "host-a".parse().unwrap());
    let subject = subject::outcome(&env, &app, &host, OutcomeKind::ReleaseAccepted);
    let mut followed = bus.outcomes(subject::outcome_filter(&env, None), OutcomesFrom::New).await.unwrap();
    for text in ["before", "after"] {
        bus.publish_signed(&subject, EventId(Uuid::now_v7()), text.as_bytes(), None, None).await.unwrap();
        let next = async {
            loop {
                // Errors tell of the interruption; the stream goes on after them.
                if let Some(Ok(found)) = followed.next().await {
                    return found;
                }
            }
        };
        // The client notices the interruption by a missed heartbeat, after 15 s.
        let found = tokio::time::timeout(3 * WAIT_LIMIT, next).await.unwrap();
        assert_eq!(found.body, text);
        if text == "before" {
            server.crash_and_restart(&program);
        }
    }
}

#[tokio::test]
async fn a_denied_request_says_what_the_server_said() {
    let server = start(
        &program("LANDFALL_LAB_NATS_SERVER", "nats-server"),
        r#"authorization { users: [{ user: guest, password: pw, permissions: { publish: "$JS.API.INFO", subscribe: "_INBOX.>" } }] }"#,
    );
    let refused = Bus::connect(&options(&server)).await.unwrap_err();
    assert!(refused.hint().unwrap().contains("refused these credentials"), "{refused:?}");
    let mut options = options(&server);
    options.user_password = Some(("guest".to_owned(), "pw".to_owned()));
    let bus = Bus::connect(&options).await.unwrap();
    let denied = bus.diff().await.unwrap_err();
    assert!(denied.hint().unwrap().contains("permissions"), "{denied:?}");
    let text = std::error::Error::source(&denied).unwrap().to_string();
    assert!(text.contains("Permissions Violation"), "{text}");
}
