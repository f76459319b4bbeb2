//! Outcomes in an operator's words: what, where, how long, why.

use landfall_schema::outcome::{Outcome, OutcomeKind, Reason};

use crate::error::ExitCode;
use crate::output::duration;
use crate::rollout::RolloutView;

/// `host-a: pulled in 0.8 s: 2 images pulled`. `None` for what is only progress.
pub fn line(outcome: &Outcome) -> Option<String> {
    if outcome.kind == OutcomeKind::ImagePulling {
        return None;
    }
    let phrase = phrase(outcome.kind);
    let mut text = format!("{}: {phrase}", outcome.host);
    if let Some(milliseconds) = outcome.duration_ms {
        let word = if outcome.kind.is_failure() { "after" } else { "in" };
        text.push_str(&format!(" {word} {}", duration(milliseconds)));
    }
    let message = told(outcome);
    if !message.is_empty() && message != phrase {
        text.push_str(&format!(": {message}"));
    }
    Some(text)
}

/// The message; at the end of a deploy without the reason, which the failed step has told.
fn told(outcome: &Outcome) -> &str {
    let message = outcome.message.as_str();
    match &outcome.reason {
        Some(reason) if outcome.kind.is_terminal() => {
            message.strip_suffix(reason.message.as_str()).map_or(message, |rest| rest.trim_end_matches([':', ' ']))
        }
        _ => message,
    }
}

/// What belongs below a failure: the reason where the line did not say it, the hint, the last log lines.
pub fn details(outcome: &Outcome, reason: &Reason) -> Vec<String> {
    let mut lines = Vec::new();
    if !told(outcome).contains(&reason.message) {
        lines.push(format!("  because: {}", reason.message));
    }
    for tail in &reason.logs {
        // Health checks fill logs with one line over and over.
        for same in tail.lines.chunk_by(|one, next| one == next) {
            let times = if same.len() > 1 { format!("  ({} times)", same.len()) } else { String::new() };
            lines.extend(same.first().map(|line| format!("  {} | {}{times}", tail.source, printable(line))));
        }
    }
    if let Some(hint) = &reason.hint {
        lines.push(format!("  hint: {hint}"));
    }
    lines
}

/// A container's log must not steer this terminal.
fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// `shop v2 serves on 2 hosts`: the last line of a rollout.
pub fn verdict(view: &RolloutView, code: ExitCode) -> String {
    let hosts = view.hosts.values().filter(|host| host.planned).count();
    let on = if hosts == 1 { "1 host".to_owned() } else { format!("{hosts} hosts") };
    let what = format!("{} {}", view.promotion.app, view.promotion.release);
    let slowest = view.hosts.values().filter_map(|host| host.end()?.duration_ms).max();
    let after = slowest.map_or(String::new(), |milliseconds| format!(" after {}", duration(milliseconds)));
    match code {
        ExitCode::Done => format!("{what} serves on {on}{after}"),
        ExitCode::RolledBack => format!("{what} was rolled back on {on}{after}; the former release serves"),
        ExitCode::Failed => format!("{what} failed on {on}; nothing that was running was touched"),
        ExitCode::Stuck => format!("{what} is stuck on {on}: people are needed"),
        ExitCode::Refused => format!("{what} was refused on {on}"),
        ExitCode::NotReached => format!("{what} did not reach {on}"),
        ExitCode::Superseded => format!("{what} was superseded on {on} by a newer promotion"),
        _ => format!(
            "{what} ended differently on {on}: the fleet is mixed. See `landfall status {} --env {}`",
            view.promotion.app, view.promotion.env
        ),
    }
}

pub fn phrase(kind: OutcomeKind) -> &'static str {
    match kind {
        OutcomeKind::ReleaseAccepted => "accepted",
        OutcomeKind::ReleaseVerified => "verified",
        OutcomeKind::ReleaseWaiting => "waiting",
        OutcomeKind::ImagePulling => "pulling",
        OutcomeKind::ImagePulled => "pulled",
        OutcomeKind::ImageFailed => "pull failed",
        OutcomeKind::BackupStarted => "backing up",
        OutcomeKind::BackupTaken => "backed up",
        OutcomeKind::BackupFailed => "backup failed",
        OutcomeKind::MigrationStarted => "migrating",
        OutcomeKind::MigrationApplied => "migrated",
        OutcomeKind::MigrationFailed => "migration failed",
        OutcomeKind::StackUpdating => "updating",
        OutcomeKind::StackUpdated => "updated",
        OutcomeKind::StackFailed => "update failed",
        OutcomeKind::ReadinessProbing => "probing",
        OutcomeKind::ReadinessHealthy => "healthy",
        OutcomeKind::ReadinessFailed => "not ready",
        OutcomeKind::SmokeStarted => "smoke tests",
        OutcomeKind::SmokePassed => "smoke passed",
        OutcomeKind::SmokeFailed => "smoke failed",
        OutcomeKind::TrafficSwitched => "traffic switched",
        OutcomeKind::BakeStarted => "baking",
        OutcomeKind::BakePassed => "baked",
        OutcomeKind::BakeFailed => "did not stay healthy",
        OutcomeKind::RollbackStarted => "rolling back",
        OutcomeKind::RollbackRestored => "restored",
        OutcomeKind::RollbackFailed => "rollback failed",
        OutcomeKind::ReleaseCommitted => "committed",
        OutcomeKind::DeploySucceeded => "succeeded",
        OutcomeKind::DeployFailed => "failed",
        OutcomeKind::DeployRolledBack => "rolled back",
        OutcomeKind::DeployStuck => "stuck",
        OutcomeKind::DeploySuperseded => "superseded",
        OutcomeKind::DeployRefused => "refused",
        OutcomeKind::DeployNotReached => "not reached",
        OutcomeKind::StackRemoved => "removed",
        OutcomeKind::RolloutWaveOpened => "wave opened",
        OutcomeKind::RolloutHostSkipped => "goes on without a host",
        OutcomeKind::RolloutRollingBack => "rolling the fleet back",
        OutcomeKind::RolloutSucceeded => "rollout succeeded",
        OutcomeKind::RolloutSucceededPartial => "rollout succeeded in part",
        OutcomeKind::RolloutRolledBack => "rollout rolled back",
        OutcomeKind::RolloutHeld => "rollout held",
        OutcomeKind::RolloutMixed => "rollout mixed",
        OutcomeKind::RolloutAborted => "rollout aborted",
        OutcomeKind::DriftDetected => "drift",
        OutcomeKind::DriftRepaired => "drift repaired",
        OutcomeKind::DriftFailed => "drift stays",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use landfall_schema::event::CloudEvent;

    use super::*;

    fn golden(bytes: &[u8]) -> Outcome {
        serde_json::from_slice::<CloudEvent<Outcome>>(bytes).unwrap().data
    }

    #[test]
    fn a_step_in_one_line() {
        let pulled = golden(include_bytes!("../../../schema/golden/dev.landfall.image.pulled.v1.json"));
        assert_eq!(line(&pulled).unwrap(), "host-a: pulled in 1.2 s: shop v2: image.pulled");
        let pulling = golden(include_bytes!("../../../schema/golden/dev.landfall.image.pulling.v1.json"));
        assert_eq!(line(&pulling), None);
    }

    #[test]
    fn a_failure_with_its_reason_logs_and_hint() {
        let mut failed = golden(include_bytes!("../../../schema/golden/dev.landfall.readiness.failed.v1.json"));
        let mut reason = failed.reason.take().unwrap();
        reason.message = "app answered 503".to_owned();
        reason.logs[0].lines = ["\u{1b}[31mbroken", "same", "same"].map(str::to_owned).to_vec();
        let expect = [
            "  because: app answered 503",
            "  app | \u{fffd}[31mbroken",
            "  app | same  (2 times)",
            "  hint: landfall history shop --env staging",
        ];
        assert_eq!(details(&failed, &reason), expect);
        failed.message = "not ready: app answered 503".to_owned();
        assert_eq!(details(&failed, &reason).len(), 3);
    }
}
