//! Landfall's settings inside a compose file: the `x-landfall` extension fields. A plain compose file needs none of them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::AppName;
use crate::promotion::{Offline, OnFailure};
use crate::wave_size::WaveSize;

/// The key of both extension fields.
pub const EXTENSION: &str = "x-landfall";

pub const READY_DEADLINE_MS: u64 = 60_000;
pub const READY_INTERVAL_MS: u64 = 250;
/// The shortest interval between two readiness probes.
pub const READY_INTERVAL_MIN_MS: u64 = 50;
pub const READY_PASSES: u32 = 2;
pub const SMOKE_DEADLINE_MS: u64 = 90_000;
pub const MIGRATE_DEADLINE_MS: u64 = 600_000;
/// How long a statement of an SQL migration waits for a lock, before it fails rather than queue everybody behind it.
pub const LOCK_TIMEOUT_MS: u64 = 30_000;
pub const BACKUP_DEADLINE_MS: u64 = 600_000;
/// How long a container without a health check of any kind must have run to count as ready.
pub const SETTLE_MS: u64 = 1_000;

/// `x-landfall` at the top of the compose file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StackSettings {
    /// The application's name, when the promotion does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// Checks of the whole stack, in order, after every service is ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub smoke: Vec<SmokeTest>,
    /// Time for all smoke tests together. Default: 90 000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smoke_deadline_ms: Option<u64>,
    /// How long the proven release is watched before it is committed, unless the promotion says otherwise. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake_ms: Option<u64>,
    /// How a release goes through a fleet, unless the promotion says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutSettings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<SchemaSettings>,
    /// This release takes away what older ones need (the second half of expand and contract): destructive SQL is meant, and not warned of.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub contract: bool,
}

/// What the release says of the schema that its migrations make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SchemaSettings {
    /// The releases that this schema still serves, as a SemVer requirement against their names, e.g. `>= 1.4`. A rollback past it is refused.
    pub compatible_with: String,
}

/// How a release goes through the hosts. Only `landfall promote` reads it: what it makes of it stands in the promotion's plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutSettings {
    /// Up to which host each wave goes, e.g. `[1, "25%", "100%"]`. Default: all hosts at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waves: Vec<WaveSize>,
    /// How long every wave watches the proven release before it is committed. Default: the stack's `bake_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake_ms: Option<u64>,
    /// Time for all hosts of a wave to commit. Default: 900 000, and the time to bake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Most hosts of a wave that deploy at the same time. Default: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
    /// What a failure on one host means for the others. Default: `rollback_all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// What a host that is away means for the others. Default: `skip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline: Option<Offline>,
}

/// One smoke test: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SmokeTest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// Runs a command in a one-shot container of a service; exit code 0 is success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunCheck>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpCheck {
    /// As seen from the host, e.g. `http://127.0.0.1:3000/api/plans`.
    pub url: String,
    #[serde(default)]
    pub method: HttpMethod,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    #[serde(default)]
    pub expect: Expectation,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
}

/// What an answer must be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// Default: any from 200 to 299.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Text that the body contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunCheck {
    pub service: String,
    /// Default: the service's own command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
}

/// `x-landfall` of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSettings {
    /// What the service is for. Default: it serves. The other roles are started for their step only.
    #[serde(default)]
    pub role: Role,
    /// For `role: migrate`: the database that it migrates, for people and for the lock. Default: the service's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// For `role: migrate`: the URL of the PostgreSQL database that it migrates, as seen from the host; `${DATABASE_URL}` works. With it the
    /// database itself knows whether a migration was begun and ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_url: Option<String>,
    /// Whether all hosts share the database that this service migrates. Default: `host` when it depends on another service of this stack,
    /// or keeps its data in a file, else `shared`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<DatabaseScope>,
    /// How long a statement of an SQL migration may wait for a lock that somebody else holds. Default: 30 000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_timeout_ms: Option<u64>,
    /// How long one statement of an SQL migration may take. Default: what is left of `deadline_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement_timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Readiness>,
    /// SQL files inside this service's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrations: Option<SqlMigrations>,
    /// A command run inside this service's running container before a migration; exit code 0 is success.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backup: Vec<String>,
    /// Time for this service's one-shot run or command: migrate and backup 600 000 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// How the service is replaced. `recreate` is the only one so far.
    #[serde(default)]
    pub strategy: Strategy,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    #[default]
    Serve,
    /// A one-shot that migrates the database.
    Migrate,
    /// A one-shot that backs up before a migration.
    Backup,
    /// A one-shot for smoke tests; it runs only when a smoke test names it.
    Smoke,
}

/// Whose database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DatabaseScope {
    /// All hosts use the same one: it is migrated once per release, by one of them.
    Shared,
    /// Each host has its own.
    Host,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    #[default]
    Recreate,
}

/// When a service counts as ready. Its container's own health check, if it has one, must pass as well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Readiness {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpProbe>,
    /// Between two probes; at least 50. Default: 250.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
    /// Consecutive passes. Default: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passes: Option<u32>,
    /// From the start of the containers. Default: 60 000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

/// `GET http://<address>:<port><path>` answers 200 to 299.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpProbe {
    /// The container's own port; the executor asks the container's address, so it need not be published.
    pub port: u16,
    #[serde(default = "root_path")]
    pub path: String,
}

fn root_path() -> String {
    "/".to_owned()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpProbe {
    pub port: u16,
}

/// SQL files in sqlx's layout (`<version>_<description>.sql`) inside the service's image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlMigrations {
    /// Absolute path of the directory in the image, e.g. `/migrations`.
    pub path: String,
    /// `postgres://…` or `sqlite://…`; interpolated by Compose, so `${DATABASE_URL}` from the host's `.env` works. A host name that
    /// is a service of this stack is resolved to its container's address.
    pub url: String,
    /// For people and for the lock. Default: the service's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Where the same files are beside the compose file, for `landfall lint` and `landfall promote`, e.g. `./migrations`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}
