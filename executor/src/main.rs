//! `landfall-executor`.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use landfall_executor::cli::Cli;
use landfall_executor::config::{Config, DEFAULT_CONFIG};
use landfall_executor::{check, daemon, told};

/// One for deploys, one for everything else; the daemon waits most of its time.
const WORKER_THREADS: usize = 2;
/// File and name look-ups.
const BLOCKING_THREADS_MAX: usize = 8;

pub(crate) fn main() -> ExitCode {
    // Another provider can only be there when this one was installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let cli = Cli::parse();
    if cli.print_default_config {
        return print(DEFAULT_CONFIG);
    }
    let config = match Config::load(&cli.config, &|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    let options = landfall_telemetry::Options {
        service_name: "landfall-executor",
        log_format: config.telemetry.log_format,
        default_filter: if cli.check { "error" } else { &config.telemetry.log_filter },
    };
    let telemetry = match landfall_telemetry::init(&options) {
        Ok(telemetry) => telemetry,
        Err(error) => return fail(&error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let code = if cli.check {
        runtime.block_on(check_all(&config))
    } else {
        match runtime.block_on(daemon::run(config)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        }
    };
    // What still waits for a name or a file must not keep the process.
    runtime.shutdown_background();
    drop(telemetry);
    code
}

/// Every finding, the good ones on stdout, the others on stderr.
async fn check_all(config: &Config) -> ExitCode {
    let mut report = String::new();
    let mut troubles = 0;
    for finding in check::check(config).await {
        match finding.found {
            Ok(found) => report.push_str(&format!("ok  {}: {found}\n", finding.what)),
            Err(found) => {
                troubles += found.len();
                for trouble in found {
                    eprintln!("error: {}: {trouble}", finding.what);
                }
            }
        }
    }
    let printed = print(&report);
    if troubles == 0 { printed } else { ExitCode::FAILURE }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough, as `head` does.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &dyn Error) -> ExitCode {
    match told(error) {
        (what, Some(hint)) => eprintln!("error: {what}\n  hint: {hint}"),
        (what, None) => eprintln!("error: {what}"),
    }
    ExitCode::FAILURE
}
