//! One-shot containers: started by Compose so that they get what the service has, awaited through the engine so that a restart of this
//! process finds them again by their name.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard::models::ContainerStateStatusEnum;
use bollard::query_parameters::WaitContainerOptions;
use futures_util::StreamExt;
use landfall_schema::ids::ServiceName;
use landfall_schema::outcome::{Reason, ReasonCode};
use tokio::time::Instant;

use super::compose;
use super::engine::LABEL_COUNTER;
use super::observe::DEPENDENCIES_DEADLINE_MS;
use super::pull::repository_part;
use super::render::{Kind, Stack};
use super::{Hands, logs};

/// What a container may take to be started.
const START_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct OneShot<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) service: &'a str,
    /// Empty for the service's own command.
    pub(crate) command: &'a [String],
    /// What it is for; part of the container's name and of messages.
    pub(crate) step: &'a str,
    /// Whether a run that was begun before counts: true where running twice could do harm.
    pub(crate) resumes: bool,
    /// How long it may run, once it is started.
    pub(crate) limit: Duration,
    /// The whole step's.
    pub(crate) deadline: Instant,
    /// The code of its failure.
    pub(crate) code: ReasonCode,
}

pub(crate) struct Ended {
    /// The last lines.
    pub(crate) output: String,
    pub(crate) took: Duration,
}

impl OneShot<'_> {
    fn container(&self) -> String {
        let Stack { invocation, counter, .. } = self.stack;
        format!(
            "landfall-{}-{}-{}-{}",
            invocation.project,
            counter.0,
            repository_part(self.service),
            repository_part(self.step)
        )
    }
}

impl Hands {
    /// Runs it to its end; success is exit code 0.
    pub(crate) async fn run_one_shot(&self, shot: OneShot<'_>) -> Result<Ended, Reason> {
        let began = Instant::now();
        let container = shot.container();
        let docker = self.engine.docker()?;
        // Else a start that was under way when this process died could make the container after it was looked for.
        let settled_by = shot.deadline.min(Instant::now() + START_TIMEOUT);
        self.compose.settled(&shot.stack.invocation, settled_by).await?;
        if !(shot.resumes && self.is_begun(&container).await?) {
            self.engine.remove_container(&docker, &container).await?;
            self.start_one_shot(&shot, &container).await?;
        }
        let redactor = &shot.stack.redactor;
        let until = shot.deadline.min(Instant::now() + shot.limit);
        let ended = tokio::time::timeout_at(until, self.exit_code(&container)).await;
        let tail =
            self.engine.log_tail(&docker, &container, &format!("{} ({})", shot.service, shot.step), redactor).await;
        if !(shot.resumes && matches!(ended, Ok(Ok(_)))) {
            self.engine.remove_container(&docker, &container).await?;
        }
        match ended {
            Ok(Ok(0)) => Ok(Ended { output: tail.lines.join("\n"), took: began.elapsed() }),
            Ok(Ok(code)) => {
                let why = tail.lines.last().map_or(String::new(), |line| format!(": {line}"));
                let message = format!("{} of service {} failed with code {code}{why}", shot.step, shot.service);
                Err(Reason::new(shot.code, message).logs(vec![tail]))
            }
            Ok(Err(reason)) => Err(reason),
            Err(_) => {
                let message = format!(
                    "{} of service {} did not end within {} s and was stopped",
                    shot.step,
                    shot.service,
                    began.elapsed().as_secs()
                );
                Err(Reason::new(shot.code, message)
                    .hint("raise deadline_ms in the service's x-landfall settings if it needs longer")
                    .logs(vec![tail]))
            }
        }
    }

    /// A container that was made but never started has done nothing yet.
    async fn is_begun(&self, container: &str) -> Result<bool, Reason> {
        let docker = self.engine.docker()?;
        let inspected = self.engine.inspect(&docker, container).await?;
        let status = inspected.and_then(|inspected| inspected.state).and_then(|state| state.status);
        Ok(!matches!(
            status,
            None | Some(
                ContainerStateStatusEnum::CREATED
                    | ContainerStateStatusEnum::REMOVING
                    | ContainerStateStatusEnum::EMPTY
            )
        ))
    }

    async fn start_one_shot(&self, shot: &OneShot<'_>, container: &str) -> Result<(), Reason> {
        let label = format!("{LABEL_COUNTER}={}", shot.stack.counter.0);
        let mut args = vec![
            "run",
            "--detach",
            "--no-TTY",
            "--no-deps",
            "--name",
            container,
            "--label",
            &label,
            "--",
            shot.service,
        ];
        args.extend(shot.command.iter().map(String::as_str));
        let deadline = shot.deadline.min(Instant::now() + START_TIMEOUT);
        let output = self.compose.change(&shot.stack.invocation, &args, deadline).await?;
        if output.code == Some(0) {
            return Ok(());
        }
        let mut reason = compose::up_reason(&output.stderr, &shot.stack.redactor);
        if reason.code == ReasonCode::UpdateFailed {
            reason.code = shot.code;
        }
        reason.message = format!("{} of service {} cannot be started: {}", shot.step, shot.service, reason.message);
        Err(reason)
    }

    async fn exit_code(&self, container: &str) -> Result<i64, Reason> {
        let docker = self.engine.docker()?;
        let mut waiting = docker.wait_container(container, None::<WaitContainerOptions>);
        match waiting.next().await {
            Some(Ok(response)) => Ok(response.status_code),
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => Ok(code),
            Some(Err(error)) => Err(self.engine.failed("waiting for a container", &error)),
            None => Err(Reason::new(ReasonCode::EngineUnreachable, "the engine ended the wait for a container")),
        }
    }

    /// Starts those services that one-shots need and that do not run, and waits until they are ready. What runs is left as it is.
    pub(crate) async fn ensure_dependencies(
        &self,
        stack: &Stack,
        wanted: BTreeSet<ServiceName>,
        deadline: Instant,
    ) -> Result<(), Reason> {
        let wanted = with_dependencies(stack, wanted);
        if wanted.is_empty() {
            return Ok(());
        }
        let containers = self.engine.containers().await?;
        let runs = |name: &ServiceName| {
            containers.iter().any(|container| container.running && !container.one_off && container.service == *name)
        };
        let missing: Vec<&ServiceName> = wanted.iter().filter(|name| !runs(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let deadline = deadline.min(Instant::now() + Duration::from_millis(DEPENDENCIES_DEADLINE_MS));
        let mut args = vec!["up", "--detach", "--no-build", "--pull", "never", "--no-deps", "--no-recreate", "--"];
        args.extend(missing.iter().map(|name| name.as_str()));
        let output = self.compose.change(&stack.invocation, &args, deadline).await?;
        if output.code != Some(0) {
            return Err(compose::up_reason(&output.stderr, &stack.redactor));
        }
        let services = stack.services.values().filter(|service| missing.contains(&&service.name));
        self.watch(services.collect(), &stack.redactor, deadline).await.map(drop)
    }
}

/// The services themselves and all that they depend on, as far as they serve.
fn with_dependencies(stack: &Stack, wanted: BTreeSet<ServiceName>) -> BTreeSet<ServiceName> {
    let (mut found, mut open) = (BTreeSet::new(), Vec::from_iter(wanted));
    while let Some(name) = open.pop() {
        let Some(service) = stack.services.get(&name).filter(|service| service.kind == Kind::Serving) else { continue };
        if found.insert(name) {
            open.extend(service.depends_on.keys().cloned());
        }
    }
    found
}

/// What a one-shot said last, for people.
pub(crate) fn summary(ended: &Ended, stack: &Stack) -> Option<String> {
    logs::last_line(&ended.output, &stack.redactor)
}
