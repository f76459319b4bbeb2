//! Commit: what belongs to releases that this host does not go back to any more is removed. Images that anything else uses stay.

use std::collections::{BTreeSet, HashMap};

use bollard::models::ImageSummary;
use bollard::query_parameters::{
    ListContainersOptions, ListImagesOptionsBuilder, RemoveImageOptions, RemoveImageOptionsBuilder,
};
use landfall_deploy::{Evidence, Order};
use landfall_schema::ids::Counter;
use landfall_schema::outcome::Reason;

use super::engine::{Container, LABEL_COUNTER};
use super::pull::{KEEPER, repository_part};
use super::{Context, Hands};
use crate::failpoint::failpoint;

/// What becomes of our names for an image that a container of anybody uses. The image itself stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InUse {
    Keep,
    Untag,
}

impl Hands {
    pub(crate) async fn clean_up(&self, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        let kept = self.kept(order.promotion.counter, context);
        // The former release stays held: the fleet may still take this one back, and people may.
        self.let_go(Some(order.promotion.counter)).await?;
        let (images, containers, folders) = tokio::join!(
            self.remove_old_images(&kept, InUse::Keep),
            self.remove_finished_one_shots(),
            self.remove_old_folders(&kept)
        );
        containers?;
        folders?;
        Ok(Evidence::Committed { images_removed: images? })
    }

    /// The running release and the newest good ones before it.
    fn kept(&self, current: Counter, context: &Context) -> BTreeSet<u64> {
        let mut good: Vec<u64> =
            context.last_good.iter().chain(&context.former).map(|release| release.counter.0).collect();
        good.retain(|counter| *counter != current.0);
        good.sort_unstable();
        good.dedup();
        good.into_iter().rev().take(self.config.keep_releases).chain([current.0]).collect()
    }

    pub(crate) async fn remove_old_images(&self, kept: &BTreeSet<u64>, in_use: InUse) -> Result<u32, Reason> {
        let docker = self.engine.docker()?;
        let own = format!("{KEEPER}/{}/", repository_part(self.engine.project()));
        let filters = HashMap::from([("reference", vec![format!("{own}*")])]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let images = self.engine.call("listing images", docker.list_images(Some(options))).await?;
        let old: Vec<(ImageSummary, Vec<String>)> = images
            .into_iter()
            .filter_map(|image| {
                let tags: Vec<String> = image.repo_tags.iter().filter(|tag| is_old(tag, &own, kept)).cloned().collect();
                (!tags.is_empty()).then_some((image, tags))
            })
            .collect();
        if old.is_empty() {
            return Ok(0);
        }
        let all = ListContainersOptions { all: true, ..Default::default() };
        let containers = self.engine.call("listing containers", docker.list_containers(Some(all))).await?;
        let used: BTreeSet<String> = containers.into_iter().filter_map(|container| container.image_id).collect();
        let mut removed = 0;
        for (image, tags) in old {
            // The listing may leave out tags that the filter does not match, so the image itself is asked.
            let Some(inspected) = self.engine.image(&docker, &image.id).await? else { continue };
            let others = inspected.repo_tags.unwrap_or_default().iter().any(|tag| !tags.contains(tag));
            let mut names = tags;
            if !others && !used.contains(&image.id) {
                // The digests go first: an image is gone with its last name.
                names.splice(0..0, inspected.repo_digests.unwrap_or_default());
                removed += 1;
            } else if used.contains(&image.id) && in_use == InUse::Keep {
                continue;
            }
            for name in names {
                failpoint!("commit.image-removal.before");
                self.remove_image(&name).await?;
                failpoint!("commit.image-removal.after");
            }
        }
        Ok(removed)
    }

    /// Without force: an image that came into use meanwhile stays, and that is no failure.
    async fn remove_image(&self, name: &str) -> Result<(), Reason> {
        let docker = self.engine.docker()?;
        let options: RemoveImageOptions = RemoveImageOptionsBuilder::new().force(false).build();
        let removal = async {
            match docker.remove_image(name, Some(options), None).await {
                Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
                other => other.map(drop),
            }
        };
        self.engine.call("removing an image", removal).await
    }

    /// They were kept so that a restart would find them; their results are journalled now.
    async fn remove_finished_one_shots(&self) -> Result<(), Reason> {
        if self.remove_one_shots(|container| !container.running).await? > 0 {
            failpoint!("commit.one-shot-removed");
        }
        Ok(())
    }

    /// How many there were.
    pub(crate) async fn remove_one_shots(&self, is_past: impl Fn(&Container) -> bool) -> Result<u32, Reason> {
        let docker = self.engine.docker()?;
        let mut removed = 0;
        for container in self.engine.containers().await? {
            if container.one_off && is_past(&container) && container.labels.contains_key(LABEL_COUNTER) {
                self.engine.remove_container(&docker, &container.id).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    async fn remove_old_folders(&self, kept: &BTreeSet<u64>) -> Result<(), Reason> {
        let stacks = self.config.state_dir.join("stacks").join(self.engine.project());
        let trouble = |error| super::internal("removing old stacks", error);
        let mut entries = tokio::fs::read_dir(&stacks).await.map_err(trouble)?;
        while let Some(entry) = entries.next_entry().await.map_err(trouble)? {
            let counter = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
            if counter.is_some_and(|counter| !kept.contains(&counter)) {
                tokio::fs::remove_dir_all(entry.path()).await.map_err(trouble)?;
                failpoint!("commit.folder-removed");
            }
        }
        Ok(())
    }
}

/// Whether the tag is one of ours for a release that is not kept.
fn is_old(tag: &str, own: &str, kept: &BTreeSet<u64>) -> bool {
    let counter = tag
        .strip_prefix(own)
        .and_then(|rest| rest.rsplit_once(':'))
        .and_then(|(_, counter)| counter.parse::<u64>().ok());
    counter.is_some_and(|counter| !kept.contains(&counter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_old_tags_are_old() {
        let kept = BTreeSet::from([3, 4]);
        let old = |tag: &str| is_old(tag, "landfall.local/shop/", &kept);
        assert!(old("landfall.local/shop/app:2"));
        assert!(
            !old("landfall.local/shop/app:3")
                && !old("landfall.local/shop2/app:2")
                && !old("shop/app:2")
                && !old("landfall.local/shop/app:x")
        );
    }
}
