//! A rollout as its outcomes tell it: one promotion, its hosts, and the exit code. Pure: events go in, a view comes out.

use std::collections::BTreeMap;

use landfall_schema::event::CloudEvent;
use landfall_schema::ids::{EventId, HostName};
use landfall_schema::outcome::{Outcome, OutcomeKind, Progress, Reason, ReasonCode};
use landfall_schema::promotion::Promotion;

use crate::error::ExitCode;
use crate::output;

/// The steps of a deploy by noun, in their order; `release` is the check before anything is touched.
pub const STEPS: [&str; 11] =
    ["release", "image", "backup", "migration", "stack", "readiness", "smoke", "traffic", "bake", "commit", "rollback"];

/// One promotion and what every host of its plan made of it.
#[derive(Debug, Clone)]
pub struct RolloutView {
    pub id: EventId,
    pub promotion: Promotion,
    /// The hosts of the plan, and hosts that took the promotion without being in it.
    pub hosts: BTreeMap<HostName, HostView>,
}

#[derive(Debug, Clone)]
pub struct HostView {
    /// Only hosts of the plan decide the exit code.
    pub planned: bool,
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
        let hosts = event.data.plan.hosts().map(|host| (host.clone(), HostView::silent(true))).collect();
        Self { id: event.id, promotion: event.data.clone(), hosts }
    }

    /// Takes one outcome in.
    pub fn fold(&mut self, outcome: &Outcome) -> Folded {
        if outcome.promotion != self.id {
            return Folded::Known;
        }
        self.hosts.entry(outcome.host.clone()).or_insert_with(|| HostView::silent(false)).fold(outcome)
    }

    /// Whether every host of the plan has come to its end.
    pub fn is_ended(&self) -> bool {
        self.planned().all(|(_, view)| view.end().is_some())
    }

    /// Ends the hosts of the plan that have not ended by themselves; returns what is to be told of them.
    pub fn end_waiting(&mut self) -> Vec<Outcome> {
        let deadline = output::duration(self.promotion.plan.deadline_ms);
        let waiting: Vec<(HostName, String)> = self
            .planned()
            .filter_map(|(host, view)| match &view.state {
                HostState::Silent => Some((host.clone(), format!("{host} was silent for {deadline}"))),
                HostState::Working { kind, .. } => Some((
                    host.clone(),
                    format!("{host} did not end within {deadline}; the last heard of it is {kind}"),
                )),
                HostState::Ended(_) => None,
            })
            .collect();
        let outcomes: Vec<Outcome> =
            waiting.into_iter().map(|(host, message)| not_reached(&self.promotion, self.id, host, message)).collect();
        for outcome in &outcomes {
            self.fold(outcome);
        }
        outcomes
    }

    /// `None` while a host of the plan has not ended.
    pub fn exit_code(&self) -> Option<ExitCode> {
        let mut codes = self.planned().map(|(_, view)| view.end().map(|outcome| exit_code(outcome.kind)));
        let first = codes.next()??;
        codes.try_fold(first, |all, code| Some(if code? == all { all } else { ExitCode::Mixed }))
    }

    /// Header and rows of the table that ends a rollout: outcome, time per step, total.
    pub fn summary(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let nouns: Vec<&str> =
            STEPS.into_iter().filter(|noun| self.hosts.values().any(|view| view.time_of(noun).is_some())).collect();
        let mut header = vec!["host".to_owned(), "outcome".to_owned()];
        header.extend(nouns.iter().map(|&noun| if noun == "release" { "verify".to_owned() } else { noun.to_owned() }));
        header.push("total".to_owned());
        let rows = self.hosts.iter().map(|(host, view)| {
            let mut row = vec![host.to_string(), view.word()];
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
    fn silent(planned: bool) -> Self {
        Self { planned, state: HostState::Silent, steps: Vec::new(), failure: None }
    }

    /// The terminal outcome, if there is one.
    pub fn end(&self) -> Option<&Outcome> {
        match &self.state {
            HostState::Ended(outcome) => Some(outcome),
            HostState::Silent | HostState::Working { .. } => None,
        }
    }

    /// One word for the state, e.g. `succeeded`, `image.pulling`, `silent`.
    pub fn word(&self) -> String {
        match &self.state {
            HostState::Silent => "silent".to_owned(),
            HostState::Working { kind, .. } => kind.to_string(),
            HostState::Ended(outcome) => outcome.kind.verb().to_owned(),
        }
    }

    /// Milliseconds of a step: what the terminal outcome says, else what was heard.
    pub fn time_of(&self, noun: &str) -> Option<u64> {
        let said = self.end().and_then(|outcome| outcome.timings_ms.get(noun).copied());
        said.or_else(|| self.steps.iter().find(|step| step.noun == noun).and_then(|step| step.duration_ms))
    }

    fn fold(&mut self, outcome: &Outcome) -> Folded {
        if self.end().is_some() {
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

/// The exit code of a rollout whose hosts all ended like this.
pub fn exit_code(kind: OutcomeKind) -> ExitCode {
    match kind {
        OutcomeKind::DeploySucceeded => ExitCode::Done,
        OutcomeKind::DeployRolledBack => ExitCode::RolledBack,
        OutcomeKind::DeployFailed => ExitCode::Failed,
        OutcomeKind::DeployStuck => ExitCode::Stuck,
        OutcomeKind::DeployRefused => ExitCode::Refused,
        OutcomeKind::DeployNotReached => ExitCode::NotReached,
        OutcomeKind::DeploySuperseded => ExitCode::Superseded,
        _ => ExitCode::Error,
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
