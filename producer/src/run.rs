//! From the parsed command line to the exit code.

use crate::cli::{BusCommand, Cli, Command};
use crate::error::{CliError, ExitCode};
use crate::output::Output;
use crate::session::Session;
use crate::{bus_apply, complete, doctor, history, hosts, init, lint, promote, rollback, status, watch};

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
    let session = Session::new(&cli.global, output)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::new("cannot start").because(&error))?;
    runtime.block_on(dispatch(cli.command, &session))
}

async fn dispatch(command: Command, session: &Session) -> Result<ExitCode, CliError> {
    match command {
        Command::Init(args) => init::run(args, session).await,
        Command::Bus(BusCommand::Apply(args)) => bus_apply::run(args, session).await,
        Command::Promote(args) => promote::run(args, session).await,
        Command::Rollback(args) => rollback::run(args, session).await,
        Command::Status(args) => status::run(args, session).await,
        Command::History(args) => history::run(args, session).await,
        Command::Watch(args) => watch::run(args, session).await,
        Command::Hosts(args) => hosts::run(args, session).await,
        Command::Lint(args) => lint::run(args, session).await,
        Command::Doctor(args) => doctor::run(args, session).await,
        Command::Completions(args) => complete::run(args, session).await,
    }
}
