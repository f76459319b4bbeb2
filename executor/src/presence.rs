//! Says that this host is here, what it runs, and whether its engine answers: twice a minute, and at once when something changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use landfall_schema::ids::AppName;
use landfall_schema::layout::PRESENCE_INTERVAL;
use landfall_schema::presence::{Presence, RunningRelease};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::announce::Announcer;
use crate::causes;
use crate::config::Config;
use crate::journal::{Journal, JournalError};
use crate::outbox::{NotPublished, Publish};
use crate::pace::jittered;
use crate::site::Site;
use crate::world;

/// Time for the engine to tell its version.
pub const ENGINE_TIMEOUT: Duration = Duration::from_secs(5);
/// A beat that could not be sent is tried again after this time: the bus was just away.
const RETRY: Duration = Duration::from_secs(2);

pub struct Beat<S, P> {
    pub site: Arc<S>,
    pub config: Arc<Config>,
    pub journal: Journal,
    pub announcer: Arc<Announcer>,
    pub publisher: P,
    /// Poked when something changed.
    pub changed: Arc<Notify>,
}

impl<S: Site, P: Publish> Beat<S, P> {
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
                biased;
                () = sleep(wait) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    async fn beat(&self) -> Result<(), String> {
        let Config { env, host, labels, .. } = &*self.config;
        let presence = Presence {
            env: env.clone(),
            host: host.clone(),
            executor_version: env!("CARGO_PKG_VERSION").to_owned(),
            labels: labels.clone(),
            engine: self.site.engine(&self.config).await,
            disk_free_bytes: self.site.disk_free_bytes(&self.config),
            key: self.announcer.public_key().to_string(),
            apps: self.running().await.map_err(|error| causes(&error))?,
            previews: self.config.previews.keys().cloned().collect(),
        };
        let announcement = self.announcer.presence(&presence, world::now()).map_err(|error| causes(&error))?;
        self.publisher.publish(&announcement).await.map_err(NotPublished::into_text)
    }

    async fn running(&self) -> Result<BTreeMap<AppName, Option<RunningRelease>>, JournalError> {
        let mut running = BTreeMap::new();
        let Config { env, host, apps, .. } = &*self.config;
        let previews = self.journal.previews(env, host).await?;
        for app in apps.keys().chain(previews.iter().map(|order| &order.promotion.app)) {
            let newest = self.journal.committed(env, app, 1).await?.pop();
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
