//! Between deploys, and while a deploy waits for its rollout's end: is what runs still what was committed? Looked at when the engine tells of
//! the stack's containers, after a start, and after every commit.

use std::collections::BTreeSet;
use std::time::Duration;

use landfall_deploy::Evidence;
use landfall_schema::outcome::{Outcome, OutcomeKind, Reason, ReasonCode};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, error, warn};

use super::{CarryOut, Worker};
use crate::causes;
use crate::config::DriftPolicy;
use crate::hands::Drift;
use crate::journal::Serving;
use crate::pace::Backoff;
use crate::world;

/// A change must last this long: a container that the engine starts again by its restart policy has not drifted.
const SETTLE: Duration = Duration::from_secs(2);
/// When the engine or the journal did not answer, it is looked again after this time.
const LOOK_RETRY: Duration = Duration::from_secs(10);
/// Time to put the committed release back and to prove it.
const REPAIR_LIMIT: Duration = Duration::from_secs(180);
/// Repairs in a row before it is left to people.
const REPAIRS_MAX: u32 = 5;
/// Between two repairs, at least and at most.
const REPAIR_WAIT_MIN: Duration = Duration::from_secs(1);
const REPAIR_WAIT_MAX: Duration = Duration::from_secs(60);
/// After this time without a repair the count of repairs begins anew.
const REPAIR_CALM: Duration = Duration::from_secs(10 * 60);

pub(super) struct Watch {
    pub(super) policy: DriftPolicy,
    seen: Option<watch::Receiver<u64>>,
    /// When to look next.
    due: Option<Instant>,
    /// Seen once; told when they are still there at the next look.
    suspected: BTreeSet<String>,
    told: BTreeSet<String>,
    repairs: u32,
    repaired_at: Option<Instant>,
    backoff: Backoff,
}

impl Watch {
    /// The first look is soon after the start.
    pub(super) fn new(seen: Option<watch::Receiver<u64>>) -> Self {
        Self {
            policy: DriftPolicy::Report,
            due: seen.is_some().then(|| Instant::now() + SETTLE),
            seen,
            suspected: BTreeSet::new(),
            told: BTreeSet::new(),
            repairs: 0,
            repaired_at: None,
            backoff: Backoff::new(REPAIR_WAIT_MIN, REPAIR_WAIT_MAX),
        }
    }

    /// Until it is time to look. Cancel-safe.
    pub(super) async fn due(&mut self) {
        let Some(seen) = &mut self.seen else { return std::future::pending().await };
        if self.due.is_none() {
            if seen.changed().await.is_err() {
                // Whoever follows the engine is gone, and so is the daemon soon.
                return std::future::pending().await;
            }
            self.due = Some(Instant::now() + SETTLE);
        }
        if let Some(at) = self.due {
            sleep_until(at).await;
        }
        self.due = None;
        seen.mark_unchanged();
    }

    /// The stack is new: whatever was told of the former one may happen again.
    pub(super) fn after_commit(&mut self) {
        self.told.clear();
        self.begin_anew();
    }

    /// After a deploy: what it did itself is no drift, and people have decided anew.
    pub(super) fn begin_anew(&mut self) {
        self.suspected.clear();
        self.repairs = 0;
        self.repaired_at = None;
        self.backoff.reset();
        self.look_in(SETTLE);
    }

    fn look_in(&mut self, wait: Duration) {
        if self.seen.is_some() {
            self.due = Some(Instant::now() + wait);
        }
    }

    /// What has lasted since the last look. The others are looked at once more.
    fn lasting(&mut self, drifts: Vec<Drift>) -> Vec<Drift> {
        let keys: BTreeSet<String> = drifts.iter().map(Drift::key).collect();
        self.told.retain(|key| keys.contains(key));
        let before = std::mem::replace(&mut self.suspected, keys);
        let (lasting, fresh): (Vec<Drift>, Vec<Drift>) =
            drifts.into_iter().partition(|drift| before.contains(&drift.key()));
        if !fresh.is_empty() {
            self.look_in(SETTLE);
        }
        lasting
    }

    fn may_repair(&mut self) -> bool {
        if self.repaired_at.is_some_and(|at| at.elapsed() >= REPAIR_CALM) {
            self.repairs = 0;
            self.backoff.reset();
        }
        self.policy == DriftPolicy::Repair && self.repairs < REPAIRS_MAX
    }
}

impl<H: CarryOut> Worker<H> {
    pub(super) async fn look(&mut self) {
        if let Some((serving, lasting)) = self.tell_drift().await
            && !lasting.is_empty()
            && self.watch.may_repair()
        {
            self.repair(&serving, &lasting).await;
        }
    }

    /// Tells what has drifted since it was told last; with all that has.
    pub(super) async fn tell_drift(&mut self) -> Option<(Serving, Vec<Drift>)> {
        let (env, app) = (self.shared.env.clone(), self.app.clone());
        let serving = match self.shared.journal.serving(&env, &app).await {
            Ok(Some(serving)) => serving,
            Ok(None) => return None,
            Err(error) => {
                warn!(%app, error = causes(&error), "it is not known what should run");
                self.watch.look_in(LOOK_RETRY);
                return None;
            }
        };
        let drifts = match self.hands.drifted(&serving.committed).await {
            Ok(drifts) => drifts,
            Err(reason) => {
                debug!(%app, "whether the stack has drifted cannot be seen: {}", reason.message);
                self.watch.look_in(LOOK_RETRY);
                return None;
            }
        };
        let lasting = self.watch.lasting(drifts);
        let untold: Vec<&Drift> = lasting.iter().filter(|drift| !self.watch.told.contains(&drift.key())).collect();
        if !untold.is_empty() {
            let reason = detected(&serving, &untold);
            warn!(%app, "drifted: {}", reason.message);
            self.tell(&serving, OutcomeKind::DriftDetected, reason.message.clone(), Some(reason), |_| {}).await;
            self.watch.told.extend(lasting.iter().map(Drift::key));
        }
        Some((serving, lasting))
    }

    async fn repair(&mut self, serving: &Serving, drifts: &[Drift]) {
        self.watch.repairs += 1;
        let repairs = self.watch.repairs;
        let began = Instant::now();
        let deadline = began + REPAIR_LIMIT;
        let work = timeout_at(deadline, self.hands.put_back(&serving.committed, drifts, deadline));
        let result = tokio::select! {
            biased;
            result = work => result.unwrap_or_else(|_| {
                let text = format!("it took longer than {} s", REPAIR_LIMIT.as_secs());
                Err(Reason::new(ReasonCode::DeadlineExceeded, text))
            }),
            () = self.shared.parking.cancelled() => return,
        };
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.watch.repaired_at = Some(Instant::now());
        match result {
            Ok(evidence) => {
                self.watch.told.clear();
                self.watch.suspected.clear();
                let services: BTreeSet<&str> = drifts.iter().map(|drift| drift.service.as_str()).collect();
                let services: Vec<&str> = services.into_iter().collect();
                let message = format!("{} serves again; put back {}", serving.committed.release, services.join(", "));
                let running = match evidence {
                    Evidence::Running { services, .. } => services,
                    _ => Default::default(),
                };
                let fill = |outcome: &mut Outcome| {
                    outcome.running = running;
                    outcome.duration_ms = Some(took_ms);
                };
                self.tell(serving, OutcomeKind::DriftRepaired, message, None, fill).await;
            }
            Err(reason) => {
                warn!(app = %self.app, "the drift was not repaired: {}", reason.message);
                let again = match REPAIRS_MAX - repairs.min(REPAIRS_MAX) {
                    0 => format!("given up after {REPAIRS_MAX} attempts"),
                    left => format!("{left} more attempts"),
                };
                let message = format!("{} was not put back: {}; {again}", serving.committed.release, reason.message);
                let fill = |outcome: &mut Outcome| outcome.duration_ms = Some(took_ms);
                self.tell(serving, OutcomeKind::DriftFailed, message, Some(reason), fill).await;
            }
        }
        // Also after a success: somebody may go on stopping what is put back.
        let wait = self.watch.backoff.next_wait();
        self.watch.look_in(wait.max(SETTLE));
    }

    /// Belongs to the promotion whose release serves.
    async fn tell(
        &self,
        serving: &Serving,
        kind: OutcomeKind,
        message: String,
        reason: Option<Reason>,
        fill: impl FnOnce(&mut Outcome),
    ) {
        let now = world::now();
        let host = self.shared.announcer.host();
        let mut outcome =
            Outcome { message, reason, ..Outcome::new(kind, host, &serving.committed.promotion, serving.id) };
        fill(&mut outcome);
        match self.shared.announcer.outcome(outcome, now, None) {
            Ok(announcement) => {
                let announcements = [announcement];
                self.shared.persist(|journal| journal.announce(&announcements, now)).await;
            }
            Err(error) => error!(app = %self.app, error = causes(&error), "an outcome cannot be written"),
        }
    }
}

fn detected(serving: &Serving, drifts: &[&Drift]) -> Reason {
    let told: Vec<String> = drifts.iter().map(|drift| format!("service {}: {}", drift.service, drift.what)).collect();
    let promotion = &serving.committed.promotion;
    Reason::new(ReasonCode::Drifted, told.join("; ")).hint(format!(
        "promote again, or set drift = \"repair\" under [apps.{}] on this host, to have {} put back",
        promotion.app, promotion.release
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_end_and_begin_anew() {
        let mut watch = Watch::new(None);
        watch.policy = DriftPolicy::Repair;
        for (repairs, may) in [(REPAIRS_MAX - 1, true), (REPAIRS_MAX, false)] {
            watch.repairs = repairs;
            assert_eq!(watch.may_repair(), may, "{repairs}");
        }
        watch.begin_anew();
        assert!(watch.may_repair());
    }
}
