//! One host's connection to the server: what [`landfall_bus::Bus`] asks of NATS.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use landfall_bus::simulated::{Deliveries, NotTaken, Outgoing, Server as Asked, Settle};
use landfall_bus::{Delivered, OutcomesFrom, Receipt, Settlement};
use landfall_schema::ids::{Digest, EnvName, HostName};
use landfall_schema::layout::{ACK_WAIT, DESIRED, OUTCOMES, RELEASES, executor_consumer};
use landfall_schema::subject;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Listener, Server, Way};

/// As the real client's.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How a way is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    Both,
    /// What the host says arrives; what it is answered does not.
    Answers,
}

#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) server: Arc<Server>,
    pub(crate) host: HostName,
}

impl Link {
    fn way(&self) -> Way {
        self.server.state().ways.get(&self.host).copied().unwrap_or_default()
    }

    /// Whether what the server sends arrives.
    fn receives(&self) -> bool {
        let is_down = self.server.state().is_down;
        !is_down && self.way().cut.is_none()
    }

    /// Whether what this host sends arrives.
    fn sends(&self) -> bool {
        let is_down = self.server.state().is_down;
        !is_down && self.way().cut != Some(Cut::Both)
    }

    async fn travel(&self) {
        let Server { chance, .. } = &*self.server;
        let delayed = self.server.state().weather.delayed;
        let slow = chance.happens(delayed);
        sleep(if slow { chance.millis(200, 4_000) } else { chance.millis(1, 8) }).await;
    }

    fn loses(&self, per_mille: impl Fn(&super::Weather) -> u64) -> bool {
        let per_mille = per_mille(&self.server.state().weather);
        self.server.chance.happens(per_mille)
    }

    /// One request: `None` when its answer does not come in time, whether or not it was done.
    async fn ask<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        self.travel().await;
        if !self.sends() || self.loses(|weather| weather.request_lost) {
            sleep(REQUEST_TIMEOUT).await;
            return None;
        }
        let done = work();
        if !self.receives() || self.loses(|weather| weather.answer_lost) {
            sleep(REQUEST_TIMEOUT).await;
            return None;
        }
        self.travel().await;
        Some(done)
    }

    async fn read_now<T>(&self, work: impl FnOnce() -> T) -> Result<T, String> {
        self.ask(work).await.ok_or_else(|| "timed out".to_owned())
    }

    /// The next message for the durable, and whether it is to be delivered at all.
    fn next_due(&self, name: &str, filter: &[String]) -> Due {
        let mut state = self.server.state();
        let now = Instant::now();
        let super::State { streams, durables, .. } = &mut *state;
        let Some(releases) = streams.get(RELEASES) else { return Due::Nothing { until: None } };
        let durable = durables.entry(name.to_owned()).or_default();
        // The register holds the newest of each application; what is not in it any more never comes again.
        let replays = durable.replays;
        durable.pending.retain(|sequence, _| {
            releases.get(*sequence).is_some_and(|message| replays || releases.is_newest(message))
        });
        let again = durable.pending.iter().find(|(_, due)| **due <= now).map(|(sequence, _)| *sequence);
        if let Some(message) = again.and_then(|sequence| releases.get(sequence)) {
            durable.pending.insert(message.sequence, now + ACK_WAIT);
            return Due::Message(Box::new(message.clone()));
        }
        while let Some(message) = releases.next(durable.delivered + 1, filter) {
            durable.delivered = message.sequence;
            if replays || releases.is_newest(message) {
                durable.pending.insert(message.sequence, now + ACK_WAIT);
                return Due::Message(Box::new(message.clone()));
            }
        }
        Due::Nothing { until: durable.pending.values().min().copied() }
    }

    async fn deliver(&self, name: &str, filter: &[String]) -> Option<Result<(Delivered, Receipt), String>> {
        loop {
            let changed = self.server.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if self.way().is_noticed {
                return Some(Err("missed idle heartbeat".to_owned()));
            }
            let until = if self.receives() && !self.way().is_deaf {
                match self.next_due(name, filter) {
                    Due::Message(message) => {
                        if self.loses(|weather| weather.delivery_lost) {
                            continue;
                        }
                        self.travel().await;
                        if self.loses(|weather| weather.delivered_twice) {
                            let now = Instant::now();
                            if let Some(durable) = self.server.state().durables.get_mut(name) {
                                durable.pending.insert(message.sequence, now);
                            }
                        }
                        let settle =
                            Arc::new(Ticket { link: self.clone(), name: name.to_owned(), sequence: message.sequence });
                        return Some(Ok((*message, Receipt::simulated(settle))));
                    }
                    Due::Nothing { until } => until,
                }
            } else {
                None
            };
            match until {
                Some(until) => tokio::select! {
                    biased;
                    () = &mut changed => {}
                    () = sleep_until(until) => {}
                },
                None => changed.await,
            }
        }
    }

    /// The next outcome for a reader; reading goes on where it was when the way is whole again.
    async fn next_outcome(&self, from: u64, filters: &[String]) -> Delivered {
        loop {
            let changed = self.server.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if self.receives() && !self.way().is_deaf {
                let found =
                    self.server.state().streams.get(OUTCOMES).and_then(|stream| stream.next(from, filters).cloned());
                if let Some(message) = found {
                    return message;
                }
            }
            changed.await;
        }
    }
}

enum Due {
    Message(Box<Delivered>),
    Nothing { until: Option<Instant> },
}

impl Asked for Link {
    fn is_connected(&self) -> bool {
        let is_down = self.server.state().is_down;
        !is_down && !self.way().is_noticed
    }

    fn connections(&self) -> u64 {
        let starts = self.server.state().starts;
        // The first one was made before anything could break.
        1 + starts + self.way().made_anew
    }

    fn publish(&self, message: Outgoing) -> BoxFuture<'_, Result<u64, NotTaken>> {
        Box::pin(async move {
            let stored = self.ask(|| self.server.store(message)).await;
            stored.unwrap_or(Err(NotTaken::TimedOut))
        })
    }

    fn last<'a>(&'a self, stream: &'a str, subject: &'a str) -> BoxFuture<'a, Result<Option<Delivered>, String>> {
        Box::pin(async move {
            let is_stale = stream.starts_with("KV_") && self.loses(|weather| weather.stale_read);
            let read = || {
                let state = self.server.state();
                state.streams.get(stream).and_then(|stream| stream.newest_but(subject, usize::from(is_stale)))
            };
            self.read_now(read).await
        })
    }

    fn read<'a>(
        &'a self,
        stream: &'a str,
        filter: &'a str,
        newest_of_each: bool,
    ) -> BoxFuture<'a, Result<Vec<Delivered>, String>> {
        Box::pin(async move {
            let stream = if stream == DESIRED { RELEASES } else { stream };
            let read = || {
                let state = self.server.state();
                let Some(stream) = state.streams.get(stream) else { return Vec::new() };
                if newest_of_each { stream.newest_of_each(filter) } else { stream.all(filter) }
            };
            self.read_now(read).await
        })
    }

    fn follow(
        &self,
        filters: Vec<String>,
        from: OutcomesFrom,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<Delivered, String>>, String>> {
        Box::pin(async move {
            let begin = || {
                let state = self.server.state();
                let Some(stream) = state.streams.get(OUTCOMES) else { return (Vec::new(), 1) };
                let newest = filters.iter().flat_map(|filter| stream.newest_of_each(filter));
                match from {
                    OutcomesFrom::All => (Vec::new(), 1),
                    OutcomesFrom::New => (Vec::new(), stream.last_sequence() + 1),
                    OutcomesFrom::Sequence(sequence) => (Vec::new(), sequence),
                    OutcomesFrom::NewestOfEach => (newest.collect(), stream.last_sequence() + 1),
                }
            };
            let (mut first, next) = self.read_now(begin).await?;
            first.sort_by_key(|message: &Delivered| message.sequence);
            let link = self.clone();
            let later = stream::unfold((link, filters, next), |(link, filters, next)| async move {
                let message = link.next_outcome(next, &filters).await;
                let next = message.sequence + 1;
                Some((Ok(message), (link, filters, next)))
            });
            Ok(stream::iter(first.into_iter().map(Ok)).chain(later).boxed())
        })
    }

    fn hear(&self, subject: String) -> BoxFuture<'_, Result<BoxStream<'static, ()>, String>> {
        Box::pin(async move {
            let (tick, heard) = unbounded_channel();
            let listen = || {
                let listener = Listener { host: self.host.clone(), filter: subject, tick };
                self.server.state().listeners.push(listener);
            };
            self.read_now(listen).await?;
            Ok(stream::unfold(heard, |mut heard| async { Some((heard.recv().await?, heard)) }).boxed())
        })
    }

    fn bundle<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<Vec<u8>>, String>> {
        Box::pin(async move { self.read_now(|| self.server.state().bundles.get(digest).cloned()).await })
    }

    fn promotions<'a>(&'a self, env: &'a EnvName, host: &'a HostName) -> BoxFuture<'a, Result<Deliveries, String>> {
        Box::pin(async move {
            let name = executor_consumer(env, host);
            let filter = vec![subject::promoted_filter(env)];
            self.read_now(|| {
                self.server.state().durables.entry(name.clone()).or_default();
            })
            .await?;
            let delivered = stream::unfold((self.clone(), name, filter), |(link, name, filter)| async move {
                let next = link.deliver(&name, &filter).await?;
                Some((next, (link, name, filter)))
            });
            Ok(delivered.boxed())
        })
    }
}

/// What settles one delivery.
#[derive(Debug)]
struct Ticket {
    link: Link,
    name: String,
    sequence: u64,
}

impl Settle for Ticket {
    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let Self { link, name, sequence } = self;
            let settle = || {
                let now = Instant::now();
                if let Some(durable) = link.server.state().durables.get_mut(name) {
                    durable.settle(*sequence, settlement, now);
                }
            };
            link.read_now(settle).await
        })
    }
}
