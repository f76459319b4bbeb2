//! What a host has missed. One that was away finds only the newest promotion in the register: its rollout may have failed, or it may be for
//! other hosts; then the fleet runs an older one, which may still be newer than what this host runs.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use landfall_bus::{Bus, Delivered};
use landfall_deploy::Order;
use landfall_schema::event::CloudEvent;
use landfall_schema::ids::{AppName, Counter, EnvName, HostName};
use landfall_schema::layout::SWEEP_INTERVAL;
use landfall_schema::promotion::{Promotion, RolloutPlan};
use landfall_schema::rollout::RolloutWord;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::reading::concerns;
use super::{Fleet, FleetError, PAUSE_MIN, RETRY_INTERVAL};
use crate::causes;
use crate::intake::MessageId;
use crate::pace::jittered;
use crate::world::{self, within};

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
    Undecided,
    Unreadable,
}

impl Fleet {
    /// Looks beside everything else for the newest promotion before `below` whose rollout has succeeded, and hands it over if this host
    /// does not run it yet. While a deploy of the application is under way it waits: what that one ends with decides what is missed.
    pub fn catch_up(&self, env: &EnvName, app: &AppName, below: Counter) {
        let of = (env.clone(), app.clone());
        {
            let mut catching_up = self.catching_up();
            let wanted = catching_up.get(&of).copied();
            catching_up.insert(of.clone(), below.max(wanted.unwrap_or(Counter::NONE)));
            if wanted.is_some() {
                return;
            }
        }
        let (fleet, stop) = (self.clone(), self.inner.stop.clone());
        tokio::spawn(within(stop.run_until_cancelled_owned(async move { fleet.look_for_missed(&of).await })));
    }

    async fn look_for_missed(&self, of: &(EnvName, AppName)) {
        let (env, app) = of;
        let mut handed = None;
        loop {
            let below = self.catching_up().get(of).copied().unwrap_or(Counter::NONE);
            let wait = match self.missed(env, app, below).await {
                Ok(Found { newest, is_open }) => {
                    if let Some(missed) = newest.filter(|missed| handed != Some((missed.counter, below))) {
                        info!(%app, counter = missed.counter.0, "the fleet runs a release that this host has missed");
                        handed = Some((missed.counter, below));
                        // Nobody listens any more only while the daemon ends.
                        let _ = self.inner.missed.send(missed).await;
                    }
                    let mut catching_up = self.catching_up();
                    if !is_open && catching_up.get(of) == Some(&below) {
                        catching_up.remove(of);
                        return;
                    }
                    if is_open { SWEEP_INTERVAL } else { PAUSE_MIN }
                }
                Err(error) => {
                    debug!(%app, error = causes(&error), "what was missed cannot be read yet");
                    RETRY_INTERVAL
                }
            };
            sleep(jittered(wait)).await;
        }
    }

    fn catching_up(&self) -> MutexGuard<'_, BTreeMap<(EnvName, AppName), Counter>> {
        self.inner.catching_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn missed(&self, env: &EnvName, app: &AppName, below: Counter) -> Result<Found, FleetError> {
        let journal = &self.inner.journal;
        if journal.is_under_way(env, app).await? {
            return Ok(Found { newest: None, is_open: true });
        }
        let bus = self.inner.bus.connected().ok_or(FleetError::Away)?;
        let runs = journal.committed(env, app, 1).await?.pop().map_or(Counter::NONE, |good| good.counter);
        let mut found = Found::default();
        let mut newer: Vec<RolloutPlan> = Vec::new();
        for (event, message) in self.believed_promotions(env, app).await?.into_iter().rev() {
            let (counter, plan) = (event.data.counter, event.data.plan.clone());
            if counter >= below {
                newer.push(plan);
                continue;
            }
            if counter <= runs {
                break;
            }
            let is_replaced = newer.iter().any(|newer| concerns(newer, &plan));
            newer.push(plan);
            match self.fate(&bus, event).await? {
                Fate::Fell => {}
                // Nobody begins with it any more, so nobody will ever say how it ended.
                Fate::Undecided if is_replaced => {}
                Fate::Undecided | Fate::Unreadable => found.is_open = true,
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

    /// How the rollout of this promotion ended, by the word of its own hosts.
    async fn fate(&self, bus: &Bus, event: CloudEvent<Promotion>) -> Result<Fate, FleetError> {
        // Each host's own: nobody speaks for the others.
        if !event.data.plan.is_coordinated() {
            return Ok(Fate::Fell);
        }
        let is_over = world::now() >= event.data.expires_at;
        let host: HostName = self.inner.announcer.host().clone();
        let order = Order { host, id: event.id, promotion: event.data };
        let word = match self.word(bus, &order).await {
            Ok(word) => word,
            // What somebody spoilt of one promotion hides no other. The bus's own trouble is another matter.
            Err(error @ (FleetError::State(_) | FleetError::Roster(_))) => {
                let (app, counter) = (&order.promotion.app, order.promotion.counter.0);
                warn!(%app, counter, error = causes(&error), "how a rollout ended cannot be read");
                return Ok(Fate::Unreadable);
            }
            Err(error) => return Err(error),
        };
        Ok(match word {
            Some(RolloutWord::Succeeded | RolloutWord::SucceededPartial) => Fate::Stands,
            None if !is_over => Fate::Undecided,
            Some(_) | None => Fate::Fell,
        })
    }

    async fn word(&self, bus: &Bus, order: &Order) -> Result<Option<RolloutWord>, FleetError> {
        let roster = self.roster(bus, order).await?;
        Ok(self.state(bus, order, &roster).await?.and_then(|(state, _)| state.word()))
    }
}
