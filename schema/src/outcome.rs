//! What a host did with a promotion: one event per step, and exactly one terminal event.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AppName, Counter, Digest, EnvName, EventId, HostName, ReleaseName, ServiceName};
use crate::promotion::Promotion;
use crate::rollout::RolloutState;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $noun:literal, $verb:literal, $name:literal;)*) => {
        /// What happened. The noun is the step, the verb what became of it; both stand in the subject and in the event's type.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        pub enum OutcomeKind {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl OutcomeKind {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub fn noun(self) -> &'static str {
                match self { $(Self::$variant => $noun,)* }
            }

            pub fn verb(self) -> &'static str {
                match self { $(Self::$variant => $verb,)* }
            }
        }
    };
}

kinds! {
    ReleaseAccepted = "release", "accepted", "release.accepted";
    ReleaseVerified = "release", "verified", "release.verified";
    ReleaseWaiting = "release", "waiting", "release.waiting";
    /// Progress, at most a few per second; carries [`Outcome::progress`].
    ImagePulling = "image", "pulling", "image.pulling";
    ImagePulled = "image", "pulled", "image.pulled";
    ImageFailed = "image", "failed", "image.failed";
    BackupStarted = "backup", "started", "backup.started";
    BackupTaken = "backup", "taken", "backup.taken";
    BackupFailed = "backup", "failed", "backup.failed";
    MigrationStarted = "migration", "started", "migration.started";
    MigrationApplied = "migration", "applied", "migration.applied";
    MigrationFailed = "migration", "failed", "migration.failed";
    StackUpdating = "stack", "updating", "stack.updating";
    StackUpdated = "stack", "updated", "stack.updated";
    StackFailed = "stack", "failed", "stack.failed";
    ReadinessProbing = "readiness", "probing", "readiness.probing";
    ReadinessHealthy = "readiness", "healthy", "readiness.healthy";
    ReadinessFailed = "readiness", "failed", "readiness.failed";
    SmokeStarted = "smoke", "started", "smoke.started";
    SmokePassed = "smoke", "passed", "smoke.passed";
    SmokeFailed = "smoke", "failed", "smoke.failed";
    TrafficSwitched = "traffic", "switched", "traffic.switched";
    BakeStarted = "bake", "started", "bake.started";
    BakePassed = "bake", "passed", "bake.passed";
    BakeFailed = "bake", "failed", "bake.failed";
    RollbackStarted = "rollback", "started", "rollback.started";
    RollbackRestored = "rollback", "restored", "rollback.restored";
    RollbackFailed = "rollback", "failed", "rollback.failed";
    /// The release is what this host goes back to from now on.
    ReleaseCommitted = "release", "committed", "release.committed";
    /// Terminal: the promised digests serve.
    DeploySucceeded = "deploy", "succeeded", "deploy.succeeded";
    /// Terminal: nothing that was running was touched.
    DeployFailed = "deploy", "failed", "deploy.failed";
    /// Terminal: the former release serves again, and was proven to.
    DeployRolledBack = "deploy", "rolled_back", "deploy.rolled_back";
    /// Terminal: the rollback failed too; people are needed.
    DeployStuck = "deploy", "stuck", "deploy.stuck";
    /// Terminal: a newer promotion came before this one touched anything.
    DeploySuperseded = "deploy", "superseded", "deploy.superseded";
    /// Terminal: a rule forbids it; `reason` names the rule.
    DeployRefused = "deploy", "refused", "deploy.refused";
    /// Terminal, said by the one who waits: the host was silent until the deadline.
    DeployNotReached = "deploy", "not_reached", "deploy.not_reached";
    /// A preview's stack is gone, with its networks and volumes.
    StackRemoved = "stack", "removed", "stack.removed";
    /// The next wave may deploy; said by the host that decided it, like all of `rollout`. Carries [`Outcome::rollout`].
    RolloutWaveOpened = "rollout", "wave_opened", "rollout.wave_opened";
    /// A host is away, and the rollout goes on without it.
    RolloutHostSkipped = "rollout", "host_skipped", "rollout.host_skipped";
    /// Every host that had moved goes back.
    RolloutRollingBack = "rollout", "rolling_back", "rollout.rolling_back";
    /// The last word: the promised digests serve on every host of the plan.
    RolloutSucceeded = "rollout", "succeeded", "rollout.succeeded";
    /// The last word: they serve on every host that was here; the others are named.
    RolloutSucceededPartial = "rollout", "succeeded_partial", "rollout.succeeded_partial";
    /// The last word: the former release serves on every host that had moved, and was proven to.
    RolloutRolledBack = "rollout", "rolled_back", "rollout.rolled_back";
    /// The last word: it failed, and every host stays as it is until people decide.
    RolloutHeld = "rollout", "held", "rollout.held";
    /// The last word: the hosts differ, or it is not known what some serve; they are named.
    RolloutMixed = "rollout", "mixed", "rollout.mixed";
    /// The last word: somebody, or a newer promotion, ended it.
    RolloutAborted = "rollout", "aborted", "rollout.aborted";
    /// What runs is not what was committed: somebody beside Landfall changed the stack.
    DriftDetected = "drift", "detected", "drift.detected";
    /// The committed release serves again.
    DriftRepaired = "drift", "repaired", "drift.repaired";
    DriftFailed = "drift", "failed", "drift.failed";
}

impl OutcomeKind {
    pub fn is_terminal(self) -> bool {
        self.noun() == "deploy"
    }

    /// Whether it is said of the rollout, and not of the host that says it.
    pub fn is_rollout(self) -> bool {
        self.noun() == "rollout"
    }

    /// Whether it tells of something that went wrong.
    pub fn is_failure(self) -> bool {
        match self {
            Self::RolloutWaveOpened
            | Self::RolloutHostSkipped
            | Self::RolloutSucceeded
            | Self::RolloutSucceededPartial => false,
            Self::DriftDetected => true,
            kind => {
                kind.is_rollout() || kind.verb() == "failed" || (kind.is_terminal() && kind != Self::DeploySucceeded)
            }
        }
    }

    pub fn event_type(self) -> String {
        format!("dev.landfall.{}.{}.v1", self.noun(), self.verb())
    }

    pub fn from_event_type(kind: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|candidate| candidate.event_type() == kind)
    }
}

impl fmt::Display for OutcomeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.noun(), self.verb())
    }
}

/// The data of every outcome event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    pub kind: OutcomeKind,
    pub env: EnvName,
    pub app: AppName,
    pub host: HostName,
    pub counter: Counter,
    pub release: ReleaseName,
    /// The id of the promotion's event.
    pub promotion: EventId,
    /// How long the step took; of a terminal outcome, the whole deploy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// One line for people: what, where, why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Present exactly when [`OutcomeKind::is_failure`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What runs now, as read from the engine: in `release.committed`, and in terminal outcomes after a swap.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub running: BTreeMap<ServiceName, Digest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub migrations: Vec<AppliedMigration>,
    /// The release that serves after a rollback, or still serves where nothing was touched; `None` when there was none before, or it is not
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<ReleaseName>,
    /// Milliseconds per step, by noun, in terminal outcomes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub timings_ms: BTreeMap<String, u64>,
    /// What was decided, in events of `rollout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutState>,
}

impl Outcome {
    /// Of this promotion on this host, with nothing to tell yet.
    pub fn new(kind: OutcomeKind, host: &HostName, promotion: &Promotion, id: EventId) -> Self {
        Self {
            kind,
            env: promotion.env.clone(),
            app: promotion.app.clone(),
            host: host.clone(),
            counter: promotion.counter,
            release: promotion.release.clone(),
            promotion: id,
            duration_ms: None,
            message: String::new(),
            reason: None,
            progress: None,
            running: BTreeMap::new(),
            migrations: Vec::new(),
            former: None,
            timings_ms: BTreeMap::new(),
            rollout: None,
        }
    }
}

/// Why something failed or was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// Stable and documented, e.g. `image_not_found`; for programs.
    pub code: ReasonCode,
    pub message: String,
    /// What to do next, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The last lines of the logs that tell more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<LogTail>,
}

impl Reason {
    pub fn new(code: ReasonCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, logs: Vec::new() }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn logs(mut self, logs: Vec<LogTail>) -> Self {
        self.logs = logs;
        self
    }
}

/// Within v1 codes are only added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReasonCode {
    // Refusals, in the order in which they are checked.
    Oversized,
    Malformed,
    UnknownVersion,
    Unsigned,
    BadSignature,
    UntrustedKey,
    ForeignEnvironment,
    Expired,
    StaleCounter,
    BundleMissing,
    BundleDigest,
    PolicyViolation,
    // The stack's description.
    ComposeInvalid,
    ServiceUnknown,
    ImageMissing,
    EnvFileMissing,
    SettingsInvalid,
    // Images.
    ImageNotFound,
    ImageDigestMismatch,
    RegistryUnreachable,
    RegistryDenied,
    DiskFull,
    // The steps.
    BackupFailed,
    MigrationFailed,
    UpdateFailed,
    PortTaken,
    Unhealthy,
    Restarting,
    ContainerExited,
    WrongDigestRunning,
    SmokeFailed,
    RollbackFailed,
    DeadlineExceeded,
    EngineUnreachable,
    Superseded,
    NotReached,
    // Gates: rules of the environment.
    NotApproved,
    Rejected,
    Frozen,
    Condemned,
    NotProvenElsewhere,
    PolicyUnreadable,
    // The fleet.
    RolloutFailed,
    Aborted,
    // The database.
    SchemaTooNew,
    MigrationUnknown,
    // Beside Landfall.
    Drifted,
    ProjectTaken,
    PreviewExpired,
    /// Trouble of the executor's own; the deploy is tried again.
    Internal,
}

impl ReasonCode {
    /// As it stands in JSON.
    pub fn as_str(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(text)) => text,
            _ => format!("{self:?}"),
        }
    }
}

/// Last lines of one container's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogTail {
    /// A service, or the step that ran a command.
    pub source: String,
    pub lines: Vec<String>,
}

/// Most lines in a [`LogTail`], and most bytes in a line of it; longer ones are cut.
pub const LOG_TAIL_MAX_LINES: usize = 20;
pub const LOG_LINE_MAX_BYTES: usize = 400;

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    pub service: ServiceName,
    pub layers_done: u32,
    pub layers_total: u32,
    pub bytes_done: u64,
    pub bytes_total: u64,
}

/// One migration that this deploy applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AppliedMigration {
    /// The database's name in the settings, or the migrator service.
    pub database: String,
    /// Version and description of a SQL migration, e.g. `2 add orders note`; of a migrator service its last line of output.
    pub description: String,
    pub duration_ms: u64,
}
