//! The figures as Markdown.

use std::fmt::Write as _;
use std::time::Duration;

use super::programs::{Idle, Size};
use super::swap::Samples;
use crate::median::median;

pub(crate) fn swaps(samples: &Samples) -> String {
    let bare = median(&samples.bare);
    let compose = median(&samples.compose);
    let rows = [
        ("(a) bare engine API: pull, stop, remove, create, start, answer", &samples.bare),
        ("(b) `docker compose pull`, `up -d --wait`, answer", &samples.compose),
        ("(c) Landfall, publish to committed outcome", &samples.landfall),
        ("(c) Landfall, with a SQL migration on PostgreSQL", &samples.landfall_migrating),
    ];
    let mut text = String::from(
        "| one swap to a new version | median | min | max | to (a) | to (b) |\n|---|---|---|---|---|---|\n",
    );
    for (name, samples) in rows {
        let middle = median(samples);
        let min = samples.iter().min().copied().unwrap_or_default();
        let max = samples.iter().max().copied().unwrap_or_default();
        let _ = writeln!(
            text,
            "| {name} | {:.2} s | {:.2} s | {:.2} s | {:.2} | {:.2} |",
            middle.as_secs_f64(),
            min.as_secs_f64(),
            max.as_secs_f64(),
            middle.as_secs_f64() / bare.as_secs_f64(),
            middle.as_secs_f64() / compose.as_secs_f64()
        );
    }
    text
}

pub(crate) fn programs(idle: &Idle, sizes: &[Size], version_start: Duration) -> String {
    let mut text = String::from("| programs | figure |\n|---|---|\n");
    let _ = writeln!(text, "| executor, idle: resident memory | {:.1} MB |", idle.resident_bytes as f64 / 1e6);
    let _ = writeln!(
        text,
        "| executor, idle: CPU | {:.2} % of one core over {} s |",
        idle.cpu_percent,
        idle.over.as_secs()
    );
    for size in sizes {
        let _ = writeln!(text, "| size of `{}` | {:.1} MB |", size.program, size.bytes as f64 / 1e6);
    }
    let _ = writeln!(
        text,
        "| `landfall --version`, start to end, median of ten | {:.1} ms |",
        version_start.as_secs_f64() * 1e3
    );
    text
}
