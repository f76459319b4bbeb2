//! The daemon: opens what it owns, starts its tasks, and then is one loop over everything that can happen.

mod arrivals;
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, Stream, StreamExt as _};
use landfall_bus::{Address, Delivered};
use landfall_deploy::Order;
use landfall_schema::ids::{AppName, Counter};
use landfall_schema::layout::ACK_PROGRESS_INTERVAL;
use landfall_schema::outcome::Reason;
use landfall_schema::signature::SigningKey;
use sd_notify::NotifyState;
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::announce::Announcer;
use crate::config::Config;
use crate::fleet::{self, Fleet, Missed};
use crate::gates::Gates;
use crate::identity::{IdentityError, StateDir};
use crate::intake::MessageId;
use crate::journal::{Journal, JournalError, Unfinished};
use crate::link::{Delivery, Link, connect_options};
use crate::outbox::{Outbox, OutboxBell};
use crate::presence::Beat;
use crate::settle::Held;
use crate::site::{DockerHost, Means, Site};
use crate::worker::Shared;
use crate::world::within;

use workers::Workers;

/// After the first SIGTERM the effects in hand may go on for this time; then they are parked. systemd's TimeoutStopSec is longer.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(25);
/// Time to tell the bus what is left when the work has ended.
const OUTBOX_FLUSH: Duration = Duration::from_secs(5);
/// Deliveries that wait to be judged.
const DELIVERIES_QUEUE: usize = 64;

#[derive(Debug, Error)]
pub enum DaemonError {
    #[error(
        "a part of the executor ended by a defect; the log above tells more\n  hint: start it again, the journal goes on where it was"
    )]
    Defect,
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("cannot read bus.password_file")]
    Password(#[source] std::io::Error),
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    #[error("cannot prepare {app}: {}", reason.message)]
    Hands { app: AppName, reason: Box<Reason> },
}

/// Runs until a signal.
///
/// # Errors
/// [`DaemonError`] before anything was begun; [`DaemonError::Defect`] when a worker or the outbox ended by itself.
pub async fn run(config: Config) -> Result<(), DaemonError> {
    let signals = Signals::listen().map_err(DaemonError::Signals)?;
    let state = StateDir::open(&config.state_dir)?;
    let key = state.host_key()?;
    let options = connect_options(&config.bus, &config.host).map_err(DaemonError::Password)?;
    let ended = run_on(DockerHost, config, key, Address::Nats(options), signals).await;
    drop(state);
    ended
}

/// On a given machine, until a signal. The state directory is the caller's.
///
/// # Errors
/// As [`run`].
pub async fn run_on<S: Site>(
    site: S,
    config: Config,
    key: SigningKey,
    address: Address,
    signals: Signals,
) -> Result<(), DaemonError> {
    let journal = Journal::open(&config.state_dir).await?;
    let unfinished = journal.unfinished(&config.host).await?;
    info!(
        host = %config.host, env = %config.env, key = %key.public(), apps = config.apps.len(), unfinished = unfinished.len(),
        "landfall-executor {} starts", env!("CARGO_PKG_VERSION")
    );
    if config.apps.is_empty() && config.previews.is_empty() {
        warn!("the configuration names no application, so this host takes no promotion");
    }
    let announcer = Arc::new(Announcer::new(config.env.clone(), config.host.clone(), key));
    let previews = journal.previews(&config.env, &config.host).await?;
    let daemon = Daemon::start(Arc::new(site), config, journal, announcer, address, unfinished, &previews)?;
    daemon.resume_rollouts().await?;
    daemon.run(signals).await
}

/// The signals that ask the daemon to end, by name.
pub struct Signals(BoxStream<'static, &'static str>);

impl Signals {
    fn listen() -> Result<Self, std::io::Error> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self(stream::select(every(terminate, "SIGTERM"), every(interrupt, "SIGINT")).boxed()))
    }

    /// From elsewhere than the system.
    pub fn of(signals: BoxStream<'static, &'static str>) -> Self {
        Self(signals)
    }

    /// Never resolves again once nobody can send any.
    async fn next(&mut self) -> &'static str {
        match self.0.next().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}

fn every(signal: Signal, name: &'static str) -> impl Stream<Item = &'static str> + Send {
    stream::unfold(signal, move |mut signal| async move { signal.recv().await.map(|()| (name, signal)) })
}

struct Daemon<S> {
    config: Arc<Config>,
    journal: Journal,
    announcer: Arc<Announcer>,
    bell: OutboxBell,
    held: Held,
    fleet: Fleet,
    workers: Workers<S>,
    deliveries: mpsc::Receiver<Delivery>,
    sweeps: mpsc::Receiver<Vec<Delivered>>,
    missed: mpsc::Receiver<Missed>,
    /// The newest promotion of each application that is for other hosts, and below which it was looked for what this host has missed.
    passed_by: BTreeMap<AppName, Counter>,
    /// By application, the message of the register behind which it was looked whether a newer one is there.
    looked_past: BTreeMap<AppName, u64>,
    settled: mpsc::UnboundedReceiver<MessageId>,
    outbox: JoinSet<()>,
    beat: JoinSet<()>,
    still_working: Interval,
    watchdog: Option<Interval>,
    /// Nothing new is taken.
    draining: CancellationToken,
    /// What is in hand is dropped.
    parking: CancellationToken,
    /// The outbox publishes what is left, and ends.
    flushing: CancellationToken,
}

impl<S: Site> Daemon<S> {
    fn start(
        site: Arc<S>,
        config: Config,
        journal: Journal,
        announcer: Arc<Announcer>,
        address: Address,
        unfinished: Vec<Unfinished>,
        previews: &[Order],
    ) -> Result<Self, DaemonError> {
        let config = Arc::new(config);
        let (draining, parking, flushing) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let (deliver, deliveries) = mpsc::channel(DELIVERIES_QUEUE);
        let (swept, sweeps) = mpsc::channel(1);
        let (miss, missed) = mpsc::channel(DELIVERIES_QUEUE);
        let (settle, settled) = mpsc::unbounded_channel();
        let link =
            Link { address, env: config.env.clone(), host: config.host.clone(), deliveries: deliver, sweeps: swept };
        let bus = link.start(draining.clone());
        let first_contact = bus.clone();

        let bell = OutboxBell::default();
        let outbox = Outbox::new(journal.clone(), bus.clone(), bell.clone(), settle);
        let changed = Arc::new(Notify::new());
        let shared = Shared {
            env: config.env.clone(),
            journal: journal.clone(),
            announcer: Arc::clone(&announcer),
            bell: bell.clone(),
            changed: Arc::clone(&changed),
            keep_releases: config.keep_releases,
            draining: draining.clone(),
            parking: parking.clone(),
        };
        let gates = Gates::new(
            config.env.clone(),
            &config.trust,
            bus.clone(),
            journal.clone(),
            Arc::clone(&announcer),
            draining.clone(),
        );
        let reading_ahead = draining.clone().run_until_cancelled_owned(gates.clone().keep_up());
        tokio::spawn(within(reading_ahead));
        let fleet = Fleet::new(fleet::Parts {
            bus: bus.clone(),
            journal: journal.clone(),
            announcer: Arc::clone(&announcer),
            bell: bell.clone(),
            trusted: config.trust.promote.clone(),
            gates: gates.clone(),
            missed: miss,
            stop: draining.clone(),
        });
        let means = Means {
            config: Arc::clone(&config),
            bus: bus.clone(),
            fleet: fleet.clone(),
            gates,
            announcer: Arc::clone(&announcer),
        };
        let workers = Workers::start(Arc::clone(&site), means, shared, unfinished, previews)?;
        let beat = Beat {
            site,
            config: Arc::clone(&config),
            journal: journal.clone(),
            announcer: Arc::clone(&announcer),
            publisher: bus,
            changed,
        };
        let (mut outboxes, mut beats) = (JoinSet::new(), JoinSet::new());
        outboxes.spawn(within(outbox.run(flushing.clone())));
        beats.spawn(within(async move {
            // Before that nobody could hear it; right after it everybody who waits for this host should.
            first_contact.reached().await;
            beat.run().await;
        }));
        Ok(Self {
            config,
            journal,
            announcer,
            bell,
            held: Held::default(),
            fleet,
            workers,
            deliveries,
            sweeps,
            missed,
            passed_by: BTreeMap::new(),
            looked_past: BTreeMap::new(),
            settled,
            outbox: outboxes,
            beat: beats,
            still_working: ticking(ACK_PROGRESS_INTERVAL),
            // Twice within the time that systemd waits.
            watchdog: sd_notify::watchdog_enabled().map(|limit| ticking(limit / 2)),
            draining,
            parking,
            flushing,
        })
    }

    /// A host whose own deploy has ended still has its part in the rollout, and may have missed how it ended.
    async fn resume_rollouts(&self) -> Result<(), JournalError> {
        let Config { host, env, apps, .. } = &*self.config;
        let previews = self.journal.previews(env, host).await?;
        for app in apps.keys().chain(previews.iter().map(|order| &order.promotion.app)) {
            if let Some(taken) = self.journal.newest(host, env, app).await? {
                self.fleet.decide(&taken.order);
                self.fleet.catch_up(env, app, taken.order.promotion.counter);
            }
        }
        Ok(())
    }

    async fn run(mut self, mut signals: Signals) -> Result<(), DaemonError> {
        tell_systemd(&[NotifyState::Ready]);
        // Workers and the outbox never end before they are told to. An executor that has lost one would take promotions and stay silent.
        let (why, ended) = loop {
            tokio::select! {
                // What is rare and urgent first; however much is delivered, nothing else has to wait for its end.
                biased;
                received = signals.next() => break (received, Ok(())),
                () = tick(&mut self.watchdog) => tell_systemd(&[NotifyState::Watchdog]),
                _ = self.still_working.tick() => self.held.still_working(),
                Some(message) = self.settled.recv() => self.held.settle(&message),
                Some(ended) = self.workers.join_next() => if self.workers.is_lost(ended) {
                    break ("a worker ended", Err(DaemonError::Defect));
                },
                Some(ended) = self.outbox.join_next() => {
                    worker_ended(ended);
                    break ("the outbox ended", Err(DaemonError::Defect));
                }
                Some(missed) = self.missed.recv() => self.take_missed(missed).await,
                Some(swept) = self.sweeps.recv() => self.take_sweep(swept).await,
                Some(delivery) = self.deliveries.recv() => self.take_delivery(delivery).await,
            }
        };
        info!("{why}: nothing new is taken; a step in hand may take {} s more", SHUTDOWN_GRACE.as_secs());
        tell_systemd(&[NotifyState::Stopping]);
        self.drain(&mut signals).await;
        self.journal.close().await;
        info!("landfall-executor ends");
        ended
    }

    /// Lets what is in hand come to an end, and tells the bus. A second signal cuts it short.
    async fn drain(&mut self, signals: &mut Signals) {
        self.draining.cancel();
        self.beat.abort_all();
        let mut grace = std::pin::pin!(sleep(SHUTDOWN_GRACE));
        let mut cut_short = false;
        while !self.workers.is_empty() {
            tokio::select! {
                biased;
                Some(ended) = self.workers.join_next() => worker_ended(ended),
                Some(message) = self.settled.recv() => self.held.settle(&message),
                _ = self.still_working.tick() => self.held.still_working(),
                () = tick(&mut self.watchdog) => tell_systemd(&[NotifyState::Watchdog]),
                () = &mut grace, if !self.parking.is_cancelled() => {
                    warn!("the step in hand takes longer than {} s; it is parked", SHUTDOWN_GRACE.as_secs());
                    self.parking.cancel();
                }
                received = signals.next(), if !cut_short => {
                    warn!("{received} again: the step in hand is parked at once");
                    cut_short = true;
                    self.parking.cancel();
                }
            }
        }
        self.flushing.cancel();
        if cut_short {
            return self.outbox.abort_all();
        }
        let flushed = async {
            while let Some(ended) = self.outbox.join_next().await {
                worker_ended(ended);
            }
        };
        if timeout(OUTBOX_FLUSH, flushed).await.is_err() {
            warn!(
                "the bus did not take everything within {} s; the rest is told at the next start",
                OUTBOX_FLUSH.as_secs()
            );
        }
        while let Ok(message) = self.settled.try_recv() {
            self.held.settle(&message);
        }
        self.held.settled().await;
    }
}

fn ticking(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Never, when there is no watchdog.
async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop::<Instant>(interval.tick().await),
        None => std::future::pending().await,
    }
}

fn tell_systemd(states: &[NotifyState<'_>]) {
    // Without systemd there is no socket, and nothing is sent.
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "systemd was not told");
    }
}

/// A task that panicked has a defect; the journal still knows what it did.
fn worker_ended<T>(ended: Result<T, tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "a defect: a task ended; restart the executor, the journal goes on where it was");
    }
}
