//! The real parts that all tests share. `make test` starts them and says in the environment where they are.

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// Who the lab's second registry lets in, as `scripts/lab` sets it up.
const PRIVATE_REGISTRY_USER: &str = "ci";
const PRIVATE_REGISTRY_PASSWORD: &str = "secret";

#[derive(Debug, Clone)]
pub struct Lab {
    /// The engine, as `docker -H` takes it.
    pub docker_host: String,
    /// The program.
    pub nats_server: PathBuf,
    /// The oldest version that is supported.
    pub nats_server_floor: PathBuf,
    /// `address:port` of a registry that asks nobody who they are.
    pub registry: String,
    pub private_registry: PrivateRegistry,
    /// A superuser's URL.
    pub postgres_url: String,
    /// The same as containers reach it.
    pub postgres_gateway_url: String,
    /// Where containers reach what listens on this machine.
    pub gateway: String,
    /// A statically linked busybox, the inside of every test image.
    pub busybox: PathBuf,
}

/// A registry that refuses strangers.
#[derive(Debug, Clone)]
pub struct PrivateRegistry {
    pub address: String,
    pub user: String,
    pub password: String,
}

impl Lab {
    /// # Errors
    /// When a variable is missing: the error says to run `make test`.
    pub fn from_env() -> Result<Self> {
        // Several crates bring TLS; whoever comes second finds the provider installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            docker_host: variable("DOCKER_HOST")?,
            nats_server: variable("LANDFALL_LAB_NATS_SERVER")?.into(),
            nats_server_floor: variable("LANDFALL_LAB_NATS_SERVER_FLOOR")?.into(),
            registry: variable("LANDFALL_LAB_REGISTRY")?,
            private_registry: PrivateRegistry {
                address: variable("LANDFALL_LAB_REGISTRY_AUTH")?,
                user: PRIVATE_REGISTRY_USER.to_owned(),
                password: PRIVATE_REGISTRY_PASSWORD.to_owned(),
            },
            postgres_url: variable("LANDFALL_LAB_POSTGRES_URL")?,
            postgres_gateway_url: variable("LANDFALL_LAB_POSTGRES_GATEWAY_URL")?,
            gateway: variable("LANDFALL_LAB_GATEWAY")?,
            busybox: variable("LANDFALL_LAB_BUSYBOX")?.into(),
        })
    }
}

pub(crate) fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| {
        format!("{name} is not set: this test needs the real parts\n  hint: run `make test`, which starts them")
    })
}

/// A program of this workspace, built beside the running test by `scripts/test`.
///
/// # Errors
/// When it is not there.
pub fn program(name: &str) -> Result<PathBuf> {
    let running = env::current_exe()?;
    let folder = running.parent().context("the running program has no folder")?;
    // Tests are built into `deps`, below the programs.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = folder.join(name);
    path.is_file()
        .then_some(path.clone())
        .with_context(|| format!("{} is not built\n  hint: run `make test`, which builds it first", path.display()))
}
