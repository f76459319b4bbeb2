#![allow(clippy::unwrap_used)]

use super::*;

fn release(hosts: &str) -> ReleaseRow {
    ReleaseRow {
        event_id: "p".to_owned(),
        env: "staging".to_owned(),
        app: "shop".to_owned(),
        counter: 3,
        release_name: "v3".to_owned(),
        intent: "promote".to_owned(),
        rollback_to: None,
        author: "alice\u{1b}[2J".to_owned(),
        link: None,
        hosts: hosts.to_owned(),
        published_at_ms: 1_000,
        verdict: "trusted".to_owned(),
        signer: None,
    }
}

fn outcome(host: &str, kind: &str, at: i64, verdict: &str) -> OutcomeRow {
    let is_failure = !matches!(kind, "deploy.succeeded" | "release.accepted");
    OutcomeRow {
        host: host.to_owned(),
        kind: kind.to_owned(),
        is_terminal: i64::from(kind.starts_with("deploy.")),
        duration_ms: Some(at - 1_000),
        message: String::new(),
        reason_code: is_failure.then(|| "unhealthy".to_owned()),
        reason_message: is_failure.then(|| "app answers 500".to_owned()),
        occurred_at_ms: at,
        verdict: verdict.to_owned(),
    }
}

/// Each case: the plan, what was said as `host kind verdict`, the outcome.
#[test]
fn the_outcome_is_what_all_hosts_say() {
    for (hosts, said, expect) in [
        ("[]", "", "no_hosts"),
        (r#"["a"]"#, "", "unfinished"),
        (r#"["a"]"#, "a release.accepted trusted", "unfinished"),
        (r#"["a"]"#, "a deploy.succeeded trusted", "succeeded"),
        (r#"["a","b"]"#, "a deploy.succeeded trusted", "unfinished"),
        (r#"["a","b"]"#, "a deploy.succeeded trusted, b deploy.succeeded trusted", "succeeded"),
        (r#"["a","b"]"#, "a deploy.rolled_back trusted, b deploy.rolled_back trusted", "rolled_back"),
        (r#"["a","b"]"#, "a deploy.succeeded trusted, b deploy.rolled_back trusted", "mixed"),
        // A forged success does not hide the truth, whichever came first.
        (r#"["a"]"#, "a deploy.succeeded untrusted, a deploy.rolled_back trusted", "rolled_back"),
        (r#"["a"]"#, "a deploy.rolled_back trusted, a deploy.succeeded untrusted", "rolled_back"),
        // One that stands alone is not told as a fact.
        (r#"["a"]"#, "a deploy.succeeded untrusted", "succeeded (unverified)"),
        (r#"["a","b"]"#, "a deploy.succeeded trusted, b deploy.succeeded mismatch", "succeeded (unverified)"),
        (r#"["a","b"]"#, "a deploy.succeeded trusted, b deploy.stuck unsigned", "mixed (unverified)"),
        (r#"["a"]"#, "a deploy.succeeded unchecked", "succeeded"),
        // The waiter gave up, the host came back later.
        (r#"["a"]"#, "a deploy.not_reached trusted, a deploy.succeeded trusted", "succeeded"),
        // A newer one passed it by and fell, so the host took it after all.
        (r#"["a"]"#, "a deploy.superseded trusted, a deploy.succeeded trusted", "succeeded"),
        (r#"["a"]"#, "a deploy.superseded trusted", "superseded"),
        // A host that was not in the plan counts as well.
        (r#"["a"]"#, "a deploy.succeeded trusted, z deploy.stuck trusted", "mixed"),
        // Unless a stranger made it up.
        (r#"["a"]"#, "a deploy.succeeded trusted, z deploy.stuck untrusted", "succeeded"),
        (r#"["a"]"#, "a deploy.succeeded trusted, z release.accepted unsigned", "succeeded"),
    ] {
        let outcomes = said
            .split(", ")
            .filter(|one| !one.is_empty())
            .map(|one| one.split(' ').collect::<Vec<_>>())
            .map(|one| outcome(one[0], one[1], 2_500, one[2]))
            .collect();
        let history = PromotionHistory::new(release(hosts), outcomes);
        assert_eq!(history.outcome, expect, "{hosts}: {said}");
        assert_eq!(history.duration_ms.is_some(), !matches!(expect, "unfinished" | "no_hosts"), "{hosts}: {said}");
    }
}

#[test]
fn people_read_a_line_for_each_host() {
    let outcomes = vec![
        outcome("host-a", "release.accepted", 1_200, "trusted"),
        outcome("host-a", "deploy.rolled_back", 5_250, "trusted"),
        outcome("host-bb", "release.accepted", 1_300, "trusted"),
        outcome("x", "deploy.succeeded", 2_000, "untrusted"),
    ];
    let history = PromotionHistory::new(release(r#"["host-a","host-bb","host-c"]"#), outcomes);
    let expect = "\
shop v3 to staging, #3: unfinished
  1970-01-01T00:00:01Z by alice\u{fffd}[2J
  host-a   rolled back  4.2 s  unhealthy: app answers 500
  host-bb  under way
  host-c   silent
  x        succeeded    1.0 s (signature: untrusted) (not in the plan)";
    assert_eq!(for_people(&history), expect);
}

#[test]
fn json_leaves_out_what_is_not_known() {
    let history = PromotionHistory::new(release(r#"["host-a"]"#), Vec::new());
    let json = serde_json::to_value(&history).unwrap();
    assert_eq!(json["hosts"][0], serde_json::json!({"host": "host-a", "in_plan": true, "steps": []}));
    assert!(json.get("duration_ms").is_none() && json.get("link").is_none());
}
