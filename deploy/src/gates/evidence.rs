//! Whether a promotion carries proof that the same release works in another environment.

use landfall_schema::event::{CloudEvent, TYPE_PROMOTED};
use landfall_schema::gates::{EVIDENCE_HOSTS_MAX, Requirement};
use landfall_schema::ids::HostName;
use landfall_schema::outcome::{Outcome, OutcomeKind, Reason, ReasonCode};
use landfall_schema::promotion::{Intent, Promotion};
use landfall_schema::signature::{DsseEnvelope, PublicKey, SignatureError};

/// What each host must have said.
pub const REQUIRED: [OutcomeKind; 2] = [OutcomeKind::DeploySucceeded, OutcomeKind::SmokePassed];

/// The promotion over there must be signed by one of its promoters, with the same digest for every image and the same compose files; and
/// every host of its plan, the first [`EVIDENCE_HOSTS_MAX`] at most, must have signed that it succeeded, smoke tests included, and that
/// exactly these digests serve.
///
/// # Errors
/// [`ReasonCode::NotProvenElsewhere`], which says what is wrong.
pub fn check(promotion: &Promotion, rule: &Requirement, author: &str) -> Result<(), Reason> {
    let case = Case { promotion, rule, author };
    let Some(evidence) = &promotion.evidence else {
        return Err(case.refuse("the promotion carries no evidence"));
    };
    let proven = case.proven(&evidence.promotion)?;
    case.same_release(&proven.data)?;
    let hosts: Vec<&HostName> = proven.data.plan.hosts().take(EVIDENCE_HOSTS_MAX).collect();
    if hosts.is_empty() {
        return Err(case.refuse(format!("the plan of {} names no host", case.which(&proven.data))));
    }
    for host in hosts {
        let Some(key) = rule.host_keys.get(host) else {
            let text = format!("{host}, where it ran, is none of the hosts of {} that the policy knows", rule.env);
            let hint = format!(
                "if {host} belongs there, set the policy anew: `landfall policy apply FILE --env {}`",
                promotion.env
            );
            return Err(case.refuse(text).hint(hint));
        };
        for kind in REQUIRED {
            let outcome = case.outcome(&proven, host, key, kind, &evidence.outcomes)?;
            if kind == OutcomeKind::DeploySucceeded {
                case.same_running(&outcome)?;
            }
        }
    }
    Ok(())
}

struct Case<'a> {
    promotion: &'a Promotion,
    rule: &'a Requirement,
    author: &'a str,
}

impl Case<'_> {
    fn refuse(&self, what: impl AsRef<str>) -> Reason {
        let Promotion { env, app, .. } = self.promotion;
        let from = &self.rule.env;
        let text = format!("{env} takes what {from} has proven (policy by {}), but {}", self.author, what.as_ref());
        let hint = format!("let it succeed in {from}, then `landfall promote {app} --from {from} --to {env}`");
        Reason::new(ReasonCode::NotProvenElsewhere, text).hint(hint)
    }

    fn which(&self, proven: &Promotion) -> String {
        format!("{} promotion {} of {}", proven.env, proven.counter, proven.app)
    }

    fn proven(&self, envelope: &DsseEnvelope) -> Result<CloudEvent<Promotion>, Reason> {
        let from = &self.rule.env;
        let (body, _) = envelope.open(&self.rule.promoters).map_err(|error| {
            self.refuse(format!("the evidence's promotion is not signed by anybody who may promote to {from}: {error}"))
        })?;
        CloudEvent::decode(&body, TYPE_PROMOTED)
            .map_err(|error| self.refuse(format!("the evidence's promotion cannot be read: {error}")))
    }

    fn same_release(&self, proven: &Promotion) -> Result<(), Reason> {
        let Promotion { app, .. } = self.promotion;
        let from = &self.rule.env;
        if proven.env != *from {
            return Err(self.refuse(format!("the evidence is of {}", proven.env)));
        }
        if proven.app != *app {
            return Err(self.refuse(format!("the evidence is of the application {}", proven.app)));
        }
        if proven.intent == Intent::Remove || proven.preview.is_some() {
            return Err(self.refuse("the evidence is of a preview"));
        }
        for (service, image) in &self.promotion.images {
            let there = proven.images.get(service).map(|image| &image.digest);
            if there != Some(&image.digest) {
                let ran = there.map_or("nothing".to_owned(), |digest| format!("sha256:{}…", digest.short()));
                let text = format!(
                    "service {service} is sha256:{}… here and {ran} in {}",
                    image.digest.short(),
                    self.which(proven)
                );
                return Err(self.refuse(text));
            }
        }
        if proven.bundle.digest != self.promotion.bundle.digest {
            return Err(self.refuse(format!("the compose files are not those of {}", self.which(proven))));
        }
        Ok(())
    }

    fn outcome(
        &self,
        proven: &CloudEvent<Promotion>,
        host: &HostName,
        key: &PublicKey,
        kind: OutcomeKind,
        envelopes: &[DsseEnvelope],
    ) -> Result<Outcome, Reason> {
        let mut forged: Option<SignatureError> = None;
        for envelope in envelopes {
            let Some(claimed) = claims(envelope) else { continue };
            if claimed.host != *host || claimed.kind != kind {
                continue;
            }
            let body = match envelope.open(std::slice::from_ref(key)) {
                Ok((body, _)) => body,
                Err(error) => {
                    forged = Some(error);
                    continue;
                }
            };
            let Some(event) = read(&body) else { continue };
            let outcome = event.data;
            let belongs =
                outcome.promotion == proven.id && outcome.env == proven.data.env && outcome.app == proven.data.app;
            if belongs && event.kind == kind.event_type() {
                return Ok(outcome);
            }
        }
        let which = self.which(&proven.data);
        Err(self.refuse(match forged {
            Some(error) => format!("the {kind} of {host} for {which} was not signed by {host}: {error}"),
            None if kind == OutcomeKind::SmokePassed => {
                format!("no smoke test passed on {host} for {which} (the evidence has no {kind})")
            }
            None => format!("{host} has not signed {kind} for {which}"),
        }))
    }

    /// What the engine there says that it runs, and not only what was promised.
    fn same_running(&self, outcome: &Outcome) -> Result<(), Reason> {
        if outcome.running.is_empty() {
            return Err(self.refuse(format!("{} does not say what it ran", outcome.host)));
        }
        for (service, running) in &outcome.running {
            let wanted = self.promotion.images.get(service).map(|image| &image.digest);
            if wanted.is_some_and(|wanted| wanted != running) {
                let text = format!("service {service} ran sha256:{}… on {}", running.short(), outcome.host);
                return Err(self.refuse(text));
            }
        }
        Ok(())
    }
}

fn read(body: &[u8]) -> Option<CloudEvent<Outcome>> {
    CloudEvent::decode_where(body, "an outcome", |kind| OutcomeKind::from_event_type(kind).is_some()).ok()
}

/// What the envelope says that it is, before it was believed.
fn claims(envelope: &DsseEnvelope) -> Option<Outcome> {
    read(&envelope.unverified_payload()?).map(|event| event.data)
}
