//! Backups before a migration: one-shot services, and commands inside running services.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use futures_util::StreamExt;
use landfall_deploy::{Evidence, Order};
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::stack::{BACKUP_DEADLINE_MS, Role};
use tokio::time::Instant;

use super::engine::{Container, OUTPUT_MAX_BYTES, keep_tail};
use super::oneshot::OneShot;
use super::render::{Service, Stack};
use super::{Context, Hands, effect_deadline, logs};
use crate::failpoint::failpoint;

const STEP: &str = "backup";

impl Hands {
    pub(crate) async fn back_up(&self, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        let stack = self.stack(order, context).await?;
        let deadline = effect_deadline(context);
        let needed: BTreeSet<_> =
            stack.one_shots(Role::Backup).flat_map(|service| service.depends_on.keys().cloned()).collect();
        self.ensure_dependencies(&stack, needed, deadline).await?;
        let mut by = Vec::new();
        for service in stack.one_shots(Role::Backup) {
            let shot = OneShot {
                stack: &stack,
                service: service.name.as_str(),
                command: &[],
                step: STEP,
                mark: None,
                limit: limit(service),
                deadline,
                code: ReasonCode::BackupFailed,
            };
            self.run_one_shot(shot).await?;
            by.push(service.name.to_string());
        }
        let containers = self.engine.containers().await?;
        for service in stack.serving().filter(|service| !service.settings.backup.is_empty()) {
            let mut own = containers.iter().filter(|container| container.service == service.name && !container.one_off);
            match own.find(|container| container.running) {
                Some(container) => {
                    self.back_up_inside(&stack, service, container, deadline.min(Instant::now() + limit(service)))
                        .await?;
                    by.push(service.name.to_string());
                }
                // A service that the former release did not have holds nothing to save yet.
                None if !context
                    .former
                    .as_ref()
                    .is_some_and(|former| former.promotion.images.contains_key(&service.name))
                    && !containers.iter().any(|container| container.service == service.name) => {}
                None => {
                    let message =
                        format!("service {} does not run, so its backup command cannot be run in it", service.name);
                    return Err(
                        Reason::new(ReasonCode::BackupFailed, message).hint("start it on the host and promote again")
                    );
                }
            }
        }
        Ok(Evidence::BackedUp { by })
    }

    async fn back_up_inside(
        &self,
        stack: &Stack,
        service: &Service,
        container: &Container,
        deadline: Instant,
    ) -> Result<(), Reason> {
        let docker = self.engine.docker()?;
        let options = CreateExecOptions {
            cmd: Some(service.settings.backup.clone()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let exec = self.engine.call("preparing the backup command", docker.create_exec(&container.id, options)).await?;
        failpoint!("backup.exec.before");
        let began = Instant::now();
        let mut output = Vec::new();
        let run = async {
            let started = docker.start_exec(&exec.id, None::<StartExecOptions>).await?;
            if let StartExecResults::Attached { output: mut stream, .. } = started {
                while let Some(chunk) = stream.next().await {
                    output.extend_from_slice(chunk?.as_ref());
                    keep_tail(&mut output, OUTPUT_MAX_BYTES);
                }
            }
            docker.inspect_exec(&exec.id).await
        };
        let ended = tokio::time::timeout_at(deadline, run).await;
        failpoint!("backup.exec.after");
        let tail =
            logs::tail(&format!("{} ({STEP})", service.name), &String::from_utf8_lossy(&output), &stack.redactor);
        let failed = |why: String| {
            Reason::new(ReasonCode::BackupFailed, format!("the backup command of service {} {why}", service.name))
        };
        match ended {
            Ok(Ok(inspected)) if inspected.exit_code == Some(0) => Ok(()),
            Ok(Ok(inspected)) => {
                let why = tail.lines.last().map_or(String::new(), |line| format!(": {line}"));
                let code = inspected.exit_code.map_or("no code".to_owned(), |code| format!("code {code}"));
                Err(failed(format!("failed with {code}{why}")).logs(vec![tail]))
            }
            Ok(Err(error)) => Err(self.engine.failed("running the backup command", &error)),
            Err(_) => Err(failed(format!("did not end within {} s", began.elapsed().as_secs())).logs(vec![tail])),
        }
    }
}

fn limit(service: &Service) -> Duration {
    Duration::from_millis(service.settings.deadline_ms.unwrap_or(BACKUP_DEADLINE_MS))
}
