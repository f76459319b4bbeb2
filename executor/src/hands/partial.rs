//! Promotions that carry some services only: the others keep their containers, whatever the compose file says of them now.

use std::collections::BTreeSet;

use landfall_deploy::Order;
use landfall_schema::ids::{Counter, ServiceName};
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::promotion::{PinnedImage, Promotion};
use tokio::time::Instant;

use super::compose;
use super::engine::Container;
use super::render::{Kind, Stack};
use super::{Context, Hands, internal};

const FILE: &str = "touched.landfall.json";

impl Hands {
    /// The services that this deploy touches; `None` is all of them. Decided once, at `Observe`, and kept on disk: the way back is the same.
    pub(crate) async fn decide_touched(
        &self,
        order: &Order,
        context: &Context,
        stack: &Stack,
        containers: &[Container],
    ) -> Result<Option<BTreeSet<ServiceName>>, Reason> {
        let touched = self.touched_by(order, context, stack, containers).await?;
        let text = serde_json::to_vec(&touched).map_err(|error| internal("writing down what is touched", error))?;
        self.keep(&self.stack_dir(order.promotion.counter).join(FILE), &text).await?;
        Ok(touched)
    }

    /// What `Observe` decided.
    pub(crate) async fn touched(&self, counter: Counter) -> Result<Option<BTreeSet<ServiceName>>, Reason> {
        let path = self.stack_dir(counter).join(FILE);
        match tokio::fs::read(&path).await {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| internal("reading what is touched", error)),
            // Observed by a version that knew only whole promotions.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(internal("reading what is touched", error)),
        }
    }

    async fn touched_by(
        &self,
        order: &Order,
        context: &Context,
        stack: &Stack,
        containers: &[Container],
    ) -> Result<Option<BTreeSet<ServiceName>>, Reason> {
        let promotion = &order.promotion;
        if let Some(unknown) = promotion.only.iter().find(|name| !stack.services.contains_key(*name)) {
            let message = format!("the promotion is of service {unknown}, which the compose file does not define");
            let known: Vec<&str> = stack.services.keys().map(ServiceName::as_str).collect();
            return Err(
                Reason::new(ReasonCode::ServiceUnknown, message).hint(format!("it defines {}", known.join(", ")))
            );
        }
        let Some(former) = &context.former else { return Ok(None) };
        if promotion.only.is_empty() || !same_beside(promotion, &former.promotion) {
            return Ok(None);
        }
        for service in stack.serving().filter(|service| !promotion.only.contains(&service.name)) {
            let Some(image) = promotion.images.get(&service.name) else { return Ok(None) };
            if !self.runs(&service.name, image, containers).await? {
                return Ok(None);
            }
        }
        Ok(Some(promotion.only.clone()))
    }

    /// Whether all containers of the service run, and run this image.
    async fn runs(&self, name: &ServiceName, image: &PinnedImage, containers: &[Container]) -> Result<bool, Reason> {
        let own: Vec<&Container> = containers.iter().filter(|one| one.service == *name && !one.one_off).collect();
        if own.is_empty() || own.iter().any(|container| !container.running) {
            return Ok(false);
        }
        for container in own {
            if !self.is_image(&container.image_id, image).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the image with this id is known by the promised digest.
    pub(crate) async fn is_image(&self, image_id: &str, promised: &PinnedImage) -> Result<bool, Reason> {
        let docker = self.engine.docker()?;
        let image = self.engine.image(&docker, image_id).await?;
        let known = image.and_then(|image| image.repo_digests).unwrap_or_default();
        let digests = known.iter().filter_map(|known| Some(known.rsplit_once('@')?.1));
        Ok(digests.into_iter().any(|digest| digest == promised.digest.as_str()))
    }

    /// Brings these services, and no other, to what the stack says.
    pub(crate) async fn up_only(
        &self,
        stack: &Stack,
        names: &BTreeSet<ServiceName>,
        deadline: Instant,
    ) -> Result<(), Reason> {
        // A service that is named is started even where its profile would keep it down.
        let started: Vec<&str> = stack
            .started()
            .map(|service| &service.name)
            .filter(|name| names.contains(*name))
            .map(ServiceName::as_str)
            .collect();
        if started.is_empty() {
            return Ok(());
        }
        let mut args = vec!["up", "--detach", "--no-build", "--pull", "never", "--no-deps", "--quiet-pull", "--"];
        args.extend(started);
        let output = self.compose.change(&stack.invocation, &args, deadline).await?;
        if output.code == Some(0) {
            return Ok(());
        }
        Err(self.with_logs(compose::up_reason(&output.stderr, &stack.redactor), &stack.redactor).await)
    }

    /// The way back of the same: what only the failed release had is removed.
    pub(crate) async fn restore_only(
        &self,
        former: &Stack,
        names: &BTreeSet<ServiceName>,
        deadline: Instant,
    ) -> Result<(), Reason> {
        self.up_only(former, names, deadline).await?;
        let docker = self.engine.docker()?;
        let kept = |name: &ServiceName| {
            former.services.get(name).is_some_and(|service| matches!(service.kind, Kind::Serving | Kind::Completes))
        };
        for container in self.engine.containers().await? {
            if !container.one_off && names.contains(&container.service) && !kept(&container.service) {
                self.engine.remove_container(&docker, &container.id).await?;
            }
        }
        Ok(())
    }
}

/// Whether both say the same of every service that this promotion does not change.
fn same_beside(promotion: &Promotion, former: &Promotion) -> bool {
    let beside = |of: &Promotion| -> Vec<(ServiceName, String)> {
        let images = of.images.iter().filter(|(name, _)| !promotion.only.contains(*name));
        images.map(|(name, image)| (name.clone(), image.digest.to_string())).collect()
    };
    beside(promotion) == beside(former)
}
