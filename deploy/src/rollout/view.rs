//! What the hosts of a plan have said so far. Only outcomes whose signatures were checked may be folded in.

use std::collections::BTreeMap;

use landfall_schema::ids::{EventId, HostName};
use landfall_schema::outcome::{Outcome, OutcomeKind, Reason, ReasonCode};

/// How far a host is, as its own words tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It took the promotion; nothing that runs was touched.
    Begun,
    /// Its stack was or is being changed.
    Moved,
    /// It serves the release, and waits for the others.
    Committed,
    /// It had committed the release, and then its stack was changed by something beside Landfall.
    Drifted { reason: Option<Reason> },
    Ended {
        kind: OutcomeKind,
        reason: Option<Reason>,
        /// What serves there now, where it did not keep the release, in words; `None` when it did not say.
        serves: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    promotion: EventId,
    hosts: BTreeMap<HostName, Progress>,
}

impl View {
    pub fn new(promotion: EventId) -> Self {
        Self { promotion, hosts: BTreeMap::new() }
    }

    /// `None` for a host that was silent so far.
    pub fn of(&self, host: &HostName) -> Option<&Progress> {
        self.hosts.get(host)
    }

    /// Takes an outcome in, in whichever order they come; returns whether it told something new.
    pub fn fold(&mut self, outcome: &Outcome) -> bool {
        if outcome.promotion != self.promotion {
            return false;
        }
        let before = self.hosts.get(&outcome.host);
        let Some(after) = fold(before, outcome) else { return false };
        if before == Some(&after) {
            return false;
        }
        self.hosts.insert(outcome.host.clone(), after);
        true
    }
}

fn fold(before: Option<&Progress>, outcome: &Outcome) -> Option<Progress> {
    let told = match outcome.kind {
        kind if kind.is_terminal() => Progress::Ended { kind, reason: outcome.reason.clone(), serves: serves(outcome) },
        OutcomeKind::ReleaseCommitted => Progress::Committed,
        OutcomeKind::DriftDetected | OutcomeKind::DriftFailed => Progress::Drifted { reason: outcome.reason.clone() },
        OutcomeKind::DriftRepaired => Progress::Committed,
        kind if changes_the_stack(kind) => Progress::Moved,
        kind if kind.is_rollout() => return None,
        _ => Progress::Begun,
    };
    // What was said last counts only when it tells of more than was known: outcomes of one host may arrive by two ways.
    match (before, outcome.kind.noun() == "drift") {
        // Before the commit a stack changes by the deploy itself.
        (Some(Progress::Committed | Progress::Drifted { .. }), true) => return Some(told),
        (_, true) => return None,
        _ => {}
    }
    match (before, told) {
        // Whoever reads this believed the promotion, so these refusals are of other bytes.
        (None, Progress::Ended { kind: OutcomeKind::DeployRefused, reason: Some(reason), .. })
            if is_of_other_bytes(reason.code) =>
        {
            None
        }
        // Whoever took the promotion believed it: that somebody sent its bytes once more, without a signature, does not end it.
        (Some(before), told) if is_refusal_of_a_copy(before, &told) => Some(before.clone()),
        (Some(before @ Progress::Ended { .. }), told) if !is_refusal_of_a_copy(&told, before) => Some(before.clone()),
        (_, told @ Progress::Ended { .. }) => Some(told),
        (Some(before @ Progress::Drifted { .. }), _) => Some(before.clone()),
        (Some(Progress::Committed), _) | (_, Progress::Committed) => Some(Progress::Committed),
        (Some(Progress::Moved), _) | (_, Progress::Moved) => Some(Progress::Moved),
        (_, told) => Some(told),
    }
}

/// Whether `refusal` cannot be about what this host is at work on, or has brought to an end.
fn is_refusal_of_a_copy(other: &Progress, refusal: &Progress) -> bool {
    let Progress::Ended { kind: OutcomeKind::DeployRefused, reason, .. } = refusal else { return false };
    match other {
        // It may still turn out to be against a rule, but not to be unbelievable.
        Progress::Begun => reason.as_ref().is_some_and(|reason| is_disbelief(reason.code)),
        Progress::Moved | Progress::Committed | Progress::Drifted { .. } => true,
        Progress::Ended { kind, .. } => {
            *kind != OutcomeKind::DeployRefused && reason.as_ref().is_some_and(|reason| is_disbelief(reason.code))
        }
    }
}

fn is_of_other_bytes(code: ReasonCode) -> bool {
    matches!(code, ReasonCode::Oversized | ReasonCode::Unsigned | ReasonCode::BadSignature)
}

fn is_disbelief(code: ReasonCode) -> bool {
    is_of_other_bytes(code) || matches!(code, ReasonCode::UnknownVersion | ReasonCode::UntrustedKey)
}

/// Of a host that does not serve the release: what it said to serve instead.
fn serves(outcome: &Outcome) -> Option<String> {
    match (&outcome.former, outcome.kind) {
        (_, OutcomeKind::DeploySucceeded | OutcomeKind::DeployStuck) => None,
        (Some(former), _) => Some(former.to_string()),
        (None, OutcomeKind::DeployRolledBack) if outcome.running.is_empty() => Some("nothing".to_owned()),
        (None, OutcomeKind::DeployRolledBack) => Some("what ran before Landfall".to_owned()),
        (None, _) => None,
    }
}

fn changes_the_stack(kind: OutcomeKind) -> bool {
    matches!(kind.noun(), "stack" | "readiness" | "smoke" | "traffic" | "bake" | "rollback")
}
