//! The registry credentials that `docker login` left on this host: `config.json` with its `auths`, and the credential helpers it names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use serde::Deserialize;
use thiserror::Error;
use tokio::time::Instant;

use super::process::{self, Input, ProcessError, Program};

/// How long a credential helper may take.
const HELPER_TIMEOUT: Duration = Duration::from_secs(15);
const HELPER_MAX_BYTES: usize = 64 * 1024;
/// What helpers say when they know nothing of a registry.
const NOT_FOUND: &str = "credentials not found";
/// The user name by which a helper says that its secret is an identity token.
const TOKEN_USER: &str = "<token>";
const DOCKER_HUB: &str = "docker.io";
/// The Docker Hub's key in `config.json`, for historical reasons.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Errors never repeat a secret.
#[derive(Debug, Error)]
pub(crate) enum CredentialsError {
    #[error("{} cannot be read", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not Docker's configuration: line {line}, column {column}", path.display())]
    Malformed { path: PathBuf, line: usize, column: usize },
    #[error("the entry of {registry} in Docker's configuration is no login")]
    BadEntry { registry: String },
    #[error("the credential helper for {registry} failed")]
    Helper { registry: String, source: ProcessError },
    #[error("the credential helper {helper} for {registry} failed with code {code:?}")]
    HelperFailed { helper: String, registry: String, code: Option<i32> },
    #[error("the answer of the credential helper {helper} for {registry} is not readable")]
    HelperAnswer { helper: String, registry: String },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DockerConfig {
    auths: BTreeMap<String, AuthEntry>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl std::fmt::Debug for AuthEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthEntry")
    }
}

#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// Docker's own configuration folder, if this user has one.
pub(crate) fn config_dir() -> Option<PathBuf> {
    std::env::var_os("DOCKER_CONFIG")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")))
}

/// The registry of a repository, by Docker's rule: the first part names one if it has a dot or a colon, or is `localhost`.
pub(crate) fn registry(repository: &str) -> &str {
    match repository.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => match first {
            "index.docker.io" => DOCKER_HUB,
            other => other,
        },
        _ => DOCKER_HUB,
    }
}

/// The repository with its registry: `postgres` is `docker.io/library/postgres`.
pub(crate) fn full_repository(repository: &str) -> String {
    let (registry, known) = (registry(repository), repository.split_once('/'));
    let path = match known {
        Some((first, path)) if first == registry || first == "index.docker.io" => path,
        _ => repository,
    };
    let library = if registry == DOCKER_HUB && !path.contains('/') { "library/" } else { "" };
    format!("{registry}/{library}{path}")
}

/// What `docker pull` would send for this repository; `None` to pull without a login.
pub(crate) async fn find(repository: &str, deadline: Instant) -> Result<Option<DockerCredentials>, CredentialsError> {
    let Some(directory) = config_dir() else { return Ok(None) };
    let config = load(&directory.join("config.json")).await?;
    lookup(&config, registry(repository), deadline).await
}

async fn load(path: &Path) -> Result<DockerConfig, CredentialsError> {
    let bytes = match tokio::fs::read(path).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(DockerConfig::default()),
        Err(source) => return Err(CredentialsError::Read { path: path.to_owned(), source }),
    };
    // The parser's own message could repeat a value, so only the place is told.
    serde_json::from_slice(&bytes).map_err(|error| CredentialsError::Malformed {
        path: path.to_owned(),
        line: error.line(),
        column: error.column(),
    })
}

async fn lookup(
    config: &DockerConfig,
    registry: &str,
    deadline: Instant,
) -> Result<Option<DockerCredentials>, CredentialsError> {
    let key = if registry == DOCKER_HUB { DOCKER_HUB_KEY } else { registry };
    let helper = config.helpers.get(key).or_else(|| config.helpers.get(registry)).or(config.store.as_ref());
    if let Some(helper) = helper.filter(|helper| !helper.is_empty())
        && let Some(credentials) = ask_helper(helper, key, registry, deadline).await?
    {
        return Ok(Some(credentials));
    }
    let entry = config.auths.iter().find(|(name, _)| name.as_str() == key || host_of(name) == host_of(key));
    match entry {
        Some((_, entry)) => from_entry(entry, key, registry),
        None => Ok(None),
    }
}

/// `https://registry.example/v1/` and `registry.example` are the same key.
fn host_of(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    key.split('/').next().unwrap_or(key)
}

fn from_entry(entry: &AuthEntry, key: &str, registry: &str) -> Result<Option<DockerCredentials>, CredentialsError> {
    let mut credentials = DockerCredentials { serveraddress: Some(key.to_owned()), ..Default::default() };
    if let Some(token) = entry.identitytoken.as_deref().filter(|token| !token.is_empty()) {
        credentials.identitytoken = Some(token.to_owned());
        return Ok(Some(credentials));
    }
    if let Some(auth) = entry.auth.as_deref().filter(|auth| !auth.is_empty()) {
        let bad = || CredentialsError::BadEntry { registry: registry.to_owned() };
        let text = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(bad)?;
        let (user, password) = text.split_once(':').ok_or_else(bad)?;
        credentials.username = Some(user.to_owned());
        credentials.password = Some(password.trim_end_matches('\0').to_owned());
        return Ok(Some(credentials));
    }
    match (&entry.username, &entry.password) {
        (Some(user), Some(password)) => {
            credentials.username = Some(user.clone());
            credentials.password = Some(password.clone());
            Ok(Some(credentials))
        }
        // An empty entry only says that somebody logged in and that a store has the rest.
        _ => Ok(None),
    }
}

async fn ask_helper(
    helper: &str,
    key: &str,
    registry: &str,
    deadline: Instant,
) -> Result<Option<DockerCredentials>, CredentialsError> {
    let variables =
        ["PATH", "HOME", "USER", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"].into_iter();
    let clouds = std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        ["AWS_", "GOOGLE_", "CLOUDSDK_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix))
    });
    let output = process::run(Program {
        path: format!("docker-credential-{helper}").into(),
        args: vec!["get".into()],
        env: variables.filter_map(|name| Some((name.into(), std::env::var_os(name)?))).chain(clouds).collect(),
        dir: None,
        input: Input::Text(key.to_owned()),
        deadline: deadline.min(Instant::now() + HELPER_TIMEOUT),
        stdout_max_bytes: HELPER_MAX_BYTES,
    })
    .await
    .map_err(|source| CredentialsError::Helper { registry: registry.to_owned(), source })?;
    let (helper, registry) = (helper.to_owned(), registry.to_owned());
    if output.code != Some(0) {
        let unknown = output.stdout.contains(NOT_FOUND) || output.stderr.contains(NOT_FOUND);
        return if unknown {
            Ok(None)
        } else {
            Err(CredentialsError::HelperFailed { helper, registry, code: output.code })
        };
    }
    let answer: HelperAnswer =
        serde_json::from_str(&output.stdout).map_err(|_| CredentialsError::HelperAnswer { helper, registry })?;
    let mut credentials = DockerCredentials { serveraddress: Some(key.to_owned()), ..Default::default() };
    if answer.username == TOKEN_USER {
        credentials.identitytoken = Some(answer.secret);
    } else {
        credentials.username = Some(answer.username);
        credentials.password = Some(answer.secret);
    }
    Ok(Some(credentials))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn registries_of_repositories() {
        for (repository, expect, full) in [
            ("postgres", "docker.io", "docker.io/library/postgres"),
            ("acme/shop", "docker.io", "docker.io/acme/shop"),
            ("index.docker.io/acme/shop", "docker.io", "docker.io/acme/shop"),
            ("ghcr.io/acme/shop", "ghcr.io", "ghcr.io/acme/shop"),
            ("127.0.0.1:5000/shop", "127.0.0.1:5000", "127.0.0.1:5000/shop"),
            ("localhost/shop", "localhost", "localhost/shop"),
        ] {
            assert_eq!((registry(repository), full_repository(repository).as_str()), (expect, full));
        }
    }

    async fn look(config: &str, registry: &str) -> Option<(String, String)> {
        let config: DockerConfig = serde_json::from_str(config).unwrap();
        let found = lookup(&config, registry, Instant::now() + HELPER_TIMEOUT).await.unwrap()?;
        match found.identitytoken {
            Some(token) => Some((TOKEN_USER.to_owned(), token)),
            None => Some((found.username.unwrap(), found.password.unwrap())),
        }
    }

    #[tokio::test]
    async fn logins_are_found() {
        let auth = STANDARD.encode("ann:p:w");
        let config = format!(
            r#"{{"auths":{{"https://r.example/v1/":{{"auth":"{auth}"}},"https://index.docker.io/v1/":{{"identitytoken":"t"}}}}}}"#
        );
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(look(&config, "r.example").await, pair("ann", "p:w"));
        assert_eq!(look(&config, "docker.io").await, pair(TOKEN_USER, "t"));
        assert_eq!(look(&config, "other.example").await, None);
        assert_eq!(look(r#"{"auths":{"r.example":{}}}"#, "r.example").await, None);
    }

    #[tokio::test]
    async fn a_broken_login_is_told_without_its_secret() {
        let config: DockerConfig = serde_json::from_str(r#"{"auths":{"r.example":{"auth":"c2VjcmV0"}}}"#).unwrap();
        let error = lookup(&config, "r.example", Instant::now()).await.unwrap_err();
        assert_eq!(error.to_string(), "the entry of r.example in Docker's configuration is no login");
    }
}
