//! What the programs weigh: memory and CPU of an idle executor, binary sizes, start time.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use landfall_tests::lab::program;

use crate::table::median;

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
    let before = cpu_ticks(pid)?;
    tokio::time::sleep(IDLE_WINDOW).await;
    let ticks = cpu_ticks(pid)? - before;
    let ticks_per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock tick")?;
    let cpu_percent = ticks as f64 / ticks_per_second as f64 / IDLE_WINDOW.as_secs_f64() * 100.0;
    Ok(Idle { resident_bytes: resident_bytes(pid)?, cpu_percent, over: IDLE_WINDOW })
}

/// User and system time, fields 14 and 15 of /proc/PID/stat (proc_pid_stat(5)).
fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(") ").context("an unreadable stat")?.1;
    let fields: Vec<&str> = after_name.split(' ').collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
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
