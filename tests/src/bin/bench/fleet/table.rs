//! The figures of real hosts as Markdown.

use std::fmt::Write as _;
use std::time::Duration;

use super::{back, ways};
use crate::median::median;

/// Longer steps are worth knowing.
const STEP_SHOWN: Duration = Duration::from_millis(5);

pub(super) fn ways(samples: &[ways::Samples]) -> String {
    let mut text = String::from(
        "| hosts | (a) bare engine API | (b) `ssh`, `docker compose` | (c) Landfall, last `release.committed` | min | max | (c) to (a) | (c) to (b) | (c) last word |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for size in samples {
        let [bare, ssh, landfall, word] =
            [&size.bare, &size.ssh, &size.landfall, &size.word].map(|one| median(one).as_secs_f64());
        let [min, max] = [size.landfall.iter().min(), size.landfall.iter().max()]
            .map(|one| one.copied().unwrap_or_default().as_secs_f64());
        let _ = writeln!(
            text,
            "| {} | {bare:.2} s | {ssh:.2} s | {landfall:.2} s | {min:.2} s | {max:.2} s | {:.2} | {:.2} | {word:.2} s |",
            size.hosts,
            landfall / bare,
            landfall / ssh,
        );
    }
    if let Some(largest) = samples.iter().max_by_key(|size| size.hosts) {
        let steps: Vec<String> = largest
            .steps
            .iter()
            .map(|(step, each)| (step, median(each)))
            .filter(|(_, took)| *took >= STEP_SHOWN)
            .map(|(step, took)| format!("{step} {:.2} s", took.as_secs_f64()))
            .collect();
        let _ = writeln!(
            text,
            "\nWhere one host's time goes with {} hosts, by its own outcomes (medians; `rollout` is the wait for the others): {}.",
            largest.hosts,
            steps.join(", ")
        );
    }
    text
}

pub(super) fn back(samples: &back::Samples) -> String {
    let back::Samples { hosts, halted, published_to_halted, taken_back } = samples;
    let mut text = format!("\n| a broken release on {hosts} hosts | median | min | max |\n|---|---|---|---|\n");
    let rows = [
        ("to halt it: the failing host's outcome to the state that lets no later host begin".to_owned(), halted),
        ("publish to that state, the failing host's way back included".to_owned(), published_to_halted),
        (
            format!(
                "`rollback_all`: `rollout.rolling_back` to `rollout.rolled_back`, {} hosts back and proven",
                hosts - 1
            ),
            taken_back,
        ),
    ];
    for (name, samples) in rows {
        let [min, max] = [samples.iter().min(), samples.iter().max()].map(|one| one.copied().unwrap_or_default());
        let [middle, min, max] = [median(samples), min, max].map(|one| one.as_secs_f64());
        let _ = writeln!(text, "| {name} | {middle:.3} s | {min:.3} s | {max:.3} s |");
    }
    text
}
