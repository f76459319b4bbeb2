//! Events in words, for the tests of what is read from the bus.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_PRESENCE, TYPE_PROMOTED};
use landfall_schema::ids::{Counter, Digest, EventId};
use landfall_schema::outcome::{Outcome, OutcomeKind, Reason, ReasonCode};
use landfall_schema::presence::{EngineState, Presence, RunningRelease};
use landfall_schema::promotion::{BundleRef, Intent, Promotion, RolloutPlan, Wave};
use uuid::Uuid;

use crate::reading::Read;

/// Seconds after an arbitrary start.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn id_of(counter: u64) -> EventId {
    EventId(Uuid::from_u128(u128::from(counter)))
}

fn read<T>(second: i64, id: EventId, kind: &str, data: T) -> Read<T> {
    let event = CloudEvent::new(id, "/test", kind, at(second), data);
    Read { sequence: u64::try_from(second).unwrap(), published_at: at(second), event }
}

/// `v<counter>` of the shop, for these hosts.
pub(crate) fn promoted(second: i64, counter: u64, hosts: &[&str]) -> Read<Promotion> {
    let data = Promotion {
        env: "staging".parse().unwrap(),
        app: "shop".parse().unwrap(),
        counter: Counter(counter),
        release: format!("v{counter}").parse().unwrap(),
        intent: Intent::Promote,
        images: BTreeMap::new(),
        variables: BTreeMap::new(),
        bundle: BundleRef { digest: Digest::of(b""), bytes: 0 },
        plan: RolloutPlan {
            waves: vec![Wave::of(hosts.iter().map(|host| host.parse().unwrap()).collect())],
            deadline_ms: 60_000,
            bake_ms: 0,
            ..RolloutPlan::default()
        },
        only: Default::default(),
        preview: None,
        schema: None,
        evidence: None,
        author: "ci".to_owned(),
        link: None,
        expires_at: at(3_600),
    };
    read(second, id_of(counter), TYPE_PROMOTED, data)
}

/// `host counter noun.verb [milliseconds]`, e.g. `host-a 2 image.pulled 800`.
pub(crate) fn said(second: i64, words: &str) -> Read<Outcome> {
    let words: Vec<&str> = words.split_whitespace().collect();
    let counter: u64 = words[1].parse().unwrap();
    let kind = *OutcomeKind::ALL.iter().find(|kind| kind.to_string() == words[2]).unwrap();
    let data = Outcome {
        kind,
        env: "staging".parse().unwrap(),
        app: "shop".parse().unwrap(),
        host: words[0].parse().unwrap(),
        counter: Counter(counter),
        release: format!("v{counter}").parse().unwrap(),
        promotion: id_of(counter),
        duration_ms: words.get(3).map(|milliseconds| milliseconds.parse().unwrap()),
        message: format!("{kind} said"),
        reason: kind.is_failure().then(|| Reason::new(ReasonCode::Unhealthy, "app answers 500\nand more")),
        progress: None,
        running: BTreeMap::new(),
        migrations: Vec::new(),
        former: None,
        timings_ms: BTreeMap::new(),
        rollout: None,
    };
    read(second, EventId(Uuid::from_u128(0x1000 + second as u128)), &kind.event_type(), data)
}

/// A host that runs `v<counter>` of the shop, or nothing of it yet.
pub(crate) fn present(second: i64, host: &str, runs: Option<u64>) -> Read<Presence> {
    let runs = runs
        .map(|counter| RunningRelease { counter: Counter(counter), release: format!("v{counter}").parse().unwrap() });
    let data = Presence {
        env: "staging".parse().unwrap(),
        host: host.parse().unwrap(),
        executor_version: "0.1.0".to_owned(),
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        engine: EngineState::Answering { version: "28.5.2".to_owned() },
        disk_free_bytes: 41_500_000_000,
        key: "U".to_owned(),
        apps: BTreeMap::from([("shop".parse().unwrap(), runs)]),
        previews: Default::default(),
    };
    read(second, EventId(Uuid::from_u128(7)), TYPE_PRESENCE, data)
}
