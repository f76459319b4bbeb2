//! The rules of an environment, and what people say under them: its policy, its freezes, approvals, condemned releases and their
//! absolution. Each is a signed event; the newest on its subject counts, whole, for what it is about.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AppName, Counter, Digest, EnvName, EventId, HostName, ReleaseName, ServiceName};
use crate::outcome::{Reason, ReasonCode};
use crate::promotion::Promotion;
use crate::signature::{DsseEnvelope, PublicKey};

/// Most hosts whose outcomes travel as evidence; of a larger plan the first so many are asked for.
pub const EVIDENCE_HOSTS_MAX: usize = 8;
/// Most condemned releases of one application that are remembered, newest first.
pub const CONDEMNED_MAX: usize = 50;
/// Most absolutions of one application that are kept.
pub const ABSOLVED_MAX: usize = 100;
/// Longest reason or note that a person gives, in characters.
pub const NOTE_MAX_CHARS: usize = 300;

/// The data of `dev.landfall.environment.policy.v1`, signed by an admin key: what a promotion to this environment must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EnvironmentPolicy {
    pub env: EnvName,
    /// The same digests must have succeeded there, smoke tests included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires: Option<Requirement>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvals: Option<ApprovalRule>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freeze_windows: Vec<FreezeWindow>,
    /// Who set it, for people to read.
    pub author: String,
}

/// Where a release must have been proven, and whom to believe that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Requirement {
    pub env: EnvName,
    /// The hosts of that environment whose outcomes count, with their keys.
    #[schemars(with = "BTreeMap<HostName, String>")]
    pub host_keys: BTreeMap<HostName, PublicKey>,
    /// Whose promotions there count.
    #[schemars(with = "Vec<String>")]
    pub promoters: Vec<PublicKey>,
}

/// So many of these people must approve; whoever signed the promotion does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalRule {
    pub need: u32,
    pub of: Vec<Approver>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Approver {
    /// For people to read.
    pub name: String,
    #[schemars(with = "String")]
    pub key: PublicKey,
}

/// A time that comes again in which nothing is promoted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FreezeWindow {
    /// When it begins: minute, hour, day of month, month, day of week; e.g. `0 16 * * FRI`.
    pub cron: String,
    /// How long it lasts from there.
    pub duration_ms: u64,
    /// An IANA name such as `Europe/Berlin`.
    pub time_zone: String,
    pub reason: String,
}

/// The data of `dev.landfall.environment.frozen.v1`, signed by an admin key: every freeze there is; an empty list takes all back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Freezes {
    pub env: EnvName,
    pub freezes: Vec<Freeze>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Freeze {
    /// `None`: every application of the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    pub reason: String,
    #[schemars(with = "String")]
    pub until: Timestamp,
    pub author: String,
    #[schemars(with = "String")]
    pub since: Timestamp,
}

/// The data of `dev.landfall.release.approved.v1`. Everybody who approves signs these same bytes; one rejection ends the promotion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Approval {
    pub env: EnvName,
    pub app: AppName,
    pub counter: Counter,
    pub release: ReleaseName,
    /// The id of the promotion's event.
    pub promotion: EventId,
    /// Of the promotion's exact bytes: what was approved cannot be exchanged under the approval.
    pub digest: Digest,
    pub verdict: ApprovalVerdict,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalVerdict {
    Approved,
    Rejected,
}

/// The data of `dev.landfall.release.condemned.v1`, kept in the bucket [`crate::layout::ROLLOUT`]: releases of one application that did not
/// work, newest last, at most [`CONDEMNED_MAX`]. Signed by the host that added the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CondemnedList {
    pub env: EnvName,
    pub app: AppName,
    pub condemned: Vec<Condemned>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Condemned {
    /// [`fingerprint`] of the promotion.
    pub fingerprint: Digest,
    pub counter: Counter,
    pub release: ReleaseName,
    pub cause: Reason,
    /// Which host condemned it.
    pub host: HostName,
    #[schemars(with = "String")]
    pub at: Timestamp,
}

/// The data of `dev.landfall.release.absolved.v1`, signed by an admin key or one that may promote: every absolution of the application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Absolutions {
    pub env: EnvName,
    pub app: AppName,
    pub absolved: Vec<Absolution>,
}

/// Takes back what was condemned up to this promotion. When the same release fails again, it is condemned again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Absolution {
    pub fingerprint: Digest,
    /// The condemned promotion.
    pub counter: Counter,
    pub release: ReleaseName,
    pub reason: String,
    pub author: String,
    #[schemars(with = "String")]
    pub at: Timestamp,
}

/// What a promotion carries to prove that the same release works elsewhere; each part as it was signed there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    pub promotion: DsseEnvelope,
    /// `deploy.succeeded` and `smoke.passed` of every host of that promotion's plan, of at most [`EVIDENCE_HOSTS_MAX`].
    pub outcomes: Vec<DsseEnvelope>,
}

#[derive(Serialize)]
struct Fingerprinted<'a> {
    images: BTreeMap<&'a ServiceName, &'a Digest>,
    bundle: &'a Digest,
    variables: &'a BTreeMap<String, String>,
}

/// What a promotion runs, however it is numbered, named and rolled out: its images, compose files and variables.
pub fn fingerprint(promotion: &Promotion) -> Digest {
    let images = promotion.images.iter().map(|(service, image)| (service, &image.digest)).collect();
    let parts = Fingerprinted { images, bundle: &promotion.bundle.digest, variables: &promotion.variables };
    // Maps with string keys always serialise, in the order of their keys.
    Digest::of(&serde_json::to_vec(&parts).unwrap_or_default())
}

impl CondemnedList {
    /// Adds an entry, and forgets the oldest beyond [`CONDEMNED_MAX`]. `false` when it was there already.
    pub fn add(&mut self, entry: Condemned) -> bool {
        let known = |one: &Condemned| one.fingerprint == entry.fingerprint && one.counter >= entry.counter;
        if self.condemned.iter().any(known) {
            return false;
        }
        self.condemned.retain(|one| one.fingerprint != entry.fingerprint);
        self.condemned.push(entry);
        let surplus = self.condemned.len().saturating_sub(CONDEMNED_MAX);
        self.condemned.drain(..surplus);
        true
    }

    /// The entry that forbids this fingerprint, unless somebody absolved it.
    pub fn forbids(&self, fingerprint: &Digest, absolved: &[Absolution]) -> Option<&Condemned> {
        let entry = self.condemned.iter().rev().find(|one| one.fingerprint == *fingerprint)?;
        let is_absolved = |one: &Absolution| one.fingerprint == *fingerprint && one.counter >= entry.counter;
        (!absolved.iter().any(is_absolved)).then_some(entry)
    }
}

impl Absolutions {
    /// Adds one, and forgets the oldest beyond [`ABSOLVED_MAX`].
    pub fn add(&mut self, absolution: Absolution) {
        self.absolved.retain(|one| one.fingerprint != absolution.fingerprint);
        self.absolved.push(absolution);
        let surplus = self.absolved.len().saturating_sub(ABSOLVED_MAX);
        self.absolved.drain(..surplus);
    }
}

/// Whether something is wrong with the release itself, and not with the host or the way there.
pub fn blames_the_release(reason: &Reason) -> bool {
    use ReasonCode::{ContainerExited, Restarting, SmokeFailed, Unhealthy};
    matches!(reason.code, Unhealthy | Restarting | ContainerExited | SmokeFailed)
}
