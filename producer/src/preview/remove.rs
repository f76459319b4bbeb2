//! `landfall preview rm`: a promotion that takes a preview's stack away wherever it may be.

use clap::Args;
use landfall_schema::Timestamp;
use landfall_schema::ids::AppName;
use landfall_schema::promotion::{Intent, Promotion, RolloutPlan};

use crate::error::{CliError, ExitCode};
use crate::plan::{self, HostKeys};
use crate::promote::{RolloutArgs, announce};
use crate::publish;
use crate::reading;
use crate::rollout_args::{Defaults, Wait};
use crate::session::Session;
use crate::target::preview_app;

#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The application that it is a preview of
    #[arg(value_name = "APP")]
    pub app: AppName,
    /// What it is called, e.g. pr-123
    #[arg(value_name = "NAME")]
    pub name: AppName,
    /// Follow every host to its end, and exit by the outcome
    #[arg(long, short)]
    pub wait: bool,
}

pub async fn run(args: RemoveArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let env = cli.preview_env()?;
    let app = preview_app(&args.app, &args.name)?;
    let key = cli.signing_key()?;
    let bus = cli.bus().await?;
    let last = bus.latest_promotion(&env, &app).await?;
    let Some(last) = last.as_ref().and_then(reading::promotion).map(|read| read.event.data) else {
        return Err(CliError::new(format!("there was never a preview {} of {} in {env}", args.name, args.app))
            .hint(format!("`landfall preview list --env {env}` shows those that there are")));
    };
    if last.preview.is_none() {
        return Err(CliError::new(format!("{app} in {env} is no preview, so it is not taken away"))
            .hint("only what was promoted with --env preview/NAME can be removed"));
    }
    if last.intent == Intent::Remove {
        cli.output.note(format!("the preview {} of {} was taken away already", args.name, args.app));
        return Ok(ExitCode::Done);
    }
    let known = plan::known(&bus, &env, &cli.output).await?;
    let keys = HostKeys::new(&cli.settings.host_keys, &known);
    let subject = plan::Subject { env: &env, app: &app, preview_of: Some(&args.app) };
    let rollout = RolloutArgs::default();
    let options = rollout.options(&Defaults::default())?;
    let mut planned = plan::make(&subject, &options, &known, keys, Timestamp::now())?;
    // Each host clears away by itself: none waits for another, and none puts back what is gone.
    planned.act_alone();
    // A host that lost interest may still have it; the labels of the promotion are no reason to keep it.
    planned.plan = RolloutPlan { only_named: false, labels: Default::default(), ..planned.plan };
    let place = publish::next_place(&bus, &env, &app, &known, &cli.output).await?;
    let event = publish::event(Promotion {
        counter: place.counter,
        intent: Intent::Remove,
        plan: planned.plan.clone(),
        only: Default::default(),
        author: rollout.author(),
        link: rollout.link(),
        // However long a host was away: what is to be gone is gone when it is back.
        expires_at: crate::rollout_args::after("the removal", REMOVAL_EXPIRES_MS)?,
        ..last
    });
    announce(&bus, &event, &key, place, &planned, args.wait.then(Wait::default), cli).await
}

/// Ten years.
const REMOVAL_EXPIRES_MS: u64 = 10 * 365 * 24 * 60 * 60 * 1000;
