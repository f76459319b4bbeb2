//! Images to go back to that nobody can clean away in the middle of a deploy: a container that is made and never started uses them, so
//! `docker image prune --all` leaves them, and the rollback needs no registry.

use std::collections::{BTreeSet, HashMap};

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptionsBuilder, ListContainersOptionsBuilder};
use landfall_schema::ids::Counter;
use landfall_schema::outcome::Reason;

use super::engine::{Container, LABEL_COUNTER};
use super::{Context, Hands};

/// Names the project whose images the container holds.
pub(crate) const LABEL_HELD: &str = "dev.landfall.held";
/// Of an image's id, in the container's name.
const ID_CHARS: usize = 12;

impl Hands {
    /// Of what runs before the swap, and of the former release.
    pub(crate) async fn hold(&self, counter: Counter, before: &[Container], context: &Context) -> Result<(), Reason> {
        let docker = self.engine.docker()?;
        let mut images: BTreeSet<String> =
            before.iter().filter(|container| !container.one_off).map(|container| container.image_id.clone()).collect();
        for image in context.former.iter().flat_map(|former| former.promotion.images.values()) {
            // One that is gone already would have to be pulled for the way back; it is no reason not to go on.
            images.extend(self.engine.image(&docker, &image.reference()).await?.and_then(|found| found.id));
        }
        for image in images {
            let id = image.trim_start_matches("sha256:").get(..ID_CHARS).unwrap_or_default().to_owned();
            let name = format!("landfall-held-{}-{}-{id}", self.engine.project(), counter.0);
            let options = CreateContainerOptionsBuilder::new().name(&name).build();
            let body = ContainerCreateBody {
                image: Some(image),
                // An image need not have a command, and this one is never run.
                entrypoint: Some(vec!["never-started".to_owned()]),
                labels: Some(HashMap::from([
                    (LABEL_HELD.to_owned(), self.engine.project().to_owned()),
                    (LABEL_COUNTER.to_owned(), counter.0.to_string()),
                ])),
                host_config: Some(HostConfig { network_mode: Some("none".to_owned()), ..HostConfig::default() }),
                ..ContainerCreateBody::default()
            };
            let made = async {
                match docker.create_container(Some(options), body).await {
                    // Before a restart; or the image went away this very moment.
                    Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
                    other => other.map(drop),
                }
            };
            self.engine.call("holding an image", made).await?;
        }
        Ok(())
    }

    /// What is held for another promotion than this one; with `None` everything.
    pub(crate) async fn let_go(&self, but: Option<Counter>) -> Result<(), Reason> {
        let docker = self.engine.docker()?;
        let filters = HashMap::from([("label", vec![format!("{LABEL_HELD}={}", self.engine.project())])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let held = self.engine.call("listing containers", docker.list_containers(Some(options))).await?;
        let but = but.map(|counter| counter.0.to_string());
        for container in held {
            let counter = container.labels.as_ref().and_then(|labels| labels.get(LABEL_COUNTER));
            if let Some(id) = container.id.filter(|_| but.is_none() || counter != but.as_ref()) {
                self.engine.remove_container(&docker, &id).await?;
            }
        }
        Ok(())
    }
}
