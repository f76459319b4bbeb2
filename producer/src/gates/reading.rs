//! What was said about an environment and its releases. Believed by the keys that the context names; without any, by the key that each
//! document names itself: the hosts have the last word on whom to trust.

use landfall_bus::{Bus, Delivered};
use landfall_deploy::gates::Said;
use landfall_deploy::gates::documents::{self, DocumentError, Published};
use landfall_schema::event::{CloudEvent, TYPE_PROMOTED};
use landfall_schema::gates::{Absolutions, Approval, CondemnedList, EnvironmentPolicy, Freeze};
use landfall_schema::ids::{AppName, Counter, EnvName, EventId};
use landfall_schema::layout::ROLLOUT;
use landfall_schema::promotion::Promotion;
use landfall_schema::signature::{PublicKey, named_keys, verify};
use landfall_schema::subject;

use crate::error::{CliError, ExitCode};
use crate::session::Session;

/// A document, and where the next one goes.
#[derive(Debug, Clone)]
pub struct Document<T> {
    pub data: Option<T>,
    /// The stream's sequence of the newest message, 0 for none.
    pub sequence: u64,
    /// Of the newest event that could be read.
    pub id: Option<EventId>,
}

pub fn published(said: &Delivered) -> Published<'_> {
    Published { body: &said.body, signature: said.signature.as_deref() }
}

fn trusted(named: &[PublicKey], said: &Delivered) -> Vec<PublicKey> {
    if named.is_empty() { named_keys(said.signature.as_deref()) } else { named.to_vec() }
}

fn unbelieved(what: &str, env: &EnvName, error: &DocumentError, hint: String) -> CliError {
    CliError::new(format!("the newest {what} of {env} is not believed, so its hosts take nothing"))
        .because(error)
        .hint(hint)
        .exit(ExitCode::Refused)
}

/// # Errors
/// When the bus does not answer, or what is there is not believed.
pub async fn policy(bus: &Bus, env: &EnvName, cli: &Session) -> Result<Document<EnvironmentPolicy>, CliError> {
    let Some(said) = bus.last_said(&subject::environment_policy(env)).await? else {
        return Ok(Document { data: None, sequence: 0, id: None });
    };
    let keys = trusted(&cli.settings.trusted_admins, &said);
    let (id, policy) = documents::policy(published(&said), env, &keys).map_err(|error| {
        unbelieved(
            "policy",
            env,
            &error,
            format!("set it anew with an admin key: `landfall policy apply FILE --env {env}`"),
        )
    })?;
    Ok(Document { data: Some(policy), sequence: said.sequence, id: Some(id) })
}

/// # Errors
/// As [`policy`].
pub async fn freezes(bus: &Bus, env: &EnvName, cli: &Session) -> Result<Document<Vec<Freeze>>, CliError> {
    let Some(said) = bus.last_said(&subject::environment_freeze(env)).await? else {
        return Ok(Document { data: None, sequence: 0, id: None });
    };
    let keys = trusted(&cli.settings.trusted_admins, &said);
    let (id, freezes) = documents::freezes(published(&said), env, &keys).map_err(|error| {
        unbelieved(
            "list of freezes",
            env,
            &error,
            format!("say it anew with an admin key: `landfall unfreeze --all --env {env}`"),
        )
    })?;
    Ok(Document { data: Some(freezes.freezes), sequence: said.sequence, id: Some(id) })
}

/// The releases that hosts have condemned.
///
/// # Errors
/// As [`policy`].
pub async fn condemned(bus: &Bus, env: &EnvName, app: &AppName) -> Result<Option<CondemnedList>, CliError> {
    let Some(entry) = bus.entry(ROLLOUT, &subject::condemned_key(env, app)).await? else { return Ok(None) };
    documents::condemned(&entry.body, env, app).map(Some).map_err(|error| {
        CliError::new(format!("the list of condemned releases of {app} in {env} is not readable"))
            .because(&error)
            .hint("the hosts take it for empty, and replace it with the next release that they condemn")
    })
}

/// # Errors
/// As [`policy`].
pub async fn absolutions(
    bus: &Bus,
    env: &EnvName,
    app: &AppName,
    cli: &Session,
) -> Result<Document<Absolutions>, CliError> {
    let Some(said) = bus.last_said(&subject::condemned(env, app)).await? else {
        return Ok(Document { data: None, sequence: 0, id: None });
    };
    let named: Vec<PublicKey> =
        cli.settings.trusted_admins.iter().chain(&cli.settings.trusted_promoters).cloned().collect();
    let absolved = documents::absolutions(published(&said), env, app, &trusted(&named, &said));
    if let Err(error) = &absolved {
        cli.output.warn(format!("the absolutions of {app} in {env} are not believed and count for nothing: {error}"));
    }
    Ok(Document { data: absolved.ok(), sequence: said.sequence, id: None })
}

/// A promotion with the bytes that were signed.
#[derive(Debug, Clone)]
pub struct Promoted {
    pub event: CloudEvent<Promotion>,
    pub body: Vec<u8>,
    pub signature: Option<String>,
}

impl Promoted {
    /// The keys that signed it.
    pub fn signers(&self) -> Vec<PublicKey> {
        named_keys(self.signature.as_deref())
    }

    fn read(said: &Delivered, cli: &Session) -> Option<Self> {
        let keys = trusted(&cli.settings.trusted_promoters, said);
        verify(&said.body, said.signature.as_deref(), &keys).ok()?;
        let event = CloudEvent::decode(&said.body, TYPE_PROMOTED).ok()?;
        Some(Self { event, body: said.body.to_vec(), signature: said.signature.clone() })
    }
}

/// The promotion of this number, else the newest.
///
/// # Errors
/// When there is none that can be believed.
pub async fn promoted(
    bus: &Bus,
    env: &EnvName,
    app: &AppName,
    counter: Option<Counter>,
    cli: &Session,
) -> Result<Promoted, CliError> {
    let all = match counter {
        None => bus.latest_promotion(env, app).await?.into_iter().collect(),
        Some(_) => bus.promotions(env, Some(app)).await?,
    };
    let wanted = |one: &Promoted| counter.is_none_or(|counter| one.event.data.counter == counter);
    let mut found = all.iter().rev().filter_map(|said| Promoted::read(said, cli)).filter(wanted);
    found.next().ok_or_else(|| {
        let which = counter.map_or("promotion".to_owned(), |counter| format!("promotion {counter}"));
        CliError::new(format!("there is no {which} of {app} in {env} that was signed by a trusted key"))
            .hint(format!("see `landfall history {app} --env {env}`, and `trusted_promoters` of the context"))
    })
}

/// The newest word about a promotion, with the approvers who signed it, and its bytes; and the sequence for the next one.
#[derive(Debug, Clone, Default)]
pub struct Word {
    pub said: Option<Said<Approval>>,
    pub body: Vec<u8>,
    pub signature: Option<String>,
    pub sequence: u64,
}

/// # Errors
/// When the bus does not answer.
pub async fn word(
    bus: &Bus,
    env: &EnvName,
    app: &AppName,
    approvers: &[PublicKey],
    cli: &Session,
) -> Result<Word, CliError> {
    let Some(said) = bus.last_said(&subject::approved(env, app)).await? else { return Ok(Word::default()) };
    let read = documents::approval(published(&said), env, app, approvers);
    if let Err(error) = &read {
        cli.output
            .warn(format!("the newest approval of {app} in {env} is not believed and counts for nothing: {error}"));
    }
    Ok(Word { said: read.ok(), body: said.body.to_vec(), signature: said.signature.clone(), sequence: said.sequence })
}
