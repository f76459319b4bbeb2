//! How often something is tried again, and how often it is told.

use std::time::Duration;

use tokio::time::Instant;

use crate::world;

/// Trouble that lasts is told again after this time.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Doubling waits between a least and a most; jitter takes away up to half, so that a fleet does not come back at one moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least }
    }

    pub fn reset(&mut self) {
        self.next = self.least;
    }

    pub fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (self.next * 2).min(self.most);
        jittered(wait)
    }
}

/// Between half of the time and all of it.
pub fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.5 + (world::random() % 1024) as f64 / 2048.0)
}

/// Tells lasting trouble once, and then now and again.
#[derive(Debug, Default)]
pub struct Throttle {
    told_at: Option<Instant>,
    untold: u64,
}

impl Throttle {
    /// Whether to tell it now; with how often it happened untold.
    pub fn tell(&mut self) -> Option<u64> {
        if self.told_at.is_some_and(|at| at.elapsed() < TELL_AGAIN_AFTER) {
            self.untold += 1;
            return None;
        }
        self.told_at = Some(Instant::now());
        Some(std::mem::take(&mut self.untold))
    }

    /// Whether there was trouble until now.
    pub fn over(&mut self) -> bool {
        self.untold = 0;
        self.told_at.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_bounds() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for full_ms in [100, 200, 400, 800, 1000, 1000] {
            let wait = backoff.next_wait();
            assert!(wait >= Duration::from_millis(full_ms / 2) && wait <= Duration::from_millis(full_ms), "{wait:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }

    #[test]
    fn trouble_is_told_once() {
        let mut throttle = Throttle::default();
        assert_eq!([throttle.tell(), throttle.tell(), throttle.tell()], [Some(0), None, None]);
        assert!(throttle.over());
        assert!(!throttle.over());
        assert_eq!(throttle.tell(), Some(0));
    }
}
