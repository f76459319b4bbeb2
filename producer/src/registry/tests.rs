#![allow(clippy::unwrap_used)]
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A registry of canned answers: for each request the first rule whose words all stand in it. Returns its address and what it was asked.
async fn registry(rules: &'static [(&[&str], &str)]) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (log, own) = (asked.clone(), address.clone());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = vec![0; 8192];
            let read = stream.read(&mut bytes).await.unwrap();
            let request = String::from_utf8_lossy(&bytes[..read]).into_owned();
            log.lock().unwrap().push(request.lines().next().unwrap_or_default().to_owned());
            let rule = rules.iter().find(|(words, _)| words.iter().all(|word| request.contains(word)));
            let answer = rule.map_or("500 Oops\r\n\r\n", |(_, answer)| *answer).replace("SELF", &own);
            let head = format!("HTTP/1.1 {}", answer.replacen("\r\n", "\r\nConnection: close\r\n", 1));
            stream.write_all(head.as_bytes()).await.unwrap();
        }
    });
    (address, asked)
}

async fn pin(rules: &'static [(&[&str], &str)], image: &str) -> (Result<String, String>, Vec<String>) {
    // Whoever comes second finds the provider installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (address, asked) = registry(rules).await;
    let image = format!("{address}/{image}").parse().unwrap();
    let pinned = Registries::new(Vec::new()).unwrap().pin(&image).await;
    let shown = pinned
        .map(|pinned| pinned.reference().replace(&address, "R"))
        .map_err(|error| CliError::from(error).to_string().replace(&address, "R"));
    let asked = asked.lock().unwrap().clone();
    (shown, asked)
}

const FOUND: &str = "200 OK\r\nDocker-Content-Digest: \
    sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n";
const PINNED: &str = "R/shop@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[tokio::test]
async fn a_tag_becomes_a_digest() {
    let (pinned, asked) = pin(&[(&["HEAD"], FOUND)], "shop:v1").await;
    assert_eq!(pinned.as_deref(), Ok(PINNED));
    assert_eq!(asked, ["HEAD /v2/shop/manifests/v1 HTTP/1.1"]);
}

#[tokio::test]
async fn without_the_header_the_manifest_is_hashed() {
    let rules: &[(&[&str], &str)] =
        &[(&["HEAD"], "200 OK\r\n\r\n"), (&["GET"], "200 OK\r\nContent-Length: 2\r\n\r\n{}")];
    let (pinned, _) = pin(rules, "shop:v1").await;
    assert_eq!(pinned, Ok(format!("R/shop@{}", Digest::of(b"{}"))));
}

#[tokio::test]
async fn a_token_is_fetched_when_the_registry_asks_for_one() {
    let rules: &[(&[&str], &str)] = &[
        (
            &["GET /token?scope=repository%3Ashop%3Apull&service=s"],
            "200 OK\r\nContent-Length: 13\r\n\r\n{\"token\":\"t\"}",
        ),
        (&["HEAD", "authorization: Bearer t"], FOUND),
        (&["HEAD"], "401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://SELF/token\",service=\"s\"\r\n\r\n"),
    ];
    let (pinned, asked) = pin(rules, "shop:v1").await;
    assert_eq!((pinned.as_deref(), asked.len()), (Ok(PINNED), 3), "{asked:?}");
}

#[tokio::test]
async fn what_registries_refuse_is_said_in_words() {
    let denied: &[(&[&str], &str)] = &[(&[], "403 Forbidden\r\n\r\n")];
    let missing: &[(&[&str], &str)] = &[(&[], "404 Not Found\r\n\r\n")];
    let strange: &[(&[&str], &str)] = &[(&[], "401 Unauthorized\r\nWWW-Authenticate: Negotiate\r\n\r\n")];
    let silent: &[(&[&str], &str)] = &[(&[], "200 OK\r\nDocker-Content-Digest: md5:1\r\nContent-Length: 9\r\n\r\n")];
    for (rules, expect) in [
        (denied, "the registry R denies access to R/shop:v1"),
        (missing, "the image R/shop:v1 does not exist"),
        (strange, "asks for a login in a way that is not understood: \"Negotiate\""),
        (&[], "the registry R answered 500"),
        (silent, "the registry R does not answer"),
    ] {
        let (pinned, _) = pin(rules, "shop:v1").await;
        assert!(pinned.as_ref().is_err_and(|error| error.contains(expect)), "{expect}: {pinned:?}");
    }
    let other = "shop@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    let (pinned, _) = pin(&[(&["HEAD"], FOUND)], other).await;
    assert!(pinned.is_err_and(|error| error.contains("has the digest sha256:aaaa")));
}

#[tokio::test]
async fn a_registry_in_trouble_is_asked_again() {
    let (pinned, asked) = pin(&[], "shop:v1").await;
    assert_eq!((pinned.is_err(), asked.len()), (true, ATTEMPTS_MAX as usize));
}

#[test]
fn registries_on_this_machine_need_no_encryption() {
    for (registry, expect) in [
        ("127.0.0.1:5000", true),
        ("127.9.0.1", true),
        ("localhost:5000", true),
        ("[::1]:5000", true),
        ("localhost.example", false),
        ("10.0.0.1:5000", false),
        ("r.example", false),
    ] {
        assert_eq!(is_loopback(registry), expect, "{registry}");
    }
}

#[tokio::test]
async fn an_unreachable_registry_has_one_cause_and_a_hint_that_fits() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    for (registry, insecure_is_hinted) in [("registry.invalid", false), ("registry.invalid:5000", true)] {
        let image = format!("{registry}/shop:v1").parse().unwrap();
        let error = Registries::new(Vec::new()).unwrap().pin(&image).await.unwrap_err();
        let shown = CliError::from(error).to_string();
        assert_eq!(shown.matches("because:").count(), 1, "{shown}");
        assert_eq!(shown.contains("--insecure-registry"), insecure_is_hinted, "{shown}");
    }
}

#[tokio::test]
async fn an_answer_at_its_limit_is_read() {
    for (bytes, is_read) in [(ANSWER_MAX_BYTES, true), (ANSWER_MAX_BYTES + 1, false)] {
        let whole: &'static str = format!("200 OK\r\nContent-Length: {bytes}\r\n\r\n{}", "x".repeat(bytes)).leak();
        let rules: Vec<(&[&str], &str)> = vec![(&["HEAD"], "200 OK\r\n\r\n"), (&["GET"], whole)];
        let (pinned, _) = pin(rules.leak(), "shop:v1").await;
        assert_eq!(pinned.is_ok(), is_read, "{pinned:?}");
    }
}
