//! `--only`: some services change, the images of the others come from what runs.

use std::collections::{BTreeMap, BTreeSet};

use landfall_bus::Bus;
use landfall_schema::ids::{AppName, EnvName, ServiceName};
use landfall_schema::promotion::{PinnedImage, Promotion};

use crate::compose::Stack;
use crate::error::CliError;
use crate::plan::HostKeys;
use crate::rollback::{read_past, target::Past};
use crate::session::Session;

/// The promotion that the other services stay at: the newest that succeeded, else the newest that serves on a host at least.
pub async fn base(
    bus: &Bus,
    env: &EnvName,
    app: &AppName,
    keys: &HostKeys,
    cli: &Session,
) -> Result<Promotion, CliError> {
    let past = read_past(bus, env, app, keys, cli).await?;
    newest(&past).map(|past| past.promotion().clone()).ok_or_else(|| {
        CliError::new(format!("no release of {app} serves in {env} yet, so the services besides --only have no image"))
            .hint(format!("promote all of {app} once, without --only; see `landfall history {app} --env {env}`"))
    })
}

fn newest(past: &[Past]) -> Option<&Past> {
    let working = past.iter().rev().find(|one| one.worked());
    working.or_else(|| past.iter().rev().find(|one| one.serves_somewhere()))
}

/// The images of all services: of `only` the new ones, of the others those of `base`.
pub fn images(
    stack: &Stack,
    only: &BTreeSet<ServiceName>,
    pinned: BTreeMap<ServiceName, PinnedImage>,
    base: &Promotion,
) -> Result<BTreeMap<ServiceName, PinnedImage>, CliError> {
    let mut images = pinned;
    let mut missing = Vec::new();
    for (name, service) in stack.services.iter().filter(|(name, _)| !only.contains(*name)) {
        match base.images.get(name) {
            Some(image) => drop(images.insert(name.clone(), image.clone())),
            // Nobody starts it, so it needs no image.
            None if service.optional => {}
            None => missing.push(name.as_str()),
        }
    }
    if missing.is_empty() {
        return Ok(images);
    }
    let missing = missing.join(",");
    let message = format!("{} {} has no image for {missing}", base.app, base.release);
    let all: Vec<&str> = only.iter().map(ServiceName::as_str).collect();
    Err(CliError::new(message).hint(format!("they are new: name them as well, --only {},{missing}", all.join(","))))
}

#[cfg(test)]
#[path = "only/tests.rs"]
mod tests;
