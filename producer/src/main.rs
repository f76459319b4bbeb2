//! The binary `landfall`; everything is in the library beside it.

use clap::Parser as _;
use landfall_producer::{cli::Cli, run};

fn main() -> std::process::ExitCode {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed already");
    }
    run::run(Cli::parse()).into()
}
