//! What was ordered, what the hosts said about it, what their engines were seen to run, and which faults there were.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use landfall_schema::Timestamp;
use landfall_schema::event::CloudEvent;
use landfall_schema::ids::{Digest, EventId, HostName, ServiceName};
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_tests::outcomes::{Outcomes, Published};
use serde::de::IgnoredAny;

use crate::faults::Kind;
use crate::release::Offer;

/// Before a stream that could not be read is read again.
const LISTEN_RETRY: Duration = Duration::from_millis(200);

/// One promotion, as it was published.
#[derive(Debug, Clone)]
pub(crate) struct Ordered {
    pub(crate) id: EventId,
    pub(crate) offer: Offer,
    pub(crate) hosts: Vec<HostName>,
    pub(crate) is_coordinated: bool,
    pub(crate) images: BTreeMap<ServiceName, Digest>,
    /// Versions of the SQL migrations that its application needs; none where it is not known to have run them.
    pub(crate) migrations: Vec<i64>,
}

/// A host whose engine was seen to run another image for a service than before.
#[derive(Debug, Clone)]
pub(crate) struct Move {
    pub(crate) host: HostName,
    pub(crate) service: ServiceName,
    pub(crate) from: Digest,
    pub(crate) to: Digest,
    /// It ran the one still after this time, and the other before that one: an engine is not looked at all the time.
    pub(crate) after: Timestamp,
    pub(crate) before: Timestamp,
}

/// What an engine ran for a service when it was looked at last, and when that look began.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) digest: Digest,
    pub(crate) at: Timestamp,
}

/// One fault that was tried.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) what: String,
    pub(crate) at: Timestamp,
    /// Whether it was seen to have happened.
    pub(crate) fired: bool,
    /// Whether everything was as it should be at a quiet point after it.
    pub(crate) survived: bool,
}

/// How often a claim was checked while the fleet was at work, and what was found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Witnessed {
    pub(crate) checked: u64,
    pub(crate) violations: Vec<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) ordered: BTreeMap<u64, Ordered>,
    pub(crate) heard: Vec<Published<Outcome>>,
    pub(crate) running: BTreeMap<(HostName, ServiceName), Seen>,
    pub(crate) moves: Vec<Move>,
    /// Which host began to change its stack for which promotion, and when, by its own word.
    pub(crate) updating: Vec<(HostName, u64, Timestamp)>,
    pub(crate) looks: u64,
    pub(crate) faults: Vec<Fault>,
    /// That a last word `succeeded` was true when it was said.
    pub(crate) words: Witnessed,
    /// How long it took at each quiet point until everything had come to its end.
    pub(crate) converged: Vec<Duration>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    inner: Arc<Mutex<Inner>>,
}

impl Record {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears every outcome, across restarts of the server. Never returns.
    pub(crate) async fn listen(self, mut outcomes: Outcomes, tell: tokio::sync::mpsc::UnboundedSender<Outcome>) {
        loop {
            // The server may be away. What cannot be read at all is missed by the oracle that counts the stream.
            let Ok(published) = outcomes.next().await else {
                tokio::time::sleep(LISTEN_RETRY).await;
                continue;
            };
            let outcome = published.data.clone();
            self.lock().hear(published);
            // Who listens to this ends with the run.
            let _ = tell.send(outcome);
        }
    }

    /// What an engine was just seen to run, by a look that began at this time.
    pub(crate) fn saw(&self, host: &HostName, running: &BTreeMap<ServiceName, Digest>, at: Timestamp) {
        let mut inner = self.lock();
        inner.looks += 1;
        for (service, digest) in running {
            let seen = Seen { digest: digest.clone(), at };
            let former = inner.running.insert((host.clone(), service.clone()), seen);
            let Some(Seen { digest: from, at: after }) = former.filter(|former| former.digest != *digest) else {
                continue;
            };
            let (host, service, to) = (host.clone(), service.clone(), digest.clone());
            inner.moves.push(Move { host, service, from, to, after, before: Timestamp::now() });
        }
    }

    pub(crate) fn injected(&self, kind: Kind, what: String) -> usize {
        let mut inner = self.lock();
        eprintln!("  fault: {what}");
        inner.faults.push(Fault { kind, what, at: Timestamp::now(), fired: false, survived: false });
        inner.faults.len() - 1
    }

    pub(crate) fn fired(&self, fault: usize) {
        self.lock().faults[fault].fired = true;
    }
}

impl Inner {
    pub(crate) fn hear(&mut self, published: Published<Outcome>) {
        let outcome = &published.data;
        if outcome.kind == OutcomeKind::StackUpdating {
            // When it was written, which may be long before the bus took it.
            let written =
                serde_json::from_slice::<CloudEvent<IgnoredAny>>(&published.message.body).map(|event| event.time);
            let at = written.unwrap_or(published.message.published_at);
            self.updating.push((outcome.host.clone(), outcome.counter.0, at));
        }
        self.heard.push(published);
    }

    pub(crate) fn newest(&self) -> u64 {
        self.ordered.keys().next_back().copied().unwrap_or_default()
    }

    /// The newest promotion with this image for which the host had begun to change its stack by this time; 0 when there is none.
    pub(crate) fn begun_with(&self, host: &HostName, service: &ServiceName, digest: &Digest, by: Timestamp) -> u64 {
        let promised =
            |counter: &u64| self.ordered.get(counter).and_then(|one| one.images.get(service)) == Some(digest);
        let begun =
            self.updating.iter().filter(|(who, _, at)| who == host && *at <= by).map(|(_, counter, _)| *counter);
        begun.filter(promised).max().unwrap_or_default()
    }

    pub(crate) fn said<'a>(&'a self, host: &'a HostName, counter: u64) -> impl Iterator<Item = &'a Published<Outcome>> {
        self.heard.iter().filter(move |one| one.data.host == *host && one.data.counter.0 == counter)
    }

    pub(crate) fn terminals(&self, host: &HostName, counter: u64) -> Vec<OutcomeKind> {
        self.said(host, counter).map(|one| one.data.kind).filter(|kind| kind.is_terminal()).collect()
    }

    /// The different last words about one rollout, by the ids of their events.
    pub(crate) fn words(&self, counter: u64) -> BTreeMap<EventId, OutcomeKind> {
        let is_word = |outcome: &Outcome| outcome.rollout.as_ref().is_some_and(|state| state.word().is_some());
        let about = self.heard.iter().filter(|one| one.data.counter.0 == counter && is_word(&one.data));
        about.map(|one| (one.id, one.data.kind)).collect()
    }

    /// Whether every host of this promotion's plan has come to its end.
    pub(crate) fn has_ended(&self, counter: u64) -> bool {
        self.ordered.get(&counter).is_some_and(|ordered| {
            ordered.hosts.iter().all(|host| !self.terminals(host, counter).is_empty())
                && (!ordered.is_coordinated || !self.words(counter).is_empty())
        })
    }

    /// Which promotion serves on a host, by its own words; `None` when it is stuck, or nothing was deployed yet.
    pub(crate) fn serving(&self, host: &HostName) -> Option<u64> {
        self.history(host).0
    }

    /// Follows a host's words: what it serves in the end, and where it said that it went back to something else than it had served.
    pub(crate) fn history(&self, host: &HostName) -> (Option<u64>, Vec<String>) {
        let mut committed: Vec<u64> = Vec::new();
        let (mut is_known, mut wrong) = (true, Vec::new());
        for one in self.heard.iter().filter(|one| one.data.host == *host) {
            let (outcome, counter) = (&one.data, one.data.counter.0);
            match outcome.kind {
                OutcomeKind::ReleaseCommitted => {
                    if committed.last().is_some_and(|&last| last > counter) {
                        wrong.push(format!("{host} committed #{counter} after {:?}", committed.last()));
                    }
                    if committed.last() != Some(&counter) {
                        committed.push(counter);
                    }
                    is_known = true;
                }
                OutcomeKind::DeployRolledBack => {
                    if committed.last() == Some(&counter) {
                        committed.pop();
                    }
                    let former = outcome.former.as_ref().map(ToString::to_string);
                    let served = committed.last().map(|counter| format!("r{counter}"));
                    if is_known && former != served {
                        wrong.push(format!(
                            "{host} says that #{counter} went back to {former:?}; it had served {served:?}"
                        ));
                    }
                    is_known = true;
                }
                OutcomeKind::DeployStuck => is_known = false,
                _ => {}
            }
        }
        (committed.last().copied().filter(|_| is_known), wrong)
    }

    /// The newest promotion that serves on all hosts.
    pub(crate) fn proven(&self) -> Vec<u64> {
        let succeeded = |counter: u64, ordered: &Ordered| {
            let well = |host: &HostName| self.terminals(host, counter) == [OutcomeKind::DeploySucceeded];
            ordered.hosts.iter().all(well)
        };
        self.ordered
            .iter()
            .filter(|(counter, ordered)| succeeded(**counter, ordered))
            .map(|(counter, _)| *counter)
            .collect()
    }
}
