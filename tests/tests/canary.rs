//! Secrets stay on the host: random ones are put wherever a host keeps secrets, deploys go well and badly in ways that repeat them, and then
//! everything that was written anywhere is searched for them.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use landfall_schema::outcome::{Outcome, OutcomeKind, ReasonCode};
use landfall_tests::database::Database;
use landfall_tests::image::AppImage;
use landfall_tests::lab::{Lab, program};
use landfall_tests::nats::NatsServer;
use landfall_tests::process::{Process, until};
use landfall_tests::registry::{PushedImage, Registry};
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;
use serde_json::json;

const LEDGER_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at the arguments of every process of this machine.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// What stands in a secret's place.
const MASK: &str = "***";

/// The random part of each secret, by what it is: found anywhere, however it was quoted, it is a leak.
struct Canaries(BTreeMap<&'static str, String>);

const KINDS: [&str; 9] = [
    "a password of .env",
    "a token of .env",
    "the database's password",
    "the database's password as a driver reads it",
    "a variable of an env_file",
    "a secret's file",
    "the registry's password",
    "the bus' password",
    "a wrong password for the bus",
];

impl Canaries {
    fn new() -> Self {
        let random = || RandomState::new().build_hasher().finish();
        Self(KINDS.map(|kind| (kind, format!("{:016x}{:016x}", random(), random()))).into())
    }

    fn of(&self, kind: &str) -> &str {
        &self.0[kind]
    }

    /// Which of them stand in these bytes.
    fn within(&self, bytes: &[u8]) -> Vec<&'static str> {
        let has = |canary: &str| bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
        // One pass over what is long: all canaries are hexadecimal and of one length.
        let looks_like = bytes.split(|byte| !byte.is_ascii_hexdigit()).any(|run| run.len() >= 32);
        if !looks_like {
            return Vec::new();
        }
        self.0.iter().filter(|(_, canary)| has(canary)).map(|(kind, _)| *kind).collect()
    }
}

/// Watches the arguments of every process of this machine until it is dropped.
struct Arguments {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<(Vec<String>, u64)>>,
}

impl Arguments {
    fn watch(canaries: &Arc<Canaries>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, canaries) = (Arc::clone(&stop), Arc::clone(canaries));
        let thread = std::thread::spawn(move || {
            let (mut found, mut looks) = (Vec::new(), 0);
            while !stopped.load(Ordering::Relaxed) {
                for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
                    // A process that has ended meanwhile has no arguments any more.
                    let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
                    if !canaries.within(&line).is_empty() {
                        found.push(String::from_utf8_lossy(&line).replace('\0', " "));
                    }
                }
                looks += 1;
                std::thread::sleep(LOOK_INTERVAL);
            }
            (found, looks)
        });
        Self { stop, thread: Some(thread) }
    }

    /// What was seen, and how often it was looked.
    fn end(mut self) -> (Vec<String>, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(|thread| thread.join().unwrap()).unwrap()
    }
}

/// Everything that was written, with the name of the place.
#[derive(Default)]
struct Sinks(Vec<(String, Vec<u8>)>);

impl Sinks {
    fn add(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((name.into(), bytes.into()));
    }

    fn add_folder(&mut self, folder: &Path, except: &[&str]) -> Result<()> {
        for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                self.add_folder(&path, except)?;
            } else if path.is_file() && !except.contains(&name.as_str()) {
                self.add(path.display().to_string(), std::fs::read(&path)?);
            }
        }
        Ok(())
    }

    fn leaks(&self, canaries: &Canaries) -> Vec<String> {
        let found = self.0.iter().map(|(name, bytes)| (name, canaries.within(bytes)));
        found.filter(|(_, kinds)| !kinds.is_empty()).map(|(name, kinds)| format!("{name}: {kinds:?}")).collect()
    }
}

/// What the stack gets of them, and the values around the random parts that make quoting hard.
fn put_secrets(directory: &Path, canaries: &Canaries, database: &Database) -> Result<()> {
    let env = directory.join(".env");
    let own = std::fs::read_to_string(&env)?;
    let wrong = format!("{}%40{}", canaries.of("the database's password"), canaries.of(KINDS[3]));
    let (scheme, rest) = database.url.split_once("://").context("no URL")?;
    let (login, place) = rest.split_once('@').context("no login")?;
    let user = login.split(':').next().unwrap_or(login);
    let lines = [
        format!("DB_PASSWORD='q\"7\\$ {}  x'", canaries.of("a password of .env")),
        format!("API_TOKEN={}", canaries.of("a token of .env")),
        format!("DATABASE_URL={scheme}://{user}:{wrong}@{place}"),
    ];
    std::fs::write(&env, format!("{own}{}\n", lines.join("\n")))?;
    std::fs::write(directory.join("extra.env"), format!("STRIPE={}\n", canaries.of("a variable of an env_file")))?;
    Ok(std::fs::write(directory.join("s.txt"), format!("{}\n", canaries.of("a secret's file")))?)
}

const WITH_SECRETS: &str = "environment: {DB_PASSWORD: \"${DB_PASSWORD}\", API_TOKEN: \"${API_TOKEN}\", DATABASE_URL: \"${DATABASE_URL}\"}\n\
                            env_file: [extra.env]\nsecrets: [s]";

fn with_secrets(image: &PushedImage) -> Stack {
    Stack::app(image).app_lines(WITH_SECRETS).top("secrets: {s: {file: ./s.txt}}")
}

/// The outcome says what it could not say in full.
fn assert_masked(outcome: &Outcome, kind: OutcomeKind, code: ReasonCode) {
    let reason = crate::expect::ended(outcome, kind, code);
    let told = format!("{reason:?}");
    assert!(told.contains(MASK), "nothing was masked, so nothing was tried: {told}");
}

const TELLS_ALL: &str = "env; echo \"url $DATABASE_URL\"; cat /run/secrets/s; printf '\\033[1m%.9s\\033[0m%s\\n' \"$API_TOKEN\" \"$(echo $API_TOKEN | cut -c10-)\"; sleep 0.2;";

#[tokio::test]
async fn secrets_of_the_host_are_told_nowhere() -> Result<()> {
    let canaries = Arc::new(Canaries::new());
    let lab = Lab::from_env()?;
    let password = canaries.of("the bus' password").to_owned();
    let nats = NatsServer::start_with_login(&lab, "landfall", &password).await?;
    let mut scenario = Scenario::on(lab, nats).await?;
    let password_file = scenario.folder().join("bus.password");
    std::fs::write(&password_file, &password)?;
    let arguments = Arguments::watch(&canaries);
    scenario
        .add_host("host-a", |settings| {
            settings.bus_lines = format!("user = \"landfall\"\npassword_file = {password_file:?}");
        })
        .await?;
    let database = Database::create(&scenario.lab).await?;
    put_secrets(&scenario.host().directory.clone(), &canaries, &database)?;
    let private = scenario.lab.private_registry.address.clone();
    let docker = scenario.host().executor.state_dir().with_file_name("docker");
    let login =
        json!({"auths": {private.clone(): {"username": "ci", "password": canaries.of("the registry's password")}}});
    std::fs::write(docker.join("config.json"), serde_json::to_vec(&login)?)?;
    let ledger = scenario.folder().join("ledger");
    std::fs::create_dir_all(&ledger)?;
    let audit_command = |arguments: &[&str], url: &str| -> Result<Command> {
        let mut command = Command::new(program("landfall-audit")?);
        command.args(["--database", &format!("sqlite://{}/ledger.db", ledger.display())]).args(arguments);
        command.env("NATS_URL", url).env("NATS_USER", "landfall").env("NATS_PASSWORD", &password);
        Ok(command)
    };
    let url = scenario.nats.url();
    let audit = Process::start("landfall-audit", &mut audit_command(&["run"], &url)?, &ledger.join("audit.log"))?;

    deploys(&mut scenario, &private).await?;

    let mut sinks = Sinks::default();
    outputs(&scenario, &canaries, &mut sinks).await?;
    until("the ledger has the last release", LEDGER_LIMIT, async || {
        let output = audit_command(&["history", "--output", "json"], &url)?.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(text.lines().next().is_some_and(|line| line.contains("good-again")), "{text}");
        Ok(())
    })
    .await?;
    sinks.add("landfall-audit history", audit_command(&["history", "--output", "json"], &url)?.output()?.stdout);
    // As a power cut would leave it: with what is only in the journal's write-ahead log.
    scenario.host().executor.kill();
    drop(audit);
    sinks.add("the executor's log", scenario.host().executor.whole_log()?);
    sinks.add_folder(&scenario.host().executor.state_dir(), &[])?;
    sinks.add_folder(&ledger, &[])?;
    sinks.add_folder(&scenario.nats.store(), &[])?;
    let events: Vec<u8> = scenario.outcomes.seen().iter().flat_map(|one| one.message.body.to_vec()).collect();
    sinks.add("the events", events);
    let (found, looks) = arguments.end();
    for (name, bytes) in &sinks.0 {
        eprintln!("{name}: {} bytes", bytes.len());
    }
    let names: Vec<&str> = sinks.0.iter().map(|(name, _)| name.as_str()).collect();
    for expected in ["journal.sqlite", "journal.sqlite-wal", "ledger.db", ".blk", "audit.log"] {
        assert!(names.iter().any(|name| name.ends_with(expected)), "no sink {expected} in {names:#?}");
    }
    assert!(looks > 100, "the processes were looked at {looks} times only");
    assert!(found.is_empty(), "in the arguments of a process: {found:#?}");
    let leaks = sinks.leaks(&canaries);
    assert!(leaks.is_empty(), "{leaks:#?}");
    Ok(())
}

/// Well, and badly in every way in which something repeats a secret.
async fn deploys(scenario: &mut Scenario, private: &str) -> Result<()> {
    let good = AppImage::version("v1").script(&format!("{TELLS_ALL} exec httpd -f -p 8080 -h /www"));
    let v1 = scenario.push("v1", good).await?;
    scenario.succeed(&with_secrets(&v1)).await?;

    // The application prints all it knows, and ends.
    let exits = scenario.push("exits", AppImage::version("v2").script(&format!("{TELLS_ALL} exit 3"))).await?;
    let outcome = scenario.deploy(&with_secrets(&exits)).await?;
    assert_masked(&outcome, OutcomeKind::DeployRolledBack, ReasonCode::ContainerExited);

    // Compose quotes a value that it cannot use.
    for line in ["mem_limit: \"${DB_PASSWORD}\"", "ports: [\"${API_TOKEN}:81\"]", "cpus: \"${DATABASE_URL}\""] {
        let outcome = scenario.deploy(&Stack::app(&v1).app_lines(line)).await?;
        assert_masked(&outcome, OutcomeKind::DeployFailed, ReasonCode::ComposeInvalid);
    }
    let outcome = scenario.deploy(&Stack::app_with(&v1, "role: \"${API_TOKEN}\"")).await?;
    assert_masked(&outcome, OutcomeKind::DeployFailed, ReasonCode::SettingsInvalid);
    // The engine quotes a command that it cannot start.
    let outcome = scenario.deploy(&with_secrets(&v1).app_lines("working_dir: /x\nuser: \"${API_TOKEN}\"")).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeployRolledBack, "{outcome:#?}");

    // A migrator prints where it connects to; SQL files are refused by the database for the password's sake.
    let tells = scenario.push("migrator", AppImage::version("m").script(&format!("{TELLS_ALL} exit 1"))).await?;
    let migrator = with_secrets(&v1).service("migrator", &tells, WITH_SECRETS, "role: migrate\ndatabase: shop");
    let outcome = scenario.deploy(&migrator).await?;
    assert_masked(&outcome, OutcomeKind::DeployFailed, ReasonCode::MigrationFailed);
    let sql = AppImage::version("v3").migration("0001_x.sql", "CREATE TABLE x (id BIGINT);");
    let sql = scenario.push("sql", sql).await?;
    let settings = "migrations: {path: /migrations, url: \"${DATABASE_URL}\", database: shop}";
    let outcome = scenario.deploy(&with_secrets(&sql).app_settings(settings)).await?;
    assert_eq!(outcome.kind, OutcomeKind::DeployFailed, "{outcome:#?}");

    // The smoke test asks with a secret in its address.
    let smoke = "smoke:\n  - http: {url: \"http://u:${API_TOKEN}@127.0.0.1:${HTTP_PORT}/none?k=${API_TOKEN}\"}\nsmoke_deadline_ms: 1500";
    let outcome = scenario.deploy(&with_secrets(&v1).app_lines("labels: {x: y}").settings(smoke)).await?;
    assert_masked(&outcome, OutcomeKind::DeployRolledBack, ReasonCode::SmokeFailed);

    // A login that the registry does not take.
    let registry = Registry::private(&scenario.lab)?;
    let image = registry.push(&scenario.repository, "v4", &AppImage::version("v4")).await?;
    let outcome = scenario.deploy(&Stack::app(&image)).await?;
    crate::expect::ended(&outcome, OutcomeKind::DeployFailed, ReasonCode::RegistryDenied);
    assert!(outcome.message.contains(private) || format!("{outcome:?}").contains(private), "{outcome:#?}");

    // A line of .env that nobody can read.
    let env = scenario.host().directory.join(".env");
    let text = std::fs::read_to_string(&env)?;
    let token = text.lines().find(|line| line.starts_with("API_TOKEN=")).context("no token")?.to_owned();
    std::fs::write(&env, format!("{text}{}!\n", token.replace("API_TOKEN=", "")))?;
    let outcome = scenario.deploy(&with_secrets(&v1)).await?;
    crate::expect::ended(&outcome, OutcomeKind::DeployFailed, ReasonCode::EnvFileMissing);
    std::fs::write(&env, text)?;

    let again = scenario.push("good-again", AppImage::version("good-again")).await?;
    let mut draft = scenario.draft(&with_secrets(&again))?;
    draft.event.data.release = "good-again".parse()?;
    scenario.publish(&draft).await?;
    let outcome = scenario.terminal(0, draft.counter()).await?;
    ensure!(outcome.kind == OutcomeKind::DeploySucceeded, "{outcome:#?}");
    Ok(())
}

/// What the command line says, and both programs with a password that the bus does not take.
async fn outputs(scenario: &Scenario, canaries: &Canaries, sinks: &mut Sinks) -> Result<()> {
    let login = |password: &str| -> Result<_> {
        Ok(scenario.cli()?.variable("NATS_USER", "landfall").variable("NATS_PASSWORD", password))
    };
    let cli = login(canaries.of("the bus' password"))?;
    for arguments in [
        &["status", "shop"][..],
        &["status", "--output", "json"],
        &["history", "shop"],
        &["history", "shop", "--output", "json"],
        &["hosts", "--output", "json"],
    ] {
        let run = cli.run(arguments).await?;
        ensure!(run.code == 0, "landfall {arguments:?}: {}", run.stderr);
        sinks.add(format!("landfall {arguments:?}"), format!("{}{}", run.stdout, run.stderr));
    }
    let wrong = canaries.of("a wrong password for the bus");
    let run = login(wrong)?.run(&["status"]).await?;
    ensure!(run.code != 0, "a wrong password was taken");
    sinks.add("landfall status, not let in", format!("{}{}", run.stdout, run.stderr));
    let url = scenario.nats.url().replace("nats://", &format!("nats://landfall:{wrong}@"));
    let run = scenario.cli()?.variable("NATS_URL", &url).run(&["status"]).await?;
    ensure!(run.code != 0, "a wrong password was taken");
    sinks.add("landfall status, not let in by its URL", format!("{}{}", run.stdout, run.stderr));

    let folder: PathBuf = scenario.folder().join("not-let-in");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("bus.password");
    std::fs::write(&file, wrong)?;
    let mut settings = scenario.hosts[0].executor.settings.clone();
    settings.host = "host-b".to_owned();
    settings.bus_lines = format!("user = \"landfall\"\npassword_file = {file:?}");
    let output = landfall_tests::executor::ExecutorProcess::new(&folder, settings).check()?;
    ensure!(!output.status.success(), "a wrong password was taken");
    sinks.add("landfall-executor --check, not let in", [output.stdout, output.stderr].concat());
    Ok(())
}
