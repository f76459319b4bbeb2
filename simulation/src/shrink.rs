//! Makes a failing scenario small: what can be left out while the same oracle says no, is left out.

use std::fmt::Write as _;

use anyhow::Result;

use crate::run::{Bench, Report};
use crate::scenario::Scenario;
use crate::server::Weather;

/// Runs that are spent on it.
const ATTEMPTS_MAX: usize = 120;
/// Lines of the trace that are shown, up to the oracle's.
const TRACE_LINES: usize = 80;

pub(crate) fn shrink(
    bench: &Bench,
    mut scenario: Scenario,
    mut report: Report,
    bug: Option<&'static str>,
) -> Result<(Scenario, Report)> {
    let Some(oracle) = report.violations.first().map(|violation| violation.oracle) else {
        return Ok((scenario, report));
    };
    let mut attempts = 0;
    let mut smaller = true;
    while smaller && attempts < ATTEMPTS_MAX {
        smaller = false;
        for candidate in candidates(&scenario) {
            attempts += 1;
            let tried = bench.run(&candidate, bug)?;
            if tried.violations.iter().any(|violation| violation.oracle == oracle) {
                (scenario, report, smaller) = (candidate, tried, true);
                break;
            }
            if attempts >= ATTEMPTS_MAX {
                break;
            }
        }
    }
    Ok((scenario, report))
}

fn candidates(scenario: &Scenario) -> Vec<Scenario> {
    let mut all = Vec::new();
    let with = |change: &dyn Fn(&mut Scenario)| {
        let mut candidate = scenario.clone();
        change(&mut candidate);
        candidate
    };
    if scenario.weather != Weather::default() {
        all.push(with(&|one| one.weather = Weather::default()));
    }
    if scenario.approvals {
        all.push(with(&|one| one.approvals = false));
    }
    if scenario.hosts > 1 {
        all.push(with(&|one| one.hosts -= 1));
    }
    if scenario.engine_lies > 0 {
        all.push(with(&|one| one.engine_lies = 0));
    }
    for number in (0..scenario.actions.len()).rev() {
        all.push(with(&|one| drop(one.actions.remove(number))));
    }
    all
}

/// For people: what was done, and what happened up to the oracle's word.
pub(crate) fn shown(scenario: &Scenario, report: &Report) -> String {
    let mut text = format!(
        "  the smallest scenario that still fails: {} hosts, approvals {}, engine lies {} in 1000, weather {:?}\n",
        scenario.hosts, scenario.approvals, scenario.engine_lies, scenario.weather
    );
    for action in &scenario.actions {
        let _ = writeln!(text, "  {action}");
    }
    text.push_str("  what happened:\n");
    let end = report.trace.iter().position(|line| line.contains("ORACLE")).map_or(report.trace.len(), |at| at + 1);
    for line in &report.trace[end.saturating_sub(TRACE_LINES)..end] {
        let _ = writeln!(text, "  {line}");
    }
    text
}
