#![allow(clippy::unwrap_used)]
use landfall_schema::Timestamp;
use landfall_schema::event::TYPE_PROMOTED;
use landfall_schema::ids::{Counter, Digest};
use landfall_schema::promotion::{BundleRef, Intent, RolloutPlan, Wave};
use uuid::Uuid;

use super::*;

fn view(hosts: &[&str]) -> RolloutView {
    let data = Promotion {
        env: "staging".parse().unwrap(),
        app: "shop".parse().unwrap(),
        counter: Counter(3),
        release: "v3".parse().unwrap(),
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
        author: "test".to_owned(),
        link: None,
        expires_at: Timestamp::UNIX_EPOCH,
    };
    let id = EventId(Uuid::from_u128(7));
    RolloutView::new(&CloudEvent::new(id, "/test", TYPE_PROMOTED, Timestamp::UNIX_EPOCH, data))
}

/// `host kind [milliseconds]`, e.g. `host-a image.pulled 800`.
fn outcome(view: &RolloutView, text: &str) -> Outcome {
    let words: Vec<&str> = text.split_whitespace().collect();
    let kind = *OutcomeKind::ALL.iter().find(|kind| kind.to_string() == words[1]).unwrap();
    Outcome {
        kind,
        duration_ms: words.get(2).map(|milliseconds| milliseconds.parse().unwrap()),
        reason: kind.is_failure().then(|| Reason::new(ReasonCode::Unhealthy, "it broke")),
        ..not_reached(&view.promotion, view.id, words[0].parse().unwrap(), String::new())
    }
}

fn fold_all(view: &mut RolloutView, lines: &[&str]) {
    for line in lines {
        let outcome = outcome(view, line);
        view.fold(&outcome);
    }
}

#[test]
fn the_exit_code_is_what_all_hosts_ended_with() {
    for (ends, expect) in [
        (["deploy.succeeded", "deploy.succeeded"], Some(ExitCode::Done)),
        (["deploy.rolled_back", "deploy.rolled_back"], Some(ExitCode::RolledBack)),
        (["deploy.failed", "deploy.failed"], Some(ExitCode::Failed)),
        (["deploy.stuck", "deploy.stuck"], Some(ExitCode::Stuck)),
        (["deploy.refused", "deploy.refused"], Some(ExitCode::Refused)),
        (["deploy.not_reached", "deploy.not_reached"], Some(ExitCode::NotReached)),
        (["deploy.superseded", "deploy.superseded"], Some(ExitCode::Superseded)),
        (["deploy.succeeded", "deploy.rolled_back"], Some(ExitCode::Mixed)),
        (["deploy.stuck", "deploy.succeeded"], Some(ExitCode::Mixed)),
        (["deploy.succeeded", "release.committed"], None),
    ] {
        let mut view = view(&["a", "b"]);
        fold_all(&mut view, &[&format!("a {}", ends[0]), &format!("b {}", ends[1])]);
        assert_eq!((view.exit_code(), view.is_ended()), (expect, expect.is_some()), "{ends:?}");
    }
}

#[test]
fn a_host_ends_once_and_other_promotions_are_not_ours() {
    let mut view = view(&["a"]);
    let mut foreign = outcome(&view, "a deploy.failed");
    foreign.promotion = EventId(Uuid::from_u128(8));
    assert_eq!(view.fold(&foreign), Folded::Known);
    let end = outcome(&view, "a deploy.succeeded");
    assert_eq!((view.fold(&end), view.fold(&end)), (Folded::News, Folded::Known));
    fold_all(&mut view, &["a deploy.failed", "a image.pulled 5"]);
    assert_eq!(view.exit_code(), Some(ExitCode::Done));
}

#[test]
fn a_host_outside_the_plan_is_shown_and_does_not_count() {
    let mut view = view(&["a"]);
    fold_all(&mut view, &["late deploy.failed", "a deploy.succeeded"]);
    assert_eq!((view.exit_code(), view.hosts.len()), (Some(ExitCode::Done), 2));
}

#[test]
fn at_the_deadline_waiting_hosts_are_not_reached() {
    let mut view = view(&["a", "b", "c"]);
    fold_all(&mut view, &["a deploy.succeeded", "b image.pulled 800"]);
    let told: Vec<String> = view.end_waiting().into_iter().map(|outcome| outcome.message).collect();
    assert_eq!(told, ["b did not end within 60 s; the last heard of it is image.pulled", "c was silent for 60 s"]);
    assert_eq!(view.exit_code(), Some(ExitCode::Mixed));
}

#[test]
fn the_summary_has_a_column_per_step_in_their_order() {
    let mut view = view(&["a", "b"]);
    fold_all(
        &mut view,
        &[
            "a image.pulled 800",
            "a readiness.failed 12000",
            "a deploy.rolled_back 20000",
            "b migration.applied 300",
            "b image.pulled 900",
            "b image.pulled 950",
            "b release.verified 100",
            "b release.committed 50",
            "b deploy.succeeded 4000",
        ],
    );
    let (header, rows) = view.summary();
    assert_eq!(header, ["host", "outcome", "verify", "image", "migration", "readiness", "commit", "total"]);
    assert_eq!(rows[0], ["a", "rolled_back", "-", "0.8 s", "-", "12 s", "-", "20 s"]);
    assert_eq!(rows[1], ["b", "succeeded", "0.1 s", "0.9 s", "0.3 s", "-", "0.1 s", "4.0 s"]);
    assert_eq!(view.hosts.values().next().unwrap().failure.as_ref().unwrap().message, "it broke");
}
