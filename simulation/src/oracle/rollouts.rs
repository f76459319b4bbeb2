//! What must be true of rollouts: of what their hosts decided together, and said of all of them.

use std::collections::{BTreeMap, BTreeSet};

use landfall_bus::Delivered;
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_ROLLOUT_STATE};
use landfall_schema::ids::HostName;
use landfall_schema::outcome::OutcomeKind;
use landfall_schema::promotion::OnFailure;
use landfall_schema::rollout::{RolloutState, RolloutWord};
use landfall_schema::signature::DsseEnvelope;

use super::Ledger;
use crate::people::People;
use crate::simulation::{Sim, service};

const BUCKET: &str = "KV_landfall-rollout";
const ENTRIES: &str = "$KV.landfall-rollout.>";

/// One that was written to the bucket, and the state if a host has signed it.
type Entry = (Delivered, Option<RolloutState>);

/// What became of every rollout, from the bucket's entries in the order of their writing.
pub(crate) fn judge(sim: &Sim, people: &People, ledger: &Ledger) {
    let rosters: Vec<_> = people.machines.iter().map(|machine| machine.key().public()).collect();
    let believed = |entry: &Delivered| {
        let envelope = serde_json::from_slice::<DsseEnvelope>(&entry.body).ok()?;
        let (body, _) = envelope.open(&rosters).ok()?;
        CloudEvent::<RolloutState>::decode(&body, TYPE_ROLLOUT_STATE).ok().map(|event| event.data)
    };
    let all = sim.server.all(BUCKET, ENTRIES).into_iter();
    let entries: Vec<Entry> = all
        .map(|entry| {
            let state = believed(&entry);
            (entry, state)
        })
        .collect();
    decisions(sim, &entries);
    words(sim, &entries);
    failures(sim, &entries, ledger);
}

fn states(entries: &[Entry]) -> impl Iterator<Item = (Timestamp, &RolloutState)> {
    entries.iter().filter_map(|(entry, state)| Some((entry.published_at, state.as_ref()?)))
}

/// What the hosts of a rollout have decided is never taken back, and there is one last word.
fn decisions(sim: &Sim, entries: &[Entry]) {
    // What a power cut takes is decided once more, and may be decided otherwise.
    let lost = sim.server.lost();
    let is_decided_anew: BTreeSet<&str> = lost.iter().map(|entry| entry.subject.as_str()).collect();
    let mut newest: BTreeMap<&str, &RolloutState> = BTreeMap::new();
    for (entry, state) in entries.iter().filter(|(entry, _)| !is_decided_anew.contains(entry.subject.as_str())) {
        // What a stranger writes over, a host may not have seen; it goes on from what it knows, until one that knows more puts that back.
        let Some(state) = state else {
            newest.remove(entry.subject.as_str());
            continue;
        };
        // A number that a power cut had taken is given to another promotion.
        let before = newest.get(entry.subject.as_str()).filter(|before| before.promotion == state.promotion);
        if let Some(before) = before.filter(|before| !state.follows(before)) {
            let text = format!(
                "{}: {} wrote {:?} over {:?} of {}",
                state.counter, state.decided_by, state.phase, before.phase, before.decided_by
            );
            sim.violated("decisions stand", text);
        }
        newest.insert(&entry.subject, state);
    }
}

/// When the last word said that it succeeded, every host of the plan served it, or something newer.
fn words(sim: &Sim, entries: &[Entry]) {
    let promoted = sim.promoted();
    for (published_at, state) in states(entries) {
        let Some(word) = state.word() else { continue };
        if !matches!(word, RolloutWord::Succeeded | RolloutWord::SucceededPartial | RolloutWord::RolledBack) {
            continue;
        }
        let Some(one) = promoted.iter().find(|one| one.id == state.promotion) else { continue };
        let at_ms = sim.clock.ms_of(published_at);
        let wanted = &one.promotion.images[&service()].digest;
        for host in one.promotion.plan.hosts() {
            if state.not_reached.contains_key(host) {
                continue;
            }
            let container = sim.ran_at(host, at_ms);
            if word == RolloutWord::RolledBack {
                let still = container.is_some_and(|c| c.digest == *wanted && c.counter == one.promotion.counter.0);
                if still {
                    let text = format!("{word:?} was said of {} while {host} still ran it", one.promotion.counter);
                    sim.violated("the last word is true", text);
                }
                continue;
            }
            let serves = container
                .as_ref()
                .is_some_and(|container| container.digest == *wanted || container.counter > one.promotion.counter.0);
            if !serves {
                let text = format!("{word:?} was said of {} while {host} ran something else", one.promotion.counter);
                sim.violated("never succeeded on a mixed fleet", text);
            }
        }
    }
}

/// Where a failure takes every host back, none of them keeps the release, unless a newer one came before that was decided.
fn failures(sim: &Sim, entries: &[Entry], ledger: &Ledger) {
    let promoted = sim.promoted();
    for (published_at, state) in states(entries) {
        let is_failed = matches!(state.word(), Some(RolloutWord::RolledBack | RolloutWord::Mixed));
        let Some(place) = promoted.iter().position(|one| one.id == state.promotion).filter(|_| is_failed) else {
            continue;
        };
        let one = &promoted[place];
        let is_newest = promoted.get(place + 1).is_none_or(|newer| newer.made_ms() > published_at.as_millisecond());
        if one.promotion.plan.on_failure != OnFailure::RollbackAll || !is_newest {
            continue;
        }
        for host in one.promotion.plan.hosts() {
            if ledger.first_said(host, one.id, OutcomeKind::DeploySucceeded).is_some() {
                let text = format!("{host} kept {} though the rollout had failed", one.promotion.counter);
                sim.violated("a failure takes all back", text);
            }
        }
    }
}

/// A host of a later wave begins when every host of the wave before has committed, or was given up.
pub(crate) fn waves(sim: &Sim, ledger: &Ledger) {
    for one in sim.promoted().iter().filter(|one| one.promotion.plan.is_coordinated()) {
        let plan = &one.promotion.plan;
        for (number, wave) in plan.waves.iter().enumerate().skip(1) {
            let former = &plan.waves[number - 1].hosts;
            let committed = |host: &HostName| ledger.first_said(host, one.id, OutcomeKind::ReleaseCommitted);
            for host in &wave.hosts {
                let Some(began) = sim.timeline(host).into_iter().find(|ran| one.started(ran)) else { continue };
                let early = former.iter().find(|former| {
                    committed(former).is_none_or(|at| sim.clock.ms_of(at) > began.at_ms)
                        && !sim.was_given_up(one.id, former)
                });
                if let Some(early) = early {
                    let text = format!("{host} began {} before {early} had committed it", one.promotion.counter);
                    sim.violated("waves in order", text);
                }
            }
        }
    }
}
