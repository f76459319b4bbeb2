//! Many runs, on every core.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::mutants;
use crate::run::{Bench, Report};
use crate::scenario::Scenario;
use crate::shrink::{shown, shrink};

/// Failing seeds that are looked into; more of them say nothing new.
const FAILURES_MAX: usize = 5;

/// A run waits a part of its time for the threads of its disks.
const THREADS_PER_CORE: usize = 3;

/// Seeds that are run twice first, to see that they make the same runs.
const REPEATED: u64 = 3;

/// What all runs came to.
#[derive(Default)]
struct Sum {
    runs: u64,
    deploys: usize,
    fired: BTreeMap<&'static str, u64>,
    failed: BTreeMap<u64, Report>,
}

/// At least so many deploys, beginning with a seed. Whether no oracle had anything to say.
pub(crate) fn run(deploys: usize, first: u64) -> Result<bool> {
    let began = Instant::now();
    is_the_same_again(first)?;
    let (next, done) = (AtomicU64::new(first), AtomicUsize::new(0));
    let sum = Mutex::new(Sum::default());
    on_every_core(|bench| {
        while done.load(Ordering::Relaxed) < deploys {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let report = bench.run(&Scenario::of(seed), None).with_context(|| format!("seed {seed}"))?;
            done.fetch_add(report.deploys, Ordering::Relaxed);
            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
            sum.runs += 1;
            sum.deploys += report.deploys;
            for (what, times) in &report.fired {
                *sum.fired.entry(what).or_default() += times;
            }
            if !report.violations.is_empty() {
                sum.failed.insert(seed, report);
                if sum.failed.len() >= FAILURES_MAX {
                    done.store(deploys, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    })?;
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let faults: Vec<String> = sum.fired.iter().map(|(what, times)| format!("{what} {times}")).collect();
    println!(
        "simulate: {} deploys in {} runs, seeds from {first}, in {:.0} s",
        sum.deploys,
        sum.runs,
        began.elapsed().as_secs_f64()
    );
    println!("faults: {}", faults.join(", "));
    println!("oracles that said no: {}", sum.failed.len());
    if let Some((seed, report)) = sum.failed.first_key_value() {
        explain(*seed, report)?;
        for (seed, report) in sum.failed.iter().skip(1) {
            println!("seed {seed} too: {}", violations(report));
        }
    }
    Ok(sum.failed.is_empty())
}

/// The same seed makes the same run, to the byte.
fn is_the_same_again(first: u64) -> Result<()> {
    let bench = Bench::new()?;
    for seed in first..first + REPEATED {
        let scenario = Scenario::of(seed);
        let (once, again) = (bench.run(&scenario, None)?, bench.run(&scenario, None)?);
        if let Some((at, (one, other))) =
            once.trace.iter().zip(&again.trace).enumerate().find(|(_, (one, other))| one != other)
        {
            bail!("seed {seed} made two runs; at line {at}:\n{one}\n{other}");
        }
        ensure!(once.digest == again.digest, "seed {seed} made two runs, and one is longer");
    }
    Ok(())
}

/// The seed, the oracle, and the shortest scenario that still fails.
fn explain(seed: u64, report: &Report) -> Result<()> {
    println!("\nerror: seed {seed}: {}", violations(report));
    let bench = Bench::new()?;
    let (scenario, report) = shrink(&bench, Scenario::of(seed), report.clone(), None)?;
    print!("{}", shown(&scenario, &report));
    println!("  hint: cargo run -p landfall-simulation -- replay --seed {seed}");
    Ok(())
}

fn violations(report: &Report) -> String {
    let said: Vec<String> = report.violations.iter().map(|one| format!("{}: {}", one.oracle, one.what)).collect();
    said.join("; ")
}

pub(crate) fn replay(seed: u64, planted: Option<&str>) -> Result<bool> {
    let bug = planted.map(mutants::named).transpose()?;
    let report = Bench::new()?.run(&Scenario::of(seed), bug)?;
    println!("{}", report.trace.join("\n"));
    println!("seed {seed}: {} deploys, trace {}", report.deploys, report.digest);
    for violation in &report.violations {
        println!("error: {}: {}", violation.oracle, violation.what);
    }
    Ok(report.violations.is_empty())
}

/// Does the same on each core, until one of them fails.
pub(crate) fn on_every_core(work: impl Fn(&Bench) -> Result<()> + Sync) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let at_work: Vec<_> = (0..cores * THREADS_PER_CORE).map(|_| scope.spawn(|| work(&Bench::new()?))).collect();
        at_work.into_iter().try_for_each(|one| match one.join() {
            Ok(done) => done,
            Err(defect) => std::panic::resume_unwind(defect),
        })
    })
}
