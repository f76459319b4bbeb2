//! The end of a preview: nothing of its project is left, and the engine says so.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use bollard::Docker;
use bollard::query_parameters::{ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, RemoveVolumeOptionsBuilder};
use landfall_deploy::{Evidence, Order};
use landfall_schema::outcome::{Reason, ReasonCode};

use super::cleanup::InUse;
use super::compose::Invocation;
use super::engine::{LABEL_PROJECT, one_line};
use super::{Context, Hands, effect_deadline, internal};
use crate::failpoint::failpoint;

/// What the engine has of a project.
#[derive(Debug, Default, PartialEq, Eq)]
struct Remains {
    containers: Vec<String>,
    networks: Vec<String>,
    volumes: Vec<String>,
}

impl Remains {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// In the words of an outcome.
    fn told(&self) -> Vec<String> {
        let count = |count: usize, one: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            many => Some(format!("{many} {one}s")),
        };
        let parts =
            [(self.containers.len(), "container"), (self.networks.len(), "network"), (self.volumes.len(), "volume")];
        parts.into_iter().filter_map(|(number, one)| count(number, one)).collect()
    }
}

impl Hands {
    pub(crate) async fn remove(&self, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        if order.promotion.preview.is_none() || !self.is_preview_directory() {
            let message = format!("{} is no preview, and nothing else is removed", order.promotion.app);
            return Err(Reason::new(ReasonCode::PolicyViolation, message)
                .hint("stop a service of a stack by taking it out of its compose file, and promote; a whole stack goes by hand: `docker compose down` on the host"));
        }
        self.engine.ping().await?;
        self.check_ours(&self.engine.containers().await?)?;
        let docker = self.engine.docker()?;
        let found = self.remains(&docker).await?;
        if !found.is_empty() {
            self.take_all_down(context).await?;
            failpoint!("remove.down.after");
            let left = self.remains(&docker).await?;
            self.remove_remains(&docker, &left).await?;
        }
        self.let_go(None).await?;
        let images = self.remove_old_images(&BTreeSet::new(), InUse::Untag).await?;
        let left = self.remains(&docker).await?;
        if !left.is_empty() {
            let message = format!("of the project {} there is still {}", self.engine.project(), left.told().join(", "));
            return Err(Reason::new(ReasonCode::UpdateFailed, message).hint(format!(
                "something uses it: see `docker ps --all` on the host; by hand it goes with `docker compose --project-name {} down --volumes`",
                self.engine.project()
            )));
        }
        let mut what = found.told();
        match images {
            0 => {}
            1 => what.push("1 image".to_owned()),
            images => what.push(format!("{images} images")),
        }
        let folders = [self.stacks_dir(), self.config.stack.directory.clone()];
        let mut files = false;
        for folder in folders {
            files |= remove_folder(&folder).await?;
            failpoint!("remove.folder-removed");
        }
        if files {
            what.push("its files".to_owned());
        }
        self.forget_rendered();
        Ok(Evidence::Removed { what })
    }

    /// Only below the executor's own folder is a directory a preview's own.
    fn is_preview_directory(&self) -> bool {
        self.config.stack.directory.starts_with(self.config.state_dir.join("previews"))
    }

    /// Compose stops the containers as they want to be stopped. What it could not do is done after it, so its failure is only told.
    async fn take_all_down(&self, context: &Context) -> Result<(), Reason> {
        let stacks = self.stacks_dir();
        tokio::fs::create_dir_all(&stacks).await.map_err(|error| internal("making the stack's folder", error))?;
        let invocation = Invocation {
            project: self.engine.project().to_owned(),
            directory: stacks,
            files: Vec::new(),
            // Nobody but this executor puts anything where Compose would look for one.
            env_files: Vec::new(),
            environment: None,
            variables: Vec::new(),
            lock: self.lock_file(),
        };
        let args = ["down", "--volumes", "--remove-orphans"];
        let output = self.compose.change(&invocation, &args, effect_deadline(context)).await?;
        if output.code != Some(0) {
            tracing::warn!(project = self.engine.project(), "docker compose down: {}", one_line(&output.stderr));
        }
        Ok(())
    }

    async fn remains(&self, docker: &Docker) -> Result<Remains, Reason> {
        let filters = || HashMap::from([("label", vec![format!("{LABEL_PROJECT}={}", self.engine.project())])]);
        let networks = ListNetworksOptionsBuilder::new().filters(&filters()).build();
        let networks = self.engine.call("listing networks", docker.list_networks(Some(networks))).await?;
        let volumes = ListVolumesOptionsBuilder::new().filters(&filters()).build();
        let volumes = self.engine.call("listing volumes", docker.list_volumes(Some(volumes))).await?;
        Ok(Remains {
            containers: self.engine.container_ids().await?,
            networks: networks.into_iter().filter_map(|network| network.id).collect(),
            volumes: volumes.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect(),
        })
    }

    async fn remove_remains(&self, docker: &Docker, left: &Remains) -> Result<(), Reason> {
        for container in &left.containers {
            self.engine.remove_container(docker, container).await?;
        }
        for network in &left.networks {
            self.engine.optional("removing a network", docker.remove_network(network)).await?;
        }
        for volume in &left.volumes {
            let options = RemoveVolumeOptionsBuilder::new().build();
            self.engine.optional("removing a volume", docker.remove_volume(volume, Some(options))).await?;
        }
        Ok(())
    }

    fn stacks_dir(&self) -> PathBuf {
        self.config.state_dir.join("stacks").join(self.engine.project())
    }
}

/// Whether there was one.
async fn remove_folder(folder: &Path) -> Result<bool, Reason> {
    match tokio::fs::remove_dir_all(folder).await {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(internal(&format!("removing {}", folder.display()), error)),
    }
}
