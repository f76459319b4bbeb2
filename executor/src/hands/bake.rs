//! Watches the proven release for its bake time: a restart, an exit or a failing health check in it counts as failure.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::try_join_all;
use landfall_deploy::health::{ContainerState, HealthState};
use landfall_deploy::{Evidence, Order};
use landfall_schema::outcome::{Reason, ReasonCode};
use tokio::time::Instant;

use super::engine::Container;
use super::prove::{self, Events, Failure};
use super::{Context, Hands};

/// Between two looks where no event wakes us.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

impl Hands {
    pub(crate) async fn bake(&self, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        let stack = self.stack(order, context).await?;
        let docker = self.engine.docker()?;
        let mut events = Events::follow(docker.clone(), self.engine.project());
        let bake_ms = order.bake_ms(stack.settings.bake_ms.unwrap_or(0));
        let until = Instant::now() + Duration::from_millis(bake_ms);
        let containers = self.engine.containers().await?;
        let serving: Vec<&Container> = containers
            .iter()
            .filter(|container| !container.one_off && stack.serving().any(|service| service.name == container.service))
            .collect();
        let mut restarts = BTreeMap::new();
        loop {
            let looks = serving.iter().map(|container| self.look(container, restarts.get(&container.id).copied()));
            let mut failures = Vec::new();
            for (container, seen) in serving.iter().zip(try_join_all(looks).await?) {
                match seen {
                    Ok(count) => drop(restarts.insert(container.id.clone(), count)),
                    Err(failure) => failures.push(failure),
                }
            }
            if !failures.is_empty() {
                return Err(self.failure_reason(&docker, failures, &stack.redactor).await);
            }
            let now = Instant::now();
            if now >= until {
                return Ok(Evidence::Baked);
            }
            prove::wake(&mut events.seen, LOOK_INTERVAL.min(until - now)).await;
        }
    }

    /// The container's restarts so far, or what is wrong with it.
    async fn look(&self, container: &Container, restarts_before: Option<u32>) -> Result<Result<u32, Failure>, Reason> {
        let fail = |code, why: String| {
            Ok(Err(Failure {
                service: container.service.clone(),
                container: container.id.clone(),
                code,
                why: format!("{why} while it was watched"),
            }))
        };
        let docker = self.engine.docker()?;
        let Some(inspected) = self.engine.inspect(&docker, &container.id).await? else {
            return fail(ReasonCode::ContainerExited, "its container was removed".to_owned());
        };
        let sample = prove::sample(&inspected, 0, None);
        if restarts_before.is_some_and(|before| sample.restarts > before) {
            return fail(ReasonCode::Restarting, "the container restarted".to_owned());
        }
        match (sample.state, sample.health) {
            (ContainerState::Exited { code }, _) => {
                fail(ReasonCode::ContainerExited, format!("the container exited with code {code}"))
            }
            (ContainerState::Paused, _) => fail(ReasonCode::Unhealthy, "the container was paused".to_owned()),
            (ContainerState::Restarting, _) => fail(ReasonCode::Restarting, "the container restarted".to_owned()),
            (_, Some(HealthState::Unhealthy)) => {
                fail(ReasonCode::Unhealthy, "the container became unhealthy".to_owned())
            }
            (ContainerState::Running | ContainerState::Created, _) => Ok(Ok(sample.restarts)),
        }
    }
}
