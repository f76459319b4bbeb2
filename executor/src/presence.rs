//! Says that this host is here, what it runs, and whether its engine answers: twice a minute, and at once when something changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use landfall_schema::Timestamp;
use landfall_schema::ids::{AppName, EnvName, HostName};
use landfall_schema::layout::PRESENCE_INTERVAL;
use landfall_schema::presence::{EngineState, Presence, RunningRelease};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{debug, error};

use crate::announce::Announcer;
use crate::causes;
use crate::journal::{Journal, JournalError};
use crate::outbox::{NotPublished, Publish};
use crate::pace::jittered;

/// Time for the engine to tell its version.
pub const ENGINE_TIMEOUT: Duration = Duration::from_secs(5);
/// A beat that could not be sent is tried again after this time: the bus was just away.
const RETRY: Duration = Duration::from_secs(2);

pub struct Beat<P> {
    pub env: EnvName,
    pub host: HostName,
    pub labels: BTreeMap<String, String>,
    pub apps: Vec<AppName>,
    /// Applications of which this host takes previews.
    pub previews: BTreeSet<AppName>,
    pub state_dir: PathBuf,
    pub docker_host: String,
    pub journal: Journal,
    pub announcer: Arc<Announcer>,
    pub publisher: P,
    /// Poked when something changed.
    pub changed: Arc<Notify>,
}

impl<P: Publish> Beat<P> {
    pub async fn run(self) {
        loop {
            let wait = match self.beat().await {
                Ok(()) => jittered(PRESENCE_INTERVAL),
                Err(error) => {
                    debug!(error, "the presence was not told");
                    RETRY
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    async fn beat(&self) -> Result<(), String> {
        let engine = match engine_version(&self.docker_host).await {
            Ok(version) => EngineState::Answering { version },
            Err(error) => EngineState::Silent { error },
        };
        let presence = Presence {
            env: self.env.clone(),
            host: self.host.clone(),
            executor_version: env!("CARGO_PKG_VERSION").to_owned(),
            labels: self.labels.clone(),
            engine,
            disk_free_bytes: disk_free_bytes(&self.state_dir),
            key: self.announcer.public_key().to_string(),
            apps: self.running().await.map_err(|error| causes(&error))?,
            previews: self.previews.clone(),
        };
        let announcement = self.announcer.presence(&presence, Timestamp::now()).map_err(|error| causes(&error))?;
        self.publisher.publish(&announcement).await.map_err(NotPublished::into_text)
    }

    async fn running(&self) -> Result<BTreeMap<AppName, Option<RunningRelease>>, JournalError> {
        let mut running = BTreeMap::new();
        let previews = self.journal.previews(&self.env, &self.host).await?;
        for app in self.apps.iter().chain(previews.iter().map(|order| &order.promotion.app)) {
            let newest = self.journal.committed(&self.env, app, 1).await?.pop();
            running.insert(
                app.clone(),
                newest.map(|good| RunningRelease { counter: good.counter, release: good.release }),
            );
        }
        Ok(running)
    }
}

/// The engine's version, or one line that says why it does not answer.
///
/// # Errors
/// That line.
pub async fn engine_version(docker_host: &str) -> Result<String, String> {
    let timeout_s = ENGINE_TIMEOUT.as_secs();
    let docker = match docker_host.strip_prefix("unix://") {
        Some(path) => Docker::connect_with_unix(path, timeout_s, bollard::API_DEFAULT_VERSION),
        None => Docker::connect_with_http(docker_host, timeout_s, bollard::API_DEFAULT_VERSION),
    };
    let docker = docker.map_err(|error| format!("the engine at {docker_host} cannot be reached: {error}"))?;
    match timeout(ENGINE_TIMEOUT, docker.version()).await {
        Ok(Ok(version)) => Ok(version.version.unwrap_or_else(|| "unknown".to_owned())),
        Ok(Err(error)) => Err(format!("the engine at {docker_host} does not answer: {error}")),
        Err(_) => Err(format!("the engine at {docker_host} does not answer within {timeout_s} s")),
    }
}

/// What an unprivileged process may still write.
fn disk_free_bytes(path: &std::path::Path) -> u64 {
    match nix::sys::statvfs::statvfs(path) {
        Ok(stat) => stat.blocks_available() * stat.fragment_size(),
        Err(errno) => {
            error!(path = %path.display(), %errno, "the free disk space cannot be read");
            0
        }
    }
}
