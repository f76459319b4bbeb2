//! `landfall rollback`: back to the last release that worked, as a new promotion with the older images, compose file and variables.

pub mod schema;
pub mod target;

use clap::Args;
use landfall_bus::Bus;
use landfall_schema::Timestamp;
use landfall_schema::ids::{AppName, EnvName};
use landfall_schema::outcome::Outcome;
use landfall_schema::promotion::{Intent, OnFailure, Promotion};
use landfall_schema::subject;

use crate::error::{CliError, ExitCode};
use crate::host_keys::{self, Believed};
use crate::plan::{self, HostKeys};
use crate::promote::{RolloutArgs, announce, show};
use crate::promoters::{Promoters, Trust};
use crate::publish;
use crate::reading;
use crate::rollback::target::{Past, To, choose};
use crate::rollout_args::Defaults;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct RollbackArgs {
    #[arg(value_name = "APP")]
    pub app: AppName,
    /// Go back to this promotion (#3) or release (v2). Default: the last one that worked before what serves now
    #[arg(long, value_name = "COUNTER|RELEASE")]
    pub to: Option<To>,
    #[command(flatten)]
    pub rollout: RolloutArgs,
    /// Show what would be promoted, publish nothing
    #[arg(long)]
    pub dry_run: bool,
}

pub async fn run(args: RollbackArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let env = cli.env()?.clone();
    let app = cli.app(&args.app)?;
    let key = cli.signing_key()?;
    // A rollback is urgent, so it has no waves unless somebody asks for them; and there is nothing to go back to from it.
    let options = args.rollout.options(&Defaults { on_failure: OnFailure::Hold, ..Defaults::default() })?;
    let bus = cli.bus().await?;
    let known = plan::known(&bus, &env, &cli.output).await?;
    let keys = HostKeys::new(&cli.settings.host_keys, &known);
    let past = read_past(&bus, &env, &app, &keys, cli).await?;
    let target = choose(&past, args.to.as_ref(), &app, &env)?;
    if let Some(warning) = target::check(target)? {
        cli.output.warn(warning);
    }
    let target = target.promotion().clone();
    schema::check(&past, &target, &schema::migrations(&bus, &past, &keys, cli).await?)?;
    // Hosts keep the files of their last releases, but a new host needs them from the bus.
    bus.get_bundle(&target.bundle).await?;
    let subject =
        plan::Subject { env: &env, app: &app, preview_of: target.preview.as_ref().map(|preview| &preview.of) };
    let planned = plan::make(&subject, &options, &known, keys, Timestamp::now())?;
    let place = publish::next_place(&bus, &env, &app, &known, &cli.output).await?;
    let event = publish::event(Promotion {
        counter: place.counter,
        intent: Intent::Rollback { to: target.counter },
        plan: planned.plan.clone(),
        // What it carries is complete, and all of it is meant.
        only: Default::default(),
        author: args.rollout.author(),
        link: args.rollout.link(),
        expires_at: args.rollout.expires_at()?,
        ..target
    });
    if args.dry_run {
        show(&event, &planned, cli)?;
        cli.output.note("nothing was published");
        return Ok(ExitCode::Done);
    }
    cli.output.note(format!("going back to {} (promotion {})", event.data.release, target.counter));
    announce(&bus, &event, &key, place, &planned, args.rollout.wait(), cli).await
}

/// Every promotion of the application that somebody signed, with what hosts said of it.
pub async fn read_past(
    bus: &Bus,
    env: &EnvName,
    app: &AppName,
    keys: &HostKeys,
    cli: &Session,
) -> Result<Vec<Past>, CliError> {
    let promoters = Promoters::of(cli);
    let mut past: Vec<Past> = Vec::new();
    for message in bus.promotions(env, Some(app)).await? {
        let Some(read) = reading::promotion(&message) else { continue };
        let counter = read.event.data.counter;
        // Its content is signed again with our key, so it must at least be what its signer wrote. Whether the signer may promote is
        // for the hosts, where the context does not say: only what they took and proved counts as having worked.
        let trust = promoters.trust(&message);
        if trust == Trust::Stranger {
            cli.output
                .warn(format!("promotion {counter} of {app} is left out: no promoter that is trusted here signed it"));
            continue;
        }
        // What hosts said is about the first of this id: who copies it later has not made what they took.
        if past.iter().any(|known| known.id() == read.event.id) {
            continue;
        }
        past.push(Past::signed(&read.event, trust));
    }
    let mut said = bus.outcomes_so_far(&subject::terminal_filter(env, Some(app))).await?;
    said.extend(bus.outcomes_so_far(&subject::rollout_filter(env, Some(app))).await?);
    let plans = past.iter().filter_map(Past::plan);
    let by_plan = host_keys::by_promotion(bus, plans, keys, &cli.output).await;
    let keys = |outcome: &Outcome| Some(by_plan.get(&outcome.promotion).unwrap_or(keys));
    let believed = Believed::sort(&said, keys, &cli.output);
    for one in &mut past {
        believed.proven.iter().for_each(|read| one.fold(&read.event.data));
        let doubtful = believed.claimed.iter().chain(&believed.disowned);
        doubtful.for_each(|read| one.fold_claim(&read.event.data));
    }
    Ok(past)
}
