//! One host: what the daemon is made of, without signals and without an engine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use landfall_bus::{ConnectOptions, Delivered};
use landfall_executor::announce::Announcer;
use landfall_executor::config::TrustConfig;
use landfall_executor::fleet::{Fleet, Missed, Parts};
use landfall_executor::gates::Gates;
use landfall_executor::intake::{self, Facts, Handled, MessageId, PreviewFacts, Verdict};
use landfall_executor::journal::Journal;
use landfall_executor::link::{BusHandle, Delivery, Link};
use landfall_executor::outbox::{Outbox, OutboxBell};
use landfall_executor::presence::Beat;
use landfall_executor::settle::{Held, How};
use landfall_executor::worker::{Job, Shared, Worker};
use landfall_schema::Timestamp;
use landfall_schema::ids::{AppName, EnvName, HostName};
use landfall_schema::layout::ACK_PROGRESS_INTERVAL;
use landfall_schema::signature::{PublicKey, SigningKey};
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::engine::SimulatedEngine;

/// As the daemon's.
const DELIVERIES_QUEUE: usize = 64;
const KEEP_RELEASES: usize = 3;
/// Presence asks the engine for its version; nobody answers, and it says so.
const NO_ENGINE: &str = "unix:///nonexistent/docker.sock";

/// What all hosts have in common.
pub(crate) struct Setup {
    pub(crate) bus_url: String,
    pub(crate) env: EnvName,
    pub(crate) app: AppName,
    pub(crate) trusted: PublicKey,
    pub(crate) folder: PathBuf,
}

pub(crate) struct Host {
    name: HostName,
    env: EnvName,
    trusted: Vec<PublicKey>,
    apps: BTreeMap<AppName, ()>,
    journal: Journal,
    fleet: Fleet,
    inbox: mpsc::UnboundedSender<Job>,
    deliveries: mpsc::Receiver<Delivery>,
    sweeps: mpsc::Receiver<Vec<Delivered>>,
    missed: mpsc::Receiver<Missed>,
    settled: mpsc::UnboundedReceiver<MessageId>,
    held: Held,
}

impl Host {
    /// Starts everything that runs beside the host's own loop.
    pub(crate) async fn start(name: HostName, setup: &Setup) -> Result<Self> {
        let folder = setup.folder.join(name.as_str());
        std::fs::create_dir_all(&folder)?;
        let journal = Journal::open(&folder).await?;
        let announcer = Arc::new(Announcer::new(setup.env.clone(), name.clone(), SigningKey::generate()));
        // Nobody ends a simulated host in good order: its process ends.
        let running = CancellationToken::new();
        let (deliver, deliveries) = mpsc::channel(DELIVERIES_QUEUE);
        let (swept, sweeps) = mpsc::channel(1);
        let (miss, missed) = mpsc::channel(DELIVERIES_QUEUE);
        let (settle, settled) = mpsc::unbounded_channel();
        let options = ConnectOptions {
            url: setup.bus_url.clone(),
            name: format!("landfall-executor-{name}"),
            ..ConnectOptions::default()
        };
        let link = Link { options, env: setup.env.clone(), host: name.clone(), deliveries: deliver, sweeps: swept };
        let bus = link.start(running.clone());
        let bell = OutboxBell::default();
        tokio::spawn(Outbox::new(journal.clone(), bus.clone(), bell.clone(), settle).run(running.clone()));
        let trusted = vec![setup.trusted.clone()];
        let trust = TrustConfig { promote: trusted.clone(), admin: Vec::new() };
        let gates = Gates::new(
            setup.env.clone(),
            &trust,
            bus.clone(),
            journal.clone(),
            Arc::clone(&announcer),
            running.clone(),
        );
        let fleet = Fleet::new(Parts {
            bus: bus.clone(),
            journal: journal.clone(),
            announcer: Arc::clone(&announcer),
            bell: bell.clone(),
            trusted: trusted.clone(),
            gates: gates.clone(),
            missed: miss,
            stop: running.clone(),
        });
        let shared = Shared {
            env: setup.env.clone(),
            journal: journal.clone(),
            announcer,
            bell,
            changed: Arc::new(Notify::new()),
            keep_releases: KEEP_RELEASES,
            draining: running.clone(),
            parking: running,
        };
        let (inbox, jobs) = mpsc::unbounded_channel();
        let engine = SimulatedEngine { bus: bus.clone(), fleet: fleet.clone(), gates };
        tokio::spawn(Worker::new(setup.app.clone(), Arc::new(engine), jobs, shared.clone()).run());
        beat(&name, setup, &shared, bus, folder);
        let (env, apps, held) = (setup.env.clone(), BTreeMap::from([(setup.app.clone(), ())]), Held::default());
        Ok(Self { name, env, trusted, apps, journal, fleet, inbox, deliveries, sweeps, missed, settled, held })
    }

    /// Until something is wrong.
    pub(crate) async fn run(mut self) -> Result<()> {
        let mut still_working = interval(ACK_PROGRESS_INTERVAL);
        still_working.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(Delivery { delivered, message }) = self.deliveries.recv() => {
                    match self.take(&delivered).await.with_context(|| self.name.to_string())? {
                        Some(id) => self.held.hold(id, message, How::Ack),
                        None => self.held.settle_now(message, How::Ack),
                    }
                }
                Some(swept) = self.sweeps.recv() => for delivered in swept {
                    self.take(&delivered).await.with_context(|| self.name.to_string())?;
                },
                Some(missed) = self.missed.recv() => bail!("{} has missed {}", self.name, missed.counter),
                Some(message) = self.settled.recv() => self.held.settle(&message),
                _ = still_working.tick() => self.held.still_working(),
            }
        }
    }

    /// As the daemon does; with the message's id while it is not told how it ended. Refusals are not to be expected here.
    async fn take(&self, delivered: &Delivered) -> Result<Option<MessageId>> {
        let id = MessageId::of(delivered);
        match self.journal.handled(&id).await? {
            Some(Handled::Told) => return Ok(None),
            Some(Handled::UnderWay) => return Ok(Some(id)),
            None => {}
        }
        let app = intake::app_of(&delivered.subject, &self.env).context("the subject of another environment")?;
        let now = Timestamp::now();
        let facts = Facts {
            host: &self.name,
            env: &self.env,
            labels: &BTreeMap::new(),
            trusted: &self.trusted,
            apps: &self.apps,
            previews: PreviewFacts { takes: &BTreeMap::new(), here: &BTreeMap::new() },
            now,
            standing: self.journal.standing(&self.env, &app).await?,
            is_known: false,
        };
        match intake::judge(delivered, &facts) {
            Verdict::Ignore(_) => Ok(None),
            Verdict::Take(taken) => {
                self.journal.take(&taken, now).await?;
                self.fleet.decide(&taken.order);
                self.inbox.send(Job::new(*taken)).map_err(|_| anyhow::anyhow!("the worker has ended"))?;
                Ok(Some(id))
            }
            Verdict::Refuse { reason, .. } | Verdict::DeadLetter { reason, .. } => bail!("refused: {}", reason.message),
        }
    }
}

/// The host's signs of life, from the moment at which somebody can hear them.
fn beat(name: &HostName, setup: &Setup, shared: &Shared, bus: BusHandle, state_dir: PathBuf) {
    let mut first_contact = bus.clone();
    let beat = Beat {
        env: setup.env.clone(),
        host: name.clone(),
        labels: BTreeMap::new(),
        apps: vec![setup.app.clone()],
        previews: BTreeSet::new(),
        state_dir,
        docker_host: NO_ENGINE.to_owned(),
        journal: shared.journal.clone(),
        announcer: Arc::clone(&shared.announcer),
        publisher: bus,
        changed: Arc::clone(&shared.changed),
    };
    tokio::spawn(async move {
        first_contact.reached().await;
        beat.run().await;
    });
}
