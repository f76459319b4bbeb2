//! One host: the daemon itself, on a machine without an engine.

use std::path::PathBuf;

use anyhow::{Result, bail};
use futures_util::StreamExt as _;
use futures_util::stream;
use landfall_bus::{Address, ConnectOptions};
use landfall_executor::config::Config;
use landfall_executor::daemon::{Signals, run_on};
use landfall_executor::hands::StackConfig;
use landfall_executor::site::{Means, Site};
use landfall_schema::ids::{AppName, EnvName, HostName};
use landfall_schema::outcome::Reason;
use landfall_schema::presence::EngineState;
use landfall_schema::signature::{PublicKey, SigningKey};

use crate::engine::SimulatedEngine;

/// What all hosts have in common.
pub(crate) struct Setup {
    pub(crate) bus_url: String,
    pub(crate) env: EnvName,
    pub(crate) app: AppName,
    pub(crate) trusted: PublicKey,
    pub(crate) folder: PathBuf,
}

/// Until something is wrong.
pub(crate) async fn run(name: HostName, setup: &Setup) -> Result<()> {
    let folder = setup.folder.join(name.as_str());
    std::fs::create_dir_all(&folder)?;
    let Setup { bus_url, env, app, trusted, .. } = setup;
    let text = format!(
        "host = \"{name}\"\nenv = \"{env}\"\nstate_dir = {folder:?}\n[bus]\nurl = \"{bus_url}\"\n[trust]\npromote = [\"{trusted}\"]\n[apps.{app}]\ndirectory = {folder:?}\n"
    );
    let config = Config::parse(&text, &|_| None).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    let options =
        ConnectOptions { url: bus_url.clone(), name: format!("landfall-executor-{name}"), ..ConnectOptions::default() };
    // Nobody ends a simulated host in good order: its process ends.
    let signals = Signals::of(stream::pending().boxed());
    run_on(NoEngine, config, SigningKey::generate(), Address::Nats(options), signals).await?;
    bail!("{name} has ended")
}

/// A machine on which nothing runs.
struct NoEngine;

impl Site for NoEngine {
    type Crew = SimulatedEngine;

    fn crew(&self, _stack: StackConfig, means: &Means) -> Result<SimulatedEngine, Reason> {
        Ok(SimulatedEngine { bus: means.bus.clone(), fleet: means.fleet.clone(), gates: means.gates.clone() })
    }

    async fn engine(&self, _config: &Config) -> EngineState {
        EngineState::Silent { error: "there is none".to_owned() }
    }

    fn disk_free_bytes(&self, _config: &Config) -> u64 {
        0
    }
}
