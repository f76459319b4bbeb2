//! Where settings come from: a flag, else the environment, else a context file, else the default.
//!
//! A context is `$XDG_CONFIG_HOME/landfall/contexts/<name>.toml`. Contexts of the NATS CLI (`$XDG_CONFIG_HOME/nats/context/<name>.json`)
//! work too, for what they know.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landfall_bus::ConnectOptions;
use landfall_schema::ids::{AppName, EnvName, HostName};
use landfall_schema::signature::PublicKey;
use serde::Deserialize;
use thiserror::Error;

use crate::cli::GlobalArgs;
use crate::error::CliError;
use crate::target::EnvArg;

pub const DEFAULT_URL: &str = "nats://127.0.0.1:4222";
pub const DEFAULT_CONTEXT: &str = "default";
/// The name under which the CLI connects; its replies arrive under `_INBOX.landfall.`.
const CLIENT_NAME: &str = "landfall";

/// Reads one environment variable; a function so that tests need no process environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's environment. A variable that is set but empty counts as not set.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A context file of Landfall.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Context {
    pub url: Option<String>,
    /// Take everything about NATS that is not said here from this context of the NATS CLI.
    pub nats_context: Option<String>,
    pub creds: Option<PathBuf>,
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    pub token_file: Option<PathBuf>,
    pub nkey_file: Option<PathBuf>,
    pub ca: Option<PathBuf>,
    pub env: Option<EnvName>,
    pub signing_key: Option<PathBuf>,
    /// The key of somebody who sets policies and freezes.
    pub admin_key: Option<PathBuf>,
    /// Whose promotions are believed; without any, the key that a promotion names itself.
    pub trusted_promoters: Vec<PublicKey>,
    /// Whose policies and freezes are believed; without any, the key that they name themselves.
    pub trusted_admins: Vec<PublicKey>,
    /// Registries that are asked over plain HTTP; loopback ones always are.
    pub insecure_registries: Vec<String>,
    /// Believe outcomes of these hosts only under these keys. Without it the keys that hosts announce are used.
    pub host_keys: BTreeMap<HostName, PublicKey>,
}

/// What Landfall understands of a context of the NATS CLI.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NatsContext {
    url: String,
    user: String,
    password: String,
    token: String,
    creds: String,
    nkey: String,
    ca: String,
}

/// Everything that does not belong to one command.
#[derive(Debug, Clone)]
pub struct Settings {
    pub config_dir: PathBuf,
    /// The context that was used, if any.
    pub context: Option<String>,
    pub connect: ConnectOptions,
    pub env: Option<EnvName>,
    /// The environment that the command line itself names.
    pub named_env: Option<EnvName>,
    /// The preview of it that is meant.
    pub preview: Option<AppName>,
    pub signing_key: SigningKeySource,
    pub admin_key: Option<PathBuf>,
    pub trusted_promoters: Vec<PublicKey>,
    pub trusted_admins: Vec<PublicKey>,
    pub insecure_registries: Vec<String>,
    pub host_keys: BTreeMap<HostName, PublicKey>,
}

/// Where the key that signs promotions is.
#[derive(Clone)]
pub enum SigningKeySource {
    /// The seed itself, from LANDFALL_SIGNING_KEY.
    Seed(String),
    File(PathBuf),
}

impl std::fmt::Debug for SigningKeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Seed(_) => f.write_str("Seed(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

#[derive(Debug, Error)]
pub enum ContextError {
    #[error("no home directory is known, so no configuration directory is either")]
    NoHome,
    #[error("there is no context {name:?}")]
    Unknown { name: String, known: Vec<String> },
    #[error("{name:?} cannot be the name of a context")]
    BadName { name: String },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the context {} is not readable", path.display())]
    Toml { path: PathBuf, source: Box<toml::de::Error> },
    #[error("the NATS context {} is not readable", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("LANDFALL_ENV names no usable environment")]
    Env(#[from] landfall_schema::ids::IdError),
}

impl From<ContextError> for CliError {
    fn from(error: ContextError) -> Self {
        let hint = match &error {
            ContextError::NoHome => "set XDG_CONFIG_HOME or HOME".to_owned(),
            ContextError::Unknown { known, .. } if known.is_empty() => "make one with `landfall init NAME`".to_owned(),
            ContextError::Unknown { known, .. } => format!("known contexts are {}", known.join(", ")),
            ContextError::BadName { .. } => "use letters, digits, dot, underscore and dash".to_owned(),
            ContextError::Read { .. } => "check that the file exists and that you may read it".to_owned(),
            ContextError::Toml { .. } | ContextError::Json { .. } => {
                "`landfall init` writes a commented one".to_owned()
            }
            ContextError::Env(_) => "name it with --env".to_owned(),
        };
        Self::from_error(&error).hint(hint)
    }
}

/// `$XDG_CONFIG_HOME`, or `~/.config`.
pub fn config_home() -> Result<PathBuf, ContextError> {
    use etcetera::BaseStrategy as _;
    etcetera::choose_base_strategy().map(|strategy| strategy.config_dir()).map_err(|_| ContextError::NoHome)
}

impl Settings {
    /// Finds every setting; reads context files, opens no socket.
    pub fn find(global: &GlobalArgs, config_home: &Path, environment: Environment<'_>) -> Result<Self, ContextError> {
        let config_dir = config_home.join("landfall");
        let (name, context) = chosen_context(global, config_home, &config_dir, environment)?;
        let nats = nats_context(&context, config_home)?;
        let mut connect = credentials(global, &context, &nats, environment)?;
        connect.url = global
            .server
            .clone()
            .or_else(|| environment("LANDFALL_SERVER"))
            .or_else(|| environment("NATS_URL"))
            .or_else(|| context.url.clone())
            .or_else(|| nats.as_ref().and_then(|nats| filled(&nats.url)))
            .unwrap_or_else(|| DEFAULT_URL.to_owned());
        connect.name = CLIENT_NAME.to_owned();
        connect.ca = environment("NATS_CA")
            .map(PathBuf::from)
            .or_else(|| context.ca.clone())
            .or_else(|| nats.as_ref().and_then(|nats| filled(&nats.ca)).map(PathBuf::from));
        let target = match (&global.env, environment("LANDFALL_ENV")) {
            (Some(target), _) => Some(target.clone()),
            (None, Some(text)) => Some(text.parse::<EnvArg>()?),
            (None, None) => None,
        };
        let key_name = name.clone().unwrap_or_else(|| DEFAULT_CONTEXT.to_owned());
        Ok(Self {
            signing_key: environment("LANDFALL_SIGNING_KEY").map(SigningKeySource::Seed).unwrap_or_else(|| {
                let path = environment("LANDFALL_SIGNING_KEY_FILE").map(PathBuf::from);
                let path = path.or_else(|| context.signing_key.clone());
                SigningKeySource::File(path.unwrap_or_else(|| key_path(&config_dir, &key_name)))
            }),
            preview: target.as_ref().and_then(|target| target.preview.clone()),
            env: target.map(|target| target.env).or(context.env),
            named_env: global.env.as_ref().map(|target| target.env.clone()),
            context: name,
            admin_key: environment("LANDFALL_ADMIN_KEY_FILE").map(PathBuf::from).or(context.admin_key),
            trusted_promoters: context.trusted_promoters,
            trusted_admins: context.trusted_admins,
            insecure_registries: context.insecure_registries,
            host_keys: context.host_keys,
            connect,
            config_dir,
        })
    }
}

pub fn context_path(config_dir: &Path, name: &str) -> PathBuf {
    config_dir.join("contexts").join(format!("{name}.toml"))
}

pub fn key_path(config_dir: &Path, name: &str) -> PathBuf {
    config_dir.join("keys").join(format!("{name}.seed"))
}

/// A context's name is a plain file name.
pub fn check_context_name(name: &str) -> Result<(), ContextError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.starts_with('.') || name.len() > 63 || !name.chars().all(plain) {
        return Err(ContextError::BadName { name: name.chars().take(63).collect() });
    }
    Ok(())
}

fn chosen_context(
    global: &GlobalArgs,
    config_home: &Path,
    config_dir: &Path,
    environment: Environment<'_>,
) -> Result<(Option<String>, Context), ContextError> {
    if let Some(name) = global.context.clone().or_else(|| environment("LANDFALL_CONTEXT")) {
        check_context_name(&name)?;
        if let Some(context) = read_context(&context_path(config_dir, &name))? {
            return Ok((Some(name), context));
        }
        if nats_path(config_home, &name).is_file() {
            return Ok((Some(name.clone()), Context { nats_context: Some(name), ..Context::default() }));
        }
        return Err(ContextError::Unknown { name, known: known_contexts(config_home, config_dir) });
    }
    if let Some(context) = read_context(&context_path(config_dir, DEFAULT_CONTEXT))? {
        return Ok((Some(DEFAULT_CONTEXT.to_owned()), context));
    }
    match environment("NATS_CONTEXT") {
        Some(name) => Ok((None, Context { nats_context: Some(name), ..Context::default() })),
        None => Ok((None, Context::default())),
    }
}

fn read_context(path: &Path) -> Result<Option<Context>, ContextError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ContextError::Read { path: path.to_owned(), source }),
    };
    let mut context: Context = toml::from_str(&text)
        .map_err(|source| ContextError::Toml { path: path.to_owned(), source: Box::new(source) })?;
    let base = path.parent().unwrap_or(Path::new(".")).to_owned();
    let paths = [
        &mut context.creds,
        &mut context.password_file,
        &mut context.token_file,
        &mut context.nkey_file,
        &mut context.ca,
        &mut context.signing_key,
        &mut context.admin_key,
    ];
    for path in paths.into_iter().flatten() {
        *path = absolute(&base, path);
    }
    Ok(Some(context))
}

fn nats_path(config_home: &Path, name: &str) -> PathBuf {
    config_home.join("nats").join("context").join(format!("{name}.json"))
}

fn nats_context(context: &Context, config_home: &Path) -> Result<Option<NatsContext>, ContextError> {
    let Some(name) = &context.nats_context else { return Ok(None) };
    check_context_name(name)?;
    let path = nats_path(config_home, name);
    let bytes = fs::read(&path).map_err(|source| ContextError::Read { path: path.clone(), source })?;
    serde_json::from_slice(&bytes).map(Some).map_err(|source| ContextError::Json { path, source })
}

fn known_contexts(config_home: &Path, config_dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for (folder, ending) in [(config_dir.join("contexts"), "toml"), (config_home.join("nats").join("context"), "json")]
    {
        // A folder that is not there holds no context.
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == ending) {
                names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
            }
        }
    }
    names.sort();
    names.dedup();
    names
}

/// Credentials come from one level as a whole: a flag, the environment, the context, the context of the NATS CLI.
fn credentials(
    global: &GlobalArgs,
    context: &Context,
    nats: &Option<NatsContext>,
    environment: Environment<'_>,
) -> Result<ConnectOptions, ContextError> {
    if let Some(creds) = &global.creds {
        return Ok(ConnectOptions { creds: Some(creds.clone()), ..ConnectOptions::default() });
    }
    let secret = |value: &str, file: &str| match (environment(value), environment(file)) {
        (Some(value), _) => Ok(Some(value)),
        (None, file) => read_secret(file.map(PathBuf::from).as_deref()),
    };
    let password = secret("NATS_PASSWORD", "NATS_PASSWORD_FILE")?;
    let from_environment = ConnectOptions {
        creds: environment("LANDFALL_CREDS").or_else(|| environment("NATS_CREDS")).map(PathBuf::from),
        nkey_seed: read_secret(environment("NATS_NKEY").map(PathBuf::from).as_deref())?,
        token: secret("NATS_TOKEN", "NATS_TOKEN_FILE")?,
        user_password: environment("NATS_USER").zip(password),
        ..ConnectOptions::default()
    };
    if has_credentials(&from_environment) {
        return Ok(from_environment);
    }
    let from_context = ConnectOptions {
        creds: context.creds.clone(),
        nkey_seed: read_secret(context.nkey_file.as_deref())?,
        token: read_secret(context.token_file.as_deref())?,
        user_password: context.user.clone().zip(read_secret(context.password_file.as_deref())?),
        ..ConnectOptions::default()
    };
    let Some(nats) = nats.as_ref().filter(|_| !has_credentials(&from_context)) else { return Ok(from_context) };
    Ok(ConnectOptions {
        creds: filled(&nats.creds).map(PathBuf::from),
        nkey_seed: read_secret(filled(&nats.nkey).map(PathBuf::from).as_deref())?,
        token: filled(&nats.token),
        user_password: filled(&nats.user).zip(filled(&nats.password)),
        ..ConnectOptions::default()
    })
}

fn has_credentials(options: &ConnectOptions) -> bool {
    options.creds.is_some() || options.nkey_seed.is_some() || options.token.is_some() || options.user_password.is_some()
}

fn read_secret(path: Option<&Path>) -> Result<Option<String>, ContextError> {
    let Some(path) = path else { return Ok(None) };
    let text = fs::read_to_string(path).map_err(|source| ContextError::Read { path: path.to_owned(), source })?;
    Ok(Some(text.trim().to_owned()))
}

/// `~/` is the home directory; other relative paths belong to the file that names them.
fn absolute(base: &Path, path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), etcetera::home_dir()) {
        (Ok(rest), Ok(home)) => home.join(rest),
        _ => base.join(path),
    }
}

fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
#[path = "context/tests.rs"]
mod tests;
