//! What a host does about a lease that it sees. Pure.

use landfall_schema::ids::{Counter, HostName};
use landfall_schema::lease::{LEASE_EXPIRY, LeaseDone, LeasePhase, MigrationLease};
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::signature::PublicKey;

use super::{Begun, Claim, DoneBy, Kept};

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
    DoneBy(DoneBy),
    /// Nothing to do here any more, and why.
    Stop(Reason),
    /// Write this lease, so that nobody migrates before somebody has looked; then stop.
    Halt {
        lease: MigrationLease,
        reason: Reason,
    },
}

/// Whose word a lease is, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Word {
    /// A host's of another plan or application, for all that this one can tell.
    Strange,
    /// A host's of this plan or of a release that this one keeps or, for a resolution, somebody's who may promote.
    Believed,
    /// This host's own.
    Own,
}

pub(super) fn judge(
    claim: &Claim<'_>,
    kept: Option<&Kept>,
    word: impl Fn(Option<&PublicKey>, &MigrationLease) -> Word,
    expired: bool,
) -> Turn {
    let mut next = claim.fresh();
    let Some(kept) = kept else { return Turn::Take { lease: next, begun: Begun::Free } };
    let Some(lease) = &kept.lease else { return instead_of(claim, "the lease cannot be read", next) };
    if lease.env != claim.order.promotion.env || lease.database != claim.database {
        return instead_of(claim, "the lease is of another database", next);
    }
    let word = word(kept.signer.as_ref(), lease);
    let believed = word >= Word::Believed;
    // Records that are not believed are not passed on under this host's signature.
    if believed {
        next.done.clone_from(&lease.done);
        if let Some(done) = lease.done_for(&claim.order.promotion.app, claim.service) {
            let newer = done.place().is_after(&claim.place()).then_some(done.counter);
            if newer.is_some() || done.promotion == claim.order.id {
                return Turn::DoneBy(DoneBy { host: done.by.clone(), applied: done.applied.clone(), newer });
            }
        }
    }
    let is_service = lease.app == claim.order.promotion.app && lease.service == *claim.service;
    let is_same = lease.promotion == claim.order.id && lease.service == *claim.service;
    let is_newer = believed && is_service && lease.place().is_after(&claim.place());
    match &lease.phase {
        LeasePhase::Running if claim.is_ours(lease) && word == Word::Own => {
            Turn::Take { lease: next, begun: Begun::Resumed }
        }
        LeasePhase::Unknown { .. } if claim.is_ours(lease) && claim.may_resume => {
            Turn::Take { lease: next, begun: Begun::Resumed }
        }
        LeasePhase::Running if !expired => Turn::Wait { holder: lease.holder.clone(), on: waits(claim, lease) },
        LeasePhase::Running if claim.can_be_told => Turn::Take { lease: next, begun: Begun::TakenOver },
        LeasePhase::Running => {
            let reason = vanished(claim, lease);
            let phase = LeasePhase::Unknown { reason: reason.clone() };
            // A place that is not believed would stand above every promotion to come.
            let counter = if believed { lease.counter } else { lease.counter.min(next.counter) };
            let lease = MigrationLease { phase, counter, done: next.done, ..lease.clone() };
            Turn::Halt { lease, reason }
        }
        // Halting is safe, whoever says it.
        LeasePhase::Unknown { reason } => Turn::Stop(unknown(claim, lease, reason)),
        LeasePhase::Resolved { .. } if is_newer => Turn::Stop(older(claim, lease.counter)),
        LeasePhase::Resolved { .. } if believed => Turn::Take { lease: next, begun: Begun::Resolved },
        LeasePhase::Resolved { author } => Turn::Stop(not_resolved(claim, author)),
        // Two plans may share a database, so a strange end is no reason to halt. Only to migrate backwards it is not good enough.
        LeasePhase::Failed { .. } | LeasePhase::Done if word == Word::Strange => match newer_of(claim, lease) {
            Some(newer) if !claim.can_be_told => Turn::Stop(older_than_strange(claim, lease, newer)),
            _ => Turn::Take { lease: next, begun: Begun::Free },
        },
        LeasePhase::Failed { reason } if is_same && believed => Turn::Stop(Reason {
            code: reason.code,
            message: format!("{} (on {})", reason.message, lease.holder),
            hint: reason.hint.clone(),
            logs: Vec::new(),
        }),
        LeasePhase::Failed { .. } if is_newer && !claim.can_be_told => Turn::Stop(older(claim, lease.counter)),
        LeasePhase::Failed { .. } | LeasePhase::Done => Turn::Take { lease: next, begun: Begun::Free },
    }
}

/// The newer promotion of this very service that a lease tells of.
fn newer_of(claim: &Claim<'_>, lease: &MigrationLease) -> Option<Counter> {
    let app = &claim.order.promotion.app;
    let last = (lease.app == *app && lease.service == *claim.service).then(|| lease.place());
    let done = lease.done_for(app, claim.service).map(LeaseDone::place);
    last.into_iter().chain(done).find(|place| place.is_after(&claim.place())).map(|place| place.counter)
}

/// An entry of which nobody knows what stood there before it: it may have been that somebody has to look.
fn instead_of(claim: &Claim<'_>, what: &str, next: MigrationLease) -> Turn {
    if claim.can_be_told {
        return Turn::Take { lease: next, begun: Begun::Free };
    }
    let message =
        format!("migrating {}: {what}, so nobody knows what became of the migration before this one", claim.database);
    Turn::Stop(Reason::new(ReasonCode::MigrationUnknown, message).hint(claim.force_hint()))
}

/// A newer promotion has begun to migrate, and this one would change its schema.
pub(crate) fn older(claim: &Claim<'_>, newer: Counter) -> Reason {
    let message = format!(
        "migrating {}: promotion {newer}, which is newer, has begun to migrate it and did not come to a good end; older migrations are not run after newer ones",
        claim.database
    );
    Reason::new(ReasonCode::MigrationFailed, message).hint(claim.again_hint())
}

/// Its word is not good enough to go on without migrating, and not to be passed over either.
fn older_than_strange(claim: &Claim<'_>, lease: &MigrationLease, newer: Counter) -> Reason {
    let message = format!(
        "migrating {}: {}, whose key no plan of this host names, has begun to migrate it for promotion {newer}, which is newer; older migrations are not run after newer ones",
        claim.database, lease.holder
    );
    let hint = format!("{}; if there is no promotion {newer}: {}", claim.again_hint(), claim.force_hint());
    Reason::new(ReasonCode::MigrationFailed, message).hint(hint)
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
