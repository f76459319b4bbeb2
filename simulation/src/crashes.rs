//! Kills the executor at every point there is: before and after each write of its journal and each effect, at each passing, once, and once
//! more while it recovers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};
use landfall_executor::world::Step;

use crate::campaign::on_every_core;
use crate::catalogue::Quality;
use crate::machine::Ambush;
use crate::run::{AMBUSHED, Bench};
use crate::scenario::{Action, MigrationKind, Promote, Scenario, What};
use crate::server::Weather;

/// The former release is promoted at once, the one that is watched after this time.
const SECOND_AT_MS: u64 = 60_000;

/// A way through a deploy.
struct Path {
    name: &'static str,
    hosts: usize,
    release: Promote,
    then_roll_back: bool,
}

fn paths() -> Vec<Path> {
    let good = Promote {
        quality: Quality::Good,
        slow: false,
        migration: Some(MigrationKind::InTransaction),
        waves: Vec::new(),
        coordinated: false,
        hold: false,
        max_parallel: None,
        only: None,
    };
    let with = |quality, migration| Promote { quality, migration, ..good.clone() };
    let alone = |name, release| Path { name, hosts: 1, release, then_roll_back: false };
    let fleet = |release: Promote| Promote { coordinated: true, waves: vec![1], ..release };
    vec![
        alone("success, migration in a transaction", good.clone()),
        alone("success, migration without a transaction", with(Quality::Good, Some(MigrationKind::WithoutTransaction))),
        alone("success, no migration", with(Quality::Good, None)),
        alone("failed pull", with(Quality::CannotBePulled, None)),
        alone("failed migration", with(Quality::Good, Some(MigrationKind::Failing))),
        alone("rollback, never ready", with(Quality::NeverBecomesReady, None)),
        alone("rollback, smoke test", with(Quality::FailsItsSmokeTest, None)),
        alone("rollback, bake", with(Quality::DiesWhileBaking, None)),
        Path { then_roll_back: true, ..alone("signed rollback", good.clone()) },
        Path { name: "waves, success", hosts: 2, release: fleet(good.clone()), then_roll_back: false },
        Path {
            name: "waves, all go back",
            hosts: 2,
            release: fleet(with(Quality::DiesWhileBaking, None)),
            then_roll_back: false,
        },
        Path {
            name: "waves, held",
            hosts: 2,
            release: Promote { hold: true, ..fleet(with(Quality::FailsItsSmokeTest, None)) },
            then_roll_back: false,
        },
    ]
}

impl Path {
    fn scenario(&self, ambushes: &[(usize, Ambush)]) -> Scenario {
        let former = Promote {
            quality: Quality::Good,
            slow: false,
            migration: None,
            waves: Vec::new(),
            coordinated: self.release.coordinated,
            hold: false,
            max_parallel: None,
            only: None,
        };
        let act = |at_ms, what| Action { at_ms, what };
        let mut actions = vec![act(500, What::Promote(former)), act(SECOND_AT_MS - 200, What::Count)];
        for (host, ambush) in ambushes {
            actions.push(act(SECOND_AT_MS - 100, What::Ambush { host: *host, ambush: ambush.clone() }));
        }
        actions.push(act(SECOND_AT_MS, What::Promote(self.release.clone())));
        if self.then_roll_back {
            actions.push(act(SECOND_AT_MS * 2, What::RollBack));
        }
        // Something to wait for, so that the run does not end before the deploy.
        actions.push(act(SECOND_AT_MS * 3, What::Say(landfall_schema::halt::HaltCommand::Resume)));
        Scenario { seed: 1, hosts: self.hosts, weather: Weather::default(), approvals: false, engine_lies: 0, actions }
    }
}

/// Counts for one path.
#[derive(Debug, Default, Clone)]
struct Tally {
    points: usize,
    injected: usize,
    survived: usize,
    failures: Vec<String>,
}

/// A table by path; whether everything was survived.
pub(crate) fn run() -> Result<bool> {
    let bench = Bench::new()?;
    let paths = paths();
    let mut cases: Vec<(usize, Vec<(usize, Ambush)>)> = Vec::new();
    let mut tallies = vec![Tally::default(); paths.len()];
    for (number, path) in paths.iter().enumerate() {
        // The first run only counts how often each step is passed.
        let calm = bench.run(&path.scenario(&[]), None)?;
        ensure!(calm.violations.is_empty(), "{}: {:?}", path.name, calm.violations);
        for host in 0..path.hosts {
            for (step, times) in calm.steps.get(host).cloned().unwrap_or_default() {
                for nth in 1..=times {
                    tallies[number].points += 1;
                    let is_torn = matches!(step, Step::AfterWrite(_));
                    let once = Ambush { step, nth, is_torn: false };
                    cases.push((number, vec![(host, once.clone())]));
                    if is_torn {
                        cases.push((number, vec![(host, Ambush { is_torn: true, ..once.clone() })]));
                    }
                    // Again at the first passing of the same step after the restart, and at the next write there is.
                    let again = Ambush { step, nth: 1, is_torn: false };
                    cases.push((number, vec![(host, once.clone()), (host, again)]));
                    let next_write = Ambush { step: Step::AfterWrite("record"), nth: 1, is_torn: false };
                    cases.push((number, vec![(host, once), (host, next_write)]));
                }
            }
        }
    }
    let next = AtomicUsize::new(0);
    let tallies = Mutex::new(tallies);
    on_every_core(|bench| {
        loop {
            let Some((number, ambushes)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) else { return Ok(()) };
            let report = bench.run(&paths[*number].scenario(ambushes), None)?;
            let killed = report.fired.get(AMBUSHED).copied().unwrap_or(0);
            let mut tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner);
            let tally = &mut tallies[*number];
            // A second one that was never reached is no second crash, but the first one was.
            if killed == 0 {
                tally.failures.push(format!("{ambushes:?} never happened"));
                continue;
            }
            tally.injected += usize::try_from(killed)?;
            if report.violations.is_empty() {
                tally.survived += usize::try_from(killed)?;
            } else {
                tally.failures.push(format!("{ambushes:?}: {:?}", report.violations));
            }
        }
    })?;
    let tallies = tallies.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("| path | points | crashes | survived |\n|---|---|---|---|");
    let mut sum = Tally::default();
    for (path, tally) in paths.iter().zip(&tallies) {
        println!("| {} | {} | {} | {} |", path.name, tally.points, tally.injected, tally.survived);
        sum.points += tally.points;
        sum.injected += tally.injected;
        sum.survived += tally.survived;
        sum.failures.extend(tally.failures.iter().map(|failure| format!("{}: {failure}", path.name)));
    }
    println!("| all | {} | {} | {} |", sum.points, sum.injected, sum.survived);
    for failure in &sum.failures {
        println!("error: {failure}");
    }
    Ok(sum.failures.is_empty())
}
