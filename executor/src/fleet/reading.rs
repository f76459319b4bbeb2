//! What others said about a rollout, believed by signature only.

use futures_util::stream::{self, StreamExt as _};
use landfall_bus::{Bus, Delivered};
use landfall_deploy::Order;
use landfall_deploy::rollout::{Admission, proofs_needed};
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_HALTED, TYPE_PROMOTED};
use landfall_schema::halt::{Halt, HaltCommand};
use landfall_schema::ids::{AppName, Counter, Digest, EnvName, HostName, ServiceName};
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::planted::planted;
use landfall_schema::promotion::{Promotion, RolloutPlan};
use landfall_schema::rollout::RolloutState;
use landfall_schema::roster::Roster;
use landfall_schema::signature::{PublicKey, verify};
use landfall_schema::subject;
use tracing::warn;

use super::memory::AsOf;
use super::{Fleet, FleetError};
use crate::world;

/// Proofs that are fetched at the same time.
const PROOFS_AT_ONCE: usize = 16;

impl Fleet {
    /// The newest word of an operator about this promotion.
    pub(super) async fn halt_of(&self, bus: &Bus, order: &Order) -> Result<Option<Halt>, FleetError> {
        let promotion = &order.promotion;
        let subject = subject::halted(&promotion.env, &promotion.app);
        let Some(last) = bus.last_said(&subject).await? else { return Ok(None) };
        let as_of = AsOf::of(&last);
        if let Some((_, halt)) = self.inner.halts.of(order.id).filter(|(of, _)| *of == as_of) {
            return Ok(halt);
        }
        // Whoever may write to the subject can say anything after a halt, and an older word once more: all of them are looked at.
        let halt = newest_halt(&bus.said(&subject).await?, order, &self.inner.trusted);
        // What came in between is looked at the next time.
        self.inner.halts.keep(order.id, (as_of, halt.clone()));
        Ok(halt)
    }

    /// A newer promotion of the application that hosts of this plan take.
    pub(super) async fn newer(&self, bus: &Bus, order: &Order) -> Result<Option<Counter>, FleetError> {
        let promotion = &order.promotion;
        let Some(last) = bus.latest_promotion(&promotion.env, &promotion.app).await? else { return Ok(None) };
        if is_just_this(&last, order, &self.inner.trusted) {
            return Ok(None);
        }
        let as_of = AsOf::of(&last);
        if let Some((_, newer)) = self.inner.newer.of(order.id).filter(|(of, _)| *of == as_of) {
            return Ok(newer);
        }
        // One that takes its place may have come before one that does not.
        let all = bus.promotions(&promotion.env, Some(&promotion.app)).await?;
        let newer = newest_in_its_place(&all, order, &self.inner.trusted, world::now());
        self.inner.newer.keep(order.id, (as_of, newer));
        Ok(newer)
    }

    /// Every promotion of the application that is believed, oldest first.
    ///
    /// # Errors
    /// When the bus does not answer.
    pub async fn believed_promotions(
        &self,
        env: &EnvName,
        app: &AppName,
    ) -> Result<Vec<(CloudEvent<Promotion>, Delivered)>, FleetError> {
        let bus = self.inner.bus.connected().ok_or(FleetError::Away)?;
        let trusted = &self.inner.trusted;
        Ok(bus.promotions_where(env, app, |said| Some((believe_promotion(&said, trusted).ok()?, said))).await?)
    }

    /// Before this host begins it has seen the signed word of every host of the wave before it.
    pub(super) async fn proven(
        &self,
        bus: &Bus,
        order: &Order,
        state: &RolloutState,
        roster: &Roster,
    ) -> Result<Admission, FleetError> {
        if planted("admit_early") {
            return Ok(Admission::Now);
        }
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
    let Some(last) = bus.last_outcome(&subject).await? else { return Ok(false) };
    match believe_outcome(&last, roster) {
        Ok(outcome) if proves(&outcome, order, host) => return Ok(true),
        // Of a promotion before this one.
        Ok(outcome) if outcome.counter <= promotion.counter => return Ok(false),
        Ok(_) => {}
        Err(why) => warn!(%host, why, "an outcome is not believed"),
    }
    // Since then it has committed a newer one, or somebody else has written there.
    let all = bus.outcomes_so_far(subject.as_str()).await?;
    Ok(all.iter().filter_map(|said| believe_outcome(said, roster).ok()).any(|outcome| proves(&outcome, order, host)))
}

fn proves(outcome: &Outcome, order: &Order, host: &HostName) -> bool {
    let promotion = &order.promotion;
    let is_it = outcome.kind == OutcomeKind::ReleaseCommitted
        && outcome.host == *host
        && (outcome.promotion, &outcome.env, &outcome.app) == (order.id, &promotion.env, &promotion.app);
    // A stack of one-shot services alone has nothing that runs.
    let promised = |(service, digest): (&ServiceName, &Digest)| {
        promotion.images.get(service).is_none_or(|promised| promised.digest == *digest)
    };
    is_it && outcome.running.iter().all(promised)
}

/// An abort is not taken back. Of the other words the newest counts: ids stand inside the signature, and sort by the time of their making.
fn newest_halt(said: &[Delivered], order: &Order, trusted: &[PublicKey]) -> Option<Halt> {
    let promotion = &order.promotion;
    let believed = said.iter().filter_map(|said| match believe_halt(said, trusted) {
        Ok(event) => Some(event),
        Err(why) => {
            warn!(subject = said.subject, sequence = said.sequence, why, "a halt is not believed");
            None
        }
    });
    let about = believed.filter(|CloudEvent { data, .. }| {
        (data.promotion, &data.env, &data.app) == (order.id, &promotion.env, &promotion.app)
    });
    about.max_by_key(|event| (event.data.command == HaltCommand::Abort, event.id)).map(|event| event.data)
}

fn is_just_this(said: &Delivered, order: &Order, trusted: &[PublicKey]) -> bool {
    believe_promotion(said, trusted)
        .is_ok_and(|event| event.id == order.id && event.data.counter == order.promotion.counter)
}

/// The newest of these that hosts of the plan take instead.
fn newest_in_its_place(said: &[Delivered], order: &Order, trusted: &[PublicKey], now: Timestamp) -> Option<Counter> {
    let promotion = &order.promotion;
    let newer = said.iter().filter_map(|said| believe_promotion(said, trusted).ok()).map(|event| event.data);
    newer
        .filter(|newer| (&newer.env, &newer.app) == (&promotion.env, &promotion.app))
        .filter(|newer| newer.counter > promotion.counter && now < newer.expires_at)
        .filter(|newer| concerns(&newer.plan, &promotion.plan))
        .map(|newer| newer.counter)
        .max()
}

/// Whether a host of `plan` takes a promotion with the plan `newer`. By labels alone it cannot be told; such a host says so itself.
pub(super) fn concerns(newer: &RolloutPlan, plan: &RolloutPlan) -> bool {
    let is_for_all = !newer.only_named && newer.labels.is_empty();
    is_for_all || newer.hosts().chain(&newer.away).any(|host| plan.place_of(host).is_some())
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
    if !planted("believe_any_host") {
        verify(&said.body, said.signature.as_deref(), std::slice::from_ref(key)).map_err(|error| error.to_string())?;
    }
    Ok(event.data)
}

fn believe_halt(said: &Delivered, trusted: &[PublicKey]) -> Result<CloudEvent<Halt>, String> {
    verify(&said.body, said.signature.as_deref(), trusted).map_err(|error| error.to_string())?;
    CloudEvent::decode(&said.body, TYPE_HALTED).map_err(|error| error.to_string())
}

fn believe_promotion(said: &Delivered, trusted: &[PublicKey]) -> Result<CloudEvent<Promotion>, String> {
    verify(&said.body, said.signature.as_deref(), trusted).map_err(|error| error.to_string())?;
    CloudEvent::decode(&said.body, TYPE_PROMOTED).map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "reading/tests.rs"]
mod tests;
