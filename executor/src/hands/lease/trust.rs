//! Whose word on a lease counts.

use landfall_schema::lease::{LeasePhase, MigrationLease};
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::promotion::BundleRef;
use landfall_schema::roster::Roster;
use landfall_schema::signature::PublicKey;

use super::judge::Word;
use super::{Claim, Leases, Leasing};

/// The keys of other hosts: of this plan's, and of former ones.
pub(super) struct Trusted(Vec<Roster>);

impl Trusted {
    /// Whose word it is what a lease says of its end. A resolution is one of somebody who may promote.
    pub(super) fn word(&self, leases: &dyn Leases, signer: Option<&PublicKey>, lease: &MigrationLease) -> Word {
        let Some(signer) = signer else { return Word::Strange };
        let is_in = |roster: &Roster| roster.hosts.values().any(|key| key == signer);
        match &lease.phase {
            LeasePhase::Resolved { .. } if leases.may_promote(signer) => Word::Believed,
            LeasePhase::Resolved { .. } => Word::Strange,
            _ if leases.is_own_key(signer) => Word::Own,
            _ if self.0.iter().any(is_in) => Word::Believed,
            _ => Word::Strange,
        }
    }
}

impl Leasing {
    pub(super) async fn trusted(&self, claim: &Claim<'_>) -> Result<Trusted, Reason> {
        let mut rosters: Vec<Roster> = self.lease_roster(claim).await?.into_iter().collect();
        // Where the database tells, nothing hangs on the former ones.
        if !claim.can_be_told {
            rosters.extend(self.former_rosters(claim).await);
        }
        Ok(Trusted(rosters))
    }

    /// The keys of the plan's hosts; `None` for a plan whose hosts do not act together.
    async fn lease_roster(&self, claim: &Claim<'_>) -> Result<Option<Roster>, Reason> {
        let Some(reference) = &claim.order.promotion.plan.roster else { return Ok(None) };
        let bytes = self.bundles.bundle(reference).await?;
        Roster::decode(&bytes, reference)
            .map(Some)
            .map_err(|error| Reason::new(ReasonCode::BundleDigest, error.to_string()).hint("promote again"))
    }

    /// The keys of hosts that were part of releases before: whoever migrated last may be gone, or no part of this plan, and what it did
    /// must not be forgotten by whoever is.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::future::BoxFuture;
    use futures_util::stream::BoxStream;
    use landfall_schema::ids::{EventId, HostName};
    use landfall_schema::signature::SigningKey;
    use uuid::Uuid;

    use super::*;
    use crate::hands::lease::{Kept, LeaseTrouble};

    /// Knows keys only: this host's, and a promoter's.
    struct Keys(PublicKey, PublicKey);

    impl Leases for Keys {
        fn read<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Kept>, LeaseTrouble>> {
            unreachable!("whose word it is hangs on no bus")
        }

        fn write<'a>(&'a self, _: &'a str, _: &'a MigrationLease, _: u64) -> BoxFuture<'a, Result<u64, LeaseTrouble>> {
            unreachable!("whose word it is hangs on no bus")
        }

        fn hear<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Option<BoxStream<'static, ()>>> {
            unreachable!("whose word it is hangs on no bus")
        }

        fn is_own_key(&self, key: &PublicKey) -> bool {
            self.0 == *key
        }

        fn may_promote(&self, key: &PublicKey) -> bool {
            self.1 == *key
        }
    }

    #[test]
    fn hosts_of_former_releases_are_believed() {
        let key = || SigningKey::generate().public();
        let host = |name: &str| name.parse::<HostName>().unwrap();
        let (own, promoter, plan, former) = (key(), key(), key(), key());
        let trusted = Trusted(
            [("host-a", &plan), ("host-b", &former)]
                .map(|(name, key)| Roster::new([(host(name), key.clone())].into()))
                .into(),
        );
        let leases = Keys(own.clone(), promoter.clone());
        let promotion = crate::samples::promotion(3);
        let mut lease = MigrationLease {
            env: promotion.env,
            database: "shop".to_owned(),
            app: promotion.app,
            counter: promotion.counter,
            release: promotion.release,
            promotion: EventId(Uuid::from_u128(3)),
            service: "app".parse().unwrap(),
            holder: host("host-b"),
            phase: LeasePhase::Done,
            done: Default::default(),
        };
        let check = |lease: &MigrationLease, expect: [Word; 5]| {
            let signers = [&own, &plan, &former, &promoter, &key()];
            assert_eq!(signers.map(|signer| trusted.word(&leases, Some(signer), lease)), expect);
        };
        check(&lease, [Word::Own, Word::Believed, Word::Believed, Word::Strange, Word::Strange]);
        lease.phase = LeasePhase::Resolved { author: "ann".to_owned() };
        check(&lease, [Word::Strange, Word::Strange, Word::Strange, Word::Believed, Word::Strange]);
    }
}
