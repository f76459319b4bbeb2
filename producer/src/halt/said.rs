//! What operators have said about the rollouts of an application. Anybody who may write to the subject could say something: only what is
//! believed counts, and junk that came later hides nothing.

use landfall_bus::Delivered;
use landfall_schema::event::{CloudEvent, TYPE_HALTED};
use landfall_schema::halt::Halt;
use landfall_schema::ids::{AppName, EnvName, EventId};
use landfall_schema::signature::{PublicKey, named_keys, verify};
use uuid::{NoContext, Uuid};

/// No honest clock goes further ahead. Without a limit a stranger could bring the ids to the end of time, after which nothing is newer.
const CLOCK_AHEAD_MAX_S: u64 = 60 * 60;

/// All that was said, as far as it matters.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// The stream's sequence of the last message, believed or not; 0 for none.
    pub sequence: u64,
    /// The newest word by a known key.
    pub newest: Option<(EventId, Halt)>,
    /// Newer words, whole, by keys that are not known here. Hosts may know them.
    pub doubtful: Vec<(EventId, PublicKey, Halt)>,
}

impl Said {
    /// Ids are UUIDv7 and stand inside the signature: they sort by the time of their making, whenever somebody publishes them again.
    pub fn new(messages: &[Delivered], env: &EnvName, app: &AppName, known: &[PublicKey]) -> Self {
        let mut said = Self { sequence: messages.last().map_or(0, |message| message.sequence), ..Self::default() };
        let mut strangers = Vec::new();
        for message in messages {
            let Ok(event) = CloudEvent::<Halt>::decode(&message.body, TYPE_HALTED) else { continue };
            let (id, halt) = (event.id, event.data);
            if (&halt.env, &halt.app) != (env, app) {
                continue;
            }
            let signed_by = |keys: &[PublicKey]| verify(&message.body, message.signature.as_deref(), keys).ok();
            if signed_by(known).is_some() {
                if said.newest.as_ref().is_none_or(|(newest, _)| id > *newest) {
                    said.newest = Some((id, halt));
                }
            } else if let Some(key) = signed_by(&named_keys(message.signature.as_deref())) {
                strangers.push((id, key, halt));
            }
        }
        let newest = said.newest.as_ref().map(|(id, _)| *id);
        strangers.retain(|(id, ..)| newest.is_none_or(|newest| *id > newest));
        said.doubtful = strangers;
        said
    }

    /// An id for what is said next. When the last one was made by a clock that goes ahead, it comes right after it: an abort is not to fail
    /// because of somebody else's clock. Hosts may believe whom nobody knows here, so those words count as well, up to [`CLOCK_AHEAD_MAX_S`].
    pub fn next_id(&self) -> EventId {
        let limit = made_at_s(Uuid::now_v7()) + CLOCK_AHEAD_MAX_S;
        let doubtful = self.doubtful.iter().map(|(id, ..)| *id).filter(|id| made_at_s(id.0) <= limit);
        let known = self.newest.as_ref().map(|(id, _)| *id);
        id_after(known.into_iter().chain(doubtful).max())
    }
}

/// An id that hosts take for newer than the last one, also when that was made by a clock that goes ahead.
pub fn id_after(last: Option<EventId>) -> EventId {
    let now = Uuid::now_v7();
    let Some(EventId(last)) = last.filter(|last| last.0 >= now) else { return EventId(now) };
    let Some((seconds, nanos)) = last.get_timestamp().map(|at| at.to_unix()) else { return EventId(now) };
    let millis = seconds * 1_000 + u64::from(nanos) / 1_000_000 + 1;
    let nanos = u32::try_from(millis % 1_000).unwrap_or(0) * 1_000_000;
    EventId(Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, millis / 1_000, nanos)))
}

/// Seconds since 1970.
fn made_at_s(id: Uuid) -> u64 {
    id.get_timestamp().map_or(0, |at| at.to_unix().0)
}
