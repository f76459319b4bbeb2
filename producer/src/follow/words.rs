//! Outcomes in an operator's words: what, where, how long, why.

use landfall_schema::ids::HostName;
use landfall_schema::outcome::{Outcome, OutcomeKind, Reason};
use landfall_schema::promotion::{Intent, RolloutPlan};
use landfall_schema::rollout::{RolloutPhase, RolloutState, RolloutWord};

use crate::error::ExitCode;
use crate::output::duration;
use crate::plan::words::listed;
use crate::rollout::{HostState, RolloutView};

/// `host-a: pulled in 0.8 s: 2 images pulled`; with several waves `[wave 2] host-b: …`. `None` for what is only progress.
pub fn line(outcome: &Outcome, plan: &RolloutPlan) -> Option<String> {
    if outcome.kind == OutcomeKind::ImagePulling {
        return None;
    }
    if let Some(state) = &outcome.rollout {
        return Some(format!("rollout: {}", of_state(state, plan)));
    }
    let phrase = phrase(outcome.kind);
    let mut text = match plan.place_of(&outcome.host) {
        Some((wave, _)) if plan.waves.len() > 1 => format!("[wave {}] {}: {phrase}", wave + 1, outcome.host),
        _ => format!("{}: {phrase}", outcome.host),
    };
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

/// What the state of a rollout says, in one line.
pub fn of_state(state: &RolloutState, plan: &RolloutPlan) -> String {
    let because = state.cause.as_ref().map_or(String::new(), |cause| format!(": {}", cause.message));
    let named = |hosts: &std::collections::BTreeMap<HostName, String>| {
        hosts.iter().map(|(host, why)| format!("{host} ({why})")).collect::<Vec<_>>().join(", ")
    };
    let without = if state.not_reached.is_empty() {
        String::new()
    } else {
        format!("; not reached: {}", named(&state.not_reached))
    };
    match state.phase {
        RolloutPhase::Rolling => {
            let (wave, of) = (state.wave as usize, plan.waves.len());
            let hosts = plan.waves.get(wave).map_or(String::new(), |wave| {
                let admitted = wave.hosts.len().min(state.admitted as usize);
                listed(&wave.hosts[..admitted])
            });
            format!("wave {} of {of} is open for {hosts}{without}", wave + 1)
        }
        RolloutPhase::Holding => format!("nobody moves any further{because}"),
        RolloutPhase::RollingBack { aborted: true } => format!("aborted, every host that had moved goes back{because}"),
        RolloutPhase::RollingBack { aborted: false } => format!("every host that had moved goes back{because}"),
        RolloutPhase::Ended { word } => {
            let differing =
                if state.differing.is_empty() { String::new() } else { format!("; {}", named(&state.differing)) };
            format!("{}{because}{without}{differing}", of_word(word))
        }
    }
}

pub fn of_word(word: RolloutWord) -> &'static str {
    match word {
        RolloutWord::Succeeded => "succeeded",
        RolloutWord::SucceededPartial => "succeeded in part",
        RolloutWord::RolledBack => "rolled back",
        RolloutWord::Held => "held",
        RolloutWord::Mixed => "mixed",
        RolloutWord::Aborted => "aborted",
    }
}

/// After "the rollout": how it is, in one line.
pub fn status_of(state: &RolloutState) -> String {
    let because = state.cause.as_ref().map_or(String::new(), |cause| format!(" ({})", cause.message));
    let missing: Vec<&str> = state.not_reached.keys().map(HostName::as_str).collect();
    let without = if missing.is_empty() { String::new() } else { format!("; not reached: {}", missing.join(", ")) };
    match state.phase {
        RolloutPhase::Rolling => format!("is at wave {}{without}", state.wave + 1),
        RolloutPhase::Holding => format!("comes to a halt{because}"),
        RolloutPhase::RollingBack { .. } => format!("goes back{because}"),
        RolloutPhase::Ended { word: RolloutWord::SucceededPartial } => format!("succeeded in part{without}"),
        RolloutPhase::Ended { word } => format!("{}{because}{without}{}", past(word), differing(state)),
    }
}

/// The hosts that are not what the last word says of the others.
fn differing(state: &RolloutState) -> String {
    let each = state.differing.iter().map(|(host, what)| format!("; {host}: {what}"));
    each.collect()
}

/// After "the rollout has ended: it".
pub fn past(word: RolloutWord) -> &'static str {
    match word {
        RolloutWord::Succeeded => "succeeded",
        RolloutWord::SucceededPartial => "succeeded, and some hosts were not reached",
        RolloutWord::RolledBack => "was rolled back",
        RolloutWord::Held => "is held",
        RolloutWord::Mixed => "left the fleet mixed",
        RolloutWord::Aborted => "was aborted",
    }
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
    if let Some(text) = verdict_of_rollout(view, code) {
        return text;
    }
    let hosts = view.hosts.values().filter(|host| host.planned).count();
    let on = hosts_in_words(hosts);
    let what = format!("{} {}", view.promotion.app, view.promotion.release);
    let slowest = view.hosts.values().filter_map(|host| host.end()?.duration_ms).max();
    let after = slowest.map_or(String::new(), |milliseconds| format!(" after {}", duration(milliseconds)));
    match code {
        ExitCode::Done if view.promotion.intent == Intent::Remove => {
            format!("{} is removed from {on}{after}", view.promotion.app)
        }
        ExitCode::Done => format!("{what} serves on {on}{after}"),
        ExitCode::RolledBack => format!("{what} was rolled back on {on}{after}; {}", serves_again(view)),
        ExitCode::Failed => format!("{what} failed on {on}; nothing that was running was touched"),
        ExitCode::Stuck => format!("{what} is stuck on {on}: people are needed"),
        ExitCode::Refused => format!("{what} was refused on {on}"),
        ExitCode::NotReached if hosts == 0 => format!("{what} reached nobody: every host of the plan is away"),
        ExitCode::NotReached => format!("{what} did not reach {on}"),
        ExitCode::Partial => format!("{what} serves on {on}{after}; not reached: {}", away(view).join(", ")),
        ExitCode::Superseded => format!("{what} was superseded on {on} by a newer promotion"),
        _ => format!(
            "{what} ended differently on {on}: the fleet is mixed. See `landfall status {} --env {}`",
            view.promotion.app, view.promotion.env
        ),
    }
}

/// After a rollback.
fn serves_again(view: &RolloutView) -> &'static str {
    let ends = || view.hosts.values().filter_map(|host| host.end());
    let mut back = ends().filter(|end| end.kind == OutcomeKind::DeployRolledBack);
    if back.all(|end| end.former.is_none() && end.running.is_empty()) {
        "there was no former release, so nothing serves"
    } else {
        "the former release serves"
    }
}

/// The last line of a rollout whose hosts act together, once they have said their last word.
fn verdict_of_rollout(view: &RolloutView, code: ExitCode) -> Option<String> {
    let (word, state) = (view.word()?, view.rollout.as_ref()?);
    let (app, env) = (&view.promotion.app, &view.promotion.env);
    let what = format!("{app} {}", view.promotion.release);
    let why = state.cause.as_ref().map_or(String::new(), |cause| format!(": {}", cause.message));
    let ended = |kind| view.hosts.values().filter(|host| host.end().is_some_and(|end| end.kind == kind)).count();
    let serving = hosts_in_words(ended(OutcomeKind::DeploySucceeded));
    let slowest = view.hosts.values().filter_map(|host| host.end()?.duration_ms).max();
    let after = slowest.map_or(String::new(), |milliseconds| format!(" after {}", duration(milliseconds)));
    Some(match (word, code) {
        (RolloutWord::Succeeded, _) => format!("{what} serves on {serving}{after}"),
        (RolloutWord::SucceededPartial, _) => {
            let missing: Vec<&str> = state.not_reached.keys().map(HostName::as_str).collect();
            format!("{what} serves on {serving}{after}; not reached: {}", missing.join(", "))
        }
        (RolloutWord::RolledBack, ExitCode::Failed | ExitCode::Refused) => {
            let verb = if code == ExitCode::Refused { "was refused" } else { "failed" };
            format!("{what} {verb}, and nothing that was running was touched{why}")
        }
        (RolloutWord::RolledBack, _) => {
            let back = hosts_in_words(ended(OutcomeKind::DeployRolledBack));
            format!("{what} was rolled back on {back}{after}; {}{why}", serves_again(view))
        }
        (RolloutWord::Held, _) => format!(
            "{what} is held: it serves on {serving}, and nobody moves any further{why}. Go back with `landfall rollback {app} --env {env}`, or promote again"
        ),
        (RolloutWord::Mixed, _) => {
            let differing: Vec<String> = state.differing.iter().map(|(host, what)| format!("{host}: {what}")).collect();
            format!(
                "{what}: the fleet is mixed, people are needed ({}){why}. See `landfall status {app} --env {env}`",
                differing.join("; ")
            )
        }
        (RolloutWord::Aborted, ExitCode::Superseded) => format!("{what} was superseded{why}{}", differing(state)),
        (RolloutWord::Aborted, _) => {
            format!("{what} was aborted; the former release serves on every host that had moved{why}")
        }
    })
}

fn hosts_in_words(count: usize) -> String {
    if count == 1 { "1 host".to_owned() } else { format!("{count} hosts") }
}

fn away(view: &RolloutView) -> Vec<&str> {
    let away = view.hosts.iter().filter(|(_, host)| matches!(host.state, HostState::Away));
    away.map(|(name, _)| name.as_str()).collect()
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
        assert_eq!(line(&pulled, &RolloutPlan::default()).unwrap(), "host-a: pulled in 1.2 s: shop v2: image.pulled");
        let pulling = golden(include_bytes!("../../../schema/golden/dev.landfall.image.pulling.v1.json"));
        assert_eq!(line(&pulling, &RolloutPlan::default()), None);
    }

    #[test]
    fn a_rollout_that_left_hosts_different_names_them() {
        let state: CloudEvent<RolloutState> =
            serde_json::from_slice(include_bytes!("../../../schema/golden/dev.landfall.rollout.state.v1.json"))
                .unwrap();
        let mixed = status_of(&state.data);
        assert!(mixed.starts_with("left the fleet mixed (") && mixed.ends_with("; host-b: it is stuck"), "{mixed}");
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
