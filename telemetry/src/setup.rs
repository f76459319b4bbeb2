//! Subscriber and exporter.

use std::env;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use thiserror::Error;
use tracing_subscriber::filter::{EnvFilter, FilterFn, LevelFilter, ParseError};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// Either of these switches the export of traces on (OpenTelemetry, "OTLP exporter configuration").
const ENDPOINT_VARIABLES: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
const SERVICE_NAME_VARIABLE: &str = "OTEL_SERVICE_NAME";
/// The first of these that is set is the log filter.
const FILTER_VARIABLES: [&str; 2] = ["LANDFALL_LOG", "RUST_LOG"];
/// Unless the filter itself says something of it.
const QUIET: &str = "async_nats=warn";
/// How long the end of a process waits for its last spans to be taken.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// Crates whose own spans would be exported by exporting them.
const NOT_EXPORTED: [&str; 5] = ["hyper", "hyper_util", "reqwest", "h2", "opentelemetry"];

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Human,
    Json,
}

#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// `service.name` of the traces, unless `OTEL_SERVICE_NAME` says another.
    pub service_name: &'a str,
    pub log_format: LogFormat,
    /// Used when neither `LANDFALL_LOG` nor `RUST_LOG` is set.
    pub default_filter: &'a str,
}

#[derive(Debug, Error)]
pub enum TelemetryError {
    #[error("the log filter {filter:?} is not readable\n  hint: for example info,landfall_executor=debug")]
    Filter { filter: String, source: ParseError },
    #[error(
        "the OTLP exporter cannot be built\n  hint: check OTEL_EXPORTER_OTLP_ENDPOINT, for example http://127.0.0.1:4318"
    )]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("logging was set up already")]
    Twice(#[from] TryInitError),
}

/// Keeps the exporter alive. Drop it last: that sends the spans that are still waiting.
#[must_use = "dropping it ends the export of traces"]
#[derive(Debug)]
pub struct Guard(Option<SdkTracerProvider>);

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(provider) = self.0.take() else { return };
        // A collector that is away must not change how a process ends; the loss is said.
        if let Err(error) = provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT) {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

/// Sets logging up for the whole process, and traces if an endpoint is configured. Call it before an async runtime is entered: the
/// exporter has a thread and a blocking client of its own. A rustls provider must be installed by then.
///
/// # Errors
/// [`TelemetryError`]; nothing is set up then.
pub fn init(options: &Options<'_>) -> Result<Guard, TelemetryError> {
    let filter = filter(options.default_filter)?;
    let provider = if is_export_configured() { Some(provider(options.service_name)?) } else { None };
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("landfall"))
            // Paths of the machine that built this, and threads, tell nobody anything.
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(LevelFilter::INFO)
            .with_filter(FilterFn::new(|span| !NOT_EXPORTED.iter().any(|silent| span.target().starts_with(silent))))
    });
    tracing_subscriber::registry().with(traces).with(logs(options.log_format).with_filter(filter)).try_init()?;
    Ok(Guard(provider))
}

fn filter(default: &str) -> Result<EnvFilter, TelemetryError> {
    let text = FILTER_VARIABLES.iter().find_map(|name| env::var(name).ok()).unwrap_or_else(|| default.to_owned());
    let filter = EnvFilter::try_new(&text).map_err(|source| TelemetryError::Filter { filter: text.clone(), source })?;
    // It tells of each of its events, as our own connection does in words; while a server is away, for ever.
    let quiet = QUIET.parse().map_err(|source| TelemetryError::Filter { filter: QUIET.to_owned(), source })?;
    Ok(if text.contains("async_nats") { filter } else { filter.add_directive(quiet) })
}

fn is_export_configured() -> bool {
    ENDPOINT_VARIABLES.iter().any(|name| env::var(name).is_ok_and(|value| !value.is_empty()))
}

fn provider(service_name: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder().with_http().build()?;
    // The builder has read OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES; a name given here would win over what the operator says.
    let is_named = env::var(SERVICE_NAME_VARIABLE).is_ok_and(|name| !name.is_empty());
    let resource = Resource::builder();
    let resource = if is_named { resource } else { resource.with_service_name(service_name.to_owned()) }.build();
    Ok(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build())
}

fn logs<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Human => layer.compact().with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

// The registry is the only subscriber that is used; naming it keeps the layers' types honest.
const _: fn(LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> = logs::<Registry>;
