use landfall_schema::ids::{AppName, Digest, EnvName, HostName, IdError, NAME_MAX_BYTES, ReleaseName, ServiceName};

/// Names that must not get anywhere near a subject, a path or a command line.
const NASTY: &[&str] = &[
    "",
    " ",
    "a b",
    "a/b",
    "../a",
    "a\\b",
    "a.b",
    "*",
    ">",
    "a.>",
    "$(reboot)",
    "`id`",
    "a;b",
    "a|b",
    "a&b",
    "a'b",
    "a\"b",
    "a\nb",
    "a\0b",
    "a\tb",
    "ä",
    "a\u{202e}b",
    "${HOME}",
    "a=b",
    "~",
    "a:b",
    "a@b",
];

#[test]
fn nasty_names_are_refused_everywhere() {
    for text in NASTY {
        assert!(EnvName::new(*text).is_err(), "environment {text:?}");
        assert!(AppName::new(*text).is_err(), "application {text:?}");
        assert!(HostName::new(*text).is_err(), "host {text:?}");
        if *text != "a.b" {
            assert!(ServiceName::new(*text).is_err(), "service {text:?}");
            assert!(ReleaseName::new(*text).is_err(), "release {text:?}");
        }
    }
}

#[test]
fn ordinary_names_are_taken() {
    for text in ["a", "shop", "Shop_2", "host-a", "0", "-", &"x".repeat(NAME_MAX_BYTES)] {
        assert_eq!(AppName::new(text).unwrap().as_str(), text);
    }
    for text in ["v1.2.3", "sha-1a2b3c", "1.0.0+build.5", &"x".repeat(128)] {
        assert_eq!(ReleaseName::new(text).unwrap().as_str(), text);
    }
    assert_eq!(ServiceName::new("web.1").unwrap().to_string(), "web.1");
}

#[test]
fn a_long_name_is_counted_and_not_repeated() {
    let long = "x".repeat(10_000);
    let error = AppName::new(long.clone()).unwrap_err();
    assert_eq!(error, IdError::TooLong { what: "application", bytes: 10_000, max: 63 });
    assert_eq!(error.to_string(), "the application name has 10000 bytes, at most 63 are allowed");

    let error = Digest::new(long).unwrap_err().to_string();
    assert!(error.len() < 200, "{error}");
}

#[test]
fn errors_name_what_where_and_what_is_allowed() {
    let error = EnvName::new("prod/eu").unwrap_err();
    assert_eq!(error.to_string(), r#"the environment name "prod/eu" contains '/'; allowed are A-Z a-z 0-9 _ -"#);
    assert_eq!(HostName::new("").unwrap_err().to_string(), "the host name is empty");
    // What could change a terminal is escaped.
    let error = AppName::new("a\u{1b}[31m").unwrap_err().to_string();
    assert!(!error.contains('\u{1b}'), "{error:?}");
}

#[test]
fn names_in_json_are_checked() {
    assert!(serde_json::from_str::<AppName>(r#""shop""#).is_ok());
    assert!(serde_json::from_str::<AppName>(r#""sh op""#).is_err());
    assert!(serde_json::from_str::<AppName>("7").is_err());
    assert!(serde_json::from_str::<Digest>(r#""sha256:abc""#).is_err());
}

#[test]
fn digests() {
    let digest = Digest::of(b"");
    assert_eq!(digest.as_str(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_eq!(digest.short(), "e3b0c44298fc");
    assert_eq!(Digest::new(digest.to_string()).unwrap(), digest);
    let upper = digest.as_str().to_uppercase();
    let cut = &digest.as_str()[..70];
    for text in ["", "latest", "sha512:e3b0", upper.as_str(), cut, &format!("{digest}0"), &format!(" {digest}")] {
        assert!(Digest::new(text).is_err(), "{text:?}");
    }
}
