//! The program against a real NATS server that goes away and comes back, and ledgers that are lost and restored.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use landfall_audit::ledger::{Counts, Database, Ledger};
use landfall_audit::record::Source;
use landfall_bus::{Bus, ConnectOptions};
use landfall_schema::event::CloudEvent;
use landfall_schema::ids::EventId;
use landfall_schema::outcome::Outcome;
use landfall_schema::subject;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SUCCEEDED: &[u8] = include_bytes!("../../schema/golden/dev.landfall.deploy.succeeded.v1.json");
/// For anything that a test waits for.
const WAIT_LIMIT: Duration = Duration::from_secs(40);
const POLL_INTERVAL: Duration = Duration::from_millis(30);

/// A NATS server that keeps its port and its store when it is started again.
struct Server {
    process: Option<Child>,
    port: u16,
    folder: tempfile::TempDir,
}

impl Server {
    fn new() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { process: None, port, folder: tempfile::tempdir().unwrap() }
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    fn start(&mut self) {
        let program = std::env::var("LANDFALL_LAB_NATS_SERVER").unwrap_or_else(|_| {
            panic!("LANDFALL_LAB_NATS_SERVER is not set: this test needs the real parts\nhint: run `make test`, which starts them")
        });
        let file = self.folder.path().join("nats.conf");
        let store = self.folder.path().join("store");
        let text = format!(
            "listen: \"127.0.0.1:{}\"\njetstream {{ store_dir: {store:?}, sync_interval: always }}\n",
            self.port
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program);
        command.arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().unwrap());
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begin.elapsed() < WAIT_LIMIT, "nats-server does not listen");
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    async fn bus(&self) -> Bus {
        let options = ConnectOptions { url: self.url(), name: "audit-test".to_owned(), ..ConnectOptions::default() };
        Bus::connect(&options).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Audit {
    process: Child,
    log: PathBuf,
}

impl Audit {
    fn start(server: &Server, ledger: &Path, arguments: &[&str]) -> Self {
        let log = server.folder.path().join("audit.log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_landfall-audit"));
        command.args(["run", "--server", &server.url(), "--database"]).arg(ledger).args(arguments);
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn().unwrap();
        Self { process, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn ended(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < WAIT_LIMIT, "it still runs:\n{}", self.log());
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn terminate(&mut self) -> ExitStatus {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM).unwrap();
        self.ended()
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Publishes outcomes with ids of their own.
async fn publish(bus: &Bus, count: usize) {
    for _ in 0..count {
        let mut event: CloudEvent<Outcome> = CloudEvent::decode_where(SUCCEEDED, "an outcome", |_| true).unwrap();
        event.id = EventId(uuid::Uuid::now_v7());
        let data = &event.data;
        let subject = subject::outcome(&data.env, &data.app, &data.host, data.kind);
        bus.publish_signed(&subject, event.id, &event.encode().unwrap(), None, None).await.unwrap();
    }
}

async fn counts(ledger: &Path) -> Option<Counts> {
    let database: Database = ledger.display().to_string().parse().unwrap();
    // Before the first start there is none.
    let ledger = Ledger::read(&database).await.ok()?;
    let counts = ledger.counts().await.ok();
    ledger.close().await;
    counts
}

async fn until_outcomes(audit: &Audit, ledger: &Path, count: i64) {
    let begin = Instant::now();
    loop {
        let found = counts(ledger).await;
        if found.is_some_and(|found| found.outcomes == count) {
            return;
        }
        assert!(begin.elapsed() < WAIT_LIMIT, "{found:?} instead of {count} outcomes:\n{}", audit.log());
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn until_logged(audit: &Audit, text: &str) {
    let begin = Instant::now();
    while !audit.log().contains(text) {
        assert!(begin.elapsed() < WAIT_LIMIT, "no {text:?} in:\n{}", audit.log());
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[tokio::test]
async fn it_waits_for_the_bus_and_outlives_its_outages() {
    let mut server = Server::new();
    let ledger = server.folder.path().join("ledger.sqlite");
    let mut audit = Audit::start(&server, &ledger, &[]);
    until_logged(&audit, "the bus is away").await;
    server.start();
    until_logged(&audit, "landfall bus apply").await;
    let bus = server.bus().await;
    bus.apply().await.unwrap();
    publish(&bus, 3).await;
    until_outcomes(&audit, &ledger, 3).await;

    for round in 1..=2 {
        server.kill();
        server.start();
        // A connection of its own: the former one may still wait before it reconnects.
        publish(&server.bus().await, 5).await;
        until_outcomes(&audit, &ledger, 3 + 5 * round).await;
    }
    let begin = Instant::now();
    assert!(audit.terminate().success(), "{}", audit.log());
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn it_ends_at_once_while_the_bus_is_away() {
    let mut server = Server::new();
    let ledger = server.folder.path().join("ledger.sqlite");
    let mut audit = Audit::start(&server, &ledger, &[]);
    until_logged(&audit, "the bus is away").await;
    assert!(audit.terminate().success(), "{}", audit.log());

    server.start();
    server.bus().await.apply().await.unwrap();
    let mut audit = Audit::start(&server, &ledger, &[]);
    until_logged(&audit, "following").await;
    server.kill();
    assert!(audit.terminate().success(), "{}", audit.log());
}

#[tokio::test]
async fn poison_is_kept_acknowledged_and_passed() {
    let mut server = Server::new();
    server.start();
    let bus = server.bus().await;
    bus.apply().await.unwrap();
    let poison =
        [&b"\x00\xff not json"[..], b"", b"{}", br#"{"specversion":"1.0","type":"dev.landfall.deploy.succeeded.v9"}"#];
    for body in poison {
        let subject = "landfall.staging.outcome.shop.host-a.deploy.succeeded";
        bus.jetstream().publish(subject, body.to_vec().into()).await.unwrap().await.unwrap();
    }
    publish(&bus, 1).await;
    let path = server.folder.path().join("ledger.sqlite");
    let mut audit = Audit::start(&server, &path, &[]);
    until_outcomes(&audit, &path, 1).await;
    assert!(audit.terminate().success());

    let ledger = Ledger::read(&path.display().to_string().parse().unwrap()).await.unwrap();
    let bodies: Vec<Vec<u8>> =
        ledger.rejected(Source::Outcomes).await.unwrap().into_iter().map(|row| row.body).collect();
    assert_eq!(bodies, poison);
    ledger.close().await;
    let info = bus.jetstream().get_stream("OUTCOMES").await.unwrap().consumer_info("audit").await.unwrap();
    assert_eq!((info.num_pending, info.num_ack_pending, info.ack_floor.stream_sequence), (0, 0, 5));
}

#[tokio::test]
async fn a_restored_ledger_is_filled_again() {
    let mut server = Server::new();
    server.start();
    let bus = server.bus().await;
    bus.apply().await.unwrap();
    let (path, backup) = (server.folder.path().join("ledger.sqlite"), server.folder.path().join("backup.sqlite"));
    publish(&bus, 3).await;
    for (total, more) in [(3, 0), (8, 5)] {
        publish(&bus, more).await;
        let mut audit = Audit::start(&server, &path, &[]);
        until_outcomes(&audit, &path, total).await;
        assert!(audit.terminate().success(), "{}", audit.log());
        if !backup.exists() {
            // A clean end leaves one file.
            std::fs::copy(&path, &backup).unwrap();
        }
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::copy(&backup, &path).unwrap();
    assert_eq!(counts(&path).await.unwrap().outcomes, 3);
    let mut audit = Audit::start(&server, &path, &[]);
    until_outcomes(&audit, &path, 8).await;
    assert!(audit.log().contains("reading again from there"), "{}", audit.log());
    assert!(audit.terminate().success());
}

/// What was on its way to a process that crashed comes at once, and before anything newer: else the ledger would claim to be complete
/// up to where it is not.
#[tokio::test]
async fn after_a_crash_the_order_stays() {
    let mut server = Server::new();
    server.start();
    let bus = server.bus().await;
    bus.apply().await.unwrap();
    let path = server.folder.path().join("ledger.sqlite");
    publish(&bus, 700).await;
    for _ in 0..3 {
        let audit = Audit::start(&server, &path, &[]);
        until_logged(&audit, "stream=\"OUTCOMES\"").await;
        drop(audit);
        std::fs::remove_file(server.folder.path().join("audit.log")).unwrap();
    }
    let begin = Instant::now();
    let mut audit = Audit::start(&server, &path, &[]);
    publish(&bus, 5).await;
    until_outcomes(&audit, &path, 705).await;
    assert!(begin.elapsed() < landfall_audit::consumer::ACK_WAIT, "{}", audit.log());
    assert!(audit.terminate().success());

    let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let sequences: Vec<i64> =
        sqlx::query_scalar("SELECT stream_sequence FROM outcomes ORDER BY rowid").fetch_all(&pool).await.unwrap();
    assert!(sequences.is_sorted(), "stored out of order");
    pool.close().await;
}

#[tokio::test]
async fn two_ledgers_do_not_share_a_consumer() {
    let mut server = Server::new();
    server.start();
    let bus = server.bus().await;
    bus.apply().await.unwrap();
    publish(&bus, 4).await;
    let (first, second) = (server.folder.path().join("a.sqlite"), server.folder.path().join("b.sqlite"));
    let audit = Audit::start(&server, &first, &[]);
    until_outcomes(&audit, &first, 4).await;

    let mut foreign = Audit::start(&server, &second, &[]);
    assert_eq!(foreign.ended().code(), Some(1));
    let log = foreign.log();
    assert!(log.contains("belongs to another ledger") && log.contains("hint: two ledgers cannot share"), "{log}");

    let other = Audit::start(&server, &second, &["--name", "audit-b"]);
    until_outcomes(&other, &second, 4).await;
    publish(&bus, 1).await;
    until_outcomes(&other, &second, 5).await;
    until_outcomes(&audit, &first, 5).await;
}
