#![allow(clippy::unwrap_used)]
use landfall_schema::rollout::{RolloutPhase, RolloutWord};

use super::*;
use crate::fixtures::{at, promoted, said};
use crate::output::table;

fn shown(promotions: Vec<Read<Promotion>>, ends: &[Read<Outcome>]) -> (String, Vec<String>) {
    let ends = Believed { proven: ends.to_vec(), ..Believed::default() };
    let pasts = pasts(&promotions, &ends, &BTreeMap::new(), at(1_000));
    (table(&HEADER, rows(&pasts)), pasts.into_iter().map(|past| past.result).collect())
}

#[test]
fn newest_first_with_every_host() {
    let promotions = vec![
        promoted(990, 3, &["host-a"]),
        promoted(10, 2, &["host-a", "host-b"]),
        promoted(1, 1, &["host-a", "host-b"]),
    ];
    let ends = [
        said(2, "host-a 1 deploy.succeeded 4000"),
        said(3, "host-b 1 deploy.succeeded 4100"),
        said(12, "host-a 2 deploy.rolled_back 15000"),
    ];
    let expect = "\
APP   #  RELEASE  WHEN (UTC)           BY  RESULT     HOST    OUTCOME      TOOK   WHY
shop  3  v3       2027-01-15 08:16:30  ci  running    host-a  running      -
shop  2  v2       2027-01-15 08:00:10  ci  mixed      host-a  rolled_back  15 s   app answers 500…
                                                      host-b  silent       -
shop  1  v1       2027-01-15 08:00:01  ci  succeeded  host-a  succeeded    4.0 s
                                                      host-b  succeeded    4.1 s";
    let (text, results) = shown(promotions, &ends);
    assert_eq!(text, expect);
    assert_eq!(results, ["running", "mixed", "succeeded"]);
}

#[test]
fn the_last_word_of_a_rollout_is_its_result() {
    let mut promotion = promoted(1, 1, &["host-a", "host-b"]);
    promotion.event.data.plan.away = vec!["host-c".parse().unwrap()];
    let data = &promotion.event.data;
    let state = RolloutState {
        env: data.env.clone(),
        app: data.app.clone(),
        counter: data.counter,
        promotion: promotion.event.id,
        phase: RolloutPhase::Ended { word: RolloutWord::SucceededPartial },
        wave: 0,
        admitted: 2,
        cause: None,
        not_reached: [("host-b".parse().unwrap(), "it is away".to_owned())].into(),
        differing: BTreeMap::new(),
        decided_by: "host-a".parse().unwrap(),
    };
    let rollouts = BTreeMap::from([(promotion.event.id, state)]);
    let ends = Believed { proven: vec![said(2, "host-a 1 deploy.succeeded 4000")], ..Believed::default() };
    let pasts = pasts(&[promotion], &ends, &rollouts, at(10));
    assert_eq!(pasts[0].result, "succeeded_partial");
    let outcomes: Vec<&str> = pasts[0].hosts.iter().map(|host| host.outcome.as_str()).collect();
    assert_eq!(outcomes, ["succeeded", "silent", "not_reached"]);
}

#[test]
fn a_promotion_without_hosts() {
    let (text, results) = shown(vec![promoted(1, 1, &[])], &[]);
    assert!(text.ends_with("ci  no host  -     -"), "{text}");
    assert_eq!(results, ["no host"]);
}

#[test]
fn a_claim_is_no_result() {
    let ends = Believed {
        proven: vec![said(2, "host-a 1 deploy.succeeded 4000")],
        claimed: vec![said(3, "host-a 1 deploy.stuck 1"), said(4, "host-b 1 deploy.succeeded 4100")],
        ..Believed::default()
    };
    let pasts = pasts(&[promoted(1, 1, &["host-a", "host-b"])], &ends, &BTreeMap::new(), at(10));
    assert_eq!(pasts[0].result, "succeeded (unverified)");
    let outcomes: Vec<String> = rows(&pasts).into_iter().map(|row| row[7].clone()).collect();
    assert_eq!(outcomes, ["succeeded", "succeeded (unverified)"]);
}

#[test]
fn a_reason_is_cut() {
    let of = |chars: usize| "é".repeat(chars);
    assert_eq!(shortened(&of(WHY_MAX_CHARS)), of(WHY_MAX_CHARS));
    assert_eq!(shortened(&of(WHY_MAX_CHARS + 1)), of(WHY_MAX_CHARS) + "…");
    assert_eq!(shortened("one\ntwo"), "one…");
}
