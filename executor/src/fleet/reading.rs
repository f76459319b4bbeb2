//! What others said about a rollout, believed by signature only.

use futures_util::stream::{self, StreamExt as _};
use landfall_bus::{Bus, Delivered};
use landfall_deploy::Order;
use landfall_deploy::rollout::{Admission, proofs_needed};
use landfall_schema::event::{CloudEvent, TYPE_HALTED, TYPE_PROMOTED, TYPE_ROLLOUT_STATE};
use landfall_schema::halt::Halt;
use landfall_schema::ids::{Counter, HostName};
use landfall_schema::layout::ROLLOUT;
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::promotion::Promotion;
use landfall_schema::rollout::RolloutState;
use landfall_schema::roster::Roster;
use landfall_schema::signature::{DsseEnvelope, PublicKey, verify};
use landfall_schema::subject;
use tracing::warn;

use super::{Fleet, FleetError};

/// Proofs that are fetched at the same time.
const PROOFS_AT_ONCE: usize = 16;

impl Fleet {
    /// The rollout's state and its revision; `None` before anybody decided anything.
    pub(super) async fn state(
        &self,
        bus: &Bus,
        order: &Order,
        roster: &Roster,
    ) -> Result<Option<(RolloutState, u64)>, FleetError> {
        let promotion = &order.promotion;
        let key = subject::rollout_key(&promotion.env, &promotion.app, promotion.counter);
        let Some(entry) = bus.entry(ROLLOUT, &key).await? else { return Ok(None) };
        let state = believe_state(&entry.body, order, roster).map_err(FleetError::State)?;
        Ok(Some((state, entry.revision)))
    }

    /// The newest word of an operator, if it is about this promotion.
    pub(super) async fn halt_of(&self, bus: &Bus, order: &Order) -> Result<Option<Halt>, FleetError> {
        let promotion = &order.promotion;
        let Some(said) = bus.last_said(&subject::halted(&promotion.env, &promotion.app)).await? else {
            return Ok(None);
        };
        match believe_halt(&said, &self.inner.trusted) {
            Ok(halt) => Ok(Some(halt).filter(|halt| halt.promotion == order.id && halt.env == promotion.env)),
            Err(why) => {
                warn!(subject = said.subject, why, "a halt is not believed");
                Ok(None)
            }
        }
    }

    /// A newer promotion of the application.
    pub(super) async fn newer(&self, bus: &Bus, order: &Order) -> Result<Option<Counter>, FleetError> {
        let promotion = &order.promotion;
        let Some(latest) = bus.latest_promotion(&promotion.env, &promotion.app).await? else { return Ok(None) };
        if verify(&latest.body, latest.signature.as_deref(), &self.inner.trusted).is_err() {
            return Ok(None);
        }
        let event = CloudEvent::<Promotion>::decode(&latest.body, TYPE_PROMOTED).ok();
        Ok(event.map(|event| event.data.counter).filter(|counter| *counter > promotion.counter))
    }

    /// Before this host begins it has seen the signed word of every host of the wave before it.
    pub(super) async fn proven(
        &self,
        bus: &Bus,
        order: &Order,
        state: &RolloutState,
        roster: &Roster,
    ) -> Result<Admission, FleetError> {
        let needed: Vec<HostName> = proofs_needed(order, state).into_iter().cloned().collect();
        let mut proofs = stream::iter(needed)
            .map(|host| async move {
                let proven = committed(bus, order, &host, roster).await;
                proven.map(|proven| (host, proven))
            })
            .buffer_unordered(PROOFS_AT_ONCE);
        while let Some(proof) = proofs.next().await {
            if let (host, false) = proof? {
                return Ok(Admission::Wait(format!("the signed word of {host} that it committed is not here yet")));
            }
        }
        Ok(Admission::Now)
    }
}

/// Whether this host signed that it serves the promised digests.
async fn committed(bus: &Bus, order: &Order, host: &HostName, roster: &Roster) -> Result<bool, FleetError> {
    let promotion = &order.promotion;
    let subject = subject::outcome(&promotion.env, &promotion.app, host, OutcomeKind::ReleaseCommitted);
    let Some(said) = bus.last_outcome(&subject).await? else { return Ok(false) };
    Ok(match believe_outcome(&said, roster) {
        Ok(outcome) => {
            outcome.promotion == order.id
                && outcome.host == *host
                && outcome.running.iter().all(|(service, digest)| {
                    promotion.images.get(service).is_none_or(|promised| promised.digest == *digest)
                })
        }
        Err(why) => {
            warn!(%host, why, "an outcome is not believed");
            false
        }
    })
}

/// An outcome, by the key that the roster has for the host that it is of.
pub(super) fn believe_outcome(said: &Delivered, roster: &Roster) -> Result<Outcome, String> {
    let read = |expected: &str| {
        CloudEvent::<Outcome>::decode_where(&said.body, expected, |kind| OutcomeKind::from_event_type(kind).is_some())
            .map_err(|error| error.to_string())
    };
    let event = read("an outcome")?;
    let host = &event.data.host;
    let key = roster.hosts.get(host).ok_or_else(|| format!("{host} is not in the plan"))?;
    verify(&said.body, said.signature.as_deref(), std::slice::from_ref(key)).map_err(|error| error.to_string())?;
    Ok(event.data)
}

fn believe_halt(said: &Delivered, trusted: &[PublicKey]) -> Result<Halt, String> {
    verify(&said.body, said.signature.as_deref(), trusted).map_err(|error| error.to_string())?;
    CloudEvent::<Halt>::decode(&said.body, TYPE_HALTED).map(|event| event.data).map_err(|error| error.to_string())
}

fn believe_state(bytes: &[u8], order: &Order, roster: &Roster) -> Result<RolloutState, String> {
    let envelope: DsseEnvelope = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let keys: Vec<PublicKey> = roster.hosts.values().cloned().collect();
    let (payload, signer) = envelope.open(&keys).map_err(|error| error.to_string())?;
    let event = CloudEvent::<RolloutState>::decode(&payload, TYPE_ROLLOUT_STATE).map_err(|error| error.to_string())?;
    let state = event.data;
    let decider = &state.decided_by;
    if roster.hosts.get(decider) != Some(&signer) {
        return Err(format!("it says that {decider} decided it, but another host signed it"));
    }
    let promotion = &order.promotion;
    if (state.promotion, state.counter, &state.env, &state.app)
        != (order.id, promotion.counter, &promotion.env, &promotion.app)
    {
        return Err("it is the state of another rollout".to_owned());
    }
    Ok(state)
}
