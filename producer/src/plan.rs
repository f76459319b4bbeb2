//! Which hosts a promotion is for, and by which keys their outcomes are believed.

use std::collections::BTreeMap;

use landfall_bus::{Bus, Delivered};
use landfall_schema::event::CloudEvent;
use landfall_schema::ids::{AppName, EnvName, HostName};
use landfall_schema::outcome::Outcome;
use landfall_schema::presence::Presence;
use landfall_schema::signature::{PublicKey, verify};

use crate::error::CliError;
use crate::output::Output;
use crate::reading;
use crate::session::Session;

/// The keys of hosts: those that the context names, else those that the hosts announce.
#[derive(Debug, Clone, Default)]
pub struct HostKeys(BTreeMap<HostName, PublicKey>);

impl HostKeys {
    pub fn new(named: &BTreeMap<HostName, PublicKey>, present: &[Presence]) -> Self {
        let announced = present.iter().filter_map(|host| Some((host.host.clone(), PublicKey::new(&host.key).ok()?)));
        let mut keys: BTreeMap<HostName, PublicKey> = announced.collect();
        keys.extend(named.clone());
        Self(keys)
    }

    /// Reads an outcome; what a host with a known key did not sign is not its outcome.
    pub fn believe(&self, message: &Delivered) -> Result<CloudEvent<Outcome>, String> {
        let read = reading::outcome(message)
            .ok_or_else(|| format!("event {} of {} cannot be read", message.sequence, message.subject))?;
        let host = &read.event.data.host;
        if let Some(key) = self.0.get(host) {
            verify(&message.body, message.signature.as_deref(), std::slice::from_ref(key)).map_err(|error| {
                format!("an outcome of {host} is not believed, it was not signed by {host}: {error}")
            })?;
        }
        Ok(read.event)
    }
}

/// Who is present in an environment.
pub async fn present(bus: &Bus, env: &EnvName, output: &Output) -> Result<Vec<Presence>, CliError> {
    let read = reading::presences(&bus.presence(env).await?, output);
    Ok(read.into_iter().map(|read| read.event.data).collect())
}

/// The hosts of the plan: those that were named, else all that are present and take the application.
pub fn hosts(
    named: &[HostName],
    app: &AppName,
    present: &[Presence],
    cli: &Session,
) -> Result<Vec<HostName>, CliError> {
    let env = cli.env()?;
    let takes = |host: &Presence| host.apps.contains_key(app);
    let mut hosts: Vec<HostName> = if named.is_empty() {
        present.iter().filter(|host| takes(host)).map(|host| host.host.clone()).collect()
    } else {
        named.to_vec()
    };
    hosts.sort();
    hosts.dedup();
    for host in named {
        match present.iter().find(|known| known.host == *host) {
            Some(known) if !takes(known) => {
                return Err(CliError::new(format!("{host} does not take {app}"))
                    .hint(format!("add `[apps.{app}]` to its executor.toml, or leave it out of --hosts")));
            }
            Some(_) => {}
            None => cli.output.warn(format!("{host} is not present; it is waited for until the deadline")),
        }
    }
    if !hosts.is_empty() {
        return Ok(hosts);
    }
    let names: Vec<&str> = present.iter().map(|host| host.host.as_str()).collect();
    let error = CliError::new(format!("no host of {env} takes {app}"));
    Err(match names[..] {
        [] => error.hint(format!(
            "no executor of {env} is present; see `landfall hosts --env {env}`, or name hosts with --hosts"
        )),
        _ => error.hint(format!("add `[apps.{app}]` to the executor.toml of {}", names.join(", "))),
    })
}
