//! Asks registries (OCI distribution specification, 1.1) for the digest behind a tag, and whether a digest exists.

pub mod challenge;
pub mod credentials;

use std::net::IpAddr;
use std::time::Duration;

use landfall_schema::ids::Digest;
use landfall_schema::promotion::PinnedImage;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, Method, Response, StatusCode};
use serde::Deserialize;
use thiserror::Error;

use crate::error::CliError;
use crate::image::{DEFAULT_REGISTRY, ImageReference};
use crate::registry::challenge::Challenge;
use crate::registry::credentials::{Credentials, CredentialsError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one request and its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Most bytes of a manifest or a token's answer; the specification allows registries to stop at 4 MiB.
const ANSWER_MAX_BYTES: usize = 4 * 1024 * 1024;
/// How often a question is asked when the registry answers that it is in trouble.
const ATTEMPTS_MAX: u32 = 3;
/// Where the API of the default registry is, which has another name than the registry.
const DEFAULT_REGISTRY_API: &str = "registry-1.docker.io";
const DIGEST_HEADER: &str = "docker-content-digest";
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Errors never repeat a secret.
#[derive(Debug, Error)]
pub enum RegistryError {
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
    #[error("the registry {registry} does not answer")]
    Unreachable { registry: String, source: reqwest::Error },
    #[error("the image {image} does not exist")]
    NotFound { image: String },
    #[error("the registry {registry} denies access to {image}{}", as_user(user.as_deref()))]
    Denied { registry: String, image: String, user: Option<String> },
    #[error("the registry {registry} answered {status} for {image}")]
    Unexpected { registry: String, image: String, status: StatusCode },
    #[error("the registry {registry} asks for a login in a way that is not understood: {challenge:?}")]
    UnknownChallenge { registry: String, challenge: String },
    #[error("{registry} wants the login sent to {realm}, which is not encrypted")]
    InsecureRealm { registry: String, realm: String },
    #[error("the registry {registry} gave no digest for {image}")]
    NoDigest { registry: String, image: String },
    #[error("{image} has the digest {found}")]
    WrongDigest { image: String, found: Digest },
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

fn as_user(user: Option<&str>) -> String {
    user.map_or(String::new(), |user| format!(" as {user}"))
}

impl From<RegistryError> for CliError {
    fn from(error: RegistryError) -> Self {
        let hint = match &error {
            RegistryError::Client(_) => "check HTTPS_PROXY and the system's certificates".to_owned(),
            RegistryError::Unreachable { registry, .. } if is_public(registry) => {
                "is the name right, and can this machine reach the internet? Behind a proxy set HTTPS_PROXY".to_owned()
            }
            RegistryError::Unreachable { registry, .. } => {
                format!("is it running and reachable from here? For plain HTTP add `--insecure-registry {registry}`")
            }
            RegistryError::NotFound { .. } => {
                "was it pushed, and is the name right? Some registries also say this to those who may not see it"
                    .to_owned()
            }
            RegistryError::Denied { registry, .. } => format!("log in with `docker login {registry}`"),
            RegistryError::Unexpected { .. } => "try again; the registry's log tells more".to_owned(),
            RegistryError::UnknownChallenge { .. } | RegistryError::NoDigest { .. } => {
                "this registry does not follow the OCI distribution specification; name the image by digest".to_owned()
            }
            RegistryError::InsecureRealm { registry, .. } => {
                format!("if that is meant, add `--insecure-registry {registry}`")
            }
            RegistryError::WrongDigest { .. } => {
                "leave out the tag or the digest, they contradict each other".to_owned()
            }
            RegistryError::Credentials(error) => error.hint(),
        };
        let mut told = Self::from_error(&error).hint(hint);
        if matches!(error, RegistryError::Unreachable { .. }) {
            // The layers of the HTTP client say less and less about more and more; the innermost says what happened.
            told.causes = told.causes.pop().into_iter().collect();
        }
        told
    }
}

#[derive(Debug, Clone)]
pub struct Registries {
    client: Client,
    /// For registries on this machine: they are never behind a proxy.
    direct: Client,
    insecure: Vec<String>,
}

impl Registries {
    /// `insecure` are registries that are asked over plain HTTP; those on this machine always are.
    pub fn new(insecure: Vec<String>) -> Result<Self, RegistryError> {
        let builder = || {
            Client::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(REQUEST_TIMEOUT)
                .user_agent(concat!("landfall/", env!("CARGO_PKG_VERSION")))
        };
        let client = builder().build().map_err(RegistryError::Client)?;
        let direct = builder().no_proxy().build().map_err(RegistryError::Client)?;
        Ok(Self { client, direct, insecure })
    }

    /// The image with the digest that its tag has now; an image that names its digest is only looked up.
    pub async fn pin(&self, image: &ImageReference) -> Result<PinnedImage, RegistryError> {
        let found = self.digest(image).await?;
        if let Some(digest) = image.digest.as_ref().filter(|digest| **digest != found) {
            return Err(RegistryError::WrongDigest { image: format!("{}@{digest}", image.repository()), found });
        }
        Ok(PinnedImage { repository: image.repository(), digest: found, tag: image.tag.clone() })
    }

    async fn digest(&self, image: &ImageReference) -> Result<Digest, RegistryError> {
        let what = image.tag.as_deref().or(image.digest.as_ref().map(Digest::as_str)).unwrap_or("latest");
        let url = format!("{}/v2/{}/manifests/{what}", self.base(&image.registry), image.path);
        let head = self.ask(Method::HEAD, &url, image).await?;
        let named = head.headers().get(DIGEST_HEADER).and_then(|value| value.to_str().ok());
        if let Some(digest) = named.and_then(|text| Digest::new(text).ok()) {
            return Ok(digest);
        }
        // The header is optional; the digest is then that of the manifest's bytes.
        let whole = self.ask(Method::GET, &url, image).await?;
        let bytes = bounded(whole).await.map_err(|source| unreachable(&image.registry, source))?;
        bytes
            .map(|bytes| Digest::of(&bytes))
            .ok_or_else(|| RegistryError::NoDigest { registry: image.registry.clone(), image: image.to_string() })
    }

    /// One question, with a login when the registry asks for it.
    async fn ask(&self, method: Method, url: &str, image: &ImageReference) -> Result<Response, RegistryError> {
        let answer = self.send(method.clone(), url, None, image).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return judged(answer, image, None);
        }
        let credentials = credentials::find(&image.registry).await?;
        let user = credentials.as_ref().and_then(Credentials::user).map(str::to_owned);
        let Some(authorization) = self.authorization(answer.headers(), credentials, image).await? else {
            return Err(denied(image, user));
        };
        let answer = self.send(method, url, Some(authorization), image).await?;
        judged(answer, image, user)
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        authorization: Option<HeaderValue>,
        image: &ImageReference,
    ) -> Result<Response, RegistryError> {
        let mut attempt = 1;
        loop {
            let mut request = self.client(&image.registry).request(method.clone(), url).header(ACCEPT, MANIFEST_TYPES);
            if let Some(authorization) = &authorization {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            match request.send().await {
                Ok(answer) if answer.status().is_server_error() && attempt < ATTEMPTS_MAX => {}
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_timeout() || attempt >= ATTEMPTS_MAX => {
                    return Err(unreachable(&image.registry, error));
                }
                Err(_) => {}
            }
            attempt += 1;
        }
    }

    /// The header that answers the registry's challenge; `None` when it wants a login and there is none.
    async fn authorization(
        &self,
        headers: &HeaderMap,
        credentials: Option<Credentials>,
        image: &ImageReference,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let text = headers.get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let challenge = Challenge::parse(text).ok_or_else(|| RegistryError::UnknownChallenge {
            registry: image.registry.clone(),
            challenge: text.chars().take(80).collect(),
        })?;
        match challenge {
            Challenge::Basic => Ok(credentials.and_then(|credentials| credentials.basic())),
            Challenge::Bearer { realm, service, scope } => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", image.path));
                let token = self.token(&realm, service.as_deref(), &scope, credentials, image).await?;
                Ok(token.and_then(|token| credentials::secret_header(&format!("Bearer {token}"))))
            }
        }
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        credentials: Option<Credentials>,
        image: &ImageReference,
    ) -> Result<Option<String>, RegistryError> {
        if credentials.is_some() && !realm.starts_with("https://") && !self.is_insecure(&image.registry) {
            let (registry, realm) = (image.registry.clone(), realm.to_owned());
            return Err(RegistryError::InsecureRealm { registry, realm });
        }
        let client = self.client(&image.registry);
        let mut parameters = vec![("scope", scope)];
        parameters.extend(service.map(|service| ("service", service)));
        let request = match &credentials {
            Some(Credentials::IdentityToken(token)) => {
                parameters.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "landfall"),
                    ("refresh_token", token),
                ]);
                let body = challenge::form(&parameters);
                client.post(realm).header("Content-Type", "application/x-www-form-urlencoded").body(body)
            }
            Some(Credentials::Password { .. }) | None => {
                let join = if realm.contains('?') { '&' } else { '?' };
                let request = client.get(format!("{realm}{join}{}", challenge::form(&parameters)));
                match credentials.as_ref().and_then(Credentials::basic) {
                    Some(basic) => request.header(AUTHORIZATION, basic),
                    None => request,
                }
            }
        };
        let answer = request.send().await.map_err(|source| unreachable(&image.registry, source))?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Ok(None),
            status => {
                let (registry, image) = (image.registry.clone(), image.to_string());
                return Err(RegistryError::Unexpected { registry, image, status });
            }
        }
        let bytes = bounded(answer).await.map_err(|source| unreachable(&image.registry, source))?;
        let token: Option<Token> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(token.and_then(|token| token.token.or(token.access_token)))
    }

    fn base(&self, registry: &str) -> String {
        let host = if registry == DEFAULT_REGISTRY { DEFAULT_REGISTRY_API } else { registry };
        let scheme = if self.is_insecure(registry) { "http" } else { "https" };
        format!("{scheme}://{host}")
    }

    fn client(&self, registry: &str) -> &Client {
        if is_loopback(registry) { &self.direct } else { &self.client }
    }

    fn is_insecure(&self, registry: &str) -> bool {
        is_loopback(registry) || self.insecure.iter().any(|known| known == registry)
    }
}

/// The answer of a token service: older ones say `token`, OAuth 2 says `access_token`.
#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

fn judged(answer: Response, image: &ImageReference, user: Option<String>) -> Result<Response, RegistryError> {
    match answer.status() {
        status if status.is_success() => Ok(answer),
        StatusCode::NOT_FOUND => Err(RegistryError::NotFound { image: image.to_string() }),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(denied(image, user)),
        status => {
            let (registry, image) = (image.registry.clone(), image.to_string());
            Err(RegistryError::Unexpected { registry, image, status })
        }
    }
}

fn denied(image: &ImageReference, user: Option<String>) -> RegistryError {
    RegistryError::Denied { registry: image.registry.clone(), image: image.to_string(), user }
}

/// Without the URL: a token service's could hold what nobody should read.
fn unreachable(registry: &str, source: reqwest::Error) -> RegistryError {
    RegistryError::Unreachable { registry: registry.to_owned(), source: source.without_url() }
}

/// The whole body; `None` when it is longer than allowed.
async fn bounded(mut answer: Response) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if bytes.len() + chunk.len() > ANSWER_MAX_BYTES {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

/// Docker's rule too: a registry on this machine needs no encryption.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.chars().all(|c| c.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A name of the public DNS on the usual port: it is never asked over plain HTTP.
fn is_public(registry: &str) -> bool {
    registry.contains('.') && !registry.contains(':') && registry.parse::<IpAddr>().is_err()
}

#[cfg(test)]
#[path = "registry/tests.rs"]
mod tests;
