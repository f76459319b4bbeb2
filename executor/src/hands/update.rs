//! The swap: Compose brings the stack to what the promotion says.

use std::collections::{BTreeMap, BTreeSet};

use landfall_deploy::{Evidence, Order};
use landfall_schema::ids::ServiceName;
use landfall_schema::outcome::{Reason, ReasonCode};
use tokio::time::Instant;

use super::compose::{self, Invocation};
use super::engine::Container;
use super::redact::Redactor;
use super::{Context, Hands, effect_deadline};
use crate::failpoint::failpoint;

impl Hands {
    pub(crate) async fn update(&self, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        let stack = self.stack(order, context).await?;
        let before = self.engine.containers().await?;
        // Somebody else may have begun with the project since it was observed.
        self.check_ours(&before)?;
        let deadline = effect_deadline(context);
        self.hold(order.promotion.counter, &before, context).await?;
        failpoint!("update.up.before");
        let up = match self.touched(order.promotion.counter).await? {
            Some(names) => self.up_only(&stack, &names, deadline).await,
            None => self.up(&stack.invocation, &stack.redactor, deadline).await,
        };
        failpoint!("update.up.after");
        up.map_err(|reason| told_of_preview(reason, order))?;
        let (before, after) = (by_service(before), by_service(self.engine.containers().await?));
        let changed = after
            .iter()
            .filter(|(service, ids)| before.get(*service) != Some(ids))
            .map(|(service, _)| service.to_string());
        Ok(Evidence::Updated { changed: changed.collect() })
    }

    /// `docker compose up` without building, pulling or waiting: images are here, and readiness is judged by us.
    pub(crate) async fn up(
        &self,
        invocation: &Invocation,
        redactor: &Redactor,
        deadline: Instant,
    ) -> Result<(), Reason> {
        let args = ["up", "--detach", "--no-build", "--pull", "never", "--remove-orphans", "--quiet-pull"];
        let output = self.compose.change(invocation, &args, deadline).await?;
        if output.code == Some(0) {
            return Ok(());
        }
        Err(self.with_logs(compose::up_reason(&output.stderr, redactor), redactor).await)
    }

    /// Where Compose gave up because of a container, its log says more than Compose did.
    pub(crate) async fn with_logs(&self, mut reason: Reason, redactor: &Redactor) -> Reason {
        if !matches!(reason.code, ReasonCode::Unhealthy | ReasonCode::ContainerExited) {
            return reason;
        }
        // The failure that is being told matters more than one on the way to its logs.
        let (Ok(docker), Ok(containers)) = (self.engine.docker(), self.engine.containers().await) else {
            return reason;
        };
        for container in containers.iter().filter(|container| !container.one_off) {
            let named = container.labels.get("com.docker.compose.container-number").map_or("1", String::as_str);
            let name = format!("{}-{}-{named}", self.engine.project(), container.service);
            let quoted = format!("service \"{}\"", container.service);
            if reason.message.contains(&name) || reason.message.contains(&quoted) {
                reason
                    .logs
                    .push(self.engine.log_tail(&docker, &container.id, container.service.as_str(), redactor).await);
            }
        }
        reason
    }
}

/// Previews of one application run beside each other, which a fixed port of the host does not allow.
fn told_of_preview(reason: Reason, order: &Order) -> Reason {
    match &order.promotion.preview {
        Some(_) if reason.code == ReasonCode::PortTaken => reason.hint(
            "another stack has this port; for previews publish the container's port alone (\"8080\" or \"127.0.0.1::8080\"), \
             or take the host's port from a variable",
        ),
        _ => reason,
    }
}

fn by_service(containers: Vec<Container>) -> BTreeMap<ServiceName, BTreeSet<String>> {
    let mut ids: BTreeMap<ServiceName, BTreeSet<String>> = BTreeMap::new();
    for container in containers.into_iter().filter(|container| !container.one_off) {
        ids.entry(container.service).or_default().insert(container.id);
    }
    ids
}
