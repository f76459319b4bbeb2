//! A host's sign of life.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AppName, Counter, EnvName, HostName, ReleaseName};

/// The data of `dev.landfall.presence.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Presence {
    pub env: EnvName,
    pub host: HostName,
    pub executor_version: String,
    pub labels: BTreeMap<String, String>,
    /// Version of the Docker engine, or why it does not answer.
    pub engine: EngineState,
    pub disk_free_bytes: u64,
    /// The public key that signs this host's outcomes.
    pub key: String,
    /// The applications that this host takes, and what runs of each.
    pub apps: BTreeMap<AppName, Option<RunningRelease>>,
    /// The applications of which this host takes previews.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub previews: BTreeSet<AppName>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum EngineState {
    Answering { version: String },
    Silent { error: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunningRelease {
    pub counter: Counter,
    pub release: ReleaseName,
}
