//! The way back: the former release, the stack that was there before Landfall, or nothing.

use std::collections::BTreeMap;
use std::path::Path;

use landfall_deploy::{Evidence, Order};
use landfall_schema::ids::ServiceName;
use landfall_schema::outcome::{Reason, ReasonCode};
use tokio::time::Instant;
use tracing::warn;

use super::compose::{self, Invocation};
use super::former::Preexisting;
use super::{Context, Hands, effect_deadline, memory, overrides};
use crate::failpoint::failpoint;

const FORMER_OVERRIDE: &str = "former.override.yml";

impl Hands {
    pub(crate) async fn restore(&self, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        let deadline = effect_deadline(context);
        // What another environment has put there meanwhile is not ours to take away.
        self.check_ours(&self.engine.containers().await?)?;
        if let Some(former) = &context.former {
            let stack = self.former_stack_of_today(former, deadline).await?;
            // They are kept on this host; somebody may have removed them by hand.
            self.ensure_images(&former.promotion, deadline).await?;
            failpoint!("restore.up.before");
            match self.touched(order.promotion.counter).await? {
                Some(names) => self.restore_only(&stack, &names, deadline).await?,
                None => self.up(&stack.invocation, &stack.redactor, deadline).await?,
            }
            failpoint!("restore.up.after");
        } else {
            match self.preexisting(order.promotion.counter).await? {
                Some(found) => self.restore_preexisting(order, context, &found, deadline).await?,
                None => self.take_down(order, context, deadline).await?,
            }
        }
        // Compose was ended while the engine made one: then nobody starts it any more.
        if let Err(reason) = self.remove_one_shots(|container| container.unstarted).await {
            warn!(
                "a container that was made and never started may be left; the next commit removes it: {}",
                reason.message
            );
        }
        Ok(Evidence::Restored)
    }

    /// With its own files if they are still there, else with the promoted ones; in both cases with the images that ran.
    async fn restore_preexisting(
        &self,
        order: &Order,
        context: &Context,
        found: &Preexisting,
        deadline: Instant,
    ) -> Result<(), Reason> {
        let stack = self.stack(order, context).await?;
        let images: BTreeMap<ServiceName, String> =
            found.image_ids.iter().map(|(name, id)| (name.clone(), id.to_string())).collect();
        let path = self.stack_dir(order.promotion.counter).join(FORMER_OVERRIDE);
        self.keep(&path, overrides::pins(&images).as_bytes()).await?;
        let mut invocation: Invocation = stack.invocation.clone();
        if !found.files.is_empty() && found.files.iter().all(|file| file.is_file()) {
            let directory = found.directory.clone().filter(|directory| directory.is_dir());
            let directory = directory.unwrap_or_else(|| invocation.directory.clone());
            match self.former_env_files(found, &directory).await {
                Ok(env_files) => {
                    let (files, project, lock) = (found.files.clone(), invocation.project, invocation.lock);
                    let variables = Vec::new();
                    invocation =
                        Invocation { project, directory, files, env_files, environment: None, variables, lock };
                }
                Err(reason) => {
                    warn!("the stack goes back with the promoted files instead of its own: {}", reason.message);
                }
            }
        }
        invocation.files.push(path);
        let names: Vec<&str> = images.keys().map(ServiceName::as_str).collect();
        let mut args = vec!["up", "--detach", "--no-build", "--pull", "never", "--no-deps", "--remove-orphans", "--"];
        args.extend(&names);
        let output = self.compose.change(&invocation, &args, deadline).await?;
        if output.code != Some(0) {
            return Err(compose::up_reason(&output.stderr, &stack.redactor));
        }
        self.remove_others(&found.image_ids.keys().collect::<Vec<_>>()).await
    }

    /// Those it was started with, or the one that Compose finds by itself.
    async fn former_env_files(&self, found: &Preexisting, directory: &Path) -> Result<Vec<memory::Text>, Reason> {
        if found.env_files.is_empty() {
            let path = directory.join(".env");
            let text = self.own_file(path.clone(), directory).await?.unwrap_or_default();
            return Ok(vec![memory::Text::new(path, text)]);
        }
        let mut texts = Vec::new();
        for path in &found.env_files {
            // Wherever somebody had it when they started the stack; a link that leads away from there is of later.
            let folder = path.parent().unwrap_or(directory);
            let text = self.own_file(path.clone(), folder).await?;
            let text =
                text.ok_or_else(|| Reason::new(ReasonCode::EnvFileMissing, format!("{} is gone", path.display())))?;
            texts.push(memory::Text::new(path.clone(), text));
        }
        Ok(texts)
    }

    /// Services that only the failed release had.
    async fn remove_others(&self, wanted: &[&ServiceName]) -> Result<(), Reason> {
        let docker = self.engine.docker()?;
        for container in self.engine.containers().await? {
            if !wanted.contains(&&container.service) {
                self.engine.remove_container(&docker, &container.id).await?;
            }
        }
        Ok(())
    }

    /// After a failed first deploy nothing is left but the volumes.
    async fn take_down(&self, order: &Order, context: &Context, deadline: Instant) -> Result<(), Reason> {
        let stack = self.stack(order, context).await?;
        failpoint!("restore.down.before");
        let output = self.compose.change(&stack.invocation, &["down", "--remove-orphans"], deadline).await?;
        failpoint!("restore.down.after");
        if output.code == Some(0) {
            return Ok(());
        }
        let reason = compose::up_reason(&output.stderr, &stack.redactor);
        Err(Reason { code: ReasonCode::RollbackFailed, ..reason }
            .hint(format!("`docker compose --project-name {} down` on the host", stack.invocation.project)))
    }
}
