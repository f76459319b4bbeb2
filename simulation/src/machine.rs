//! A simulated host: its disk, its clock, what runs on it, and the executor's process, which lives and is killed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use futures_util::stream;
use landfall_bus::Address;
use landfall_executor::config::Config;
use landfall_executor::daemon::{Signals, run_on};
use landfall_executor::journal::FILE_NAME;
use landfall_executor::world::{Step, World, live};
use landfall_schema::Timestamp;
use landfall_schema::ids::{Digest, EventId, HostName};
use landfall_schema::signature::SigningKey;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::crew::SimulatedHost;
use crate::server::Link;
use crate::simulation::Sim;

/// What runs of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) digest: Digest,
    /// Of the order that started it.
    pub(crate) counter: u64,
    /// Since then it was brought back, and serves.
    pub(crate) is_healthy: bool,
}

/// Where the process is to be killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ambush {
    pub(crate) step: Step,
    /// At the how manieth passing, from 1.
    pub(crate) nth: u64,
    /// The write that was just made is only half on the disk.
    pub(crate) is_torn: bool,
}

pub(crate) struct Machine {
    pub(crate) name: HostName,
    key: SigningKey,
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    skew_ms: i64,
    was_ever_wrong: bool,
    container: Option<Container>,
    process: Option<Process>,
    /// How often it was started.
    starts: u64,
    ids: u64,
    is_disk_full: bool,
    /// The first one is lain in wait for; the others follow.
    ambushes: Vec<Ambush>,
    ambushed: u64,
    /// How often each step was reached.
    reached: BTreeMap<Step, u64>,
    wal_bytes_before: u64,
    /// When it had written down what the rules of the environment are.
    knows_the_rules_since: Option<u64>,
}

struct Process {
    life: Arc<Life>,
    signals: UnboundedSender<&'static str>,
}

impl Machine {
    pub(crate) fn new(name: HostName, key: SigningKey, folder: PathBuf) -> Arc<Self> {
        Arc::new(Self { name, key, folder, state: Mutex::default() })
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn container(&self) -> Option<Container> {
        self.state().container.clone()
    }

    pub(crate) fn run(&self, container: Option<Container>) {
        self.state().container = container;
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state().process.is_some()
    }

    pub(crate) fn set_skew(&self, skew_ms: i64) {
        let mut state = self.state();
        state.skew_ms = skew_ms;
        state.was_ever_wrong |= skew_ms != 0;
    }

    /// Its clock was; what it told the time of may be as well.
    pub(crate) fn was_ever_wrong(&self) -> bool {
        self.state().was_ever_wrong
    }

    pub(crate) fn fill_disk(&self, is_full: bool) {
        self.state().is_disk_full = is_full;
    }

    pub(crate) fn lie_in_wait(&self, ambush: Ambush) {
        let mut state = self.state();
        // From here on; one after the other.
        if state.ambushes.is_empty() {
            state.reached.remove(&ambush.step);
        }
        state.ambushes.push(ambush);
    }

    /// Whether it had the environment's rules on its disk then.
    pub(crate) fn knew_the_rules(&self, at_ms: u64) -> bool {
        self.state().knows_the_rules_since.is_some_and(|since| since <= at_ms)
    }

    /// How often it was killed where somebody lay in wait.
    pub(crate) fn ambushed(&self) -> u64 {
        self.state().ambushed
    }

    /// How often every step was reached.
    pub(crate) fn steps(&self) -> BTreeMap<Step, u64> {
        self.state().reached.clone()
    }

    pub(crate) fn count_anew(&self) {
        self.state().reached.clear();
    }

    pub(crate) fn disarm(&self) {
        self.state().ambushes.clear();
    }

    /// The state directory of the process that runs, or ran last.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir_of(self.state().starts)
    }

    fn dir_of(&self, start: u64) -> PathBuf {
        self.folder.join(start.to_string())
    }

    /// Starts the executor on what the disk holds.
    pub(crate) fn start(self: &Arc<Self>, sim: &Arc<Sim>) -> Result<()> {
        let start = {
            let mut state = self.state();
            if state.process.is_some() {
                return Ok(());
            }
            state.starts += 1;
            state.starts
        };
        let dir = self.dir_of(start);
        std::fs::create_dir_all(&dir)?;
        let before = match start {
            1 => sim.template.path().to_owned(),
            _ => self.dir_of(start - 1).join("left"),
        };
        copy_journal(&before, &dir).context("the journal of a simulated host")?;
        let config = self.config(sim, &dir)?;
        let life = Arc::new(Life {
            machine: Arc::clone(self),
            sim: Arc::clone(sim),
            dir,
            ending: CancellationToken::new(),
            parts: TaskTracker::new(),
        });
        let (signals, received) = unbounded_channel();
        let received = stream::unfold(received, |mut received| async { Some((received.recv().await?, received)) });
        let link = Link { server: Arc::clone(&sim.server), host: self.name.clone() };
        let site = SimulatedHost { machine: Arc::clone(self), sim: Arc::clone(sim) };
        let process = run_on(
            site,
            config,
            SigningKey::from_seed(&self.key.seed()?)?,
            Address::Simulated(Arc::new(link)),
            Signals::of(received.boxed()),
        );
        sim.trace.say(&self.name, format_args!("start {start}"));
        let ended = Arc::clone(&life);
        let lived = live(life.clone(), process);
        tokio::spawn(async move {
            // Whoever killed it sees to the rest.
            let Some(result) = lived.await else { return };
            if let Err(error) = result {
                let (sim, name) = (&ended.sim, &ended.machine.name);
                sim.violated("process", format_args!("{name}: the executor ended by itself: {error}"));
            }
            ended.end(None, "ended in order");
        });
        self.state().process = Some(Process { life, signals });
        Ok(())
    }

    /// As SIGTERM does.
    pub(crate) fn terminate(&self) {
        if let Some(process) = &self.state().process {
            // A process that has just ended hears nothing more.
            let _ = process.signals.send("SIGTERM");
        }
    }

    /// As SIGKILL does, or a power cut: nothing that is in memory lives on.
    pub(crate) fn kill(&self) {
        let life = self.state().process.as_ref().map(|process| Arc::clone(&process.life));
        if let Some(life) = life {
            life.end(None, "killed");
        }
    }

    fn config(&self, sim: &Sim, dir: &Path) -> Result<Config> {
        let Self { name, .. } = self;
        let (trusted, admin) = (sim.keys.promoter.public(), sim.keys.admin.public());
        let text = format!(
            "host = \"{name}\"\nenv = \"{}\"\nstate_dir = {dir:?}\n[bus]\nurl = \"nats://simulated\"\n[trust]\npromote = [\"{trusted}\"]\nadmin = [\"{admin}\"]\n[apps.{}]\ndirectory = {dir:?}\n",
            sim.env, sim.app
        );
        Config::parse(&text, &|_| None).map_err(|problems| anyhow::anyhow!("{problems:?}"))
    }
}

/// One process from its start to its end.
struct Life {
    machine: Arc<Machine>,
    sim: Arc<Sim>,
    dir: PathBuf,
    ending: CancellationToken,
    parts: TaskTracker,
}

impl Life {
    /// Nothing of the process goes on; what is on its disk stays.
    fn end(&self, torn_at: Option<u64>, why: &str) {
        if self.ending.is_cancelled() {
            return;
        }
        self.sim.trace.say(&self.machine.name, why);
        self.leave(torn_at);
        self.ending.cancel();
        self.parts.close();
        self.machine.state().process = None;
        self.sim.died(&self.machine.name);
    }

    /// What of the journal is on the disk; the end of the write-ahead log may be cut off.
    fn leave(&self, torn_at: Option<u64>) {
        let left = self.dir.join("left");
        let kept = std::fs::create_dir_all(&left).map_err(anyhow::Error::from).and_then(|()| {
            copy_journal(&self.dir, &left)?;
            if let Some(bytes) = torn_at {
                let file = std::fs::File::options().write(true).open(left.join(wal()))?;
                file.set_len(bytes)?;
            }
            Ok(())
        });
        if let Err(error) = kept {
            self.sim.violated("simulator", format_args!("the disk of {} cannot be kept: {error:#}", self.machine.name));
        }
    }

    fn wal_bytes(&self) -> u64 {
        std::fs::metadata(self.dir.join(wal())).map_or(0, |metadata| metadata.len())
    }
}

impl World for Life {
    fn now(&self) -> Timestamp {
        self.sim.clock.wrong_by(self.machine.state().skew_ms)
    }

    fn new_id(&self) -> EventId {
        let mut state = self.machine.state();
        state.ids += 1;
        let now = self.sim.clock.wrong_by(state.skew_ms).as_millisecond();
        let mut rest = [0; 10];
        rest[..4].copy_from_slice(&u32::try_from(state.ids).unwrap_or(u32::MAX).to_be_bytes());
        rest[4..].copy_from_slice(&self.sim.chance.any().to_be_bytes()[..6]);
        EventId(uuid::Builder::from_unix_timestamp_millis(u64::try_from(now).unwrap_or(0), &rest).into_uuid())
    }

    fn random(&self) -> u64 {
        self.sim.chance.any()
    }

    fn ending(&self) -> CancellationToken {
        self.ending.clone()
    }

    fn parts(&self) -> TaskTracker {
        self.parts.clone()
    }

    fn reached(&self, step: Step) {
        if self.ending.is_cancelled() {
            return;
        }
        let mut state = self.machine.state();
        if matches!(step, Step::BeforeWrite(_)) {
            state.wal_bytes_before = self.wal_bytes();
        }
        let times = state.reached.entry(step).or_default();
        *times += 1;
        let times = *times;
        if state.ambushes.first().is_none_or(|ambush| ambush.step != step || ambush.nth > times) {
            if step == Step::AfterWrite("keep_rule") {
                state.knows_the_rules_since.get_or_insert_with(|| self.sim.trace.elapsed_ms());
            }
            return;
        }
        let ambush = state.ambushes.remove(0);
        state.ambushed += 1;
        if let Some(following) = state.ambushes.first().map(|ambush| ambush.step) {
            state.reached.remove(&following);
        }
        let before = state.wal_bytes_before;
        drop(state);
        let after = self.wal_bytes();
        // Where the log was begun anew, nothing tells which part of it is new.
        let torn_at = (ambush.is_torn && after > before).then(|| before + self.sim.chance.below(after - before));
        let torn = if torn_at.is_some() { ", and the write is torn" } else { "" };
        self.end(torn_at, &format!("killed {step:?}{torn}"));
    }

    fn disk(&self) -> &tokio::runtime::Runtime {
        &self.sim.disk
    }

    fn disk_trouble(&self, _what: &str) -> Option<std::io::Error> {
        let is_full = self.machine.state().is_disk_full;
        is_full.then(|| std::io::Error::from(std::io::ErrorKind::StorageFull))
    }
}

fn wal() -> String {
    format!("{FILE_NAME}-wal")
}

fn copy_journal(from: &Path, to: &Path) -> Result<()> {
    for name in [FILE_NAME.to_owned(), wal()] {
        match std::fs::copy(from.join(&name), to.join(&name)) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(name),
        }
    }
    Ok(())
}
