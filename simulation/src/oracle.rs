//! What must be true at the end of every run, whatever went wrong in it.

pub(crate) mod journal;
pub(crate) mod rollouts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_bus::Delivered;
use landfall_schema::Timestamp;
use landfall_schema::event::CloudEvent;
use landfall_schema::ids::{Digest, EventId, HostName};
use landfall_schema::layout::OUTCOMES;
use landfall_schema::outcome::{Outcome, OutcomeKind, Reason, ReasonCode};
use landfall_schema::promotion::Intent;
use landfall_schema::signature::verify;
use landfall_schema::subject;

use crate::people::People;
use crate::simulation::{Promoted, Sim, service};

/// What the hosts have told, each event once, as an audit consumer keeps it.
pub(crate) struct Ledger {
    pub(crate) told: BTreeMap<EventId, Told>,
    /// In the order of their publication.
    order: Vec<EventId>,
}

pub(crate) struct Told {
    pub(crate) outcome: Outcome,
    /// By the server's clock.
    at: Timestamp,
    /// By the host's.
    said_at: Timestamp,
    sequence: u64,
    /// A power cut took it from the server after it was confirmed.
    pub(crate) is_lost: bool,
}

impl Ledger {
    pub(crate) fn read(sim: &Sim) -> Self {
        let kept = sim.server.all(OUTCOMES, "landfall.*.outcome.>").into_iter().map(|said| (said, false));
        let lost = sim.server.lost().into_iter().map(|said| (said, true));
        let mut all: Vec<(Delivered, bool)> = kept.chain(lost).collect();
        all.sort_by_key(|(said, _)| (said.published_at, said.sequence));
        let (mut told, mut order) = (BTreeMap::new(), Vec::new());
        for (said, is_lost) in all {
            let Some(event) = sim.believed(&said) else { continue };
            let entry = told.entry(event.id).or_insert_with(|| {
                order.push(event.id);
                let (at, sequence) = (said.published_at, said.sequence);
                Told { outcome: event.data.clone(), at, said_at: event.time, sequence, is_lost }
            });
            entry.is_lost &= is_lost;
        }
        Self { told, order }
    }

    pub(crate) fn said(&self, promotion: EventId, kind: OutcomeKind) -> bool {
        self.told.values().any(|told| told.outcome.promotion == promotion && told.outcome.kind == kind)
    }

    /// When the host first said so, by the server's clock.
    fn first_said(&self, host: &HostName, promotion: EventId, kind: OutcomeKind) -> Option<Timestamp> {
        let said = self.of(host).find(|told| told.outcome.promotion == promotion && told.outcome.kind == kind);
        said.map(|told| told.at)
    }

    fn of<'l>(&'l self, host: &'l HostName) -> impl Iterator<Item = &'l Told> {
        self.order.iter().filter_map(|id| self.told.get(id)).filter(move |told| told.outcome.host == *host)
    }

    fn terminals<'l>(&'l self, host: &'l HostName) -> impl Iterator<Item = &'l Told> {
        self.of(host).filter(|told| told.outcome.kind.is_terminal())
    }

    /// Deploys that came to their end.
    pub(crate) fn deploys(&self) -> usize {
        self.told.values().filter(|told| told.outcome.kind.is_terminal()).count()
    }
}

/// Whether the word says of a promotion that it was passed by for a newer one; the fleet may come back to such a one.
fn is_passed_by(outcome: &Outcome) -> bool {
    outcome.kind == OutcomeKind::DeploySuperseded
        || outcome.reason.as_ref().is_some_and(|reason| reason.code == ReasonCode::StaleCounter)
}

/// Every promotion that a host took has come to exactly one end there.
pub(crate) fn ends(sim: &Sim, people: &People, ledger: &Ledger) {
    for machine in &people.machines {
        let host = &machine.name;
        for promoted in sim.promoted() {
            let of = |told: &&Told| told.outcome.promotion == promoted.id;
            let counter = promoted.promotion.counter;
            let ends: Vec<&Told> = ledger.terminals(host).filter(of).collect();
            let real = ends.iter().filter(|told| !is_passed_by(&told.outcome)).count();
            if real > 1 {
                let kinds: Vec<String> = ends.iter().map(|told| told.outcome.kind.to_string()).collect();
                sim.violated("one end", format_args!("{host} told of {counter}: {}", kinds.join(", ")));
            }
            let was_begun = ledger.of(host).filter(of).any(|told| told.outcome.kind == OutcomeKind::ReleaseAccepted);
            if was_begun && ends.is_empty() {
                sim.violated("no release lost", format_args!("{host} began {counter} and never told how it ended"));
            }
        }
    }
}

/// What a power cut took from the server, the hosts tell again.
pub(crate) fn told_again(sim: &Sim, ledger: &Ledger) {
    for told in ledger.told.values().filter(|told| told.is_lost) {
        let Outcome { host, counter, kind, .. } = &told.outcome;
        let text = format!("{host}: {kind} of {counter} was lost by the server, and not told again");
        sim.violated("outcomes reach the ledger", text);
    }
}

/// Whenever a host tells how a deploy ended, what runs there is what that says; and so it is at the end.
pub(crate) fn digests(sim: &Sim, people: &People, ledger: &Ledger) {
    let promoted: BTreeMap<EventId, Promoted> = sim.promoted().into_iter().map(|one| (one.id, one)).collect();
    for machine in &people.machines {
        let host = &machine.name;
        let mut ends: Vec<&Told> = ledger.terminals(host).collect();
        // What the server had lost is told again, after what is newer.
        if !machine.was_ever_wrong() {
            ends.sort_by_key(|told| told.said_at);
        }
        let mut expected: Option<Digest> = None;
        let mut is_known = true;
        for told in ends {
            let Outcome { kind, counter, .. } = &told.outcome;
            match kind {
                OutcomeKind::DeploySucceeded => {
                    let one = promoted.get(&told.outcome.promotion);
                    expected = one.map(|one| one.promotion.images[&service()].digest.clone());
                    is_known = true;
                }
                OutcomeKind::DeployStuck => is_known = false,
                // The former release serves.
                _ => {}
            }
            // Others are told of what never began, whatever is under way.
            let is_of_a_deploy = matches!(
                kind,
                OutcomeKind::DeploySucceeded | OutcomeKind::DeployRolledBack | OutcomeKind::DeployFailed
            );
            if is_known && is_of_a_deploy && !machine.was_ever_wrong() {
                let runs = sim.ran_at(host, sim.clock.ms_of(told.said_at)).map(|container| container.digest);
                if runs != expected {
                    let text = format!(
                        "{host} told that {counter} {kind}: it ran {}, and not {}",
                        shown(&runs),
                        shown(&expected)
                    );
                    sim.violated("final digests", text);
                }
            }
        }
        let runs = machine.container().map(|container| container.digest);
        if is_known && runs != expected {
            let text = format!("{host} runs {}, its last word is {}", shown(&runs), shown(&expected));
            sim.violated("final digests", text);
        }
    }
}

fn shown(digest: &Option<Digest>) -> String {
    digest.as_ref().map_or("nothing".to_owned(), |one| one.short().to_owned())
}

/// A promotion that was passed by for a newer one has touched nothing.
pub(crate) fn passed_by(sim: &Sim, people: &People, ledger: &Ledger) {
    let promoted = sim.promoted();
    for machine in people.machines.iter().filter(|machine| !machine.was_ever_wrong()) {
        let timeline = sim.timeline(&machine.name);
        for told in ledger.terminals(&machine.name).filter(|told| told.outcome.kind == OutcomeKind::DeploySuperseded) {
            let Some(one) = promoted.iter().find(|one| one.id == told.outcome.promotion) else { continue };
            let by = sim.clock.ms_of(told.said_at);
            let ran = timeline.iter().take_while(|ran| ran.at_ms <= by).any(|ran| one.started(ran));
            if ran {
                let text =
                    format!("{} told that {} was superseded, and had started it", machine.name, one.promotion.counter);
                sim.violated("passed by untouched", text);
            }
        }
    }
}

/// Nobody tells of success with what never ran there.
pub(crate) fn successes(sim: &Sim, people: &People, ledger: &Ledger) {
    let promoted = sim.promoted();
    for machine in &people.machines {
        let timeline = sim.timeline(&machine.name);
        for told in ledger.terminals(&machine.name).filter(|told| told.outcome.kind == OutcomeKind::DeploySucceeded) {
            let Some(one) = promoted.iter().find(|one| one.id == told.outcome.promotion) else { continue };
            let wanted = &one.promotion.images[&service()].digest;
            let ran =
                timeline.iter().filter_map(|ran| ran.container.as_ref()).any(|container| container.digest == *wanted);
            if !ran {
                let text =
                    format!("{} told of success with {}, which never ran there", machine.name, one.promotion.counter);
                sim.violated("success is true", text);
            }
        }
    }
}

/// A restored release is one that the host had said it would go back to.
pub(crate) fn returns(sim: &Sim, ledger: &Ledger) {
    for (host, counter) in sim.went_back() {
        // Where the container of the order that was undone never came, it is a newer one.
        let is_told = ledger.terminals(&host).any(|told| {
            told.outcome.counter.0 >= counter
                && matches!(told.outcome.kind, OutcomeKind::DeployRolledBack | OutcomeKind::DeployStuck)
        });
        if !is_told {
            sim.violated("returns are told", format_args!("{host} left promotion {counter} and never told so"));
        }
    }
}

/// Nothing here takes longer than its deadline, so no step may say that it did.
pub(crate) fn deadlines(sim: &Sim, ledger: &Ledger) {
    for told in ledger.told.values().filter(|told| told.outcome.kind.is_terminal()) {
        let Outcome { host, counter, reason, .. } = &told.outcome;
        let is_late =
            |reason: &&Reason| reason.code == ReasonCode::DeadlineExceeded && !reason.message.contains("wave");
        if let Some(reason) = reason.as_ref().filter(is_late) {
            sim.violated("no false deadline", format_args!("{host} gave {counter} up: {}", reason.message));
        }
    }
}

/// Nobody deploys a promotion before two people have approved it, each with a key of their own. A rule that the bus has lost holds where it
/// was read before.
pub(crate) fn approvals(sim: &Sim, people: &People) {
    let promoted = sim.promoted();
    let lost_since = sim.server.lost_since(subject::environment_policy(&sim.env).as_str());
    for machine in &people.machines {
        for ran in sim.timeline(&machine.name) {
            let Some(one) = promoted.iter().find(|one| one.started(&ran)) else { continue };
            let is_ruled = lost_since.is_none_or(|since| ran.at_ms < since) || machine.knew_the_rules(ran.at_ms);
            let needs_approval = matches!(one.promotion.intent, Intent::Promote) && is_ruled;
            if needs_approval && !sim.was_approved(one.id, ran.at_ms) {
                let text = format!("{} deployed {} without two approvals", machine.name, one.promotion.counter);
                sim.violated("approvals", text);
            }
        }
    }
}

/// After everything works again, the last release serves everywhere.
pub(crate) fn converged(sim: &Sim, people: &People, last: &Promoted) {
    let wanted = &last.promotion.images[&service()].digest;
    let others: BTreeSet<String> = people
        .machines
        .iter()
        .filter(|machine| machine.container().is_none_or(|container| container.digest != *wanted))
        .map(|machine| machine.name.to_string())
        .collect();
    if !others.is_empty() {
        let others: Vec<String> = others.into_iter().collect();
        sim.violated("converges", format_args!("the last release does not serve on {}", others.join(", ")));
    }
}

impl Sim {
    /// An outcome that the host itself has signed.
    fn believed(&self, said: &Delivered) -> Option<Arc<CloudEvent<Outcome>>> {
        self.remember(said, || {
            let known = |kind: &str| OutcomeKind::from_event_type(kind).is_some();
            let event = CloudEvent::<Outcome>::decode_where(&said.body, "an outcome", known).ok()?;
            let key = self.host_keys().get(&event.data.host)?.clone();
            verify(&said.body, said.signature.as_deref(), &[key]).ok()?;
            Some(Arc::new(event))
        })
    }
}
