//! Many hosts in one process, for `make bench-scale`: the executor's own parts (connection, intake, journal, machine, fleet, outbox,
//! presence) for each of them, and an engine that is simulated: it answers at once, and everything that it is asked for has been done.
//!
//! `simulated-hosts BUS ENV APP TRUSTED_KEY FOLDER FIRST COUNT` runs until it is killed; with its parent it ends too.

mod engine;
mod host;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use landfall_schema::ids::HostName;
use landfall_schema::signature::PublicKey;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use host::Setup;

fn main() -> Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // Another provider can only be there when this one was installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<()> {
    let (setup, first, count) = arguments()?;
    let setup = Arc::new(setup);
    let mut running = JoinSet::new();
    for number in first..first + count {
        let (name, setup) = (HostName::new(format!("h{number}"))?, Arc::clone(&setup));
        running.spawn(async move { host::run(name, &setup).await });
    }
    let ended = running.join_next().await.context("no host was asked for")?;
    ended?
}

fn arguments() -> Result<(Setup, usize, usize)> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [bus_url, env, app, trusted, folder, first, count] = words.as_slice() else {
        anyhow::bail!("seven arguments are needed: BUS ENV APP TRUSTED_KEY FOLDER FIRST COUNT");
    };
    let setup = Setup {
        bus_url: bus_url.clone(),
        env: env.parse().context("ENV")?,
        app: app.parse().context("APP")?,
        trusted: PublicKey::new(trusted.as_str()).context("TRUSTED_KEY")?,
        folder: PathBuf::from(folder),
    };
    Ok((setup, first.parse().context("FIRST")?, count.parse().context("COUNT")?))
}
