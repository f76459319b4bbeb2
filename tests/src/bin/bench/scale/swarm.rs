//! The processes with the simulated hosts.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use landfall_bus::Bus;
use landfall_schema::event::{CloudEvent, TYPE_PRESENCE};
use landfall_schema::ids::{AppName, EnvName, HostName};
use landfall_schema::layout::{DESIRED, PRESENCE};
use landfall_schema::presence::Presence;
use landfall_schema::signature::{PublicKey, SigningKey};
use landfall_tests::lab::program;
use landfall_tests::nats::NatsServer;
use landfall_tests::process::{Process, until};
use landfall_tests::scenario::{APP, ENV};
use tempfile::TempDir;

/// Each host takes four files and two threads.
const HOSTS_PER_PROCESS: usize = 500;
const START_LIMIT: Duration = Duration::from_secs(600);
/// Thousands of journals on one disk would measure the disk; real hosts have one each.
const MEMORY_FOLDER: &str = "/dev/shm";

pub(crate) struct Swarm {
    pub(crate) env: EnvName,
    pub(crate) app: AppName,
    pub(crate) promoter: SigningKey,
    /// In the order of their numbers.
    pub(crate) hosts: Vec<HostName>,
    pub(crate) keys: BTreeMap<HostName, PublicKey>,
    // Dropped in this order: the processes end before their folder goes.
    _processes: Vec<Process>,
    _folder: TempDir,
}

impl Swarm {
    /// Comes back when every host follows the promotions and has been heard of.
    pub(crate) async fn start(nats: &NatsServer, bus: &Bus, count: usize) -> Result<Self> {
        let (env, app, promoter) = (EnvName::new(ENV)?, AppName::new(APP)?, SigningKey::generate());
        let folder = if Path::new(MEMORY_FOLDER).is_dir() {
            TempDir::with_prefix_in("landfall-swarm-", MEMORY_FOLDER)?
        } else {
            TempDir::with_prefix("landfall-swarm-")?
        };
        let mut processes = Vec::new();
        for first in (1..=count).step_by(HOSTS_PER_PROCESS) {
            let some = HOSTS_PER_PROCESS.min(count + 1 - first);
            let mut command = Command::new(program("simulated-hosts")?);
            command.arg(nats.url()).args([env.as_str(), app.as_str(), promoter.public().as_str()]).arg(folder.path());
            command.args([first.to_string(), some.to_string()]);
            processes.push(Process::start("simulated-hosts", &mut command, &folder.path().join("log"))?);
        }
        let hosts = (1..=count).map(|number| HostName::new(format!("h{number}"))).collect::<Result<_, _>>()?;
        let log = folder.path().join("log");
        until("every simulated host is present", START_LIMIT, async || {
            let log = || landfall_tests::process::tail(&log);
            ensure!(processes.iter_mut().all(Process::is_running), "a process ended: {}", log());
            let (present, following) = (state(bus, PRESENCE).await?.0, state(bus, DESIRED).await?.1);
            ensure!(present >= count && following >= count, "{present} are present, {following} follow");
            Ok(())
        })
        .await?;
        let mut keys = BTreeMap::new();
        for beat in bus.presence(&env).await? {
            let presence = CloudEvent::<Presence>::decode(&beat.body, TYPE_PRESENCE)?.data;
            keys.insert(presence.host, PublicKey::new(presence.key)?);
        }
        ensure!(keys.len() == count, "{} hosts have told their keys", keys.len());
        Ok(Self { env, app, promoter, hosts, keys, _processes: processes, _folder: folder })
    }
}

/// Messages and consumers of a stream.
async fn state(bus: &Bus, stream: &str) -> Result<(usize, usize)> {
    let state = bus.jetstream().get_stream(stream).await?.cached_info().state.clone();
    Ok((usize::try_from(state.messages)?, state.consumer_count))
}
