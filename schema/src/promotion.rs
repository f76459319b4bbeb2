//! `release.promoted`: the order to deploy, complete and immutable. Executors make no choice that it leaves open.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::gates::Evidence;
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
    /// The services that this promotion changes. The others stay as they are on a host that runs what `images` says of them; any other
    /// host takes all of it. Empty: every service.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub only: BTreeSet<ServiceName>,
    /// Makes it a preview: a project of its own that is removed when its time is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<Preview>,
    /// What the release says of the schema that its migrations make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<SchemaPromise>,
    /// That the same release works in another environment, for one whose policy requires it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// Who promoted: a person or a CI job, for people to read.
    pub author: String,
    /// Where to look it up: a pipeline or commit URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// After this time no host starts the deploy any more.
    #[schemars(with = "String")]
    pub expires_at: Timestamp,
}

impl Promotion {
    /// What each service is promised to run.
    pub fn digests(&self) -> BTreeMap<ServiceName, Digest> {
        self.images.iter().map(|(service, image)| (service.clone(), image.digest.clone())).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Intent {
    Promote,
    /// Go back to what promotion `to` carried.
    Rollback {
        to: Counter,
    },
    /// Take the stack away with its networks and volumes; for previews only.
    Remove,
}

/// A stack that lives for a while beside all others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Preview {
    /// The application that it is a preview of; the promotion's own `app` is unique to the preview.
    pub of: AppName,
    /// What people call it, e.g. `pr-123`.
    pub name: AppName,
    /// Then every host takes it away.
    #[schemars(with = "String")]
    pub expires_at: Timestamp,
}

/// Which releases still work once this release's migrations were applied. Rollbacks restore images, never the schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SchemaPromise {
    /// A SemVer requirement against release names, e.g. `>= 1.4`.
    pub compatible_with: String,
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

/// Which hosts, in which order, and what happens on failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutPlan {
    /// Hosts that were present when the release was promoted, wave by wave. One wave is all at once.
    pub waves: Vec<Wave>,
    /// Hosts that are not named leave the promotion alone. Without it, a host that was away takes it when it is back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_named: bool,
    /// Only hosts with all of these labels take it, those that were away included.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// After this long without a terminal outcome a host counts as not reached.
    pub deadline_ms: u64,
    /// How long a proven release is watched before it is committed.
    pub bake_ms: u64,
    #[serde(default, skip_serializing_if = "OnFailure::is_default")]
    pub on_failure: OnFailure,
    #[serde(default, skip_serializing_if = "Offline::is_default")]
    pub offline: Offline,
    /// Hosts that belong to the plan but were away when it was made. They take the release when they are back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub away: Vec<HostName>,
    /// The keys of the plan's hosts, as a document in the bundle store ([`crate::roster::Roster`]). With it the hosts act together; a plan
    /// without it is each host's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roster: Option<BundleRef>,
}

impl RolloutPlan {
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.waves.iter().flat_map(|wave| &wave.hosts)
    }

    /// Whether the hosts of the plan act together: waves open one after the other, and a failure concerns all.
    pub fn is_coordinated(&self) -> bool {
        self.roster.is_some()
    }

    /// The wave of a host and its place in it, both from 0.
    pub fn place_of(&self, host: &HostName) -> Option<(usize, usize)> {
        self.waves.iter().enumerate().find_map(|(wave, of)| Some((wave, of.hosts.iter().position(|one| one == host)?)))
    }
}

/// Hosts that deploy at the same time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Wave {
    pub hosts: Vec<HostName>,
    /// How long each host of this wave watches the proven release before it commits it, if longer than the plan's `bake_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake_ms: Option<u64>,
    /// Time for all hosts of this wave to commit, instead of the plan's `deadline_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Most hosts of this wave that deploy at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
}

impl Wave {
    pub fn of(hosts: Vec<HostName>) -> Self {
        Self { hosts, ..Self::default() }
    }
}

/// What a failure on one host means for the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Every host that had moved goes back, and is verified.
    #[default]
    RollbackAll,
    /// Nobody moves any further: who has the release keeps it, until people decide.
    Hold,
}

impl OnFailure {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a host that is away means for the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Offline {
    /// It is named as not reached, and the others go on.
    #[default]
    Skip,
    /// The rollout waits for it until the wave's deadline, and has failed then.
    Block,
}

impl Offline {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
