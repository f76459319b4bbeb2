//! Every choice of a run, from its seed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Chance as the seed has it: the same questions in the same order get the same answers.
#[derive(Debug)]
pub(crate) struct Chance(Mutex<fastrand::Rng>);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(fastrand::Rng::with_seed(seed)))
    }

    fn with<T>(&self, ask: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        ask(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn any(&self) -> u64 {
        self.with(|rng| rng.u64(..))
    }

    /// Less than `end`, which is not 0.
    pub(crate) fn below(&self, end: u64) -> u64 {
        self.with(|rng| rng.u64(..end.max(1)))
    }

    pub(crate) fn between(&self, least: u64, most: u64) -> u64 {
        self.with(|rng| rng.u64(least..=most.max(least)))
    }

    /// In so many of a thousand.
    pub(crate) fn happens(&self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }

    pub(crate) fn millis(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.between(least, most))
    }
}
