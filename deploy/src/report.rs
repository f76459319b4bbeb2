//! Words for people: the message of every outcome.

use landfall_schema::ids::ReleaseName;
use landfall_schema::outcome::{OutcomeKind, Progress, Reason, ReasonCode};
use landfall_schema::promotion::Intent;

use crate::effect::Effect;
use crate::input::{Evidence, Observed};
use crate::order::Order;

pub(crate) fn accepted(order: &Order) -> String {
    let promotion = &order.promotion;
    match promotion.intent {
        Intent::Promote => format!(
            "{} {} as promotion {}, by {}",
            promotion.app, promotion.release, promotion.counter, promotion.author
        ),
        Intent::Rollback { to } => format!(
            "{} back to {} (promotion {to}) as promotion {}, by {}",
            promotion.app, promotion.release, promotion.counter, promotion.author
        ),
        Intent::Remove => {
            format!("{} is to be removed by promotion {}, by {}", promotion.app, promotion.counter, promotion.author)
        }
    }
}

/// Steps that say that they begin; what they are about to do stands in the kind.
pub(crate) fn started_kind(effect: Effect) -> Option<OutcomeKind> {
    match effect {
        Effect::Backup => Some(OutcomeKind::BackupStarted),
        Effect::Migrate => Some(OutcomeKind::MigrationStarted),
        Effect::Update => Some(OutcomeKind::StackUpdating),
        Effect::Prove => Some(OutcomeKind::ReadinessProbing),
        Effect::Smoke => Some(OutcomeKind::SmokeStarted),
        Effect::Bake => Some(OutcomeKind::BakeStarted),
        Effect::Observe
        | Effect::Pull
        | Effect::Admit
        | Effect::Commit
        | Effect::AwaitRollout
        | Effect::Restore
        | Effect::ProveFormer
        | Effect::Remove => None,
    }
}

pub(crate) fn finished_kind(effect: Effect) -> Option<OutcomeKind> {
    match effect {
        Effect::Observe => Some(OutcomeKind::ReleaseVerified),
        Effect::Pull => Some(OutcomeKind::ImagePulled),
        Effect::Backup => Some(OutcomeKind::BackupTaken),
        Effect::Migrate => Some(OutcomeKind::MigrationApplied),
        Effect::Update => Some(OutcomeKind::StackUpdated),
        Effect::Prove => Some(OutcomeKind::ReadinessHealthy),
        Effect::Smoke => Some(OutcomeKind::SmokePassed),
        Effect::Bake => Some(OutcomeKind::BakePassed),
        Effect::Commit => Some(OutcomeKind::ReleaseCommitted),
        Effect::Remove => Some(OutcomeKind::StackRemoved),
        Effect::Admit | Effect::AwaitRollout | Effect::Restore | Effect::ProveFormer => None,
    }
}

pub(crate) fn failed_kind(effect: Effect) -> Option<OutcomeKind> {
    match effect {
        Effect::Pull => Some(OutcomeKind::ImageFailed),
        Effect::Backup => Some(OutcomeKind::BackupFailed),
        Effect::Migrate => Some(OutcomeKind::MigrationFailed),
        Effect::Update => Some(OutcomeKind::StackFailed),
        Effect::Prove => Some(OutcomeKind::ReadinessFailed),
        Effect::Smoke => Some(OutcomeKind::SmokeFailed),
        Effect::Bake => Some(OutcomeKind::BakeFailed),
        Effect::Remove => Some(OutcomeKind::StackFailed),
        Effect::Observe
        | Effect::Admit
        | Effect::Commit
        | Effect::AwaitRollout
        | Effect::Restore
        | Effect::ProveFormer => None,
    }
}

pub(crate) fn finished(evidence: &Evidence) -> String {
    match evidence {
        Evidence::Observed(observed) => {
            let services = plural(observed.services.len() as u64, "service");
            let warning =
                observed.warning.as_deref().map(|warning| format!("; warning: {warning}")).unwrap_or_default();
            format!("{services}, {}{warning}", serving_now(observed))
        }
        Evidence::Pulled { images, already_here, .. } if images == already_here => {
            format!("{} already here", plural(u64::from(*images), "image"))
        }
        Evidence::Pulled { images, already_here, bytes } => {
            let pulled = format!("{} pulled, {}", plural(u64::from(images - already_here), "image"), size(*bytes));
            if *already_here == 0 { pulled } else { format!("{pulled}; {already_here} already here") }
        }
        Evidence::BackedUp { by } => format!("backed up by {}", by.join(", ")),
        Evidence::Migrated { applied, notes } if applied.is_empty() && notes.is_empty() => {
            "no new migration".to_owned()
        }
        Evidence::Migrated { applied, notes } => {
            let applied = applied.iter().map(|m| format!("{}: {}", m.database, m.description));
            applied.chain(notes.iter().cloned()).collect::<Vec<_>>().join("; ")
        }
        Evidence::Updated { changed } if changed.is_empty() => "nothing to replace".to_owned(),
        Evidence::Updated { changed } => format!("replaced {}", changed.join(", ")),
        Evidence::Running { services, .. } => {
            format!("{} ready, with the promised digests", plural(services.len() as u64, "service"))
        }
        Evidence::Smoked { passed } => format!("{} passed", plural(u64::from(*passed), "smoke test")),
        Evidence::Baked => "stayed healthy".to_owned(),
        Evidence::Committed { images_removed: 0 } => "rollbacks come back to it from now on".to_owned(),
        Evidence::Committed { images_removed } => {
            format!(
                "rollbacks come back to it from now on; {} removed",
                plural(u64::from(*images_removed), "old image")
            )
        }
        Evidence::Restored => "restored".to_owned(),
        Evidence::Admitted => "admitted".to_owned(),
        Evidence::RolloutEnded { .. } => "the rollout has ended".to_owned(),
        Evidence::Removed { what } if what.is_empty() => "nothing was there".to_owned(),
        Evidence::Removed { what } => format!("removed {}", what.join(", ")),
    }
}

pub(crate) fn progress(progress: &Progress) -> String {
    let Progress { service, layers_done, layers_total, bytes_done, bytes_total } = progress;
    format!("{service}: {layers_done} of {layers_total} layers, {} of {}", size(*bytes_done), size(*bytes_total))
}

pub(crate) fn turning_back(observed: Option<&Observed>, cause: &Reason) -> String {
    format!("{}; restoring {}", cause.message, former_name(observed))
}

pub(crate) fn restored(observed: Option<&Observed>) -> String {
    match observed.and_then(|o| o.former.as_ref()) {
        Some(_) => format!("{} serves again", former_name(observed)),
        None => "the stack is down again; there was no former release".to_owned(),
    }
}

pub(crate) fn ended(kind: OutcomeKind, order: &Order, former: Option<&ReleaseName>, reason: Option<&Reason>) -> String {
    let promotion = &order.promotion;
    let why = reason.map_or("", |reason| reason.message.as_str());
    let release = format!("{} {}", promotion.app, promotion.release);
    match kind {
        OutcomeKind::DeploySucceeded if promotion.intent == Intent::Remove => format!("{} is removed", promotion.app),
        OutcomeKind::DeploySucceeded => format!("{release} serves"),
        OutcomeKind::DeployRolledBack => match former {
            Some(former) => format!("{release} rolled back, {former} serves: {why}"),
            None => format!("{release} rolled back: {why}"),
        },
        OutcomeKind::DeployStuck => format!("{release} is stuck, people are needed: {why}"),
        OutcomeKind::DeployRefused => format!("{release} refused: {why}"),
        OutcomeKind::DeploySuperseded => format!("{release} superseded: {why}"),
        _ => format!("{release} failed, nothing was touched: {why}"),
    }
}

pub(crate) fn stuck_hint(order: &Order) -> String {
    format!(
        "look at host {} with `docker compose ps`, then promote a working release, or `landfall rollback {} --env {}`",
        order.host, order.promotion.app, order.promotion.env
    )
}

/// Rules that say no before anything is tried, as against a stack that turns out not to work.
pub(crate) fn is_refusal(code: ReasonCode) -> bool {
    matches!(
        code,
        ReasonCode::PolicyViolation
            | ReasonCode::BundleDigest
            | ReasonCode::Expired
            | ReasonCode::StaleCounter
            | ReasonCode::Malformed
            | ReasonCode::NotApproved
            | ReasonCode::Rejected
            | ReasonCode::Frozen
            | ReasonCode::Condemned
            | ReasonCode::NotProvenElsewhere
            | ReasonCode::PolicyUnreadable
            | ReasonCode::SchemaTooNew
            | ReasonCode::ProjectTaken
            | ReasonCode::PreviewExpired
    )
}

fn serving_now(observed: &Observed) -> String {
    match &observed.former {
        Some(_) => format!("{} serves now", former_name(Some(observed))),
        None => "first deploy on this host".to_owned(),
    }
}

fn former_name(observed: Option<&Observed>) -> String {
    match observed.and_then(|observed| observed.former.as_ref()) {
        Some(former) => former.release.as_ref().map_or("what ran before".to_owned(), ToString::to_string),
        None => "nothing (first deploy)".to_owned(),
    }
}

fn plural(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..100_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
