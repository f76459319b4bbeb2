//! `landfall migration`: who migrates a database, and the word of somebody who looked after an end that nobody knows.

use std::collections::BTreeMap;

use bytes::Bytes;
use clap::{Args, Subcommand};
use landfall_bus::{Bus, BusError, Entry};
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_MIGRATION_LEASE};
use landfall_schema::ids::{AppName, Counter, EnvName, EventId, HostName, IdError, ReleaseName, ServiceName};
use landfall_schema::layout::LOCKS;
use landfall_schema::lease::{LeasePhase, MigrationLease};
use landfall_schema::signature::DsseEnvelope;
use landfall_schema::subject;
use uuid::Uuid;

use crate::ci;
use crate::context::process_environment;
use crate::error::{CliError, ExitCode};
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub enum MigrationCommand {
    /// Who migrates a database, and what became of it
    Show(DatabaseArgs),
    /// Say that the schema is in order after a migration of which nobody knows how far it came; the next promotion migrates again
    Resolve(ResolveArgs),
}

#[derive(Debug, Args)]
pub struct DatabaseArgs {
    /// The database as its migrations name it: `database` in the settings, else APP.SERVICE
    #[arg(value_name = "DATABASE")]
    pub database: String,
    /// Of this host's own database, where each host has one
    #[arg(long, value_name = "HOST")]
    pub host: Option<HostName>,
}

#[derive(Debug, Args)]
pub struct ResolveArgs {
    #[command(flatten)]
    pub of: DatabaseArgs,
    /// Who looked. Default: what CI or the system says
    #[arg(long, value_name = "NAME")]
    pub author: Option<String>,
    /// Also where the lease says that nothing is open, or cannot be read: its hosts do not believe it
    #[arg(long)]
    pub force: bool,
}

pub async fn show(args: DatabaseArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let env = cli.env()?.clone();
    let bus = cli.bus().await?;
    let lease = opened(&entry(&bus, &env, &args).await?, &env, &args)?;
    if cli.output.is_json() {
        cli.output.json(&lease)?;
    } else {
        cli.output.line(told(&lease))?;
    }
    Ok(ExitCode::Done)
}

pub async fn resolve(args: ResolveArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let env = cli.env()?.clone();
    let key = cli.signing_key()?;
    let bus = cli.bus().await?;
    let of = &args.of;
    let entry = entry(&bus, &env, of).await?;
    let mut lease = match opened(&entry, &env, of) {
        // What a lease that is not believed says of its place among the promotions is not repeated under this signature.
        Ok(lease) if args.force && !matches!(lease.phase, LeasePhase::Running) => {
            MigrationLease { env: env.clone(), database: of.database.clone(), counter: Counter::NONE, ..lease }
        }
        Ok(lease) if matches!(lease.phase, LeasePhase::Unknown { .. }) => lease,
        Ok(lease) => {
            return Err(CliError::new(format!("nothing of {} is open: {}", of.database, told(&lease)))
                .hint("a migration that failed is simply promoted again, once its cause is mended"));
        }
        Err(_) if args.force => nobodys(&env, &of.database).map_err(|error| CliError::from_error(&error))?,
        Err(error) => return Err(error),
    };
    let author = args.author.clone().unwrap_or_else(|| ci::author(&process_environment));
    lease.phase = LeasePhase::Resolved { author: author.clone() };
    // What hosts said is theirs to say again; this signature is for the resolution alone.
    lease.done.clear();
    let source = format!("/landfall/producer/{author}");
    let event = CloudEvent::new(EventId(Uuid::now_v7()), source, TYPE_MIGRATION_LEASE, Timestamp::now(), &lease);
    let payload = event.encode().map_err(|error| CliError::from_error(&error).hint("shorten --author"))?;
    let signature = key.sign(&payload).map_err(|error| CliError::from_error(&error))?;
    let body = serde_json::to_vec(&DsseEnvelope::new(&payload, vec![signature]))
        .map_err(|error| CliError::new("cannot write the lease").because(&error))?;
    let name = subject::migration_key(&env, &of.database, of.host.as_ref());
    match bus.write_entry(LOCKS, &name, Bytes::from(body), entry.revision).await {
        Ok(_) => {}
        Err(BusError::Raced { .. }) => {
            let error = CliError::new(format!("the lease of {} changed at this moment", of.database));
            return Err(CliError { exit: ExitCode::Raced, ..error.hint("look again, and repeat the command") });
        }
        Err(error) => return Err(error.into()),
    }
    if cli.output.is_json() {
        cli.output.json(&lease)?;
    }
    cli.output.note(format!(
        "{}: {author} says that the schema is in order; promote again, and its migrations run",
        of.database
    ));
    Ok(ExitCode::Done)
}

async fn entry(bus: &Bus, env: &EnvName, args: &DatabaseArgs) -> Result<Entry, CliError> {
    let key = subject::migration_key(env, &args.database, args.host.as_ref());
    bus.entry(LOCKS, &key).await?.ok_or_else(|| {
        CliError::new(format!("nobody has migrated {} in {env} yet", args.database)).hint(
            "the name is `database` of the migrations' settings, else APP.SERVICE; of a host's own database with --host HOST",
        )
    })
}

fn opened(entry: &Entry, env: &EnvName, args: &DatabaseArgs) -> Result<MigrationLease, CliError> {
    MigrationLease::open(&entry.body).map(|(lease, _)| lease).map_err(|error| {
        let host = args.host.as_ref().map_or(String::new(), |host| format!(" --host {host}"));
        CliError::new(format!("the lease of {} cannot be read", args.database)).because(&error).hint(format!(
            "look at the database; when its schema is in order, `landfall migration resolve {} --env {env}{host} --force`",
            args.database
        ))
    })
}

/// In place of an entry that nobody can read.
fn nobodys(env: &EnvName, database: &str) -> Result<MigrationLease, IdError> {
    const UNKNOWN: &str = "unknown";
    Ok(MigrationLease {
        env: env.clone(),
        database: database.to_owned(),
        app: AppName::new(UNKNOWN)?,
        counter: Counter::NONE,
        release: ReleaseName::new(UNKNOWN)?,
        promotion: EventId(Uuid::nil()),
        service: ServiceName::new(UNKNOWN)?,
        holder: HostName::new(UNKNOWN)?,
        phase: LeasePhase::Running,
        done: BTreeMap::new(),
    })
}

fn told(lease: &MigrationLease) -> String {
    let MigrationLease { database, app, release, counter, holder, service, .. } = lease;
    let of = format!("service {service} of {app} {release} (promotion {counter})");
    match &lease.phase {
        LeasePhase::Running => format!("{database}: {holder} migrates {of}"),
        LeasePhase::Done => format!("{database}: migrated by {holder}, {of}"),
        LeasePhase::Failed { reason } => format!("{database}: failed on {holder}, {of}: {}", reason.message),
        LeasePhase::Unknown { reason } => format!("{database}: somebody has to look: {}", reason.message),
        LeasePhase::Resolved { author } => {
            format!("{database}: {author} says that the schema is in order; the next promotion migrates")
        }
    }
}
