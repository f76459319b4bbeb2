//! One-shot containers: started by Compose so that they get what the service has, awaited through the engine so that a restart of this
//! process finds them again by their name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
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
use crate::failpoint::failpoint;

/// What a container may take to be started.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two attempts to wait for a container while the engine is away.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct OneShot<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) service: &'a str,
    /// Empty for the service's own command.
    pub(crate) command: &'a [String],
    /// What it is for; part of the container's name and of messages.
    pub(crate) step: &'a str,
    /// Where running twice could do harm: the file that says that it was started. A run that was begun before counts then.
    pub(crate) mark: Option<PathBuf>,
    /// How long it may run, once it is started.
    pub(crate) limit: Duration,
    /// The whole step's.
    pub(crate) deadline: Instant,
    /// The code of its failure.
    pub(crate) code: ReasonCode,
}

/// How a run that was started came to its end.
enum Exit {
    Code(i64),
    /// It is not there any more.
    Gone,
    /// It runs for too long.
    Late,
    /// It cannot be waited for.
    Broken(Reason),
}

pub(crate) struct Ended {
    /// The last lines.
    pub(crate) output: String,
    pub(crate) took: Duration,
}

impl OneShot<'_> {
    pub(crate) fn container(&self) -> String {
        let Stack { invocation, counter, .. } = self.stack;
        format!(
            "landfall-{}-{}-{}-{}",
            invocation.project,
            counter.0,
            repository_part(self.service),
            repository_part(self.step)
        )
    }

    /// It was in the middle of what nobody can see into.
    fn unknown(&self, what: &str) -> Reason {
        let message = format!(
            "{} of service {} {what}; nobody knows how far it came, so it is not run again",
            self.step, self.service
        );
        Reason::new(ReasonCode::MigrationUnknown, message)
    }
}

impl Hands {
    /// Runs it to its end; success is exit code 0.
    ///
    /// # Errors
    /// [`OneShot::code`], or why it could not be run; where running twice could do harm, [`ReasonCode::MigrationUnknown`] for a run that was
    /// stopped in the middle.
    pub(crate) async fn run_one_shot(&self, shot: OneShot<'_>) -> Result<Ended, Reason> {
        let began = Instant::now();
        let container = shot.container();
        let docker = self.engine.docker()?;
        // Else a start that was under way when this process died could make the container after it was looked for.
        let settled_by = shot.deadline.min(Instant::now() + START_TIMEOUT);
        self.compose.settled(&shot.stack.invocation, settled_by).await?;
        if !self.is_found(&shot, &container).await? {
            self.engine.remove_container(&docker, &container).await?;
            failpoint!("one-shot.{}.start.before", shot.step);
            if let Err(reason) = self.begin(&shot, &container).await {
                if shot.mark.is_none() {
                    // It may run all the same.
                    if let Err(why) = self.engine.remove_container(&docker, &container).await {
                        tracing::warn!(%container, "it may run without anybody who waits for it: {}", why.message);
                    }
                }
                return Err(reason);
            }
            failpoint!("one-shot.{}.start.after", shot.step);
        }
        if let Some(mark) = &shot.mark {
            self.put(mark).await;
            failpoint!("one-shot.{}.marked", shot.step);
        }
        let until = shot.deadline.min(Instant::now() + shot.limit);
        let exit = self.exit(&shot, &container, until).await;
        failpoint!("one-shot.{}.ended", shot.step);
        let source = format!("{} ({})", shot.service, shot.step);
        let tail = self.engine.log_tail(&docker, &container, &source, &shot.stack.redactor).await;
        let mut why_it_runs = None;
        if shot.mark.is_none() || matches!(exit, Exit::Late) {
            why_it_runs = self.engine.remove_container(&docker, &container).await.err();
        }
        let took_s = began.elapsed().as_secs();
        let reason = match exit {
            Exit::Code(0) => return Ok(Ended { output: tail.lines.join("\n"), took: began.elapsed() }),
            Exit::Code(code) if shot.mark.is_some() && is_signal(code) => {
                shot.unknown(&format!("was stopped from outside (code {code})"))
            }
            Exit::Code(code) => {
                let why = tail.lines.last().map_or(String::new(), |line| format!(": {line}"));
                let message = format!("{} of service {} failed with code {code}{why}", shot.step, shot.service);
                Reason::new(shot.code, message).hint(match &shot.mark {
                    Some(_) => {
                        format!("`docker logs {container}` on the host has all that it said; mend it and promote again")
                    }
                    None => format!(
                        "run it by hand on the host: `docker compose run --rm {}`; mend it and promote again",
                        shot.service
                    ),
                })
            }
            Exit::Gone => shot.unknown("was begun, and its container is gone"),
            Exit::Late => {
                let stopped =
                    why_it_runs.map_or("was stopped".to_owned(), |why| format!("cannot be stopped: {}", why.message));
                let what = format!("did not end within {took_s} s and {stopped}");
                let reason = match &shot.mark {
                    Some(_) => shot.unknown(&what),
                    None => Reason::new(shot.code, format!("{} of service {} {what}", shot.step, shot.service)),
                };
                reason.hint("raise deadline_ms in the service's x-landfall settings if it needs longer")
            }
            Exit::Broken(reason) => return Err(reason),
        };
        Err(reason.logs(vec![tail]))
    }

    /// Whether a run of it that counts was begun before.
    async fn is_found(&self, shot: &OneShot<'_>, container: &str) -> Result<bool, Reason> {
        let Some(mark) = &shot.mark else { return Ok(false) };
        let is_marked = tokio::fs::try_exists(mark).await.unwrap_or(true);
        match self.is_begun(container).await {
            Ok(false) if is_marked => Err(shot.unknown("was begun, and its container is gone")),
            Err(reason) if is_marked => {
                Err(shot.unknown(&format!("was begun and cannot be found: {}", reason.message)))
            }
            found => found,
        }
    }

    /// What Compose says of the start is not what became of it.
    async fn begin(&self, shot: &OneShot<'_>, container: &str) -> Result<(), Reason> {
        let Err(reason) = self.start_one_shot(shot, container).await else { return Ok(()) };
        match self.is_begun(container).await {
            Ok(true) if shot.mark.is_some() => Ok(()),
            // Unless Compose did not reach the engine either.
            Err(_) if shot.mark.is_some() && reason.code != ReasonCode::EngineUnreachable => {
                Err(shot.unknown(&format!("cannot be found: {}", reason.message)))
            }
            _ => Err(reason),
        }
    }

    /// Without the mark a container that is gone would be started again; the container itself tells as well as the mark.
    async fn put(&self, mark: &Path) {
        if let Err(reason) = self.keep(mark, b"").await {
            tracing::warn!(mark = %mark.display(), "that a migration was started cannot be written down: {}", reason.message);
        }
    }

    async fn exit(&self, shot: &OneShot<'_>, container: &str, until: Instant) -> Exit {
        loop {
            let reason = match tokio::time::timeout_at(until, self.exit_code(container)).await {
                Ok(Ok(code)) => return Exit::Code(code),
                Err(_) => return Exit::Late,
                Ok(Err(reason)) => reason,
            };
            if shot.mark.is_none() {
                return Exit::Broken(reason);
            }
            // The engine may have been restarted; what it runs goes on, or has ended.
            let is_gone =
                async { Ok::<_, Reason>(self.engine.inspect(&self.engine.docker()?, container).await?.is_none()) };
            if is_gone.await.unwrap_or(false) {
                return Exit::Gone;
            }
            if Instant::now() + RETRY_INTERVAL >= until {
                return Exit::Late;
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// A container that was made but never started has done nothing yet.
    pub(crate) async fn is_begun(&self, container: &str) -> Result<bool, Reason> {
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
            None => Err(Reason::new(ReasonCode::EngineUnreachable, "the engine ended the wait for a container")
                .hint("see `systemctl status docker` on the host; then promote again")),
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

/// Shells, and Docker with them, tell the signals that stop a process from outside by these codes.
fn is_signal(code: i64) -> bool {
    const HANG_UP: i64 = 1;
    const INTERRUPT: i64 = 2;
    const QUIT: i64 = 3;
    const KILL: i64 = 9;
    const TERMINATE: i64 = 15;
    matches!(code - 128, HANG_UP | INTERRUPT | QUIT | KILL | TERMINATE)
}

/// What a one-shot said last, for people.
pub(crate) fn summary(ended: &Ended, stack: &Stack) -> Option<String> {
    logs::last_line(&ended.output, &stack.redactor)
}
