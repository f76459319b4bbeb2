//! Tests run beside each other on the same machines. One that harms a machine has it alone, for as long as its lease lives.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::fleet::machine::Machine;
use crate::process::POLL_INTERVAL;

/// Every test before this one may take its time.
const LEASE_LIMIT: Duration = Duration::from_secs(900);

/// What a test does with its machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It only deploys, under names of its own, and may cut a host off from its own NATS server.
    Shared,
    /// It stops engines or cuts whole machines off.
    Alone,
}

/// The right to use a machine; given back when dropped, also by a test that was killed.
#[derive(Debug)]
pub struct Lease {
    pub machine: Machine,
    pub kind: Use,
    _lock: File,
}

/// Waits until this many machines are to be had, in the order of those who asked: two tests that each hold what the other wants cannot be.
///
/// # Errors
/// When the fleet has fewer machines, or it takes too long.
pub async fn lease(fleet: &Fleet, count: usize, kind: Use) -> Result<Vec<Lease>> {
    let machines = fleet.machines.len();
    ensure!(
        count <= machines,
        "this test needs {count} hosts, and the fleet has {machines}\n  hint: mark it #[ignore] and run `make test-fleet`"
    );
    let deadline = Instant::now() + LEASE_LIMIT;
    let queue = open(&fleet.folder, "queue")?;
    while !try_lock(&queue, Use::Alone)? {
        wait(deadline).await?;
    }
    let mut leases: Vec<Lease> = Vec::new();
    loop {
        for machine in &fleet.machines {
            let have = leases.iter().any(|lease| lease.machine.name == machine.name);
            if leases.len() < count && !have {
                leases.extend(take(fleet, machine, kind)?);
            }
        }
        if leases.len() == count {
            return Ok(leases);
        }
        wait(deadline).await?;
    }
}

fn take(fleet: &Fleet, machine: &Machine, kind: Use) -> Result<Option<Lease>> {
    let lock = open(&fleet.folder, &machine.name)?;
    if !try_lock(&lock, kind)? {
        return Ok(None);
    }
    if kind == Use::Alone {
        // Whoever had it before may have been killed in the middle.
        machine.restore()?;
    }
    Ok(Some(Lease { machine: machine.clone(), kind, _lock: lock }))
}

fn open(folder: &Path, name: &str) -> Result<File> {
    let path = folder.join("leases").join(name);
    File::options().create(true).append(true).open(&path).with_context(|| path.display().to_string())
}

fn try_lock(file: &File, kind: Use) -> Result<bool> {
    let tried = match kind {
        Use::Shared => file.try_lock_shared(),
        Use::Alone => file.try_lock(),
    };
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

async fn wait(deadline: Instant) -> Result<()> {
    if Instant::now() > deadline {
        bail!("no machines of the fleet were free within {LEASE_LIMIT:?}");
    }
    tokio::time::sleep(POLL_INTERVAL).await;
    Ok(())
}
