//! The newest document on a subject, and that it is not an old one which somebody published again: whoever may write to the subject could
//! else bring back rules that were replaced, and their signature would still be right.

use std::sync::Mutex;
use std::sync::PoisonError;

use landfall_bus::{Bus, BusError};
use landfall_deploy::gates::documents::{DocumentError, Published};
use landfall_schema::ids::EventId;
use landfall_schema::subject::Subject;

use super::published;

/// Ids are UUIDv7 and stand inside the signature: they sort by the time of their making.
#[derive(Debug, Default)]
pub(super) struct Newest(Mutex<Option<EventId>>);

impl Newest {
    /// Reads and believes the newest message; `None` when nothing was ever said. The whole subject is read once, then the last message.
    ///
    /// # Errors
    /// The outer one when the bus does not answer, the inner one when the message is not believed.
    pub(super) async fn read<T>(
        &self,
        bus: &Bus,
        subject: &Subject,
        believe: impl Fn(Published<'_>) -> Result<(EventId, T), DocumentError>,
    ) -> Result<Result<Option<T>, DocumentError>, BusError> {
        if self.seen().is_none() {
            let all = bus.said(subject).await?;
            for (id, _) in all.iter().filter_map(|said| believe(published(said)).ok()) {
                self.see(id);
            }
        }
        let Some(said) = bus.last_said(subject).await? else { return Ok(Ok(None)) };
        Ok(believe(published(&said)).and_then(|(id, document)| {
            if self.seen().is_some_and(|seen| id < seen) {
                return Err(DocumentError::Replaced);
            }
            self.see(id);
            Ok(Some(document))
        }))
    }

    fn seen(&self) -> Option<EventId> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn see(&self, id: EventId) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = (*newest).max(Some(id));
    }
}
