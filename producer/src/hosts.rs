//! `landfall hosts`.

use clap::Args;

use crate::error::{CliError, ExitCode};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct HostsArgs {}

pub async fn run(_args: HostsArgs, _cli: &Session) -> Result<ExitCode, CliError> {
    Err(CliError::new("`landfall hosts` is not built yet"))
}
