//! The connection to the bus: made and made again, without end; the host's durable consumer; the sweep past it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use landfall_bus::{Address, Bus, BusError, ConnectOptions, Delivered, Receipt};
use landfall_schema::ids::{EnvName, EventId, HostName};
use landfall_schema::layout::SWEEP_INTERVAL;
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::planted::planted;
use landfall_schema::promotion::BundleRef;
use landfall_schema::subject;
use tokio::sync::{Notify, SetOnce, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::announce::Announcement;
use crate::causes;
use crate::config::BusConfig;
use crate::hands::BundleSource;
use crate::journal::Told;
use crate::outbox::{NotPublished, Publish};
use crate::pace::{Backoff, Throttle, jittered};
use crate::world::within;

/// Between two attempts to connect or to open the consumer, at least and at most.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// A connection that was made anew is noticed within this time, also when there is nothing to tell.
const RECONNECTED_POLL: Duration = Duration::from_secs(2);
/// How long a bundle is tried for while the bus is away; less than the effect's own deadline.
const BUNDLE_WAIT: Duration = Duration::from_secs(45);

/// A promotion from the durable consumer, to be acknowledged.
#[derive(Debug)]
pub struct Delivery {
    pub delivered: Delivered,
    pub receipt: Receipt,
}

/// The bus, once it was reached.
#[derive(Debug, Clone)]
pub struct BusHandle(Arc<SetOnce<Bus>>);

impl BusHandle {
    /// The bus, when the connection stands at this moment.
    pub fn connected(&self) -> Option<Bus> {
        self.0.get().filter(|bus| bus.is_connected()).cloned()
    }

    /// Resolves when the bus was reached for the first time.
    pub async fn reached(&self) -> Bus {
        self.0.wait().await.clone()
    }
}

impl Publish for BusHandle {
    async fn publish(&self, announcement: &Announcement) -> Result<(), NotPublished> {
        // The client would keep it for later; the outbox does that already, and in order.
        let bus = self.connected().ok_or_else(|| NotPublished::Now("the bus is away".to_owned()))?;
        let Announcement { id, subject, body, signature, traceparent, .. } = announcement;
        bus.publish_signed(subject, *id, body, signature.as_deref(), traceparent.as_deref())
            .await
            .map_err(|error| not_published(causes(&error), subject.as_str()))
    }

    fn connections(&self) -> Option<u64> {
        Some(self.connected()?.connections())
    }

    async fn reconnected(&self, since: Option<u64>) {
        self.reached().await;
        while self.connections().is_none_or(|now| since == Some(now)) {
            sleep(RECONNECTED_POLL).await;
        }
    }

    /// Whatever was lost, the newest was; so one look tells when nothing was.
    async fn missing(&self, told: Vec<Told>) -> Result<Vec<i64>, String> {
        let of = |told: &Told| subject::parse_outcome(told.subject.as_str());
        let Some((newest, from)) = told.iter().rev().find_map(|told| Some((told, of(told)?))) else {
            return Ok(Vec::new());
        };
        let bus = self.connected().ok_or("the bus is away")?;
        let last = bus.last_outcome(&newest.subject).await.map_err(|error| with_hint(&error))?;
        if last.is_some_and(|said| event_id(&said) == Some(newest.id)) {
            return Ok(Vec::new());
        }
        let (env, host) = &from;
        // The ids alone: what a host has said in a year may be more than its memory.
        let said = bus.each_outcome(&subject::host_filter(env, host), |said| event_id(&said)).await;
        let said: BTreeSet<EventId> = said.map_err(|error| with_hint(&error))?.into_iter().collect();
        let missing = told.iter().filter(|told| of(told).as_ref() == Some(&from) && !said.contains(&told.id));
        Ok(missing.map(|told| told.position).collect())
    }
}

/// What is compared are this host's own events, so that what strangers wrote among them counts for nothing.
fn event_id(said: &Delivered) -> Option<EventId> {
    let body: serde_json::Value = serde_json::from_slice(&said.body).ok()?;
    body.get("id")?.as_str()?.parse().ok()
}

/// The server's own words tell whether it ever will: it may have complained of another subject, so this one must stand there.
fn not_published(error: String, subject: &str) -> NotPublished {
    let said = error.to_ascii_lowercase();
    let denied = format!("permissions violation for publish to \"{}\"", subject.to_ascii_lowercase());
    let too_large = ["max payload size exceeded", "maximum payload", "message size exceeds maximum allowed"];
    if said.contains(&denied) || too_large.iter().any(|words| said.contains(words)) {
        NotPublished::Refused(error)
    } else {
        NotPublished::Now(error)
    }
}

impl BundleSource for BusHandle {
    fn bundle<'a>(&'a self, reference: &'a BundleRef) -> BoxFuture<'a, Result<Vec<u8>, Reason>> {
        Box::pin(async move {
            let until = Instant::now() + BUNDLE_WAIT;
            let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
            loop {
                let trouble = match self.connected() {
                    None => "the bus is away".to_owned(),
                    Some(bus) => match bus.get_bundle(reference).await {
                        Ok(bytes) => return Ok(bytes),
                        Err(error @ (BusError::BundleMissing { .. } | BusError::BundleOversized { .. })) => {
                            let reason = Reason::new(ReasonCode::BundleMissing, error.to_string());
                            return Err(match error.hint() {
                                Some(hint) => reason.hint(hint),
                                None => reason,
                            });
                        }
                        Err(error) => causes(&error),
                    },
                };
                if Instant::now() >= until {
                    let text = format!("the bundle could not be fetched within {} s: {trouble}", BUNDLE_WAIT.as_secs());
                    return Err(Reason::new(ReasonCode::BundleMissing, text).hint("promote again once the bus is well"));
                }
                sleep(backoff.next_wait()).await;
            }
        })
    }
}

/// What the configuration says about the connection, with the password read.
///
/// # Errors
/// The password's file cannot be read.
pub fn connect_options(config: &BusConfig, host: &HostName) -> Result<ConnectOptions, std::io::Error> {
    let password =
        |path: &Path| std::fs::read_to_string(path).map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
    let user_password = match (&config.user, &config.password_file) {
        (Some(user), Some(path)) => Some((user.clone(), password(path)?)),
        _ => None,
    };
    Ok(ConnectOptions {
        url: config.url.clone(),
        name: format!("landfall-executor-{host}"),
        creds: config.creds.clone(),
        user_password,
        ca: config.ca.clone(),
        ..ConnectOptions::default()
    })
}

pub struct Link {
    pub address: Address,
    pub env: EnvName,
    pub host: HostName,
    pub deliveries: mpsc::Sender<Delivery>,
    pub sweeps: mpsc::Sender<Vec<Delivered>>,
}

impl Link {
    /// Starts both tasks; they end with `stop`.
    pub fn start(self, stop: CancellationToken) -> BusHandle {
        let handle = BusHandle(Arc::default());
        let missed = Arc::new(Notify::new());
        let sweeper = sweep(handle.clone(), self.env.clone(), self.sweeps.clone(), Arc::clone(&missed));
        tokio::spawn(within(stop.clone().run_until_cancelled_owned(sweeper)));
        let made = handle.clone();
        tokio::spawn(within(async move {
            // The connection outlives the consumer: what is left in the outbox is still published.
            stop.run_until_cancelled(self.follow(&made, &missed)).await;
        }));
        handle
    }

    /// What the server had sent before the delivery broke off comes again only when its time to acknowledge is over: `missed` has the register
    /// read instead.
    async fn follow(&self, made: &BusHandle, missed: &Notify) {
        let bus = self.connect().await;
        // Nobody else sets it.
        drop(made.0.set(bus.clone()));
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let mut trouble = Throttle::default();
        loop {
            let (received, error) = self.consume(&bus).await;
            if received {
                backoff.reset();
                trouble.over();
            }
            if let Some(untold) = trouble.tell() {
                warn!(
                    error,
                    untold,
                    "the promotions cannot be followed at the moment; the sweep goes on, and this is tried again"
                );
            }
            sleep(backoff.next_wait()).await;
            missed.notify_one();
        }
    }

    async fn connect(&self) -> Bus {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let mut trouble = Throttle::default();
        loop {
            match self.address.connect().await {
                Ok(bus) => {
                    info!(url = %self.address, "connected to the bus");
                    return bus;
                }
                Err(error) => {
                    if let Some(untold) = trouble.tell() {
                        let hint = error.hint().unwrap_or_default();
                        warn!(
                            error = causes(&error),
                            hint, untold, "the bus cannot be reached; this is tried again and again"
                        );
                    }
                }
            }
            sleep(backoff.next_wait()).await;
        }
    }

    /// Until something is wrong; with whether anything came.
    async fn consume(&self, bus: &Bus) -> (bool, String) {
        let mut deliveries = match bus.deliveries(&self.env, &self.host).await {
            Ok(deliveries) => deliveries,
            Err(error) => return (false, with_hint(&error)),
        };
        info!(env = %self.env, "following the promotions");
        let mut received = false;
        while let Some(next) = deliveries.next().await {
            let (delivered, receipt) = match next {
                Ok(delivery) => delivery,
                Err(error) => return (received, causes(&error)),
            };
            received = true;
            if self.deliveries.send(Delivery { delivered, receipt }).await.is_err() {
                return (received, "the daemon ends".to_owned());
            }
        }
        (received, "the server ended the delivery".to_owned())
    }
}

fn with_hint(error: &BusError) -> String {
    match error.hint() {
        Some(hint) => format!("{}; hint: {hint}", causes(error)),
        None => causes(error),
    }
}

/// Consumers can go deaf: each minute, as soon as the bus is reached, and when something may have been missed, the register is read itself.
async fn sweep(handle: BusHandle, env: EnvName, sweeps: mpsc::Sender<Vec<Delivered>>, missed: Arc<Notify>) {
    let bus = handle.reached().await;
    if planted("ack_before_journal") {
        return std::future::pending().await;
    }
    let mut trouble = Throttle::default();
    loop {
        match bus.register(&env).await {
            Ok(found) => {
                trouble.over();
                if sweeps.send(found).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if let Some(untold) = trouble.tell() {
                    warn!(
                        error = with_hint(&error),
                        untold, "the register of promotions cannot be read; this is tried again"
                    );
                }
            }
        }
        let _missed_or_due = timeout(jittered(SWEEP_INTERVAL), missed.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_never_takes_is_told_from_trouble() {
        let denied = "cannot publish to a.B: timed out (the server said: Permissions Violation for Publish to \"a.B\")";
        for (error, subject, refused) in [
            (denied, "a.B", true),
            (denied, "a.C", false),
            ("cannot publish to a: max payload size exceeded: 2000000 > 1048576", "a", true),
            ("cannot publish to a: timed out", "a", false),
        ] {
            let is_refused = matches!(not_published(error.to_owned(), subject), NotPublished::Refused(_));
            assert_eq!(is_refused, refused, "{error}");
        }
    }
}
