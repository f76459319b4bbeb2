//! `landfall rollback`.

use clap::Args;

use crate::error::{CliError, ExitCode};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct RollbackArgs {}

pub async fn run(_args: RollbackArgs, _cli: &Session) -> Result<ExitCode, CliError> {
    Err(CliError::new("`landfall rollback` is not built yet"))
}
