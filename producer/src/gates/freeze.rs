//! `landfall freeze` and `landfall unfreeze`: for a while nothing is promoted; rollbacks pass.

use clap::Args;
use landfall_schema::Timestamp;
use landfall_schema::event::TYPE_ENVIRONMENT_FROZEN;
use landfall_schema::gates::{Freeze, Freezes};
use landfall_schema::ids::{AppName, EnvName};
use landfall_schema::subject;

use super::reading::{self, Document};
use super::saying::{self, SpeakerArgs, parse_note};
use crate::error::{CliError, ExitCode};
use crate::publish::parse_duration;
use crate::reading::time;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct FreezeArgs {
    /// Only this application. Default: all of the environment
    #[arg(long, value_name = "APP")]
    pub app: Option<AppName>,
    /// Why, for everybody who is held up by it; without --reason and --until the freezes are listed
    #[arg(long, value_name = "TEXT", value_parser = parse_note, requires = "until")]
    pub reason: Option<String>,
    /// When it ends: a time span from now (2h), or a time (2026-12-01T08:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = parse_until, requires = "reason")]
    pub until: Option<Timestamp>,
    #[command(flatten)]
    pub speaker: SpeakerArgs,
}

#[derive(Debug, Args)]
pub struct UnfreezeArgs {
    /// The freeze of this application. Default: those of the whole environment
    #[arg(long, value_name = "APP")]
    pub app: Option<AppName>,
    /// Every freeze, whatever it is of; also when the list of freezes cannot be read
    #[arg(long, conflicts_with = "app")]
    pub all: bool,
    #[command(flatten)]
    pub speaker: SpeakerArgs,
}

pub async fn run(args: FreezeArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let env = cli.env()?.clone();
    let (Some(reason), Some(until)) = (args.reason.clone(), args.until) else { return list(&env, cli).await };
    let now = Timestamp::now();
    if until <= now {
        return Err(CliError::usage("--until is in the past").hint("name a later time, or a time span such as 2h"));
    }
    let key = args.speaker.admin_key(cli)?;
    let bus = cli.bus().await?;
    let former = reading::freezes(&bus, &env, cli).await?;
    let author = args.speaker.author();
    let freeze = Freeze { app: args.app.clone(), reason, until, author: author.clone(), since: now };
    let mut freezes = in_force(former.data.clone().unwrap_or_default(), now);
    freezes.push(freeze);
    say(&bus, &env, &former, freezes, &author, &key).await?;
    let what = args.app.map_or(env.to_string(), |app| format!("{app} in {env}"));
    cli.output.note(format!("{what} is frozen until {} UTC; rollbacks pass, and so does what was begun", time(until)));
    list(&env, cli).await
}

pub async fn unfreeze(args: UnfreezeArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let env = cli.env()?.clone();
    let key = args.speaker.admin_key(cli)?;
    let bus = cli.bus().await?;
    let former = match reading::freezes(&bus, &env, cli).await {
        Err(error) if args.all && error.exit == ExitCode::Refused => {
            cli.output.warn(format!("{}; it is replaced", error.message));
            let sequence = bus.last_said(&subject::environment_freeze(&env)).await?.map_or(0, |said| said.sequence);
            Document { data: None, sequence, id: None }
        }
        former => former?,
    };
    let now = Timestamp::now();
    let before = in_force(former.data.clone().unwrap_or_default(), now);
    let stays = |freeze: &Freeze| !args.all && freeze.app != args.app;
    let (kept, ended): (Vec<Freeze>, Vec<Freeze>) = before.into_iter().partition(stays);
    if ended.is_empty() && !args.all {
        let what = args.app.map_or(env.to_string(), |app| format!("{app} in {env}"));
        cli.output.note(format!("{what} is not frozen; nothing was published"));
        return list(&env, cli).await;
    }
    say(&bus, &env, &former, kept, &args.speaker.author(), &key).await?;
    for freeze in ended {
        cli.output.note(format!("ended: the freeze of {} ({})", freeze.author, freeze.reason));
    }
    list(&env, cli).await
}

async fn say(
    bus: &landfall_bus::Bus,
    env: &EnvName,
    former: &Document<Vec<Freeze>>,
    freezes: Vec<Freeze>,
    author: &str,
    key: &landfall_schema::signature::SigningKey,
) -> Result<(), CliError> {
    let event = saying::event(TYPE_ENVIRONMENT_FROZEN, author, Freezes { env: env.clone(), freezes }, former.id);
    saying::replace(bus, &subject::environment_freeze(env), &event, key, former.sequence).await
}

fn in_force(freezes: Vec<Freeze>, now: Timestamp) -> Vec<Freeze> {
    freezes.into_iter().filter(|freeze| now < freeze.until).collect()
}

async fn list(env: &EnvName, cli: &Session) -> Result<ExitCode, CliError> {
    let bus = cli.bus().await?;
    let freezes = in_force(reading::freezes(&bus, env, cli).await?.data.unwrap_or_default(), Timestamp::now());
    if cli.output.is_json() {
        cli.output.json(&serde_json::json!({ "env": env, "freezes": freezes }))?;
        return Ok(ExitCode::Done);
    }
    if freezes.is_empty() {
        cli.output.note(format!("no freeze of {env} is in force"));
        return Ok(ExitCode::Done);
    }
    let rows = freezes.into_iter().map(|freeze| {
        let app = freeze.app.map_or("(all)".to_owned(), |app| app.to_string());
        vec![app, time(freeze.until), freeze.author, freeze.reason]
    });
    cli.output.table(&["app", "until (utc)", "by", "why"], rows)?;
    Ok(ExitCode::Done)
}

fn parse_until(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let milliseconds = parse_duration(text)
        .map_err(|_| format!("{text:?} is neither a time such as 2026-12-01T08:00:00Z nor a time span such as 2h"))?;
    let span = std::time::Duration::from_millis(milliseconds);
    Timestamp::now().checked_add(span).map_err(|_| "that is too far away".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_end_is_a_time_or_a_span() {
        let at: Timestamp = "2026-12-01T08:00:00Z".parse().unwrap();
        assert_eq!(parse_until("2026-12-01T08:00:00Z"), Ok(at));
        assert_eq!(parse_until("2026-12-01T09:00:00+01:00"), Ok(at));
        assert!(parse_until("2h").unwrap() > Timestamp::now());
        assert!(parse_until("soon").is_err());
    }
}
