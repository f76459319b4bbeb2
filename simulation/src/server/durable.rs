//! The durable consumer of one host: what was delivered and not settled comes again.

use std::collections::BTreeMap;

use landfall_bus::Settlement;
use landfall_schema::layout::ACK_WAIT;
use tokio::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Durable {
    /// Everything up to here was delivered once.
    pub(super) delivered: u64,
    /// When what was not settled comes again.
    pub(super) pending: BTreeMap<u64, Instant>,
    /// Whether it has begun anew, with every message there ever was and not only the newest of each subject.
    pub(super) replays: bool,
}

impl Durable {
    pub(super) fn settle(&mut self, sequence: u64, settlement: Settlement, now: Instant) {
        let wait = match settlement {
            Settlement::Ack | Settlement::Term => {
                self.pending.remove(&sequence);
                return;
            }
            Settlement::Progress => ACK_WAIT,
            Settlement::Later(after) => after,
        };
        if let Some(due) = self.pending.get_mut(&sequence) {
            *due = now + wait;
        }
    }

    pub(super) fn replay(&mut self) {
        *self = Self { replays: true, ..Self::default() };
    }

    pub(super) fn cut_back(&mut self, end: u64) {
        self.delivered = self.delivered.min(end);
        self.pending.retain(|sequence, _| *sequence <= end);
    }
}
