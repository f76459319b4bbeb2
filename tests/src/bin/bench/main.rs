//! `make bench`: one host's swap to a new version, three ways in one run, and what the programs weigh. Ratios are what counts, since
//! machines differ. The table goes to stdout as Markdown, narration to stderr.

mod programs;
mod swap;
mod table;

use anyhow::Result;
use landfall_tests::lab::Lab;

/// Counted runs of each way; one more before them is not counted.
const RUNS: usize = 10;

#[tokio::main]
async fn main() -> Result<()> {
    let lab = Lab::from_env()?;
    let mut way = swap::Ways::prepare(lab).await?;
    let mut samples = swap::Samples::default();
    for run in 0..=RUNS {
        eprintln!("run {run} of {RUNS}");
        let took = way.run_all(run).await?;
        // The first run warms caches up.
        if run > 0 {
            samples.push(took);
        }
    }
    let idle = programs::executor_idle(way.executor_pid()?).await?;
    println!("{}", table::swaps(&samples));
    println!("{}", table::programs(&idle, &programs::sizes()?, programs::version_start()?));
    Ok(())
}
