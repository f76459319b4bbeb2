//! `landfall history`.

use clap::Args;

use crate::error::{CliError, ExitCode};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct HistoryArgs {}

pub async fn run(_args: HistoryArgs, _cli: &Session) -> Result<ExitCode, CliError> {
    Err(CliError::new("`landfall history` is not built yet"))
}
