//! From the parsed command line to the exit code.

use landfall_schema::halt::HaltCommand;
use tracing::Instrument as _;

use crate::cli::{BusCommand, Cli, Command};
use crate::error::{CliError, ExitCode};
use crate::migration::MigrationCommand;
use crate::output::Output;
use crate::preview::PreviewCommand;
use crate::session::Session;
use crate::{
    bus_apply, complete, doctor, gates, halt, history, hosts, init, lint, migration, preview, promote, rollback,
    status, watch,
};

/// The commands narrate by themselves; logs are for looking closer, with LANDFALL_LOG.
const LOG_FILTER: &str = "error";

/// Runs one command and prints its error, if any.
pub fn run(cli: Cli) -> ExitCode {
    let output = Output::new(&cli.global);
    match try_run(cli, output.clone()) {
        Ok(code) => code,
        Err(error) => {
            if error.exit != ExitCode::BrokenPipe {
                output.error(&error);
            }
            error.exit
        }
    }
}

fn try_run(cli: Cli, output: Output) -> Result<ExitCode, CliError> {
    // Before the runtime: the exporter of traces has a thread of its own.
    let telemetry = landfall_telemetry::Options {
        service_name: "landfall",
        log_format: landfall_telemetry::LogFormat::Human,
        default_filter: LOG_FILTER,
    };
    let _telemetry = landfall_telemetry::init(&telemetry).map_err(|error| CliError::from_error(&error))?;
    let session = Session::new(&cli.global, output)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::new("cannot start").because(&error))?;
    runtime.block_on(dispatch(cli.command, &session).instrument(tracing::info_span!("landfall")))
}

async fn dispatch(command: Command, session: &Session) -> Result<ExitCode, CliError> {
    match command {
        Command::Init(args) => init::run(args, session).await,
        Command::Bus(BusCommand::Apply(args)) => bus_apply::run(args, session).await,
        Command::Promote(args) => promote::run(*args, session).await,
        Command::Rollback(args) => rollback::run(args, session).await,
        Command::Halt(args) => halt::run(args, HaltCommand::Halt, session).await,
        Command::Resume(args) => halt::run(args, HaltCommand::Resume, session).await,
        Command::Abort(args) => halt::run(args, HaltCommand::Abort, session).await,
        Command::Preview(PreviewCommand::List(args)) => preview::list::run(args, session).await,
        Command::Preview(PreviewCommand::Rm(args)) => preview::remove::run(args, session).await,
        Command::Approve(args) => gates::approve::run(args, session).await,
        Command::Reject(args) => gates::approve::reject(args, session).await,
        Command::Freeze(args) => gates::freeze::run(args, session).await,
        Command::Unfreeze(args) => gates::freeze::unfreeze(args, session).await,
        Command::Absolve(args) => gates::absolve::run(args, session).await,
        Command::Policy(command) => gates::policy::run(command, session).await,
        Command::Migration(MigrationCommand::Show(args)) => migration::show(args, session).await,
        Command::Migration(MigrationCommand::Resolve(args)) => migration::resolve(args, session).await,
        Command::Status(args) => status::run(args, session).await,
        Command::History(args) => history::run(args, session).await,
        Command::Watch(args) => watch::run(args, session).await,
        Command::Hosts(args) => hosts::run(args, session).await,
        Command::Lint(args) => lint::run(args, session).await,
        Command::Doctor(args) => doctor::run(args, session).await,
        Command::Completions(args) => complete::run(args, session).await,
    }
}
