#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use landfall_schema::signature::SigningKey;

use super::*;
use crate::fixtures::{at, present};
use crate::rollout_args::{Defaults, RolloutArgs};

const NOW: i64 = 10_000;

/// `name[!][role]`: one that is away has a `!`; the role is a label.
fn known(words: &str) -> Vec<KnownHost> {
    let one = |word: &str| {
        let (name, role) = word.split_once(':').unwrap_or((word, "web"));
        let (name, seen) = name.strip_suffix('!').map_or((name, NOW - 60), |name| (name, NOW - 7_200));
        let mut read = present(seen, name, None);
        read.event.data.labels = [("role".to_owned(), role.to_owned())].into();
        read.event.data.key = SigningKey::generate().public().to_string();
        KnownHost::new(read, at(NOW))
    };
    words.split_whitespace().map(one).collect()
}

fn planned(words: &str, app: &str, args: &RolloutArgs) -> Result<Planned, CliError> {
    let (env, app) = ("staging".parse().unwrap(), app.parse().unwrap());
    let subject = Subject { env: &env, app: &app, preview_of: None };
    let known = known(words);
    let keys = HostKeys::new(&BTreeMap::new(), &known);
    make(&subject, &args.options(&Defaults::default())?, &known, keys, at(NOW))
}

/// Waves, then who is away, then whether the hosts act together.
fn shown(planned: &Planned) -> String {
    let plan = &planned.plan;
    let names = |hosts: &[HostName]| hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let waves: Vec<String> = plan.waves.iter().map(|wave| names(&wave.hosts)).collect();
    let together = if plan.is_coordinated() { "together" } else { "alone" };
    format!("{}; away {}; {together}", waves.join(" | "), names(&plan.away))
}

fn args(hosts: &str, labels: &str, waves: &str) -> RolloutArgs {
    let list = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    RolloutArgs {
        hosts: list(hosts).iter().map(|host| host.parse().unwrap()).collect(),
        labels: list(labels).iter().map(|label| crate::rollout_args::parse_label(label).unwrap()).collect(),
        waves: list(waves).iter().map(|size| size.parse().unwrap()).collect(),
        ..RolloutArgs::default()
    }
}

#[test]
fn hosts_of_a_plan() {
    for (words, args, expect) in [
        ("b a", args("", "", ""), "a b; away ; together"),
        ("a", args("", "", ""), "a; away ; alone"),
        ("c b a", args("", "", "1 100%"), "a | b c; away ; together"),
        ("a b! c", args("", "", "1 100%"), "a | c; away b; together"),
        ("a!", args("", "", ""), "; away a; alone"),
        ("a! b!", args("", "", ""), "; away a b; alone"),
        ("a b:db c", args("", "role=web", ""), "a c; away ; together"),
        ("a b c", args("b", "", ""), "b; away ; alone"),
        ("a b c!", args("c a", "", ""), "a; away c; together"),
    ] {
        assert_eq!(shown(&planned(words, "shop", &args).unwrap()), expect, "{words}");
    }
    let plan = planned("a b", "shop", &args("a", "role=web", "")).unwrap().plan;
    assert!(plan.only_named && plan.labels["role"] == "web");
}

#[test]
fn plans_that_cannot_be() {
    for (words, app, args, told) in [
        ("", "shop", args("", "", ""), "no executor of staging is known"),
        ("a", "blog", args("", "", ""), "add `[apps.blog]`"),
        ("a", "blog", args("a", "", ""), "a does not take blog"),
        ("a", "shop", args("", "role=db", ""), "has the labels role=db"),
        ("a", "shop", args("a", "role=db", ""), "a does not have the labels role=db"),
        ("a", "shop", args("a stranger", "", ""), "the key of stranger is not known"),
    ] {
        let error = planned(words, app, &args).unwrap_err().to_string();
        assert!(error.contains(told) && error.contains("hint:"), "{error}");
    }
}

#[test]
fn a_host_that_is_away_may_block() {
    let blocking = RolloutArgs { offline: Some(Offline::Block), ..args("", "", "") };
    let error = planned("a b!", "shop", &blocking).unwrap_err();
    assert_eq!(error.exit, ExitCode::NotReached);
    let text = error.to_string();
    assert!(text.contains("b is away since 2027-01-15 08:46:40 UTC (2 h ago)"), "{text}");
    assert!(planned("a b", "shop", &blocking).is_ok());
}

#[test]
fn the_roster_has_every_host_that_was_here_or_away() {
    let planned = planned("a b c!", "shop", &args("", "", "")).unwrap();
    let (bytes, reference) = planned.roster.unwrap();
    let roster = Roster::decode(&bytes, &reference).unwrap();
    assert_eq!(roster.hosts.keys().map(HostName::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(roster.hosts.get(&"c".parse().unwrap()), planned.keys.of(&"c".parse().unwrap()));
}

#[test]
fn a_plan_in_words() {
    let args = RolloutArgs { bake: vec![600_000, 0], max_parallel: Some(2), ..args("", "", "1 100%") };
    let planned = planned("a b c d e!", "shop", &args).unwrap();
    let expect = [
        "wave 1 of 2: a (watched for 10 min 0 s)",
        "wave 2 of 2: b, c, d (2 at a time)",
        "away: e is away since 2027-01-15 08:46:40 UTC (2 h ago); it takes the release when it is back",
        "on failure: every host that had moved goes back (rollback_all)",
    ];
    assert_eq!(words::lines(&planned, at(NOW)), expect);
}

#[test]
fn long_lists_of_hosts_are_cut() {
    let of = |count: usize| words::listed(&(0..count).map(|n| format!("h{n}").parse().unwrap()).collect::<Vec<_>>());
    assert!(of(12).ends_with("h10, h11"), "{}", of(12));
    assert!(of(13).ends_with("h10, h11 and 1 more"), "{}", of(13));
}
