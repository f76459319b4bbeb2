#![allow(clippy::unwrap_used)]
use landfall_schema::Timestamp;
use landfall_schema::event::TYPE_PROMOTED;
use landfall_schema::ids::{Counter, Digest};
use landfall_schema::promotion::{BundleRef, Intent, RolloutPlan, Wave};
use landfall_schema::rollout::RolloutPhase;
use uuid::Uuid;

use super::*;
use crate::error::ExitCode;

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
        evidence: None,
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
fn what_was_superseded_may_be_taken_after_all() {
    let mut view = view(&["a"]);
    fold_all(&mut view, &["a deploy.superseded", "a release.accepted", "a stack.updating"]);
    assert_eq!(view.hosts[&"a".parse().unwrap()].word(), "superseded");
    fold_all(&mut view, &["a deploy.succeeded", "a deploy.failed"]);
    assert_eq!(view.hosts[&"a".parse().unwrap()].word(), "succeeded");
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
    let told: Vec<String> = view.end_waiting(None).into_iter().map(|outcome| outcome.message).collect();
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

/// As [`view`], of hosts that act together: waves by `|`, those away after `-`.
fn together(plan: &str) -> RolloutView {
    let names = |text: &str| text.split_whitespace().map(|host| host.parse().unwrap()).collect::<Vec<HostName>>();
    let (waves, away) = plan.split_once('-').unwrap_or((plan, ""));
    let mut promotion = view(&[]).promotion;
    promotion.plan.waves = waves.split('|').map(|hosts| Wave::of(names(hosts))).collect();
    promotion.plan.away = names(away);
    promotion.plan.roster = Some(BundleRef { digest: Digest::of(b"roster"), bytes: 1 });
    let id = EventId(Uuid::from_u128(7));
    RolloutView::new(&CloudEvent::new(id, "/test", TYPE_PROMOTED, Timestamp::UNIX_EPOCH, promotion))
}

fn state(view: &RolloutView, phase: RolloutPhase, cause: Option<ReasonCode>) -> RolloutState {
    let promotion = &view.promotion;
    RolloutState {
        env: promotion.env.clone(),
        app: promotion.app.clone(),
        counter: promotion.counter,
        promotion: view.id,
        phase,
        wave: 0,
        admitted: 1,
        cause: cause.map(|code| Reason::new(code, "because")),
        not_reached: BTreeMap::new(),
        differing: BTreeMap::new(),
        decided_by: "a".parse().unwrap(),
    }
}

fn says(view: &RolloutView, host: &str, state: &RolloutState) -> Outcome {
    let kind = state.word().map_or(OutcomeKind::RolloutWaveOpened, RolloutWord::outcome_kind);
    Outcome {
        kind,
        rollout: Some(state.clone()),
        reason: state.cause.clone(),
        ..outcome(view, &format!("{host} {kind}"))
    }
}

#[test]
fn of_hosts_that_act_together_the_last_word_decides() {
    use RolloutWord::{Aborted, Held, Mixed, RolledBack, Succeeded, SucceededPartial};
    let failed = Some(ReasonCode::Unhealthy);
    for (word, cause, ends, expect) in [
        (Succeeded, None, &["a deploy.succeeded"][..], ExitCode::Done),
        (SucceededPartial, None, &["a deploy.succeeded"], ExitCode::Partial),
        (RolledBack, failed, &["a deploy.rolled_back", "b deploy.failed"], ExitCode::RolledBack),
        (RolledBack, failed, &["a deploy.failed", "b deploy.failed"], ExitCode::Failed),
        (RolledBack, failed, &["a deploy.refused"], ExitCode::Refused),
        (RolledBack, failed, &["a deploy.refused", "b deploy.failed"], ExitCode::Failed),
        (RolledBack, failed, &[], ExitCode::RolledBack),
        (Held, failed, &["a deploy.succeeded", "b deploy.rolled_back"], ExitCode::Held),
        (Mixed, failed, &["a deploy.stuck"], ExitCode::Mixed),
        (Aborted, Some(ReasonCode::Aborted), &["a deploy.rolled_back"], ExitCode::Aborted),
        (Aborted, Some(ReasonCode::Superseded), &["a deploy.superseded"], ExitCode::Superseded),
    ] {
        let mut view = together("a | b");
        fold_all(&mut view, ends);
        assert!(!view.is_ended());
        let last = state(&view, RolloutPhase::Ended { word }, cause);
        let outcome = says(&view, "b", &last);
        assert_eq!(view.fold(&outcome), Folded::News);
        assert_eq!((view.exit_code(), view.is_ended()), (Some(expect), true), "{word:?} {ends:?}");
        assert!(view.hosts.values().all(|host| host.failure.as_ref().is_none_or(|why| why.message == "it broke")));
    }
}

#[test]
fn those_that_only_heard_of_a_failure_tell_nothing_of_the_release() {
    let mut view = together("a | b");
    fold_all(&mut view, &["a deploy.refused"]);
    let consequence = Outcome {
        reason: Some(Reason::new(ReasonCode::RolloutFailed, "the rollout failed")),
        ..outcome(&view, "b deploy.failed")
    };
    view.fold(&consequence);
    let last = state(&view, RolloutPhase::Ended { word: RolloutWord::RolledBack }, Some(ReasonCode::PolicyViolation));
    view.learn(&last);
    assert_eq!(view.exit_code(), Some(ExitCode::Refused));
}

#[test]
fn a_last_word_stands_and_is_for_hosts_of_the_plan_to_say() {
    let mut view = together("a | b - c");
    let [rolling, held] =
        [RolloutPhase::Rolling, RolloutPhase::Ended { word: RolloutWord::Held }].map(|phase| state(&view, phase, None));
    for stranger in ["c", "stranger"] {
        let outcome = says(&view, stranger, &held);
        assert_eq!(view.fold(&outcome), Folded::Known, "{stranger}");
    }
    let mut foreign = held.clone();
    foreign.counter = Counter(9);
    assert_eq!(view.learn(&foreign), Folded::Known);
    assert_eq!((view.learn(&rolling), view.learn(&rolling)), (Folded::News, Folded::Known));
    assert_eq!((view.learn(&held), view.learn(&rolling)), (Folded::News, Folded::Known));
    assert_eq!(view.word(), Some(RolloutWord::Held));
    // A plan of hosts that are each alone has no word.
    let mut alone = self::view(&["a"]);
    let outcome = says(&alone, "a", &held);
    assert_eq!(alone.fold(&outcome), Folded::Known);
}

#[test]
fn hosts_that_are_away_are_told_at_once_and_may_come_back() {
    let mut view = together("a - c");
    view.promotion.plan.roster = None;
    let told: Vec<String> =
        view.tell_away().into_iter().map(|outcome| format!("{} {}", outcome.host, outcome.kind)).collect();
    assert_eq!(told, ["c deploy.not_reached"]);
    fold_all(&mut view, &["a deploy.succeeded"]);
    assert_eq!((view.is_ended(), view.exit_code()), (true, Some(ExitCode::Partial)));
    assert_eq!(view.summary().1[1][..2], ["c", "not_reached"]);
    fold_all(&mut view, &["c deploy.succeeded"]);
    assert_eq!(view.exit_code(), Some(ExitCode::Done));
}

#[test]
fn a_plan_without_anybody_here_reaches_nobody() {
    let mut view = together("- a b");
    (view.promotion.plan.roster, view.promotion.plan.waves) = (None, Vec::new());
    assert_eq!((view.is_ended(), view.exit_code()), (true, Some(ExitCode::NotReached)));
}

#[test]
fn what_was_not_reached_is_waited_for_no_longer() {
    let mut view = together("a | b");
    fold_all(&mut view, &["a deploy.succeeded"]);
    assert!(!view.are_hosts_ended());
    let mut last = state(&view, RolloutPhase::Ended { word: RolloutWord::SucceededPartial }, None);
    last.not_reached = [("b".parse().unwrap(), "it is away".to_owned())].into();
    view.learn(&last);
    assert!(view.are_hosts_ended() && view.is_ended());
    let told: Vec<String> = view.end_waiting(None).into_iter().map(|outcome| outcome.message).collect();
    assert_eq!(told, ["b was not reached: it is away"]);
    let (header, rows) = view.summary();
    assert_eq!(header[..3], ["host", "wave", "outcome"]);
    assert_eq!(
        (rows[0][..3].join(" "), rows[1][..3].join(" ")),
        ("a 1 succeeded".to_owned(), "b 2 not_reached".to_owned())
    );
}

#[test]
fn the_wait_is_as_long_as_all_waves_together() {
    let mut view = together("a | b");
    view.promotion.plan.waves[1].deadline_ms = Some(5_000);
    assert_eq!((view.limit_ms(), view.limit_with_unwinding_ms()), (65_000, 65_000 + UNWIND_SLACK_MS));
    view.promotion.plan.roster = None;
    assert_eq!((view.limit_ms(), view.limit_with_unwinding_ms()), (60_000, 60_000));
}
