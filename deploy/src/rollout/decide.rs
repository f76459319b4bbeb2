//! The next state of a rollout.

use std::collections::{BTreeMap, BTreeSet};

use landfall_schema::ids::{Counter, HostName};
use landfall_schema::outcome::{OutcomeKind, Reason, ReasonCode};
use landfall_schema::planted::planted;
use landfall_schema::promotion::{Offline, OnFailure, Promotion, RolloutPlan, Wave};
use landfall_schema::rollout::{RolloutPhase, RolloutState, RolloutWord};

use super::view::{Progress, View};
use crate::order::Order;

/// A host that is not present, and was never heard of, counts as not reached after this time.
pub const SILENT_GRACE_MS: u64 = 5_000;
/// Time for every host that had moved to go back; whoever is silent then is named as differing.
pub const UNWIND_LIMIT_MS: u64 = 300_000;

/// All that a decision depends on.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    pub order: &'a Order,
    pub state: &'a RolloutState,
    pub view: &'a View,
    /// Hosts whose executors gave a sign of life lately.
    pub present: &'a BTreeSet<HostName>,
    /// An operator ended the rollout, and why.
    pub aborted: Option<&'a str>,
    /// A newer promotion of the application.
    pub superseded_by: Option<Counter>,
    /// Since this phase and wave were first seen, in milliseconds, by whichever clock only goes forward.
    pub elapsed_ms: u64,
}

/// The state before anybody decided anything: the first wave is open.
pub fn first_state(order: &Order) -> RolloutState {
    let promotion = &order.promotion;
    RolloutState {
        env: promotion.env.clone(),
        app: promotion.app.clone(),
        counter: promotion.counter,
        promotion: order.id,
        phase: RolloutPhase::Rolling,
        wave: 0,
        admitted: promotion.plan.waves.first().map_or(0, |wave| at_once(wave, 0)),
        cause: None,
        not_reached: Default::default(),
        differing: Default::default(),
        decided_by: order.host.clone(),
    }
}

/// What the state should become, when it should become something else.
pub fn decide(facts: &Facts<'_>) -> Option<RolloutState> {
    let next = RolloutState { decided_by: facts.order.host.clone(), ..facts.state.clone() };
    match facts.state.phase {
        RolloutPhase::Ended { .. } => None,
        RolloutPhase::RollingBack { aborted } => facts.rolled_back(next, aborted),
        RolloutPhase::Holding => facts.held(next),
        RolloutPhase::Rolling => facts.roll(next),
    }
}

/// How many hosts of the wave may be under way when so many have come to their end.
fn at_once(wave: &Wave, ended: usize) -> u32 {
    let all = u32::try_from(wave.hosts.len()).unwrap_or(u32::MAX);
    let ended = u32::try_from(ended).unwrap_or(u32::MAX);
    wave.max_parallel.map_or(all, |most| all.min(ended.saturating_add(most.max(1))))
}

impl Facts<'_> {
    fn plan(&self) -> &RolloutPlan {
        &self.order.promotion.plan
    }

    fn wave(&self) -> Option<&Wave> {
        self.plan().waves.get(self.state.wave as usize)
    }

    /// The hosts that may have begun: all of the former waves, and of this one those that were admitted.
    fn admitted(&self) -> impl Iterator<Item = &HostName> {
        let here = self.state.wave as usize;
        self.plan().waves.iter().enumerate().take(here + 1).flat_map(move |(number, wave)| {
            let most = if number == here { self.state.admitted as usize } else { wave.hosts.len() };
            wave.hosts.iter().take(most)
        })
    }

    fn roll(&self, next: RolloutState) -> Option<RolloutState> {
        if let Some(cause) = self.superseded() {
            return Some(RolloutState { differing: self.moved(), ..ended(next, RolloutWord::Aborted, Some(cause)) });
        }
        if let Some(cause) = self.aborted() {
            return Some(RolloutState {
                phase: RolloutPhase::RollingBack { aborted: true },
                cause: Some(cause),
                ..next
            });
        }
        if let Some(cause) = self.failure() {
            let phase = match self.plan().on_failure {
                OnFailure::RollbackAll => RolloutPhase::RollingBack { aborted: false },
                OnFailure::Hold => RolloutPhase::Holding,
            };
            return Some(RolloutState { phase, cause: Some(cause), ..next });
        }
        let missing = self.newly_missing();
        if !missing.is_empty() {
            let mut next = next;
            next.not_reached.extend(missing);
            return Some(next);
        }
        self.open(next)
    }

    /// By a newer promotion that was seen here, or that a host left this one for: such a host never comes to serve the release.
    fn superseded(&self) -> Option<Reason> {
        let text = match self.superseded_by {
            Some(by) => format!("promotion {by} came after it"),
            None => self.plan().hosts().find_map(|host| match self.view.of(host) {
                Some(Progress::Ended { kind: OutcomeKind::DeploySuperseded, reason, .. }) => {
                    let why = reason.as_ref().map_or("a newer promotion came", |reason| &reason.message);
                    Some(format!("{host} did not take it: {why}"))
                }
                _ => None,
            })?,
        };
        Some(Reason::new(ReasonCode::Superseded, text).hint(self.see("watch")))
    }

    /// By the word of an operator that was seen here, or by a host.
    fn aborted(&self) -> Option<Reason> {
        let heard = |host| match self.view.of(host) {
            Some(Progress::Ended { reason: Some(reason), .. }) if reason.code == ReasonCode::Aborted => {
                Some(reason.message.as_str())
            }
            _ => None,
        };
        let why = self.aborted.or_else(|| self.plan().hosts().find_map(heard))?;
        Some(Reason::new(ReasonCode::Aborted, why).hint(self.see("status")))
    }

    /// Which hosts are not as they were before it began.
    fn moved(&self) -> BTreeMap<HostName, String> {
        let release = &self.order.promotion.release;
        let what = |host| match self.view.of(host)? {
            Progress::Committed
            | Progress::Drifted { .. }
            | Progress::Ended { kind: OutcomeKind::DeploySucceeded, .. } => Some(format!("it has {release}")),
            Progress::Moved => Some(format!("it was on its way to {release}")),
            Progress::Ended { kind: OutcomeKind::DeployStuck, .. } => Some("it is stuck".to_owned()),
            Progress::Begun | Progress::Ended { .. } => None,
        };
        self.plan().hosts().filter_map(|host| Some((host.clone(), what(host)?))).collect()
    }

    /// A command that tells more.
    fn see(&self, command: &str) -> String {
        let Promotion { app, env, .. } = &self.order.promotion;
        format!("see `landfall {command} {app} --env {env}`")
    }

    /// The first thing that ends the rollout as a failure.
    fn failure(&self) -> Option<Reason> {
        // Also of a host whose turn has not come: it told early what would stop the rollout later, with more hosts to go back.
        self.plan().hosts().find_map(|host| self.failed(host)).or_else(|| self.late()).or_else(|| self.proved_nothing())
    }

    fn failed(&self, host: &HostName) -> Option<Reason> {
        let (what, reason) = match self.view.of(host)? {
            Progress::Ended { kind: OutcomeKind::DeploySucceeded | OutcomeKind::DeploySuperseded, .. } => return None,
            Progress::Ended { kind, reason, .. } => (kind.verb().replace('_', " "), reason),
            Progress::Drifted { reason } => ("drifted".to_owned(), reason),
            Progress::Begun | Progress::Moved | Progress::Committed => return None,
        };
        let (code, why, logs, hint) = match reason.clone() {
            Some(Reason { code, message, hint, logs }) => (code, format!(": {message}"), logs, hint),
            None => (ReasonCode::RolloutFailed, String::new(), Vec::new(), None),
        };
        let hint = hint.unwrap_or_else(|| self.see("status"));
        Some(Reason::new(code, format!("{host} {what}{why}")).hint(hint).logs(logs))
    }

    /// A host that has not come to its end by the wave's deadline.
    fn late(&self) -> Option<Reason> {
        let deadline_ms = self.wave().and_then(|wave| wave.deadline_ms).unwrap_or(self.plan().deadline_ms);
        if self.elapsed_ms < deadline_ms {
            return None;
        }
        self.admitted().filter(|host| !self.state.not_reached.contains_key(*host)).find_map(|host| {
            match self.view.of(host) {
                Some(Progress::Begun | Progress::Moved) => {
                    let text = format!("{host} took the release and did not end before the wave's deadline");
                    let hint = format!("{}, and the executor's log on {host}", self.see("status"));
                    Some(Reason::new(ReasonCode::DeadlineExceeded, text).hint(hint))
                }
                None if self.plan().offline == Offline::Block || self.present.contains(host) => {
                    let text = format!("{host} was silent until the wave's deadline");
                    Some(Reason::new(ReasonCode::NotReached, text).hint(self.see_hosts()))
                }
                Some(Progress::Committed | Progress::Drifted { .. } | Progress::Ended { .. }) | None => None,
            }
        })
    }

    /// A wave none of whose hosts could be reached shows nothing about the release.
    fn proved_nothing(&self) -> Option<Reason> {
        let wave = self.wave()?;
        let all_missing = wave.hosts.iter().all(|host| self.state.not_reached.contains_key(host));
        let more_to_come = (self.state.wave as usize) + 1 < self.plan().waves.len();
        let proved_before = self.state.wave > 0;
        (all_missing && !wave.hosts.is_empty() && (more_to_come || !proved_before)).then(|| {
            let text = format!("no host of wave {} was reached, so nothing is proven", self.state.wave + 1);
            Reason::new(ReasonCode::NotReached, text).hint(self.see_hosts())
        })
    }

    fn see_hosts(&self) -> String {
        format!("see `landfall hosts --env {}`, then promote again", self.order.promotion.env)
    }

    fn newly_missing(&self) -> Vec<(HostName, String)> {
        if self.plan().offline == Offline::Block || self.elapsed_ms < SILENT_GRACE_MS {
            return Vec::new();
        }
        let silent = |host: &&HostName| {
            self.view.of(host).is_none() && !self.present.contains(*host) && !self.state.not_reached.contains_key(*host)
        };
        self.admitted().filter(silent).map(|host| (host.clone(), "it is away".to_owned())).collect()
    }

    /// Whether the host needs no more waiting for in its wave.
    fn is_through(&self, host: &HostName) -> bool {
        self.state.not_reached.contains_key(host)
            || (planted("success_before_commit") && self.view.of(host).is_some())
            || matches!(
                self.view.of(host),
                Some(Progress::Committed | Progress::Drifted { .. } | Progress::Ended { .. })
            )
    }

    /// Lets more hosts of the wave begin, or opens the next one, or ends it well.
    fn open(&self, next: RolloutState) -> Option<RolloutState> {
        let wave = self.wave()?;
        let through = wave.hosts.iter().filter(|host| self.is_through(host)).count();
        if through < wave.hosts.len() {
            let admitted = at_once(wave, through);
            return (admitted > next.admitted).then_some(RolloutState { admitted, ..next });
        }
        match self.plan().waves.get(self.state.wave as usize + 1) {
            Some(following) => {
                Some(RolloutState { wave: self.state.wave + 1, admitted: at_once(following, 0), ..next })
            }
            None => {
                let complete = next.not_reached.is_empty() && self.plan().away.is_empty();
                let word = if complete { RolloutWord::Succeeded } else { RolloutWord::SucceededPartial };
                let mut next = ended(next, word, None);
                for host in &self.plan().away {
                    next.not_reached
                        .entry(host.clone())
                        .or_insert_with(|| "it was away when the plan was made".to_owned());
                }
                Some(next)
            }
        }
    }

    fn held(&self, next: RolloutState) -> Option<RolloutState> {
        if let Some(cause) = self.aborted() {
            return Some(RolloutState {
                phase: RolloutPhase::RollingBack { aborted: true },
                cause: Some(cause),
                ..next
            });
        }
        let late = self.elapsed_ms >= self.plan().deadline_ms;
        let all_through = self.admitted().all(|host| self.is_through(host));
        if !all_through && !late {
            return None;
        }
        let cause = next.cause.clone();
        let mut next = ended(next, RolloutWord::Held, cause);
        for host in self.admitted() {
            match self.view.of(host) {
                Some(Progress::Ended { kind: OutcomeKind::DeployStuck, .. }) => {
                    next.differing.insert(host.clone(), "it is stuck".to_owned());
                }
                Some(Progress::Begun | Progress::Moved) => {
                    next.differing.insert(host.clone(), "it did not come to an end in time".to_owned());
                }
                Some(Progress::Drifted { .. }) => {
                    next.differing.insert(host.clone(), "something beside Landfall has changed it".to_owned());
                }
                _ => {}
            }
        }
        if !next.differing.is_empty() {
            next.phase = RolloutPhase::Ended { word: RolloutWord::Mixed };
        }
        Some(next)
    }

    fn rolled_back(&self, next: RolloutState, aborted: bool) -> Option<RolloutState> {
        let late = self.elapsed_ms >= UNWIND_LIMIT_MS;
        let mut differing = next.differing.clone();
        for host in self.admitted() {
            let what = match self.view.of(host) {
                Some(Progress::Ended { kind: OutcomeKind::DeployStuck, .. }) => "it is stuck",
                Some(Progress::Ended { kind: OutcomeKind::DeploySucceeded, .. }) => "it kept the release",
                Some(Progress::Ended { .. }) => continue,
                // Never heard of: it may not begin any more, since admission needs the state that says so.
                None if late || !self.present.contains(host) => continue,
                _ if late || !self.present.contains(host) => "it is silent, and what it serves is not known",
                _ if planted("rolled_back_unseen") => continue,
                _ => return None,
            };
            differing.insert(host.clone(), what.to_owned());
        }
        if self.is_somebody_about_to_tell() {
            return None;
        }
        for (host, what) in self.serving_another() {
            differing.entry(host.clone()).or_insert(what);
        }
        let word = match (differing.is_empty(), aborted) {
            (false, _) => RolloutWord::Mixed,
            (true, true) => RolloutWord::Aborted,
            (true, false) => RolloutWord::RolledBack,
        };
        let cause = next.cause.clone();
        Some(RolloutState { differing, ..ended(next, word, cause) })
    }
}

impl Facts<'_> {
    /// Whoever waits for its turn ends as soon as it hears of the way back, and says what it serves. One that pulls does so much later, and
    /// is not waited for.
    fn is_somebody_about_to_tell(&self) -> bool {
        self.elapsed_ms < SILENT_GRACE_MS
            && self
                .plan()
                .hosts()
                .any(|host| self.present.contains(host) && self.view.of(host) == Some(&Progress::Begun))
    }

    /// The hosts that serve something else than most, and what. What is the former release on one host need not be on all.
    fn serving_another(&self) -> Vec<(&HostName, String)> {
        let serving: Vec<(&HostName, &str)> = self
            .plan()
            .hosts()
            .filter_map(|host| match self.view.of(host)? {
                Progress::Ended { serves, .. } => Some((host, serves.as_deref()?)),
                _ => None,
            })
            .collect();
        let count = |what: &str| serving.iter().filter(|(_, other)| *other == what).count();
        let most = serving.iter().map(|(_, what)| *what).reduce(|a, b| if count(b) > count(a) { b } else { a });
        let Some(most) = most else { return Vec::new() };
        let others = serving.iter().filter(|(_, what)| *what != most);
        others.map(|(host, what)| (*host, format!("it serves {what}, others serve {most}"))).collect()
    }
}

fn ended(state: RolloutState, word: RolloutWord, cause: Option<Reason>) -> RolloutState {
    RolloutState { phase: RolloutPhase::Ended { word }, cause, ..state }
}
