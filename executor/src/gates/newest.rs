//! The newest document on a subject, and that it is not an old one which somebody published again: whoever may write to the subject could
//! else bring back rules that were replaced, and their signature would still be right.

use std::sync::Mutex;
use std::sync::PoisonError;

use landfall_bus::{Bus, BusError};
use landfall_deploy::gates::documents::{DocumentError, Published};
use landfall_schema::ids::EventId;
use landfall_schema::subject::Subject;

use super::published;
use crate::fleet::AsOf;

/// What was read last, and the newest id among all that were ever said and believed. Ids are UUIDv7 and stand
/// inside the signature: they sort by the time of their making.
#[derive(Debug, Default)]
pub(super) struct Newest(Mutex<Option<(AsOf, EventId)>>);

impl Newest {
    /// Reads and believes the newest message; `None` when nothing was ever said. The whole subject is read whenever something was added.
    ///
    /// # Errors
    /// The outer one when the bus does not answer, the inner one when the message is not believed.
    pub(super) async fn read<T>(
        &self,
        bus: &Bus,
        subject: &Subject,
        believe: impl Fn(Published<'_>) -> Result<(EventId, T), DocumentError>,
    ) -> Result<Result<Option<T>, DocumentError>, BusError> {
        let Some(said) = bus.last_said(subject).await? else { return Ok(Ok(None)) };
        let (id, document) = match believe(published(&said)) {
            Ok(believed) => believed,
            Err(error) => return Ok(Err(error)),
        };
        let as_of = AsOf::of(&said);
        let newest = match self.known(&as_of) {
            Some(newest) => newest,
            None => {
                let all = bus.said(subject).await?;
                // What came in between is looked at the next time.
                let former = all.iter().filter(|one| one.sequence < said.sequence);
                let ids = former.filter_map(|one| believe(published(one)).ok()).map(|(id, _)| id);
                let newest = ids.fold(id, EventId::max);
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((as_of, newest));
                newest
            }
        };
        Ok(if id < newest { Err(DocumentError::Replaced) } else { Ok(Some(document)) })
    }

    fn known(&self, as_of: &AsOf) -> Option<EventId> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|(of, _)| of == as_of).map(|(_, newest)| *newest)
    }
}
