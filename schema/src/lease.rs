//! The lease of a database: which host migrates it, and what became of it. One document per database in the bucket
//! [`crate::layout::LOCKS`], changed by compare-and-set only, and signed by whoever wrote it.
//!
//! A lease chooses; it does not exclude. Exclusion is the database's own lock and its fence row.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AppName, Counter, EnvName, EventId, HostName, ReleaseName, ServiceName};
use crate::outcome::{AppliedMigration, Reason};

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

impl MigrationLease {
    /// The key in [`Self::done`].
    pub fn done_key(app: &AppName, service: &ServiceName) -> String {
        format!("{app}.{service}")
    }

    /// What became of this service's migrations in this promotion, if they came to a good end.
    pub fn done_for(&self, app: &AppName, service: &ServiceName, promotion: EventId) -> Option<&LeaseDone> {
        self.done.get(&Self::done_key(app, service)).filter(|done| done.promotion == promotion)
    }

    /// Remembers that they did.
    pub fn remember(&mut self, mut done: LeaseDone) {
        let older = done.applied.len().saturating_sub(LEASE_APPLIED_MAX);
        done.applied.drain(..older);
        self.done.insert(Self::done_key(&self.app, &self.service), done);
        while self.done.len() > LEASE_DONE_MAX {
            let oldest = self.done.iter().min_by_key(|(_, done)| done.promotion.0).map(|(key, _)| key.clone());
            oldest.map(|key| self.done.remove(&key));
        }
    }
}
