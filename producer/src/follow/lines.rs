//! Narration for pipes and CI: one line an outcome on standard error, or one event a line on standard output.

use std::collections::BTreeMap;

use landfall_schema::ids::HostName;
use landfall_schema::outcome::{Outcome, OutcomeKind, Reason};
use owo_colors::OwoColorize as _;

use super::{Narrator, words};
use crate::error::CliError;
use crate::output::Output;
use crate::rollout::RolloutView;

pub(super) struct Lines {
    output: Output,
    reasons: Reasons,
}

/// Reasons that were told already: the end of a deploy repeats that of the failed step.
#[derive(Default)]
pub(super) struct Reasons(BTreeMap<HostName, Reason>);

impl Reasons {
    /// The outcome's line and, for news, what belongs below it.
    pub(super) fn text(&mut self, outcome: &Outcome, view: &RolloutView) -> Vec<String> {
        let Some(line) = words::line(outcome, &view.promotion.plan) else { return Vec::new() };
        let mut lines = vec![match outcome.kind {
            kind if kind.is_failure() => line.red().to_string(),
            OutcomeKind::DeploySucceeded | OutcomeKind::RolloutSucceeded => line.green().to_string(),
            _ => line,
        }];
        // What a rollout decided has its cause from a host, which has told of it.
        if let Some(reason) = outcome.reason.as_ref().filter(|_| !outcome.kind.is_rollout())
            && self.0.insert(outcome.host.clone(), reason.clone()).as_ref() != Some(reason)
        {
            lines.extend(words::details(outcome, reason));
        }
        lines
    }
}

impl Lines {
    pub(super) fn new(output: Output) -> Self {
        Self { output, reasons: Reasons::default() }
    }
}

impl Narrator for Lines {
    fn told(&mut self, outcome: &Outcome, _body: &[u8], view: &RolloutView) -> Result<(), CliError> {
        for line in self.reasons.text(outcome, view) {
            self.output.note(line);
        }
        Ok(())
    }

    fn trouble(&mut self, text: &str) {
        self.output.warn(text);
    }

    fn end(&mut self) {}
}

/// Events as they came.
pub(super) struct JsonLines {
    output: Output,
}

impl JsonLines {
    pub(super) fn new(output: Output) -> Self {
        Self { output }
    }
}

impl Narrator for JsonLines {
    fn told(&mut self, _outcome: &Outcome, body: &[u8], _view: &RolloutView) -> Result<(), CliError> {
        // Through a value, so that a body with line breaks is still one line; fields that are not known here are kept.
        let event: serde_json::Value =
            serde_json::from_slice(body).map_err(|error| CliError::new("cannot read the event").because(&error))?;
        self.output.json(&event)
    }

    fn trouble(&mut self, text: &str) {
        self.output.warn(text);
    }

    fn end(&mut self) {}
}
