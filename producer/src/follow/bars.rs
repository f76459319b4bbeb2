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
    style: ProgressStyle,
    width: usize,
    reasons: Reasons,
}

impl Bars {
    pub(super) fn new(view: &RolloutView) -> Self {
        let style = ProgressStyle::with_template(TEMPLATE)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let width = view.hosts.keys().map(|host| host.as_str().len()).max().unwrap_or(0);
        let mut bars =
            Self { all: MultiProgress::new(), hosts: BTreeMap::new(), style, width, reasons: Reasons::default() };
        for host in view.hosts.keys() {
            bars.bar(host).set_message("waiting for a sign of life");
        }
        bars
    }

    fn bar(&mut self, host: &HostName) -> ProgressBar {
        if let Some(bar) = self.hosts.get(host) {
            return bar.clone();
        }
        let bar = self.all.add(ProgressBar::new(STEPS.len() as u64).with_style(self.style.clone()));
        bar.set_prefix(format!("{host:<width$}", width = self.width));
        bar.enable_steady_tick(TICK_INTERVAL);
        self.hosts.insert(host.clone(), bar.clone());
        bar
    }
}

impl Narrator for Bars {
    fn told(&mut self, outcome: &Outcome, _body: &[u8], _view: &RolloutView) -> Result<(), CliError> {
        let bar = self.bar(&outcome.host);
        if outcome.kind.is_failure() {
            for line in self.reasons.text(outcome) {
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
