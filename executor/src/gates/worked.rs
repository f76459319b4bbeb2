//! Whether what a rollback goes back to has worked, as its own hosts have signed: also a host that was not there then lets it pass.

use std::collections::BTreeMap;

use landfall_bus::{Bus, BusError, Delivered};
use landfall_deploy::Order;
use landfall_schema::event::{CloudEvent, TYPE_PROMOTED, TYPE_ROLLOUT_STATE};
use landfall_schema::gates::fingerprint;
use landfall_schema::ids::HostName;
use landfall_schema::layout::ROLLOUT;
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::promotion::{BundleRef, Intent, Promotion};
use landfall_schema::rollout::{RolloutState, RolloutWord};
use landfall_schema::roster::Roster;
use landfall_schema::signature::{DsseEnvelope, PublicKey, verify};
use landfall_schema::subject;

use tracing::warn;

use super::GateError;
use crate::causes;

type Keys = BTreeMap<HostName, PublicKey>;

/// The promotion `to` was signed by a promoter, ran exactly this, and its last word is that it succeeded. Of a plan without a roster every
/// host must have said so, under the key that this order's roster has for it, or our own.
pub(super) async fn has_worked(
    bus: &Bus,
    order: &Order,
    promoters: &[PublicKey],
    own: PublicKey,
) -> Result<bool, GateError> {
    let promotion = &order.promotion;
    let Intent::Rollback { to } = promotion.intent else { return Ok(false) };
    let wanted = fingerprint(promotion);
    let is_meant = |event: &CloudEvent<Promotion>| {
        let past = &event.data;
        past.counter == to && past.env == promotion.env && past.app == promotion.app && fingerprint(past) == wanted
    };
    let all = bus.promotions(&promotion.env, Some(&promotion.app)).await?;
    let Some(past) = all.iter().filter_map(|said| believe_promotion(said, promoters)).find(is_meant) else {
        return Ok(false);
    };
    match &past.data.plan.roster {
        Some(reference) => has_last_word(bus, &past, &roster(bus, reference).await?).await,
        None => {
            let mut keys = match &promotion.plan.roster {
                Some(reference) => roster(bus, reference).await?,
                None => Keys::new(),
            };
            keys.insert(order.host.clone(), own);
            has_succeeded_everywhere(bus, &past, &keys).await
        }
    }
}

/// A roster that is not usable proves nothing, and is no reason to ask for ever.
async fn roster(bus: &Bus, reference: &BundleRef) -> Result<Keys, GateError> {
    let roster = match bus.get_bundle(reference).await {
        Ok(bytes) => Roster::decode(&bytes, reference),
        Err(BusError::BundleMissing { .. } | BusError::BundleOversized { .. }) => return Ok(Keys::new()),
        Err(error) => return Err(error.into()),
    };
    Ok(roster.map(|roster| roster.hosts).unwrap_or_else(|error| {
        warn!(error = causes(&error), "the roster of an earlier promotion is not usable");
        Keys::new()
    }))
}

fn believe_promotion(said: &Delivered, promoters: &[PublicKey]) -> Option<CloudEvent<Promotion>> {
    verify(&said.body, said.signature.as_deref(), promoters).ok()?;
    CloudEvent::decode(&said.body, TYPE_PROMOTED).ok()
}

async fn has_last_word(bus: &Bus, past: &CloudEvent<Promotion>, keys: &Keys) -> Result<bool, GateError> {
    let Promotion { env, app, counter, plan, .. } = &past.data;
    let Some(entry) = bus.entry(ROLLOUT, &subject::rollout_key(env, app, *counter)).await? else { return Ok(false) };
    let deciders: Vec<PublicKey> = plan.hosts().filter_map(|host| keys.get(host).cloned()).collect();
    let state = serde_json::from_slice::<DsseEnvelope>(&entry.body)
        .ok()
        .and_then(|envelope| envelope.open(&deciders).ok())
        .and_then(|(body, _)| CloudEvent::<RolloutState>::decode(&body, TYPE_ROLLOUT_STATE).ok());
    Ok(state.is_some_and(|event| {
        event.data.promotion == past.id
            && matches!(event.data.word(), Some(RolloutWord::Succeeded | RolloutWord::SucceededPartial))
    }))
}

async fn has_succeeded_everywhere(bus: &Bus, past: &CloudEvent<Promotion>, keys: &Keys) -> Result<bool, GateError> {
    let Promotion { env, app, plan, .. } = &past.data;
    let kind = OutcomeKind::DeploySucceeded;
    for host in plan.hosts() {
        let Some(key) = keys.get(host) else { return Ok(false) };
        let said = bus.outcomes_so_far(subject::outcome(env, app, host, kind).as_str()).await?;
        let is_proof = |one: &Delivered| {
            verify(&one.body, one.signature.as_deref(), std::slice::from_ref(key)).is_ok()
                && CloudEvent::<Outcome>::decode(&one.body, &kind.event_type()).is_ok_and(|event| {
                    let outcome = event.data;
                    outcome.promotion == past.id && outcome.host == *host && outcome.kind == kind
                })
        };
        if !said.iter().rev().any(is_proof) {
            return Ok(false);
        }
    }
    Ok(plan.hosts().next().is_some())
}
