//! `landfall promote --from`: what has succeeded in one environment goes to another. Nothing is built or resolved again: images, compose files
//! and variables are those that ran there, and what its hosts signed travels along as evidence.

use landfall_bus::Bus;
use landfall_schema::Timestamp;
use landfall_schema::event::CloudEvent;
use landfall_schema::gates::{EVIDENCE_HOSTS_MAX, Evidence};
use landfall_schema::ids::{AppName, EnvName, HostName};
use landfall_schema::outcome::Outcome;
use landfall_schema::promotion::{Intent, Promotion};
use landfall_schema::signature::DsseEnvelope;
use landfall_schema::subject;

use super::{PromoteArgs, announce, no_app, show};
use crate::context::Settings;
use crate::error::{CliError, ExitCode};
use crate::gates::{precheck, reading};
use crate::plan::{self, HostKeys};
use crate::publish;
use crate::rollback::{read_past, target::Past};
use crate::rollout_args::Defaults;
use crate::session::Session;

pub async fn run(args: &PromoteArgs, from: &EnvName, cli: &Session) -> Result<ExitCode, CliError> {
    let cli = &to(args, cli);
    let env = cli.env()?.clone();
    if env == *from {
        return Err(CliError::usage(format!("--from and --to are both {from}")).hint("name the other with --to ENV"));
    }
    let app = args.app.clone().ok_or_else(no_app)?;
    let key = cli.signing_key()?;
    let bus = cli.bus().await?;
    let proven = last_succeeded(&bus, from, &app, cli).await?;
    let options = args.rollout.options(&Defaults::default())?;
    let known = plan::known(&bus, &env, &cli.output).await?;
    let keys = HostKeys::new(&cli.settings.host_keys, &known);
    let planned = plan::make(
        &plan::Subject { env: &env, app: &app, preview_of: None },
        &options,
        &known,
        keys,
        Timestamp::now(),
    )?;
    let place = publish::next_place(&bus, &env, &app, &known, &cli.output).await?;
    let evidence = evidence(&bus, &proven).await?;
    let mut variables = proven.event.data.variables.clone();
    variables.extend(args.variables.iter().cloned());
    let event = publish::event(Promotion {
        release: args.release.clone().unwrap_or_else(|| proven.event.data.release.clone()),
        plan: planned.plan.clone(),
        author: args.rollout.author(),
        link: args.rollout.link(),
        expires_at: args.rollout.expires_at()?,
        env,
        counter: place.counter,
        intent: Intent::Promote,
        // What it carries is complete, and all of it is meant.
        only: Default::default(),
        variables,
        evidence: Some(evidence),
        ..proven.event.data.clone()
    });
    cli.output.note(format!(
        "{app} {} as it succeeded in {from} as promotion {}",
        event.data.release, proven.event.data.counter
    ));
    if args.dry_run {
        show(&event, &planned, cli)?;
        precheck::check(&bus, &event, cli).await?;
        cli.output.note("nothing was published");
        return Ok(ExitCode::Done);
    }
    announce(&bus, &event, &key, place, &planned, args.rollout.wait(), cli).await
}

/// The session of the environment that it goes to.
fn to(args: &PromoteArgs, cli: &Session) -> Session {
    let settings = match &args.to {
        Some(to) => {
            Settings { env: Some(to.clone()), named_env: Some(to.clone()), preview: None, ..cli.settings.clone() }
        }
        None => cli.settings.clone(),
    };
    Session { settings, output: cli.output.clone() }
}

/// The newest promotion there that succeeded on every host of its plan.
async fn last_succeeded(
    bus: &Bus,
    from: &EnvName,
    app: &AppName,
    cli: &Session,
) -> Result<reading::Promoted, CliError> {
    let known = plan::known(bus, from, &cli.output).await?;
    let keys = HostKeys::new(&cli.settings.host_keys, &known);
    let past = read_past(bus, from, app, &keys, cli).await?;
    let worked = past.iter().rev().find(|one| one.worked()).map(Past::counter);
    let counter = worked.ok_or_else(|| {
        CliError::new(format!("no release of {app} has succeeded in {from}"))
            .hint(format!(
                "see `landfall history {app} --env {from}`; then `landfall promote {app} --env {from} --wait`"
            ))
            .exit(ExitCode::Refused)
    })?;
    reading::promoted(bus, from, app, Some(counter), cli).await
}

/// What the hosts of that promotion signed, of at most [`EVIDENCE_HOSTS_MAX`]. What is missing is for the rules to tell.
async fn evidence(bus: &Bus, proven: &reading::Promoted) -> Result<Evidence, CliError> {
    let unusable = |error| {
        CliError::new("a signature of the evidence is not usable")
            .because(&error)
            .hint("let it succeed there once more, then promote it from there")
    };
    let Promotion { env, app, plan, .. } = &proven.event.data;
    let hosts: Vec<&HostName> = plan.hosts().take(EVIDENCE_HOSTS_MAX).collect();
    let mut outcomes = Vec::new();
    for kind in landfall_deploy::gates::evidence::REQUIRED {
        for said in bus.outcomes_so_far(&subject::outcome_kind_filter(env, app, kind)).await? {
            let Ok(event) = CloudEvent::<Outcome>::decode(&said.body, &kind.event_type()) else {
                continue;
            };
            if event.data.promotion == proven.event.id && hosts.contains(&&event.data.host) {
                outcomes.push(DsseEnvelope::published(&said.body, said.signature.as_deref()).map_err(unusable)?);
            }
        }
    }
    let promotion = DsseEnvelope::published(&proven.body, proven.signature.as_deref()).map_err(unusable)?;
    Ok(Evidence { promotion, outcomes })
}
