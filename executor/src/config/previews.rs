//! `[previews.<app>]`: stacks that live for a while beside all others.

use std::path::PathBuf;
use std::time::Duration;

use landfall_schema::ids::AppName;

use super::absolute;
use super::decode::Section;

/// How long a preview may live, unless configured.
const MAX_LIFETIME: Duration = Duration::from_secs(72 * HOUR_S);
/// How many previews of one application a host takes, unless configured.
const MAX_PREVIEWS: u64 = 10;
const MAX_PREVIEWS_MOST: u64 = 1_000;
const HOUR_S: u64 = 60 * 60;
/// A year; more is a mistake.
const LIFETIME_MOST: Duration = Duration::from_secs(365 * 24 * HOUR_S);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewConfig {
    /// The template: its files, `.env` among them, are copied for each preview.
    pub directory: PathBuf,
    pub max_lifetime: Duration,
    /// Most previews of the application at the same time.
    pub max: usize,
}

pub(super) fn read(name: AppName, section: Section<'_, '_>) -> Option<(AppName, PreviewConfig)> {
    let directory = section.parsed_by("directory", absolute);
    if !section.is_set("directory") {
        section.missing(
            "directory",
            "where the template of each preview's .env is, e.g. directory = \"/opt/previews/shop\"",
        );
    }
    let max_lifetime = section.parsed_by("max_lifetime", lifetime).unwrap_or(MAX_LIFETIME);
    let max = section.number("max", 1, MAX_PREVIEWS_MOST).unwrap_or(MAX_PREVIEWS);
    section.finish();
    Some((name, PreviewConfig { directory: directory?, max_lifetime, max: usize::try_from(max).ok()? }))
}

/// `72h`, `30m`, `3d`, `90s`.
fn lifetime(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let unit_s = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(HOUR_S),
        "d" => Some(24 * HOUR_S),
        _ => None,
    };
    let seconds = digits.parse::<u64>().ok().zip(unit_s).and_then(|(number, unit)| number.checked_mul(unit));
    match seconds.map(Duration::from_secs) {
        Some(time) if !time.is_zero() && time <= LIFETIME_MOST => Ok(time),
        _ => Err(format!("{text:?} is no lifetime; expected e.g. \"72h\", \"30m\" or \"3d\", at most a year")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes() {
        assert_eq!(lifetime("72h"), Ok(Duration::from_secs(72 * 3_600)));
        assert_eq!(lifetime("3d"), lifetime("72h"));
        assert_eq!(lifetime("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "72", "h", "0h", "1y", "-1h", "400d", "99999999999999999999h"] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }
}
