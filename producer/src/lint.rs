//! `landfall lint`.

use clap::Args;

use crate::error::{CliError, ExitCode};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct LintArgs {}

pub async fn run(_args: LintArgs, _cli: &Session) -> Result<ExitCode, CliError> {
    Err(CliError::new("`landfall lint` is not built yet"))
}
