//! How long is waited for what.

use std::time::Duration;

use tokio::time::Instant;

use crate::rollout::RolloutView;

/// When every host has ended, the rollout's last word is due; after this long its state is looked at, again and again.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);
/// So long after every host has ended its last word is given up.
const WORD_LIMIT: Duration = Duration::from_secs(30);
/// So long after the last word the hosts may say how they ended.
const ENDS_LIMIT: Duration = Duration::from_secs(10);
/// Of hosts that nobody has heard of until the deadline nothing more is expected than this.
const SILENCE_SLACK: Duration = Duration::from_secs(5);

/// What is due when the time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Look at the rollout's state.
    Look,
    /// Stop waiting.
    End,
}

pub(super) struct Patience {
    began_at: Instant,
    looked_at: Option<Instant>,
    /// Since then every host of the plan has ended, and the last word is missing.
    wordless_since: Option<Instant>,
    worded_since: Option<Instant>,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { began_at: Instant::now(), looked_at: None, wordless_since: None, worded_since: None }
    }

    pub(super) fn looked(&mut self) {
        self.looked_at = Some(Instant::now());
    }

    /// What is due next, and when.
    pub(super) fn next(&mut self, view: &RolloutView) -> (Instant, Due) {
        let now = Instant::now();
        let deadline = self.deadline(view);
        if !view.promotion.plan.is_coordinated() {
            return (deadline, Due::End);
        }
        if view.word().is_some() {
            let since = *self.worded_since.get_or_insert(now);
            return (deadline.min(since + ENDS_LIMIT), Due::End);
        }
        if !view.are_hosts_ended() {
            self.wordless_since = None;
            return (deadline, Due::End);
        }
        let since = *self.wordless_since.get_or_insert(now);
        let end = deadline.min(since + WORD_LIMIT);
        let look = self.looked_at.filter(|looked| *looked >= since).unwrap_or(since) + LOOK_INTERVAL;
        if look < end { (look, Due::Look) } else { (end, Due::End) }
    }

    fn deadline(&self, view: &RolloutView) -> Instant {
        let limit = match (view.promotion.plan.is_coordinated(), view.is_anybody_heard()) {
            (false, _) => Duration::from_millis(view.limit_ms()),
            (true, false) => Duration::from_millis(view.limit_ms()) + SILENCE_SLACK,
            (true, true) => Duration::from_millis(view.limit_with_unwinding_ms()),
        };
        // Nobody waits longer than a year, and further than that an instant may not reach.
        self.began_at + limit.min(Duration::from_secs(365 * 24 * 60 * 60))
    }
}
