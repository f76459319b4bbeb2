//! Simulated time: one that only goes forward, and the wall clocks that are set by it.

use landfall_schema::Timestamp;
use tokio::time::Instant;

/// When every run begins, in milliseconds of the Unix epoch: 2026-01-01.
const BEGINNING_MS: i64 = 1_767_225_600_000;

/// The right time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    began: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now() }
    }

    pub(crate) fn now(self) -> Timestamp {
        self.wrong_by(0)
    }

    /// A clock that is fast by so many milliseconds, or slow.
    pub(crate) fn wrong_by(self, skew_ms: i64) -> Timestamp {
        let elapsed = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millisecond(BEGINNING_MS + elapsed + skew_ms).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// When that was, in milliseconds since the run began.
    pub(crate) fn ms_of(self, at: Timestamp) -> u64 {
        u64::try_from(at.as_millisecond() - BEGINNING_MS).unwrap_or(0)
    }
}
