//! `release.promoted`: the order to deploy, complete and immutable. Executors make no choice that it leaves open.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AppName, Counter, Digest, EnvName, HostName, ReleaseName, ServiceName};

/// The data of `dev.landfall.release.promoted.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Promotion {
    pub env: EnvName,
    pub app: AppName,
    pub counter: Counter,
    pub release: ReleaseName,
    pub intent: Intent,
    /// What each service runs, by digest. Services of the compose file that are not named here are an error on the host.
    pub images: BTreeMap<ServiceName, PinnedImage>,
    /// Values for the compose file's interpolation that are not secret; they win over the host's `.env`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    pub bundle: BundleRef,
    pub plan: RolloutPlan,
    /// Who promoted: a person or a CI job, for people to read.
    pub author: String,
    /// Where to look it up: a pipeline or commit URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// After this time no host starts the deploy any more.
    #[schemars(with = "String")]
    pub expires_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Intent {
    Promote,
    /// Go back to what promotion `to` carried.
    Rollback {
        to: Counter,
    },
}

/// An image that cannot change under its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PinnedImage {
    /// Registry and repository without tag and digest, e.g. `127.0.0.1:5000/shop`.
    pub repository: String,
    pub digest: Digest,
    /// The tag that CI named, for people to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

impl PinnedImage {
    /// `repository@sha256:…`, which Docker pulls and runs.
    pub fn reference(&self) -> String {
        format!("{}@{}", self.repository, self.digest)
    }
}

/// Where the compose file is: the object of this name in the bundle store, whose bytes have this digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BundleRef {
    pub digest: Digest,
    pub bytes: u64,
}

/// Which hosts, and what happens on failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutPlan {
    /// Hosts that were present when the release was promoted, wave by wave. One wave is all at once.
    pub waves: Vec<Wave>,
    /// Hosts that are not named leave the promotion alone. Without it, a host that was away takes it when it is back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_named: bool,
    /// After this long without a terminal outcome a host counts as not reached.
    pub deadline_ms: u64,
    /// How long a proven release is watched before it is committed.
    pub bake_ms: u64,
}

impl RolloutPlan {
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.waves.iter().flat_map(|wave| &wave.hosts)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Wave {
    pub hosts: Vec<HostName>,
}
