//! The binary; everything is in the library beside it.

use std::process::ExitCode;

use clap::Parser as _;
use landfall_audit::cli::{self, Cli};

fn main() -> ExitCode {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed already");
    }
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(because) = cause {
                eprintln!("  because: {because}");
                cause = because.source();
            }
            eprintln!("hint: {}", error.hint());
            ExitCode::FAILURE
        }
    }
}
