//! Command line, and from there to the end.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use landfall_bus::{Bus, BusError, ConnectOptions};
use landfall_schema::ids::{AppName, EnvName};
use landfall_schema::signature::PublicKey;
use landfall_telemetry::{LogFormat, Options, TelemetryError};
use thiserror::Error;

use crate::follow::{self, FollowError};
use crate::history::{self, HistoryError};
use crate::ledger::{Ledger, LedgerError};
use crate::record::Trust;

/// Keeps a ledger of every release and every outcome.
#[derive(Debug, Parser)]
#[command(name = "landfall-audit", version, max_term_width = 110)]
pub struct Cli {
    /// Where the ledger is: sqlite://FILE or postgres://…
    #[arg(
        long,
        global = true,
        env = "LANDFALL_AUDIT_DATABASE",
        default_value = "sqlite://landfall-audit.db",
        hide_env_values = true
    )]
    pub database: String,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Follow the bus and write the ledger, until SIGTERM
    Run(RunArgs),
    /// Print the promotions of the past and how they ended on each host
    History(HistoryArgs),
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The NATS server
    #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222")]
    pub server: String,
    /// A NATS credentials file
    #[arg(long, env = "NATS_CREDS")]
    pub creds: Option<PathBuf>,
    /// NATS user; the password comes from --password-file
    #[arg(long, env = "NATS_USER", requires = "password_file")]
    pub user: Option<String>,
    /// A file with the NATS password alone
    #[arg(long, env = "NATS_PASSWORD_FILE")]
    pub password_file: Option<PathBuf>,
    /// A PEM file with further certificate authorities
    #[arg(long, env = "NATS_CA")]
    pub ca: Option<PathBuf>,
    /// Public keys (U…) whose signatures are marked as trusted; without any, signatures are stored unchecked
    #[arg(long, env = "LANDFALL_AUDIT_TRUST", value_delimiter = ',', value_parser = |text: &str| PublicKey::new(text))]
    pub trust: Vec<PublicKey>,
    /// Name of the durable consumers; two ledgers on one bus need two names
    #[arg(long, env = "LANDFALL_AUDIT_NAME", default_value = "audit")]
    pub name: String,
    #[arg(long, value_enum, default_value_t, env = "LANDFALL_LOG_FORMAT")]
    pub log_format: Format,
}

#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Only this environment
    #[arg(long, env = "LANDFALL_ENV")]
    pub env: Option<EnvName>,
    /// Only this application
    #[arg(long)]
    pub app: Option<AppName>,
    /// At most so many promotions, newest first
    #[arg(long, default_value_t = 20)]
    pub limit: u32,
    /// For people, or one JSON object a line
    #[arg(long, value_enum, default_value_t, env = "LANDFALL_OUTPUT")]
    pub output: Format,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Human,
    Json,
}

#[derive(Debug, Error)]
pub enum AuditError {
    #[error("logging cannot be set up")]
    Telemetry(#[from] TelemetryError),
    #[error("the async runtime cannot start")]
    Runtime(#[source] std::io::Error),
    #[error("the password file {} cannot be read", path.display())]
    PasswordFile { path: PathBuf, source: std::io::Error },
    #[error("the bus cannot be reached")]
    Bus(#[from] BusError),
    #[error("the ledger cannot be used")]
    Ledger(#[from] LedgerError),
    #[error("the streams cannot be followed")]
    Follow(#[from] FollowError),
    #[error("the history cannot be printed")]
    History(#[from] HistoryError),
}

impl AuditError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Telemetry(_) => "check LANDFALL_LOG and OTEL_EXPORTER_OTLP_ENDPOINT",
            Self::Runtime(_) => "check the process limits: ulimit -a",
            Self::PasswordFile { .. } => "name a file that this user can read: --password-file",
            Self::Bus(_) => "check --server and the credentials, then: landfall doctor",
            Self::Ledger(_) => "check --database, for example sqlite:///var/lib/landfall-audit/ledger.db",
            Self::Follow(_) => "create the streams first: landfall bus apply",
            Self::History(_) => "check --database: it must name the ledger that `landfall-audit run` writes",
        }
    }
}

/// # Errors
/// [`AuditError`], each with a hint.
pub fn run(cli: Cli) -> Result<(), AuditError> {
    let log_format = match &cli.command {
        Command::Run(args) if args.log_format == Format::Json => LogFormat::Json,
        _ => LogFormat::Human,
    };
    let default_filter = if matches!(cli.command, Command::Run(_)) { "info,async_nats=warn" } else { "warn" };
    let telemetry = Options { service_name: "landfall-audit", log_format, default_filter };
    let _guard = landfall_telemetry::init(&telemetry)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AuditError::Runtime)?;
    runtime.block_on(async {
        let ledger = Ledger::open(&cli.database).await?;
        match &cli.command {
            Command::Run(args) => follow(&ledger, args).await?,
            Command::History(args) => history::print(&ledger, args).await?,
        }
        ledger.close().await;
        Ok(())
    })
}

async fn follow(ledger: &Ledger, args: &RunArgs) -> Result<(), AuditError> {
    let bus = Bus::connect(&connection(args)?).await?;
    let trust = if args.trust.is_empty() { Trust::Unchecked } else { Trust::Keys(args.trust.clone()) };
    follow::run(ledger, &bus, &args.name, &trust).await?;
    Ok(())
}

fn connection(args: &RunArgs) -> Result<ConnectOptions, AuditError> {
    let user_password = match (&args.user, &args.password_file) {
        (Some(user), Some(path)) => {
            let text = std::fs::read_to_string(path)
                .map_err(|source| AuditError::PasswordFile { path: path.clone(), source })?;
            Some((user.clone(), text.trim().to_owned()))
        }
        _ => None,
    };
    Ok(ConnectOptions {
        url: args.server.clone(),
        name: format!("landfall-{}", args.name),
        creds: args.creds.clone(),
        user_password,
        ca: args.ca.clone(),
        ..ConnectOptions::default()
    })
}
