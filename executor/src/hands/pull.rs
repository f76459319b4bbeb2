//! Brings every promised image onto the host, by digest, with progress per layer.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::{CreateImageOptionsBuilder, TagImageOptionsBuilder};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use landfall_deploy::{Evidence, Order};
use landfall_schema::ids::{Counter, ServiceName};
use landfall_schema::outcome::{Progress, Reason, ReasonCode};
use landfall_schema::promotion::{PinnedImage, Promotion};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::credentials;
use super::engine::one_line;
use super::{Context, Hands, effect_deadline};
use crate::failpoint::failpoint;

/// Between two reports of one image's progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// A registry that sends nothing for this long counts as gone.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(120);
/// The registry part of the tags by which a host keeps releases; nothing is ever pulled from it.
pub(crate) const KEEPER: &str = "landfall.local";

struct Brought {
    fetched: bool,
    bytes: u64,
}

impl Hands {
    pub(crate) async fn pull(&self, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        let brought = self.bring(&order.promotion, Some(&context.progress), effect_deadline(context)).await?;
        let fetched = brought.iter().filter(|image| image.fetched).count() as u32;
        Ok(Evidence::Pulled {
            images: brought.len() as u32,
            already_here: brought.len() as u32 - fetched,
            bytes: brought.iter().map(|image| image.bytes).sum(),
        })
    }

    /// Images that are here already cost one inspection. Each is fetched once, however many services run it.
    pub(crate) async fn ensure_images(&self, promotion: &Promotion, deadline: Instant) -> Result<(), Reason> {
        self.bring(promotion, None, deadline).await.map(drop)
    }

    async fn bring(
        &self,
        promotion: &Promotion,
        progress: Option<&mpsc::Sender<Progress>>,
        deadline: Instant,
    ) -> Result<Vec<Brought>, Reason> {
        let mut by_reference: BTreeMap<String, (&PinnedImage, Vec<&ServiceName>)> = BTreeMap::new();
        for (service, image) in &promotion.images {
            by_reference.entry(image.reference()).or_insert((image, Vec::new())).1.push(service);
        }
        let docker = self.engine.docker()?;
        let here = by_reference.keys().map(|reference| self.engine.image(&docker, reference));
        let here = try_join_all(here).await?;
        if here.iter().any(Option::is_none) {
            self.check_disk().await?;
        }
        let brought = by_reference.values().zip(here).map(|((image, services), here)| async move {
            let (inspected, brought) = match here {
                Some(inspected) => (inspected, Brought { fetched: false, bytes: 0 }),
                None => self.fetch(image, services[0], progress, deadline).await?,
            };
            failpoint!("pull.fetched");
            check_digest(image, &inspected)?;
            self.tag(image, services, promotion.counter).await?;
            failpoint!("pull.tagged");
            Ok(brought)
        });
        try_join_all(brought).await
    }

    async fn fetch(
        &self,
        image: &PinnedImage,
        service: &ServiceName,
        progress: Option<&mpsc::Sender<Progress>>,
        deadline: Instant,
    ) -> Result<(ImageInspect, Brought), Reason> {
        let reference = image.reference();
        let login = credentials::find(&image.repository, deadline).await.map_err(|error| {
            let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
            Reason::new(ReasonCode::RegistryDenied, format!("no credentials for {reference}: {error}{cause}"))
                .hint("`docker login` as the user that the executor runs as, or correct Docker's config.json")
        })?;
        let docker = self.engine.docker()?;
        let options = CreateImageOptionsBuilder::new().from_image(&reference).build();
        let mut stream = docker.create_image(Some(options), None, login);
        let (mut layers, mut told_at) = (Layers::default(), None::<Instant>);
        loop {
            let until = deadline.min(Instant::now() + SILENCE_TIMEOUT);
            let next = tokio::time::timeout_at(until, stream.next()).await;
            match next.map_err(|_| slow(&reference, Instant::now() >= deadline))? {
                None => break,
                Some(Err(error)) => {
                    return Err(pull_reason(&reference, credentials::registry(&image.repository), &error));
                }
                Some(Ok(info)) => layers.note(&info),
            }
            if let Some(progress) = progress.filter(|_| told_at.is_none_or(|at| at.elapsed() >= PROGRESS_INTERVAL)) {
                told_at = Some(Instant::now());
                // Whoever is too slow to take progress does without this report.
                drop(progress.try_send(layers.progress(service)));
            }
        }
        if let Some(progress) = progress {
            drop(progress.try_send(layers.progress(service)));
        }
        let inspected = self.engine.image(&docker, &reference).await?.ok_or_else(|| {
            Reason::new(ReasonCode::ImageDigestMismatch, format!("the registry gave something else than {reference}"))
        })?;
        Ok((inspected, Brought { fetched: true, bytes: layers.bytes().0 }))
    }

    /// Before the pull, because a full disk hurts what runs.
    async fn check_disk(&self) -> Result<(), Reason> {
        let docker = self.engine.docker()?;
        let info = self.engine.call("asking the engine for its folder", docker.info()).await?;
        let Some(root) = info.docker_root_dir.filter(|root| Path::new(root).is_dir()) else {
            // An engine on another machine; its disk cannot be seen from here.
            return Ok(());
        };
        let stat = nix::sys::statvfs::statvfs(root.as_str())
            .map_err(|error| super::internal(&format!("asking for the free space of {root}"), error))?;
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        if free >= self.config.min_free_bytes {
            return Ok(());
        }
        let message = format!(
            "{root} has {} MB free, {} MB are needed before a pull",
            free / 1_000_000,
            self.config.min_free_bytes / 1_000_000
        );
        Err(Reason::new(ReasonCode::DiskFull, message)
            .hint("free space, e.g. with `docker system df` and `docker image prune`, or lower min_free_disk in the host's configuration"))
    }

    /// A tag of our own, so that a plain `docker image prune` leaves the release alone.
    async fn tag(&self, image: &PinnedImage, services: &[&ServiceName], counter: Counter) -> Result<(), Reason> {
        let docker = self.engine.docker()?;
        for service in services {
            let repository = keeper_repository(self.engine.project(), service.as_str());
            let options = TagImageOptionsBuilder::new().repo(&repository).tag(&counter.0.to_string()).build();
            self.engine.call("tagging an image", docker.tag_image(&image.reference(), Some(options))).await?;
        }
        Ok(())
    }
}

/// `landfall.local/<project>/<service>`, in the characters that a repository may have.
pub(crate) fn keeper_repository(project: &str, service: &str) -> String {
    format!("{KEEPER}/{}/{}", repository_part(project), repository_part(service))
}

/// Lower case letters and digits, and dashes between them. Every dash stays: a preview's name differs by one.
pub(crate) fn repository_part(name: &str) -> String {
    let dashed: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let part = dashed.trim_matches('-').to_owned();
    if part.is_empty() { "x".to_owned() } else { part }
}

fn check_digest(image: &PinnedImage, inspected: &ImageInspect) -> Result<(), Reason> {
    let digests = inspected.repo_digests.as_deref().unwrap_or_default();
    if digests.iter().any(|known| known.ends_with(image.digest.as_str()))
        || inspected.id.as_deref() == Some(image.digest.as_str())
    {
        return Ok(());
    }
    let found = if digests.is_empty() { "none".to_owned() } else { digests.join(", ") };
    Err(Reason::new(
        ReasonCode::ImageDigestMismatch,
        format!("{} was promised, the engine knows the image by {found}", image.reference()),
    )
    .hint("do not run it: the registry or the way to it changed the image"))
}

fn slow(reference: &str, at_deadline: bool) -> Reason {
    match at_deadline {
        true => Reason::new(ReasonCode::DeadlineExceeded, format!("pulling {reference} took too long")),
        false => Reason::new(
            ReasonCode::RegistryUnreachable,
            format!("the registry sent nothing of {reference} for {} s", SILENCE_TIMEOUT.as_secs()),
        ),
    }
    .hint("the deploy can be promoted again; layers that are here already are kept")
}

fn pull_reason(reference: &str, registry: &str, error: &bollard::errors::Error) -> Reason {
    use bollard::errors::Error;
    let text = match error {
        Error::DockerStreamError { error } => one_line(error),
        Error::DockerResponseServerError { message, .. } => one_line(message),
        other => return Reason::new(ReasonCode::EngineUnreachable, format!("pulling {reference}: {other}")),
    };
    let code = pull_code(&text);
    let reason = Reason::new(code, format!("pulling {reference}: {text}"));
    match code {
        ReasonCode::ImageNotFound => {
            reason.hint(format!("is it pushed? `docker manifest inspect {reference}` asks the registry"))
        }
        ReasonCode::RegistryDenied => {
            reason.hint(format!("`docker login {registry}` on the host, as the user that the executor runs as"))
        }
        ReasonCode::RegistryUnreachable => reason.hint(format!("is {registry} up, and does this host reach it?")),
        ReasonCode::ImageDigestMismatch => {
            reason.hint("do not run it: the registry or the way to it changed the image")
        }
        ReasonCode::DiskFull => {
            reason.hint("free disk space on the host, e.g. with `docker system df` and `docker image prune`")
        }
        _ => reason,
    }
}

/// The engine tells registries' errors in words only.
fn pull_code(text: &str) -> ReasonCode {
    let text = text.to_ascii_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    if has(&["no space left on device", "disk quota exceeded"]) {
        ReasonCode::DiskFull
    } else if has(&["verification failed", "failed commit on ref", "unexpected commit digest"]) {
        ReasonCode::ImageDigestMismatch
    } else if has(&[
        "manifest unknown",
        "not found: manifest",
        "name unknown",
        "repository name not known",
        "manifest for",
    ]) {
        ReasonCode::ImageNotFound
    } else if has(&["no basic auth", "unauthorized", "denied", "authentication required", "forbidden", "401", "403"]) {
        ReasonCode::RegistryDenied
    } else if has(&["not found"]) {
        ReasonCode::ImageNotFound
    } else {
        ReasonCode::RegistryUnreachable
    }
}

/// What the engine told of each layer.
#[derive(Default)]
struct Layers {
    by_id: HashMap<String, Layer>,
}

#[derive(Default)]
struct Layer {
    done: bool,
    bytes_done: u64,
    bytes_total: u64,
}

impl Layers {
    fn note(&mut self, info: &CreateImageInfo) {
        let (Some(id), Some(status)) = (&info.id, info.status.as_deref()) else { return };
        // Lines about the whole image have a tag or digest in the layer's place.
        if status.starts_with("Pulling from") {
            return;
        }
        let layer = self.by_id.entry(id.clone()).or_default();
        match status {
            "Pull complete" | "Already exists" => layer.done = true,
            "Download complete" => layer.bytes_done = layer.bytes_total,
            "Downloading" => {
                let detail = info.progress_detail.as_ref();
                let number = |value: Option<i64>| value.and_then(|n| u64::try_from(n).ok());
                layer.bytes_done = detail.and_then(|d| number(d.current)).unwrap_or(layer.bytes_done);
                layer.bytes_total =
                    detail.and_then(|d| number(d.total)).unwrap_or(layer.bytes_total).max(layer.bytes_done);
            }
            _ => {}
        }
    }

    fn bytes(&self) -> (u64, u64) {
        // The sizes are the registry's word.
        let add = |(done, total): (u64, u64), layer: &Layer| {
            (done.saturating_add(layer.bytes_done), total.saturating_add(layer.bytes_total))
        };
        self.by_id.values().fold((0, 0), add)
    }

    fn progress(&self, service: &ServiceName) -> Progress {
        let (bytes_done, bytes_total) = self.bytes();
        Progress {
            service: service.clone(),
            layers_done: self.by_id.values().filter(|layer| layer.done).count() as u32,
            layers_total: self.by_id.len() as u32,
            bytes_done,
            bytes_total,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bollard::models::ProgressDetail;

    #[test]
    fn errors_by_text() {
        for (text, code) in [
            (
                "manifest for 127.0.0.1:5000/shop@sha256:0 not found: manifest unknown: manifest unknown",
                ReasonCode::ImageNotFound,
            ),
            ("Get \"http://127.0.0.1:5000/v2/x/manifests/y\": no basic auth credentials", ReasonCode::RegistryDenied),
            (
                "pull access denied for shop, repository does not exist or may require 'docker login': denied",
                ReasonCode::RegistryDenied,
            ),
            (
                "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
                ReasonCode::RegistryUnreachable,
            ),
            ("manifest verification failed for digest sha256:0", ReasonCode::ImageDigestMismatch),
            ("filesystem layer verification failed for digest sha256:0", ReasonCode::ImageDigestMismatch),
            ("dial tcp: lookup registry.example: no such host", ReasonCode::RegistryUnreachable),
            ("failed to register layer: write /x: no space left on device", ReasonCode::DiskFull),
        ] {
            assert_eq!(pull_code(text), code, "{text}");
        }
    }

    #[test]
    fn layers_are_counted() {
        let mut layers = Layers::default();
        let mut note = |id: &str, status: &str, at: Option<(i64, i64)>| {
            layers.note(&CreateImageInfo {
                id: Some(id.to_owned()),
                status: Some(status.to_owned()),
                progress_detail: at
                    .map(|(current, total)| ProgressDetail { current: Some(current), total: Some(total) }),
                ..Default::default()
            });
        };
        note("latest", "Pulling from shop", None);
        note("a", "Pulling fs layer", None);
        note("b", "Already exists", None);
        note("a", "Downloading", Some((10, 40)));
        note("c", "Downloading", Some((5, 10)));
        note("c", "Download complete", None);
        note("c", "Pull complete", None);
        let progress = layers.progress(&"app".parse().unwrap());
        assert_eq!(
            (progress.layers_done, progress.layers_total, progress.bytes_done, progress.bytes_total),
            (2, 3, 20, 50)
        );
    }

    #[test]
    fn keeper_names_are_valid() {
        assert_eq!(keeper_repository("shop", "My_App..1"), "landfall.local/shop/my-app--1");
        assert_eq!(keeper_repository("shop", "_"), "landfall.local/shop/x");
    }
}
