//! One stream.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_bus::Delivered;
use landfall_bus::simulated::{NotTaken, Outgoing};
use landfall_schema::Timestamp;

use super::matches;

/// An id that comes again within this time adds nothing; as the real streams are made.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub(super) struct Stream {
    messages: BTreeMap<u64, Delivered>,
    /// By subject, oldest first.
    by_subject: BTreeMap<String, Vec<u64>>,
    last: u64,
    ids: BTreeMap<String, (u64, Timestamp)>,
}

pub(super) struct Stored {
    pub(super) sequence: u64,
    pub(super) is_new: bool,
}

impl Stream {
    pub(super) fn store(&mut self, message: Outgoing, at: Timestamp, newest_only: bool) -> Result<Stored, NotTaken> {
        let Outgoing { subject, id, signature, traceparent, body, expected } = message;
        if let Some((sequence, first)) = id.as_ref().and_then(|id| self.ids.get(id))
            && Duration::try_from(at.duration_since(*first)).is_ok_and(|age| age < DUPLICATE_WINDOW)
        {
            return Ok(Stored { sequence: *sequence, is_new: false });
        }
        if expected.is_some_and(|expected| expected != self.last_of(&subject)) {
            return Err(NotTaken::Raced);
        }
        self.last += 1;
        let sequence = self.last;
        if let Some(id) = id {
            self.ids.insert(id, (sequence, at));
        }
        let of_subject = self.by_subject.entry(subject.clone()).or_default();
        if newest_only {
            for old in of_subject.drain(..) {
                self.messages.remove(&old);
            }
        }
        of_subject.push(sequence);
        self.messages.insert(sequence, Delivered { subject, sequence, body, signature, traceparent, published_at: at });
        Ok(Stored { sequence, is_new: true })
    }

    fn last_of(&self, subject: &str) -> u64 {
        self.by_subject.get(subject).and_then(|all| all.last()).copied().unwrap_or(0)
    }

    /// The newest of a subject but so many.
    pub(super) fn newest_but(&self, subject: &str, back: usize) -> Option<Delivered> {
        let all = self.by_subject.get(subject)?;
        let at = all.len().checked_sub(1 + back).or(Some(0))?;
        all.get(at).and_then(|sequence| self.messages.get(sequence)).cloned()
    }

    pub(super) fn all(&self, filter: &str) -> Vec<Delivered> {
        self.messages.values().filter(|message| matches(filter, &message.subject)).cloned().collect()
    }

    pub(super) fn newest_of_each(&self, filter: &str) -> Vec<Delivered> {
        let mut newest: Vec<Delivered> = self
            .by_subject
            .iter()
            .filter(|(subject, _)| matches(filter, subject))
            .filter_map(|(_, all)| self.messages.get(all.last()?))
            .cloned()
            .collect();
        newest.sort_by_key(|message| message.sequence);
        newest
    }

    /// The first message from this sequence on that one of the filters lets through.
    pub(super) fn next(&self, from: u64, filters: &[String]) -> Option<&Delivered> {
        let wanted = |message: &&Delivered| filters.iter().any(|filter| matches(filter, &message.subject));
        self.messages.range(from..).map(|(_, message)| message).find(wanted)
    }

    pub(super) fn get(&self, sequence: u64) -> Option<&Delivered> {
        self.messages.get(&sequence)
    }

    pub(super) fn is_newest(&self, message: &Delivered) -> bool {
        self.last_of(&message.subject) == message.sequence
    }

    pub(super) fn last_sequence(&self) -> u64 {
        self.last
    }

    /// Takes the last so many messages away; their sequences are given out again.
    pub(super) fn lose(&mut self, tail: usize) -> Vec<Delivered> {
        let mut lost = Vec::new();
        for _ in 0..tail {
            let Some((sequence, message)) = self.messages.pop_last() else { break };
            if let Some(all) = self.by_subject.get_mut(&message.subject) {
                all.retain(|one| *one != sequence);
            }
            self.ids.retain(|_, (of, _)| *of != sequence);
            self.last = sequence - 1;
            lost.push(message);
        }
        lost
    }
}
