//! Whether people hold the rollout up: a halt, an approval that is missing, a freeze. That is no fault of the hosts, and takes as long as it takes.

use landfall_bus::Bus;
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
    // Operators have keys of their own, and the hosts know better than this machine whom to believe: a halt too many costs a little waiting.
    let newest = said.doubtful.last().map(|(.., halt)| halt).or_else(|| said.newest.as_ref().map(|(_, halt)| halt));
    let stands = |halt: &&Halt| halt.promotion == event.id && halt.command == HaltCommand::Halt;
    Ok(newest.filter(stands).map(|halt| format!("{} halted it: {}", halt.author, halt.reason)))
}
