//! Whether an environment is frozen at a given time, and until when.

use std::str::FromStr as _;

use croner::Cron;
use jiff::SignedDuration;
use jiff::tz::TimeZone;
use landfall_schema::Timestamp;
use landfall_schema::gates::{Freeze, FreezeWindow};
use landfall_schema::ids::AppName;
use thiserror::Error;

/// Longest freeze window, in milliseconds: 60 days.
pub const WINDOW_MAX_MS: u64 = 60 * 24 * 60 * 60 * 1_000;

/// The freeze that lasts longest of those in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    pub what: What,
    pub by: String,
    pub until: Timestamp,
    pub reason: String,
}

/// What freezes; each is ended in its own way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Of this application, else of everything.
    Freeze { app: Option<AppName> },
    /// Of the policy.
    Window,
}

/// A freeze window that says no time.
#[derive(Debug, Error)]
pub enum WindowError {
    #[error("{cron:?} is no cron expression of minute, hour, day of month, month and day of week: {why}")]
    Cron { cron: String, why: String },
    #[error("{time_zone:?} is no time zone; expected an IANA name such as Europe/Berlin")]
    TimeZone { time_zone: String },
    #[error("a window lasts at least a minute and at most 60 days, not {duration_ms} ms")]
    Duration { duration_ms: u64 },
}

/// `windows` come with the name of whoever set them.
///
/// # Errors
/// [`WindowError`] of the first window that cannot be understood.
pub fn active(
    freezes: &[Freeze],
    windows: Option<(&[FreezeWindow], &str)>,
    app: &AppName,
    now: Timestamp,
) -> Result<Option<Active>, WindowError> {
    let concerns = |freeze: &&Freeze| freeze.app.as_ref().is_none_or(|of| of == app) && now < freeze.until;
    let mut found: Vec<Active> = freezes
        .iter()
        .filter(concerns)
        .map(|freeze| Active {
            what: What::Freeze { app: freeze.app.clone() },
            by: freeze.author.clone(),
            until: freeze.until,
            reason: freeze.reason.clone(),
        })
        .collect();
    if let Some((windows, author)) = windows {
        for window in windows {
            if let Some(until) = open_until(window, now)? {
                let (by, reason) = (author.to_owned(), window.reason.clone());
                found.push(Active { what: What::Window, by, until, reason });
            }
        }
    }
    Ok(found.into_iter().max_by_key(|active| active.until))
}

/// The end of the window's last opening before or at `now`, if it is still open.
///
/// # Errors
/// [`WindowError`].
pub fn open_until(window: &FreezeWindow, now: Timestamp) -> Result<Option<Timestamp>, WindowError> {
    let FreezeWindow { cron, duration_ms, time_zone, .. } = window;
    if !(60_000..=WINDOW_MAX_MS).contains(duration_ms) {
        return Err(WindowError::Duration { duration_ms: *duration_ms });
    }
    let zone = TimeZone::get(time_zone).map_err(|_| WindowError::TimeZone { time_zone: time_zone.clone() })?;
    let unusable = |why: String| WindowError::Cron { cron: cron.clone(), why };
    let pattern = Cron::from_str(cron).map_err(|error| unusable(error.to_string()))?;
    // A time that never comes is a mistake which is told at once, and not when it would be too late.
    let here = now.to_zoned(zone);
    pattern.find_next_occurrence(&here, true).map_err(|error| unusable(error.to_string()))?;
    // What never came before is no opening.
    let Ok(opened) = pattern.find_previous_occurrence(&here, true) else { return Ok(None) };
    let lasts = SignedDuration::from_millis(i64::try_from(*duration_ms).unwrap_or(i64::MAX));
    let ends = opened.timestamp().checked_add(lasts).map_err(|error| unusable(error.to_string()))?;
    Ok((now < ends).then_some(ends))
}
