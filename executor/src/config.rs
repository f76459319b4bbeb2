//! The daemon's configuration: one TOML file, a few environment variables above it, every mistake told at once.

mod decode;
mod previews;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use landfall_schema::ids::{AppName, EnvName, HostName};
use landfall_schema::signature::PublicKey;
use landfall_telemetry::LogFormat;
use thiserror::Error;
use toml::de::DeTable;

pub use decode::Problem;
use decode::{Problems, Section};
pub use previews::PreviewConfig;

use crate::hands::{KEEP_RELEASES, MIN_FREE_BYTES, Policy, Risk};

/// Documentation, template and parser test in one.
pub const DEFAULT_CONFIG: &str = include_str!("../host/executor.toml");
pub const DEFAULT_PATH: &str = "/etc/landfall/executor.toml";

const DEFAULT_STATE_DIR: &str = "/var/lib/landfall";
const KEEP_RELEASES_MAX: u64 = 100;
/// Longest name and longest value of a label, in bytes.
const LABEL_MAX_BYTES: usize = 63;
const DEFAULT_DOCKER_HOST: &str = "unix:///var/run/docker.sock";
const DEFAULT_LOG_FILTER: &str = "info,async_nats=warn,sqlx=warn";
/// Where Linux tells the machine's own name.
const HOST_NAME_FILE: &str = "/proc/sys/kernel/hostname";

#[derive(Debug, Clone)]
pub struct Config {
    pub host: HostName,
    pub env: EnvName,
    pub labels: BTreeMap<String, String>,
    pub state_dir: PathBuf,
    pub keep_releases: usize,
    pub allowed_registries: Vec<String>,
    pub bus: BusConfig,
    pub docker: DockerConfig,
    pub trust: TrustConfig,
    pub apps: BTreeMap<AppName, AppConfig>,
    /// Applications of which this host takes previews.
    pub previews: BTreeMap<AppName, PreviewConfig>,
    pub policy: Policy,
    pub telemetry: TelemetryConfig,
}

#[derive(Debug, Clone)]
pub struct BusConfig {
    pub url: String,
    pub creds: Option<PathBuf>,
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    pub ca: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct DockerConfig {
    pub host: String,
    pub min_free_disk_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct TrustConfig {
    /// Whose promotions this host takes.
    pub promote: Vec<PublicKey>,
    /// Who sets the environment's policy and freezes. Without any, none is asked for.
    pub admin: Vec<PublicKey>,
}

#[derive(Debug, Clone)]
pub struct AppConfig {
    /// Where the stack's `.env` and the files that its compose file mounts are.
    pub directory: PathBuf,
    /// Compose's project name.
    pub project: String,
    pub drift: DriftPolicy,
}

/// What is done when somebody beside Landfall changes what runs. It is told in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DriftPolicy {
    #[default]
    Report,
    /// The committed release is put back.
    Repair,
}

#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    pub log_format: LogFormat,
    pub log_filter: String,
}

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{} cannot be read\n  hint: `landfall-executor --print-default-config` prints one to start from", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}", show(path, problems))]
    Invalid { path: PathBuf, problems: Vec<Problem> },
}

fn show(path: &Path, problems: &[Problem]) -> String {
    let count = problems.len();
    let mistakes = if count == 1 { "1 mistake".to_owned() } else { format!("{count} mistakes") };
    let mut text = format!("{} has {mistakes}:", path.display());
    for problem in problems {
        text.push_str(&format!("\n{problem}"));
    }
    text
}

/// The environment variables that matter, so that tests need not touch the process's own.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

impl Config {
    /// # Errors
    /// [`ConfigError`] with every mistake that the file holds.
    pub fn load(path: &Path, environment: Environment<'_>) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, environment).map_err(|problems| ConfigError::Invalid { path: path.to_owned(), problems })
    }

    /// # Errors
    /// Every mistake, in the order of the file.
    pub fn parse(text: &str, environment: Environment<'_>) -> Result<Self, Vec<Problem>> {
        let problems = Problems::new(text);
        let (table, syntax) = DeTable::parse_recoverable(text);
        for error in &syntax {
            let problem = Problem::new("", error.message().trim());
            match error.span() {
                Some(span) => problems.add_at(span, problem),
                None => problems.add(problem),
            }
        }
        if !syntax.is_empty() {
            // What follows a syntax error may be lost, so nothing is said about what else is there or missing.
            return Err(problems.into_sorted());
        }
        let config = read(table.get_ref(), &problems, environment);
        match (config, problems.into_sorted()) {
            (Some(config), problems) if problems.is_empty() => Ok(config),
            (_, problems) => Err(problems),
        }
    }
}

/// `None` only when a problem was reported.
fn read(table: &DeTable<'_>, problems: &Problems<'_>, environment: Environment<'_>) -> Option<Config> {
    let root = Section::root(table, problems);
    let over = Overrides { problems, environment };

    let host = over.or("LANDFALL_HOST", root.parsed("host"), || own_name(&root));
    let env = over.or("LANDFALL_ENV", root.parsed("env"), || {
        if !root.is_set("env") {
            root.missing("env", "name the environment whose promotions this host takes, e.g. env = \"staging\"");
        }
        None
    });
    let labels = read_labels(&root);
    let state_dir = over.or("LANDFALL_STATE_DIR", root.parsed_by("state_dir", absolute).map(Directory), || {
        Some(Directory(DEFAULT_STATE_DIR.into()))
    });
    let keep_releases = root.number("keep_releases", 1, KEEP_RELEASES_MAX).unwrap_or(KEEP_RELEASES as u64);
    let allowed_registries = root.list("allowed_registries", registry);
    let bus = read_bus(root.section("bus"), &over);
    let docker = read_docker(root.section("docker"), environment);
    let trust = read_trust(root.section("trust"));
    let apps: BTreeMap<AppName, AppConfig> =
        root.sections("apps").into_iter().filter_map(|(name, section)| read_app(name, section)).collect();
    refuse_shared_projects(&root, &apps);
    let previews =
        root.sections("previews").into_iter().filter_map(|(name, section)| previews::read(name, section)).collect();
    let policy = read_policy(root.section("policy"));
    let telemetry = read_telemetry(root.section("telemetry"));
    root.finish();

    Some(Config {
        host: host?,
        env: env?,
        labels,
        state_dir: state_dir?.0,
        keep_releases: usize::try_from(keep_releases).ok()?,
        allowed_registries,
        bus: bus?,
        docker,
        trust,
        apps,
        previews,
        policy,
        telemetry,
    })
}

/// Environment variables that win over the file.
struct Overrides<'a> {
    problems: &'a Problems<'a>,
    environment: Environment<'a>,
}

impl Overrides<'_> {
    fn or<T>(&self, variable: &str, from_file: Option<T>, fallback: impl FnOnce() -> Option<T>) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        match (self.environment)(variable).filter(|value| !value.is_empty()) {
            None => from_file.or_else(fallback),
            Some(value) => match value.parse() {
                Ok(parsed) => Some(parsed),
                Err(error) => {
                    self.problems.add(Problem::new(format!("${variable}"), T::Err::to_string(&error)));
                    None
                }
            },
        }
    }
}

struct Directory(PathBuf);

impl FromStr for Directory {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        absolute(text).map(Self)
    }
}

struct BusUrl(String);

impl FromStr for BusUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        bus_url(text).map(Self)
    }
}

/// The machine's name up to the first dot. A `host` that is there but wrong was reported already.
fn own_name(root: &Section<'_, '_>) -> Option<HostName> {
    if root.is_set("host") {
        return None;
    }
    let name = std::fs::read_to_string(HOST_NAME_FILE).unwrap_or_default();
    let name = name.trim().split('.').next().and_then(|label| label.parse().ok());
    if name.is_none() {
        root.missing("host", "the machine's own name cannot be used; give one, e.g. host = \"host-a\"");
    }
    name
}

fn read_bus(section: Section<'_, '_>, over: &Overrides<'_>) -> Option<BusConfig> {
    let url = over.or("LANDFALL_BUS_URL", section.parsed_by("url", bus_url).map(BusUrl), || {
        if !section.is_set("url") {
            section.missing("url", "give the NATS server's address, e.g. url = \"nats://127.0.0.1:4222\"");
        }
        None
    });
    let creds = section.parsed_by("creds", readable);
    let user = section.text("user");
    let password_file = section.parsed_by("password_file", readable);
    let ca = section.parsed_by("ca", readable);
    if section.is_set("creds") && section.is_set("user") {
        section.reject("user", "stands beside creds", "use one of both: creds, or user and password_file");
    }
    if section.is_set("user") != section.is_set("password_file") {
        let key = if section.is_set("user") { "user" } else { "password_file" };
        section.reject(key, "stands alone", "user and password_file belong together");
    }
    section.finish();
    Some(BusConfig { url: url?.0, creds, user, password_file, ca })
}

fn read_docker(section: Section<'_, '_>, environment: Environment<'_>) -> DockerConfig {
    let host = section
        .parsed_by("host", docker_host)
        .or_else(|| environment("DOCKER_HOST").filter(|host| !host.is_empty()))
        .unwrap_or_else(|| DEFAULT_DOCKER_HOST.to_owned());
    let min_free_disk_bytes = section.parsed_by("min_free_disk", bytes).unwrap_or(MIN_FREE_BYTES);
    section.finish();
    DockerConfig { host, min_free_disk_bytes }
}

fn read_trust(section: Section<'_, '_>) -> TrustConfig {
    let promote = section.list("promote", |text| PublicKey::new(text).map_err(|error| error.to_string()));
    if !section.is_set("promote") {
        section.missing("promote", "list the public keys whose promotions this host takes, e.g. promote = [\"U…\"]");
    } else if section.is_empty_list("promote") {
        let hint = "`landfall init` makes a key pair and prints the public key (U…) to put here";
        section.reject("promote", "trusts no key, so this host would refuse every promotion", hint);
    }
    let admin = section.list("admin", |text| PublicKey::new(text).map_err(|error| error.to_string()));
    section.finish();
    TrustConfig { promote, admin }
}

fn read_app(name: AppName, section: Section<'_, '_>) -> Option<(AppName, AppConfig)> {
    let directory = section.parsed_by("directory", absolute);
    if !section.is_set("directory") {
        section.missing("directory", "where the stack's .env is, e.g. directory = \"/opt/shop\"");
    }
    let project = section.parsed_by("project", project);
    // Compose allows fewer characters than an application's name may have.
    let project = project.unwrap_or_else(|| name.as_str().to_lowercase());
    let drift = section.parsed_by("drift", |text| match text {
        "report" => Ok(DriftPolicy::Report),
        "repair" => Ok(DriftPolicy::Repair),
        other => Err(format!("{other:?} is nothing that is done about drift; there are \"report\" and \"repair\"")),
    });
    section.finish();
    Some((name, AppConfig { directory: directory?, project, drift: drift.unwrap_or_default() }))
}

/// Two applications in one project would remove each other's containers.
fn refuse_shared_projects(root: &Section<'_, '_>, apps: &BTreeMap<AppName, AppConfig>) {
    let mut owners = BTreeMap::new();
    for (name, app) in apps {
        if let Some(owner) = owners.insert(&app.project, name) {
            let section = root.section("apps").section(name.as_str());
            let hint = format!("give {name} a project of its own");
            section.reject("project", format!("{:?} is the project of {owner} too", app.project), hint);
        }
    }
}

/// Labels are written as `role=web` where hosts are chosen by them, so they hold nothing that would be read otherwise there.
fn read_labels(root: &Section<'_, '_>) -> BTreeMap<String, String> {
    let labels: BTreeMap<String, String> = root.texts("labels").into_iter().collect();
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let section = root.section("labels");
    for (name, value) in &labels {
        for (what, text) in [("name", name), ("value", value)] {
            if text.is_empty() || text.len() > LABEL_MAX_BYTES || !text.chars().all(fine) {
                let message = format!("the label's {what} {text:.80?} cannot be used");
                let hint = format!("1 to {LABEL_MAX_BYTES} of the characters A-Z a-z 0-9 - _ . /");
                section.reject(name, message, hint);
            }
        }
    }
    labels
}

fn read_telemetry(section: Section<'_, '_>) -> TelemetryConfig {
    let log_format = section.parsed_by("log_format", |text| match text {
        "human" => Ok(LogFormat::Human),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("{other:?} is no log format; there are \"human\" and \"json\"")),
    });
    let log_filter = section.text("log_filter").unwrap_or_else(|| DEFAULT_LOG_FILTER.to_owned());
    section.finish();
    TelemetryConfig { log_format: log_format.unwrap_or(LogFormat::Human), log_filter }
}

fn read_policy(section: Section<'_, '_>) -> Policy {
    let allow = Risk::ALL.into_iter().filter(|risk| section.boolean(risk.setting()) == Some(true)).collect();
    section.finish();
    Policy { allow }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err(format!("{text:?} is not an absolute path")) }
}

/// A file that must be there when the daemon starts. It is opened, not read.
fn readable(text: &str) -> Result<PathBuf, String> {
    let path = absolute(text)?;
    match std::fs::File::open(&path) {
        Ok(_) => Ok(path),
        Err(error) => Err(format!("{text} cannot be opened: {error}")),
    }
}

fn bus_url(text: &str) -> Result<String, String> {
    let known = ["nats://", "tls://"];
    for one in text.split(',').map(str::trim) {
        let Some(rest) = known.iter().find_map(|scheme| one.strip_prefix(scheme)) else {
            return Err("is no address of a NATS server; it starts with nats:// or tls://".to_owned());
        };
        if rest.contains('@') {
            return Err("holds credentials; they belong in user and password_file, or creds".to_owned());
        }
        if rest.is_empty() {
            return Err("names no server".to_owned());
        }
    }
    Ok(text.to_owned())
}

fn docker_host(text: &str) -> Result<String, String> {
    match ["unix:///", "tcp://", "http://"].iter().any(|scheme| text.starts_with(scheme)) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is no address of a Docker engine; expected unix:///… or tcp://…")),
    }
}

/// Compose's own rule: lower-case letters, digits, dashes and underscores, beginning with a letter or digit.
fn project(text: &str) -> Result<String, String> {
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    let starts_well = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if starts_well && text.chars().all(ok) && text.len() <= 63 {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is no name of a Compose project; allowed are a-z 0-9 - _, beginning with a letter or digit"))
}

fn registry(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains("://") || text.contains(char::is_whitespace) {
        return Err(format!("{text:?} is no registry or repository prefix; expected e.g. registry.example.org/team"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// `500 MB`, `2GiB`, `1000000`.
fn bytes(text: &str) -> Result<u64, String> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let factor = match unit.trim() {
        "" | "B" => Some(1),
        "kB" | "KB" => Some(1_000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "TB" => Some(1_000_000_000_000),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .ok_or_else(|| format!("{text:?} is no amount of bytes; expected e.g. \"500 MB\" or \"2 GiB\""))
}

#[cfg(test)]
mod tests;
