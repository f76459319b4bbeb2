//! One connection to NATS: credentials, named time limits, reconnects with jitter, and what the server complained about last.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, Event, jetstream};

use crate::error::{BusError, Cause};

/// Time to reach one server and log in.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the server to answer one request, and to acknowledge one message.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts to reconnect, at least and at most; jitter takes away up to half.
pub const RECONNECT_MIN: Duration = Duration::from_millis(100);
pub const RECONNECT_MAX: Duration = Duration::from_secs(8);
/// Trouble on the connection that lasts is told again after this time.
const TROUBLE_TOLD_AGAIN: Duration = Duration::from_secs(60);
/// A complaint of the server belongs to a request that failed within this time after it.
const COMPLAINT_MAX_AGE: Duration = Duration::from_secs(10);

/// How to reach the bus. Only one kind of credentials is used: creds, nkey, token, then user and password.
#[derive(Clone, Default)]
pub struct ConnectOptions {
    /// `nats://host:4222` or `tls://…`; several servers are separated by commas.
    pub url: String,
    /// Who connects, e.g. `landfall-executor-host-a`; it also names the inbox: `_INBOX.<name>.…`.
    pub name: String,
    pub creds: Option<PathBuf>,
    pub user_password: Option<(String, String)>,
    pub token: Option<String>,
    pub nkey_seed: Option<String>,
    /// A PEM file with further certificate authorities.
    pub ca: Option<PathBuf>,
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("url", &shown_url(&self.url))
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
struct Complaint {
    at: Instant,
    text: String,
}

type Complaints = Arc<Mutex<Option<Complaint>>>;

/// The bus; cheap to clone.
#[derive(Debug, Clone)]
pub struct Bus(Way);

#[derive(Debug, Clone)]
enum Way {
    Nats(Box<Nats>),
    #[cfg(feature = "simulation")]
    Simulated(Arc<dyn crate::simulated::Server>),
}

#[derive(Debug, Clone)]
struct Nats {
    client: Client,
    jetstream: jetstream::Context,
    complaints: Complaints,
}

impl Bus {
    /// Connects and logs in; later interruptions are bridged by reconnecting for ever.
    ///
    /// # Errors
    /// [`BusError::Address`], [`BusError::Credentials`], [`BusError::Connect`].
    pub async fn connect(options: &ConnectOptions) -> Result<Self, BusError> {
        let addresses = options
            .url
            .split(',')
            .map(|url| url.trim().parse::<async_nats::ServerAddr>())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| BusError::Address { url: shown_url(&options.url), source })?;
        let complaints = Complaints::default();
        let client = with_credentials(client_options(options, complaints.clone()), options)
            .await?
            .connect(addresses)
            .await
            .map_err(|source| BusError::Connect { url: shown_url(&options.url), source })?;
        let jetstream =
            ContextBuilder::new().timeout(REQUEST_TIMEOUT).ack_timeout(REQUEST_TIMEOUT).build(client.clone());
        Ok(Self(Way::Nats(Box::new(Nats { client, jetstream, complaints }))))
    }

    pub fn jetstream(&self) -> &jetstream::Context {
        &self.nats().jetstream
    }

    pub fn client(&self) -> &Client {
        &self.nats().client
    }

    /// Whether the connection stands at this moment.
    pub fn is_connected(&self) -> bool {
        #[cfg(feature = "simulation")]
        if let Some(server) = self.simulated() {
            return server.is_connected();
        }
        self.client().connection_state() == State::Connected
    }

    /// How often the connection was made so far.
    pub fn connections(&self) -> u64 {
        #[cfg(feature = "simulation")]
        if let Some(server) = self.simulated() {
            return server.connections();
        }
        self.client().statistics().connects.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// For what only a real server has: the layout, what CLI and ledger read. In what is shipped there is no other kind. Two types of bus would
    /// have every part of the daemon carry a parameter for the simulation's sake; there it is a defect, and ends the run with its seed.
    fn nats(&self) -> &Nats {
        match &self.0 {
            Way::Nats(nats) => nats,
            #[cfg(feature = "simulation")]
            Way::Simulated(_) => unimplemented!("nobody asks a simulated server for this"),
        }
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn simulated(&self) -> Option<&Arc<dyn crate::simulated::Server>> {
        match &self.0 {
            Way::Nats(_) => None,
            Way::Simulated(server) => Some(server),
        }
    }

    /// The error together with what the server has just complained about.
    pub(crate) fn cause(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Cause {
        #[cfg(feature = "simulation")]
        if self.simulated().is_some() {
            return Cause::new(source, None);
        }
        let complaint = self.nats().complaints.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let recent = complaint.filter(|complaint| complaint.at.elapsed() < COMPLAINT_MAX_AGE);
        Cause::new(source, recent.map(|complaint| complaint.text))
    }

    /// A name that no other consumer has.
    pub(crate) fn unique_name(&self, prefix: &str) -> String {
        let inbox = self.client().new_inbox();
        let token = inbox.rsplit('.').next().unwrap_or(&inbox);
        format!("{prefix}-{token}")
    }
}

/// Where the bus is to be found.
pub enum Address {
    Nats(ConnectOptions),
    /// In this process.
    #[cfg(feature = "simulation")]
    Simulated(Arc<dyn crate::simulated::Server>),
}

impl Address {
    /// As [`Bus::connect`].
    ///
    /// # Errors
    /// As [`Bus::connect`].
    pub async fn connect(&self) -> Result<Bus, BusError> {
        match self {
            Self::Nats(options) => Bus::connect(options).await,
            #[cfg(feature = "simulation")]
            Self::Simulated(server) if server.is_connected() => Ok(Bus(Way::Simulated(Arc::clone(server)))),
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => Err(BusError::Simulated),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nats(options) => f.write_str(&shown_url(&options.url)),
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => f.write_str("a simulated server"),
        }
    }
}

fn client_options(options: &ConnectOptions, complaints: Complaints) -> async_nats::ConnectOptions {
    let told = Mutex::new(None);
    let mut client = async_nats::ConnectOptions::new()
        .name(&options.name)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .custom_inbox_prefix(inbox_prefix(&options.name))
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            if is_told(&event, &told, Instant::now()) {
                note(&event, &complaints);
            }
            std::future::ready(())
        });
    if let Some(ca) = &options.ca {
        client = client.add_root_certificates(ca.clone());
    }
    client
}

async fn with_credentials(
    client: async_nats::ConnectOptions,
    options: &ConnectOptions,
) -> Result<async_nats::ConnectOptions, BusError> {
    if let Some(path) = &options.creds {
        let unreadable = |source| BusError::Credentials { path: path.clone(), source };
        return client.credentials_file(path).await.map_err(unreadable);
    }
    Ok(match (&options.nkey_seed, &options.token, &options.user_password) {
        (Some(seed), _, _) => client.nkey(seed.clone()),
        (None, Some(token), _) => client.token(token.clone()),
        (None, None, Some((user, password))) => client.user_and_password(user.clone(), password.clone()),
        (None, None, None) => client,
    })
}

/// Own prefixes let the server's permissions keep one client from reading another's replies.
fn inbox_prefix(name: &str) -> String {
    let token: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' }).collect();
    format!("_INBOX.{token}")
}

/// Doubles from [`RECONNECT_MIN`] to [`RECONNECT_MAX`]; jitter keeps a fleet from coming back at the same moment.
fn reconnect_delay(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt).unwrap_or(u32::MAX).min(16);
    let full = RECONNECT_MIN.saturating_mul(1 << doublings).min(RECONNECT_MAX);
    let random = RandomState::new().build_hasher().finish();
    full.mul_f64(0.5 + (random % 1024) as f64 / 2048.0)
}

/// A server that is away makes an event of each attempt to reach it; of these some are told and not all. Every other event is.
fn is_told(event: &Event, told_at: &Mutex<Option<Instant>>, now: Instant) -> bool {
    let mut told_at = told_at.lock().unwrap_or_else(PoisonError::into_inner);
    match event {
        Event::ClientError(_) => {
            let is_due = told_at.is_none_or(|at| now.duration_since(at) >= TROUBLE_TOLD_AGAIN);
            if is_due {
                *told_at = Some(now);
            }
            is_due
        }
        Event::Connected => {
            *told_at = None;
            true
        }
        _ => true,
    }
}

fn note(event: &Event, complaints: &Complaints) {
    match event {
        Event::ServerError(error) => {
            tracing::warn!(%error, "the NATS server complains");
            let complaint = Complaint { at: Instant::now(), text: error.to_string() };
            *complaints.lock().unwrap_or_else(PoisonError::into_inner) = Some(complaint);
        }
        Event::Disconnected => tracing::warn!("the connection to NATS is lost; reconnecting"),
        Event::SlowConsumer(_) | Event::ClientError(_) => tracing::warn!(%event, "trouble on the NATS connection"),
        Event::Connected | Event::LameDuckMode | Event::Draining | Event::Closed => tracing::debug!(%event, "NATS"),
    }
}

/// The address without user and password.
pub fn shown_url(url: &str) -> String {
    let without = |one: &str| match (one.find("://"), one.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}{}", &one[..scheme + 3], &one[at + 1..]),
        (None, Some(at)) => one[at + 1..].to_owned(),
        _ => one.to_owned(),
    };
    url.split(',').map(|one| without(one.trim())).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_shown_url_has_no_password() {
        for (url, expect) in [
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
            ("nats://ci:secret@bus:4222", "nats://bus:4222"),
            ("tls://ci:p@ss@bus:4222, nats://b", "tls://bus:4222,nats://b"),
            ("ci:secret@bus", "bus"),
        ] {
            assert_eq!(shown_url(url), expect, "{url}");
        }
    }

    #[test]
    fn lasting_trouble_is_told_now_and_again() {
        let (told_at, start) = (Mutex::new(None), Instant::now());
        let trouble = Event::ClientError(async_nats::ClientError::Other("away".to_owned()));
        let tell = |event: &Event, after: Duration| is_told(event, &told_at, start + after);
        assert!(tell(&trouble, Duration::ZERO));
        assert!(!tell(&trouble, TROUBLE_TOLD_AGAIN - Duration::from_millis(1)));
        assert!(tell(&trouble, TROUBLE_TOLD_AGAIN));
        assert!(tell(&Event::Connected, TROUBLE_TOLD_AGAIN));
        assert!(tell(&trouble, TROUBLE_TOLD_AGAIN));
    }

    #[test]
    fn reconnects_wait_longer_and_longer_within_bounds() {
        for attempt in [0, 1, 5, 10, 1_000_000] {
            let delay = reconnect_delay(attempt);
            assert!(delay >= RECONNECT_MIN / 2 && delay <= RECONNECT_MAX, "{attempt}: {delay:?}");
        }
    }
}
