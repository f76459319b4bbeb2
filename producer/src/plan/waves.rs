//! Hosts into waves. Pure.

use landfall_schema::ids::HostName;
use landfall_schema::promotion::Wave;
use landfall_schema::wave_size::WaveSize;

use crate::error::CliError;

/// Where a wave ends, and what holds for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub size: WaveSize,
    pub bake_ms: Option<u64>,
    pub deadline_ms: Option<u64>,
    /// Nobody said how long it may take, so each batch of hosts has the plan's deadline.
    pub deadline_per_batch: bool,
}

/// # Errors
/// When a wave would not go further than the one before it, or the last one does not take all hosts.
pub fn check(sizes: &[WaveSize]) -> Result<(), CliError> {
    let written = || sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let wrong = |why: String| {
        let hint = "waves count from the first host, for example --waves 1,25%,100%";
        Err(CliError::usage(format!("the waves {} cannot be: {why}", written())).hint(hint))
    };
    for pair in sizes.windows(2) {
        let grows = match (pair[0], pair[1]) {
            (WaveSize::Hosts(one), WaveSize::Hosts(next)) => one < next,
            (WaveSize::Percent(one), WaveSize::Percent(next)) => one < next,
            // Which one goes further depends on how many hosts there are.
            (WaveSize::Hosts(_), WaveSize::Percent(_)) | (WaveSize::Percent(_), WaveSize::Hosts(_)) => {
                pair[0] != WaveSize::ALL
            }
        };
        if !grows {
            return wrong(format!("{} does not go further than {}", pair[1], pair[0]));
        }
    }
    match sizes.last() {
        Some(&WaveSize::ALL) => Ok(()),
        _ => wrong("the last wave must be 100%, or hosts are left over".to_owned()),
    }
}

/// `None` for nothing or one value for all waves, else one for each.
///
/// # Errors
/// When there are neither one nor as many as waves.
pub fn one_each<'a>(option: &str, values: &'a [u64], waves: usize) -> Result<Option<&'a [u64]>, CliError> {
    match values.len() {
        0 | 1 => Ok(None),
        n if n == waves => Ok(Some(values)),
        n => Err(CliError::usage(format!("{option} names {n} times for {waves} waves"))
            .hint(format!("give one time for every wave, or {waves}, one for each"))),
    }
}

/// The hosts by wave; waves that would be empty are left out.
pub fn cut(hosts: &[HostName], cuts: &[Cut], plan_deadline_ms: u64, max_parallel: Option<u32>) -> Vec<Wave> {
    let mut waves = Vec::new();
    let mut begun = 0;
    for cut in cuts {
        let end = cut.size.of(hosts.len());
        if end <= begun {
            continue;
        }
        let hosts = hosts[begun..end].to_vec();
        let batches = max_parallel.map_or(1, |most| (hosts.len() as u64).div_ceil(u64::from(most.max(1))));
        let by_batches = (cut.deadline_per_batch && batches > 1).then(|| plan_deadline_ms.saturating_mul(batches));
        waves.push(Wave { hosts, bake_ms: cut.bake_ms, deadline_ms: cut.deadline_ms.or(by_batches), max_parallel });
        begun = end;
    }
    waves
}

#[cfg(test)]
#[path = "waves/tests.rs"]
mod tests;
