//! Thousands of simulated executors on one NATS server: how long a release takes until the last of them has told its outcome, what that
//! costs the server, and how both grow.

mod release;
mod swarm;
mod table;

use anyhow::Result;
use landfall_bus::Bus;
use landfall_tests::lab::Lab;
use landfall_tests::nats::NatsServer;
use landfall_tests::usage::{resident_bytes, resident_peak_bytes};

use release::{Release, Took};
use swarm::Swarm;

const SIZES: [usize; 3] = [100, 1_000, 5_000];

/// What one size came to.
pub(crate) struct Row {
    hosts: usize,
    promotion_bytes: usize,
    roster_bytes: u64,
    idle_bytes: u64,
    peak_bytes: u64,
    one_wave: Took,
    three_waves: Took,
}

/// Measures each of these sizes, or those of the published figures. Returns Markdown.
pub(crate) async fn run(sizes: &[usize]) -> Result<String> {
    let lab = Lab::from_env()?;
    let sizes = if sizes.is_empty() { &SIZES[..] } else { sizes };
    let mut rows = Vec::new();
    for &hosts in sizes {
        rows.push(measure(&lab, hosts).await?);
    }
    Ok(table::scale(&rows))
}

async fn measure(lab: &Lab, hosts: usize) -> Result<Row> {
    let nats = NatsServer::start_monitored(lab).await?;
    let bus: Bus = nats.connect().await?;
    bus.apply().await?;
    eprintln!("{hosts} hosts: starting");
    let swarm = Swarm::start(&nats, &bus, hosts).await?;
    let idle_bytes = resident_bytes(nats.pid()?)?;
    eprintln!("{hosts} hosts: NATS holds {:.0} MB", idle_bytes as f64 / 1e6);
    // The first release warms caches up, as everywhere.
    Release::of(&swarm, 1).one_wave().go(&nats, &bus).await?;
    let first = Release::of(&swarm, 2).one_wave();
    let (promotion_bytes, roster_bytes) = first.bytes()?;
    let one_wave = first.go(&nats, &bus).await?;
    let three_waves = Release::of(&swarm, 3).three_waves().go(&nats, &bus).await?;
    let peak_bytes = resident_peak_bytes(nats.pid()?)?;
    Ok(Row { hosts, promotion_bytes, roster_bytes, idle_bytes, peak_bytes, one_wave, three_waves })
}
