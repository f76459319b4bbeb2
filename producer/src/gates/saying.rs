//! Signs and publishes what people say, after what was said before.

use std::path::Path;

use clap::Args;
use landfall_bus::{Bus, BusError};
use landfall_schema::Timestamp;
use landfall_schema::event::CloudEvent;
use landfall_schema::gates::NOTE_MAX_CHARS;
use landfall_schema::ids::EventId;
use landfall_schema::signature::{Signature, SigningKey, encode_header};
use landfall_schema::subject::Subject;
use serde::Serialize;
use uuid::Uuid;

use crate::ci;
use crate::context::process_environment;
use crate::error::{CliError, ExitCode};
use crate::halt::said::id_after;
use crate::session::Session;

/// Who speaks.
#[derive(Debug, Clone, Args)]
pub struct SpeakerArgs {
    /// The key to sign with
    #[arg(long, value_name = "FILE")]
    pub key: Option<std::path::PathBuf>,
    /// Who says it, for people to read. Default: what CI or the system says
    #[arg(long, value_name = "NAME")]
    pub author: Option<String>,
}

impl SpeakerArgs {
    pub fn author(&self) -> String {
        self.author.clone().unwrap_or_else(|| ci::author(&process_environment))
    }

    /// The key of somebody who sets an environment's rules.
    pub fn admin_key(&self, cli: &Session) -> Result<SigningKey, CliError> {
        let path = self.key.as_deref().or(cli.settings.admin_key.as_deref()).ok_or_else(|| {
            CliError::usage("no admin key is named").hint(
                "use --key FILE, LANDFALL_ADMIN_KEY_FILE, or `admin_key = \"…\"` in the context; \
                 `landfall init admin` makes a key pair",
            )
        })?;
        read(path, cli)
    }

    /// The key that is named, else the one that signs promotions.
    pub fn own_key(&self, cli: &Session) -> Result<SigningKey, CliError> {
        match &self.key {
            Some(path) => read(path, cli),
            None => cli.signing_key(),
        }
    }
}

fn read(path: &Path, cli: &Session) -> Result<SigningKey, CliError> {
    cli.read_signing_key(path)
}

/// A reason or note, which a host will repeat.
pub fn parse_note(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.chars().count() {
        0 => Err("it is empty".to_owned()),
        1..=NOTE_MAX_CHARS => Ok(text.to_owned()),
        count => Err(format!("it has {count} characters, at most {NOTE_MAX_CHARS} are allowed")),
    }
}

/// An event of somebody at this machine, which comes after the `last` one: ids sort by time, and hosts take an older one for a repetition.
/// Somebody else's clock is no reason to say nothing.
pub fn event<T>(kind: &str, author: &str, data: T, last: Option<EventId>) -> CloudEvent<T> {
    let source = format!("/landfall/producer/{}", author.replace(char::is_whitespace, "-"));
    CloudEvent::new(id_after(last), source, kind, Timestamp::now(), data)
}

/// Signs and publishes a document that replaces the one of this `sequence`.
///
/// # Errors
/// When somebody else was first.
pub async fn replace<T: Serialize>(
    bus: &Bus,
    subject: &Subject,
    event: &CloudEvent<T>,
    key: &SigningKey,
    sequence: u64,
) -> Result<(), CliError> {
    let body = event.encode().map_err(|error| CliError::from_error(&error))?;
    let signature = key.sign(&body).map_err(|error| CliError::from_error(&error))?;
    publish(bus, subject, &body, &[signature], sequence).await
}

/// Publishes these bytes under these signatures, unless somebody was first.
///
/// # Errors
/// When somebody was.
pub async fn publish(
    bus: &Bus,
    subject: &Subject,
    body: &[u8],
    signatures: &[Signature],
    sequence: u64,
) -> Result<(), CliError> {
    // Not the event's own id: the same bytes are said again with one more signature, and the server would take that for a repetition.
    let id = EventId(Uuid::now_v7());
    let header = encode_header(signatures);
    match bus.publish_expecting(subject, id, body, Some(&header), None, sequence).await {
        Ok(_) => Ok(()),
        Err(BusError::Raced { .. }) => Err(CliError::new("somebody else was first; nothing was published")
            .hint("run it again: it goes on from what they said")
            .exit(ExitCode::Raced)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_have_an_end() {
        let of = |chars: usize| parse_note(&"é".repeat(chars)).map(|note| note.chars().count());
        assert_eq!(of(NOTE_MAX_CHARS), Ok(NOTE_MAX_CHARS));
        assert_eq!(of(NOTE_MAX_CHARS + 1), Err("it has 301 characters, at most 300 are allowed".to_owned()));
        assert_eq!(of(0), Err("it is empty".to_owned()));
    }
}
