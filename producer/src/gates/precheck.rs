//! Asks the environment's rules before a promotion is published. The hosts ask them again, and theirs is the last word.

use landfall_bus::Bus;
use landfall_deploy::gates::approvals::impossible;
use landfall_deploy::gates::{Facts, Gate, Lost, judge};
use landfall_schema::Timestamp;
use landfall_schema::event::CloudEvent;
use landfall_schema::gates::{EnvironmentPolicy, fingerprint};
use landfall_schema::ids::Digest;
use landfall_schema::outcome::Reason;
use landfall_schema::promotion::{Intent, Promotion};
use landfall_schema::signature::PublicKey;

use super::reading;
use crate::error::{CliError, ExitCode};
use crate::session::Session;

/// # Errors
/// The rule that forbids it, with exit code 6; nothing is published then.
pub async fn check(bus: &Bus, event: &CloudEvent<Promotion>, cli: &Session) -> Result<(), CliError> {
    let promotion = &event.data;
    let Promotion { env, app, .. } = promotion;
    if promotion.intent == Intent::Remove {
        return Ok(());
    }
    let policy = reading::policy(bus, env, cli).await?.data;
    let freezes = reading::freezes(bus, env, cli).await?.data.unwrap_or_default();
    let condemned = match reading::condemned(bus, env, app).await {
        Ok(condemned) => condemned,
        Err(error) => {
            cli.output.warn(error.message);
            None
        }
    };
    let absolved = match &condemned {
        Some(list) if list.forbids(&fingerprint(promotion), &[]).is_some() => {
            reading::absolutions(bus, env, app, cli).await?.data.map(|said| said.absolved).unwrap_or_default()
        }
        _ => Vec::new(),
    };
    // Nobody can have approved what is not published yet; a rule that nobody can fulfil is told at once.
    let before_approvals = policy.clone().map(|policy| EnvironmentPolicy {
        approvals: policy.approvals.filter(|rule| impossible(rule).is_some()),
        ..policy
    });
    let gate = judge(&Facts {
        promotion,
        id: event.id,
        digest: &Digest::of(b""),
        promoted_by: &[],
        now: Timestamp::now(),
        condemned: condemned.as_ref(),
        absolved: &absolved,
        policy: before_approvals.as_ref(),
        freezes: &freezes,
        lost: Lost::default(),
        approval: None,
        // `landfall rollback` has looked whether it ever worked; on which host, the hosts know best.
        is_way_back: matches!(promotion.intent, Intent::Rollback { .. }),
        has_worked: false,
    });
    match gate {
        Gate::Pass => {}
        Gate::Wait { on, hint, .. } => return Err(refused(promotion, &on).hint(hint)),
        Gate::Refuse(Reason { message, hint, .. }) => {
            let error = refused(promotion, &message);
            return Err(match hint {
                Some(hint) => error.hint(hint),
                None => error,
            });
        }
    }
    let rule = policy.and_then(|policy| policy.approvals).filter(|rule| rule.need > 0);
    if let (Some(rule), Intent::Promote) = (rule, &promotion.intent) {
        let names: Vec<&str> = rule.of.iter().map(|approver| approver.name.as_str()).collect();
        cli.output.note(format!(
            "{env} needs {} of {} to approve: `landfall approve {app} {} --env {env}`",
            rule.need,
            names.join(", "),
            promotion.counter.0
        ));
    }
    Ok(())
}

/// For what it waits by the environment's rules, now that it is published; approvals count.
///
/// # Errors
/// When the rules cannot be read.
pub async fn waits(bus: &Bus, event: &CloudEvent<Promotion>, cli: &Session) -> Result<Option<String>, CliError> {
    let promotion = &event.data;
    let Promotion { env, app, counter, .. } = promotion;
    if promotion.intent != Intent::Promote {
        return Ok(None);
    }
    let policy = reading::policy(bus, env, cli).await?.data;
    let freezes = reading::freezes(bus, env, cli).await?.data.unwrap_or_default();
    let rule = policy.as_ref().and_then(|policy| policy.approvals.as_ref());
    let approvers: Vec<PublicKey> =
        rule.map(|rule| rule.of.iter().map(|approver| approver.key.clone()).collect()).unwrap_or_default();
    let published = reading::promoted(bus, env, app, Some(*counter), cli).await?;
    let word = reading::word(bus, env, app, &approvers, cli).await?;
    let gate = judge(&Facts {
        promotion,
        id: event.id,
        digest: &Digest::of(&published.body),
        promoted_by: &published.signers(),
        now: Timestamp::now(),
        condemned: None,
        absolved: &[],
        policy: policy.as_ref(),
        freezes: &freezes,
        lost: Lost::default(),
        approval: word.said.as_ref(),
        is_way_back: false,
        has_worked: false,
    });
    Ok(match gate {
        Gate::Wait { on, .. } => Some(on),
        Gate::Pass | Gate::Refuse(_) => None,
    })
}

fn refused(promotion: &Promotion, why: &str) -> CliError {
    let Promotion { env, app, release, .. } = promotion;
    CliError::new(format!("{app} {release} was not promoted to {env}: {why}")).exit(ExitCode::Refused)
}
