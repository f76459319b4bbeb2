//! Several real Docker hosts: `scripts/fleet` gives each an engine and a network of its own, and tests may take both away from them.
//!
//! In reading order: [`machine`] is one of these hosts and what can be done to it; [`cut`] says how it is cut off; [`lease`] sees to it that
//! a test which harms a machine has it for itself; [`snapshot`] tells whether containers were touched; [`host`] is a machine with the
//! executor of one test; [`scenario`] puts a bus, hosts and an application together, as [`crate::scenario`] does on one engine.

pub mod cut;
pub mod host;
pub mod lease;
pub mod machine;
pub mod scenario;
pub mod snapshot;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::lab::variable;
use machine::Machine;

/// The machines that `scripts/fleet up` has started.
#[derive(Debug, Clone)]
pub struct Fleet {
    pub folder: PathBuf,
    pub machines: Vec<Machine>,
}

impl Fleet {
    /// # Errors
    /// When no fleet is up: the error says to run `make test-fleet`.
    pub fn from_env() -> Result<Self> {
        let folder = PathBuf::from(variable("LANDFALL_FLEET_DIR")?);
        let listing = folder.join("hosts");
        let text = std::fs::read_to_string(&listing).with_context(|| listing.display().to_string())?;
        let machines = text.lines().map(|line| read(&folder, line)).collect::<Result<_>>()?;
        Ok(Self { folder, machines })
    }
}

/// One line of `hosts`: name, address, namespace, socket and the file with the engine's process id.
fn read(folder: &Path, line: &str) -> Result<Machine> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [name, address, namespace, socket, engine_pid] = words.as_slice() else {
        anyhow::bail!("the fleet's list has a line of another form: {line}");
    };
    Ok(Machine {
        fleet: folder.to_owned(),
        name: (*name).to_owned(),
        address: address.parse().with_context(|| (*address).to_owned())?,
        namespace: namespace.into(),
        docker_host: format!("unix://{socket}"),
        engine_pid: engine_pid.into(),
    })
}
