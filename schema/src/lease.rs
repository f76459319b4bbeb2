//! The lease of a database: which host migrates it, and what became of it. One document per database in the bucket
//! [`crate::layout::LOCKS`], changed by compare-and-set only, and signed by whoever wrote it.
//!
//! A lease chooses; it does not exclude. Exclusion is the database's own lock and its fence row.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use thiserror::Error;

use crate::event::{CloudEvent, EventError, TYPE_MIGRATION_LEASE};
use crate::ids::{AppName, Counter, EnvName, EventId, HostName, ReleaseName, ServiceName};
use crate::outcome::{AppliedMigration, Reason};
use crate::signature::{DsseEnvelope, PublicKey, SignatureError, named_keys};

/// How often the holder writes a running lease anew.
pub const LEASE_RENEWED: Duration = Duration::from_secs(4);
/// A running lease that was not written for this long, by the watching host's own monotonic clock, has lost its holder.
pub const LEASE_EXPIRY: Duration = Duration::from_secs(15);
/// Services whose last migration a lease remembers.
pub const LEASE_DONE_MAX: usize = 32;
/// Migrations that a lease tells of; the newest ones.
pub const LEASE_APPLIED_MAX: usize = 20;

/// The data of `dev.landfall.migration.lease.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MigrationLease {
    pub env: EnvName,
    /// The database's name in the settings, or application and service.
    pub database: String,
    pub app: AppName,
    pub counter: Counter,
    pub release: ReleaseName,
    /// The id of the promotion's event.
    pub promotion: EventId,
    /// Whose migrations they are.
    pub service: ServiceName,
    /// Who migrates, or did so last.
    pub holder: HostName,
    pub phase: LeasePhase,
    /// The last migrations that came to a good end, by application and service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub done: BTreeMap<String, LeaseDone>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum LeasePhase {
    Running,
    Done,
    Failed {
        reason: Reason,
    },
    /// The holder vanished while a migration ran of which nobody can tell how far it came. Nothing migrates until somebody has looked.
    Unknown {
        reason: Reason,
    },
    /// Somebody looked and says that the schema is in order; signed by a key that may promote.
    Resolved {
        author: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseDone {
    pub promotion: EventId,
    pub counter: Counter,
    pub by: HostName,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub applied: Vec<AppliedMigration>,
}

/// An entry that is no lease, or was changed after it was signed.
#[derive(Debug, Error)]
pub enum LeaseError {
    #[error("the entry is no signed document")]
    NoEnvelope(#[source] serde_json::Error),
    #[error("the entry's signature does not hold")]
    Signature(#[source] SignatureError),
    #[error("the entry is no lease")]
    NoLease(#[source] EventError),
}

/// A promotion's place among those of its application. Counters begin anew with a new bus, while databases remember; so the ids, which
/// begin with the time, have to agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub counter: Counter,
    pub promotion: EventId,
}

impl Place {
    pub fn is_after(&self, other: &Self) -> bool {
        self.counter > other.counter && self.promotion.0 > other.promotion.0
    }
}

impl LeaseDone {
    pub fn place(&self) -> Place {
        Place { counter: self.counter, promotion: self.promotion }
    }
}

impl MigrationLease {
    /// A bucket's entry: the lease, and the key that signed exactly it. Nothing is said of whether that key is trusted.
    ///
    /// # Errors
    /// [`LeaseError`].
    pub fn open(entry: &[u8]) -> Result<(Self, PublicKey), LeaseError> {
        let envelope: DsseEnvelope = serde_json::from_slice(entry).map_err(LeaseError::NoEnvelope)?;
        let named = named_keys(Some(&envelope.header()));
        let (bytes, signer) = envelope.open(&named).map_err(LeaseError::Signature)?;
        let event = CloudEvent::<Self>::decode(&bytes, TYPE_MIGRATION_LEASE).map_err(LeaseError::NoLease)?;
        Ok((event.data, signer))
    }

    pub fn place(&self) -> Place {
        Place { counter: self.counter, promotion: self.promotion }
    }

    /// The key in [`Self::done`].
    pub fn done_key(app: &AppName, service: &ServiceName) -> String {
        format!("{app}.{service}")
    }

    /// The last migrations of this service that came to a good end.
    pub fn done_for(&self, app: &AppName, service: &ServiceName) -> Option<&LeaseDone> {
        self.done.get(&Self::done_key(app, service))
    }

    /// Remembers that they did; what a newer promotion has done is not forgotten for it.
    pub fn remember(&mut self, mut done: LeaseDone) {
        if self.done_for(&self.app, &self.service).is_some_and(|newest| newest.place().is_after(&done.place())) {
            return;
        }
        let older = done.applied.len().saturating_sub(LEASE_APPLIED_MAX);
        done.applied.drain(..older);
        self.done.insert(Self::done_key(&self.app, &self.service), done);
        while self.done.len() > LEASE_DONE_MAX {
            let oldest = self.done.iter().min_by_key(|(_, done)| done.promotion.0).map(|(key, _)| key.clone());
            oldest.map(|key| self.done.remove(&key));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use uuid::Uuid;

    fn done(counter: u64, promotion: u128) -> LeaseDone {
        let promotion = EventId(Uuid::from_u128(promotion));
        LeaseDone { promotion, counter: Counter(counter), by: "host-a".parse().unwrap(), applied: Vec::new() }
    }

    fn lease() -> MigrationLease {
        MigrationLease {
            env: "test".parse().unwrap(),
            database: "shop".to_owned(),
            app: "shop".parse().unwrap(),
            counter: Counter(5),
            release: "v5".parse().unwrap(),
            promotion: EventId(Uuid::from_u128(50)),
            service: "app".parse().unwrap(),
            holder: "host-a".parse().unwrap(),
            phase: LeasePhase::Running,
            done: BTreeMap::new(),
        }
    }

    #[test]
    fn a_newer_migration_is_not_forgotten_for_an_older_one() {
        let mut lease = lease();
        // Counter and id of what comes after one another, and what is remembered then. The last one is of a bus that began anew.
        for (done, newest) in [(done(4, 40), 4), (done(6, 60), 6), (done(5, 50), 6), (done(1, 70), 1)] {
            lease.remember(done);
            assert_eq!(lease.done_for(&lease.app, &lease.service).unwrap().counter, Counter(newest));
        }
    }

    #[test]
    fn only_what_is_signed_as_it_stands_is_a_lease() {
        assert!(matches!(MigrationLease::open(b"junk"), Err(LeaseError::NoEnvelope(_))));
        let key = crate::signature::SigningKey::generate();
        let unsigned = DsseEnvelope::new(b"{}", Vec::new());
        let other = DsseEnvelope::new(b"{}", vec![key.sign(b"{}").unwrap()]);
        let open = |envelope: &DsseEnvelope| MigrationLease::open(&serde_json::to_vec(envelope).unwrap());
        assert!(matches!(open(&unsigned), Err(LeaseError::Signature(_))));
        assert!(matches!(open(&other), Err(LeaseError::NoLease(_))));
    }

    #[test]
    fn a_lease_remembers_so_many_services_and_migrations() {
        let mut lease = lease();
        for n in 0..=LEASE_DONE_MAX {
            (lease.service, lease.counter) = (format!("s{n}").parse().unwrap(), Counter(1));
            lease.remember(done(1, n as u128));
            assert_eq!(lease.done.len(), (n + 1).min(LEASE_DONE_MAX));
        }
        // The oldest was forgotten.
        assert!(!lease.done.contains_key("shop.s0") && lease.done.contains_key("shop.s1"));
        for (count, first) in [(LEASE_APPLIED_MAX, "m0"), (LEASE_APPLIED_MAX + 1, "m1")] {
            let one =
                |n| AppliedMigration { database: "shop".to_owned(), description: format!("m{n}"), duration_ms: 1 };
            let applied = (0..count).map(one).collect();
            lease.remember(LeaseDone { applied, ..done(2, 1_000 + count as u128) });
            let kept = &lease.done_for(&lease.app, &lease.service).unwrap().applied;
            assert_eq!((kept.len(), kept[0].description.as_str()), (LEASE_APPLIED_MAX, first));
        }
    }
}
