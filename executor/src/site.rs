//! The machine that the daemon works on: who acts on its stacks, and what there is to say about it. The simulators bring their own.

use std::path::Path;
use std::sync::Arc;

use landfall_schema::outcome::Reason;
use landfall_schema::presence::EngineState;
use tracing::error;

use crate::announce::Announcer;
use crate::config::Config;
use crate::fleet::Fleet;
use crate::gates::Gates;
use crate::hands::{Hands, HandsConfig, StackConfig};
use crate::leases::BusLeases;
use crate::link::BusHandle;
use crate::presence::engine_version;
use crate::worker::{CarryOut, Crew};

/// What whoever acts on a stack has at hand.
#[derive(Clone)]
pub struct Means {
    pub config: Arc<Config>,
    pub bus: BusHandle,
    pub fleet: Fleet,
    pub gates: Gates,
    pub announcer: Arc<Announcer>,
}

impl Means {
    pub fn leases(&self) -> BusLeases {
        BusLeases {
            bus: self.bus.clone(),
            announcer: Arc::clone(&self.announcer),
            promoters: self.config.trust.promote.clone(),
        }
    }
}

pub trait Site: Send + Sync + 'static {
    type Crew: CarryOut;

    /// # Errors
    /// Why nobody can act on this stack.
    fn crew(&self, stack: StackConfig, means: &Means) -> Result<Self::Crew, Reason>;

    fn engine(&self, config: &Config) -> impl Future<Output = EngineState> + Send;

    fn disk_free_bytes(&self, config: &Config) -> u64;
}

/// A machine with a Docker engine.
pub struct DockerHost;

impl Site for DockerHost {
    type Crew = Crew;

    fn crew(&self, stack: StackConfig, means: &Means) -> Result<Crew, Reason> {
        let hands = Hands::new(hands_config(&means.config, stack), Arc::new(means.bus.clone()))?;
        let hands = hands.with_leases(Arc::new(means.leases()));
        Ok(Crew { hands, fleet: means.fleet.clone(), gates: means.gates.clone() })
    }

    async fn engine(&self, config: &Config) -> EngineState {
        match engine_version(&config.docker.host).await {
            Ok(version) => EngineState::Answering { version },
            Err(error) => EngineState::Silent { error },
        }
    }

    fn disk_free_bytes(&self, config: &Config) -> u64 {
        disk_free_bytes(&config.state_dir)
    }
}

/// What an unprivileged process may still write.
fn disk_free_bytes(path: &Path) -> u64 {
    match nix::sys::statvfs::statvfs(path) {
        Ok(stat) => stat.blocks_available() * stat.fragment_size(),
        Err(errno) => {
            error!(path = %path.display(), %errno, "the free disk space cannot be read");
            0
        }
    }
}

fn hands_config(config: &Config, stack: StackConfig) -> HandsConfig {
    HandsConfig {
        env: config.env.clone(),
        docker: Some(config.docker.host.clone()),
        stack,
        state_dir: config.state_dir.clone(),
        policy: config.policy.clone(),
        allowed_registries: config.allowed_registries.clone(),
        keep_releases: config.keep_releases,
        min_free_bytes: config.docker.min_free_disk_bytes,
    }
}
