//! What the hosts of a plan have said so far. Only outcomes whose signatures were checked may be folded in.

use std::collections::BTreeMap;

use landfall_schema::ids::{EventId, HostName};
use landfall_schema::outcome::{Outcome, OutcomeKind, Reason};

/// How far a host is, as its own words tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It took the promotion; nothing that runs was touched.
    Begun,
    /// Its stack was or is being changed.
    Moved,
    /// It serves the release, and waits for the others.
    Committed,
    Ended {
        kind: OutcomeKind,
        reason: Option<Reason>,
        /// Whether its stack was ever changed.
        moved: bool,
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
    let moved = matches!(before, Some(Progress::Moved | Progress::Committed | Progress::Ended { moved: true, .. }));
    let told = match outcome.kind {
        kind if kind.is_terminal() => Progress::Ended {
            kind,
            reason: outcome.reason.clone(),
            moved: moved
                || matches!(
                    kind,
                    OutcomeKind::DeploySucceeded | OutcomeKind::DeployRolledBack | OutcomeKind::DeployStuck
                ),
        },
        OutcomeKind::ReleaseCommitted => Progress::Committed,
        kind if changes_the_stack(kind) => Progress::Moved,
        OutcomeKind::DriftDetected | OutcomeKind::DriftRepaired | OutcomeKind::DriftFailed => return None,
        kind if kind.is_rollout() => return None,
        _ => Progress::Begun,
    };
    // What was said last counts only when it tells of more than was known: outcomes of one host may arrive by two ways.
    match (before, told) {
        (Some(Progress::Ended { kind, reason, .. }), _) => {
            Some(Progress::Ended { kind: *kind, reason: reason.clone(), moved })
        }
        (_, told @ Progress::Ended { .. }) => Some(told),
        (Some(Progress::Committed), _) | (_, Progress::Committed) => Some(Progress::Committed),
        (Some(Progress::Moved), _) | (_, Progress::Moved) => Some(Progress::Moved),
        (_, Progress::Begun) => Some(Progress::Begun),
    }
}

fn changes_the_stack(kind: OutcomeKind) -> bool {
    matches!(kind.noun(), "stack" | "readiness" | "smoke" | "traffic" | "bake" | "rollback")
}
