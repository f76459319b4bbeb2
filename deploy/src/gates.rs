//! Whether the rules of its environment let a promotion begin. Pure: everything that was read is an argument, and was believed before.
//!
//! In reading order: [`documents`] believes what was read; [`judge`] asks the rules one after the other; [`evidence`], [`approvals`] and
//! [`freeze`] are the rules.

pub mod approvals;
pub mod documents;
pub mod evidence;
pub mod freeze;

use landfall_schema::Timestamp;
use landfall_schema::gates::{Absolution, Approval, Condemned, CondemnedList, EnvironmentPolicy, Freeze, fingerprint};
use landfall_schema::ids::{Digest, EnvName, EventId};
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::promotion::{Intent, Promotion};
use landfall_schema::signature::PublicKey;

use approvals::Approvals;
use freeze::What;

/// What the rules say now. Whatever is said later can change it, until it is `Refuse`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    Pass,
    /// `on` is one line for people, and `hint` what they can do; at `until` at the latest it is worth asking again.
    Wait {
        on: String,
        hint: String,
        until: Timestamp,
    },
    Refuse(Reason),
}

/// Something that was said, and every known key that signed exactly that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said<T> {
    pub data: T,
    pub signers: Vec<PublicKey>,
}

/// Rules that are kept here and that the bus has lost: it has none in their place, or older ones. Whoever does what a rule asks for reads the
/// bus, and finds there that nothing is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    pub policy: bool,
    pub freezes: bool,
}

/// All that a judgement depends on.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    pub promotion: &'a Promotion,
    /// The id of the promotion's event.
    pub id: EventId,
    /// Of the promotion's exact bytes.
    pub digest: &'a Digest,
    /// Every key that signed the promotion and that a rule names.
    pub promoted_by: &'a [PublicKey],
    pub now: Timestamp,
    pub condemned: Option<&'a CondemnedList>,
    pub absolved: &'a [Absolution],
    pub policy: Option<&'a EnvironmentPolicy>,
    pub freezes: &'a [Freeze],
    pub lost: Lost,
    pub approval: Option<&'a Said<Approval>>,
    /// It is a rollback to something that served here before, so it was let through once already.
    pub is_way_back: bool,
    /// It is a rollback to something that other hosts have signed to have worked. That is enough to be let through a freeze; whether people
    /// have agreed to it on this host is another question.
    pub has_worked: bool,
}

/// Condemned, proven elsewhere, rejected, approved, frozen: in this order.
pub fn judge(facts: &Facts<'_>) -> Gate {
    match facts.refusal() {
        Some(reason) => Gate::Refuse(reason),
        None => match facts.hindrance() {
            Ok(None) => Gate::Pass,
            Ok(Some(hindrance)) => facts.wait(hindrance),
            Err(reason) => Gate::Refuse(reason),
        },
    }
}

/// Something that may go away by itself, or by what people do.
struct Hindrance {
    code: ReasonCode,
    on: String,
    hint: String,
    /// What must be said anew before the hint leads anywhere.
    lost: Option<String>,
    until: Option<Timestamp>,
}

impl Facts<'_> {
    /// Back to what worked, which is urgent. That it calls itself a rollback is not enough: what never worked would come through as well.
    fn is_rollback(&self) -> bool {
        matches!(self.promotion.intent, Intent::Rollback { .. }) && (self.is_way_back || self.has_worked)
    }

    /// What no waiting changes.
    fn refusal(&self) -> Option<Reason> {
        if self.promotion.intent == Intent::Remove {
            return None;
        }
        if let Some(reason) = self.condemnation() {
            return Some(reason);
        }
        let policy = self.policy.filter(|_| !self.is_way_back)?;
        if let Some(rule) = &policy.requires
            && let Err(reason) = evidence::check(self.promotion, rule, &policy.author)
        {
            return Some(self.with_loss(reason));
        }
        match self.approvals(policy)? {
            Approvals::Rejected { by, note } => {
                Some(self.with_loss(rejected(self.promotion, &by, &note, &policy.author)))
            }
            Approvals::Impossible { people, need } => {
                Some(impossible_rule(&self.promotion.env, people, need, &policy.author))
            }
            Approvals::Enough | Approvals::Missing { .. } => None,
        }
    }

    fn lost_policy(&self) -> Option<String> {
        let env = &self.promotion.env;
        self.lost
            .policy
            .then(|| format!("the bus has lost this policy: `landfall policy apply FILE --env {env}` says it anew"))
    }

    /// Who looks on the bus would find nothing of the policy that this is of.
    fn with_loss(&self, reason: Reason) -> Reason {
        match self.lost_policy() {
            Some(lost) => Reason { message: format!("{}; {lost}", reason.message), ..reason },
            None => reason,
        }
    }

    fn condemnation(&self) -> Option<Reason> {
        if self.is_rollback() {
            return None;
        }
        let entry = self.condemned?.forbids(&fingerprint(self.promotion), self.absolved)?;
        Some(condemned(self.promotion, entry))
    }

    fn approvals(&self, policy: &EnvironmentPolicy) -> Option<Approvals> {
        let rule = policy.approvals.as_ref()?;
        Some(approvals::count(rule, self.id, self.digest, self.approval, self.promoted_by))
    }

    fn hindrance(&self) -> Result<Option<Hindrance>, Reason> {
        if self.promotion.intent == Intent::Remove {
            return Ok(None);
        }
        if let Some(policy) = self.policy.filter(|_| !self.is_way_back)
            && let Some(Approvals::Missing { have, need, waiting_for }) = self.approvals(policy)
        {
            return Ok(Some(self.unapproved(policy, have, need, &waiting_for)));
        }
        if self.is_rollback() {
            return Ok(None);
        }
        let windows = self.policy.map(|policy| (policy.freeze_windows.as_slice(), policy.author.as_str()));
        let active = freeze::active(self.freezes, windows, &self.promotion.app, self.now)
            .map_err(|error| unusable_window(self.promotion, &error))?;
        Ok(active.map(|active| self.frozen(&active)))
    }

    fn unapproved(&self, policy: &EnvironmentPolicy, have: u32, need: u32, waiting_for: &[String]) -> Hindrance {
        let Promotion { env, app, .. } = self.promotion;
        let whom = match waiting_for {
            [] => "and nobody is left who may approve".to_owned(),
            names => format!("waiting for {}", names.join(", ")),
        };
        Hindrance {
            code: ReasonCode::NotApproved,
            on: format!("{have} of {need} approvals for {env} (policy by {}), {whom}", policy.author),
            hint: format!("`landfall approve {app} --env {env}`"),
            lost: self.lost_policy(),
            until: None,
        }
    }

    fn frozen(&self, active: &freeze::Active) -> Hindrance {
        let Promotion { env, app, .. } = self.promotion;
        let freeze::Active { what, by, until, reason } = active;
        let lost_freeze = || {
            let end = format!("`landfall unfreeze --all --env {env}` ends it, and `landfall freeze` says it anew");
            self.lost.freezes.then(|| format!("the bus has lost this freeze: {end}"))
        };
        let (what, end, lost) = match what {
            What::Freeze { app: None } => ("a freeze", format!("landfall unfreeze --env {env}"), lost_freeze()),
            What::Freeze { app: Some(of) } => {
                ("a freeze", format!("landfall unfreeze --app {of} --env {env}"), lost_freeze())
            }
            What::Window => ("a freeze window", format!("landfall policy apply FILE --env {env}"), self.lost_policy()),
        };
        Hindrance {
            code: ReasonCode::Frozen,
            on: format!("{env} is frozen until {until:.0} by {what} of {by}: {reason}"),
            hint: format!("wait for its end, or ask {by}: `{end}`; `landfall rollback {app} --env {env}` passes"),
            lost,
            until: Some(*until),
        }
    }

    /// What is waited for in vain until the promotion expires forbids it in the end.
    fn wait(&self, hindrance: Hindrance) -> Gate {
        let Hindrance { code, on, hint, lost, until } = hindrance;
        let expires_at = self.promotion.expires_at;
        if self.now < expires_at {
            let until = until.map_or(expires_at, |until| until.min(expires_at));
            let on = match lost {
                Some(lost) => format!("{on}; {lost}"),
                None => on,
            };
            return Gate::Wait { on, hint, until };
        }
        let text = format!("the promotion expired at {expires_at:.0} while it waited: {on}");
        let hint = match lost {
            Some(lost) => format!("{lost}; then promote it again"),
            None => format!("promote it again; then: {hint}"),
        };
        Gate::Refuse(Reason::new(code, text).hint(hint))
    }
}

fn condemned(promotion: &Promotion, entry: &Condemned) -> Reason {
    let Promotion { env, app, .. } = promotion;
    let Condemned { counter, release, cause, host, .. } = entry;
    let text = format!(
        "{env} has condemned what this promotion runs: {release} (promotion {counter}) was rolled back, says {host}: {}",
        cause.message
    );
    let hint = format!(
        "promote a release that works; if it was not the release's fault: `landfall absolve {app} {} --env {env} --reason …`",
        counter.0
    );
    Reason::new(ReasonCode::Condemned, text).hint(hint)
}

fn rejected(promotion: &Promotion, by: &str, note: &str, author: &str) -> Reason {
    let Promotion { env, app, counter, release, .. } = promotion;
    let why = if note.is_empty() { String::new() } else { format!(": {note}") };
    let text = format!(
        "{by} rejected {app} {release} (promotion {counter}), as the policy of {env} by {author} lets them{why}"
    );
    Reason::new(ReasonCode::Rejected, text).hint(format!("talk to {by}, then promote again"))
}

/// What to do about a rule that asks for more people than it names.
pub fn impossible_rule(env: &EnvName, people: usize, need: u32, author: &str) -> Reason {
    let text =
        format!("{env} needs {need} approvals (policy by {author}), and its policy names {people} different people");
    Reason::new(ReasonCode::PolicyUnreadable, text)
        .hint(format!("mend it and run `landfall policy apply FILE --env {env}`"))
}

fn unusable_window(promotion: &Promotion, error: &freeze::WindowError) -> Reason {
    let env = &promotion.env;
    Reason::new(ReasonCode::PolicyUnreadable, format!("a freeze window of the policy of {env} is not usable: {error}"))
        .hint(format!("mend it and run `landfall policy apply FILE --env {env}`"))
}

#[cfg(test)]
mod tests;
