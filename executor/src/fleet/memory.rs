//! What was last made out about each of the rollouts under way.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use landfall_bus::Delivered;
use landfall_schema::ids::EventId;

use crate::intake::MessageId;

/// The message up to which something was read. Its number alone is not enough: a server that lost its power may give it out again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AsOf {
    sequence: u64,
    message: MessageId,
}

impl AsOf {
    pub(crate) fn of(last: &Delivered) -> Self {
        Self { sequence: last.sequence, message: MessageId::of(last) }
    }
}

/// Rollouts that are remembered; more are never under way on one host.
const KEPT: usize = 16;

#[derive(Debug)]
pub(super) struct Memory<T>(Mutex<VecDeque<(EventId, T)>>);

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Memory<T> {
    /// Of the rollout of this promotion.
    pub(super) fn of(&self, id: EventId) -> Option<T> {
        self.all().iter().find(|(known, _)| *known == id).map(|(_, value)| value.clone())
    }

    pub(super) fn keep(&self, id: EventId, value: T) {
        let mut all = self.all();
        all.retain(|(known, _)| *known != id);
        all.push_front((id, value));
        all.truncate(KEPT);
    }

    fn all(&self) -> MutexGuard<'_, VecDeque<(EventId, T)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn so_many_rollouts_are_remembered() {
        let memory = Memory::default();
        let id = |n: usize| EventId(Uuid::from_u128(n as u128));
        (0..KEPT).for_each(|n| memory.keep(id(n), n));
        assert_eq!(memory.of(id(0)), Some(0));
        memory.keep(id(KEPT), KEPT);
        assert_eq!((memory.of(id(0)), memory.of(id(1)), memory.of(id(KEPT))), (None, Some(1), Some(KEPT)));
    }
}
