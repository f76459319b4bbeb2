//! Runs the executor's own daemon on simulated hosts: bus, engine, database, disks and clocks are simulated, and everything goes wrong in
//! them that can. One seed makes one run, to the byte; oracles judge each run.
//!
//! In reading order: [`scenario`] is what a seed asks for; [`run`] carries it out; [`simulation`] is what all parts share, [`machine`] a host,
//! [`crew`] who acts there, [`server`] the bus, [`database`] what is migrated, [`people`] who promotes; [`oracle`] judges; [`shrink`] makes a
//! failure small; [`campaign`] runs many, [`crashes`] kills at every point, [`mutants`] plants bugs that must be found.

mod campaign;
mod catalogue;
mod chance;
mod clock;
mod crashes;
mod crew;
mod database;
mod machine;
mod mutants;
mod oracle;
mod people;
mod run;
mod scenario;
mod server;
mod shrink;
mod simulation;
mod trace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Simulated deploys under simulated trouble, judged by oracles
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Random runs, one after the other from a first seed
    Run {
        /// How many deploys (one release on one host) at least
        #[arg(long, default_value_t = 10_000)]
        deploys: usize,
        /// The first seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// One run, with its trace
    Replay {
        #[arg(long)]
        seed: u64,
        /// A bug to plant, by name
        #[arg(long)]
        planted: Option<String>,
    },
    /// Kills the executor before and after every write of its journal and every effect, once and twice
    Crashes,
    /// Plants each bug, and tells which oracle found it after how many runs
    Planted {
        /// Runs that a bug may take to be found
        #[arg(long, default_value_t = 3_000)]
        runs: u64,
        /// Only this one
        #[arg(long)]
        only: Option<String>,
    },
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false).init();
    }
    let is_good = match cli.command {
        Command::Run { deploys, seed } => campaign::run(deploys, seed)?,
        Command::Replay { seed, planted } => campaign::replay(seed, planted.as_deref())?,
        Command::Crashes => crashes::run()?,
        Command::Planted { runs, only } => mutants::run(runs, only.as_deref())?,
    };
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
