//! Whose word on a lease counts.

use landfall_schema::lease::{LeasePhase, MigrationLease};
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::promotion::BundleRef;
use landfall_schema::roster::Roster;
use landfall_schema::signature::PublicKey;

use super::judge::Word;
use super::{Claim, Leases};
use crate::hands::Hands;

/// The keys of other hosts.
pub(super) struct Trusted {
    plan: Option<Roster>,
    former: Vec<Roster>,
}

impl Trusted {
    /// Whose word it is what a lease says of its end. A resolution is one of somebody who may promote.
    pub(super) fn word(&self, leases: &dyn Leases, signer: Option<&PublicKey>, lease: &MigrationLease) -> Word {
        let Some(signer) = signer else { return Word::Strange };
        let is_in = |roster: &Roster| roster.hosts.values().any(|key| key == signer);
        match &lease.phase {
            LeasePhase::Resolved { .. } if leases.may_promote(signer) => Word::Believed,
            LeasePhase::Resolved { .. } => Word::Strange,
            _ if leases.is_own_key(signer) => Word::Own,
            _ if self.plan.as_ref().is_some_and(is_in) => Word::Believed,
            _ if self.former.iter().any(is_in) => Word::Former,
            _ => Word::Strange,
        }
    }
}

impl Hands {
    pub(super) async fn trusted(&self, claim: &Claim<'_>) -> Result<Trusted, Reason> {
        Ok(Trusted {
            plan: self.lease_roster(claim).await?,
            // Where the database tells, nothing hangs on them.
            former: if claim.can_be_told { Vec::new() } else { self.former_rosters(claim).await },
        })
    }

    /// The keys of the plan's hosts; `None` for a plan whose hosts do not act together, which believe nobody.
    async fn lease_roster(&self, claim: &Claim<'_>) -> Result<Option<Roster>, Reason> {
        let Some(reference) = &claim.order.promotion.plan.roster else { return Ok(None) };
        let bytes = self.bundles.bundle(reference).await?;
        Roster::decode(&bytes, reference)
            .map(Some)
            .map_err(|error| Reason::new(ReasonCode::BundleDigest, error.to_string()).hint("promote again"))
    }

    /// The keys of hosts that were part of releases before: whoever migrated last may be gone, or no part of this plan.
    async fn former_rosters(&self, claim: &Claim<'_>) -> Vec<Roster> {
        let mut seen: Vec<&BundleRef> = claim.order.promotion.plan.roster.iter().collect();
        let mut rosters = Vec::new();
        for reference in claim.kept.iter().filter_map(|release| release.promotion.plan.roster.as_ref()) {
            if !seen.contains(&reference) {
                seen.push(reference);
                // An old one may be gone; then its hosts are strangers.
                let bytes = self.bundles.bundle(reference).await;
                rosters.extend(bytes.ok().and_then(|bytes| Roster::decode(&bytes, reference).ok()));
            }
        }
        rosters
    }
}
