#![allow(clippy::unwrap_used)]
use landfall_schema::ids::Digest;
use landfall_schema::promotion::{BundleRef, Wave};
use landfall_schema::rollout::RolloutWord;

use super::*;
use crate::fixtures::{promoted, said};

fn view(phase: Option<RolloutPhase>, outcomes: &[&str]) -> RolloutView {
    let mut read = promoted(1, 2, &[]);
    read.event.data.plan.waves = ["host-a", "host-b"].map(|host| Wave::of(vec![host.parse().unwrap()])).to_vec();
    read.event.data.plan.roster = Some(BundleRef { digest: Digest::of(b"roster"), bytes: 1 });
    let mut view = RolloutView::new(&read.event);
    for words in outcomes {
        view.fold(&said(3, words).event.data);
    }
    view.rollout = phase.map(|phase| RolloutState {
        env: view.promotion.env.clone(),
        app: view.promotion.app.clone(),
        counter: view.promotion.counter,
        promotion: view.id,
        phase,
        wave: 0,
        admitted: 1,
        cause: None,
        not_reached: Default::default(),
        differing: Default::default(),
        decided_by: "host-a".parse().unwrap(),
    });
    view
}

fn halt(view: &RolloutView, command: HaltCommand) -> Halt {
    Halt {
        env: view.promotion.env.clone(),
        app: view.promotion.app.clone(),
        counter: view.promotion.counter,
        promotion: view.id,
        command,
        reason: "errors rise".to_owned(),
        author: "ada".to_owned(),
    }
}

#[test]
fn what_would_have_no_effect_is_refused() {
    use HaltCommand::{Abort, Halt, Resume};
    let ended = |word| Some(RolloutPhase::Ended { word });
    for (phase, last, command, told) in [
        (ended(RolloutWord::Succeeded), None, Halt, Some("has ended already: it succeeded")),
        (ended(RolloutWord::Held), None, Abort, Some("has ended already: it is held")),
        (Some(RolloutPhase::RollingBack { aborted: false }), None, Abort, Some("is going back already")),
        (Some(RolloutPhase::Rolling), Some(Halt), Halt, Some("halted already, by ada: errors rise")),
        (Some(RolloutPhase::Rolling), Some(Abort), Resume, Some("aborted already")),
        (Some(RolloutPhase::Rolling), None, Resume, Some("is not halted")),
        (Some(RolloutPhase::Rolling), Some(Resume), Resume, Some("is not halted")),
        (None, None, Halt, None),
        (Some(RolloutPhase::Rolling), Some(Resume), Halt, None),
        (Some(RolloutPhase::Rolling), Some(Halt), Resume, None),
        (Some(RolloutPhase::Rolling), Some(Halt), Abort, None),
        (Some(RolloutPhase::Holding), None, Abort, None),
    ] {
        let view = view(phase, &[]);
        let last = last.map(|command| halt(&view, command));
        let found = check(&view, last.as_ref(), command).map_err(|error| error.to_string());
        match (told, found) {
            (None, Ok(())) => {}
            (Some(told), Err(text)) if text.contains(told) && text.contains("hint:") => {}
            (told, found) => panic!("{phase:?} {command:?}: {found:?}, expected {told:?}"),
        }
    }
}

#[test]
fn a_halt_of_another_promotion_says_nothing_about_this_one() {
    let view = view(None, &[]);
    let other = Halt { promotion: EventId(Uuid::from_u128(99)), ..halt(&view, HaltCommand::Halt) };
    assert!(check(&view, Some(&other), HaltCommand::Halt).is_ok());
    assert!(check(&view, Some(&other), HaltCommand::Resume).is_err());
}

#[test]
fn an_abort_says_who_goes_back() {
    let view = view(Some(RolloutPhase::Rolling), &["host-a 2 stack.updated 900", "host-b 2 image.pulled 100"]);
    let lines = told(&view, HaltCommand::Abort);
    assert_eq!(lines[1], "these go back to what they ran before, and prove it: host-a");
    assert_eq!(lines[2], "these have not moved, and stay as they are: host-b");
    let lines = told(&view, HaltCommand::Halt);
    assert!(lines[0].ends_with("those under way finish; wave 1 of 2 is open for host-a"), "{lines:?}");
}

#[test]
fn numbers_of_promotions() {
    assert_eq!((parse_counter("3"), parse_counter("#3")), (Ok(Counter(3)), Ok(Counter(3))));
    assert!(parse_counter("v3").is_err());
}
