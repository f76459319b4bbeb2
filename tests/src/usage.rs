//! What a process takes of the machine, from /proc.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// Processor time that it has used, in its own code and in the kernel: fields 14 and 15 of /proc/PID/stat (proc_pid_stat(5)).
///
/// # Errors
/// When the process is gone.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(") ").context("an unreadable stat")?.1;
    let fields: Vec<&str> = after_name.split(' ').collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    let ticks_per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok(Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64))
}

/// What it holds in memory at this moment.
///
/// # Errors
/// As [`cpu_time`].
pub fn resident_bytes(pid: u32) -> Result<u64> {
    kilobytes(pid, "VmRSS:")
}

/// The most that it ever held in memory.
///
/// # Errors
/// As [`cpu_time`].
pub fn resident_peak_bytes(pid: u32) -> Result<u64> {
    kilobytes(pid, "VmHWM:")
}

/// What it holds in memory at this moment that is no file's content: its heap, its stacks and the like.
///
/// # Errors
/// As [`cpu_time`].
pub fn anonymous_bytes(pid: u32) -> Result<u64> {
    kilobytes(pid, "RssAnon:")
}

/// # Errors
/// As [`cpu_time`].
pub fn open_files(pid: u32) -> Result<u64> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64)
}

/// # Errors
/// As [`cpu_time`].
pub fn threads(pid: u32) -> Result<u64> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/task"))?.count() as u64)
}

fn kilobytes(pid: u32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}
