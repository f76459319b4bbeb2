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

use super::{Turn, Word, judge};
use crate::hands::lease::{Claim, DoneBy, Kept};

const THIS: u128 = 7;
const OTHER: u128 = 6;
const NEWER: u128 = 8;

struct Case {
    holder: &'static str,
    promotion: u128,
    phase: LeasePhase,
    word: Word,
    expired: bool,
    can_be_told: bool,
    may_resume: bool,
    /// The promotion of the last migration that came to a good end.
    done: Option<u128>,
}

fn seen(phase: LeasePhase) -> Case {
    Case {
        holder: "host-b",
        promotion: THIS,
        phase,
        word: Word::Believed,
        expired: false,
        can_be_told: true,
        may_resume: true,
        done: None,
    }
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

/// The counter of a promotion by its id.
fn counter(promotion: u128) -> Counter {
    Counter(u64::try_from(promotion - 4).unwrap())
}

/// What host-a, which has promotion 7 to migrate, does about it.
fn check(case: Case, expect: &str) {
    let order = order();
    let service: ServiceName = "app".parse().unwrap();
    let (waiting, _told) = mpsc::channel(1);
    let claim =
        Claim { can_be_told: case.can_be_told, may_resume: case.may_resume, ..claim(&order, &service, &waiting) };
    let mut lease = MigrationLease {
        holder: case.holder.parse().unwrap(),
        promotion: EventId(Uuid::from_u128(case.promotion)),
        counter: counter(case.promotion),
        phase: case.phase.clone(),
        ..claim.fresh()
    };
    if let Some(done) = case.done {
        let (promotion, counter) = (EventId(Uuid::from_u128(done)), counter(done));
        lease.remember(LeaseDone { promotion, counter, by: "host-b".parse().unwrap(), applied: Vec::new() });
    }
    let kept = Kept { revision: 4, lease: Some(lease), signer: Some(SigningKey::generate().public()) };
    let turn = judge(&claim, Some(&kept), |_, _| case.word, case.expired);
    let is_believed = case.word >= Word::Believed;
    let found = match turn {
        Turn::Wait { on, .. } => format!("wait: {on}"),
        Turn::Take { begun, lease } => {
            assert!(matches!(lease.phase, LeasePhase::Running) && lease.holder.as_str() == "host-a");
            assert!(is_believed || lease.done.is_empty(), "a stranger's word was passed on");
            format!("take: {begun:?}")
        }
        Turn::DoneBy(DoneBy { host, newer: None, .. }) => format!("done by {host}"),
        Turn::DoneBy(DoneBy { host, newer: Some(newer), .. }) => format!("done by {host} for {newer}"),
        Turn::Stop(reason) => format!("stop: {:?}", reason.code),
        Turn::Halt { lease, reason } => {
            assert!(matches!(lease.phase, LeasePhase::Unknown { .. }) && lease.holder.as_str() == case.holder);
            assert!(is_believed || (lease.done.is_empty() && lease.counter <= counter(THIS)), "a stranger's word");
            assert!(reason.hint.unwrap().contains("landfall migration resolve shop --env staging"));
            format!("halt: {:?}", reason.code)
        }
    };
    assert_eq!(found, expect, "{:?} of #{} by {}", case.phase, case.promotion, case.holder);
}

fn order() -> Order {
    let promotion = crate::samples::promotion(counter(THIS).0);
    Order { host: "host-a".parse().unwrap(), id: EventId(Uuid::from_u128(THIS)), promotion }
}

fn claim<'a>(order: &'a Order, service: &'a ServiceName, waiting: &'a mpsc::Sender<String>) -> Claim<'a> {
    Claim {
        order,
        service,
        database: "shop",
        is_hosts_own: false,
        can_be_told: true,
        may_resume: true,
        kept: &[],
        waiting,
        deadline: Instant::now() + Duration::from_secs(1),
    }
}

#[test]
fn every_lease_has_its_answer() {
    let running = || Case { can_be_told: false, ..seen(LeasePhase::Running) };
    check(running(), "wait: host-b migrates shop");
    check(Case { promotion: OTHER, ..running() }, "wait: host-b migrates shop for shop v3");
    check(Case { expired: true, can_be_told: true, ..running() }, "take: TakenOver");
    check(Case { expired: true, ..running() }, "halt: MigrationUnknown");
    check(Case { expired: true, promotion: OTHER, ..running() }, "halt: MigrationUnknown");
    check(Case { holder: "host-a", word: Word::Own, ..running() }, "take: Resumed");
    check(
        Case { holder: "host-a", word: Word::Own, promotion: OTHER, ..running() },
        "wait: host-a migrates shop for shop v3",
    );
    // A forged one only costs time.
    check(Case { word: Word::Strange, ..running() }, "wait: host-b migrates shop");
    check(Case { word: Word::Strange, holder: "host-a", ..running() }, "wait: host-a migrates shop");
    check(
        Case { word: Word::Strange, expired: true, promotion: NEWER, done: Some(NEWER), ..running() },
        "halt: MigrationUnknown",
    );

    check(seen(failed()), "stop: MigrationFailed");
    check(Case { promotion: OTHER, ..seen(failed()) }, "take: Free");

    let unknown = || Case { can_be_told: false, ..seen(unknown()) };
    check(unknown(), "stop: MigrationUnknown");
    check(Case { promotion: OTHER, ..unknown() }, "stop: MigrationUnknown");
    check(Case { word: Word::Strange, ..unknown() }, "stop: MigrationUnknown");
    check(Case { holder: "host-a", ..unknown() }, "take: Resumed");
    // Its container is gone.
    check(Case { holder: "host-a", may_resume: false, ..unknown() }, "stop: MigrationUnknown");

    check(seen(resolved()), "take: Resolved");
    check(Case { word: Word::Strange, ..seen(resolved()) }, "stop: MigrationUnknown");
}

#[test]
fn older_migrations_are_not_run_after_newer_ones() {
    let done = |promotion| Case { done: Some(promotion), ..seen(LeasePhase::Done) };
    check(done(THIS), "done by host-b");
    check(Case { promotion: OTHER, ..done(OTHER) }, "take: Free");
    check(Case { promotion: NEWER, ..done(NEWER) }, "done by host-b for #4");
    // The newer one was resumed by a host that had begun it before, or another one has been migrated since.
    check(Case { phase: LeasePhase::Running, ..done(NEWER) }, "done by host-b for #4");
    check(Case { phase: failed(), promotion: NEWER, ..done(THIS) }, "done by host-b");

    let newer = |phase| Case { promotion: NEWER, can_be_told: false, done: Some(OTHER), ..seen(phase) };
    check(newer(failed()), "stop: MigrationFailed");
    check(newer(resolved()), "stop: MigrationFailed");
    // The database tells how far it came.
    check(Case { can_be_told: true, ..newer(failed()) }, "take: Free");
}

#[test]
fn a_strange_host_at_its_end_is_no_reason_to_halt() {
    for phase in [LeasePhase::Done, failed()] {
        let strange = |promotion| Case { word: Word::Strange, can_be_told: false, promotion, ..seen(phase.clone()) };
        // Another plan's host, or another application's; what it says of this promotion is not heeded.
        check(strange(OTHER), "take: Free");
        check(Case { done: Some(THIS), ..strange(OTHER) }, "take: Free");
        check(strange(THIS), "take: Free");
        check(Case { can_be_told: true, ..strange(NEWER) }, "take: Free");
        // Neither is it a reason to migrate backwards.
        check(strange(NEWER), "stop: MigrationFailed");
        check(Case { done: Some(NEWER), ..strange(OTHER) }, "stop: MigrationFailed");
    }
}

#[test]
fn what_cannot_be_read_or_is_of_another_database_halts() {
    let order = order();
    let service: ServiceName = "app".parse().unwrap();
    let (waiting, _told) = mpsc::channel(1);
    let claim = |can_be_told| Claim { can_be_told, ..claim(&order, &service, &waiting) };
    let elsewhere = MigrationLease { database: "stock".to_owned(), phase: LeasePhase::Done, ..claim(false).fresh() };
    for lease in [None, Some(elsewhere)] {
        let signer = lease.as_ref().map(|_| SigningKey::generate().public());
        let junk = Kept { revision: 4, lease, signer };
        let turn = judge(&claim(false), Some(&junk), |_, _| Word::Own, false);
        let Turn::Stop(reason) = turn else { panic!("junk was taken for nothing") };
        assert_eq!(reason.code, ReasonCode::MigrationUnknown);
        assert!(reason.hint.unwrap().contains("landfall migration resolve shop --env staging --force"));
        assert!(matches!(judge(&claim(true), Some(&junk), |_, _| Word::Own, false), Turn::Take { .. }));
    }
    assert!(matches!(judge(&claim(false), None, |_, _| Word::Own, false), Turn::Take { .. }));
}
