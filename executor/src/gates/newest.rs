//! The newest document on a subject, and that it is not an old one which somebody published again: whoever may write to the subject could
//! else bring back rules that were replaced, and their signature would still be right.

use std::sync::{Mutex, MutexGuard, PoisonError};

use landfall_bus::{Bus, Delivered};
use landfall_deploy::gates::documents::{DocumentError, Published};
use landfall_schema::ids::EventId;
use landfall_schema::planted::planted;
use landfall_schema::subject::Subject;
use tracing::warn;

use super::{GateError, apart, published};
use crate::fleet::AsOf;
use crate::journal::{Journal, Rule};

/// What is remembered of one subject.
#[derive(Debug, Default)]
pub(super) struct Newest(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// What was read last, and the newest id among all that were ever said and believed. Ids are UUIDv7 and stand inside the signature: they
    /// sort by the time of their making.
    newest: Option<(AsOf, EventId)>,
    /// It was told that the bus has lost what this host keeps.
    is_loss_told: bool,
}

/// What holds of a subject.
#[derive(Debug)]
pub(super) struct InForce<T> {
    pub(super) document: T,
    /// The bus does not have it, or has an older one in its place: this host keeps to it.
    pub(super) is_lost: bool,
}

/// What is believed of a document, with the id of its event.
type Believed<T> = Result<(EventId, T), DocumentError>;

impl Newest {
    /// Reads and believes the newest message; `None` when nothing was ever said. What this host has believed before is kept in its journal,
    /// and holds on where the bus has nothing or something older: a store that was restored or has lost its end opens no gate.
    ///
    /// # Errors
    /// The outer one when the bus or the journal does not answer, the inner one when the message is not believed.
    pub(super) async fn read<T>(
        &self,
        bus: &Bus,
        journal: &Journal,
        subject: &Subject,
        believe: impl Fn(Published<'_>) -> Believed<T>,
    ) -> Result<Result<Option<InForce<T>>, DocumentError>, GateError> {
        // Before the bus: what somebody else keeps in between is on the bus as well.
        let (asked, about) = (journal.clone(), subject.clone());
        let row = apart(async move { asked.rule(&about).await }).await?.filter(|_| !planted("forget_the_rules"));
        let former = row.as_ref().map(|rule| rule.id);
        let kept =
            row.map(|rule| believe(Published { body: &rule.body, signature: rule.signature.as_deref() })).transpose();
        let said = match bus.last_said(subject).await? {
            None => None,
            Some(said) => match believe(published(&said)) {
                Ok((id, _)) if id < self.newest(bus, subject, &said, id, &believe).await? => {
                    return Ok(Err(DocumentError::Replaced));
                }
                Ok((id, document)) => Some((said, id, document)),
                Err(error) => return Ok(Err(error)),
            },
        };
        let (said, id, document) = match (said, kept) {
            (None, Ok(None)) => return Ok(Ok(None)),
            // Under the keys of today nothing tells what the rules are.
            (None, Err(error)) => return Ok(Err(error)),
            (None, Ok(Some((id, document)))) => return Ok(Ok(Some(self.hold_on(subject, id, document)))),
            (Some((_, older, _)), Ok(Some((id, document)))) if older < id => {
                return Ok(Ok(Some(self.hold_on(subject, id, document))));
            }
            (Some(said), _) => said,
        };
        if former != Some(id) {
            let rule = Rule { id, body: said.body.to_vec(), signature: said.signature };
            let (asked, about) = (journal.clone(), subject.clone());
            apart(async move { asked.keep_rule(&about, &rule, former).await }).await?;
        }
        self.state().is_loss_told = false;
        Ok(Ok(Some(InForce { document, is_lost: false })))
    }

    /// The newest id on the subject. All of it is read whenever something was added.
    async fn newest<T>(
        &self,
        bus: &Bus,
        subject: &Subject,
        said: &Delivered,
        id: EventId,
        believe: impl Fn(Published<'_>) -> Believed<T>,
    ) -> Result<EventId, GateError> {
        let as_of = AsOf::of(said);
        if let Some((_, newest)) = self.state().newest.as_ref().filter(|(of, _)| *of == as_of) {
            return Ok(*newest);
        }
        let all = bus.said(subject).await?;
        // What came in between is looked at the next time.
        let former = all.iter().filter(|one| one.sequence < said.sequence);
        let ids = former.filter_map(|one| believe(published(one)).ok()).map(|(id, _)| id);
        let newest = ids.fold(id, EventId::max);
        self.state().newest = Some((as_of, newest));
        Ok(newest)
    }

    fn hold_on<T>(&self, subject: &Subject, id: EventId, document: T) -> InForce<T> {
        if !std::mem::replace(&mut self.state().is_loss_told, true) {
            warn!(
                %subject, kept = %id,
                "the bus has lost the newest rules of the environment; this host keeps to them. hint: say them anew, with `landfall policy apply` or `landfall freeze`; \
                 where that changes nothing, they were made by a clock that goes ahead: see docs/GATES.md"
            );
        }
        InForce { document, is_lost: true }
    }

    fn state(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
