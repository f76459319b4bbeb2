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

/// While people hold it up they are asked for this often.
const HELD_INTERVAL: Duration = Duration::from_secs(10);
/// Nobody waits longer than a year, and further than that an instant may not reach.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What is due when the time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Look at the rollout's state.
    Look,
    /// Stop waiting.
    End,
}

pub(super) struct Patience {
    /// When the hosts' own time began.
    began_at: Instant,
    /// Longest that anybody wants to wait, whatever holds it up.
    given_up_at: Instant,
    /// People hold it up; then it is looked again whether they still do.
    held_until: Option<Instant>,
    looked_at: Option<Instant>,
    /// Since then every host of the plan has ended, and the last word is missing.
    wordless_since: Option<Instant>,
    worded_since: Option<Instant>,
}

impl Patience {
    /// `timeout` is what the command line gives.
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        let began_at = Instant::now();
        Self {
            began_at,
            given_up_at: began_at + timeout.unwrap_or(LONGEST).min(LONGEST),
            held_until: None,
            looked_at: None,
            wordless_since: None,
            worded_since: None,
        }
    }

    /// People hold it up: their time is not the hosts' time.
    pub(super) fn hold(&mut self) {
        self.held_until = Some(Instant::now() + HELD_INTERVAL);
    }

    /// Nobody holds it up. Returns whether somebody did: then the hosts have all of their time again, as they reckon it themselves.
    pub(super) fn release(&mut self) -> bool {
        let was_held = self.held_until.take().is_some();
        if was_held {
            self.began_at = Instant::now();
        }
        was_held
    }

    /// Whether nobody wants to wait any longer.
    pub(super) fn is_given_up(&self) -> bool {
        Instant::now() >= self.given_up_at
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
        self.held_until.unwrap_or_else(|| self.began_at + limit.min(LONGEST)).min(self.given_up_at)
    }
}
