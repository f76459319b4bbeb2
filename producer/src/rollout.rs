//! A rollout as its outcomes tell it: one promotion, its hosts, and the exit code. Pure: events go in, a view comes out.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_schema::event::CloudEvent;
use landfall_schema::ids::{EventId, HostName};
use landfall_schema::outcome::{Outcome, OutcomeKind, Progress, Reason, ReasonCode};
use landfall_schema::promotion::Promotion;
use landfall_schema::rollout::{RolloutState, RolloutWord};

use crate::output;

mod judge;
pub mod state;

/// Time beyond all deadlines of a coordinated rollout: every host that had moved may go back (the hosts give that five minutes), and say so.
const UNWIND_SLACK_MS: u64 = 330_000;

/// The steps of a deploy by noun, in their order; `release` is the check before anything is touched.
pub const STEPS: [&str; 11] =
    ["release", "image", "backup", "migration", "stack", "readiness", "smoke", "traffic", "bake", "commit", "rollback"];

/// What people read of a host that a rollout never came to.
pub const UNTOUCHED: &str = "untouched";

/// One promotion and what every host of its plan made of it.
#[derive(Debug, Clone)]
pub struct RolloutView {
    pub id: EventId,
    pub promotion: Promotion,
    /// The hosts of the plan, and hosts that took the promotion without being in it.
    pub hosts: BTreeMap<HostName, HostView>,
    /// The newest state of the rollout, where its hosts act together.
    pub rollout: Option<RolloutState>,
}

#[derive(Debug, Clone)]
pub struct HostView {
    /// Only hosts of the plan decide the exit code.
    pub planned: bool,
    /// From 0.
    pub wave: Option<usize>,
    pub state: HostState,
    /// Finished steps in their order.
    pub steps: Vec<Step>,
    /// The first thing that went wrong.
    pub failure: Option<Reason>,
}

#[derive(Debug, Clone)]
pub enum HostState {
    /// Nothing was heard of it yet.
    Silent,
    /// It was away when the plan was made, and nothing was heard of it since.
    Away,
    Working {
        kind: OutcomeKind,
        message: String,
        progress: Option<Progress>,
    },
    /// With the terminal outcome.
    Ended(Box<Outcome>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The step's noun, e.g. `image`.
    pub noun: &'static str,
    pub failed: bool,
    pub duration_ms: Option<u64>,
}

/// Whether an outcome told something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folded {
    News,
    /// Of another promotion, said before, or after the end.
    Known,
}

impl RolloutView {
    pub fn new(event: &CloudEvent<Promotion>) -> Self {
        let plan = &event.data.plan;
        let mut hosts: BTreeMap<HostName, HostView> = BTreeMap::new();
        for (number, wave) in plan.waves.iter().enumerate() {
            hosts.extend(wave.hosts.iter().map(|host| (host.clone(), HostView::of_wave(number))));
        }
        for host in &plan.away {
            hosts.entry(host.clone()).or_insert_with(HostView::away);
        }
        Self { id: event.id, promotion: event.data.clone(), hosts, rollout: None }
    }

    /// Takes one outcome in.
    pub fn fold(&mut self, outcome: &Outcome) -> Folded {
        if outcome.promotion != self.id {
            return Folded::Known;
        }
        if outcome.kind.is_rollout() {
            // It is about the rollout, not about the host that says it; and only hosts of the plan decide.
            let plan = &self.promotion.plan;
            let decides = plan.is_coordinated() && plan.place_of(&outcome.host).is_some();
            return match &outcome.rollout {
                Some(state) if decides => self.learn(state),
                _ => Folded::Known,
            };
        }
        if outcome.kind.noun() == "drift" {
            return Folded::Known;
        }
        self.hosts.entry(outcome.host.clone()).or_insert_with(HostView::outside).fold(outcome)
    }

    /// Takes a state of the rollout in, which somebody who decides has signed.
    pub fn learn(&mut self, state: &RolloutState) -> Folded {
        let promotion = &self.promotion;
        let ours = state.promotion == self.id
            && (&state.env, &state.app, state.counter) == (&promotion.env, &promotion.app, promotion.counter);
        if !ours || self.word().is_some() || self.rollout.as_ref() == Some(state) {
            return Folded::Known;
        }
        self.rollout = Some(state.clone());
        Folded::News
    }

    /// The rollout's last word, where the hosts act together.
    pub fn word(&self) -> Option<RolloutWord> {
        self.rollout.as_ref()?.word()
    }

    /// Whether a newer promotion ended the rollout.
    pub fn was_superseded(&self) -> bool {
        let cause = self.rollout.as_ref().and_then(|state| state.cause.as_ref());
        cause.is_some_and(|cause| cause.code == ReasonCode::Superseded)
    }

    /// The last word is that every host that had moved went back.
    pub fn is_undone(&self) -> bool {
        match self.word() {
            Some(RolloutWord::RolledBack) => true,
            Some(RolloutWord::Aborted) => !self.was_superseded(),
            _ => false,
        }
    }

    /// Whether it has come to its end: of hosts that act together the rollout, else every host of the plan.
    pub fn is_ended(&self) -> bool {
        if self.promotion.plan.is_coordinated() { self.word().is_some() } else { self.are_hosts_ended() }
    }

    /// Whether nothing more is to be heard of any host of the plan.
    pub fn are_hosts_ended(&self) -> bool {
        self.planned().all(|(host, view)| view.end().is_some() || self.not_reached(host).is_some())
    }

    /// Whether any host of the plan has said anything.
    pub fn is_anybody_heard(&self) -> bool {
        self.planned().any(|(_, view)| !matches!(view.state, HostState::Silent | HostState::Away))
    }

    /// Why the rollout went on without this host.
    pub fn not_reached(&self, host: &HostName) -> Option<&str> {
        self.rollout.as_ref()?.not_reached.get(host).map(String::as_str)
    }

    /// How long it may take until the last host, or the rollout, has come to its end: the plan's deadline, of a coordinated rollout those of
    /// all waves together.
    pub fn limit_ms(&self) -> u64 {
        let plan = &self.promotion.plan;
        if !plan.is_coordinated() {
            return plan.deadline_ms;
        }
        let waves = plan.waves.iter().map(|wave| wave.deadline_ms.unwrap_or(plan.deadline_ms));
        waves.fold(0, u64::saturating_add)
    }

    /// As [`Self::limit_ms`], with the time to go back.
    pub fn limit_with_unwinding_ms(&self) -> u64 {
        let slack = if self.promotion.plan.is_coordinated() { UNWIND_SLACK_MS } else { 0 };
        self.limit_ms().saturating_add(slack)
    }

    /// What is to be told at once of the hosts that are away; they stay open, since they may come back.
    pub fn tell_away(&self) -> Vec<Outcome> {
        let away = self.hosts.iter().filter(|(_, view)| matches!(view.state, HostState::Away));
        let message = |host: &HostName| format!("{host} is away; it takes the release when it is back");
        away.map(|(host, _)| not_reached(&self.promotion, self.id, host.clone(), message(host))).collect()
    }

    /// Ends the hosts of the plan that have not ended by themselves; returns what is to be told of them. `waited` is for how long, if not until
    /// the deadline.
    pub fn end_waiting(&mut self, waited: Option<Duration>) -> Vec<Outcome> {
        let waited_ms = waited.map(|waited| u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
        let deadline = output::duration(waited_ms.unwrap_or_else(|| self.limit_ms()));
        let worded = self.word().is_some();
        let waiting: Vec<(HostName, String)> = self
            .planned()
            .filter_map(|(host, view)| match &view.state {
                HostState::Ended(_) | HostState::Away => None,
                _ if self.not_reached(host).is_some() => Some((
                    host.clone(),
                    format!("{host} was not reached: {}", self.not_reached(host).unwrap_or_default()),
                )),
                // The rollout has ended, so nobody waits for it any more.
                _ if worded => None,
                HostState::Silent => Some((host.clone(), format!("{host} was silent for {deadline}"))),
                HostState::Working { kind, .. } => Some((
                    host.clone(),
                    format!("{host} did not end within {deadline}; the last heard of it is {kind}"),
                )),
            })
            .collect();
        let outcomes: Vec<Outcome> =
            waiting.into_iter().map(|(host, message)| not_reached(&self.promotion, self.id, host, message)).collect();
        for outcome in &outcomes {
            self.fold(outcome);
        }
        outcomes
    }

    /// Header and rows of the table that ends a rollout: outcome, time per step, total.
    pub fn summary(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let nouns: Vec<&str> =
            STEPS.into_iter().filter(|noun| self.hosts.values().any(|view| view.time_of(noun).is_some())).collect();
        let by_wave = self.promotion.plan.waves.len() > 1;
        let mut header = vec!["host".to_owned()];
        header.extend(by_wave.then(|| "wave".to_owned()));
        header.push("outcome".to_owned());
        header.extend(nouns.iter().map(|&noun| if noun == "release" { "verify".to_owned() } else { noun.to_owned() }));
        header.push("total".to_owned());
        let mut hosts: Vec<(&HostName, &HostView)> = self.hosts.iter().collect();
        if by_wave {
            hosts.sort_by_key(|(host, view)| (view.wave.unwrap_or(usize::MAX), *host));
        }
        let rows = hosts.into_iter().map(|(host, view)| {
            let mut row = vec![host.to_string()];
            row.extend(by_wave.then(|| view.wave.map_or("-".to_owned(), |wave| (wave + 1).to_string())));
            row.push(view.shown());
            row.extend(nouns.iter().map(|noun| view.time_of(noun).map_or("-".to_owned(), output::duration)));
            row.push(view.end().and_then(|outcome| outcome.duration_ms).map_or("-".to_owned(), output::duration));
            row
        });
        (header, rows.collect())
    }

    fn planned(&self) -> impl Iterator<Item = (&HostName, &HostView)> {
        self.hosts.iter().filter(|(_, view)| view.planned)
    }
}

impl HostView {
    fn of_wave(wave: usize) -> Self {
        Self { planned: true, wave: Some(wave), state: HostState::Silent, steps: Vec::new(), failure: None }
    }

    fn away() -> Self {
        Self { planned: false, wave: None, state: HostState::Away, steps: Vec::new(), failure: None }
    }

    fn outside() -> Self {
        Self { state: HostState::Silent, ..Self::away() }
    }

    /// The terminal outcome, if there is one.
    pub fn end(&self) -> Option<&Outcome> {
        match &self.state {
            HostState::Ended(outcome) => Some(outcome),
            HostState::Silent | HostState::Away | HostState::Working { .. } => None,
        }
    }

    /// One word for the state, e.g. `succeeded`, `image.pulling`, `silent`.
    pub fn word(&self) -> String {
        match &self.state {
            HostState::Silent => "silent".to_owned(),
            HostState::Away => "not_reached".to_owned(),
            HostState::Working { kind, .. } => kind.to_string(),
            HostState::Ended(outcome) => outcome.kind.verb().to_owned(),
        }
    }

    /// The rollout ended before it was this host's turn, or while it was getting ready: the failure is not its own.
    pub fn is_untouched(&self) -> bool {
        let code = self.end().and_then(|outcome| outcome.reason.as_ref()).map(|reason| reason.code);
        self.end().is_some_and(|outcome| outcome.kind == OutcomeKind::DeployFailed)
            && matches!(code, Some(ReasonCode::RolloutFailed | ReasonCode::Aborted | ReasonCode::Superseded))
    }

    /// As [`Self::word`], for people: nothing failed on a host to which nothing was done.
    pub fn shown(&self) -> String {
        if self.is_untouched() { UNTOUCHED.to_owned() } else { self.word() }
    }

    /// The step at which it works.
    pub fn working_noun(&self) -> Option<&'static str> {
        match &self.state {
            HostState::Working { kind: OutcomeKind::ReleaseCommitted, .. } => Some("commit"),
            HostState::Working { kind, .. } => Some(kind.noun()),
            HostState::Silent | HostState::Away | HostState::Ended(_) => None,
        }
    }

    /// Milliseconds of a step: what the terminal outcome says, else what was heard.
    pub fn time_of(&self, noun: &str) -> Option<u64> {
        let said = self.end().and_then(|outcome| outcome.timings_ms.get(noun).copied());
        said.or_else(|| self.steps.iter().find(|step| step.noun == noun).and_then(|step| step.duration_ms))
    }

    fn fold(&mut self, outcome: &Outcome) -> Folded {
        if let Some(end) = self.end().map(|end| end.kind)
            // What a newer promotion passed by is taken after all when that one falls.
            && !(end == OutcomeKind::DeploySuperseded && outcome.kind.is_terminal() && outcome.kind != end)
        {
            return Folded::Known;
        }
        if outcome.kind.is_failure() && self.failure.is_none() {
            self.failure.clone_from(&outcome.reason);
        }
        if outcome.kind.is_terminal() {
            self.state = HostState::Ended(Box::new(outcome.clone()));
            return Folded::News;
        }
        self.state = HostState::Working {
            kind: outcome.kind,
            message: outcome.message.clone(),
            progress: outcome.progress.clone(),
        };
        self.note_step(outcome);
        Folded::News
    }

    fn note_step(&mut self, outcome: &Outcome) {
        let failed = outcome.kind.is_failure();
        // The subject says `release.committed`, but it is a step of its own.
        let noun = if outcome.kind == OutcomeKind::ReleaseCommitted { "commit" } else { outcome.kind.noun() };
        if outcome.duration_ms.is_none() && !failed {
            return;
        }
        let step = Step { noun, failed, duration_ms: outcome.duration_ms };
        // A step that was taken up again after a restart counts once.
        match self.steps.iter_mut().find(|known| known.noun == noun) {
            Some(known) => *known = step,
            None => self.steps.push(step),
        }
    }
}

fn not_reached(promotion: &Promotion, id: EventId, host: HostName, message: String) -> Outcome {
    let hint = format!(
        "see `landfall hosts --env {}`; a host that comes back still takes the release until it expires",
        promotion.env
    );
    Outcome {
        message: message.clone(),
        reason: Some(Reason::new(ReasonCode::NotReached, message).hint(hint)),
        ..Outcome::new(OutcomeKind::DeployNotReached, &host, promotion, id)
    }
}

#[cfg(test)]
#[path = "rollout/tests.rs"]
mod tests;
