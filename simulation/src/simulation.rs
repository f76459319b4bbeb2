//! One run: what is shared by all of its parts, and what every part reports to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use landfall_bus::Delivered;
use landfall_schema::Timestamp;
use landfall_schema::event::CloudEvent;
use landfall_schema::ids::{AppName, EnvName, EventId, HostName, ServiceName};
use landfall_schema::outcome::Outcome;
use landfall_schema::promotion::Promotion;
use landfall_schema::signature::{DsseEnvelope, PublicKey, SigningKey};
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedSender;

use crate::catalogue::Catalogue;
use crate::chance::Chance;
use crate::clock::Clock;
use crate::database::Database;
use crate::machine::{Container, Machine};
use crate::server::Server;
use crate::trace::Trace;

/// The application's only service.
pub(crate) const SERVICE: &str = "web";

pub(crate) fn service() -> ServiceName {
    #[allow(clippy::expect_used)]
    ServiceName::new(SERVICE).expect("a plain name")
}

/// An oracle's verdict: what must never happen has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) oracle: &'static str,
    pub(crate) what: String,
}

pub(crate) struct Keys {
    pub(crate) promoter: SigningKey,
    pub(crate) admin: SigningKey,
    pub(crate) approvers: [SigningKey; 2],
    pub(crate) stranger: SigningKey,
}

/// A promotion that somebody with the right to has signed.
#[derive(Debug, Clone)]
pub(crate) struct Promoted {
    pub(crate) id: EventId,
    pub(crate) promotion: Promotion,
}

impl Promoted {
    /// When, in milliseconds of the Unix epoch: its id says so.
    pub(crate) fn made_ms(&self) -> i64 {
        let (seconds, nanos) = self.id.0.get_timestamp().map(|made| made.to_unix()).unwrap_or_default();
        i64::try_from(seconds).unwrap_or(i64::MAX) * 1_000 + i64::from(nanos / 1_000_000)
    }

    /// Whether it was this that was started then.
    pub(crate) fn started(&self, ran: &Ran) -> bool {
        let Promotion { counter, images, .. } = &self.promotion;
        ran.container
            .as_ref()
            .is_some_and(|container| container.counter == counter.0 && container.digest == images[&service()].digest)
    }
}

/// What ran on a host from a moment on.
#[derive(Debug, Clone)]
pub(crate) struct Ran {
    pub(crate) at_ms: u64,
    pub(crate) container: Option<Container>,
}

pub(crate) struct Sim {
    pub(crate) env: EnvName,
    pub(crate) app: AppName,
    pub(crate) chance: Arc<Chance>,
    pub(crate) clock: Clock,
    pub(crate) trace: Arc<Trace>,
    pub(crate) server: Arc<Server>,
    pub(crate) database: Database,
    pub(crate) catalogue: Catalogue,
    pub(crate) keys: Keys,
    /// A journal that nothing was written into yet.
    pub(crate) template: Arc<TempDir>,
    pub(crate) disk: Arc<tokio::runtime::Runtime>,
    pub(crate) deaths: UnboundedSender<HostName>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lies_per_mille: u64,
    violations: Vec<Violation>,
    promoted: Vec<Promoted>,
    ran: BTreeMap<HostName, Vec<Ran>>,
    /// Hosts that have begun to bring the former release back, and from which order's.
    going_back: BTreeSet<HostName>,
    host_keys: BTreeMap<HostName, PublicKey>,
    went_back: BTreeSet<(HostName, u64)>,
    /// When two people had approved a promotion.
    approved: BTreeMap<EventId, u64>,
    /// Outcomes by their place in the stream.
    read: BTreeMap<(u64, Timestamp), Option<Arc<CloudEvent<Outcome>>>>,
}

impl Sim {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        env: EnvName,
        app: AppName,
        chance: Arc<Chance>,
        keys: Keys,
        template: Arc<TempDir>,
        disk: Arc<tokio::runtime::Runtime>,
        deaths: UnboundedSender<HostName>,
    ) -> Arc<Self> {
        let (clock, trace) = (Clock::new(), Arc::new(Trace::new()));
        let server = Server::new(Arc::clone(&chance), clock);
        Arc::new(Self {
            env,
            app,
            chance,
            clock,
            trace,
            server,
            database: Database::default(),
            catalogue: Catalogue::default(),
            keys,
            template,
            disk,
            deaths,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn violated(&self, oracle: &'static str, what: impl Display) {
        let what = what.to_string();
        self.trace.say("ORACLE", format_args!("{oracle}: {what}"));
        self.state().violations.push(Violation { oracle, what });
    }

    pub(crate) fn violations(&self) -> Vec<Violation> {
        self.state().violations.clone()
    }

    /// The process of a host is gone.
    pub(crate) fn died(&self, host: &HostName) {
        // Nobody listens any more only when the run is over.
        let _ = self.deaths.send(host.clone());
    }

    pub(crate) fn lies_per_mille(&self) -> u64 {
        self.state().lies_per_mille
    }

    pub(crate) fn set_lies(&self, per_mille: u64) {
        self.state().lies_per_mille = per_mille;
    }

    pub(crate) fn promoted(&self) -> Vec<Promoted> {
        self.state().promoted.clone()
    }

    pub(crate) fn add_promoted(&self, promoted: Promoted) {
        self.state().promoted.push(promoted);
    }

    pub(crate) fn know(&self, keys: BTreeMap<HostName, PublicKey>) {
        self.state().host_keys = keys;
    }

    /// What a message says, which is read once.
    pub(crate) fn remember(
        &self,
        said: &Delivered,
        read: impl FnOnce() -> Option<Arc<CloudEvent<Outcome>>>,
    ) -> Option<Arc<CloudEvent<Outcome>>> {
        let place = (said.sequence, said.published_at);
        if let Some(known) = self.state().read.get(&place) {
            return known.clone();
        }
        let outcome = read();
        self.state().read.insert(place, outcome.clone());
        outcome
    }

    pub(crate) fn host_keys(&self) -> BTreeMap<HostName, PublicKey> {
        self.state().host_keys.clone()
    }

    pub(crate) fn is_last(&self, host: &HostName) -> bool {
        self.state().host_keys.keys().max_by_key(|name| (name.as_str().len(), name.as_str().to_owned())) == Some(host)
    }

    pub(crate) fn timeline(&self, host: &HostName) -> Vec<Ran> {
        self.state().ran.get(host).cloned().unwrap_or_default()
    }

    pub(crate) fn ran_at(&self, host: &HostName, at_ms: u64) -> Option<Container> {
        self.timeline(host).into_iter().take_while(|ran| ran.at_ms <= at_ms).last().and_then(|ran| ran.container)
    }

    pub(crate) fn approve(&self, promotion: EventId) {
        let at_ms = self.trace.elapsed_ms();
        self.state().approved.entry(promotion).or_insert(at_ms);
    }

    pub(crate) fn was_approved(&self, promotion: EventId, by_ms: u64) -> bool {
        self.state().approved.get(&promotion).is_some_and(|at_ms| *at_ms <= by_ms)
    }

    /// Whether a rollout's state names the host as not reached.
    pub(crate) fn was_given_up(&self, promotion: EventId, host: &HostName) -> bool {
        let promotion = promotion.to_string();
        self.server.all("KV_landfall-rollout", "$KV.landfall-rollout.>").iter().any(|entry| {
            let envelope = serde_json::from_slice::<DsseEnvelope>(&entry.body).ok();
            let payload = envelope.and_then(|envelope| envelope.unverified_payload());
            payload.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok()).is_some_and(|event| {
                event["data"]["promotion"] == promotion && event["data"]["not_reached"].get(host.as_str()).is_some()
            })
        })
    }

    pub(crate) fn went_back(&self) -> BTreeSet<(HostName, u64)> {
        self.state().went_back.clone()
    }

    /// A host begins to bring its former release back.
    pub(crate) fn goes_back(&self, machine: &Machine) {
        self.state().going_back.insert(machine.name.clone());
    }

    /// What a host's engine starts, as it starts it.
    pub(crate) fn ran(&self, machine: &Machine, container: Option<&Container>) {
        let host = &machine.name;
        let shown =
            container.map_or("nothing".to_owned(), |c| format!("promotion {}'s {}", c.counter, c.digest.short()));
        self.trace.say(host, format_args!("runs {shown}"));
        let at_ms = self.trace.elapsed_ms();
        let (is_going_back, before) = {
            let mut state = self.state();
            let is_going_back = state.going_back.remove(host);
            let timeline = state.ran.entry(host.clone()).or_default();
            let before = timeline.iter().rev().find_map(|ran| ran.container.clone());
            timeline.push(Ran { at_ms, container: container.cloned() });
            (is_going_back, before)
        };
        if let (Some(before), Some(now)) = (&before, container)
            && now.counter < before.counter
            && !is_going_back
        {
            self.violated(
                "backwards",
                format_args!("{host} went from promotion {} to {}", before.counter, now.counter),
            );
        }
        if let (true, Some(before)) = (is_going_back, before) {
            self.state().went_back.insert((host.clone(), before.counter));
        }
        if let Some(now) = container {
            for migration in self.catalogue.of(&now.digest).migrations {
                if !self.database.has(migration.version) {
                    let text = format!("{host} runs code that needs migration {}", migration.version);
                    self.violated("migrations present", text);
                }
            }
            let is_signed =
                self.promoted().iter().any(|one| one.promotion.images.values().any(|image| image.digest == now.digest));
            if !is_signed {
                self.violated(
                    "unsigned",
                    format_args!("{host} runs {}, which nobody has promoted", now.digest.short()),
                );
            }
        }
    }
}
