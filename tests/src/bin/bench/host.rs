//! One host's swap to a new version, three ways in one run, and what the programs weigh.

mod programs;
pub(crate) mod swap;
mod table;

use anyhow::Result;
use landfall_tests::lab::Lab;

/// `runs` are counted of each way; one more before them is not. Returns Markdown.
pub(crate) async fn run(runs: usize) -> Result<String> {
    let lab = Lab::from_env()?;
    let mut way = swap::Ways::prepare(lab).await?;
    let mut samples = swap::Samples::default();
    for run in 0..=runs {
        eprintln!("run {run} of {runs}");
        let took = way.run_all(run).await?;
        // The first run warms caches up.
        if run > 0 {
            samples.push(took);
        }
    }
    let idle = programs::executor_idle(way.executor_pid()?).await?;
    let sizes = programs::sizes()?;
    Ok(format!("{}\n{}", table::swaps(&samples), table::programs(&idle, &sizes, programs::version_start()?)))
}
