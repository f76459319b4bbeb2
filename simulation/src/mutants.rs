//! Bugs that are planted into Landfall's own code, one at a time. The oracles must find every one of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

use crate::campaign::on_every_core;
use crate::scenario::Scenario;

struct Mutant {
    name: &'static str,
    what: &'static str,
}

const MUTANTS: [Mutant; 26] = [
    Mutant {
        name: "ack_before_journal",
        what: "a message is acknowledged before it is in the journal (and nothing sweeps)",
    },
    Mutant { name: "persist_before_verify", what: "a promotion is taken before its signature is verified" },
    Mutant { name: "skip_the_fence", what: "a runner of migrations asks neither lock nor fence" },
    Mutant { name: "wall_clock_deadline", what: "a step's deadline is kept by the wall clock" },
    Mutant { name: "trust_a_read", what: "what was read of a bucket is written over without compare-and-set" },
    Mutant { name: "count_a_key_twice", what: "two signatures of one key count as two approvals" },
    Mutant { name: "retry_blindly", what: "a migration of which nobody knows how it ended is run again" },
    Mutant { name: "success_from_exit_code", what: "what runs is not compared with what was promised" },
    Mutant { name: "ignore_the_counter", what: "an older promotion is taken after a newer one" },
    Mutant { name: "mark_before_publish", what: "an event counts as published before it is" },
    Mutant {
        name: "skip_what_fails",
        what: "an event that the bus did not take is passed over, and not looked for later",
    },
    Mutant { name: "compare_never", what: "what a bus has lost is not looked for when it is back" },
    Mutant { name: "outcome_apart", what: "a step and its outcomes are two writes" },
    Mutant { name: "state_not_done", what: "that a deploy has ended is not written with its last step" },
    Mutant { name: "commit_unwritten", what: "what a host goes back to is not written down" },
    Mutant { name: "skip_the_effect_on_resume", what: "after a restart the migration under way counts as done" },
    Mutant { name: "superseded_too_late", what: "a newer promotion ends a deploy after the swap" },
    Mutant { name: "restore_unproven", what: "a rollback is not proven" },
    Mutant { name: "stuck_is_rolled_back", what: "a failed rollback is told as a good one" },
    Mutant { name: "success_before_commit", what: "a host that has begun counts as through" },
    Mutant { name: "rolled_back_unseen", what: "the last word does not wait for hosts that go back" },
    Mutant { name: "keep_after_failure", what: "a committed host stays when the rollout has failed" },
    Mutant { name: "admit_early", what: "a wave does not wait for the one before" },
    Mutant { name: "believe_any_host", what: "outcomes are believed whoever signed them" },
    Mutant { name: "forget_the_rules", what: "what a bus has lost of the environment's rules does not hold any more" },
    Mutant { name: "believe_any_state", what: "a rollout's state is believed whoever signed it" },
];

pub(crate) fn named(name: &str) -> Result<&'static str> {
    let found = MUTANTS.iter().find(|mutant| mutant.name == name);
    found.map(|mutant| mutant.name).with_context(|| format!("no bug is called {name}"))
}

/// A table of what was found; whether all of it was.
pub(crate) fn run(runs: u64, only: Option<&str>) -> Result<bool> {
    let mutants: Vec<&Mutant> = MUTANTS.iter().filter(|mutant| only.is_none_or(|only| only == mutant.name)).collect();
    let next = AtomicU64::new(0);
    let found: Mutex<Vec<Option<(u64, &'static str)>>> = Mutex::new(vec![None; mutants.len()]);
    on_every_core(|bench| {
        loop {
            let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed))?;
            let Some(mutant) = mutants.get(at) else { return Ok(()) };
            eprintln!("planting {}", mutant.name);
            for seed in 1..=runs {
                let scenario = Scenario::of(seed);
                let report = bench.run(&scenario, Some(mutant.name))?;
                if let Some(violation) = report.violations.first() {
                    let without = bench.run(&scenario, None)?;
                    ensure!(
                        without.violations.is_empty(),
                        "seed {seed} fails without a planted bug: {:?}",
                        without.violations
                    );
                    eprintln!("{}: found by {:?} after {seed} runs", mutant.name, violation.oracle);
                    found.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some((seed, violation.oracle));
                    break;
                }
            }
        }
    })?;
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("| planted bug | what it is | found by | after runs |\n|---|---|---|---|");
    for (mutant, found) in mutants.iter().zip(&found) {
        let (oracle, after) = match found {
            Some((seed, oracle)) => (*oracle, seed.to_string()),
            None => ("**nobody**", format!("none in {runs}")),
        };
        println!("| `{}` | {} | {oracle} | {after} |", mutant.name, mutant.what);
    }
    let missed = found.iter().filter(|found| found.is_none()).count();
    println!("\nplanted bugs found: {} of {}", mutants.len() - missed, mutants.len());
    Ok(missed == 0)
}
