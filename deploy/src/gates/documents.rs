//! Believes what was read: the signature over the exact bytes, then their form, then that they are about what they were asked for.

use std::fmt;

use landfall_schema::event::{
    CloudEvent, EventError, TYPE_ABSOLVED, TYPE_APPROVED, TYPE_CONDEMNED, TYPE_ENVIRONMENT_FROZEN,
    TYPE_ENVIRONMENT_POLICY,
};
use landfall_schema::gates::{Absolutions, Approval, CondemnedList, EnvironmentPolicy, Freezes};
use landfall_schema::ids::{AppName, EnvName, EventId};
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::signature::{DsseEnvelope, PublicKey, SignatureError, named_keys, signers, verify};
use serde::de::DeserializeOwned;
use thiserror::Error;

/// A message as it was published.
#[derive(Debug, Clone, Copy)]
pub struct Published<'a> {
    pub body: &'a [u8],
    pub signature: Option<&'a str>,
}

/// Why a document is not believed.
#[derive(Debug, Error)]
pub enum DocumentError {
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error(transparent)]
    Event(#[from] EventError),
    #[error("it is an older one that was published again")]
    Replaced,
    #[error("it is about {found}")]
    Foreign { found: String },
}

/// The environment's policy, with the id of its event, which sorts by time.
///
/// # Errors
/// [`DocumentError`] when no admin key signed it, or it is of another environment.
pub fn policy(
    message: Published<'_>,
    env: &EnvName,
    admin: &[PublicKey],
) -> Result<(EventId, EnvironmentPolicy), DocumentError> {
    let event: CloudEvent<EnvironmentPolicy> = believed(message, TYPE_ENVIRONMENT_POLICY, admin)?;
    about(&event.data.env, env)?;
    Ok((event.id, event.data))
}

/// The environment's freezes, with the id of their event.
///
/// # Errors
/// As [`policy`].
pub fn freezes(
    message: Published<'_>,
    env: &EnvName,
    admin: &[PublicKey],
) -> Result<(EventId, Freezes), DocumentError> {
    let event: CloudEvent<Freezes> = believed(message, TYPE_ENVIRONMENT_FROZEN, admin)?;
    about(&event.data.env, env)?;
    Ok((event.id, event.data))
}

/// What was said about a promotion, with those of the approvers who signed it. None of them is no error: then it counts for nothing.
///
/// # Errors
/// [`DocumentError`] when a signature under an approver's name is wrong, or it is about something else.
pub fn approval(
    message: Published<'_>,
    env: &EnvName,
    app: &AppName,
    approvers: &[PublicKey],
) -> Result<super::Said<Approval>, DocumentError> {
    let signers = signers(message.body, message.signature, approvers)?;
    let data = CloudEvent::<Approval>::decode(message.body, TYPE_APPROVED)?.data;
    about((&data.env, &data.app), (env, app))?;
    Ok(super::Said { data, signers })
}

/// # Errors
/// As [`policy`]; `trusted` are the admin keys and those that may promote.
pub fn absolutions(
    message: Published<'_>,
    env: &EnvName,
    app: &AppName,
    trusted: &[PublicKey],
) -> Result<Absolutions, DocumentError> {
    let data = believed::<Absolutions>(message, TYPE_ABSOLVED, trusted)?.data;
    about((&data.env, &data.app), (env, app))?;
    Ok(data)
}

/// The condemned releases as the bucket holds them. Any host may have added the last one, also one that is not here any more; so the
/// signature says who wrote the list and that it is whole, and the bus' permissions say who may write it.
///
/// # Errors
/// [`DocumentError`].
pub fn condemned(entry: &[u8], env: &EnvName, app: &AppName) -> Result<CondemnedList, DocumentError> {
    let malformed = |source| EventError::Malformed { expected: TYPE_CONDEMNED.to_owned(), source };
    let envelope: DsseEnvelope = serde_json::from_slice(entry).map_err(malformed)?;
    let (body, _) = envelope.open(&named_keys(Some(&envelope.header())))?;
    let data = CloudEvent::<CondemnedList>::decode(&body, TYPE_CONDEMNED)?.data;
    about((&data.env, &data.app), (env, app))?;
    Ok(data)
}

/// A rule that cannot be read forbids everything under it.
pub fn unreadable(what: &str, env: &EnvName, error: &DocumentError, hint: String) -> Reason {
    let text = format!("the newest {what} of {env} is not believed, so nothing is promoted there: {error}");
    Reason::new(ReasonCode::PolicyUnreadable, text).hint(hint)
}

fn believed<T: DeserializeOwned>(
    message: Published<'_>,
    kind: &str,
    trusted: &[PublicKey],
) -> Result<CloudEvent<T>, DocumentError> {
    verify(message.body, message.signature, trusted)?;
    Ok(CloudEvent::decode(message.body, kind)?)
}

fn about<T: PartialEq + fmt::Debug>(found: T, expected: T) -> Result<(), DocumentError> {
    if found == expected { Ok(()) } else { Err(DocumentError::Foreign { found: format!("{found:?}") }) }
}
