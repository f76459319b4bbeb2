//! Runs the executor's own daemon on simulated hosts: bus, engine, database, disks and clocks are simulated, and everything goes wrong in
//! them that can. One seed makes one run, to the byte; oracles judge each run.
//!
//! In reading order: [`scenario`] is what a seed asks for; [`run`] carries it out; [`simulation`] is what all parts share, [`machine`] a host,
//! [`crew`] who acts there, [`server`] the bus, [`database`] what is migrated, [`people`] who promotes; [`oracle`] judges; [`shrink`] makes a
//! failure small.

mod catalogue;
mod chance;
mod clock;
mod crew;
mod database;
mod machine;
mod oracle;
mod people;
mod run;
mod scenario;
mod server;
mod simulation;
mod trace;

use anyhow::Result;
use clap::Parser;

use scenario::Scenario;

/// Simulated deploys under simulated trouble, judged by oracles.
#[derive(Parser)]
struct Cli {
    /// How many deploys (one release on one host) at least
    #[arg(long, default_value_t = 100)]
    deploys: usize,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the trace of every run
    #[arg(long)]
    trace: bool,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .without_time()
            .init();
    }
    let bench = run::Bench::new()?;
    let (mut deploys, mut seed, mut failed) = (0, cli.seed, 0);
    let began = std::time::Instant::now();
    while deploys < cli.deploys {
        let scenario = Scenario::of(seed);
        let report = bench.run(&scenario, None)?;
        deploys += report.deploys;
        if cli.trace {
            println!("{}", report.trace.join("\n"));
        }
        println!(
            "seed {seed}: {} hosts, {} deploys, {} violations, {}",
            scenario.hosts,
            report.deploys,
            report.violations.len(),
            report.digest.short()
        );
        for violation in &report.violations {
            println!("  {}: {}", violation.oracle, violation.what);
            failed += 1;
        }
        seed += 1;
    }
    println!("{deploys} deploys in {:.1} s, {failed} violations", began.elapsed().as_secs_f64());
    Ok(())
}
