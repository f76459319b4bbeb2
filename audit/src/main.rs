//! `landfall-audit`.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser as _;
use landfall_audit::cli::{Cli, Command, LogFormatArg, OutputFormat};
use landfall_audit::history::{self, PromotionHistory};
use landfall_audit::ledger::{Ledger, LedgerError, Which};
use landfall_audit::service::{self, with_causes};
use landfall_audit::settings::{HistorySettings, RunSettings, process_environment};
use landfall_telemetry::LogFormat;

/// The reader of standard output went away; what a shell shows for SIGPIPE.
const EXIT_BROKEN_PIPE: u8 = 141;
const EXIT_USAGE: u8 = 2;
/// One for each stream.
const WORKER_THREADS: usize = 2;

fn main() -> ExitCode {
    // Another provider can only be there when this one was installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let cli = Cli::parse();
    let options = landfall_telemetry::Options {
        service_name: "landfall-audit",
        log_format: match cli.global.log_format {
            LogFormatArg::Human => LogFormat::Human,
            LogFormatArg::Json => LogFormat::Json,
        },
        default_filter: if matches!(cli.command, Command::Run(_)) { "info,async_nats=warn" } else { "error" },
    };
    let telemetry = match landfall_telemetry::init(&options) {
        Ok(telemetry) => telemetry,
        Err(error) => return fail(&error, None),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKER_THREADS).enable_all().build();
    let code = match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(run(&cli));
            // What still waits for a name or a file must not keep the process.
            runtime.shutdown_background();
            code
        }
        Err(error) => fail(&error, None),
    };
    drop(telemetry);
    code
}

async fn run(cli: &Cli) -> ExitCode {
    match &cli.command {
        Command::Run(args) => match RunSettings::find(&cli.global, args, &process_environment) {
            Ok(settings) => match service::run(settings).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error, error.hint()),
            },
            Err(error) => usage(&error),
        },
        Command::History(args) => match HistorySettings::find(&cli.global, args, &process_environment) {
            Ok(settings) => match read(&settings).await {
                Ok(found) => print(&found, settings.output),
                Err(error) => fail(&error, Some(error.hint().to_owned())),
            },
            Err(error) => usage(&error),
        },
    }
}

async fn read(settings: &HistorySettings) -> Result<Vec<PromotionHistory>, LedgerError> {
    let ledger = Ledger::read(&settings.database).await?;
    let which = Which { env: settings.env.as_ref(), app: settings.app.as_ref(), limit: settings.limit };
    let found = history::read(&ledger, &which).await;
    ledger.close().await;
    found
}

fn print(found: &[PromotionHistory], output: OutputFormat) -> ExitCode {
    if found.is_empty() {
        say("the ledger holds no such promotion");
    }
    match write(&mut io::stdout().lock(), found, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(EXIT_BROKEN_PIPE),
        Err(error) => fail(&error, None),
    }
}

fn write(out: &mut impl Write, found: &[PromotionHistory], output: OutputFormat) -> io::Result<()> {
    for promotion in found {
        match output {
            OutputFormat::Human => writeln!(out, "{}", history::for_people(promotion))?,
            OutputFormat::Json => writeln!(out, "{}", serde_json::to_string(promotion)?)?,
        }
    }
    out.flush()
}

fn fail(error: &dyn Error, hint: Option<String>) -> ExitCode {
    say(&format!("error: {}", with_causes(error)));
    if let Some(hint) = hint {
        say(&format!("hint: {hint}"));
    }
    ExitCode::FAILURE
}

fn usage(error: &dyn Error) -> ExitCode {
    say(&format!("error: {error}"));
    ExitCode::from(EXIT_USAGE)
}

/// Nobody is left to hear about it when standard error is closed.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
