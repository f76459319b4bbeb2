//! Whether people hold the rollout up: a halt, an approval that is missing, a freeze. That is no fault of the hosts, and takes as long as it takes.

use landfall_bus::Bus;
use landfall_schema::Timestamp;
use landfall_schema::event::CloudEvent;
use landfall_schema::halt::{Halt, HaltCommand};
use landfall_schema::promotion::Promotion;
use landfall_schema::subject;

use crate::error::CliError;
use crate::gates::precheck;
use crate::halt::{known_keys, said::Said};
use crate::session::Session;

/// What they are waited for, in one line. When it cannot be read nobody is.
pub(super) async fn waited_for(bus: &Bus, event: &CloudEvent<Promotion>, cli: &Session) -> Option<String> {
    let read = async {
        Ok::<_, CliError>(match halted(bus, event, cli).await? {
            Some(on) => Some(on),
            None => precheck::waits(bus, event, cli).await?,
        })
    };
    read.await.unwrap_or_else(|error: CliError| {
        tracing::debug!(%error, "whether people are waited for cannot be read");
        None
    })
}

async fn halted(bus: &Bus, event: &CloudEvent<Promotion>, cli: &Session) -> Result<Option<String>, CliError> {
    let Promotion { env, app, .. } = &event.data;
    let all = bus.said(&subject::halted(env, app)).await?;
    if all.is_empty() {
        return Ok(None);
    }
    let said = Said::new(&all, env, app, &known_keys(None, cli)?);
    Ok(holds(&said, event, Timestamp::now()))
}

/// The halt that stands, by a key that is known here: a stranger's would hold the wait for as long as they like. No host waits longer than its
/// promotion lasts.
fn holds(said: &Said, event: &CloudEvent<Promotion>, now: Timestamp) -> Option<String> {
    let stands = |halt: &&Halt| halt.promotion == event.id && halt.command == HaltCommand::Halt;
    let halt = said.newest.as_ref().map(|(_, halt)| halt).filter(stands)?;
    (now < event.data.expires_at).then(|| format!("{} halted it: {}", halt.author, halt.reason))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use landfall_schema::ids::EventId;
    use landfall_schema::signature::SigningKey;
    use uuid::Uuid;

    use super::*;
    use crate::fixtures::{at, promoted};

    #[test]
    fn a_known_halt_holds_the_wait_until_the_promotion_expires() {
        let event = promoted(1, 2, &["host-a", "host-b"]).event;
        let halt = |command| Halt {
            env: event.data.env.clone(),
            app: event.data.app.clone(),
            counter: event.data.counter,
            promotion: event.id,
            command,
            reason: "errors rise".to_owned(),
            author: "ada".to_owned(),
        };
        let id = EventId(Uuid::from_u128(5));
        let known = |command| Said { newest: Some((id, halt(command))), ..Said::default() };
        let stranger = SigningKey::generate().public();
        let doubtful = Said { doubtful: vec![(id, stranger, halt(HaltCommand::Halt))], ..Said::default() };
        let (within, after) = (at(10), event.data.expires_at);
        for (said, now, held) in [
            (known(HaltCommand::Halt), within, true),
            (known(HaltCommand::Halt), after, false),
            (known(HaltCommand::Resume), within, false),
            (doubtful, within, false),
        ] {
            assert_eq!(holds(&said, &event, now).is_some(), held, "{said:?}");
        }
    }
}
