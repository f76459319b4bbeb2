#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use landfall_deploy::rollout::first_state;
use landfall_schema::ids::{Counter, HostName};
use landfall_schema::promotion::{BundleRef, Wave};
use landfall_schema::rollout::{RolloutPhase, RolloutWord};
use landfall_schema::signature::SigningKey;

use super::*;
use crate::announce::Announcer;
use crate::samples;

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn announcer(name: &str) -> Announcer {
    Announcer::new("staging".parse().unwrap(), host(name), SigningKey::generate())
}

fn entry(revision: u64, body: Vec<u8>) -> Entry {
    Entry { revision, body: body.into(), written_at: samples::now() }
}

/// A plan of `h1 | h2` without `h3`, which was away: the roster has the keys of all three.
fn fleet() -> (Order, Roster, [Announcer; 3]) {
    let mut order = samples::order(5);
    let plan = &mut order.promotion.plan;
    plan.waves = vec![Wave::of(vec![host("h1")]), Wave::of(vec![host("h2")])];
    plan.away = vec![host("h3")];
    plan.roster = Some(BundleRef { digest: Digest::of(b"roster"), bytes: 1 });
    order.host = host("h2");
    let hosts = ["h1", "h2", "h3"].map(announcer);
    let keys: BTreeMap<_, _> = hosts.iter().map(|one| (one.host().clone(), one.public_key())).collect();
    (order, Roster::new(keys), hosts)
}

fn state(order: &Order, by: &str, phase: RolloutPhase, wave: u32) -> RolloutState {
    RolloutState { phase, wave, decided_by: host(by), ..first_state(order) }
}

#[test]
fn what_nobody_of_the_plan_signed_is_passed_over() {
    let (order, roster, [h1, _, h3]) = fleet();
    let rolling = state(&order, "h1", RolloutPhase::Rolling, 1);
    let good = entry(4, h1.rollout_state(&rolling, samples::now()).unwrap());
    let seen = judge(Some(&good), None, &order, &roster);
    assert_eq!(seen.known.as_ref().unwrap().state, rolling);
    assert_eq!((seen.revision, &seen.spoilt), (4, &None));

    let away = state(&order, "h3", RolloutPhase::Ended { word: RolloutWord::Succeeded }, 1);
    let of_another = RolloutState { counter: Counter(4), ..rolling.clone() };
    for body in [
        b"junk".to_vec(),
        Vec::new(),
        h3.rollout_state(&rolling, samples::now()).unwrap(),
        h3.rollout_state(&away, samples::now()).unwrap(),
        h1.rollout_state(&of_another, samples::now()).unwrap(),
        announcer("h1").rollout_state(&rolling, samples::now()).unwrap(),
    ] {
        let bad = entry(5, body);
        let alone = judge(Some(&bad), None, &order, &roster);
        assert!(alone.known.is_none() && alone.spoilt.is_some());
        assert_eq!(alone.revision, 5, "so that it can be written over");
        let after = judge(Some(&bad), seen.known.clone(), &order, &roster);
        assert_eq!(after.known, seen.known);
        assert!(after.spoilt.is_some());
    }
}

#[test]
fn an_older_state_written_again_is_passed_over() {
    let (order, roster, [h1, ..]) = fleet();
    let write = |revision, state: &RolloutState| entry(revision, h1.rollout_state(state, samples::now()).unwrap());
    let judged = |entry: &Entry, before: Option<Known>| judge(Some(entry), before, &order, &roster);
    let first = write(1, &state(&order, "h1", RolloutPhase::Rolling, 0));
    let second = write(2, &state(&order, "h1", RolloutPhase::Rolling, 1));
    let back = write(3, &state(&order, "h1", RolloutPhase::RollingBack { aborted: false }, 1));
    let ended = write(4, &state(&order, "h1", RolloutPhase::Ended { word: RolloutWord::RolledBack }, 1));
    let mut known = None;
    for entry in [&first, &second, &back, &ended] {
        let seen = judged(entry, known.clone());
        assert_eq!(seen.spoilt, None);
        known = seen.known;
        for older in [&first, &second, &back].into_iter().filter(|older| older.revision < entry.revision) {
            let again = judged(&Entry { revision: 9, ..older.clone() }, known.clone());
            assert_eq!((again.known, again.revision), (known.clone(), 9));
            assert!(again.spoilt.is_some());
        }
    }
    let other = write(9, &state(&order, "h1", RolloutPhase::Ended { word: RolloutWord::Succeeded }, 1));
    assert!(judged(&other, known.clone()).spoilt.is_some(), "there is one last word");
    // Read before the newer one was written, and not written again since.
    assert_eq!(judged(&second, known.clone()).spoilt, None);
    assert!(judge(None, known, &order, &roster).spoilt.is_some());
    assert!(judge(None, None, &order, &roster).spoilt.is_none());
}

#[test]
fn the_event_of_a_decision_is_the_same_wherever_it_is_made() {
    assert_eq!(event_of(b"one"), event_of(b"one"));
    assert_ne!(event_of(b"one"), event_of(b"two"));
    assert_eq!(event_of(b"one").0.get_version_num(), 8);
}
