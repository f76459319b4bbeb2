#![allow(clippy::unwrap_used)]
use landfall_schema::outcome::ReasonCode;

use super::*;
use crate::fixtures::{at, present, promoted, said};
use crate::output::table;

/// The table as a person sees it, a hundred seconds after the start, and whether the hosts are mixed.
fn shown(promotion: Read<Promotion>, outcomes: Vec<Read<Outcome>>, present: Vec<Read<Presence>>) -> (String, bool) {
    shown_of(Facts {
        promotions: vec![promotion],
        outcomes: Believed { proven: outcomes, ..Believed::default() },
        present,
        ..Facts::default()
    })
}

fn shown_of(facts: Facts) -> (String, bool) {
    let apps = apps_of(facts);
    let mixed = apps.iter().any(|app| app.mixed);
    (table(&HEADER, rows(&apps, at(100))), mixed)
}

fn apps_of(facts: Facts) -> Vec<AppStatus> {
    let facts = Facts { now: at(100), ..facts };
    facts.promotions.iter().map(|promotion| facts.app(promotion)).collect()
}

#[test]
fn all_well() {
    let outcomes = vec![
        said(10, "host-a 2 release.committed"),
        said(11, "host-a 2 deploy.succeeded"),
        said(12, "host-b 2 release.committed"),
        said(13, "host-b 2 deploy.succeeded"),
    ];
    let present = vec![present(90, "host-a", Some(2)), present(91, "host-b", Some(2))];
    let expect = "\
APP   HOST    HERE  RUNS   PROMOTED  STATE      SINCE
shop  host-a  here  v2 #2  v2 #2     succeeded  89 s
shop  host-b  here  v2 #2  v2 #2     succeeded  87 s";
    assert_eq!(shown(promoted(5, 2, &["host-a", "host-b"]), outcomes, present), (expect.to_owned(), false));
}

#[test]
fn one_rolled_back_one_away() {
    let outcomes = vec![
        said(1, "host-a 1 release.committed"),
        said(2, "host-b 1 release.committed"),
        said(3, "host-b 1 deploy.succeeded"),
        said(20, "host-a 2 readiness.failed"),
        said(21, "host-a 2 deploy.rolled_back"),
    ];
    let expect = "\
APP   HOST    HERE  RUNS   PROMOTED  STATE        SINCE
shop  host-a  here  v1 #1  v2 #2     rolled_back  79 s
shop  host-b  away  v1 #1  v2 #2     silent       95 s";
    let shown = shown(promoted(5, 2, &["host-a", "host-b"]), outcomes, vec![present(90, "host-a", Some(1))]);
    assert_eq!(shown, (expect.to_owned(), false));
}

#[test]
fn at_work_is_not_mixed_and_afterwards_it_is() {
    let mut outcomes = vec![
        said(1, "host-b 1 release.committed"),
        said(10, "host-a 2 release.committed"),
        said(11, "host-a 2 deploy.succeeded"),
        said(12, "host-b 2 image.pulled"),
    ];
    let here = || vec![present(90, "host-a", Some(2)), present(91, "host-b", Some(1))];
    let (text, mixed) = shown(promoted(5, 2, &["host-a", "host-b"]), outcomes.clone(), here());
    assert!(text.contains("shop  host-b  here  v1 #1  v2 #2     image.pulled  88 s"), "{text}");
    assert!(!mixed);
    outcomes.push(said(13, "host-b 2 deploy.failed"));
    assert!(shown(promoted(5, 2, &["host-a", "host-b"]), outcomes, here()).1);
}

#[test]
fn a_newer_outcome_beats_an_older_sign_of_life() {
    let outcomes = vec![said(50, "host-a 2 release.committed"), said(51, "host-a 2 deploy.succeeded")];
    let (text, _) = shown(promoted(5, 2, &["host-a"]), outcomes, vec![present(40, "host-a", Some(1))]);
    assert!(text.contains("host-a  here  v2 #2"), "{text}");
}

#[test]
fn a_host_that_came_later_and_a_promotion_without_hosts() {
    let (text, _) = shown(promoted(5, 1, &[]), Vec::new(), vec![present(90, "new", None)]);
    assert!(text.ends_with("shop  new   here  -     v1 #1     not in the plan  95 s"), "{text}");
    let (text, _) = shown(promoted(5, 1, &[]), Vec::new(), Vec::new());
    assert!(text.ends_with("shop  -     -     -     v1 #1     no host  95 s"), "{text}");
}

#[test]
fn a_claim_is_shown_as_a_claim_and_never_beside_a_proof() {
    let facts = || Facts {
        promotions: vec![promoted(5, 2, &["host-a", "host-b"])],
        outcomes: Believed {
            proven: vec![said(10, "host-a 2 release.committed"), said(11, "host-a 2 deploy.succeeded")],
            claimed: vec![
                said(20, "host-a 9 release.committed"),
                said(21, "host-a 2 deploy.stuck"),
                said(22, "host-b 2 release.committed"),
                said(23, "host-b 2 deploy.succeeded"),
            ],
            ..Believed::default()
        },
        ..Facts::default()
    };
    let expect = "\
APP   HOST    HERE  RUNS                PROMOTED  STATE                   SINCE
shop  host-a  away  v2 #2               v2 #2     succeeded               89 s
shop  host-b  away  v2 #2 (unverified)  v2 #2     succeeded (unverified)  77 s";
    assert_eq!(shown_of(facts()).0, expect);
    let app = apps_of(facts()).remove(0);
    assert_eq!(app.serving, None, "what one host claims is no fact");
    let told = reasons(&app);
    assert!(told.len() == 1 && told[0].contains("host-b says cannot be verified"), "{told:?}");
}

#[test]
fn a_host_with_another_key_than_the_plan_has_is_not_simply_believed() {
    let keys = HostKeys::of_roster(landfall_schema::roster::Roster::new(
        [("host-a".parse().unwrap(), landfall_schema::signature::SigningKey::generate().public())].into(),
    ));
    let facts = Facts {
        promotions: vec![promoted(5, 2, &["host-a"])],
        outcomes: Believed { proven: vec![said(10, "host-a 2 release.committed")], ..Believed::default() },
        present: vec![present(90, "host-a", Some(9))],
        keys: [("shop".parse().unwrap(), keys)].into(),
        ..Facts::default()
    };
    assert!(facts.changed_keys()[0].contains("host-a announces another key"));
    let (text, _) = shown_of(facts);
    assert!(text.contains("host-a  here  v9 #9 (unverified)"), "{text}");
}

#[test]
fn hosts_that_the_rollout_never_came_to_are_untouched() {
    let mut never = said(20, "host-b 2 deploy.failed");
    never.event.data.reason = Some(Reason::new(ReasonCode::RolloutFailed, "the rollout failed: host-a rolled back"));
    let mut third = never.clone();
    third.event.data.host = "host-c".parse().unwrap();
    let facts = Facts {
        promotions: vec![promoted(5, 2, &["host-a", "host-b", "host-c"])],
        outcomes: Believed { proven: vec![said(19, "host-a 2 deploy.failed"), never, third], ..Believed::default() },
        ..Facts::default()
    };
    let app = apps_of(facts).remove(0);
    let states: Vec<String> = rows(std::slice::from_ref(&app), at(100)).into_iter().map(|row| row[5].clone()).collect();
    assert_eq!(states, ["failed", "untouched", "untouched"]);
    assert_eq!(app.hosts[1].state, "failed");
    let told = reasons(&app);
    assert_eq!(told[1..], ["shop: nothing was touched on host-b, host-c: the rollout failed: host-a rolled back"]);
}
