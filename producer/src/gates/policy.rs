//! `landfall policy`: what a promotion to an environment must have, from a file to a signed event.

pub mod file;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use landfall_schema::event::TYPE_ENVIRONMENT_POLICY;
use landfall_schema::gates::EnvironmentPolicy;
use landfall_schema::ids::EnvName;
use landfall_schema::subject;

use super::reading::{self, Document};
use super::saying::{self, SpeakerArgs};
use crate::error::{CliError, ExitCode};
use crate::output;
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Sign the rules of a TOML or YAML file and put them into force
    Apply(ApplyArgs),
    /// The rules in force
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The rules, see docs/GATES.md
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Show what would be put into force, publish nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub speaker: SpeakerArgs,
}

#[derive(Debug, Args)]
pub struct ShowArgs {}

pub async fn run(command: PolicyCommand, cli: &Session) -> Result<ExitCode, CliError> {
    match command {
        PolicyCommand::Apply(args) => apply(args, cli).await,
        PolicyCommand::Show(_) => {
            let env = cli.env()?;
            match reading::policy(&cli.bus().await?, env, cli).await?.data {
                Some(policy) => show(&policy, cli)?,
                None if cli.output.is_json() => cli.output.json(&serde_json::Value::Null)?,
                None => {
                    cli.output.note(format!("{env} has no policy; `landfall policy apply FILE --env {env}` sets one"))
                }
            }
            Ok(ExitCode::Done)
        }
    }
}

async fn apply(args: ApplyArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let env = cli.env()?.clone();
    let file = file::PolicyFile::read(&args.file)?;
    let key = args.speaker.admin_key(cli)?;
    let bus = cli.bus().await?;
    let policy = file.resolve(&env, args.speaker.author(), &bus, cli).await?;
    let former = match reading::policy(&bus, &env, cli).await {
        Err(error) if error.exit == ExitCode::Refused => {
            cli.output.warn(format!("{}; it is replaced", error.message));
            replaceable(&bus, &env).await?
        }
        former => former?,
    };
    if args.dry_run {
        show(&policy, cli)?;
        cli.output.note("nothing was published");
        return Ok(ExitCode::Done);
    }
    let event = saying::event(TYPE_ENVIRONMENT_POLICY, &policy.author, policy.clone(), former.id);
    saying::replace(&bus, &subject::environment_policy(&env), &event, &key, former.sequence).await?;
    cli.output.note(format!(
        "the policy of {env} is in force; hosts heed it that have this line in executor.toml, section [trust]:"
    ));
    cli.output.note(format!("admin = [\"{}\"]", key.public()));
    show(&policy, cli)?;
    Ok(ExitCode::Done)
}

async fn replaceable(bus: &landfall_bus::Bus, env: &EnvName) -> Result<Document<EnvironmentPolicy>, CliError> {
    let sequence = bus.last_said(&subject::environment_policy(env)).await?.map_or(0, |said| said.sequence);
    Ok(Document { data: None, sequence, id: None })
}

fn show(policy: &EnvironmentPolicy, cli: &Session) -> Result<(), CliError> {
    if cli.output.is_json() {
        return cli.output.json(policy);
    }
    let env = &policy.env;
    cli.output.line(format!("{env}, set by {}", policy.author))?;
    if let Some(rule) = &policy.requires {
        let hosts: Vec<&str> = rule.host_keys.keys().map(|host| host.as_str()).collect();
        cli.output.line(format!("  requires: the same digests succeeded in {} on {}", rule.env, hosts.join(", ")))?;
    }
    if let Some(rule) = &policy.approvals {
        let names: Vec<&str> = rule.of.iter().map(|approver| approver.name.as_str()).collect();
        cli.output.line(format!("  approvals: {} of {}", rule.need, names.join(", ")))?;
    }
    for window in &policy.freeze_windows {
        let lasts = output::duration(window.duration_ms);
        cli.output.line(format!("  frozen: {} ({}) for {lasts}: {}", window.cron, window.time_zone, window.reason))?;
    }
    if policy.requires.is_none() && policy.approvals.is_none() && policy.freeze_windows.is_empty() {
        cli.output.line("  no rules")?;
    }
    Ok(())
}
