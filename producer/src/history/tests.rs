use super::*;
use crate::fixtures::{at, promoted, said};
use crate::output::table;

fn shown(promotions: Vec<Read<Promotion>>, ends: &[Read<Outcome>], limit: usize) -> (String, Vec<String>) {
    let pasts = pasts(promotions, ends, limit, at(1_000));
    let header = ["app", "#", "release", "when (UTC)", "by", "host", "outcome", "took", "why"];
    (table(&header, rows(&pasts)), pasts.into_iter().map(|past| past.result).collect())
}

#[test]
fn newest_first_with_every_host() {
    let promotions = vec![
        promoted(1, 1, &["host-a", "host-b"]),
        promoted(10, 2, &["host-a", "host-b"]),
        promoted(990, 3, &["host-a"]),
    ];
    let ends = [
        said(2, "host-a 1 deploy.succeeded 4000"),
        said(3, "host-b 1 deploy.succeeded 4100"),
        said(12, "host-a 2 deploy.rolled_back 15000"),
    ];
    let expect = "\
APP   #  RELEASE  WHEN (UTC)           BY  HOST    OUTCOME      TOOK   WHY
shop  3  v3       2027-01-15 08:16:30  ci  host-a  running      -
shop  2  v2       2027-01-15 08:00:10  ci  host-a  rolled_back  15 s   app answers 500…
                                           host-b  silent       -
shop  1  v1       2027-01-15 08:00:01  ci  host-a  succeeded    4.0 s
                                           host-b  succeeded    4.1 s";
    let (text, results) = shown(promotions, &ends, 20);
    assert_eq!(text, expect);
    assert_eq!(results, ["running", "mixed", "succeeded"]);
}

#[test]
fn the_limit_keeps_the_newest() {
    let promotions = (1..=5).map(|counter| promoted(counter as i64, counter, &[])).collect();
    let (text, results) = shown(promotions, &[], 2);
    assert!(text.contains("v5") && text.contains("v4") && !text.contains("v3"), "{text}");
    assert_eq!(results, ["no host", "no host"]);
}
