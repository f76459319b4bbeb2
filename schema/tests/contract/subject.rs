use landfall_schema::ids::{AppName, EnvName, HostName};
use landfall_schema::layout;
use landfall_schema::outcome::OutcomeKind;
use landfall_schema::subject::{self, RELEASE_VERBS, parse_release};

fn env() -> EnvName {
    "staging".parse().unwrap()
}

fn app() -> AppName {
    "shop".parse().unwrap()
}

fn host() -> HostName {
    "host-a".parse().unwrap()
}

/// NATS' rule: `*` is one token, `>` one or more at the end.
fn matches(filter: &str, subject: &str) -> bool {
    let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
    loop {
        match (filter.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if !token.is_empty() => {}
            (Some(expected), Some(token)) if expected == token => {}
            _ => return false,
        }
    }
}

#[test]
fn spelling() {
    assert_eq!(subject::promoted(&env(), &app()).as_str(), "landfall.staging.release.shop.promoted");
    assert_eq!(
        subject::outcome(&env(), &app(), &host(), OutcomeKind::DeployRolledBack).as_str(),
        "landfall.staging.outcome.shop.host-a.deploy.rolled_back"
    );
    assert_eq!(subject::presence(&env(), &host()).as_str(), "landfall.staging.presence.host-a");
    assert_eq!(subject::dead_letter(&env(), &host()).as_str(), "landfall.staging.deadletter.host-a");
    assert_eq!(subject::outcome_filter(&env(), None), "landfall.staging.outcome.*.>");
    assert_eq!(subject::outcome_filter(&env(), Some(&app())), "landfall.staging.outcome.shop.>");
}

#[test]
fn filters_find_their_subjects_and_no_others() {
    let promoted = subject::promoted(&env(), &app());
    assert!(matches(&subject::promoted_filter(&env()), promoted.as_str()));
    assert!(!matches(&subject::promoted_filter(&"production".parse().unwrap()), promoted.as_str()));
    assert!(matches(&subject::presence_filter(&env()), subject::presence(&env(), &host()).as_str()));
    assert!(matches(&subject::dead_letter_filter(&env()), subject::dead_letter(&env(), &host()).as_str()));
    for kind in OutcomeKind::ALL {
        let outcome = subject::outcome(&env(), &app(), &host(), *kind);
        assert!(matches(&subject::outcome_filter(&env(), None), outcome.as_str()), "{outcome}");
        assert!(matches(&subject::outcome_filter(&env(), Some(&app())), outcome.as_str()), "{outcome}");
        assert!(!matches(&subject::outcome_filter(&env(), Some(&"blog".parse().unwrap())), outcome.as_str()));
        assert_eq!(matches(&subject::terminal_filter(&env(), None), outcome.as_str()), kind.is_terminal(), "{outcome}");
        assert_eq!(matches(&subject::terminal_filter(&env(), Some(&app())), outcome.as_str()), kind.is_terminal());
    }
}

#[test]
fn every_subject_has_exactly_one_stream() {
    let mut subjects: Vec<String> =
        OutcomeKind::ALL.iter().map(|kind| subject::outcome(&env(), &app(), &host(), *kind).to_string()).collect();
    subjects.extend(RELEASE_VERBS.iter().map(|verb| format!("landfall.staging.release.shop.{verb}")));
    subjects.push(subject::presence(&env(), &host()).to_string());
    subjects.push(subject::dead_letter(&env(), &host()).to_string());
    for subject in subjects {
        let streams: Vec<&str> = layout::streams()
            .iter()
            .filter(|stream| stream.subjects.iter().any(|filter| matches(filter, &subject)))
            .map(|stream| stream.name)
            .collect();
        assert_eq!(streams.len(), 1, "{subject} is stored by {streams:?}");
    }
}

#[test]
fn release_subjects_are_taken_apart() {
    let parsed = parse_release("landfall.staging.release.shop.promoted").unwrap();
    assert_eq!((parsed.env, parsed.app, parsed.verb.as_str()), (env(), app(), "promoted"));
    // Verbs of a later version are read, and left to the caller.
    assert_eq!(parse_release("landfall.staging.release.shop.blessed").unwrap().verb, "blessed");
    for text in [
        "",
        "landfall",
        "landfall.staging.release.shop",
        "landfall.staging.release.shop.promoted.more",
        "landfall.staging.outcome.shop.promoted",
        "other.staging.release.shop.promoted",
        "landfall..release.shop.promoted",
        "landfall.staging.release.sh op.promoted",
        "landfall.*.release.shop.promoted",
    ] {
        assert_eq!(parse_release(text), None, "{text:?}");
    }
}

#[test]
fn layout_is_in_the_order_of_its_dependencies() {
    let streams = layout::streams();
    for (position, stream) in streams.iter().enumerate() {
        assert_ne!(stream.subjects.is_empty(), stream.mirror_of.is_none(), "{}: subjects or a mirror", stream.name);
        if let Some(origin) = stream.mirror_of {
            assert!(streams[..position].iter().any(|earlier| earlier.name == origin), "{} after {origin}", stream.name);
        }
    }
}

#[test]
fn every_database_has_a_lease_of_its_own() {
    let host = host();
    let key = |database: &str, host| subject::migration_key(&env(), database, host);
    assert_eq!(key("shop", None), "staging.migrate.shop");
    assert_eq!(key("shop.on", None), "staging.migrate.shop.on");
    assert_eq!(key("shop", Some(&host)), "staging.migrate.shop.on.host-a");
    // Else it would share the entry of host-a's own.
    for odd in ["shop.on.host-a", "", ".", "a..b", "a b", "*", ">"] {
        assert!(key(odd, None).starts_with("staging.migrate.="), "{odd:?}");
    }
}
