//! What became of each promotion, as the ledger knows it.

mod text;

use std::collections::BTreeMap;

use landfall_schema::Timestamp;
use serde::Serialize;

use crate::ledger::{Ledger, LedgerError, OutcomeRow, ReleaseRow, Which};
use crate::trust::Verdict;

pub use text::for_people;

/// Said by the one who waits, not by the host; what the host says itself counts for more.
const NOT_REACHED: &str = "not_reached";
const SUPERSEDED: &str = "superseded";

/// One promotion with everything that its hosts said. This is the JSON of `landfall-audit history`; fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PromotionHistory {
    /// Of the promotion's event.
    pub id: String,
    pub env: String,
    pub app: String,
    pub counter: i64,
    pub release: String,
    /// `promote` or `rollback`.
    pub intent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_to: Option<i64>,
    pub author: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// When the bus stored it.
    pub at: String,
    /// What the signature was worth, see [`Verdict`].
    pub signature: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// The hosts' outcome when all have the same; else `mixed`, `unfinished` or `no_hosts`.
    pub outcome: String,
    /// From the promotion until the last host ended; absent while one has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
    /// In the plan's order, then those that were not in the plan.
    pub hosts: Vec<HostHistory>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostHistory {
    pub host: String,
    pub in_plan: bool,
    /// `succeeded`, `failed`, `rolled_back`, `stuck`, `superseded`, `refused`, `not_reached`; absent until there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// The whole deploy on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Of the event that `outcome` is from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    pub code: String,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    pub kind: String,
    pub at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    pub signature: String,
}

/// Reads the newest promotions, newest first.
///
/// # Errors
/// [`LedgerError`].
pub async fn read(ledger: &Ledger, which: &Which<'_>) -> Result<Vec<PromotionHistory>, LedgerError> {
    let mut found = Vec::new();
    for release in ledger.releases(which).await? {
        let outcomes = ledger.outcomes(&release.event_id).await?;
        found.push(PromotionHistory::new(release, outcomes));
    }
    Ok(found)
}

impl PromotionHistory {
    fn new(release: ReleaseRow, outcomes: Vec<OutcomeRow>) -> Self {
        let planned: Vec<String> = serde_json::from_str(&release.hosts).unwrap_or_default();
        let mut said: BTreeMap<String, Vec<OutcomeRow>> = BTreeMap::new();
        for outcome in outcomes {
            said.entry(outcome.host.clone()).or_default().push(outcome);
        }
        let mut hosts = Vec::new();
        let others: Vec<String> = said.keys().filter(|host| !planned.contains(host)).cloned().collect();
        for (host, in_plan) in planned.iter().map(|host| (host, true)).chain(others.iter().map(|host| (host, false))) {
            let outcomes = said.remove(host).unwrap_or_default();
            let ended_at_ms = ending(&outcomes).map(|outcome| outcome.occurred_at_ms);
            hosts.push((HostHistory::new(host, in_plan, &outcomes), ended_at_ms));
        }
        // A host outside of the plan counts once somebody trusted has spoken for it; else anybody could keep a promotion unfinished.
        let counts = |host: &HostHistory| host.in_plan || host.steps.iter().any(|step| is_believed(&step.signature));
        let last_end_ms = hosts.iter().filter(|(host, _)| counts(host)).filter_map(|(_, at_ms)| *at_ms).max();
        let hosts: Vec<HostHistory> = hosts.into_iter().map(|(host, _)| host).collect();
        let counted: Vec<&HostHistory> = hosts.iter().filter(|host| counts(host)).collect();
        let is_finished = counted.iter().all(|host| host.outcome.is_some());
        Self {
            outcome: overall(&counted),
            duration_ms: last_end_ms.filter(|_| is_finished).map(|end| (end - release.published_at_ms).max(0)),
            id: release.event_id,
            env: release.env,
            app: release.app,
            counter: release.counter,
            release: release.release_name,
            intent: release.intent,
            rollback_to: release.rollback_to,
            author: release.author,
            link: release.link,
            at: time(release.published_at_ms),
            signature: release.verdict,
            signer: release.signer,
            hosts,
        }
    }
}

impl HostHistory {
    fn new(host: &str, in_plan: bool, outcomes: &[OutcomeRow]) -> Self {
        let end = ending(outcomes);
        let reason = end.and_then(|end| {
            let code = end.reason_code.clone()?;
            Some(Reason { code, message: end.reason_message.clone().unwrap_or_default() })
        });
        Self {
            host: host.to_owned(),
            in_plan,
            outcome: end.map(|end| outcome_of(end).to_owned()),
            duration_ms: end.and_then(|end| end.duration_ms),
            started_at: outcomes.first().map(|first| time(first.occurred_at_ms)),
            ended_at: end.map(|end| time(end.occurred_at_ms)),
            reason,
            signature: end.map(|end| end.verdict.clone()),
            steps: outcomes.iter().map(Step::new).collect(),
        }
    }
}

impl Step {
    fn new(outcome: &OutcomeRow) -> Self {
        Self {
            kind: outcome.kind.clone(),
            at: time(outcome.occurred_at_ms),
            duration_ms: outcome.duration_ms,
            message: outcome.message.clone(),
            signature: outcome.verdict.clone(),
        }
    }
}

/// The event that says how it ended on one host. Somebody may publish under a host's name: a trusted word goes before any other, and
/// the host's own before a waiter's; what was superseded may have been taken after all; among equals the first.
fn ending(outcomes: &[OutcomeRow]) -> Option<&OutcomeRow> {
    outcomes.iter().filter(|outcome| outcome.is_terminal != 0).min_by_key(|outcome| {
        let how = outcome_of(outcome);
        (outcome.verdict != Verdict::Trusted.as_str(), how == NOT_REACHED, how == SUPERSEDED)
    })
}

fn outcome_of(terminal: &OutcomeRow) -> &str {
    terminal.kind.strip_prefix("deploy.").unwrap_or(&terminal.kind)
}

/// Whether somebody trusted has signed it, or nobody is trusted for anything.
fn is_believed(verdict: &str) -> bool {
    [Verdict::Trusted, Verdict::Unchecked].map(Verdict::as_str).contains(&verdict)
}

/// A word that nobody trusted has signed is told as what it is: anybody may have said it in the host's name.
fn overall(hosts: &[&HostHistory]) -> String {
    let Some(first) = hosts.first() else { return "no_hosts".to_owned() };
    if hosts.iter().any(|host| host.outcome.is_none()) {
        return "unfinished".to_owned();
    }
    let outcome = match &first.outcome {
        Some(outcome) if hosts.iter().all(|host| host.outcome == first.outcome) => outcome,
        _ => "mixed",
    };
    match hosts.iter().all(|host| host.signature.as_deref().is_none_or(is_believed)) {
        true => outcome.to_owned(),
        false => format!("{outcome} (unverified)"),
    }
}

/// RFC 3339, UTC. What lies outside of the calendar was written by a clock that is badly wrong.
fn time(milliseconds: i64) -> String {
    Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests;
