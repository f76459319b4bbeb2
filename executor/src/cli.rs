//! The daemon's command line.

use std::path::PathBuf;

use clap::Parser;

use crate::config::DEFAULT_PATH;

/// Takes an environment's promotions on this Docker host: pulls, migrates, updates, proves, and tells what became of it.
///
/// Exit codes: 0 ended as asked, 1 something is wrong and was said, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "landfall-executor", version)]
pub struct Cli {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "LANDFALL_EXECUTOR_CONFIG", default_value = DEFAULT_PATH)]
    pub config: PathBuf,

    /// Check the configuration and that all it names can be reached, print every mistake, and end.
    #[arg(long)]
    pub check: bool,

    /// Print the commented default configuration, and end.
    #[arg(long, conflicts_with = "check")]
    pub print_default_config: bool,
}
