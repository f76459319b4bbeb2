//! What a rollout came to, as an exit code.

use landfall_schema::outcome::{OutcomeKind, ReasonCode};
use landfall_schema::rollout::RolloutWord;

use super::{HostState, RolloutView};
use crate::error::ExitCode;

impl RolloutView {
    /// By the rollout's last word, else by what the hosts ended with. `None` while a host of the plan has not ended.
    pub fn exit_code(&self) -> Option<ExitCode> {
        match self.word() {
            Some(word) => Some(self.of_word(word)),
            None => self.of_hosts(),
        }
    }

    fn of_word(&self, word: RolloutWord) -> ExitCode {
        match word {
            RolloutWord::Succeeded => ExitCode::Done,
            RolloutWord::SucceededPartial => ExitCode::Partial,
            RolloutWord::RolledBack => self.of_rolled_back(),
            RolloutWord::Held => ExitCode::Held,
            RolloutWord::Mixed => ExitCode::Mixed,
            RolloutWord::Aborted if self.was_superseded() => ExitCode::Superseded,
            RolloutWord::Aborted => ExitCode::Aborted,
        }
    }

    /// A release that no host ever moved to has not been rolled back: it failed, or was refused.
    fn of_rolled_back(&self) -> ExitCode {
        let ends = || self.planned().filter_map(|(_, view)| view.end());
        let moved = |kind| {
            matches!(kind, OutcomeKind::DeployRolledBack | OutcomeKind::DeploySucceeded | OutcomeKind::DeployStuck)
        };
        if ends().any(|end| moved(end.kind)) {
            return ExitCode::RolledBack;
        }
        // Those that only heard that others had failed tell nothing of the release.
        let is_own = |code: Option<ReasonCode>| !matches!(code, Some(ReasonCode::RolloutFailed | ReasonCode::Aborted));
        let mut own =
            ends().filter(|end| is_own(end.reason.as_ref().map(|reason| reason.code))).map(|end| end.kind).peekable();
        let is_known = own.peek().is_some();
        let all_refused = own.all(|kind| kind == OutcomeKind::DeployRefused);
        match (is_known, all_refused) {
            (true, true) => ExitCode::Refused,
            (true, false) => ExitCode::Failed,
            (false, _) => ExitCode::RolledBack,
        }
    }

    /// What all hosts of the plan share, else that they differ.
    fn of_hosts(&self) -> Option<ExitCode> {
        let is_away = self.hosts.values().any(|host| matches!(host.state, HostState::Away));
        let mut codes = self.planned().map(|(_, view)| view.end().map(|outcome| exit_code(outcome.kind)));
        let first = match codes.next() {
            Some(first) => first?,
            // Every host of the plan is away.
            None => return is_away.then_some(ExitCode::NotReached),
        };
        let all = codes.try_fold(first, |all, code| Some(if code? == all { all } else { ExitCode::Mixed }))?;
        Some(if all == ExitCode::Done && is_away { ExitCode::Partial } else { all })
    }
}

/// The exit code of a rollout whose hosts all ended like this.
fn exit_code(kind: OutcomeKind) -> ExitCode {
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
