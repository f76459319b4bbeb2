//! What served before: a committed release, or a stack that somebody started before Landfall came.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use landfall_schema::ids::{Counter, Digest, ServiceName};
use landfall_schema::outcome::Reason;
use serde::{Deserialize, Serialize};

use tokio::time::Instant;
use tracing::warn;

use super::engine::Container;
use super::render::Stack;
use super::{Committed, Hands, internal, memory};

const FILE: &str = "former.landfall.json";
const SERVING_FILE: &str = "serving.landfall.json";
const LABEL_FILES: &str = "com.docker.compose.project.config_files";
const LABEL_ENV_FILES: &str = "com.docker.compose.project.environment_file";
const LABEL_DIRECTORY: &str = "com.docker.compose.project.working_dir";

/// A stack that was there before Landfall, as its containers tell. Kept on disk, because after the swap they are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Preexisting {
    /// The images' own ids: local builds have no other digest.
    pub(crate) image_ids: BTreeMap<ServiceName, Digest>,
    pub(crate) files: Vec<PathBuf>,
    pub(crate) env_files: Vec<PathBuf>,
    pub(crate) directory: Option<PathBuf>,
}

impl Preexisting {
    /// `None` when no service of the project runs.
    pub(crate) fn of(containers: &[Container]) -> Option<Self> {
        let running: Vec<&Container> =
            containers.iter().filter(|container| container.running && !container.one_off).collect();
        let first = running.first()?;
        let paths = |label: &str| -> Vec<PathBuf> {
            let list = first.labels.get(label).map_or("", String::as_str);
            let paths = list.split(',').filter(|path| !path.is_empty()).map(PathBuf::from);
            paths.filter(|path| !memory::is_past(path)).collect()
        };
        let image_ids: BTreeMap<ServiceName, Digest> = running
            .iter()
            .filter_map(|container| Some((container.service.clone(), Digest::new(container.image_id.clone()).ok()?)))
            .collect();
        let directory = paths(LABEL_DIRECTORY).into_iter().next();
        (!image_ids.is_empty()).then(|| Self {
            image_ids,
            files: paths(LABEL_FILES),
            env_files: paths(LABEL_ENV_FILES),
            directory,
        })
    }

    pub(crate) fn images(&self) -> BTreeMap<ServiceName, Digest> {
        self.image_ids.clone()
    }
}

impl Hands {
    /// What `ProveFormer` must find: the images of the former release's services that serve.
    pub(crate) async fn former_images(
        &self,
        former: &Committed,
        deadline: Instant,
    ) -> Result<BTreeMap<ServiceName, Digest>, Reason> {
        let written = tokio::fs::read(self.stack_dir(former.counter).join(SERVING_FILE)).await.ok();
        let serving: Vec<ServiceName> = match written.and_then(|text| serde_json::from_slice(&text).ok()) {
            Some(serving) => serving,
            None => self.former_stack(former, deadline).await?.serving().map(|service| service.name.clone()).collect(),
        };
        let images = former.promotion.images.iter().filter(|(name, _)| serving.contains(name));
        Ok(images.map(|(name, image)| (name.clone(), image.digest.clone())).collect())
    }

    /// Written down whenever a stack is rendered, so that the next deploy knows it without rendering it again.
    pub(crate) async fn keep_serving(&self, stack: &Stack) -> Result<(), Reason> {
        let serving: Vec<&ServiceName> = stack.serving().map(|service| &service.name).collect();
        let text =
            serde_json::to_vec(&serving).map_err(|error| internal("writing down the stack's services", error))?;
        self.keep(&self.stack_dir(stack.counter).join(SERVING_FILE), &text).await
    }

    pub(crate) async fn former_stack(&self, former: &Committed, deadline: Instant) -> Result<Arc<Stack>, Reason> {
        match self.remembered(former.counter) {
            Some(stack) => Ok(stack),
            None => self.render(&former.promotion, &former.bundle, deadline).await,
        }
    }

    /// With the host's settings as they are now: what was changed there since may be why there is a way back, or what the former release needs
    /// meanwhile. Where they are of no use, with those that it had.
    pub(crate) async fn former_stack_of_today(
        &self,
        former: &Committed,
        deadline: Instant,
    ) -> Result<Arc<Stack>, Reason> {
        let remembered = self.remembered(former.counter);
        match (self.render(&former.promotion, &former.bundle, deadline).await, remembered) {
            (Err(reason), Some(stack)) => {
                warn!("the former release comes back with the settings that it had: {}", reason.message);
                Ok(stack)
            }
            (rendered, _) => rendered,
        }
    }

    pub(crate) async fn keep_preexisting(&self, counter: Counter, found: Option<&Preexisting>) -> Result<(), Reason> {
        let text = serde_json::to_vec(&found).map_err(|error| internal("writing down the former stack", error))?;
        self.keep(&self.stack_dir(counter).join(FILE), &text).await
    }

    /// What `Observe` of this promotion found; `None` for a first deploy.
    pub(crate) async fn preexisting(&self, counter: Counter) -> Result<Option<Preexisting>, Reason> {
        let path = self.stack_dir(counter).join(FILE);
        let text = tokio::fs::read(&path).await.map_err(|error| internal("reading what ran before", error))?;
        serde_json::from_slice(&text).map_err(|error| internal("reading what ran before", error))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::HashMap;

    fn container(service: &str, running: bool, one_off: bool) -> Container {
        Container {
            id: service.to_owned(),
            service: service.parse().unwrap(),
            image_id: Digest::of(service.as_bytes()).to_string(),
            running,
            unstarted: false,
            one_off,
            labels: HashMap::from([(LABEL_FILES.to_owned(), "/opt/a.yml,/opt/b.yml,/proc/7/fd/9".to_owned())]),
        }
    }

    #[test]
    fn only_what_runs_is_former() {
        assert_eq!(Preexisting::of(&[container("a", false, false), container("b", true, true)]), None);
        let found = Preexisting::of(&[container("a", false, false), container("c", true, false)]).unwrap();
        assert_eq!(found.image_ids.len(), 1);
        assert_eq!(found.files, ["/opt/a.yml", "/opt/b.yml"].map(PathBuf::from));
    }
}
