//! How a release goes through the fleet, as `promote` and `rollback` ask for it: options of the command line over the compose file's.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use landfall_schema::Timestamp;
use landfall_schema::ids::HostName;
use landfall_schema::promotion::{Offline, OnFailure};
use landfall_schema::stack::RolloutSettings;
use landfall_schema::wave_size::WaveSize;

use crate::ci;
use crate::context::process_environment;
use crate::error::CliError;
use crate::output;
use crate::plan::waves::{self, Cut};
use crate::publish::parse_duration;

/// Time for one host, or for one wave of hosts, besides the time to bake.
const DEADLINE_DEFAULT_MS: u64 = 15 * 60 * 1000;
const EXPIRES_DEFAULT: &str = "30d";

/// What `promote` and `rollback` share.
#[derive(Debug, Clone, Default, Args)]
pub struct RolloutArgs {
    /// Only these hosts take it. Default: every host of the environment that takes the application
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub hosts: Vec<HostName>,
    /// Only hosts with this label take it; repeatable: they have all of them
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// Up to which host each wave goes, e.g. 1,25%,100%: the first host, then a quarter of all, then all. The next wave opens when every host
    /// of the last one has committed. Default: `rollout.waves` of the compose file's x-landfall, else all hosts at once
    #[arg(long, value_name = "SIZES", value_delimiter = ',')]
    pub waves: Vec<WaveSize>,
    /// How long the proven release is watched before it is committed: for every wave, or one for each, e.g. 10m,5m,0s. Default: `rollout.bake_ms`,
    /// else `bake_ms` of the compose file's x-landfall, else 0s
    #[arg(long, value_name = "TIMES", value_delimiter = ',', value_parser = parse_duration)]
    pub bake: Vec<u64>,
    /// After this long without an end a host counts as not reached. Default: `rollout.deadline_ms`, else 15m and the time to bake
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub deadline: Option<u64>,
    /// Time for all hosts of a wave to commit: for every wave, or one for each. Default: --deadline
    #[arg(long, value_name = "TIMES", value_delimiter = ',', value_parser = parse_duration)]
    pub wave_deadline: Vec<u64>,
    /// Most hosts of a wave that deploy at the same time. Default: `rollout.max_parallel`, else all of it
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_parallel: Option<u32>,
    /// When it fails on a host: rollback_all (every host that had moved goes back) or hold (nobody moves any further).
    /// Default: `rollout.on_failure`, else rollback_all; of a rollback hold
    #[arg(long, value_name = "POLICY", value_parser = parse_on_failure)]
    pub on_failure: Option<OnFailure>,
    /// When a host is away: skip (it is named as not reached and takes the release when it is back) or block (nothing is promoted).
    /// Default: `rollout.offline`, else skip
    #[arg(long, value_name = "POLICY", value_parser = parse_offline)]
    pub offline: Option<Offline>,
    /// After this long no host starts the deploy any more. It is long, so that a host that was away for a while still takes it when it is
    /// back; a newer promotion replaces it in any case
    #[arg(long, value_name = "TIME", default_value = EXPIRES_DEFAULT, value_parser = parse_duration)]
    pub expires: u64,
    /// Who promotes. Default: what CI or the system says
    #[arg(long, value_name = "NAME")]
    pub author: Option<String>,
    /// Where to look it up. Default: CI's pipeline
    #[arg(long, value_name = "URL")]
    pub link: Option<String>,
    /// Follow every host to its end, and exit by the outcome
    #[arg(long, short)]
    pub wait: bool,
    /// With --wait: stop waiting after this long. Default: when the hosts' own time is over; time for which people hold them up (a halt, missing
    /// approvals, a freeze) does not count
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "wait")]
    pub timeout: Option<u64>,
}

/// To be followed to its end, or for so long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wait {
    pub timeout: Option<Duration>,
}

/// What stands where the command line says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    /// `rollout` of the compose file's x-landfall.
    pub settings: RolloutSettings,
    /// `bake_ms` of the compose file's x-landfall.
    pub bake_ms: Option<u64>,
    pub on_failure: OnFailure,
}

/// All that a plan is made of, besides the hosts that there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub hosts: Vec<HostName>,
    pub labels: BTreeMap<String, String>,
    pub cuts: Vec<Cut>,
    /// Of every wave that has no time of its own.
    pub bake_ms: u64,
    pub deadline_ms: u64,
    pub max_parallel: Option<u32>,
    pub on_failure: OnFailure,
    pub offline: Offline,
}

impl RolloutArgs {
    /// # Errors
    /// When what is asked for cannot be.
    pub fn options(&self, defaults: &Defaults) -> Result<Options, CliError> {
        let settings = &defaults.settings;
        let sizes = if self.waves.is_empty() { settings.waves.clone() } else { self.waves.clone() };
        let sizes = if sizes.is_empty() { vec![WaveSize::ALL] } else { sizes };
        waves::check(&sizes)?;
        let bakes = waves::one_each("--bake", &self.bake, sizes.len())?;
        let deadlines = waves::one_each("--wave-deadline", &self.wave_deadline, sizes.len())?;
        let bake_ms = match bakes {
            Some(_) => 0,
            None => self.bake.first().copied().or(settings.bake_ms).or(defaults.bake_ms).unwrap_or(0),
        };
        let longest_bake_ms = bakes.unwrap_or(&[]).iter().copied().chain([bake_ms]).max().unwrap_or(0);
        let asked_ms = self.deadline.or(settings.deadline_ms);
        let deadline_ms = asked_ms.unwrap_or(DEADLINE_DEFAULT_MS.saturating_add(longest_bake_ms));
        let wave_deadline_ms = |wave: usize| match deadlines {
            Some(each) => Some(each[wave]),
            None => self.wave_deadline.first().copied(),
        };
        let max_parallel = self.max_parallel.or(settings.max_parallel);
        let cuts: Vec<Cut> = sizes
            .into_iter()
            .enumerate()
            .map(|(wave, size)| Cut {
                size,
                bake_ms: bakes.map(|each| each[wave]),
                deadline_ms: wave_deadline_ms(wave),
                // By default each batch of a wave has the whole time.
                deadline_per_batch: asked_ms.is_none(),
            })
            .collect();
        for (number, cut) in cuts.iter().enumerate() {
            let (bake, time) = (cut.bake_ms.unwrap_or(bake_ms), cut.deadline_ms.unwrap_or(deadline_ms));
            if bake >= time {
                let [bake, time] = [bake, time].map(output::duration);
                let wave = number + 1;
                return Err(CliError::usage(format!(
                    "wave {wave} cannot end: it bakes for {bake} and has {time} in all"
                ))
                .hint("give more time with --wave-deadline or --deadline, or bake shorter with --bake"));
            }
        }
        Ok(Options {
            hosts: self.hosts.clone(),
            labels: labels(&self.labels)?,
            cuts,
            bake_ms,
            deadline_ms,
            max_parallel,
            on_failure: self.on_failure.or(settings.on_failure).unwrap_or(defaults.on_failure),
            offline: self.offline.or(settings.offline).unwrap_or_default(),
        })
    }

    /// `None` when nobody waits.
    pub fn wait(&self) -> Option<Wait> {
        self.wait.then(|| Wait { timeout: self.timeout.map(Duration::from_millis) })
    }

    pub fn author(&self) -> String {
        self.author.clone().unwrap_or_else(|| ci::author(&process_environment))
    }

    pub fn link(&self) -> Option<String> {
        self.link.clone().or_else(|| ci::link(&process_environment))
    }

    /// # Errors
    /// When `--expires` leaves the calendar.
    pub fn expires_at(&self) -> Result<Timestamp, CliError> {
        after("--expires", self.expires)
    }
}

/// So many milliseconds from now.
///
/// # Errors
/// When that leaves the calendar.
pub fn after(option: &str, milliseconds: u64) -> Result<Timestamp, CliError> {
    Timestamp::now().checked_add(Duration::from_millis(milliseconds)).map_err(|error| {
        CliError::usage(format!("{option} is too far away")).because(&error).hint("name a shorter time, e.g. 30d")
    })
}

/// One value per key; two different ones match no host.
pub fn labels(pairs: &[(String, String)]) -> Result<BTreeMap<String, String>, CliError> {
    let mut labels = BTreeMap::new();
    for (key, value) in pairs {
        match labels.insert(key.clone(), value.clone()) {
            Some(other) if other != *value => {
                return Err(CliError::usage(format!("no host has both {key}={other} and {key}={value}"))
                    .hint("a host has one value per label; name one, or the hosts themselves with --hosts"));
            }
            _ => {}
        }
    }
    Ok(labels)
}

/// `role=web`.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE, e.g. role=web")),
    }
}

fn parse_on_failure(text: &str) -> Result<OnFailure, String> {
    match text.replace('-', "_").as_str() {
        "rollback_all" => Ok(OnFailure::RollbackAll),
        "hold" => Ok(OnFailure::Hold),
        _ => Err(format!("{text:?} is neither rollback_all nor hold")),
    }
}

fn parse_offline(text: &str) -> Result<Offline, String> {
    match text {
        "skip" => Ok(Offline::Skip),
        "block" => Ok(Offline::Block),
        _ => Err(format!("{text:?} is neither skip nor block")),
    }
}

#[cfg(test)]
#[path = "rollout_args/tests.rs"]
mod tests;
