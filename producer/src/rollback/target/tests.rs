#![allow(clippy::unwrap_used)]
use super::*;
use crate::fixtures::{promoted, said};

/// One line a promotion: `counter [back to counter] [same as counter]: host=end …`; then what `rollback` chooses.
fn chosen(lines: &[&str], to: Option<&str>, expect: &str) {
    let past: Vec<Past> = lines.iter().map(|line| one(line)).collect();
    let to = to.map(|to| to.parse().unwrap());
    let (app, env) = ("shop".parse().unwrap(), "staging".parse().unwrap());
    let shown = match choose(&past, to.as_ref(), &app, &env) {
        Ok(past) => past.counter().to_string(),
        Err(error) => error.message,
    };
    assert_eq!(shown, expect, "{lines:?} to {to:?}");
}

fn one(line: &str) -> Past {
    let (what, ends) = line.split_once(':').unwrap();
    let words: Vec<&str> = what.split_whitespace().collect();
    let counter: u64 = words[0].parse().unwrap();
    let mut event = promoted(1, counter, &["a", "b"]).event;
    // Different variables stand for a different content.
    let mut content = counter;
    match words.get(1..) {
        Some(["back", to]) => event.data.intent = Intent::Rollback { to: Counter(to.parse().unwrap()) },
        Some(["same", other]) => content = other.parse().unwrap(),
        _ => {}
    }
    event.data.variables.insert("V".to_owned(), content.to_string());
    let mut past = Past::new(&event);
    for end in ends.split_whitespace() {
        let (host, verb) = end.split_once('=').unwrap();
        past.fold(&said(2, &format!("{host} {counter} deploy.{verb}")).event.data);
    }
    past
}

#[test]
fn back_to_the_last_that_worked_before_what_serves() {
    let good = |counter: u64| format!("{counter}: a=succeeded b=succeeded");
    let (one, two, three) = (good(1), good(2), good(3));
    chosen(&[&one, &two], None, "#1");
    chosen(&[&one, &two, &three], None, "#2");
    chosen(&[&one, "2: a=failed b=failed", &three], None, "#1");
    chosen(&[&one, "2: a=succeeded b=rolled_back", &three], None, "#1");
    chosen(
        &[&one, "2 same 1: a=succeeded b=succeeded"],
        None,
        "no release of shop before v2 (promotion #2) worked in staging",
    );
    chosen(&[&one], None, "no release of shop before v1 (promotion #1) worked in staging");
    chosen(&[], None, "nothing of shop serves in staging, so there is nothing to go back from");
}

#[test]
fn what_was_undone_everywhere_is_not_what_serves() {
    let (one, two) = ("1: a=succeeded b=succeeded", "2: a=succeeded b=succeeded");
    chosen(&[one, two, "3: a=rolled_back b=failed"], None, "#1");
    chosen(&[one, two, "3: a=rolled_back b=succeeded"], None, "#2");
    chosen(&[one, two, "3: a=stuck b=rolled_back"], None, "#2");
    chosen(&[one, two, "3: a=rolled_back"], None, "#2");
    chosen(&[one, two, "3:"], None, "#2");
}

#[test]
fn two_rollbacks_go_back_two_releases() {
    let past = ["1: a=succeeded b=succeeded", "2: a=succeeded b=succeeded", "3: a=succeeded b=succeeded"];
    let [one, two, three] = past;
    chosen(&[one, two, three, "4 back 2: a=succeeded b=succeeded"], None, "#1");
    let none = "no release of shop before v5 (promotion #1) worked in staging";
    chosen(&[one, two, three, "4 back 2: a=succeeded b=succeeded", "5 back 1: a=succeeded b=succeeded"], None, none);
}

#[test]
fn a_named_one() {
    let past = ["1: a=succeeded b=succeeded", "2: a=failed b=failed", "3: a=succeeded b=succeeded"];
    chosen(&past, Some("#1"), "#1");
    chosen(&past, Some("2"), "#2");
    chosen(&past, Some("v1"), "#1");
    chosen(&past, Some("v9"), "shop has no promotion v9 in staging");
}

#[test]
fn what_never_worked_is_nothing_to_go_back_to() {
    for (line, expect) in [
        ("1: a=succeeded b=succeeded", Ok(None)),
        ("1: a=succeeded b=rolled_back", Ok(Some("on some of its hosts only"))),
        ("1: a=failed b=failed", Err("never worked")),
        ("1: a=rolled_back b=rolled_back", Err("never worked")),
        ("1:", Err("never worked")),
    ] {
        match (check(&one(line)), expect) {
            (Ok(None), Ok(None)) => {}
            (Ok(Some(told)), Ok(Some(words))) => assert!(told.contains(words), "{line}: {told}"),
            (Err(error), Err(words)) => {
                assert!(error.message.contains(words) && error.hint.is_some(), "{line}: {error}");
                assert_eq!(error.exit, ExitCode::Refused);
            }
            (found, expect) => panic!("{line}: {found:?}, expected {expect:?}"),
        }
    }
    let mut claimed = one("1:");
    claimed.fold_claim(&said(2, "a 1 deploy.succeeded").event.data);
    assert!(check(&claimed).unwrap().unwrap().contains("cannot be verified"));
    assert!(!claimed.worked());
}
