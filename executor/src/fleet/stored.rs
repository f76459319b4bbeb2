//! The rollout's state in the bucket. Every executor of the environment may write there: what none of the plan's hosts has signed, or what is
//! older than what was seen before, is not believed, and whoever decides writes over it.

use landfall_bus::{Bus, Entry};
use landfall_deploy::Order;
use landfall_schema::Timestamp;
use landfall_schema::ids::{Digest, EventId};
use landfall_schema::layout::ROLLOUT;
use landfall_schema::rollout::RolloutState;
use landfall_schema::roster::Roster;
use landfall_schema::subject;
use tracing::warn;

use super::{Fleet, FleetError};
use crate::causes;

/// The furthest state of a rollout that was believed, now or before.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Known {
    pub(super) state: RolloutState,
    pub(super) revision: u64,
    /// By the server's clock.
    pub(super) written_at: Timestamp,
    /// Names the event that tells of this state: whoever tells of it uses the same.
    pub(super) event: EventId,
}

impl Known {
    pub(super) fn new(state: RolloutState, entry: &Entry) -> Self {
        let event = event_of(&entry.body);
        Self { state, revision: entry.revision, written_at: entry.written_at, event }
    }
}

/// What the bucket holds.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) known: Option<Known>,
    /// What a change must name.
    pub(super) revision: u64,
    /// Why what lies there does not count.
    pub(super) spoilt: Option<String>,
}

impl Fleet {
    /// The rollout's state and its revision; `None` before anybody decided anything.
    ///
    /// # Errors
    /// When the bus does not answer, or only what is not believed was ever seen.
    pub(super) async fn state(
        &self,
        bus: &Bus,
        order: &Order,
        roster: &Roster,
    ) -> Result<Option<(RolloutState, u64)>, FleetError> {
        match self.stored(bus, order, roster).await? {
            Stored { known: Some(known), .. } => Ok(Some((known.state, known.revision))),
            Stored { known: None, spoilt: Some(why), .. } => Err(FleetError::State(why)),
            Stored { known: None, spoilt: None, .. } => Ok(None),
        }
    }

    pub(super) async fn stored(&self, bus: &Bus, order: &Order, roster: &Roster) -> Result<Stored, FleetError> {
        let promotion = &order.promotion;
        let key = subject::rollout_key(&promotion.env, &promotion.app, promotion.counter);
        let found = bus.entry(ROLLOUT, &key).await?;
        let stored = judge(found.as_ref(), self.inner.states.of(order.id), order, roster);
        match (&stored.spoilt, &stored.known) {
            (Some(why), _) => warn!(key, why, "what lies in the bucket is not the state of this rollout"),
            (None, Some(known)) => self.inner.states.keep(order.id, known.clone()),
            (None, None) => {}
        }
        Ok(stored)
    }
}

fn judge(found: Option<&Entry>, before: Option<Known>, order: &Order, roster: &Roster) -> Stored {
    let Some(entry) = found else {
        let spoilt = before.is_some().then(|| "it is gone".to_owned());
        return Stored { known: before, revision: 0, spoilt };
    };
    if let Some(known) = before.clone().filter(|known| known.revision > entry.revision) {
        // Read before the newer one was written; then a change of what was read fails. Or the server has lost the newer one with its power,
        // and what is read is what a change must name.
        return Stored { revision: entry.revision, known: Some(known), spoilt: None };
    }
    let key_of = |host: &_| roster.hosts.get(host);
    let spoilt = match RolloutState::believe(&entry.body, order.id, &order.promotion, key_of) {
        Ok(state) if before.as_ref().is_none_or(|known| state.follows(&known.state)) => {
            return Stored { known: Some(Known::new(state, entry)), revision: entry.revision, spoilt: None };
        }
        Ok(_) => "it is older than what was seen before".to_owned(),
        Err(error) => causes(&error),
    };
    Stored { known: before, revision: entry.revision, spoilt: Some(spoilt) }
}

/// From the entry's bytes, so that it is the same on every host, and nobody can use it up before the entry was written.
pub(super) fn event_of(entry: &[u8]) -> EventId {
    let digest = Digest::of(entry);
    let hex = digest.as_str().trim_start_matches("sha256:");
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = hex.get(2 * at..2 * at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or_default();
    }
    EventId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

#[cfg(test)]
#[path = "stored/tests.rs"]
mod tests;
