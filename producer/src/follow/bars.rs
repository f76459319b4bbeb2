//! Progress bars on a terminal, one a host; failures are printed above them.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use landfall_schema::ids::HostName;
use landfall_schema::outcome::{Outcome, OutcomeKind, Progress};
use owo_colors::OwoColorize as _;

use super::lines::Reasons;
use super::{Narrator, words};
use crate::error::CliError;
use crate::output;
use crate::rollout::{RolloutView, STEPS};

/// How often the elapsed time moves.
const TICK_INTERVAL: Duration = Duration::from_millis(100);
const TEMPLATE: &str = "{prefix} {bar:16} {elapsed:>4} {wide_msg}";

pub(super) struct Bars {
    all: MultiProgress,
    hosts: BTreeMap<HostName, ProgressBar>,
    /// Of plans with several waves, e.g. `2/3`.
    waves: BTreeMap<HostName, String>,
    style: ProgressStyle,
    width: usize,
    reasons: Reasons,
}

impl Bars {
    pub(super) fn new(view: &RolloutView) -> Self {
        let style = ProgressStyle::with_template(TEMPLATE)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let plan = &view.promotion.plan;
        let waves = match plan.waves.len() {
            0 | 1 => BTreeMap::new(),
            of => view.hosts.iter().map(|(host, view)| (host.clone(), wave_of(view.wave, of))).collect(),
        };
        let width = view.hosts.keys().map(|host| host.as_str().len()).max().unwrap_or(0);
        let (all, hosts, reasons) = (MultiProgress::new(), BTreeMap::new(), Reasons::default());
        let mut bars = Self { all, hosts, waves, style, width, reasons };
        // Wave by wave, and those that are away at the end.
        for host in plan.hosts().chain(&plan.away) {
            bars.bar(host).set_message("waiting for a sign of life");
        }
        bars
    }

    fn bar(&mut self, host: &HostName) -> ProgressBar {
        if let Some(bar) = self.hosts.get(host) {
            return bar.clone();
        }
        let bar = self.all.add(ProgressBar::new(STEPS.len() as u64).with_style(self.style.clone()));
        let wave = self.waves.get(host).map_or(String::new(), |wave| format!(" {wave:>5}"));
        bar.set_prefix(format!("{host:<width$}{wave}", width = self.width));
        bar.enable_steady_tick(TICK_INTERVAL);
        self.hosts.insert(host.clone(), bar.clone());
        bar
    }
}

impl Narrator for Bars {
    fn told(&mut self, outcome: &Outcome, _body: &[u8], view: &RolloutView) -> Result<(), CliError> {
        if outcome.kind.is_rollout() {
            for line in self.reasons.text(outcome, view) {
                self.trouble(&line);
            }
            return Ok(());
        }
        let bar = self.bar(&outcome.host);
        if outcome.kind.is_failure() {
            for line in self.reasons.text(outcome, view) {
                self.trouble(&line);
            }
        }
        if let Some(step) = STEPS.iter().position(|noun| *noun == outcome.kind.noun()) {
            bar.set_position(step as u64);
        }
        let message = message(outcome);
        match outcome.kind {
            OutcomeKind::DeploySucceeded => {
                bar.set_position(STEPS.len() as u64);
                bar.abandon_with_message(message.green().to_string());
            }
            // It may come back.
            OutcomeKind::DeployNotReached => bar.set_message(message.yellow().to_string()),
            OutcomeKind::ReleaseWaiting if !outcome.message.is_empty() => bar.set_message(outcome.message.clone()),
            kind if kind.is_terminal() => bar.abandon_with_message(message.red().to_string()),
            _ => bar.set_message(message),
        }
        Ok(())
    }

    fn trouble(&mut self, text: &str) {
        // The line is lost only when standard error is closed.
        let _ = self.all.println(text);
    }

    fn end(&mut self) {
        for bar in self.hosts.values().filter(|bar| !bar.is_finished()) {
            bar.abandon();
        }
    }
}

fn wave_of(wave: Option<usize>, of: usize) -> String {
    wave.map_or("-".to_owned(), |wave| format!("{}/{of}", wave + 1))
}

fn message(outcome: &Outcome) -> String {
    if let Some(progress) = &outcome.progress {
        return pulling(progress);
    }
    let phrase = words::phrase(outcome.kind);
    match outcome.duration_ms {
        Some(milliseconds) if outcome.kind.is_failure() => format!("{phrase} after {}", output::duration(milliseconds)),
        Some(milliseconds) => format!("{phrase} in {}", output::duration(milliseconds)),
        None => phrase.to_owned(),
    }
}

fn pulling(progress: &Progress) -> String {
    format!(
        "pulling {}: {}/{} layers, {:.1}/{:.1} MB",
        progress.service,
        progress.layers_done,
        progress.layers_total,
        progress.bytes_done as f64 / 1e6,
        progress.bytes_total as f64 / 1e6
    )
}
