//! What the shell tells the machine.

use std::collections::BTreeMap;

use landfall_schema::ids::{Counter, Digest, ReleaseName, ServiceName};
use landfall_schema::outcome::{AppliedMigration, Progress, Reason};
use landfall_schema::rollout::RolloutWord;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "input", rename_all = "snake_case")]
pub enum Input {
    /// The first input of every deploy.
    Begin,
    /// The effect was carried out; `evidence` is what was seen, and belongs to it.
    Finished { effect: Effect, evidence: Evidence },
    /// The effect failed, or ran out of time.
    Failed { effect: Effect, reason: Reason },
    /// How far a pull is. Not journalled; changes nothing.
    Progressed { progress: Progress },
    /// What the admission, or the end of the rollout, waits for. Not journalled; changes nothing.
    Waiting { on: String },
    /// A newer promotion of the application is waiting.
    Superseded { by: Counter },
    /// An executor took the journal up again after a restart; the effect under way is asked for once more.
    Resumed,
}

use crate::effect::Effect;

/// What was seen while an effect was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "saw", rename_all = "snake_case")]
pub enum Evidence {
    Observed(Observed),
    /// `images` counts all of the stack, `already_here` those of them that were not fetched.
    Pulled {
        images: u32,
        already_here: u32,
        bytes: u64,
    },
    BackedUp {
        by: Vec<String>,
    },
    Migrated {
        applied: Vec<AppliedMigration>,
        /// What else is to be told: who migrated instead of this host, and warnings.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<String>,
    },
    /// Services whose containers were made anew.
    Updated {
        changed: Vec<String>,
    },
    /// What runs, as the engine says: per service the digest that its image is known by.
    Running {
        services: BTreeMap<ServiceName, Digest>,
        restarts: u32,
    },
    Smoked {
        passed: u32,
    },
    Baked,
    Committed {
        images_removed: u32,
    },
    /// The former release's containers were started (or, with no former one, the stack is down).
    Restored,
    Admitted,
    RolloutEnded {
        word: RolloutWord,
    },
    /// What was taken away, for people.
    Removed {
        what: Vec<String>,
    },
}

/// What the stack looks like before anything is touched, and what the deploy has to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// What serves now; `None` on a first deploy.
    pub former: Option<Former>,
    /// Long-running services of the stack: those that `Prove` must find.
    pub services: Vec<ServiceName>,
    pub has_backup: bool,
    pub has_migrations: bool,
    pub smoke_tests: u32,
    /// What the stack's settings say; [`crate::Order::bake_ms`] makes of it how long this host watches.
    pub bake_ms: u64,
    /// What people should know before the release begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    pub deadlines: Deadlines,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// `None` for a stack that was there before Landfall.
    pub release: Option<ReleaseName>,
    pub counter: Option<Counter>,
    /// What `ProveFormer` must find.
    pub images: BTreeMap<ServiceName, Digest>,
}

/// Time for each step, in milliseconds. The shell ends an effect that takes longer and answers `Failed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlines {
    pub observe_ms: u64,
    pub pull_ms: u64,
    pub backup_ms: u64,
    pub migrate_ms: u64,
    pub update_ms: u64,
    pub prove_ms: u64,
    pub smoke_ms: u64,
    pub commit_ms: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        use landfall_schema::stack::{BACKUP_DEADLINE_MS, MIGRATE_DEADLINE_MS, READY_DEADLINE_MS, SMOKE_DEADLINE_MS};
        Self {
            observe_ms: 60_000,
            pull_ms: 900_000,
            backup_ms: BACKUP_DEADLINE_MS,
            migrate_ms: MIGRATE_DEADLINE_MS,
            update_ms: 120_000,
            prove_ms: READY_DEADLINE_MS,
            smoke_ms: SMOKE_DEADLINE_MS,
            commit_ms: 60_000,
        }
    }
}
