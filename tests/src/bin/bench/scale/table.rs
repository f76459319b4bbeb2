//! The figures of the simulated hosts as Markdown. Growth is an exponent: 1 is linear, 2 is quadratic, 0 is not at all.

use std::fmt::Write as _;

use landfall_schema::layout::{BUNDLE_MAX_BYTES, EVENT_MAX_BYTES};

use super::Row;

type Figure = (&'static str, fn(&Row) -> f64, usize);

const FIGURES: [Figure; 14] = [
    ("one wave: publish to the last `release.committed`, s", |row| row.one_wave.committed.as_secs_f64(), 2),
    ("one wave: publish to the rollout's last word, s", |row| row.one_wave.word.as_secs_f64(), 2),
    ("one wave: publish to the last `deploy.succeeded`, s", |row| row.one_wave.over.as_secs_f64(), 2),
    ("one wave: CPU of the NATS server, s", |row| row.one_wave.server_cpu.as_secs_f64(), 2),
    ("one wave: messages from the NATS server per host", |row| per_host(row, row.one_wave.sent_messages), 1),
    ("one wave: KB from the NATS server per host", |row| per_host(row, row.one_wave.sent_bytes) / 1e3, 1),
    ("three waves: publish to the last `release.committed`, s", |row| row.three_waves.committed.as_secs_f64(), 2),
    ("three waves: publish to the rollout's last word, s", |row| row.three_waves.word.as_secs_f64(), 2),
    ("three waves: CPU of the NATS server, s", |row| row.three_waves.server_cpu.as_secs_f64(), 2),
    ("three waves: KB from the NATS server per host", |row| per_host(row, row.three_waves.sent_bytes) / 1e3, 1),
    ("NATS server with idle hosts: resident memory, MB", |row| row.idle_bytes as f64 / 1e6, 1),
    ("NATS server, after three releases: peak of its memory, MB", |row| row.peak_bytes as f64 / 1e6, 1),
    ("size of the promotion, KB", |row| row.promotion_bytes as f64 / 1e3, 1),
    ("size of the roster, KB", |row| row.roster_bytes as f64 / 1e3, 1),
];

fn per_host(row: &Row, of_all: u64) -> f64 {
    of_all as f64 / row.hosts as f64
}

pub(super) fn scale(rows: &[Row]) -> String {
    let mut text = String::from("| simulated hosts |");
    for row in rows {
        let _ = write!(text, " {} |", row.hosts);
    }
    for pair in rows.windows(2) {
        let _ = write!(text, " growth {} to {} |", pair[0].hosts, pair[1].hosts);
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(rows.len() * 2 - 1));
    for (name, figure, digits) in FIGURES {
        let _ = write!(text, "| {name} |");
        for row in rows {
            let _ = write!(text, " {:.digits$} |", figure(row));
        }
        for pair in rows.windows(2) {
            let exponent =
                (figure(&pair[1]) / figure(&pair[0])).ln() / (pair[1].hosts as f64 / pair[0].hosts as f64).ln();
            let _ = write!(text, " {exponent:.2} |");
        }
        text.push('\n');
    }
    text + &limits(rows)
}

/// How many hosts one promotion can name, by what the two largest sizes took.
fn limits(rows: &[Row]) -> String {
    let [.., small, large] = rows else { return String::new() };
    let more = (large.hosts - small.hosts) as f64;
    let per_name = (large.promotion_bytes - small.promotion_bytes) as f64 / more;
    let per_key = (large.roster_bytes - small.roster_bytes) as f64 / more;
    let by_event = large.hosts as f64 + (EVENT_MAX_BYTES - large.promotion_bytes) as f64 / per_name;
    let by_roster = large.hosts as f64 + (BUNDLE_MAX_BYTES as u64 - large.roster_bytes) as f64 / per_key;
    format!(
        "\nThe limit in hosts: each name of these takes {per_name:.1} bytes of the promotion, of which {EVENT_MAX_BYTES} are allowed: \
         about {by_event:.0} hosts\nin one release. The roster, {per_key:.0} bytes a host and at most {BUNDLE_MAX_BYTES}, would end at \
         about {by_roster:.0}.\n"
    )
}
