//! Memory, open files and threads of Landfall's processes over their lives. A process that a fault replaced begins a new life.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use landfall_tests::usage;

pub(crate) const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
/// A life with fewer samples says nothing about growth: the first deploys fill caches and pools.
pub(crate) const SAMPLES_MIN: usize = 36;
/// What the last quarter of a life may have more than the first, by the median. Half an hour is some hundred deploys: 50 KiB that are lost in
/// each of them are found.
pub(crate) const ANONYMOUS_GROWTH_MAX_BYTES: u64 = 4 * 1024 * 1024;
pub(crate) const FILES_GROWTH_MAX: u64 = 4;
pub(crate) const THREADS_GROWTH_MAX: u64 = 4;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) resident: u64,
    pub(crate) anonymous: u64,
    pub(crate) files: u64,
    pub(crate) threads: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) process: String,
    pub(crate) pid: u32,
    pub(crate) samples: Vec<Sample>,
}

/// Which process is which at this moment, and what was seen of each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    running: BTreeMap<String, u32>,
    lives: Vec<Life>,
}

impl Samples {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this process is the one of this name; `None` when there is none.
    pub(crate) fn follow(&self, process: &str, pid: Option<u32>) {
        let mut inner = self.lock();
        inner.running.remove(process);
        if let Some(pid) = pid {
            inner.running.insert(process.to_owned(), pid);
            inner.lives.push(Life { process: process.to_owned(), pid, samples: Vec::new() });
        }
    }

    /// Looks at every process again and again. Never returns.
    pub(crate) async fn take(self) {
        loop {
            tokio::time::sleep(SAMPLE_INTERVAL).await;
            let mut inner = self.lock();
            let running = inner.running.clone();
            for (process, pid) in running {
                // One that was killed a moment ago is not there any more; that it ended by itself is found by another.
                let Ok(sample) = sample(pid) else { continue };
                if let Some(life) = inner.lives.iter_mut().rev().find(|life| life.process == process) {
                    life.samples.push(sample);
                }
            }
        }
    }

    pub(crate) fn lives(&self) -> Vec<Life> {
        self.lock().lives.clone()
    }
}

fn sample(pid: u32) -> Result<Sample> {
    Ok(Sample {
        resident: usage::resident_bytes(pid)?,
        anonymous: usage::anonymous_bytes(pid)?,
        files: usage::open_files(pid)?,
        threads: usage::threads(pid)?,
    })
}

/// The medians of the first and of the last quarter of a life.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Growth {
    pub(crate) first: Sample,
    pub(crate) last: Sample,
}

impl Life {
    pub(crate) fn growth(&self) -> Option<Growth> {
        let quarter = self.samples.len() / 4;
        if quarter == 0 {
            return None;
        }
        let (first, last) = (&self.samples[..quarter], &self.samples[self.samples.len() - quarter..]);
        Some(Growth { first: median(first), last: median(last) })
    }

    /// One line for each sample, its numbers separated by commas.
    pub(crate) fn listed(&self) -> String {
        let line = |Sample { resident, anonymous, files, threads }: &Sample| {
            format!("{},{},{resident},{anonymous},{files},{threads}\n", self.process, self.pid)
        };
        self.samples.iter().map(line).collect()
    }

    /// Whether it lived long enough to be judged.
    pub(crate) fn is_judged(&self) -> bool {
        self.samples.len() >= SAMPLES_MIN
    }

    /// What grew beyond its bound.
    pub(crate) fn grown(&self) -> Vec<String> {
        let Some(Growth { first, last }) = self.growth().filter(|_| self.is_judged()) else { return Vec::new() };
        let measured = [
            ("anonymous memory in bytes", first.anonymous, last.anonymous, ANONYMOUS_GROWTH_MAX_BYTES),
            ("open files", first.files, last.files, FILES_GROWTH_MAX),
            ("threads", first.threads, last.threads, THREADS_GROWTH_MAX),
        ];
        let grown = measured.into_iter().filter(|(_, first, last, most)| *last > first + most);
        grown
            .map(|(what, first, last, most)| {
                format!(
                    "{} (process {}): {what} grew from {first} to {last}, by more than {most}",
                    self.process, self.pid
                )
            })
            .collect()
    }
}

fn median(samples: &[Sample]) -> Sample {
    let of = |pick: fn(&Sample) -> u64| {
        let mut values: Vec<u64> = samples.iter().map(pick).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    Sample {
        resident: of(|sample| sample.resident),
        anonymous: of(|sample| sample.anonymous),
        files: of(|sample| sample.files),
        threads: of(|sample| sample.threads),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A life in which everything grows by so much at each sample.
    fn life(samples: usize, anonymous: u64, files: u64, threads: u64) -> Life {
        let at = |number: usize| {
            let number = number as u64;
            let (anonymous, files, threads) = (anonymous * number, 20 + files * number, 5 + threads * number);
            Sample { resident: 0, anonymous: 8 * 1024 * 1024 + anonymous, files, threads }
        };
        Life { process: "h1".to_owned(), pid: 1, samples: (0..samples).map(at).collect() }
    }

    #[test]
    fn growth_is_found_in_lives_that_are_long_enough() {
        assert!(life(180, 0, 0, 0).grown().is_empty());
        // Half an hour; 70 KiB each ten seconds.
        assert_eq!(life(180, 70 * 1024, 0, 0).grown().len(), 1);
        assert_eq!(life(180, 0, 1, 0).grown().len(), 1);
        assert_eq!(life(180, 0, 0, 1).grown().len(), 1);
        assert!(life(SAMPLES_MIN - 1, 1024 * 1024, 1, 1).grown().is_empty());
    }
}
