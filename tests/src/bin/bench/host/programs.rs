//! What the programs weigh: memory and CPU of an idle executor, binary sizes, start time.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use landfall_tests::lab::program;
use landfall_tests::usage::{cpu_time, resident_bytes};

use crate::median::median;

/// How long the idle executor is watched.
const IDLE_WINDOW: Duration = Duration::from_secs(30);
const VERSION_RUNS: usize = 10;

pub(crate) struct Idle {
    pub(crate) resident_bytes: u64,
    pub(crate) cpu_percent: f64,
    pub(crate) over: Duration,
}

pub(crate) struct Size {
    pub(crate) program: &'static str,
    pub(crate) bytes: u64,
}

pub(crate) async fn executor_idle(pid: u32) -> Result<Idle> {
    eprintln!("watching the idle executor for {} s", IDLE_WINDOW.as_secs());
    let before = cpu_time(pid)?;
    tokio::time::sleep(IDLE_WINDOW).await;
    let used = cpu_time(pid)? - before;
    let cpu_percent = used.as_secs_f64() / IDLE_WINDOW.as_secs_f64() * 100.0;
    Ok(Idle { resident_bytes: resident_bytes(pid)?, cpu_percent, over: IDLE_WINDOW })
}

pub(crate) fn sizes() -> Result<Vec<Size>> {
    ["landfall", "landfall-executor", "landfall-audit"]
        .into_iter()
        .map(|name| Ok(Size { program: name, bytes: std::fs::metadata(program(name)?)?.len() }))
        .collect()
}

pub(crate) fn version_start() -> Result<Duration> {
    let landfall = program("landfall")?;
    let mut samples = Vec::new();
    for _ in 0..VERSION_RUNS {
        let started = Instant::now();
        let status = Command::new(&landfall).arg("--version").stdout(Stdio::null()).status()?;
        samples.push(started.elapsed());
        ensure!(status.success(), "landfall --version failed");
    }
    Ok(median(&samples))
}
