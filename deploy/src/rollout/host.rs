//! What a rollout's state means for one host.

use landfall_schema::ids::HostName;
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::planted::planted;
use landfall_schema::promotion::{OnFailure, Promotion};
use landfall_schema::rollout::{RolloutPhase, RolloutState, RolloutWord};

use crate::order::Order;

/// Whether a host may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    Now,
    /// Not yet; one line that says for what it waits.
    Wait(String),
    /// Not any more.
    Never(Reason),
}

/// What a host that has committed does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Wait,
    Keep(RolloutWord),
    GoBack(Reason),
}

/// Whether this host may begin, as far as the rollout has a say.
pub fn admission(order: &Order, state: &RolloutState) -> Admission {
    let plan = &order.promotion.plan;
    let place = plan.place_of(&order.host).filter(|_| !state.not_reached.contains_key(&order.host));
    match (state.phase, place) {
        (RolloutPhase::Ended { word: RolloutWord::Succeeded | RolloutWord::SucceededPartial }, _) => Admission::Now,
        (RolloutPhase::Ended { .. } | RolloutPhase::RollingBack { .. } | RolloutPhase::Holding, _) => {
            Admission::Never(why_not(order, state))
        }
        (RolloutPhase::Rolling, None) => {
            Admission::Wait("this host was away; it follows when the rollout has succeeded".to_owned())
        }
        (RolloutPhase::Rolling, Some(_)) if planted("admit_early") => Admission::Now,
        (RolloutPhase::Rolling, Some((wave, number))) => {
            let open = state.wave as usize;
            if wave < open || (wave == open && number < state.admitted as usize) {
                Admission::Now
            } else if wave == open {
                Admission::Wait(format!("{number} hosts of wave {} go first", wave + 1))
            } else {
                Admission::Wait(format!(
                    "wave {} of {} is open, this host is of wave {}",
                    open + 1,
                    plan.waves.len(),
                    wave + 1
                ))
            }
        }
    }
}

/// Most hosts of the former wave whose word one host asks for. With all of them a wave of thousands would read millions of outcomes.
const PROOFS_MAX: usize = 32;

/// The hosts whose signed word that they committed this host must have seen before it begins: the state alone is not believed. Of a large
/// wave each host asks for a part; the parts of neighbours follow each other, so that together they ask for all of it.
pub fn proofs_needed<'a>(order: &'a Order, state: &RolloutState) -> Vec<&'a HostName> {
    let plan = &order.promotion.plan;
    match plan.place_of(&order.host) {
        Some((wave, place)) if wave > 0 => {
            let reached = |host: &&HostName| !state.not_reached.contains_key(*host);
            let former: Vec<&HostName> = plan.waves[wave - 1].hosts.iter().filter(reached).collect();
            let first = if former.len() > PROOFS_MAX { place * PROOFS_MAX % former.len() } else { 0 };
            former.iter().cycle().skip(first).take(former.len().min(PROOFS_MAX)).copied().collect()
        }
        _ => Vec::new(),
    }
}

/// What a host that serves the release does about the state.
pub fn after_commit(order: &Order, state: &RolloutState) -> Verdict {
    let cause = state.cause.as_ref().map(|cause| cause.code);
    let was_superseded = cause == Some(ReasonCode::Superseded);
    // Under `hold` only people send anybody back, also where a host is stuck or late.
    let is_held = order.promotion.plan.on_failure == OnFailure::Hold && cause != Some(ReasonCode::Aborted);
    match state.phase {
        RolloutPhase::Rolling | RolloutPhase::Holding => Verdict::Wait,
        _ if planted("keep_after_failure") => Verdict::Keep(RolloutWord::Held),
        RolloutPhase::Ended {
            word: word @ (RolloutWord::Succeeded | RolloutWord::SucceededPartial | RolloutWord::Held),
        } => Verdict::Keep(word),
        RolloutPhase::Ended { word } if was_superseded || is_held => Verdict::Keep(word),
        RolloutPhase::RollingBack { .. } | RolloutPhase::Ended { .. } => Verdict::GoBack(why_not(order, state)),
    }
}

fn why_not(order: &Order, state: &RolloutState) -> Reason {
    let (code, what) = match &state.cause {
        Some(cause) if cause.code == ReasonCode::Aborted => (ReasonCode::Aborted, "the rollout was aborted"),
        Some(cause) if cause.code == ReasonCode::Superseded => (ReasonCode::Superseded, "the rollout was superseded"),
        _ if state.phase == RolloutPhase::Holding => (ReasonCode::RolloutFailed, "the rollout is held"),
        _ => (ReasonCode::RolloutFailed, "the rollout failed"),
    };
    let why = state.cause.as_ref().map_or(String::new(), |cause| format!(": {}", cause.message));
    let Promotion { app, env, .. } = &order.promotion;
    Reason::new(code, format!("{what}{why}")).hint(format!("see `landfall status {app} --env {env}` for every host"))
}
