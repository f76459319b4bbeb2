//! `landfall promote`.

use clap::Args;

use crate::error::{CliError, ExitCode};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct PromoteArgs {}

pub async fn run(_args: PromoteArgs, _cli: &Session) -> Result<ExitCode, CliError> {
    Err(CliError::new("`landfall promote` is not built yet"))
}
