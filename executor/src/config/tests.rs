#![allow(clippy::unwrap_used)]
use super::*;
use landfall_schema::signature::SigningKey;

fn nothing(_: &str) -> Option<String> {
    None
}

fn with_key(text: &str) -> String {
    text.replace("promote = []", &format!("promote = [\"{}\"]", SigningKey::generate().public()))
}

fn shown(text: &str) -> String {
    let problems = Config::parse(text, &nothing).unwrap_err();
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_default_config_lacks_a_key_and_nothing_else() {
    let said = shown(DEFAULT_CONFIG);
    assert!(said.contains("trust.promote: trusts no key") && said.matches("hint:").count() == 1, "{said}");

    let config = Config::parse(&with_key(DEFAULT_CONFIG), &nothing).unwrap();
    assert_eq!(config.state_dir, Path::new("/var/lib/landfall"));
    assert_eq!(config.docker.host, "unix:///var/run/docker.sock");
    assert_eq!(config.keep_releases, 3);
    assert!(config.apps.is_empty() && config.policy.allow.is_empty());
}

#[test]
fn every_example_in_the_default_config_is_valid_and_every_default_is_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "x").unwrap();
    let uncommented: Vec<String> = DEFAULT_CONFIG
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => setting.to_owned(),
            _ => line.to_owned(),
        })
        // Credentials of both kinds exclude each other.
        .filter(|line| !line.starts_with("creds = "))
        .map(|line| match line.split_once(" = \"/etc/landfall/") {
            Some((key, _)) => format!("{key} = \"{}\"", secret.display()),
            None => line,
        })
        .collect();
    let config = Config::parse(&with_key(&uncommented.join("\n")), &nothing).unwrap();
    let bare = Config::parse(&with_key(DEFAULT_CONFIG), &nothing).unwrap();
    assert_eq!(config.host.as_str(), "host-a");
    assert_eq!(config.keep_releases, bare.keep_releases);
    assert_eq!(config.docker.min_free_disk_bytes, bare.docker.min_free_disk_bytes);
    assert_eq!((config.docker.host, config.state_dir), (bare.docker.host, bare.state_dir));
    assert_eq!(config.policy, bare.policy);
    assert_eq!(config.telemetry.log_format, bare.telemetry.log_format);
    assert_eq!(config.telemetry.log_filter, bare.telemetry.log_filter);
    assert_eq!(config.labels["region"], "eu-central");
    assert_eq!(config.apps[&"shop".parse().unwrap()].project, "shop");
    assert_eq!(config.apps[&"shop".parse().unwrap()].drift, DriftPolicy::Report);
    let previews = &config.previews[&"shop".parse().unwrap()];
    assert_eq!((previews.max, previews.max_lifetime.as_secs()), (10, 72 * 3_600));
    assert_eq!(config.bus.user.as_deref(), Some("executor"));
    assert!(
        Risk::ALL.iter().all(|risk| DEFAULT_CONFIG.contains(risk.setting())),
        "each risk stands in the default config"
    );
}

#[test]
fn every_mistake_is_told_at_once() {
    let text = r#"host = "host a"
state_dir = "var/lib"
keep_releases = 0
keep_relases = 4
allowed_registries = ["ok.example", "https://no.example", 3]
[labels]
role = "a,b"
[bus]
url = "http://127.0.0.1"
user = "executor"
creds = "/nowhere/host.creds"
[docker]
host = "docker.sock"
min_free_disk = "1 gig"
[trust]
promote = ["SUAAA", "UAAA"]
[apps."a/b"]
directory = "/opt"
[apps.shop]
project = "Shop"
[policy]
allow_privileged = "yes"
allow_everything = true
[telemetry]
log_format = "xml"
"#;
    let expect = r#"line 1, column 8: host: the host name "host a" contains ' '; allowed are A-Z a-z 0-9 _ -
line 2, column 13: state_dir: "var/lib" is not an absolute path
line 3, column 17: keep_releases: is 0, allowed is 1 to 100
line 4, column 1: keep_relases: is no setting of the executor
  hint: known here are: allowed_registries, apps, bus, docker, env, host, keep_releases, labels, policy, previews, state_dir, telemetry, trust; see `landfall-executor --print-default-config`
line 5, column 37: allowed_registries: "https://no.example" is no registry or repository prefix; expected e.g. registry.example.org/team
line 5, column 59: allowed_registries: is an integer, expected a text in quotes
line 7, column 8: labels.role: the label's value "a,b" cannot be used
  hint: 1 to 63 of the characters A-Z a-z 0-9 - _ . /
line 9, column 7: bus.url: is no address of a NATS server; it starts with nats:// or tls://
line 10, column 8: bus.user: stands beside creds
  hint: use one of both: creds, or user and password_file
line 10, column 8: bus.user: stands alone
  hint: user and password_file belong together
line 11, column 9: bus.creds: /nowhere/host.creds cannot be opened: No such file or directory (os error 2)
line 13, column 8: docker.host: "docker.sock" is no address of a Docker engine; expected unix:///… or tcp://…
line 14, column 17: docker.min_free_disk: "1 gig" is no amount of bytes; expected e.g. "500 MB" or "2 GiB"
line 16, column 12: trust.promote: KEY
line 16, column 21: trust.promote: KEY
line 17, column 7: apps.a/b: the application name "a/b" contains '/'; allowed are A-Z a-z 0-9 _ -
line 20, column 11: apps.shop.project: "Shop" is no name of a Compose project; allowed are a-z 0-9 - _, beginning with a letter or digit
line 22, column 20: policy.allow_privileged: is a string, expected true or false
line 23, column 1: policy.allow_everything: is no setting of the executor
line 25, column 14: telemetry.log_format: "xml" is no log format; there are "human" and "json"
apps.shop.directory: is missing
  hint: where the stack's .env is, e.g. directory = "/opt/shop"
env: is missing
  hint: name the environment whose promotions this host takes, e.g. env = "staging""#;
    let said: Vec<String> = shown(text)
        .lines()
        // The words about keys are the schema's, and the list of all risks is long.
        .filter(|line| !line.contains("hint: known here are: allow_capabilities"))
        .filter(|line| !line.contains("hint: list the public keys"))
        .map(|line| match line.split_once("trust.promote: ") {
            Some((place, _)) => format!("{place}trust.promote: KEY"),
            None => line.to_owned(),
        })
        .collect();
    assert_eq!(said.join("\n"), expect);
}

#[test]
fn broken_syntax_is_told_with_its_place_and_nothing_made_up() {
    let said = shown("env = \"staging\nhost = \"host-a\"\n[bus]\nurl = 4\n");
    assert!(said.starts_with("line 1, column"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn credentials_in_the_address_are_not_repeated() {
    let text = with_key(DEFAULT_CONFIG).replace("nats://127.0.0.1:4222", "nats://ci:hunter2@127.0.0.1:4222");
    let said = shown(&text);
    assert!(said.contains("bus.url: holds credentials") && !said.contains("hunter2"), "{said}");
}

#[test]
fn the_environment_wins_over_the_file() {
    let variables = |name: &str| match name {
        "LANDFALL_HOST" => Some("host-z".to_owned()),
        "LANDFALL_ENV" => Some("production".to_owned()),
        "LANDFALL_STATE_DIR" => Some("/tmp/state".to_owned()),
        "LANDFALL_BUS_URL" => Some("tls://bus.example:4222".to_owned()),
        "DOCKER_HOST" => Some("unix:///run/other.sock".to_owned()),
        _ => None,
    };
    let config = Config::parse(&with_key(DEFAULT_CONFIG), &variables).unwrap();
    assert_eq!((config.host.as_str(), config.env.as_str()), ("host-z", "production"));
    assert_eq!(
        (config.state_dir.as_path(), config.bus.url.as_str()),
        (Path::new("/tmp/state"), "tls://bus.example:4222")
    );
    assert_eq!(config.docker.host, "unix:///run/other.sock");

    let wrong = |name: &str| (name == "LANDFALL_ENV").then(|| "a b".to_owned());
    let problems = Config::parse(&with_key(DEFAULT_CONFIG), &wrong).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].to_string().starts_with("$LANDFALL_ENV: the environment name"), "{}", problems[0]);
}

#[test]
fn amounts_of_bytes() {
    for (text, expect) in [("0", 0), ("500 MB", 500_000_000), ("2GiB", 2 << 30), ("1 kB", 1_000)] {
        assert_eq!(bytes(text), Ok(expect), "{text}");
    }
    for text in ["", "GB", "-1", "1.5 GB", "99999999999 TiB"] {
        bytes(text).unwrap_err();
    }
}

#[test]
fn applications_and_previews() {
    let text = with_key(DEFAULT_CONFIG)
        + "[apps.a]\ndirectory = \"/opt/a\"\ndrift = \"repair\"\n[apps.b]\ndirectory = \"/opt/b\"\ndrift = \"ignore\"\nproject = \"a\"\n\
           [previews.a]\ndirectory = \"/opt/p\"\nmax_lifetime = \"soon\"\nmax = 0\n";
    let said = shown(&text);
    assert!(said.contains("apps.b.drift: \"ignore\" is nothing that is done about drift"), "{said}");
    assert!(said.contains("apps.b.project: \"a\" is the project of a too"), "{said}");
    assert!(said.contains("previews.a.max_lifetime: \"soon\" is no lifetime"), "{said}");
    assert!(said.contains("previews.a.max: is 0, allowed is 1 to 1000"), "{said}");
}

#[test]
fn numbers_and_labels_have_a_limit() {
    let told = |top: &str, labels: &str, sections: &str| {
        let defaults = DEFAULT_CONFIG.replace("[labels]\n", &format!("[labels]\n{labels}\n"));
        let text = with_key(&format!("{top}\n{defaults}\n{sections}"));
        Config::parse(&text, &nothing).map(drop).map_err(|problems| problems[0].to_string())
    };
    let previews = |max: u64| format!("[previews.a]\ndirectory = \"/opt/p\"\nmax_lifetime = \"1h\"\nmax = {max}\n");
    let label = |bytes: usize| format!("role = \"{}\"", "x".repeat(bytes));
    for (at, past, words) in [
        (
            told(&format!("keep_releases = {KEEP_RELEASES_MAX}"), "", ""),
            told(&format!("keep_releases = {}", KEEP_RELEASES_MAX + 1), "", ""),
            "keep_releases: is 101, allowed is 1 to 100",
        ),
        (told("", &label(LABEL_MAX_BYTES), ""), told("", &label(LABEL_MAX_BYTES + 1), ""), "cannot be used"),
        (
            told("", "", &previews(1_000)),
            told("", "", &previews(1_001)),
            "previews.a.max: is 1001, allowed is 1 to 1000",
        ),
    ] {
        assert_eq!(at, Ok(()));
        assert!(past.as_ref().is_err_and(|error| error.contains(words)), "{past:?}");
    }
}
