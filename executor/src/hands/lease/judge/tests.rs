#![allow(clippy::unwrap_used)]
use std::time::Duration;

use landfall_deploy::Order;
use landfall_schema::ids::{Counter, EventId, ServiceName};
use landfall_schema::lease::{LeaseDone, LeasePhase, MigrationLease};
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::signature::SigningKey;
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Turn, judge};
use crate::hands::lease::{Claim, Kept};

const THIS: u128 = 7;
const OTHER: u128 = 6;

struct Case {
    holder: &'static str,
    promotion: u128,
    phase: LeasePhase,
    believed: bool,
    expired: bool,
    can_be_told: bool,
    done: bool,
}

fn seen(phase: LeasePhase) -> Case {
    Case { holder: "host-b", promotion: THIS, phase, believed: true, expired: false, can_be_told: true, done: false }
}

fn failed() -> LeasePhase {
    LeasePhase::Failed { reason: Reason::new(ReasonCode::MigrationFailed, "no such table") }
}

fn unknown() -> LeasePhase {
    LeasePhase::Unknown { reason: Reason::new(ReasonCode::MigrationUnknown, "host-b vanished") }
}

fn resolved() -> LeasePhase {
    LeasePhase::Resolved { author: "ann".to_owned() }
}

/// What host-a, which has promotion 7 to migrate, does about it.
fn check(case: Case, expect: &str) {
    let promotion = crate::samples::promotion(3);
    let order = Order { host: "host-a".parse().unwrap(), id: EventId(Uuid::from_u128(THIS)), promotion };
    let service: ServiceName = "app".parse().unwrap();
    let (waiting, _told) = mpsc::channel(1);
    let claim = Claim {
        order: &order,
        service: &service,
        database: "shop",
        is_hosts_own: false,
        can_be_told: case.can_be_told,
        waiting: &waiting,
        deadline: Instant::now() + Duration::from_secs(1),
    };
    let mut lease = MigrationLease {
        holder: case.holder.parse().unwrap(),
        promotion: EventId(Uuid::from_u128(case.promotion)),
        counter: Counter(2),
        phase: case.phase.clone(),
        ..claim.fresh()
    };
    if case.done {
        let promotion = lease.promotion;
        let by = "host-b".parse().unwrap();
        lease.remember(LeaseDone { promotion, counter: Counter(2), by, applied: Vec::new() });
    }
    let kept = Kept { revision: 4, lease: Some(lease), signer: Some(SigningKey::generate().public()) };
    let turn = judge(&claim, Some(&kept), |_, _| case.believed, case.expired);
    let found = match turn {
        Turn::Wait { on, .. } => format!("wait: {on}"),
        Turn::Take { begun, lease } => {
            assert!(matches!(lease.phase, LeasePhase::Running) && lease.holder.as_str() == "host-a");
            format!("take: {begun:?}")
        }
        Turn::DoneBy { host, .. } => format!("done by {host}"),
        Turn::Stop(reason) => format!("stop: {:?}", reason.code),
        Turn::Halt { lease, reason } => {
            assert!(matches!(lease.phase, LeasePhase::Unknown { .. }) && lease.holder.as_str() == case.holder);
            assert!(reason.hint.unwrap().contains("landfall migration resolve shop --env staging"));
            format!("halt: {:?}", reason.code)
        }
    };
    assert_eq!(found, expect, "{:?} of #{} by {}", case.phase, case.promotion, case.holder);
}

#[test]
fn every_lease_has_its_answer() {
    let running = || seen(LeasePhase::Running);
    check(running(), "wait: host-b migrates shop");
    check(Case { promotion: OTHER, ..running() }, "wait: host-b migrates shop for shop v3");
    check(Case { expired: true, ..running() }, "take: TakenOver");
    check(Case { expired: true, can_be_told: false, ..running() }, "halt: MigrationUnknown");
    check(Case { expired: true, can_be_told: false, promotion: OTHER, ..running() }, "halt: MigrationUnknown");
    check(Case { holder: "host-a", ..running() }, "take: Resumed");
    check(Case { holder: "host-a", promotion: OTHER, ..running() }, "wait: host-a migrates shop for shop v3");
    // A forged one only costs time.
    check(Case { believed: false, ..running() }, "wait: host-b migrates shop");

    check(Case { done: true, ..seen(LeasePhase::Done) }, "done by host-b");
    check(Case { done: true, promotion: OTHER, ..seen(LeasePhase::Done) }, "take: Free");
    check(Case { done: true, believed: false, ..seen(LeasePhase::Done) }, "take: Free");

    check(seen(failed()), "stop: MigrationFailed");
    check(Case { promotion: OTHER, ..seen(failed()) }, "take: Free");
    check(Case { believed: false, ..seen(failed()) }, "take: Free");

    check(seen(unknown()), "stop: MigrationUnknown");
    check(Case { promotion: OTHER, ..seen(unknown()) }, "stop: MigrationUnknown");
    check(Case { believed: false, ..seen(unknown()) }, "stop: MigrationUnknown");
    check(Case { holder: "host-a", ..seen(unknown()) }, "take: Resumed");

    check(seen(resolved()), "take: Resolved");
    check(Case { believed: false, ..seen(resolved()) }, "stop: MigrationUnknown");
}
