//! The rollout's state as it stands in the bucket, believed by the roster of the plan and by nothing else.

use std::collections::BTreeMap;

use landfall_bus::Bus;
use landfall_schema::ids::{Digest, EventId};
use landfall_schema::layout::ROLLOUT;
use landfall_schema::promotion::{Promotion, RolloutPlan};
use landfall_schema::rollout::RolloutState;
use landfall_schema::roster::Roster;
use landfall_schema::subject;

use crate::error::CliError;
use crate::output::Output;
use crate::plan::HostKeys;
use crate::reading::Read;

/// Reads the state; `None` before anybody decided anything.
///
/// # Errors
/// When the bus does not answer, or what is there was not signed by a host that decides.
pub async fn read(
    bus: &Bus,
    id: EventId,
    promotion: &Promotion,
    keys: &HostKeys,
) -> Result<Option<RolloutState>, CliError> {
    let key = subject::rollout_key(&promotion.env, &promotion.app, promotion.counter);
    let Some(entry) = bus.entry(ROLLOUT, &key).await? else { return Ok(None) };
    let state = RolloutState::believe(&entry.body, id, promotion, |host| keys.of(host)).map_err(|error| {
        CliError::new(format!("the state {key} of the rollout is not believed"))
            .because(&error)
            .hint("somebody wrote it who is no host of the plan; look at the permissions of the bucket")
    })?;
    Ok(Some(state))
}

/// The states of those of these promotions whose hosts act together. One that cannot be believed is told of and left out.
pub async fn read_all(bus: &Bus, promotions: &[Read<Promotion>], output: &Output) -> BTreeMap<EventId, RolloutState> {
    let mut rosters = Rosters::new(bus);
    let mut states = BTreeMap::new();
    for Read { event, .. } in promotions {
        let found = match rosters.of(&event.data.plan).await {
            Ok(Some(keys)) => read(bus, event.id, &event.data, &keys).await,
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        match found {
            Ok(state) => states.extend(state.map(|state| (event.id, state))),
            Err(error) => output.warn(format!("the rollout of {} {}: {error}", event.data.app, event.data.counter)),
        }
    }
    states
}

/// The keys of plans that were read from the bus, each roster fetched once.
#[derive(Debug)]
pub struct Rosters {
    bus: Bus,
    known: BTreeMap<Digest, HostKeys>,
}

impl Rosters {
    pub fn new(bus: &Bus) -> Self {
        Self { bus: bus.clone(), known: BTreeMap::new() }
    }

    /// The keys of the plan's hosts; `None` for hosts that do not act together.
    ///
    /// # Errors
    /// When the roster is not in the store, or is not the one that the promotion names.
    pub async fn of(&mut self, plan: &RolloutPlan) -> Result<Option<HostKeys>, CliError> {
        let Some(reference) = &plan.roster else { return Ok(None) };
        if let Some(keys) = self.known.get(&reference.digest) {
            return Ok(Some(keys.clone()));
        }
        let bytes = self.bus.get_bundle(reference).await?;
        let roster = Roster::decode(&bytes, reference).map_err(|error| CliError::from_error(&error))?;
        let keys = HostKeys::of_roster(roster);
        self.known.insert(reference.digest.clone(), keys.clone());
        Ok(Some(keys))
    }
}
