//! The logins that `docker login` left: `auths` in Docker's `config.json`, and the credential helpers that it names.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use process_wrap::tokio::{CommandWrap, KillOnDrop, ProcessGroup};
use reqwest::header::HeaderValue;
use serde::Deserialize;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::image::DEFAULT_REGISTRY;

/// How long a credential helper may take.
const HELPER_TIMEOUT: Duration = Duration::from_secs(15);
const HELPER_ANSWER_MAX_BYTES: u64 = 64 * 1024;
/// What helpers say when they know nothing of a registry.
const UNKNOWN_TO_HELPER: &str = "credentials not found";
/// The user name by which a helper says that its secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// The default registry's key in `config.json`, for historical reasons.
const DEFAULT_REGISTRY_KEY: &str = "https://index.docker.io/v1/";

/// No `Debug` that could show the secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Password {
        user: String,
        password: String,
    },
    /// For the token service's OAuth 2 exchange.
    IdentityToken(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Credentials").field(&self.user()).finish()
    }
}

impl Credentials {
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::Password { user, .. } => Some(user),
            Self::IdentityToken(_) => None,
        }
    }

    /// The header for HTTP's basic authentication.
    pub fn basic(&self) -> Option<HeaderValue> {
        match self {
            Self::Password { user, password } => {
                secret_header(&format!("Basic {}", BASE64.encode(format!("{user}:{password}"))))
            }
            Self::IdentityToken(_) => None,
        }
    }
}

/// A header that no log shows.
pub fn secret_header(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Errors never repeat a secret.
#[derive(Debug, Error)]
pub enum CredentialsError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not Docker's configuration: line {line}, column {column}", path.display())]
    Malformed { path: PathBuf, line: usize, column: usize },
    #[error("the login of {registry} in Docker's configuration is not readable")]
    BadEntry { registry: String },
    #[error("cannot run the credential helper {helper} for {registry}")]
    Helper { helper: String, registry: String, source: std::io::Error },
    #[error("the credential helper {helper} for {registry} did not end within {} s", HELPER_TIMEOUT.as_secs())]
    HelperSlow { helper: String, registry: String },
    #[error("the credential helper {helper} for {registry} failed")]
    HelperFailed { helper: String, registry: String },
}

impl CredentialsError {
    pub fn hint(&self) -> String {
        match self {
            Self::Read { .. } | Self::Malformed { .. } => "check the file, or DOCKER_CONFIG".to_owned(),
            Self::BadEntry { registry } => format!("log in again with `docker login {registry}`"),
            Self::Helper { helper, .. } | Self::HelperSlow { helper, .. } | Self::HelperFailed { helper, .. } => {
                format!("try it by hand: `echo REGISTRY | {helper} get`")
            }
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerConfig {
    auths: BTreeMap<String, Login>,
    #[serde(rename = "credsStore")]
    store: String,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// What `docker pull` would use for this registry.
pub async fn find(registry: &str) -> Result<Option<Credentials>, CredentialsError> {
    let folder = std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let folder = folder.or_else(|| etcetera::home_dir().ok().map(|home| home.join(".docker")));
    match folder {
        Some(folder) => find_in(&folder.join("config.json"), registry, None).await,
        None => Ok(None),
    }
}

/// `helpers` is where helpers are looked for instead of in `PATH`.
async fn find_in(
    file: &Path,
    registry: &str,
    helpers: Option<&OsStr>,
) -> Result<Option<Credentials>, CredentialsError> {
    let config = match std::fs::read(file) {
        Ok(bytes) => parse(file, &bytes)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CredentialsError::Read { path: file.to_owned(), source }),
    };
    let key = if registry == DEFAULT_REGISTRY { DEFAULT_REGISTRY_KEY } else { registry };
    let helper = config.helpers.get(key).or_else(|| config.helpers.get(registry)).unwrap_or(&config.store);
    if !helper.is_empty()
        && let Some(found) = ask_helper(&format!("docker-credential-{helper}"), key, registry, helpers).await?
    {
        return Ok(Some(found));
    }
    let login = config.auths.iter().find(|(name, _)| name.as_str() == key || host_of(name) == host_of(key));
    login.map_or(Ok(None), |(_, login)| from_login(login, registry))
}

fn parse(path: &Path, bytes: &[u8]) -> Result<DockerConfig, CredentialsError> {
    // The parser's own message could repeat a value.
    serde_json::from_slice(bytes).map_err(|error| CredentialsError::Malformed {
        path: path.to_owned(),
        line: error.line(),
        column: error.column(),
    })
}

/// `https://r.example/v1/` and `r.example` are the same key.
fn host_of(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    key.split('/').next().unwrap_or(key)
}

fn from_login(login: &Login, registry: &str) -> Result<Option<Credentials>, CredentialsError> {
    if !login.identitytoken.is_empty() {
        return Ok(Some(Credentials::IdentityToken(login.identitytoken.clone())));
    }
    if !login.auth.is_empty() {
        let text = BASE64.decode(login.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = text.as_deref().and_then(|text| text.trim_end_matches('\0').split_once(':'));
        let (user, password) = pair.ok_or_else(|| CredentialsError::BadEntry { registry: registry.to_owned() })?;
        return Ok(Some(Credentials::Password { user: user.to_owned(), password: password.to_owned() }));
    }
    let (user, password) = (login.username.clone(), login.password.clone());
    // An empty entry only says that a store has the rest.
    Ok((!user.is_empty()).then_some(Credentials::Password { user, password }))
}

async fn ask_helper(
    helper: &str,
    key: &str,
    registry: &str,
    path: Option<&OsStr>,
) -> Result<Option<Credentials>, CredentialsError> {
    let (helper, registry) = (helper.to_owned(), registry.to_owned());
    let asked = async {
        let mut command = CommandWrap::with_new(&helper, |command| {
            command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            if let Some(path) = path {
                command.env("PATH", path);
            }
        });
        let mut child = command.wrap(ProcessGroup::leader()).wrap(KillOnDrop).spawn()?;
        if let Some(mut stdin) = child.stdin().take() {
            // A helper that does not read its input still answers by its exit code.
            let _ = stdin.write_all(key.as_bytes()).await;
        }
        let mut answer = Vec::new();
        if let Some(stdout) = child.stdout().take() {
            stdout.take(HELPER_ANSWER_MAX_BYTES).read_to_end(&mut answer).await?;
        }
        Ok::<_, std::io::Error>((child.wait().await?.success(), answer))
    };
    let (succeeded, answer) = match timeout(HELPER_TIMEOUT, asked).await {
        Ok(Ok(ended)) => ended,
        Ok(Err(source)) => return Err(CredentialsError::Helper { helper, registry, source }),
        Err(_) => return Err(CredentialsError::HelperSlow { helper, registry }),
    };
    if !succeeded && String::from_utf8_lossy(&answer).contains(UNKNOWN_TO_HELPER) {
        return Ok(None);
    }
    let answer: Option<HelperAnswer> = serde_json::from_slice(&answer).ok().filter(|_| succeeded);
    let answer = answer.ok_or(CredentialsError::HelperFailed { helper, registry })?;
    Ok(Some(if answer.username == TOKEN_USER {
        Credentials::IdentityToken(answer.secret)
    } else {
        Credentials::Password { user: answer.username, password: answer.secret }
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Looks up a registry in this configuration; helpers are shell scripts by name.
    async fn look(config: &str, helpers: &[(&str, &str)], registry: &str) -> Result<Option<Credentials>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, config).unwrap();
        for (name, script) in helpers {
            let path = folder.path().join(format!("docker-credential-{name}"));
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
        let mut path = folder.path().as_os_str().to_owned();
        path.push(":/usr/bin:/bin");
        find_in(&file, registry, Some(&path)).await.map_err(|error| error.to_string())
    }

    fn password(user: &str, password: &str) -> Result<Option<Credentials>, String> {
        Ok(Some(Credentials::Password { user: user.to_owned(), password: password.to_owned() }))
    }

    #[tokio::test]
    async fn logins_of_the_configuration() {
        let auth = BASE64.encode("ci:pw:x");
        let config = format!(
            r#"{{"auths": {{"https://r.example/v1/": {{"auth": "{auth}"}}, "{DEFAULT_REGISTRY_KEY}": {{"identitytoken": "t"}},
                "plain:5000": {{"username": "u", "password": "p"}}, "bad": {{"auth": "!"}}, "empty": {{}}}}}}"#
        );
        assert_eq!(look(&config, &[], "r.example").await, password("ci", "pw:x"));
        assert_eq!(look(&config, &[], DEFAULT_REGISTRY).await, Ok(Some(Credentials::IdentityToken("t".to_owned()))));
        assert_eq!(look(&config, &[], "plain:5000").await, password("u", "p"));
        assert_eq!(look(&config, &[], "empty").await, Ok(None));
        assert_eq!(look(&config, &[], "other").await, Ok(None));
        let error = look(&config, &[], "bad").await.unwrap_err();
        assert_eq!(error, "the login of bad in Docker's configuration is not readable");
        let error = look("{\"auths\": secret}", &[], "r").await.unwrap_err();
        assert!(error.ends_with("is not Docker's configuration: line 1, column 11"), "{error}");
    }

    #[tokio::test]
    async fn credential_helpers_are_asked() {
        let config = r#"{"credsStore": "store", "credHelpers": {"h.example": "own"}}"#;
        let own = r#"read key; [ "$1 $key" = "get h.example" ] && echo '{"Username":"u","Secret":"s"}'"#;
        let unknown = "echo 'credentials not found in native keychain'; exit 1";
        let helpers = [("own", own), ("store", unknown)];
        assert_eq!(look(config, &helpers, "h.example").await, password("u", "s"));
        assert_eq!(look(config, &helpers, "other").await, Ok(None));
        let error = look(config, &[("store", "echo secret; exit 3")], "other").await.unwrap_err();
        assert_eq!(error, "the credential helper docker-credential-store for other failed");
        let error = look(config, &[], "other").await.unwrap_err();
        assert_eq!(error, "cannot run the credential helper docker-credential-store for other");
    }

    #[tokio::test]
    async fn what_a_helper_says_has_an_end() {
        let around = r#"{"Username":"u","Secret":""}"#.len();
        for past in [0, 1] {
            let secret = usize::try_from(HELPER_ANSWER_MAX_BYTES).unwrap() - around + past;
            let script = format!(
                r#"printf '{{"Username":"u","Secret":"'; head -c {secret} /dev/zero | tr '\0' x; printf '"}}'"#
            );
            let found = look(r#"{"credsStore": "store"}"#, &[("store", &script)], "r.example").await;
            match past {
                0 => assert_eq!(found, password("u", &"x".repeat(secret))),
                _ => assert_eq!(
                    found,
                    Err("the credential helper docker-credential-store for r.example failed".to_owned())
                ),
            }
        }
    }
}
