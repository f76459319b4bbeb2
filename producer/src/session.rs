//! What every command gets: the settings, and where to print.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use landfall_bus::Bus;
use landfall_schema::ids::{AppName, EnvName};
use landfall_schema::signature::{PublicKey, SigningKey};

use crate::cli::GlobalArgs;
use crate::context::{Settings, SigningKeySource, config_home, process_environment};
use crate::error::CliError;
use crate::output::Output;
use crate::target::{PREVIEW_ENV, preview_app};

#[derive(Debug)]
pub struct Session {
    pub settings: Settings,
    pub output: Output,
}

impl Session {
    pub fn new(global: &GlobalArgs, output: Output) -> Result<Self, CliError> {
        let settings = Settings::find(global, &config_home()?, &process_environment)?;
        Ok(Self { settings, output })
    }

    /// Connects to the bus.
    pub async fn bus(&self) -> Result<Bus, CliError> {
        Ok(Bus::connect(&self.settings.connect).await?)
    }

    /// The environment, which the command needs.
    pub fn env(&self) -> Result<&EnvName, CliError> {
        self.settings.env.as_ref().ok_or_else(|| {
            CliError::usage("no environment is named")
                .hint("use --env ENV, LANDFALL_ENV, or `env = \"…\"` in the context")
        })
    }

    /// The environment of previews: the one that the command line names, else `preview`.
    pub fn preview_env(&self) -> Result<EnvName, CliError> {
        match &self.settings.named_env {
            Some(env) => Ok(env.clone()),
            None => EnvName::new(PREVIEW_ENV).map_err(|error| CliError::from_error(&error)),
        }
    }

    /// The application as the bus knows it: of a preview its own.
    pub fn app(&self, named: &AppName) -> Result<AppName, CliError> {
        match &self.settings.preview {
            Some(preview) => preview_app(named, preview),
            None => Ok(named.clone()),
        }
    }

    /// The key that signs promotions.
    pub fn signing_key(&self) -> Result<SigningKey, CliError> {
        match &self.settings.signing_key {
            SigningKeySource::Seed(seed) => SigningKey::from_seed(seed).map_err(|error| {
                CliError::new("LANDFALL_SIGNING_KEY is not usable")
                    .because(&error)
                    .hint("it is a private key as `landfall init` writes it: a line that begins with SU")
            }),
            SigningKeySource::File(path) => self.read_signing_key(path),
        }
    }

    /// The public half of the key that signs promotions, where there is one that can be read.
    pub fn own_public_key(&self) -> Option<PublicKey> {
        let seed = match &self.settings.signing_key {
            SigningKeySource::Seed(seed) => seed.clone(),
            SigningKeySource::File(path) => fs::read_to_string(path).ok()?,
        };
        Some(SigningKey::from_seed(&seed).ok()?.public())
    }

    /// The key in this file.
    pub fn read_signing_key(&self, path: &Path) -> Result<SigningKey, CliError> {
        let hint = "make a key with `landfall init`, or name one with LANDFALL_SIGNING_KEY_FILE";
        let text = fs::read_to_string(path).map_err(|error| {
            CliError::new(format!("cannot read the signing key {}", path.display())).because(&error).hint(hint)
        })?;
        let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode()).unwrap_or(0);
        if mode & 0o077 != 0 {
            self.output.warn(format!("others may read the signing key {0}; run `chmod 600 {0}`", path.display()));
        }
        SigningKey::from_seed(&text).map_err(|error| {
            CliError::new(format!("the signing key {} is not usable", path.display())).because(&error).hint(hint)
        })
    }
}
