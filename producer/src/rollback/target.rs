//! Which earlier promotion a rollback goes back to. Pure.

use std::convert::Infallible;
use std::str::FromStr;

use landfall_schema::event::CloudEvent;
use landfall_schema::ids::{AppName, Counter, EnvName, EventId, ReleaseName};
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::promotion::{Intent, Promotion};
use landfall_schema::rollout::RolloutWord;

use crate::error::{CliError, ExitCode};
use crate::promoters::Trust;
use crate::rollout::RolloutView;

/// What `--to` names: `#3`, `3` or `v2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct To(String);

impl FromStr for To {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

/// A promotion of the past and how it ended.
#[derive(Debug, Clone)]
pub struct Past {
    view: RolloutView,
    trust: Trust,
    /// A host says that it succeeded there, by a key that nobody here knows as its own.
    claimed: bool,
}

impl Past {
    pub fn new(event: &CloudEvent<Promotion>) -> Self {
        Self::signed(event, Trust::Named)
    }

    pub fn signed(event: &CloudEvent<Promotion>, trust: Trust) -> Self {
        Self { view: RolloutView::new(event), trust, claimed: false }
    }

    /// Its plan, if its roster may say whose words are believed: else somebody could bring hosts of their own which say that it worked.
    pub fn plan(&self) -> Option<(EventId, &Promotion, Trust)> {
        (self.trust == Trust::Known).then(|| (self.id(), self.promotion(), self.trust))
    }

    pub fn fold(&mut self, outcome: &Outcome) {
        self.view.fold(outcome);
    }

    /// Takes in what may or may not have been said by the host that it names.
    pub fn fold_claim(&mut self, outcome: &Outcome) {
        self.claimed |= outcome.promotion == self.view.id && outcome.kind == OutcomeKind::DeploySucceeded;
    }

    pub fn id(&self) -> EventId {
        self.view.id
    }

    pub fn promotion(&self) -> &Promotion {
        &self.view.promotion
    }

    pub fn counter(&self) -> Counter {
        self.promotion().counter
    }

    pub fn release(&self) -> &ReleaseName {
        &self.promotion().release
    }

    /// It served on a host at least, and failed on none; of hosts that act together, their last word says it.
    pub fn worked(&self) -> bool {
        if let Some(word) = self.view.word() {
            return matches!(word, RolloutWord::Succeeded | RolloutWord::SucceededPartial) && self.serves_somewhere();
        }
        let mut ends = self.view.hosts.values().filter_map(|host| host.end()).map(|outcome| outcome.kind).peekable();
        ends.peek().is_some() && ends.all(|kind| kind == OutcomeKind::DeploySucceeded)
    }

    /// A host at least committed it.
    pub fn serves_somewhere(&self) -> bool {
        let mut ends = self.view.hosts.values().filter_map(|host| host.end());
        self.promotion().intent != Intent::Remove && ends.any(|outcome| outcome.kind == OutcomeKind::DeploySucceeded)
    }

    /// It left every host as it was: nothing of it serves anywhere.
    fn left_no_trace(&self) -> bool {
        if self.view.is_undone() {
            return true;
        }
        let harmless = |kind| {
            matches!(
                kind,
                OutcomeKind::DeployFailed
                    | OutcomeKind::DeployRolledBack
                    | OutcomeKind::DeployRefused
                    | OutcomeKind::DeploySuperseded
            )
        };
        self.view.is_ended()
            && self.view.hosts.values().all(|host| host.end().is_none_or(|outcome| harmless(outcome.kind)))
    }

    /// A rollback is as old as what it went back to, so that two rollbacks in a row go back two releases.
    fn age(&self) -> Counter {
        match self.promotion().intent {
            Intent::Promote | Intent::Remove => self.counter(),
            Intent::Rollback { to } => to,
        }
    }

    fn deploys_the_same_as(&self, other: &Self) -> bool {
        let [one, two] =
            [self, other].map(|past| (&past.promotion().images, &past.promotion().bundle, &past.promotion().variables));
        one == two
    }
}

/// The promotion to go back to.
pub fn choose<'a>(past: &'a [Past], to: Option<&To>, app: &AppName, env: &EnvName) -> Result<&'a Past, CliError> {
    let see = format!("see `landfall history {app} --env {env}`");
    if let Some(To(to)) = to {
        return named(past, to)
            .ok_or_else(|| CliError::usage(format!("{app} has no promotion {to} in {env}")).hint(see));
    }
    // What failed everywhere was undone already; what serves is the newest that was not.
    let serving = past.iter().rev().find(|one| !one.left_no_trace());
    let serving = serving.ok_or_else(|| {
        CliError::new(format!("nothing of {app} serves in {env}, so there is nothing to go back from"))
            .hint(see.clone())
    })?;
    let age = serving.age();
    past.iter().rev().find(|one| one.counter() < age && one.worked() && !one.deploys_the_same_as(serving)).ok_or_else(
        || {
            let message = format!("no release of {app} before {} (promotion {age}) worked in {env}", serving.release());
            CliError::new(message).hint(format!("{see}, and name one with --to"))
        },
    )
}

/// A warning when it is not sure that it worked.
///
/// # Errors
/// When it never did: a rollback passes freezes and condemnations, and the hosts would not take this for one.
pub fn check(target: &Past) -> Result<Option<String>, CliError> {
    let Promotion { app, env, release, counter, .. } = target.promotion();
    let what = format!("{app} {release} (promotion {counter})");
    if target.worked() {
        Ok(None)
    } else if target.serves_somewhere() {
        Ok(Some(format!("{what} succeeded on some of its hosts only")))
    } else if target.claimed {
        Ok(Some(format!(
            "that {what} worked cannot be verified: the key that signed it is not known here as the host's"
        )))
    } else {
        let hint = format!("choose another with `landfall history {app} --env {env}`, or promote it again");
        Err(CliError::new(format!("{what} never worked, so it is nothing to go back to"))
            .hint(hint)
            .exit(ExitCode::Refused))
    }
}

fn named<'a>(past: &'a [Past], to: &str) -> Option<&'a Past> {
    let counter = to.strip_prefix('#').unwrap_or(to).parse().map(Counter).ok();
    let by_counter = past.iter().find(|one| Some(one.counter()) == counter);
    by_counter.or_else(|| {
        // The newest that worked, if any: a release may have been tried more than once.
        let of_release = || past.iter().rev().filter(|one| one.release().as_str() == to);
        of_release().find(|one| one.worked()).or_else(|| of_release().next())
    })
}

#[cfg(test)]
#[path = "target/tests.rs"]
mod tests;
