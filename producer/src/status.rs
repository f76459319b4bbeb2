//! `landfall status`.

use clap::Args;

use crate::error::{CliError, ExitCode};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct StatusArgs {}

pub async fn run(_args: StatusArgs, _cli: &Session) -> Result<ExitCode, CliError> {
    Err(CliError::new("`landfall status` is not built yet"))
}
