//! Rules for previews: stacks that live for a while beside all others, under an application's name of their own.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_schema::Timestamp;
use landfall_schema::ids::AppName;
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::promotion::{Intent, Preview, Promotion};

use super::Second;
use crate::config::PreviewConfig;

/// Between an application's name and the preview's.
pub const SEPARATOR: &str = "--";
/// Clocks may differ by this much before a lifetime counts as too long.
const LIFETIME_SLACK: Duration = Duration::from_secs(5 * 60);

/// What this host knows of previews when a promotion comes.
#[derive(Debug, Clone, Copy)]
pub struct PreviewFacts<'a> {
    pub takes: &'a BTreeMap<AppName, PreviewConfig>,
    /// Previews on this host, by their own names, and which application each is of.
    pub here: &'a BTreeMap<AppName, AppName>,
}

/// Whether a preview that this host takes could have this name. What it really is stands in the signed promotion.
pub(super) fn may_be(app: &AppName, takes: &BTreeMap<AppName, PreviewConfig>) -> bool {
    let parts = |of: &AppName| app.as_str().strip_prefix(of.as_str())?.strip_prefix(SEPARATOR);
    takes.keys().any(|of| parts(of).is_some_and(|name| !name.is_empty()))
}

/// # Errors
/// The rule that the promotion breaks.
pub(super) fn check(
    promotion: &Promotion,
    is_app: bool,
    facts: PreviewFacts<'_>,
    now: Timestamp,
) -> Result<(), Reason> {
    let refuse = |code, text: String, hint: &str| Err(Reason::new(code, text).hint(hint));
    let app = &promotion.app;
    let Some(preview) = &promotion.preview else {
        if promotion.intent == Intent::Remove {
            let text = format!("{app} is no preview, and nothing else is removed by a promotion");
            return refuse(
                ReasonCode::PolicyViolation,
                text,
                "run `docker compose down` on the host, if that is meant",
            );
        }
        return Ok(());
    };
    if is_app || app.as_str() != format!("{}{SEPARATOR}{}", preview.of, preview.name) {
        let text = format!("the promotion of {app} says that it is the preview {} of {}", preview.name, preview.of);
        return refuse(ReasonCode::Malformed, text, "promote with `landfall promote`, which names previews");
    }
    let Some(config) = facts.takes.get(&preview.of) else {
        let text = format!("this host takes no previews of {}", preview.of);
        return refuse(ReasonCode::PolicyViolation, text, "add [previews.APP] to the executor's configuration");
    };
    match promotion.intent {
        Intent::Remove => Ok(()),
        Intent::Promote | Intent::Rollback { .. } => check_limits(app, preview, config, facts, now),
    }
}

fn check_limits(
    app: &AppName,
    preview: &Preview,
    config: &PreviewConfig,
    facts: PreviewFacts<'_>,
    now: Timestamp,
) -> Result<(), Reason> {
    let Preview { of, name, expires_at } = preview;
    if now >= *expires_at {
        let text = format!("the preview {name} of {of} ended at {}, it is {} now", Second(*expires_at), Second(now));
        return Err(Reason::new(ReasonCode::PreviewExpired, text)
            .hint("promote it again for a new lifetime; if that was a moment ago, compare this host's clock"));
    }
    let longest = config.max_lifetime + LIFETIME_SLACK;
    if Duration::try_from(expires_at.duration_since(now)).is_ok_and(|asked| asked > longest) {
        let hours = config.max_lifetime.as_secs_f64() / 3_600.0;
        let text =
            format!("the preview {name} of {of} is to live until {}, this host allows {hours} h", Second(*expires_at));
        return Err(Reason::new(ReasonCode::PolicyViolation, text)
            .hint("ask for a shorter lifetime, or raise max_lifetime under [previews] on this host"));
    }
    let others = facts.here.iter().filter(|(other, its)| *its == of && *other != app).count();
    if others >= config.max {
        let text = format!("this host has {others} previews of {of} already, and takes {}", config.max);
        return Err(Reason::new(ReasonCode::PolicyViolation, text)
            .hint("remove one with `landfall preview rm`, or raise max under [previews] on this host"));
    }
    Ok(())
}
