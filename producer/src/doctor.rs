//! `landfall doctor`.

use clap::Args;

use crate::error::{CliError, ExitCode};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct DoctorArgs {}

pub async fn run(_args: DoctorArgs, _cli: &Session) -> Result<ExitCode, CliError> {
    Err(CliError::new("`landfall doctor` is not built yet"))
}
