//! What happened, in order. Two runs of one seed have the same trace, byte for byte.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};

use landfall_schema::ids::Digest;
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Trace {
    began: Instant,
    lines: Mutex<Vec<String>>,
}

impl Trace {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), lines: Mutex::default() }
    }

    /// Since the run began, in simulated milliseconds.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn say(&self, who: impl Display, what: impl Display) {
        let line = format!("{:>10.3} s  {who:<9} {what}", self.elapsed_ms() as f64 / 1e3);
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.lines().join("\n").as_bytes())
    }
}
