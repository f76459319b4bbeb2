//! What somebody beside Landfall did to a committed stack, and how it is put back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum};
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use landfall_deploy::Evidence;
use landfall_schema::ids::ServiceName;
use landfall_schema::outcome::{Reason, ReasonCode};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::engine::{Container, Engine, LABEL_PROJECT};
use super::render::{Service, Stack};
use super::{Committed, Hands};
use crate::pace::Backoff;

/// Time to look at the stack.
const LOOK_LIMIT: Duration = Duration::from_secs(60);
/// Before the engine's events are asked for again, at least and at most.
const FOLLOW_RETRY_MIN: Duration = Duration::from_millis(500);
const FOLLOW_RETRY_MAX: Duration = Duration::from_secs(30);
/// What changes which containers a stack has; health checks, logs and the like do not.
const TELLING: [&str; 7] = ["create", "destroy", "die", "pause", "rename", "start", "stop"];

/// One container, or the lack of it, that is not as it was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    pub service: ServiceName,
    /// For people.
    pub what: String,
    /// Empty when there is none.
    container: String,
    is_paused: bool,
    is_replaced: bool,
}

impl Drift {
    /// The same for the same change.
    pub fn key(&self) -> String {
        format!("{} {} {}", self.service, self.container, self.what)
    }

    /// One that tests can tell of.
    #[cfg(test)]
    pub(crate) fn removed(service: ServiceName) -> Self {
        let what = "its container was removed".to_owned();
        Self { service, what, container: String::new(), is_paused: false, is_replaced: false }
    }
}

/// Listens to the engine for as long as it lives.
pub(crate) struct Follower {
    task: JoinHandle<()>,
    seen: watch::Receiver<u64>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Follower {
    pub(crate) fn start(engine: Arc<Engine>) -> Self {
        let (tell, seen) = watch::channel(0);
        Self { task: tokio::spawn(follow(engine, tell)), seen }
    }
}

/// Ticks at every event of the project's containers, and whenever the engine answers again: what happened until then was not heard.
async fn follow(engine: Arc<Engine>, tell: watch::Sender<u64>) {
    let filters = HashMap::from([
        ("type", vec!["container".to_owned()]),
        ("label", vec![format!("{LABEL_PROJECT}={}", engine.project())]),
        ("event", TELLING.map(str::to_owned).to_vec()),
    ]);
    let mut backoff = Backoff::new(FOLLOW_RETRY_MIN, FOLLOW_RETRY_MAX);
    loop {
        if let Ok(docker) = engine.docker() {
            let mut events = docker.events(Some(EventsOptionsBuilder::new().filters(&filters).build()));
            if engine.ping().await.is_ok() {
                backoff.reset();
                tell.send_modify(|count| *count += 1);
            }
            while let Some(Ok(_)) = events.next().await {
                tell.send_modify(|count| *count += 1);
            }
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

impl Hands {
    /// Ticks when the engine tells of the stack's containers.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.follower.get_or_init(|| Follower::start(Arc::clone(&self.engine))).seen.clone()
    }

    /// What of the committed stack is not there, does not run, or is another image.
    ///
    /// # Errors
    /// When the engine does not answer, or the stack cannot be rendered any more.
    pub async fn drifted(&self, committed: &Committed) -> Result<Vec<Drift>, Reason> {
        let stack = self.former_stack(committed, Instant::now() + LOOK_LIMIT).await?;
        let containers = self.engine.containers().await?;
        let docker = self.engine.docker()?;
        let mut drifts = Vec::new();
        for service in stack.serving() {
            let own: Vec<&Container> =
                containers.iter().filter(|one| one.service == service.name && !one.one_off).collect();
            let mut there = 0;
            for container in own {
                let Some(inspected) = self.engine.inspect(&docker, &container.id).await? else { continue };
                there += 1;
                drifts.extend(self.container_drift(&stack, service, container, &inspected, committed).await?);
            }
            drifts.extend(missing(service, wanted(&stack.model, &service.name), there));
        }
        Ok(drifts)
    }

    async fn container_drift(
        &self,
        stack: &Stack,
        service: &Service,
        container: &Container,
        inspected: &ContainerInspectResponse,
        committed: &Committed,
    ) -> Result<Option<Drift>, Reason> {
        let state = inspected.state.as_ref();
        let status = state.and_then(|state| state.status);
        let is_paused = status == Some(ContainerStateStatusEnum::PAUSED);
        let drift = |what: String| {
            let what = stack.redactor.clean(&what);
            Some(Drift {
                service: service.name.clone(),
                what,
                container: container.id.clone(),
                is_paused,
                is_replaced: false,
            })
        };
        match status {
            Some(ContainerStateStatusEnum::RUNNING) => {}
            // The engine's restart policy is at work.
            Some(ContainerStateStatusEnum::RESTARTING) => return Ok(None),
            Some(ContainerStateStatusEnum::PAUSED) => return Ok(drift("its container was paused".to_owned())),
            Some(ContainerStateStatusEnum::CREATED) => return Ok(drift("its container was never started".to_owned())),
            _ => {
                let code = state.and_then(|state| state.exit_code).unwrap_or(-1);
                return Ok(drift(format!("its container was stopped, or ended, with code {code}")));
            }
        }
        let Some(promised) = committed.promotion.images.get(&service.name) else { return Ok(None) };
        let named = inspected.config.as_ref().and_then(|config| config.image.as_deref()).unwrap_or_default();
        let image_id = inspected.image.as_deref().unwrap_or_default();
        if named.ends_with(promised.digest.as_str()) || self.is_image(image_id, promised).await? {
            return Ok(None);
        }
        let replaced =
            drift(format!("its container was replaced by one of the image {named}, not {}", promised.reference()));
        Ok(replaced.map(|drift| Drift { is_replaced: true, ..drift }))
    }

    /// Brings the drifted services back to what was committed, leaves the others alone, and proves all of them.
    ///
    /// # Errors
    /// Why it could not be done; what runs then is not known.
    pub async fn put_back(
        &self,
        committed: &Committed,
        drifts: &[Drift],
        deadline: Instant,
    ) -> Result<Evidence, Reason> {
        let stack = self.former_stack(committed, deadline).await?;
        self.check_ours(&self.engine.containers().await?)?;
        self.ensure_images(&committed.promotion, deadline).await?;
        let docker = self.engine.docker()?;
        for drift in drifts.iter().filter(|drift| drift.is_paused) {
            // Compose can neither start nor replace what is paused.
            self.engine.call("unpausing a container", docker.unpause_container(&drift.container)).await?;
        }
        for drift in drifts.iter().filter(|drift| drift.is_replaced) {
            // Compose leaves alone what it has not made, and then cannot use the name.
            self.engine.remove_container(&docker, &drift.container).await?;
        }
        let names: BTreeSet<ServiceName> = drifts.iter().map(|drift| drift.service.clone()).collect();
        self.up_only(&stack, &names, deadline).await?;
        let proven = self.watch(stack.serving().collect(), &stack.redactor, deadline).await?;
        let promised: BTreeMap<_, _> =
            committed.promotion.images.iter().map(|(name, image)| (name, &image.digest)).collect();
        let evidence = self.running(&proven, &promised).await?;
        if let Evidence::Running { services, .. } = &evidence {
            for (name, digest) in services {
                if promised.get(name).is_some_and(|promised| *promised != digest) {
                    let message = format!("service {name} still runs another image");
                    return Err(Reason::new(ReasonCode::WrongDigestRunning, message).hint(
                        "look at the host with `docker compose ps`: something beside Landfall changes this stack",
                    ));
                }
            }
        }
        Ok(evidence)
    }
}

/// How many containers the service has as it was committed; with a mode of its own nobody can say.
fn wanted(model: &Value, name: &ServiceName) -> u64 {
    let Some(service) = model.get("services").and_then(|services| services.get(name.as_str())) else { return 1 };
    if service.pointer("/deploy/mode").and_then(Value::as_str).is_some_and(|mode| mode != "replicated") {
        return 0;
    }
    service.pointer("/deploy/replicas").or_else(|| service.get("scale")).and_then(Value::as_u64).unwrap_or(1)
}

fn missing(service: &Service, wanted: u64, there: u64) -> Option<Drift> {
    let what = match (wanted, there) {
        (wanted, there) if there >= wanted => return None,
        (1, _) => "its container was removed".to_owned(),
        (wanted, there) => format!("{} of its {wanted} containers were removed", wanted - there),
    };
    Some(Drift { service: service.name.clone(), what, container: String::new(), is_paused: false, is_replaced: false })
}
