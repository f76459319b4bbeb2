//! What a host does about a lease that it sees. Pure.

use landfall_schema::ids::HostName;
use landfall_schema::lease::{LEASE_EXPIRY, LeasePhase, MigrationLease};
use landfall_schema::outcome::{AppliedMigration, Reason, ReasonCode};
use landfall_schema::signature::PublicKey;

use super::{Begun, Claim, Kept};

pub(super) enum Turn {
    /// Somebody else is at it.
    Wait {
        holder: HostName,
        on: String,
    },
    /// Write this lease, and migrate if it was taken.
    Take {
        lease: MigrationLease,
        begun: Begun,
    },
    DoneBy {
        host: HostName,
        applied: Vec<AppliedMigration>,
    },
    /// Nothing to do here any more, and why.
    Stop(Reason),
    /// Write this lease, so that nobody migrates before somebody has looked; then stop.
    Halt {
        lease: MigrationLease,
        reason: Reason,
    },
}

/// `believes` says whether a signature makes a lease's word on its end count.
pub(super) fn judge(
    claim: &Claim<'_>,
    kept: Option<&Kept>,
    believes: impl Fn(Option<&PublicKey>, &MigrationLease) -> bool,
    expired: bool,
) -> Turn {
    let mut next = claim.fresh();
    let Some((kept, lease)) = kept.and_then(|kept| Some((kept, kept.lease.as_ref()?))) else {
        return Turn::Take { lease: next, begun: Begun::Free };
    };
    let is_of_here = lease.env == claim.order.promotion.env && lease.database == claim.database;
    let believed = is_of_here && believes(kept.signer.as_ref(), lease);
    // Records that are not believed are not passed on under this host's signature.
    if believed {
        next.done.clone_from(&lease.done);
        if let Some(done) = lease.done_for(&claim.order.promotion.app, claim.service, claim.order.id) {
            return Turn::DoneBy { host: done.by.clone(), applied: done.applied.clone() };
        }
    }
    let is_same = lease.promotion == claim.order.id && lease.service == *claim.service;
    match &lease.phase {
        LeasePhase::Running | LeasePhase::Unknown { .. } if claim.is_ours(lease) => {
            Turn::Take { lease: next, begun: Begun::Resumed }
        }
        LeasePhase::Running if !expired => Turn::Wait { holder: lease.holder.clone(), on: waits(claim, lease) },
        LeasePhase::Running if claim.can_be_told => Turn::Take { lease: next, begun: Begun::TakenOver },
        LeasePhase::Running => {
            let reason = vanished(claim, lease);
            let lease = MigrationLease { phase: LeasePhase::Unknown { reason: reason.clone() }, ..lease.clone() };
            Turn::Halt { lease, reason }
        }
        // Halting is safe, whoever says it.
        LeasePhase::Unknown { reason } => Turn::Stop(unknown(claim, lease, reason)),
        LeasePhase::Resolved { .. } if believed => Turn::Take { lease: next, begun: Begun::Resolved },
        LeasePhase::Resolved { author } => Turn::Stop(not_resolved(claim, author)),
        LeasePhase::Failed { reason } if is_same && believed => Turn::Stop(Reason {
            code: reason.code,
            message: format!("{} (on {})", reason.message, lease.holder),
            hint: reason.hint.clone(),
            logs: Vec::new(),
        }),
        LeasePhase::Failed { .. } | LeasePhase::Done => Turn::Take { lease: next, begun: Begun::Free },
    }
}

fn waits(claim: &Claim<'_>, lease: &MigrationLease) -> String {
    let what =
        if lease.promotion == claim.order.id { String::new() } else { format!(" for {} {}", lease.app, lease.release) };
    format!("{} migrates {}{what}", lease.holder, claim.database)
}

fn vanished(claim: &Claim<'_>, lease: &MigrationLease) -> Reason {
    let message = format!(
        "migrating {}: {} began service {} of {} {} (promotion {}) and was not heard of for {} s; nobody knows how far it came, so it is not run again",
        claim.database,
        lease.holder,
        lease.service,
        lease.app,
        lease.release,
        lease.counter,
        LEASE_EXPIRY.as_secs()
    );
    Reason::new(ReasonCode::MigrationUnknown, message).hint(claim.resolve_hint())
}

fn unknown(claim: &Claim<'_>, lease: &MigrationLease, reason: &Reason) -> Reason {
    let message = if lease.promotion == claim.order.id {
        reason.message.clone()
    } else {
        format!("an earlier migration has to be looked at first: {}", reason.message)
    };
    Reason::new(ReasonCode::MigrationUnknown, message).hint(claim.resolve_hint())
}

fn not_resolved(claim: &Claim<'_>, author: &str) -> Reason {
    let author: String = author.chars().filter(|c| !c.is_control()).take(60).collect();
    let message = format!(
        "migrating {}: {author} says that the schema is in order, and not by a key that may promote here",
        claim.database
    );
    Reason::new(ReasonCode::MigrationUnknown, message).hint(claim.resolve_hint())
}

#[cfg(test)]
#[path = "judge/tests.rs"]
mod tests;
