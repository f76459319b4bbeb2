//! A plan in words. Pure.

use landfall_schema::Timestamp;
use landfall_schema::ids::HostName;
use landfall_schema::promotion::{OnFailure, RolloutPlan, Wave};

use super::Planned;
use crate::output::duration;

/// Which hosts, wave by wave, who is away, and what happens on failure; one line each.
pub fn lines(planned: &Planned, now: Timestamp) -> Vec<String> {
    let plan = &planned.plan;
    let of = plan.waves.len();
    let mut lines: Vec<String> = plan
        .waves
        .iter()
        .enumerate()
        .map(|(number, wave)| {
            let name = if of > 1 { format!("wave {} of {of}", number + 1) } else { "hosts".to_owned() };
            format!("{name}: {}{}", listed(&wave.hosts), how(plan, wave))
        })
        .collect();
    lines.extend(
        planned.away_lines(now).into_iter().map(|line| format!("away: {line}; it takes the release when it is back")),
    );
    if plan.is_coordinated() {
        lines.push(format!("on failure: {}", on_failure(plan.on_failure)));
    }
    lines
}

pub fn on_failure(policy: OnFailure) -> &'static str {
    match policy {
        OnFailure::RollbackAll => "every host that had moved goes back (rollback_all)",
        OnFailure::Hold => "nobody moves any further, until people decide (hold)",
    }
}

/// `host-a, host-b and 96 more`.
pub fn listed(hosts: &[HostName]) -> String {
    const SHOWN_MAX_HOSTS: usize = 12;
    let shown: Vec<&str> = hosts.iter().take(SHOWN_MAX_HOSTS).map(HostName::as_str).collect();
    match hosts.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// What a host says, marked where nobody knows whether it was the host.
pub fn as_verified(text: &str, verified: bool) -> String {
    if verified { text.to_owned() } else { format!("{text} (unverified)") }
}

/// A host announces another key than the one that is known as its own.
pub fn of_changed_key(host: &HostName) -> String {
    format!(
        "{host} announces another key than `host_keys` of the context, or the plan before, has for it; if nobody set it up anew, somebody speaks in its name"
    )
}

fn how(plan: &RolloutPlan, wave: &Wave) -> String {
    let mut parts = Vec::new();
    if let Some(most) = wave.max_parallel.filter(|most| (*most as usize) < wave.hosts.len()) {
        parts.push(format!("{most} at a time"));
    }
    let bake_ms = wave.bake_ms.unwrap_or(0).max(plan.bake_ms);
    if bake_ms > 0 {
        parts.push(format!("watched for {}", duration(bake_ms)));
    }
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}
