#![allow(clippy::unwrap_used)]
use landfall_schema::ids::Digest;
use landfall_schema::promotion::{BundleRef, Wave};
use landfall_schema::rollout::RolloutWord;
use landfall_schema::signature::SigningKey;
use uuid::Uuid;

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

/// The newest word is this.
fn heard(halt: Option<Halt>) -> Said {
    Said { newest: halt.map(|halt| (EventId(Uuid::from_u128(5)), halt)), ..Said::default() }
}

/// What was said, oldest first, by the key `k`nown here or by a stranger: `k halt`, `s abort`, `junk`. A number in front says when it was
/// made, where that is not the order in which it came.
fn said_by(lines: &[&str], view: &RolloutView) -> (Said, String) {
    let (known, stranger) = (SigningKey::generate(), SigningKey::generate());
    let message = |(number, line): (usize, &&str)| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (made, words) = match words[0].parse::<u64>() {
            Ok(made) => (made, &words[1..]),
            Err(_) => (number as u64, &words[..]),
        };
        let command = match words.last() {
            Some(&"halt") => HaltCommand::Halt,
            Some(&"resume") => HaltCommand::Resume,
            _ => HaltCommand::Abort,
        };
        let id = EventId(Uuid::from_u128(u128::from(made)));
        let body =
            CloudEvent::new(id, "/test", TYPE_HALTED, Timestamp::UNIX_EPOCH, halt(view, command)).encode().unwrap();
        let key = if words[0] == "k" { &known } else { &stranger };
        let body = if words[0] == "junk" { b"junk".to_vec() } else { body };
        Delivered {
            subject: String::new(),
            sequence: number as u64 + 1,
            signature: (words[0] != "unsigned").then(|| key.header(&body).unwrap()),
            body: body.into(),
            traceparent: None,
            published_at: Timestamp::UNIX_EPOCH,
        }
    };
    let messages: Vec<Delivered> = lines.iter().enumerate().map(message).collect();
    let said = Said::new(&messages, &view.promotion.env, &view.promotion.app, &[known.public()]);
    let newest = said.newest.as_ref().map_or("nothing", |(_, halt)| named_command(halt.command));
    let text = format!("{newest}, {} doubtful", said.doubtful.len());
    (said, text)
}

#[test]
fn the_newest_word_that_is_believed_counts() {
    let view = view(None, &[]);
    for (lines, expect) in [
        (&["k halt"][..], "halt, 0 doubtful"),
        (&["k halt", "junk"], "halt, 0 doubtful"),
        (&["k halt", "unsigned resume"], "halt, 0 doubtful"),
        (&["k halt", "s abort"], "halt, 1 doubtful"),
        (&["5 k halt", "3 k resume"], "halt, 0 doubtful"),
        (&["s halt", "k resume"], "resume, 0 doubtful"),
        (&["junk"], "nothing, 0 doubtful"),
    ] {
        let (said, text) = said_by(lines, &view);
        assert_eq!((text.as_str(), said.sequence), (expect, lines.len() as u64), "{lines:?}");
    }
    // A forged abort locks nobody out, and neither does a halt by somebody whom only the hosts know.
    let (said, _) = said_by(&["k halt", "s abort"], &view);
    assert!(check(&view, &said, HaltCommand::Abort).is_ok() && check(&view, &said, HaltCommand::Resume).is_ok());
    let (said, _) = said_by(&["s halt"], &view);
    assert!(check(&view, &said, HaltCommand::Resume).is_ok());
    // Nor does the resume of such a one keep anybody from halting again.
    let (said, _) = said_by(&["k halt", "s resume"], &view);
    assert!(check(&view, &said, HaltCommand::Halt).is_ok());
}

#[test]
fn what_is_said_next_is_newer_whatever_the_clocks_say() {
    let view = view(None, &[]);
    let mut said = heard(Some(halt(&view, HaltCommand::Halt)));
    assert!(said.next_id() > EventId(Uuid::from_u128(5)));
    let ahead = uuid::Timestamp::from_unix(uuid::NoContext, 9_999_999_999, 999_000_000);
    said.newest.as_mut().unwrap().0 = EventId(Uuid::new_v7(ahead));
    assert!(said.next_id() > said.newest.unwrap().0);
}

#[test]
fn what_is_said_next_is_newer_than_what_only_the_hosts_believe() {
    let view = view(None, &[]);
    let now = uuid::Timestamp::now(uuid::NoContext).to_unix().0;
    let key = SigningKey::generate().public();
    let mut said = Said::default();
    for (minutes_ahead, is_newer) in [(10, true), (59, true), (61, false)] {
        let made_at = uuid::Timestamp::from_unix(uuid::NoContext, now + minutes_ahead * 60, 0);
        let id = EventId(Uuid::new_v7(made_at));
        said.doubtful = vec![(id, key.clone(), halt(&view, HaltCommand::Halt))];
        let next = said.next_id();
        assert_eq!(next > id, is_newer, "{minutes_ahead} minutes ahead");
        let told = doubts(&view, &said, HaltCommand::Resume, next);
        assert_eq!(told[0].contains("heed that halt and not this resume"), !is_newer, "{told:?}");
        assert!(!doubts(&view, &said, HaltCommand::Abort, next)[0].contains("and not this"));
    }
    said.doubtful[0].2.command = HaltCommand::Abort;
    let told = doubts(&view, &said, HaltCommand::Resume, said.next_id());
    assert!(told[0].contains("an abort is not taken back"), "{told:?}");
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
        let found = check(&view, &heard(last.map(|command| halt(&view, command))), command);
        let found = found.map_err(|error| error.to_string());
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
    let other = heard(Some(other));
    assert!(check(&view, &other, HaltCommand::Halt).is_ok());
    assert!(check(&view, &other, HaltCommand::Resume).is_err());
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
