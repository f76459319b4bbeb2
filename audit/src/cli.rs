//! The command line. Values are read as text here and judged together in [`crate::settings`], so that all mistakes are told at once.

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Stores every promotion and every outcome of the bus in a ledger, and tells what became of them.
///
/// Exit codes: 0 ended as asked, 1 something is wrong and was said, 2 wrong usage, 141 the reader of standard output went away.
#[derive(Debug, Parser)]
#[command(name = "landfall-audit", version)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct GlobalArgs {
    /// The ledger: a SQLite file, or postgres://user:password@host/database [default: /var/lib/landfall-audit/ledger.sqlite]
    ///
    /// A URL with a password is better given in $LANDFALL_AUDIT_DATABASE, or in a file that $LANDFALL_AUDIT_DATABASE_FILE names.
    #[arg(long, global = true, value_name = "FILE|URL", env = "LANDFALL_AUDIT_DATABASE", hide_env_values = true)]
    pub database: Option<String>,

    /// Log lines for people, or one JSON object each, on standard error
    #[arg(long, global = true, value_enum, env = "LANDFALL_LOG_FORMAT", default_value_t)]
    pub log_format: LogFormatArg,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormatArg {
    // A variable that is set but empty is not set.
    #[default]
    #[value(alias = "")]
    Human,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Follow the bus and store what it says, until SIGTERM or SIGINT
    Run(RunArgs),
    /// What became of each promotion, newest first
    History(HistoryArgs),
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// NATS servers, separated by commas [env: LANDFALL_SERVER, NATS_URL] [default: nats://127.0.0.1:4222]
    ///
    /// Credentials: --creds, or --user with --password-file, or NATS_USER with NATS_PASSWORD, NATS_TOKEN or NATS_TOKEN_FILE, or
    /// NATS_NKEY (a file with a seed).
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,

    /// A NATS credentials file [env: LANDFALL_CREDS, NATS_CREDS]
    #[arg(long, value_name = "FILE")]
    pub creds: Option<String>,

    /// The NATS user; its password is in --password-file or $NATS_PASSWORD
    #[arg(long, value_name = "NAME", env = "NATS_USER")]
    pub user: Option<String>,

    /// A file with the NATS password alone
    #[arg(long, value_name = "FILE", env = "NATS_PASSWORD_FILE")]
    pub password_file: Option<String>,

    /// A PEM file with further certificate authorities
    #[arg(long, value_name = "FILE", env = "NATS_CA")]
    pub ca: Option<String>,

    /// A public key whose signatures are trusted; repeatable. Without any, nothing is verified
    ///
    /// KEY for everything, promote=KEY for promotions, admin=KEY for what administrators say, host=KEY for outcomes of any host, host:NAME=KEY for those of one.
    #[arg(long, value_name = "KEY", env = "LANDFALL_AUDIT_TRUST", value_delimiter = ',')]
    pub trust: Vec<String>,

    /// The name of the durable consumers on the bus; every ledger needs its own
    #[arg(long, value_name = "NAME", env = "LANDFALL_AUDIT_NAME", default_value = crate::settings::DEFAULT_NAME)]
    pub name: String,
}

#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Only this environment
    #[arg(long, value_name = "ENV", env = "LANDFALL_ENV")]
    pub env: Option<String>,

    /// Only this application
    #[arg(long, value_name = "APP")]
    pub app: Option<String>,

    /// At most this many promotions
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,

    /// Text for people, or one JSON object for each promotion
    #[arg(long, short, value_enum, default_value_t)]
    pub output: OutputFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    #[default]
    Human,
    Json,
}
