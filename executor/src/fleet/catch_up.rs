//! What a host has missed. One that was away finds only the newest promotion in the register: its rollout may have failed, or it may be for
//! other hosts; then the fleet runs an older one, which may still be newer than what this host runs.

use landfall_bus::{Bus, Delivered};
use landfall_deploy::Order;
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_PROMOTED};
use landfall_schema::ids::{AppName, Counter, EnvName, HostName};
use landfall_schema::layout::SWEEP_INTERVAL;
use landfall_schema::promotion::Promotion;
use landfall_schema::rollout::RolloutWord;
use landfall_schema::signature::verify;
use tokio::time::sleep;
use tracing::{debug, info};

use super::{Fleet, FleetError, RETRY_INTERVAL};
use crate::causes;
use crate::intake::MessageId;
use crate::pace::jittered;

/// A promotion that the fleet runs and this host does not.
#[derive(Debug)]
pub struct Missed {
    pub app: AppName,
    pub counter: Counter,
    pub message: Delivered,
}

/// What there is to catch up with.
#[derive(Debug, Default)]
struct Found {
    newest: Option<Missed>,
    /// Something may be missed that is not known yet: it is worth looking again.
    is_open: bool,
}

/// What became of a rollout.
enum Fate {
    Stands,
    Fell,
    Open,
}

impl Fleet {
    /// Looks beside everything else for the newest promotion before `below` whose rollout has succeeded, and hands it over if this host
    /// does not run it yet. While a deploy of the application is under way it waits: what that one ends with decides what is missed.
    pub fn catch_up(&self, env: &EnvName, app: &AppName, below: Counter) {
        let (fleet, env, app) = (self.clone(), env.clone(), app.clone());
        let stop = self.inner.stop.clone();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let mut handed = None;
            loop {
                let wait = match fleet.missed(&env, &app, below).await {
                    Ok(Found { newest, is_open }) => {
                        if let Some(missed) = newest.filter(|missed| handed != Some(missed.counter)) {
                            info!(%app, counter = missed.counter.0, "the fleet runs a release that this host has missed");
                            handed = Some(missed.counter);
                            // Nobody listens any more only while the daemon ends.
                            let _ = fleet.inner.missed.send(missed).await;
                        }
                        if !is_open {
                            return;
                        }
                        SWEEP_INTERVAL
                    }
                    Err(error) => {
                        debug!(%app, error = causes(&error), "what was missed cannot be read yet");
                        RETRY_INTERVAL
                    }
                };
                sleep(jittered(wait)).await;
            }
        }));
    }

    async fn missed(&self, env: &EnvName, app: &AppName, below: Counter) -> Result<Found, FleetError> {
        let journal = &self.inner.journal;
        if journal.is_under_way(env, app).await? {
            return Ok(Found { newest: None, is_open: true });
        }
        let bus = self.inner.bus.connected().ok_or(FleetError::Away)?;
        let runs = journal.committed(env, app, 1).await?.pop().map_or(Counter::NONE, |good| good.counter);
        let past = bus.promotions(env, Some(app)).await?;
        let mut found = Found::default();
        for message in past.into_iter().rev() {
            let Some(event) = self.believed(&message) else { continue };
            let counter = event.data.counter;
            if counter >= below {
                continue;
            }
            if counter <= runs {
                break;
            }
            match self.fate(&bus, event).await? {
                Fate::Fell => {}
                Fate::Open => found.is_open = true,
                Fate::Stands => {
                    if journal.may_catch_up(&MessageId::of(&message)).await? {
                        found.newest = Some(Missed { app: app.clone(), counter, message });
                    }
                    break;
                }
            }
        }
        Ok(found)
    }

    fn believed(&self, message: &Delivered) -> Option<CloudEvent<Promotion>> {
        verify(&message.body, message.signature.as_deref(), &self.inner.trusted).ok()?;
        CloudEvent::decode(&message.body, TYPE_PROMOTED).ok()
    }

    /// How the rollout of this promotion ended, by the word of its own hosts.
    async fn fate(&self, bus: &Bus, event: CloudEvent<Promotion>) -> Result<Fate, FleetError> {
        // Each host's own: nobody speaks for the others.
        if !event.data.plan.is_coordinated() {
            return Ok(Fate::Fell);
        }
        let is_over = Timestamp::now() >= event.data.expires_at;
        let host: HostName = self.inner.announcer.host().clone();
        let order = Order { host, id: event.id, promotion: event.data };
        let roster = self.roster(bus, &order).await?;
        Ok(match self.state(bus, &order, &roster).await?.and_then(|(state, _)| state.word()) {
            Some(RolloutWord::Succeeded | RolloutWord::SucceededPartial) => Fate::Stands,
            None if !is_over => Fate::Open,
            Some(_) | None => Fate::Fell,
        })
    }
}
