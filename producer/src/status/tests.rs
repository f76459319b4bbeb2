use super::*;
use crate::fixtures::{at, present, promoted, said};
use crate::output::table;

/// The table as a person sees it, a hundred seconds after the start, and whether the hosts are mixed.
fn shown(promotion: Read<Promotion>, outcomes: Vec<Read<Outcome>>, present: Vec<Read<Presence>>) -> (String, bool) {
    let facts = Facts { promotions: vec![promotion], outcomes, present, rollouts: BTreeMap::new(), now: at(100) };
    let apps: Vec<AppStatus> = facts.promotions.iter().map(|promotion| facts.app(promotion)).collect();
    let mixed = apps.iter().any(|app| app.mixed);
    (table(&HEADER, rows(&apps, at(100))), mixed)
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
