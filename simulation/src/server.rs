//! A NATS server with JetStream, as far as Landfall asks for it, with what can go wrong with one: requests and answers that are lost,
//! consumers that go deaf, deliveries that come twice or late, entries that are read before they were changed, and a power cut that takes the
//! end of every stream.

mod durable;
mod link;
mod store;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use landfall_bus::Delivered;
use landfall_bus::simulated::{NotTaken, Outgoing};
use landfall_schema::Timestamp;
use landfall_schema::ids::{Digest, HostName};
use landfall_schema::layout::{DEADLETTER, DESIRED, OUTCOMES, PRESENCE, RELEASES};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use crate::chance::Chance;
use crate::clock::Clock;

use durable::Durable;
pub(crate) use link::{Cut, Link};
use store::Stream;

/// How often the network misbehaves, in a thousand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Weather {
    pub(crate) request_lost: u64,
    pub(crate) answer_lost: u64,
    pub(crate) delayed: u64,
    pub(crate) delivered_twice: u64,
    pub(crate) delivery_lost: u64,
    pub(crate) tick_lost: u64,
    pub(crate) stale_read: u64,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) chance: Arc<Chance>,
    pub(crate) clock: Clock,
    state: Mutex<State>,
    /// Ticks when anything changed that somebody may wait for.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    streams: BTreeMap<&'static str, Stream>,
    bundles: BTreeMap<Digest, Vec<u8>>,
    durables: BTreeMap<String, Durable>,
    listeners: Vec<Listener>,
    ways: BTreeMap<HostName, Way>,
    is_down: bool,
    /// How often it was started again.
    starts: u64,
    weather: Weather,
    /// Events that the server had confirmed, and that a power cut took.
    lost: Vec<(Timestamp, Delivered)>,
}

/// The way between a host and the server.
#[derive(Debug, Clone, Copy, Default)]
struct Way {
    cut: Option<Cut>,
    /// The client has noticed that the connection is gone.
    is_noticed: bool,
    /// How often it has made a new one since.
    made_anew: u64,
    /// Its consumers get nothing, and nothing tells them so.
    is_deaf: bool,
}

#[derive(Debug)]
struct Listener {
    host: HostName,
    filter: String,
    tick: UnboundedSender<()>,
}

/// Which stream takes a subject.
fn stream_of(subject: &str) -> &'static str {
    match subject.split('.').nth(2) {
        _ if subject.starts_with("$KV.landfall-rollout.") => "KV_landfall-rollout",
        _ if subject.starts_with("$KV.") => "KV_landfall-locks",
        Some("outcome") => OUTCOMES,
        Some("presence") => PRESENCE,
        Some("deadletter") => DEADLETTER,
        _ => RELEASES,
    }
}

/// NATS' own wildcards.
pub(crate) fn matches(filter: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in filter.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

impl Server {
    pub(crate) fn new(chance: Arc<Chance>, clock: Clock) -> Arc<Self> {
        Arc::new(Self { chance, clock, state: Mutex::default(), changed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    pub(crate) fn keep_bundle(&self, digest: Digest, bytes: Vec<u8>) {
        self.state().bundles.insert(digest, bytes);
    }

    /// Stores a message as the server does, whoever sent it.
    pub(crate) fn store(&self, message: Outgoing) -> Result<u64, NotTaken> {
        let mut state = self.state();
        let name = stream_of(&message.subject);
        let newest_only = name == PRESENCE;
        let at = self.clock.now();
        let subject = message.subject.clone();
        let stored = state.streams.entry(name).or_default().store(message, at, newest_only)?;
        if !stored.is_new {
            return Ok(stored.sequence);
        }
        let State { listeners, ways, weather, is_down, .. } = &mut *state;
        listeners.retain(|listener| {
            let hears = matches(&listener.filter, &subject)
                && !*is_down
                && ways.get(&listener.host).is_none_or(|way| way.cut.is_none() && !way.is_deaf)
                && !self.chance.happens(weather.tick_lost);
            !hears || listener.tick.send(()).is_ok()
        });
        drop(state);
        self.changed.notify_waiters();
        Ok(stored.sequence)
    }

    /// What a stream holds, oldest first.
    pub(crate) fn all(&self, stream: &str, filter: &str) -> Vec<Delivered> {
        let state = self.state();
        match stream {
            DESIRED => state.streams.get(RELEASES).map_or_else(Vec::new, |stream| stream.newest_of_each(filter)),
            name => state.streams.get(name).map_or_else(Vec::new, |stream| stream.all(filter)),
        }
    }

    pub(crate) fn lost(&self) -> Vec<Delivered> {
        self.state().lost.iter().map(|(_, message)| message.clone()).collect()
    }

    /// Since when what was said there is lost, in milliseconds since the run began.
    pub(crate) fn lost_since(&self, subject: &str) -> Option<u64> {
        let state = self.state();
        let (at, _) = state.lost.iter().find(|(_, message)| message.subject == subject)?;
        Some(self.clock.ms_of(*at))
    }

    /// The way of a host is cut, or (`None`) whole again.
    pub(crate) fn cut(&self, host: &HostName, cut: Option<Cut>) {
        let mut state = self.state();
        let way = state.ways.entry(host.clone()).or_default();
        way.cut = cut;
        if cut.is_none() && std::mem::take(&mut way.is_noticed) {
            way.made_anew += 1;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// The client notices that its connection is gone.
    pub(crate) fn notice(&self, host: &HostName) {
        let mut state = self.state();
        let way = state.ways.entry(host.clone()).or_default();
        way.is_noticed = way.cut.is_some();
        drop(state);
        self.changed.notify_waiters();
    }

    pub(crate) fn deafen(&self, host: &HostName, is_deaf: bool) {
        self.state().ways.entry(host.clone()).or_default().is_deaf = is_deaf;
        self.changed.notify_waiters();
    }

    /// The server ends. With `power_cut` it loses the last messages of every stream, though it had confirmed them.
    pub(crate) fn stop(&self, power_cut: bool) {
        let mut state = self.state();
        state.is_down = true;
        if power_cut {
            let State { streams, lost, durables, .. } = &mut *state;
            for stream in streams.values_mut() {
                let tail = self.chance.below(4) as usize;
                lost.extend(stream.lose(tail).into_iter().map(|message| (self.clock.now(), message)));
            }
            let end = streams.get(RELEASES).map_or(0, Stream::last_sequence);
            for durable in durables.values_mut() {
                durable.cut_back(end);
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(crate) fn start(&self) {
        let mut state = self.state();
        if std::mem::take(&mut state.is_down) {
            state.starts += 1;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Every promotion there ever was is delivered to the host again.
    pub(crate) fn replay(&self, host: &HostName) {
        let mut state = self.state();
        for (name, durable) in &mut state.durables {
            if name.ends_with(&format!("-{host}")) {
                durable.replay();
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Everything works from now on.
    pub(crate) fn heal(&self) {
        self.start();
        let mut state = self.state();
        state.weather = Weather::default();
        for way in state.ways.values_mut() {
            let made_anew = way.made_anew + u64::from(way.is_noticed);
            *way = Way { made_anew, ..Way::default() };
        }
        drop(state);
        self.changed.notify_waiters();
    }
}
