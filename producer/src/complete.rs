//! `landfall completions`: a completion script for a shell, on standard output.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::error::{CliError, ExitCode};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    pub shell: Shell,
}

pub async fn run(args: CompletionsArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "landfall", &mut script);
    cli.output.line(String::from_utf8_lossy(&script))?;
    Ok(ExitCode::Done)
}
