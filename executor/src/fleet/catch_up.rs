//! A host that was away finds only the newest promotion in the register. When the rollout of that one has failed, the fleet runs an older one,
//! which may still be newer than what this host runs.

use landfall_bus::{Bus, Delivered};
use landfall_deploy::Order;
use landfall_schema::event::{CloudEvent, TYPE_PROMOTED};
use landfall_schema::ids::{AppName, Counter, EnvName, HostName};
use landfall_schema::promotion::Promotion;
use landfall_schema::rollout::RolloutWord;
use landfall_schema::signature::verify;
use tokio::time::sleep;
use tracing::{debug, info};

use super::{Fleet, FleetError, RETRY_INTERVAL};
use crate::causes;
use crate::pace::jittered;

impl Fleet {
    /// Looks beside everything else for the newest promotion before `below` whose rollout has succeeded, and hands it over if this host
    /// does not run it yet.
    pub fn catch_up(&self, env: &EnvName, app: &AppName, below: Counter) {
        let (fleet, env, app) = (self.clone(), env.clone(), app.clone());
        let stop = self.inner.stop.clone();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            loop {
                match fleet.missed(&env, &app, below).await {
                    Ok(None) => return,
                    Ok(Some(found)) => {
                        info!(%app, sequence = found.sequence, "the fleet runs a release that this host has missed");
                        // Nobody listens any more only while the daemon ends.
                        let _ = fleet.inner.missed.send(found).await;
                        return;
                    }
                    Err(error) => debug!(%app, error = causes(&error), "what was missed cannot be read yet"),
                }
                sleep(jittered(RETRY_INTERVAL)).await;
            }
        }));
    }

    async fn missed(&self, env: &EnvName, app: &AppName, below: Counter) -> Result<Option<Delivered>, FleetError> {
        let bus = self.inner.bus.connected().ok_or(FleetError::Away)?;
        let runs = self.inner.journal.committed(env, app, 1).await?.pop().map_or(Counter::NONE, |good| good.counter);
        let past = bus.promotions(env, Some(app)).await?;
        for message in past.into_iter().rev() {
            let Some(event) = self.believed(&message) else { continue };
            let counter = event.data.counter;
            if counter >= below {
                continue;
            }
            if counter <= runs {
                return Ok(None);
            }
            if self.stands(&bus, event).await? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn believed(&self, message: &Delivered) -> Option<CloudEvent<Promotion>> {
        verify(&message.body, message.signature.as_deref(), &self.inner.trusted).ok()?;
        CloudEvent::decode(&message.body, TYPE_PROMOTED).ok()
    }

    /// Whether the rollout of this promotion has succeeded, by the word of its own hosts.
    async fn stands(&self, bus: &Bus, event: CloudEvent<Promotion>) -> Result<bool, FleetError> {
        if !event.data.plan.is_coordinated() {
            return Ok(false);
        }
        let host: HostName = self.inner.announcer.host().clone();
        let order = Order { host, id: event.id, promotion: event.data };
        let roster = self.roster(bus, &order).await?;
        let word = self.state(bus, &order, &roster).await?.and_then(|(state, _)| state.word());
        Ok(matches!(word, Some(RolloutWord::Succeeded | RolloutWord::SucceededPartial)))
    }
}
