//! Kills the executor at every point there is: before and after each write of its journal and each effect, at each passing, once, and once
//! more while it recovers.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};
use landfall_executor::world::Step;

use crate::campaign::on_every_core;
use crate::catalogue::Quality;
use crate::machine::Ambush;
use crate::run::{AMBUSHED, Bench};
use crate::scenario::{Action, EFFECTS, Forgery, MigrationKind, Promote, Scenario, WRITES, What};
use crate::server::Weather;

/// The former release is promoted at once, the one that is watched after this time.
const SECOND_AT_MS: u64 = 60_000;
/// In the middle of it, while it tells how far it is.
const POWER_CUT_AFTER_MS: u64 = 1_500;

/// A way through a deploy.
struct Path {
    name: &'static str,
    hosts: usize,
    release: Promote,
    approvals: bool,
    then: Then,
}

/// What people do after the release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    RollBack,
    /// Two more come before it has ended: the first of them never begins.
    Overtake,
    /// Somebody else's promotion comes.
    Forge,
    /// The server loses its power, and what it was told last.
    PowerCut,
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
    let alone = |name, release| Path { name, hosts: 1, release, approvals: false, then: Then::Nothing };
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
        Path { then: Then::RollBack, ..alone("signed rollback", good.clone()) },
        Path { then: Then::Overtake, ..alone("overtaken", Promote { slow: true, ..good.clone() }) },
        Path { then: Then::Forge, ..alone("a stranger's promotion", good.clone()) },
        Path { then: Then::PowerCut, ..alone("power cut of the bus", good.clone()) },
        Path { approvals: true, ..alone("approved", good.clone()) },
        Path { hosts: 2, ..alone("waves, success", fleet(good.clone())) },
        Path { hosts: 2, ..alone("waves, all go back", fleet(with(Quality::DiesWhileBaking, None))) },
        Path {
            hosts: 2,
            ..alone("waves, held", Promote { hold: true, ..fleet(with(Quality::FailsItsSmokeTest, None)) })
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
        if self.approvals {
            actions.push(act(SECOND_AT_MS - 50, What::Rule));
        }
        actions.push(act(SECOND_AT_MS, What::Promote(self.release.clone())));
        match self.then {
            Then::Nothing => {}
            Then::Forge => actions.push(act(SECOND_AT_MS + 100, What::Forge(Forgery::Promotion))),
            Then::PowerCut => {
                let what = What::ServerStops { for_ms: 1_000, power_cut: true };
                actions.push(act(SECOND_AT_MS + POWER_CUT_AFTER_MS, what));
            }
            Then::RollBack => actions.push(act(SECOND_AT_MS * 2, What::RollBack)),
            Then::Overtake => {
                // While its migration is at work, which nothing breaks off.
                for later_ms in [3_000, 3_500] {
                    let later = Promote { slow: false, ..self.release.clone() };
                    actions.push(act(SECOND_AT_MS + later_ms, What::Promote(later)));
                }
            }
        }
        // Something to wait for, so that the run does not end before the deploy.
        actions.push(act(SECOND_AT_MS * 3, What::Say(landfall_schema::halt::HaltCommand::Resume)));
        let Self { hosts, approvals, .. } = *self;
        Scenario { seed: 1, hosts, weather: Weather::default(), approvals, engine_lies: 0, actions }
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
    let mut reached = BTreeSet::new();
    for (number, path) in paths.iter().enumerate() {
        // The first run only counts how often each step is passed.
        let calm = bench.run(&path.scenario(&[]), None)?;
        ensure!(calm.violations.is_empty(), "{}: {:?}", path.name, calm.violations);
        for host in 0..path.hosts {
            for (step, times) in calm.steps.get(host).cloned().unwrap_or_default() {
                reached.insert(step);
                for nth in 1..=times {
                    tallies[number].points += 1;
                    let is_torn = matches!(step, Step::AfterWrite(_));
                    let once = Ambush { step, nth, is_torn: false };
                    cases.push((number, vec![(host, once.clone())]));
                    if is_torn {
                        cases.push((number, vec![(host, Ambush { is_torn: true, ..once.clone() })]));
                    }
                    // Again at the first passing of the same step after the restart, and at the next step that is written down.
                    let again = Ambush { step, nth: 1, is_torn: false };
                    cases.push((number, vec![(host, once.clone()), (host, again)]));
                    let next_write = Ambush { step: Step::AfterWrite("record"), nth: 1, is_torn: false };
                    cases.push((number, vec![(host, once), (host, next_write)]));
                }
            }
        }
    }
    let steps = WRITES.map(Step::AfterWrite).into_iter().chain(EFFECTS.map(Step::AfterEffect));
    let missed: Vec<String> = steps.filter(|step| !reached.contains(step)).map(|step| format!("{step:?}")).collect();
    ensure!(missed.is_empty(), "on none of the paths: {}", missed.join(", "));
    eprintln!("{} cases", cases.len());
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
