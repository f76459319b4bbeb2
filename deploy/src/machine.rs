//! The deploy itself. Transitions stand in one total `match` in [`Machine::handle`]; illegal pairs are errors.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use landfall_schema::Timestamp;
use landfall_schema::ids::{Digest, ServiceName};
use landfall_schema::outcome::{Outcome, OutcomeKind, Reason, ReasonCode};
use landfall_schema::planted::planted;
use landfall_schema::promotion::Intent;
use thiserror::Error;

use crate::effect::Effect;
use crate::input::{Deadlines, Evidence, Input, Observed};
use crate::order::Order;
use crate::report;

/// Beyond the bake time itself, how long the watching may take.
const BAKE_SLACK_MS: u64 = 30_000;

/// Longest time of any step, and the wait for admission or for the other hosts: a year, as long as outcomes are kept.
const WAIT_MAX_MS: u64 = 365 * 24 * 60 * 60 * 1_000;

/// An input that does not fit the state: a defect of the shell, or a damaged journal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{input} does not fit a deploy that is {phase}")]
pub struct IllegalInput {
    pub phase: String,
    pub input: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    New,
    /// On the way forward.
    Doing(Effect),
    /// On the way back; `cause` is why.
    RollingBack {
        effect: Effect,
        cause: Reason,
    },
    Done(OutcomeKind),
}

#[derive(Debug, Clone)]
pub struct Machine {
    order: Order,
    phase: Phase,
    observed: Option<Observed>,
    running: BTreeMap<ServiceName, Digest>,
    offered: Option<Effect>,
    outcomes: VecDeque<Outcome>,
    timings_ms: BTreeMap<String, u64>,
    begun_at: Timestamp,
    step_began_at: Timestamp,
    rollback_began_at: Timestamp,
}

impl Machine {
    pub fn new(order: Order) -> Self {
        let epoch = Timestamp::UNIX_EPOCH;
        Self {
            order,
            phase: Phase::New,
            observed: None,
            running: BTreeMap::new(),
            offered: None,
            outcomes: VecDeque::new(),
            timings_ms: BTreeMap::new(),
            begun_at: epoch,
            step_began_at: epoch,
            rollback_began_at: epoch,
        }
    }

    pub fn order(&self) -> &Order {
        &self.order
    }

    /// What `Observe` saw; `None` before it finished.
    pub fn observed(&self) -> Option<&Observed> {
        self.observed.as_ref()
    }

    /// The next act for the shell. Answer it with exactly one `Finished` or `Failed`.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.offered.take()
    }

    /// The next outcome to publish.
    pub fn next_outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    /// How the deploy ended, once it has.
    pub fn terminal(&self) -> Option<OutcomeKind> {
        match self.phase {
            Phase::Done(kind) => Some(kind),
            _ => None,
        }
    }

    /// How long the effect under way may take. It is kept by a clock that nobody sets.
    pub fn limit(&self) -> Option<Duration> {
        // It may be as long as whoever promoted likes; it never ends the daemon.
        Some(Duration::from_millis(self.limit_ms(self.under_way()?).min(WAIT_MAX_MS)))
    }

    /// When the effect under way has taken too long, by the wall clock.
    pub fn deadline(&self) -> Option<Timestamp> {
        let limit = self.limit()?;
        Some(self.step_began_at.checked_add(limit).unwrap_or(Timestamp::MAX))
    }

    fn under_way(&self) -> Option<Effect> {
        match &self.phase {
            Phase::Doing(effect) | Phase::RollingBack { effect, .. } => Some(*effect),
            Phase::New | Phase::Done(_) => None,
        }
    }

    fn limit_ms(&self, effect: Effect) -> u64 {
        let deadlines = self.observed.as_ref().map_or_else(Deadlines::default, |observed| observed.deadlines);
        match effect {
            Effect::Observe => deadlines.observe_ms,
            Effect::Pull => deadlines.pull_ms,
            Effect::Backup => deadlines.backup_ms,
            Effect::Migrate => deadlines.migrate_ms,
            Effect::Update | Effect::Restore => deadlines.update_ms,
            Effect::Prove | Effect::ProveFormer => deadlines.prove_ms,
            Effect::Smoke => deadlines.smoke_ms,
            Effect::Bake => self.bake_ms().saturating_add(BAKE_SLACK_MS),
            Effect::Commit => deadlines.commit_ms,
            Effect::Remove => deadlines.update_ms,
            // People and other hosts are waited for as long as it takes; who waits is told, and a newer promotion ends it.
            Effect::Admit | Effect::AwaitRollout => WAIT_MAX_MS,
        }
    }

    fn bake_ms(&self) -> u64 {
        self.order.bake_ms(self.observed.as_ref().map_or(0, |observed| observed.bake_ms))
    }

    /// # Errors
    /// [`IllegalInput`] for an input that this state cannot be given; the machine is unchanged then.
    pub fn handle(&mut self, input: Input, now: Timestamp) -> Result<(), IllegalInput> {
        match (self.phase.clone(), input) {
            (Phase::New, Input::Begin) => self.begin(now),

            (Phase::Doing(doing), Input::Finished { effect, evidence })
                if doing == effect && fits(effect, &evidence) =>
            {
                self.advance(effect, evidence, now);
            }
            (Phase::Doing(doing), Input::Failed { effect, reason }) if doing == effect => {
                self.fail(effect, reason, now)
            }

            (Phase::RollingBack { effect: doing, cause }, Input::Finished { effect, evidence })
                if doing == effect && fits(effect, &evidence) =>
            {
                self.go_on_back(effect, evidence, cause, now);
            }
            (Phase::RollingBack { effect: doing, cause }, Input::Failed { effect, reason }) if doing == effect => {
                self.get_stuck(&cause, reason, now);
            }

            (Phase::Doing(Effect::Pull), Input::Progressed { progress }) => {
                let message = report::progress(&progress);
                self.say(OutcomeKind::ImagePulling, message, |outcome| outcome.progress = Some(progress));
            }

            // Before the migration a newer promotion takes over at once; after it this one is finished first.
            (
                Phase::Doing(Effect::Observe | Effect::Pull | Effect::Admit | Effect::Backup),
                Input::Superseded { by },
            ) => {
                let reason = Reason::new(
                    ReasonCode::Superseded,
                    format!("promotion {by} came before this one touched anything"),
                );
                self.end(OutcomeKind::DeploySuperseded, Some(reason), now);
            }
            (Phase::Doing(_), Input::Superseded { .. }) if planted("superseded_too_late") => {
                self.end(OutcomeKind::DeploySuperseded, None, now);
            }
            // This host has done its part; what becomes of the older rollout elsewhere is not waited for.
            (Phase::Doing(Effect::AwaitRollout), Input::Superseded { .. }) => {
                self.end(OutcomeKind::DeploySucceeded, None, now);
            }
            (Phase::Doing(_) | Phase::RollingBack { .. }, Input::Superseded { .. }) => {}

            (Phase::Doing(Effect::Admit | Effect::Migrate | Effect::AwaitRollout), Input::Waiting { on }) => {
                self.say(OutcomeKind::ReleaseWaiting, on, |_| {});
            }

            // The step's time starts anew: what passed while the executor was away does not count against it.
            (Phase::Doing(effect) | Phase::RollingBack { effect, .. }, Input::Resumed) => self.offer(effect, now),

            (phase, input) => return Err(IllegalInput { phase: format!("{phase:?}"), input: format!("{input:?}") }),
        }
        Ok(())
    }

    fn begin(&mut self, now: Timestamp) {
        self.begun_at = now;
        let message = report::accepted(&self.order);
        self.say(OutcomeKind::ReleaseAccepted, message, |_| {});
        let first = match self.order.promotion.intent {
            Intent::Remove => Effect::Remove,
            Intent::Promote | Intent::Rollback { .. } => Effect::Observe,
        };
        self.start(first, now);
    }

    fn start(&mut self, effect: Effect, now: Timestamp) {
        self.phase = Phase::Doing(effect);
        if let Some(kind) = report::started_kind(effect) {
            self.say(kind, String::new(), |_| {});
        }
        self.offer(effect, now);
    }

    fn offer(&mut self, effect: Effect, now: Timestamp) {
        self.step_began_at = now;
        self.offered = Some(effect);
    }

    /// The effect succeeded; what it saw is told, and the next one that has something to do is started.
    fn advance(&mut self, effect: Effect, evidence: Evidence, now: Timestamp) {
        if let (Effect::Prove, Evidence::Running { services, .. }) = (effect, &evidence) {
            self.running.clone_from(services);
            if let Err(reason) = self.check_running() {
                return self.fail(effect, reason, now);
            }
        }
        let took_ms = self.clock(effect, now);
        let message = report::finished(&evidence);
        let migrations = match &evidence {
            Evidence::Migrated { applied, .. } => applied.clone(),
            _ => Vec::new(),
        };
        let running = if effect == Effect::Commit { self.running.clone() } else { BTreeMap::new() };
        if let Evidence::Observed(observed) = evidence {
            self.observed = Some(observed);
        }
        if let Some(kind) = report::finished_kind(effect) {
            self.say(kind, message, |outcome| {
                outcome.duration_ms = Some(took_ms);
                outcome.migrations = migrations;
                outcome.running = running;
            });
        }
        match self.after(effect) {
            Some(next) => self.start(next, now),
            None => self.end(OutcomeKind::DeploySucceeded, None, now),
        }
    }

    /// The step after this one; steps with nothing to do are left out.
    fn after(&self, effect: Effect) -> Option<Effect> {
        let observed = self.observed.as_ref();
        let migrates = observed.is_some_and(|o| o.has_migrations);
        let backs_up = migrates && observed.is_some_and(|o| o.has_backup);
        let smokes = observed.is_some_and(|o| o.smoke_tests > 0);
        let order = [
            (Effect::Observe, true),
            (Effect::Pull, true),
            (Effect::Admit, true),
            (Effect::Backup, backs_up),
            (Effect::Migrate, migrates),
            (Effect::Update, true),
            (Effect::Prove, true),
            (Effect::Smoke, smokes),
            (Effect::Bake, self.bake_ms() > 0),
            (Effect::Commit, true),
            (Effect::AwaitRollout, self.is_coordinated()),
        ];
        let here = order.iter().position(|(step, _)| *step == effect)?;
        order[here + 1..].iter().find(|(_, has_work)| *has_work).map(|(step, _)| *step)
    }

    /// Whether other hosts have a say in how this ends. A host that the plan does not name comes after the rollout's end.
    fn is_coordinated(&self) -> bool {
        let plan = &self.order.promotion.plan;
        plan.is_coordinated() && plan.place_of(&self.order.host).is_some()
    }

    /// Success is the promised digest serving, not an exit code.
    fn check_running(&self) -> Result<(), Reason> {
        if planted("success_from_exit_code") {
            return Ok(());
        }
        let services = self.observed.as_ref().map_or(&[][..], |observed| &observed.services);
        for service in services {
            let promised = self.order.promotion.images.get(service).map(|image| &image.digest);
            let found = self.running.get(service);
            if promised.is_some() && found != promised {
                return Err(wrong_digest(service, promised, found));
            }
        }
        Ok(())
    }

    fn check_former(&self, running: &BTreeMap<ServiceName, Digest>) -> Result<(), Reason> {
        let Some(former) = self.observed.as_ref().and_then(|observed| observed.former.as_ref()) else {
            // Nothing served before, so nothing may serve now, whatever the engine says that it took down.
            return match running.iter().next() {
                Some((service, found)) => Err(wrong_digest(service, None, Some(found))),
                None => Ok(()),
            };
        };
        for (service, promised) in &former.images {
            let found = running.get(service);
            if found != Some(promised) {
                return Err(wrong_digest(service, Some(promised), found));
            }
        }
        Ok(())
    }

    fn fail(&mut self, effect: Effect, reason: Reason, now: Timestamp) {
        let took_ms = self.clock(effect, now);
        if let Some(kind) = report::failed_kind(effect) {
            self.say(kind, reason.message.clone(), |outcome| {
                outcome.duration_ms = Some(took_ms);
                outcome.reason = Some(reason.clone());
            });
        }
        match effect {
            Effect::Observe | Effect::Admit if report::is_refusal(reason.code) => {
                self.end(OutcomeKind::DeployRefused, Some(reason), now)
            }
            // The rollout's hosts may hear of the newer promotion before this one does.
            Effect::Admit if reason.code == ReasonCode::Superseded => {
                self.end(OutcomeKind::DeploySuperseded, Some(reason), now);
            }
            Effect::Observe | Effect::Pull | Effect::Admit | Effect::Backup | Effect::Migrate => {
                self.end(OutcomeKind::DeployFailed, Some(reason), now);
            }
            Effect::Update | Effect::Prove | Effect::Smoke | Effect::Bake | Effect::AwaitRollout => {
                self.turn_back(reason, now);
            }
            // There is no way back from half a removal; the next one goes on with it.
            Effect::Remove => self.end(OutcomeKind::DeployStuck, Some(reason), now),
            // Without its bundle the release cannot be written down as what this host goes back to, so it is not committed.
            Effect::Commit if matches!(reason.code, ReasonCode::BundleMissing | ReasonCode::BundleDigest) => {
                self.turn_back(reason, now);
            }
            // The release serves and is proven; that old images could not be removed does not take that back.
            Effect::Commit => {
                let running = self.running.clone();
                let message = format!("committed, but the clean-up failed: {}", reason.message);
                self.say(OutcomeKind::ReleaseCommitted, message, |outcome| outcome.running = running);
                self.end(OutcomeKind::DeploySucceeded, None, now);
            }
            Effect::Restore | Effect::ProveFormer => self.get_stuck(&reason.clone(), reason, now),
        }
    }

    fn turn_back(&mut self, cause: Reason, now: Timestamp) {
        self.rollback_began_at = now;
        let message = report::turning_back(self.observed.as_ref(), &cause);
        self.say(OutcomeKind::RollbackStarted, message, |_| {});
        self.phase = Phase::RollingBack { effect: Effect::Restore, cause };
        self.offer(Effect::Restore, now);
    }

    fn go_on_back(&mut self, effect: Effect, evidence: Evidence, cause: Reason, now: Timestamp) {
        if effect == Effect::Restore && !planted("restore_unproven") {
            self.phase = Phase::RollingBack { effect: Effect::ProveFormer, cause };
            return self.offer(Effect::ProveFormer, now);
        }
        self.running.clear();
        if let Evidence::Running { services, .. } = evidence {
            if let Err(reason) = self.check_former(&services) {
                return self.get_stuck(&cause, reason, now);
            }
            self.running = services;
        }
        let took_ms = elapsed_ms(self.rollback_began_at, now);
        self.timings_ms.insert("rollback".to_owned(), took_ms);
        let message = report::restored(self.observed.as_ref());
        self.say(OutcomeKind::RollbackRestored, message, |outcome| outcome.duration_ms = Some(took_ms));
        self.end(OutcomeKind::DeployRolledBack, Some(cause), now);
    }

    fn get_stuck(&mut self, cause: &Reason, trouble: Reason, now: Timestamp) {
        if planted("stuck_is_rolled_back") {
            return self.end(OutcomeKind::DeployRolledBack, Some(cause.clone()), now);
        }
        let took_ms = elapsed_ms(self.rollback_began_at, now);
        self.timings_ms.insert("rollback".to_owned(), took_ms);
        self.say(OutcomeKind::RollbackFailed, trouble.message.clone(), |outcome| {
            outcome.duration_ms = Some(took_ms);
            outcome.reason = Some(trouble.clone());
        });
        // What runs now is not known for sure, so nothing is claimed.
        self.running.clear();
        let reason = Reason {
            code: ReasonCode::RollbackFailed,
            message: format!("{}; then the rollback failed: {}", cause.message, trouble.message),
            hint: Some(report::stuck_hint(&self.order)),
            logs: cause.logs.iter().chain(&trouble.logs).cloned().collect(),
        };
        self.end(OutcomeKind::DeployStuck, Some(reason), now);
    }

    fn end(&mut self, kind: OutcomeKind, reason: Option<Reason>, now: Timestamp) {
        self.phase = Phase::Done(kind);
        self.offered = None;
        let took_ms = elapsed_ms(self.begun_at, now);
        let timings_ms = self.timings_ms.clone();
        let running = self.running.clone();
        let former = match kind {
            OutcomeKind::DeployRolledBack | OutcomeKind::DeployFailed | OutcomeKind::DeployRefused => {
                self.observed.as_ref().and_then(|o| o.former.as_ref()).and_then(|former| former.release.clone())
            }
            _ => None,
        };
        let message = report::ended(kind, &self.order, former.as_ref(), reason.as_ref());
        self.say(kind, message, |outcome| {
            outcome.duration_ms = Some(took_ms);
            outcome.timings_ms = timings_ms;
            outcome.running = running;
            outcome.former = former;
            outcome.reason = reason;
        });
    }

    fn clock(&mut self, effect: Effect, now: Timestamp) -> u64 {
        let took_ms = elapsed_ms(self.step_began_at, now);
        *self.timings_ms.entry(effect.noun().to_owned()).or_default() += took_ms;
        took_ms
    }

    fn say(&mut self, kind: OutcomeKind, message: String, fill: impl FnOnce(&mut Outcome)) {
        let Order { host, id, promotion } = &self.order;
        let mut outcome = Outcome { message, ..Outcome::new(kind, host, promotion, *id) };
        fill(&mut outcome);
        self.outcomes.push_back(outcome);
    }
}

/// Whether this is what carrying out the effect can have shown.
fn fits(effect: Effect, evidence: &Evidence) -> bool {
    match effect {
        Effect::Observe => matches!(evidence, Evidence::Observed(_)),
        Effect::Pull => matches!(evidence, Evidence::Pulled { .. }),
        Effect::Backup => matches!(evidence, Evidence::BackedUp { .. }),
        Effect::Migrate => matches!(evidence, Evidence::Migrated { .. }),
        Effect::Update => matches!(evidence, Evidence::Updated { .. }),
        Effect::Prove | Effect::ProveFormer => matches!(evidence, Evidence::Running { .. }),
        Effect::Smoke => matches!(evidence, Evidence::Smoked { .. }),
        Effect::Bake => matches!(evidence, Evidence::Baked),
        Effect::Commit => matches!(evidence, Evidence::Committed { .. }),
        Effect::Restore => matches!(evidence, Evidence::Restored),
        Effect::Admit => matches!(evidence, Evidence::Admitted),
        Effect::AwaitRollout => matches!(evidence, Evidence::RolloutEnded { .. }),
        Effect::Remove => matches!(evidence, Evidence::Removed { .. }),
    }
}

fn wrong_digest(service: &ServiceName, promised: Option<&Digest>, found: Option<&Digest>) -> Reason {
    let show =
        |digest: Option<&Digest>| digest.map_or("nothing".to_owned(), |digest| format!("sha256:{}…", digest.short()));
    let message = format!("{service} runs {}, promised was {}", show(found), show(promised));
    Reason::new(ReasonCode::WrongDigestRunning, message)
        .hint("look at the host with `docker compose ps`: something beside Landfall changes this stack")
}

fn elapsed_ms(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.as_millisecond() - from.as_millisecond()).unwrap_or(0)
}
