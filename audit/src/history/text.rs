//! History for people.

use std::fmt::Write as _;

use super::{HostHistory, PromotionHistory};

/// One promotion, and a line for each of its hosts.
pub fn for_people(promotion: &PromotionHistory) -> String {
    let mut text = format!(
        "{} {} to {}, #{}: {}",
        promotion.app,
        promotion.release,
        promotion.env,
        promotion.counter,
        words(&promotion.outcome)
    );
    if let Some(duration) = promotion.duration_ms {
        text.push_str(&format!(" after {}", seconds(duration)));
    }
    text.push_str(&format!("\n  {} by {}", promotion.at, printable(&promotion.author)));
    if let Some(to) = promotion.rollback_to {
        text.push_str(&format!(", back to #{to}"));
    }
    text.push_str(&doubt(&promotion.signature));
    if let Some(link) = &promotion.link {
        text.push_str(&format!(", {}", printable(link)));
    }
    let width = promotion.hosts.iter().map(|host| host.host.len()).max().unwrap_or(0);
    for host in &promotion.hosts {
        text.push_str(&line(host, width));
    }
    text
}

fn line(host: &HostHistory, width: usize) -> String {
    let outcome = host.outcome.as_deref().unwrap_or(if host.steps.is_empty() { "silent" } else { "under_way" });
    let mut text = format!("\n  {:width$}  {:11}", host.host, words(outcome));
    if let Some(duration) = host.duration_ms {
        // Writing to a String cannot fail.
        let _ = write!(text, "  {}", seconds(duration));
    }
    if let Some(reason) = &host.reason {
        let _ = write!(text, "  {}: {}", reason.code, printable(&reason.message));
    }
    text.push_str(&doubt(host.signature.as_deref().unwrap_or_default()));
    if !host.in_plan {
        text.push_str(" (not in the plan)");
    }
    text.truncate(text.trim_end().len());
    text
}

/// Said only when a signature was verified and found wanting.
fn doubt(signature: &str) -> String {
    match signature {
        "trusted" | "unchecked" | "" => String::new(),
        other => format!(" (signature: {other})"),
    }
}

fn words(outcome: &str) -> String {
    outcome.replace('_', " ")
}

fn seconds(milliseconds: i64) -> String {
    format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100)
}

/// What strangers wrote must not steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
