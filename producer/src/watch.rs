//! `landfall watch`.

use clap::Args;

use crate::error::{CliError, ExitCode};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct WatchArgs {}

pub async fn run(_args: WatchArgs, _cli: &Session) -> Result<ExitCode, CliError> {
    Err(CliError::new("`landfall watch` is not built yet"))
}
