//! Watches containers until each is ready, and reads from the engine which images run: that is what success means.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, HealthStatusEnum};
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use futures_util::future::{join_all, try_join_all};
use futures_util::stream::FuturesUnordered;
use landfall_deploy::health::{ContainerState, HealthState, Judge, Rules, Sample, Verdict};
use landfall_deploy::{Evidence, Order};
use landfall_schema::ids::{Digest, ServiceName};
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::stack::{READY_INTERVAL_MIN_MS, READY_INTERVAL_MS, READY_PASSES, Readiness, SETTLE_MS};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::engine::{Container, LABEL_PROJECT};
use super::former::Preexisting;
use super::observe::ready_deadline_ms;
use super::probe;
use super::redact::Redactor;
use super::render::{Kind, Service};
use super::{Context, Hands, effect_deadline};

/// The judge's clock starts this far from zero, so that containers can be older than the watch.
const EPOCH_MS: u64 = 1_000_000_000;

/// A container that is watched, and by which rules.
struct Watched<'a> {
    service: &'a ServiceName,
    container: &'a str,
    ready: Readiness,
    completes: bool,
    deadline: Instant,
}

/// Something that cannot become ready any more.
pub(crate) struct Failure {
    pub(crate) service: ServiceName,
    pub(crate) container: String,
    pub(crate) code: ReasonCode,
    pub(crate) why: String,
}

/// What was seen of one container.
pub(crate) struct Proven {
    pub(crate) service: ServiceName,
    pub(crate) image_id: String,
    pub(crate) completes: bool,
    pub(crate) restarts: u32,
}

/// Wakes watchers when the engine tells of a container of the project. Where events get lost, the interval between samples still holds.
pub(crate) struct Events {
    task: JoinHandle<()>,
    pub(crate) seen: watch::Receiver<u64>,
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Events {
    pub(crate) fn follow(docker: Docker, project: &str) -> Self {
        let filters = HashMap::from([
            ("type", vec!["container".to_owned()]),
            ("label", vec![format!("{LABEL_PROJECT}={project}")]),
        ]);
        let (tell, seen) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut events = docker.events(Some(EventsOptionsBuilder::new().filters(&filters).build()));
            while let Some(Ok(_)) = events.next().await {
                tell.send_modify(|count| *count += 1);
            }
        });
        Self { task, seen }
    }
}

/// Until the next event or the end of `wait`. A closed event stream is no event.
pub(crate) async fn wake(seen: &mut watch::Receiver<u64>, wait: Duration) {
    let sleep = tokio::time::sleep(wait);
    tokio::pin!(sleep);
    tokio::select! {
        () = &mut sleep => {}
        changed = seen.changed() => if changed.is_err() { sleep.await },
    }
}

impl Hands {
    pub(crate) async fn prove(&self, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        let stack = self.stack(order, context).await?;
        let proven = self.watch(stack.started().collect(), &stack.redactor, effect_deadline(context)).await?;
        let promised = order.promotion.images.iter().map(|(name, image)| (name, &image.digest)).collect();
        self.running(&proven, &promised).await
    }

    pub(crate) async fn prove_former(&self, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        let deadline = effect_deadline(context);
        if let Some(former) = &context.former {
            let stack = self.former_stack(former, deadline).await?;
            let proven = self.watch(stack.started().collect(), &stack.redactor, deadline).await?;
            let promised = former.promotion.images.iter().map(|(name, image)| (name, &image.digest)).collect();
            return self.running(&proven, &promised).await;
        }
        match self.preexisting(order.promotion.counter).await? {
            None => self.nothing_left().await,
            Some(found) => {
                let stack = self.stack(order, context).await?;
                self.prove_preexisting(&found, &stack.redactor, deadline).await
            }
        }
    }

    /// Where nothing served before, nothing may be left that serves.
    async fn nothing_left(&self) -> Result<Evidence, Reason> {
        let containers = self.engine.containers().await?;
        match containers.iter().find(|container| container.running && !container.one_off) {
            Some(left) => Err(Reason::new(
                ReasonCode::RollbackFailed,
                format!("{} still runs after the stack was taken down", left.service),
            )
            .hint(format!("`docker compose --project-name {} down` on the host", self.engine.project()))),
            None => Ok(Evidence::Running { services: BTreeMap::new(), restarts: 0 }),
        }
    }

    /// Nothing is known of these services but their images and what health checks of their own say.
    async fn prove_preexisting(
        &self,
        found: &Preexisting,
        redactor: &Redactor,
        deadline: Instant,
    ) -> Result<Evidence, Reason> {
        let services: Vec<Service> = found
            .image_ids
            .keys()
            .map(|name| Service {
                name: name.clone(),
                settings: Default::default(),
                kind: Kind::Serving,
                depends_on: BTreeMap::new(),
            })
            .collect();
        let proven = self.watch(services.iter().collect(), redactor, deadline).await?;
        let services =
            proven.into_iter().filter_map(|one| Some((one.service, Digest::new(one.image_id).ok()?))).collect();
        Ok(Evidence::Running { services, restarts: 0 })
    }

    /// Waits until every container of these services is ready. The first that cannot become ready ends it.
    pub(crate) async fn watch(
        &self,
        services: Vec<&Service>,
        redactor: &Redactor,
        deadline: Instant,
    ) -> Result<Vec<Proven>, Reason> {
        let docker = self.engine.docker()?;
        let events = Events::follow(docker.clone(), self.engine.project());
        let containers = self.engine.containers().await?;
        let mut watched = Vec::new();
        for service in services {
            let own: Vec<&Container> = containers.iter().filter(|c| c.service == service.name && !c.one_off).collect();
            if own.is_empty() {
                return Err(Reason::new(ReasonCode::Unhealthy, format!("service {} has no container", service.name)));
            }
            let own_deadline = Instant::now() + Duration::from_millis(ready_deadline_ms(service));
            watched.extend(own.into_iter().map(|container| Watched {
                service: &service.name,
                container: &container.id,
                ready: service.settings.ready.clone().unwrap_or_default(),
                completes: service.kind == Kind::Completes,
                deadline: deadline.min(own_deadline),
            }));
        }
        let mut running: FuturesUnordered<_> =
            watched.iter().map(|one| self.until_ready(&docker, one, events.seen.clone())).collect();
        let mut proven = Vec::new();
        while let Some(result) = running.next().await {
            match result? {
                Ok(one) => proven.push(one),
                Err(failure) => {
                    drop(running);
                    return Err(self.failure_reason(&docker, vec![failure], redactor).await);
                }
            }
        }
        Ok(proven)
    }

    async fn until_ready(
        &self,
        docker: &Docker,
        one: &Watched<'_>,
        mut seen: watch::Receiver<u64>,
    ) -> Result<Result<Proven, Failure>, Reason> {
        let rules =
            Rules { passes: one.ready.passes.unwrap_or(READY_PASSES), settle_ms: SETTLE_MS, completes: one.completes };
        let interval =
            Duration::from_millis(one.ready.interval_ms.unwrap_or(READY_INTERVAL_MS).max(READY_INTERVAL_MIN_MS));
        let began = Instant::now();
        let fail = |code, why: String| Failure {
            service: one.service.clone(),
            container: one.container.to_owned(),
            code,
            why,
        };
        let mut judge = None;
        loop {
            let sampled_at = Instant::now();
            let Some(inspected) = self.engine.inspect(docker, one.container).await? else {
                return Ok(Err(fail(ReasonCode::ContainerExited, "its container was removed".to_owned())));
            };
            let at_ms = EPOCH_MS + began.elapsed().as_millis() as u64;
            let judge = judge.get_or_insert_with(|| Judge::new(rules, at_ms.saturating_sub(age_ms(&inspected))));
            let probe = match self.network_holder(docker, &inspected).await? {
                Some(holder) => probe::probe(&self.http, &holder, &one.ready).await,
                None => probe::probe(&self.http, &inspected, &one.ready).await,
            };
            let sample = sample(&inspected, at_ms, probe);
            match judge.observe(&sample) {
                Verdict::Ready => {
                    let image_id = inspected.image.unwrap_or_default();
                    let restarts = sample.restarts;
                    return Ok(Ok(Proven {
                        service: one.service.clone(),
                        image_id,
                        completes: one.completes,
                        restarts,
                    }));
                }
                Verdict::Failed(why) => return Ok(Err(fail(failure_code(&sample), why))),
                Verdict::Pending => {}
            }
            let now = Instant::now();
            if now >= one.deadline {
                let waited_s = began.elapsed().as_secs_f64();
                return Ok(Err(fail(
                    ReasonCode::Unhealthy,
                    format!("not ready after {waited_s:.1} s: {}", judge.complaint()),
                )));
            }
            let mut next = sampled_at + interval;
            if sample.probe.is_none() {
                // The end of the settling time is known; there is no use in sleeping beyond it.
                next = next.min(
                    now + Duration::from_millis(
                        SETTLE_MS.saturating_sub(age_ms(&inspected)).max(READY_INTERVAL_MIN_MS),
                    ),
                );
            }
            wake_or_tick(&mut seen, next.min(one.deadline), &sample).await;
        }
    }

    /// The container whose network this one shares (`network_mode: service:…`), if it does.
    async fn network_holder(
        &self,
        docker: &Docker,
        inspected: &ContainerInspectResponse,
    ) -> Result<Option<ContainerInspectResponse>, Reason> {
        let mode = inspected.host_config.as_ref().and_then(|config| config.network_mode.as_deref());
        match mode.and_then(|mode| mode.strip_prefix("container:")) {
            Some(holder) => self.engine.inspect(docker, holder).await,
            None => Ok(None),
        }
    }

    /// Says what failed, with the last lines of the containers' logs.
    pub(crate) async fn failure_reason(&self, docker: &Docker, failures: Vec<Failure>, redactor: &Redactor) -> Reason {
        let tails = failures
            .iter()
            .map(|failure| self.engine.log_tail(docker, &failure.container, failure.service.as_str(), redactor));
        let logs = join_all(tails).await;
        let code = failures.first().map_or(ReasonCode::Unhealthy, |failure| failure.code);
        let told: Vec<String> =
            failures.iter().map(|failure| format!("service {}: {}", failure.service, failure.why)).collect();
        Reason::new(code, redactor.clean(&told.join("; "))).logs(logs)
    }

    /// The digests that the running images are known by.
    pub(crate) async fn running(
        &self,
        proven: &[Proven],
        promised: &BTreeMap<&ServiceName, &Digest>,
    ) -> Result<Evidence, Reason> {
        let docker = self.engine.docker()?;
        let serving: Vec<&Proven> = proven.iter().filter(|one| !one.completes).collect();
        let known = serving.iter().map(|one| self.known_digest(&docker, one, promised.get(&one.service).copied()));
        let known = try_join_all(known).await?;
        let mut services = BTreeMap::new();
        for (one, digest) in serving.iter().zip(known) {
            // Of several containers of a service the one that runs something else is told.
            let other = promised.get(&one.service).is_some_and(|promised| **promised != digest);
            if other || !services.contains_key(&one.service) {
                services.insert(one.service.clone(), digest);
            }
        }
        Ok(Evidence::Running { services, restarts: proven.iter().map(|one| one.restarts).sum() })
    }

    async fn known_digest(&self, docker: &Docker, one: &Proven, promised: Option<&Digest>) -> Result<Digest, Reason> {
        let image = self.engine.image(docker, &one.image_id).await?;
        let digests = image.and_then(|image| image.repo_digests).unwrap_or_default();
        let mut known = digests.iter().filter_map(|known| Digest::new(known.rsplit_once('@')?.1).ok());
        let found = match promised {
            Some(promised) if known.clone().any(|digest| digest == *promised) => Some(promised.clone()),
            _ => known.next(),
        };
        match found {
            Some(digest) => Ok(digest),
            None => {
                Digest::new(one.image_id.clone()).map_err(|error| super::internal("reading the running image", error))
            }
        }
    }
}

/// Passes are counted at the interval: an event must not make two probes out of one. State changes may be looked at at once.
async fn wake_or_tick(seen: &mut watch::Receiver<u64>, at: Instant, sample: &Sample) {
    let passing = matches!(sample.probe, Some(Ok(())));
    if passing {
        tokio::time::sleep_until(at).await;
    } else {
        wake(seen, at.saturating_duration_since(Instant::now())).await;
    }
}

/// How long ago the container was started, by this host's clock.
fn age_ms(inspected: &ContainerInspectResponse) -> u64 {
    let started = inspected.state.as_ref().and_then(|state| state.started_at.as_deref());
    let started = started.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    started.map_or(0, |at| u64::try_from(jiff::Timestamp::now().as_millisecond() - at.as_millisecond()).unwrap_or(0))
}

pub(crate) fn sample(inspected: &ContainerInspectResponse, at_ms: u64, probe: Option<Result<(), String>>) -> Sample {
    let state = inspected.state.as_ref();
    let status = state.and_then(|state| state.status);
    let container = match status {
        Some(ContainerStateStatusEnum::RUNNING) => ContainerState::Running,
        Some(ContainerStateStatusEnum::PAUSED) => ContainerState::Paused,
        Some(ContainerStateStatusEnum::RESTARTING) => ContainerState::Restarting,
        Some(
            ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::DEAD | ContainerStateStatusEnum::REMOVING,
        ) => ContainerState::Exited { code: state.and_then(|state| state.exit_code).unwrap_or(-1) },
        _ => ContainerState::Created,
    };
    let health = state.and_then(|state| state.health.as_ref()).and_then(|health| match health.status {
        Some(HealthStatusEnum::STARTING) => Some(HealthState::Starting),
        Some(HealthStatusEnum::HEALTHY) => Some(HealthState::Healthy),
        Some(HealthStatusEnum::UNHEALTHY) => Some(HealthState::Unhealthy),
        Some(HealthStatusEnum::NONE | HealthStatusEnum::EMPTY) | None => None,
    });
    let restarts = inspected.restart_count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
    Sample { at_ms, state: container, health, probe, restarts }
}

pub(crate) fn failure_code(sample: &Sample) -> ReasonCode {
    match sample.state {
        ContainerState::Exited { .. } => ReasonCode::ContainerExited,
        ContainerState::Restarting => ReasonCode::Restarting,
        ContainerState::Running | ContainerState::Created | ContainerState::Paused
            if sample.health == Some(HealthState::Unhealthy) =>
        {
            ReasonCode::Unhealthy
        }
        ContainerState::Paused => ReasonCode::Unhealthy,
        ContainerState::Running | ContainerState::Created => ReasonCode::Restarting,
    }
}
