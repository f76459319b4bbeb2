//! NATS: does it answer, is it new enough, are the streams as they should be, do the clocks agree, may we do what we need to do.

use std::time::{Duration, Instant};

use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use landfall_bus::connection::shown_url;
use landfall_bus::{Bus, BusError, LayoutChange};
use landfall_schema::Timestamp;
use landfall_schema::ids::{AppName, EnvName};
use landfall_schema::layout::RELEASES;
use landfall_schema::presence::EngineState;
use landfall_schema::subject;
use serde::Deserialize;

use crate::context::Settings;
use crate::doctor::finding::{Finding, State, in_one_line};
use crate::reading::{self, Read};

/// The oldest server on which everything works; older ones drop settings without a word.
const SERVER_MIN: Version = Version(2, 10, 0);
/// Below this, one account can reach the streams of another (CVE-2025-30215).
const SERVER_ADVISED: Version = Version(2, 10, 27);
/// Clocks may differ by this much before promotions expire too early or too late.
pub(super) const SKEW_WARN: Duration = Duration::from_secs(5);
pub(super) const SKEW_FAIL: Duration = Duration::from_secs(60);
/// A promotion that carries this expectation is never stored.
const IMPOSSIBLE_SEQUENCE: u64 = u64::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

pub(super) async fn check(settings: &Settings) -> Vec<Finding> {
    let url = shown_url(&settings.connect.url);
    let started = Instant::now();
    let bus = match Bus::connect(&settings.connect).await {
        Ok(bus) => bus,
        Err(error) => return vec![failed("bus", &error)],
    };
    let server = bus.client().server_info();
    let took = started.elapsed().as_millis();
    let mut findings = vec![version(&server.version, &format!("{url} answers in {took} ms"))];
    let streams = layout(bus.diff().await);
    // Without streams there is nothing to ask the rest of.
    let usable = streams.state != State::Fail;
    findings.push(streams);
    if !usable {
        return findings;
    }
    findings.push(clock(&bus).await);
    if let Some(env) = &settings.env {
        findings.push(may_promote(&bus, env).await);
        findings.extend(hosts(&bus, env).await);
    }
    findings
}

fn failed(check: &'static str, error: &BusError) -> Finding {
    let finding = Finding::fail(check, in_one_line(error));
    match error.hint() {
        Some(hint) => finding.hint(hint),
        None => finding,
    }
}

fn version(text: &str, answers: &str) -> Finding {
    let message = format!("{answers}, nats-server {text}");
    match parse_version(text) {
        None => {
            Finding::warn("bus", message).hint("this version's number is not understood; 2.10.27 or newer is meant")
        }
        Some(found) if found < SERVER_MIN => Finding::fail("bus", message)
            .hint("Landfall needs nats-server 2.10 or newer; older ones drop settings silently"),
        Some(found) if found < SERVER_ADVISED => {
            let hint = "before 2.10.27 one account can reach another's streams (CVE-2025-30215); update the server";
            Finding::warn("bus", message).hint(hint)
        }
        Some(_) => Finding::ok("bus", message),
    }
}

fn parse_version(text: &str) -> Option<Version> {
    let numbers = text.trim_start_matches('v').split(['-', '+']).next()?;
    let mut parts = numbers.split('.').map(str::parse::<u32>);
    Some(Version(parts.next()?.ok()?, parts.next()?.ok()?, parts.next().unwrap_or(Ok(0)).ok()?))
}

fn layout(diff: Result<Vec<LayoutChange>, BusError>) -> Finding {
    let changes = match diff {
        Ok(changes) if changes.is_empty() => {
            return Finding::ok("streams", "all streams and buckets are as they should be");
        }
        Ok(changes) => changes,
        Err(error) => return failed("streams", &error),
    };
    let missing: Vec<&str> =
        changes.iter().filter(|change| change.creates()).map(|change| change.what.as_str()).collect();
    if !missing.is_empty() {
        return Finding::fail("streams", format!("missing: {}", missing.join(", "))).hint("landfall bus apply");
    }
    let different: Vec<String> = changes
        .iter()
        .flat_map(|change| change.settings.iter().map(move |setting| format!("{}: {setting}", change.what)))
        .collect();
    Finding::warn("streams", different.join("; ")).hint("landfall bus apply changes it back; nothing is deleted")
}

#[derive(Deserialize)]
struct StreamInfo {
    ts: Option<Timestamp>,
}

/// The server writes its time into what it says of a stream.
async fn clock(bus: &Bus) -> Finding {
    let before = Timestamp::now();
    let asked: Result<StreamInfo, _> = bus.jetstream().request(format!("STREAM.INFO.{RELEASES}"), &()).await;
    let after = Timestamp::now();
    match asked {
        Ok(StreamInfo { ts: Some(server) }) => {
            skew("this machine's clock and the NATS server's", server, before, after)
        }
        Ok(StreamInfo { ts: None }) => Finding::warn("clock", "the NATS server does not tell its time"),
        Err(error) => Finding::warn("clock", format!("could not be compared: {}", in_one_line(&error))),
    }
}

/// Compares with the middle of the time in which the question was under way.
pub(super) fn skew(whose: &str, theirs: Timestamp, before: Timestamp, after: Timestamp) -> Finding {
    let middle_ms = before.as_millisecond().midpoint(after.as_millisecond());
    let apart = Duration::from_millis(theirs.as_millisecond().abs_diff(middle_ms));
    let message = format!("{whose} differ by {:.1} s", apart.as_secs_f64());
    let hint = "keep clocks in step with NTP: promotions carry the time at which they expire";
    match apart {
        apart if apart >= SKEW_FAIL => Finding::fail("clock", message).hint(hint),
        apart if apart >= SKEW_WARN => Finding::warn("clock", message).hint(hint),
        _ => Finding::ok("clock", message),
    }
}

/// Publishes what the server must reject for its sequence: an answer to that effect proves the permission, and stores nothing.
async fn may_promote(bus: &Bus, env: &EnvName) -> Finding {
    let check = "permissions";
    let promotions = match bus.register(env).await {
        Ok(messages) => messages,
        Err(error) => return failed(check, &error),
    };
    // Permissions may name applications, so an existing one is tried.
    let known = promotions.iter().find_map(|message| subject::parse_release(&message.subject));
    let Ok(app) = known.map_or_else(|| "landfall-doctor".parse::<AppName>(), |release| Ok(release.app)) else {
        return Finding::warn(check, "no application could be tried");
    };
    let subject = subject::promoted(env, &app);
    let expected = IMPOSSIBLE_SEQUENCE.to_string();
    let message = PublishMessage::build().header(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.as_str());
    let sent = bus.jetstream().send_publish(subject.to_string(), message.payload("{}".into())).await;
    let answer = match sent {
        Ok(acknowledgement) => acknowledgement.await,
        Err(error) => Err(error),
    };
    match answer {
        Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
            Finding::ok(check, format!("may promote {app} to {env}, and read what was promoted"))
        }
        Err(error) if error.kind() == PublishErrorKind::TimedOut => {
            let message =
                format!("may not promote {app} to {env}: the NATS server does not answer a publish to {subject}");
            Finding::warn(check, message).hint("ask for credentials with that permission; to look on, these will do")
        }
        Err(error) => Finding::warn(check, format!("could not be tried on {subject}: {}", in_one_line(&error))),
        Ok(_) => Finding::fail(check, format!("the NATS server stored on {subject} what it should have rejected"))
            .hint("it ignores expected sequences; Landfall needs nats-server 2.10 or newer"),
    }
}

async fn hosts(bus: &Bus, env: &EnvName) -> Vec<Finding> {
    let messages = match bus.presence(env).await {
        Ok(messages) => messages,
        Err(error) => return vec![failed("hosts", &error)],
    };
    let present: Vec<_> = messages.iter().filter_map(reading::presence).collect();
    if present.is_empty() {
        let finding = Finding::warn("hosts", format!("no host of {env} is here"));
        return vec![
            finding.hint("start landfall-executor on one; `landfall-executor --check` looks at its configuration"),
        ];
    }
    let mut troubles: Vec<Finding> = Vec::new();
    for Read { published_at, event, .. } in &present {
        let host = &event.data.host;
        if let EngineState::Silent { error } = &event.data.engine {
            let message = format!("the Docker engine of {host} does not answer: {error}");
            troubles.push(Finding::fail("hosts", message).hint(format!("on {host}: systemctl status docker")));
        }
        let apart = event.time.as_millisecond().abs_diff(published_at.as_millisecond());
        if Duration::from_millis(apart) >= SKEW_WARN {
            let message = format!("the clock of {host} and the NATS server's differ by {} s", apart / 1_000);
            troubles.push(Finding::warn("hosts", message).hint("keep clocks in step with NTP"));
        }
    }
    if troubles.is_empty() {
        let names: Vec<&str> = present.iter().map(|presence| presence.event.data.host.as_str()).collect();
        let apps: std::collections::BTreeSet<&str> =
            present.iter().flat_map(|presence| presence.event.data.apps.keys().map(AppName::as_str)).collect();
        let apps: Vec<&str> = apps.into_iter().collect();
        troubles.push(Finding::ok("hosts", format!("{} here, for {}", names.join(", "), apps.join(", "))));
    }
    troubles
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use landfall_bus::Setting;

    use super::*;

    #[test]
    fn versions() {
        for (text, expect) in [
            ("2.15.1", State::Ok),
            ("v2.10.27-RC.1", State::Ok),
            ("3.0", State::Ok),
            ("2.10.26", State::Warn),
            ("2.9.10", State::Fail),
            ("1.4.1", State::Fail),
            ("nightly", State::Warn),
            ("", State::Warn),
        ] {
            assert_eq!(version(text, "it answers").state, expect, "{text}");
        }
    }

    #[test]
    fn clocks() {
        let at = |ms: i64| Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap();
        for (server, expect) in
            [(0, State::Ok), (4_000, State::Ok), (-4_000, State::Ok), (5_500, State::Warn), (-70_000, State::Fail)]
        {
            assert_eq!(skew("clocks", at(server), at(-100), at(100)).state, expect, "{server} ms");
        }
        assert_eq!(skew("clocks", at(1_500), at(-100), at(100)).message, "clocks differ by 1.5 s");
    }

    #[test]
    fn what_is_missing_is_worse_than_what_differs() {
        let change =
            |settings| LayoutChange { what: "stream RELEASES".to_owned(), description: String::new(), settings };
        let setting = || Setting { name: "deny_purge", have: "false".to_owned(), want: "true".to_owned() };
        assert_eq!(layout(Ok(vec![])).state, State::Ok);
        let different = layout(Ok(vec![change(vec![setting()])]));
        assert_eq!(different.state, State::Warn);
        assert_eq!(different.message, "stream RELEASES: deny_purge is false, should be true");
        let missing = layout(Ok(vec![change(vec![setting()]), change(vec![])]));
        assert_eq!((missing.state, missing.hint.as_deref()), (State::Fail, Some("landfall bus apply")));
    }
}
