//! Logs and traces, set up the same way in every binary: human or JSON lines on stderr, and OpenTelemetry spans over OTLP/HTTP when an
//! endpoint is configured (`OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`).
//!
//! [`setup`] installs both and hands out a guard; [`context`] carries W3C trace context into and out of messages.

mod context;
mod setup;

pub use context::{link_current_span, set_attribute, traceparent_of_current_span};
pub use setup::{Guard, LogFormat, Options, TelemetryError, init};
