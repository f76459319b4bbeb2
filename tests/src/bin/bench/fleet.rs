//! One release on several real Docker hosts, three ways in one run on the same machines; and how long it takes to stop and to take back a
//! release that is broken.

mod back;
mod ssh;
mod table;
mod ways;

use anyhow::Result;
use landfall_tests::fleet::lease::Use;
use landfall_tests::fleet::scenario::FleetScenario;

use ways::{Samples, Ways};

const SIZES: [usize; 4] = [1, 2, 4, 8];
const RUNS: usize = 7;

/// `runs` are counted of each way on each number of hosts; one more before them is not. Returns Markdown.
pub(crate) async fn run(numbers: &[usize]) -> Result<String> {
    let (runs, sizes) = match numbers {
        [] => (RUNS, &SIZES[..]),
        [runs] => (*runs, &SIZES[..]),
        [runs, sizes @ ..] => (*runs, sizes),
    };
    let mut samples = Vec::new();
    for &hosts in sizes {
        samples.push(measure(hosts, runs).await?);
    }
    let most = sizes.iter().copied().max().unwrap_or_default();
    let mut page = table::ways(&samples);
    if most > 1 {
        page.push_str(&table::back(&back::measure(most, runs).await?));
    }
    Ok(page)
}

async fn measure(hosts: usize, runs: usize) -> Result<Samples> {
    let mut ways = Ways::prepare(FleetScenario::start(hosts, Use::Shared).await?).await?;
    let mut samples = Samples::of(hosts);
    for run in 0..=runs {
        eprintln!("{hosts} hosts: run {run} of {runs}");
        let took = ways.run_all(run).await?;
        eprintln!("  {took}");
        // The first run warms caches up.
        if run > 0 {
            samples.push(took);
        }
    }
    Ok(samples)
}
