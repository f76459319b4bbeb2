//! By which keys hosts are believed, and how far what they said is.

use std::collections::BTreeMap;

use landfall_bus::{Bus, Delivered};
use landfall_schema::event::CloudEvent;
use landfall_schema::ids::{EventId, HostName};
use landfall_schema::outcome::Outcome;
use landfall_schema::presence::Presence;
use landfall_schema::promotion::Promotion;
use landfall_schema::roster::Roster;
use landfall_schema::signature::{PublicKey, named_keys, verify};

use crate::error::CliError;
use crate::output::Output;
use crate::plan::KnownHost;
use crate::promoters::Trust;
use crate::reading::{self, Read};
use crate::rollout::state::Rosters;

/// The keys of hosts: those that are certain, else those that the hosts announce.
#[derive(Debug, Clone, Default)]
pub struct HostKeys {
    /// Named by the context, or by the roster of a promotion.
    certain: BTreeMap<HostName, PublicKey>,
    /// Of hosts for which the context names a new key since then: by the roster of the promotion that is spoken of.
    former: BTreeMap<HostName, PublicKey>,
    /// What hosts say of themselves, each signed by that very key.
    announced: BTreeMap<HostName, PublicKey>,
}

/// How far an outcome is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belief {
    /// Signed by the key that is known as the host's.
    Proven,
    /// Whole, and signed by a key of which nobody here knows whose it is: the host may be gone for long, or have a new key.
    Claimed,
}

/// Outcomes by how far they are believed; the others are left out.
#[derive(Debug, Default)]
pub struct Believed {
    pub proven: Vec<Read<Outcome>>,
    pub claimed: Vec<Read<Outcome>>,
    /// Left out: whole, but signed by another key than the one that is known as the host's. It may be its key of before.
    pub disowned: Vec<Read<Outcome>>,
}

impl HostKeys {
    pub fn new(named: &BTreeMap<HostName, PublicKey>, known: &[KnownHost]) -> Self {
        let announced = known.iter().map(|known| &known.presence);
        let announced = announced.filter_map(|host| Some((host.host.clone(), PublicKey::new(&host.key).ok()?)));
        Self { certain: named.clone(), announced: announced.collect(), ..Self::default() }
    }

    /// Of the hosts of a plan alone.
    pub fn of_roster(roster: Roster) -> Self {
        Self { certain: roster.hosts, ..Self::default() }
    }

    /// With the keys of a plan's roster. Where the context names another one, both are the host's: it may have been set up anew since.
    #[must_use]
    fn with_roster(&self, roster: &Self) -> Self {
        let mut certain = roster.certain.clone();
        certain.extend(self.certain.clone());
        Self { certain, former: roster.certain.clone(), announced: self.announced.clone() }
    }

    /// With the keys of a roster, as far as its promotion is believed.
    pub fn within(&self, roster: &Self, trust: Trust) -> Option<Self> {
        match trust {
            Trust::Known => Some(self.with_roster(roster)),
            Trust::Named => Some(self.with_gaps_filled(roster)),
            Trust::Stranger => None,
        }
    }

    /// With the keys of a roster that anybody may have made: for hosts that announce none themselves.
    #[must_use]
    fn with_gaps_filled(&self, roster: &Self) -> Self {
        let mut announced = roster.certain.clone();
        announced.extend(self.announced.clone());
        Self { announced, ..self.clone() }
    }

    pub fn of(&self, host: &HostName) -> Option<&PublicKey> {
        self.certain.get(host).or_else(|| self.announced.get(host))
    }

    /// Whether the host announces the key that is certain to be its own, or none is certain.
    pub fn agree_with(&self, presence: &Presence) -> bool {
        self.certain.get(&presence.host).is_none_or(|key| key.as_str() == presence.key)
    }

    /// Reads an outcome; what a host with a known key did not sign is not its outcome.
    ///
    /// # Errors
    /// One line that says why it is not believed.
    pub fn believe(&self, message: &Delivered) -> Result<CloudEvent<Outcome>, String> {
        let read = readable(message)?;
        match self.judge(message, &read.event.data.host)? {
            Belief::Proven => Ok(read.event),
            Belief::Claimed => {
                let host = &read.event.data.host;
                Err(format!(
                    "what {host} says is not believed: the key that signed it is not known as the key of {host}"
                ))
            }
        }
    }

    /// How far this message of the host is believed.
    ///
    /// # Errors
    /// One line that says why not at all.
    pub fn judge(&self, message: &Delivered, host: &HostName) -> Result<Belief, String> {
        let signed_by = |keys: &[PublicKey]| verify(&message.body, message.signature.as_deref(), keys);
        let forged = |error| format!("an outcome of {host} is not believed, it was not signed by {host}: {error}");
        match (self.certain.get(host), self.announced.get(host)) {
            (Some(key), announced) => {
                let keys: Vec<PublicKey> = [Some(key), self.former.get(host)].into_iter().flatten().cloned().collect();
                match signed_by(&keys) {
                    Ok(_) => Ok(Belief::Proven),
                    // It may have been set up anew since the plan was made.
                    Err(error) => match announced.map(|key| signed_by(std::slice::from_ref(key))) {
                        Some(Ok(_)) => Ok(Belief::Claimed),
                        _ => Err(forged(error)),
                    },
                }
            }
            (None, Some(key)) if signed_by(std::slice::from_ref(key)).is_ok() => Ok(Belief::Proven),
            (None, _) => signed_by(&named_keys(message.signature.as_deref())).map(|_| Belief::Claimed).map_err(forged),
        }
    }
}

/// The keys for each of these promotions whose plan has a roster: its hosts may be gone since then, or have other keys. A roster is believed
/// as far as its promotion.
pub async fn by_promotion<'p>(
    bus: &Bus,
    promotions: impl IntoIterator<Item = (EventId, &'p Promotion, Trust)>,
    general: &HostKeys,
    output: &Output,
) -> BTreeMap<EventId, HostKeys> {
    let mut rosters = Rosters::new(bus);
    let mut found = BTreeMap::new();
    for (id, Promotion { counter, app, plan, .. }, trust) in promotions {
        if trust == Trust::Stranger {
            continue;
        }
        let roster = match rosters.of(plan).await {
            Ok(Some(roster)) => roster,
            Ok(None) => continue,
            Err(error) => {
                output.warn(format!("the keys of the hosts of promotion {counter} of {app} cannot be read: {error}"));
                continue;
            }
        };
        if let Some(keys) = general.within(&roster, trust) {
            // Whoever copies a promotion's id has not its signer's key.
            if trust == Trust::Known || !found.contains_key(&id) {
                found.insert(id, keys);
            }
        }
    }
    found
}

fn readable(message: &Delivered) -> Result<Read<Outcome>, String> {
    reading::outcome(message).ok_or_else(|| format!("event {} of {} cannot be read", message.sequence, message.subject))
}

impl Believed {
    /// Sorts what was read; `keys` says by which keys an outcome is believed, and `None` passes it over.
    pub fn sort<'k>(messages: &[Delivered], keys: impl Fn(&Outcome) -> Option<&'k HostKeys>, output: &Output) -> Self {
        let (believed, forged) = Self::sorted(messages, keys);
        tell(&forged, messages.len(), output);
        believed
    }

    /// As [`Self::sort`], of the newest message on each subject: where that is forged, the newest that is not counts.
    ///
    /// # Errors
    /// When the bus does not answer.
    pub async fn sort_newest<'k>(
        bus: &Bus,
        messages: &[Delivered],
        keys: impl Fn(&Outcome) -> Option<&'k HostKeys>,
        output: &Output,
    ) -> Result<Self, CliError> {
        let (mut believed, forged) = Self::sorted(messages, &keys);
        tell(&forged, messages.len(), output);
        for message in forged {
            let (mut earlier, _) = Self::sorted(&bus.outcomes_so_far(&message.subject).await?, &keys);
            believed.proven.extend(earlier.proven.pop());
            believed.claimed.extend(earlier.claimed.pop());
        }
        // By when they were said, as the newest of each subject come.
        believed.proven.sort_by_key(|read| read.sequence);
        believed.claimed.sort_by_key(|read| read.sequence);
        Ok(believed)
    }

    fn sorted<'k>(messages: &[Delivered], keys: impl Fn(&Outcome) -> Option<&'k HostKeys>) -> (Self, Vec<&Delivered>) {
        let (mut believed, mut forged) = (Self::default(), Vec::new());
        for message in messages {
            let Ok(read) = readable(message) else {
                forged.push(message);
                continue;
            };
            let Some(keys) = keys(&read.event.data) else { continue };
            match keys.judge(message, &read.event.data.host) {
                Ok(Belief::Proven) => believed.proven.push(read),
                Ok(Belief::Claimed) => believed.claimed.push(read),
                Err(_) => {
                    let named = named_keys(message.signature.as_deref());
                    if verify(&message.body, message.signature.as_deref(), &named).is_ok() {
                        believed.disowned.push(read);
                    }
                    forged.push(message);
                }
            }
        }
        (believed, forged)
    }
}

fn tell(forged: &[&Delivered], of: usize, output: &Output) {
    if let Some(first) = forged.first() {
        output.warn(format!(
            "{} of {of} outcomes are left out: they cannot be read, or were not signed by the host that they name, e.g. number {} of {}",
            forged.len(),
            first.sequence,
            first.subject
        ));
    }
}

#[cfg(test)]
#[path = "host_keys/tests.rs"]
mod tests;
