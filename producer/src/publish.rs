//! From a complete description of a promotion to its event on the bus.

use landfall_bus::{Bus, BusError};
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_PROMOTED};
use landfall_schema::ids::{AppName, Counter, EnvName, EventId};
use landfall_schema::promotion::Promotion;
use landfall_schema::signature::SigningKey;
use uuid::Uuid;

use crate::ci;
use crate::context::process_environment;
use crate::error::{CliError, ExitCode};
use crate::output::Output;
use crate::plan::KnownHost;
use crate::reading::{self, Read};

/// Where a new promotion goes: after the last one of its environment and application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub counter: Counter,
    /// The stream's sequence of the last promotion, 0 for none.
    pub after: u64,
}

/// A bus that was restored from a copy lacks fewer promotions of an application than this; what hosts say beyond it is not believed.
const LOST_MAX: u64 = 10_000;

/// Whether a host may run this where the bus knows no promotion after `newest`.
fn is_plausible(runs: Counter, newest: Counter) -> bool {
    runs > newest && runs.0 - newest.0 <= LOST_MAX
}

/// The place after the newest promotion, and after what the hosts run: a bus that was restored from a copy may not know it any more. A promotion
/// that cannot be read is stepped over: its counter is then that of the newest readable one.
pub async fn next_place(
    bus: &Bus,
    env: &EnvName,
    app: &AppName,
    known: &[KnownHost],
    output: &Output,
) -> Result<Place, CliError> {
    let last = bus.latest_promotion(env, app).await?;
    let counter = match last.as_ref().map(reading::promotion) {
        None => Counter::NONE,
        Some(Some(read)) => read.event.data.counter,
        Some(None) => {
            output.warn(format!("the last promotion of {app} in {env} cannot be read; it is stepped over"));
            let known = reading::promotions(&bus.promotions(env, Some(app)).await?, output);
            known.iter().map(|read| read.event.data.counter).max().unwrap_or(Counter::NONE)
        }
    };
    let runs = known.iter().filter_map(|host| Some((host, host.presence.apps.get(app)?.as_ref()?.counter)));
    let ahead = runs.filter(|(_, runs)| is_plausible(*runs, counter)).max_by_key(|(_, runs)| *runs);
    let counter = ahead.map_or(counter, |(host, runs)| {
        let name = &host.presence.host;
        output.warn(format!(
            "{name} runs promotion {runs} of {app}, and the bus knows none after {counter}: was its store restored, or emptied? This one comes after both"
        ));
        runs
    });
    let next = counter.0.checked_add(1).ok_or_else(|| {
        CliError::new(format!("the last promotion of {app} in {env} has the highest counter there is"))
            .hint("somebody forged it; use another application name")
    })?;
    Ok(Place { counter: Counter(next), after: last.map_or(0, |last| last.sequence) })
}

/// The event around a promotion, made now.
pub fn event(promotion: Promotion) -> CloudEvent<Promotion> {
    let source = format!("/landfall/producer/{}", ci::author(&process_environment));
    CloudEvent::new(EventId(Uuid::now_v7()), source, TYPE_PROMOTED, Timestamp::now(), promotion)
}

/// Signs and publishes; says who won when another was first.
pub async fn publish(
    bus: &Bus,
    event: &CloudEvent<Promotion>,
    key: &SigningKey,
    place: Place,
) -> Result<u64, CliError> {
    let traceparent = process_environment("TRACEPARENT")
        .filter(|text| is_traceparent(text))
        .or_else(landfall_telemetry::traceparent_of_current_span);
    match bus.publish_promotion(event, key, place.after, traceparent.as_deref()).await {
        Ok(sequence) => Ok(sequence),
        Err(BusError::Raced { .. }) => Err(raced(bus, &event.data).await),
        Err(error) => Err(error.into()),
    }
}

/// Version, trace, span and flags in hexadecimal; anything else must not become a header.
fn is_traceparent(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [2, 32, 16, 2] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

async fn raced(bus: &Bus, ours: &Promotion) -> CliError {
    let winner = bus.latest_promotion(&ours.env, &ours.app).await.ok().flatten();
    let who = match winner.as_ref().and_then(reading::promotion) {
        Some(Read { event, .. }) => {
            let won = event.data;
            let link = won.link.map_or(String::new(), |link| format!(" ({link})"));
            format!("{} {} by {}{link}, promotion {}", won.app, won.release, won.author, won.counter)
        }
        None => "one that cannot be read".to_owned(),
    };
    CliError::new(format!("another promotion was first: {who}; {} {} was not published", ours.app, ours.release))
        .hint(format!(
            "see `landfall status {0} --env {1}`, then promote again if yours should win",
            ours.app, ours.env
        ))
        .exit(ExitCode::Raced)
}

/// `15m`, `90 s`, `1h 30m` in milliseconds.
pub fn parse_duration(text: &str) -> Result<u64, String> {
    let unreadable = |_| format!("{text:?} is not a time span such as 90s, 15m, 1h30m or 30d");
    let span: jiff::Span = text.parse().map_err(unreadable)?;
    // A day is 24 hours here: no calendar, no time zone.
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(unreadable)?;
    u64::try_from(duration.as_millis()).map_err(|_| "a time span cannot be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_promotions_may_be_lost() {
        for (runs, expect) in [(7, false), (8, true), (7 + LOST_MAX, true), (8 + LOST_MAX, false)] {
            assert_eq!(is_plausible(Counter(runs), Counter(7)), expect, "{runs}");
        }
    }

    #[test]
    fn time_spans() {
        for (text, expect) in
            [("15m", 900_000), ("10s", 10_000), ("250ms", 250), ("1h30m", 5_400_000), ("0s", 0), ("30d", 2_592_000_000)]
        {
            assert_eq!(parse_duration(text), Ok(expect), "{text}");
        }
        for text in ["", "10", "-5s", "soon", "1 week of rest"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
