//! `landfall absolve`: what hosts have condemned may be promoted again.

use clap::Args;
use landfall_schema::Timestamp;
use landfall_schema::event::TYPE_ABSOLVED;
use landfall_schema::gates::{Absolution, Absolutions, Condemned};
use landfall_schema::ids::AppName;
use landfall_schema::subject;

use super::reading;
use super::saying::{self, SpeakerArgs, parse_note};
use crate::error::{CliError, ExitCode};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct AbsolveArgs {
    #[arg(value_name = "APP")]
    pub app: AppName,
    /// What was condemned: the release, or the promotion's number. Without it the condemned releases are listed
    #[arg(value_name = "RELEASE|COUNTER", requires = "reason")]
    pub which: Option<String>,
    /// Why it was not the release's fault
    #[arg(long, value_name = "TEXT", value_parser = parse_note, requires = "which")]
    pub reason: Option<String>,
    #[command(flatten)]
    pub speaker: SpeakerArgs,
}

pub async fn run(args: AbsolveArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let env = cli.env()?.clone();
    let app = cli.app(&args.app)?;
    let bus = cli.bus().await?;
    let condemned = reading::condemned(&bus, &env, &app).await?.map(|list| list.condemned).unwrap_or_default();
    let former = reading::absolutions(&bus, &env, &app, cli).await?;
    let mut absolutions =
        former.data.unwrap_or_else(|| Absolutions { env: env.clone(), app: app.clone(), absolved: Vec::new() });
    let (Some(which), Some(reason)) = (&args.which, &args.reason) else {
        return list(&condemned, &absolutions, cli);
    };
    let found: Vec<&Condemned> = condemned.iter().filter(|one| is_meant(one, which)).collect();
    if found.is_empty() {
        return Err(CliError::new(format!("{which} is not among the condemned releases of {app} in {env}"))
            .hint(format!("`landfall absolve {app} --env {env}` lists them")));
    }
    let key = args.speaker.own_key(cli)?;
    let author = args.speaker.author();
    for one in &found {
        absolutions.add(Absolution {
            fingerprint: one.fingerprint.clone(),
            counter: one.counter,
            release: one.release.clone(),
            reason: reason.clone(),
            author: author.clone(),
            at: Timestamp::now(),
        });
    }
    let event = saying::event(TYPE_ABSOLVED, &author, absolutions.clone(), None);
    saying::replace(&bus, &subject::condemned(&env, &app), &event, &key, former.sequence).await?;
    for one in &found {
        cli.output.note(format!("{app} {} (promotion {}) is absolved in {env}", one.release, one.counter));
    }
    list(&condemned, &absolutions, cli)
}

fn is_meant(one: &Condemned, which: &str) -> bool {
    one.release.as_str() == which || super::approve::parse_counter(which) == Ok(one.counter)
}

fn list(condemned: &[Condemned], absolutions: &Absolutions, cli: &Session) -> Result<ExitCode, CliError> {
    let absolution = |one: &Condemned| {
        let is_of = |of: &&Absolution| of.fingerprint == one.fingerprint && of.counter >= one.counter;
        absolutions.absolved.iter().find(is_of)
    };
    if cli.output.is_json() {
        let rows: Vec<_> =
            condemned.iter().map(|one| serde_json::json!({ "condemned": one, "absolved": absolution(one) })).collect();
        cli.output.json(&rows)?;
        return Ok(ExitCode::Done);
    }
    if condemned.is_empty() {
        cli.output.note(format!("no release of {} is condemned in {}", absolutions.app, absolutions.env));
        return Ok(ExitCode::Done);
    }
    let rows = condemned.iter().rev().map(|one| {
        let absolved = absolution(one).map_or("-".to_owned(), |by| format!("by {}: {}", by.author, by.reason));
        let number = one.counter.to_string();
        vec![number, one.release.to_string(), one.host.to_string(), one.cause.message.clone(), absolved]
    });
    cli.output.table(&["#", "release", "by host", "why", "absolved"], rows)?;
    Ok(ExitCode::Done)
}
