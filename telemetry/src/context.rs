//! W3C trace context (w3.org/TR/trace-context, `traceparent`) of the current span.

use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

const TRACEPARENT: &str = "traceparent";

/// The `traceparent` that a message sent from within the current span carries; `None` when no exporter is configured.
pub fn traceparent_of_current_span() -> Option<String> {
    let mut headers = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut headers);
    headers.remove(TRACEPARENT)
}

/// Links the current span to the one that a message names. A text that is no `traceparent` is ignored, as the specification asks.
///
/// A link and not a parent: a promotion's trace ends when CI does, the deploys that it caused are traces of their own.
pub fn link_current_span(traceparent: &str) {
    if let Some(remote) = parse(traceparent) {
        Span::current().add_link(remote);
    }
}

/// Adds an attribute to a span's export. Unlike a field of the span it does not stand in every log line.
pub fn set_attribute(span: &Span, key: &'static str, value: impl Into<String>) {
    span.set_attribute(key, value.into());
}

fn parse(traceparent: &str) -> Option<SpanContext> {
    let headers = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&headers);
    let remote = context.span().span_context().clone();
    remote.is_valid().then_some(remote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_traceparent_is_one() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(parse(good).map(|c| c.span_id().to_string()).as_deref(), Some("00f067aa0ba902b7"));
        for bad in ["", "00", "00-0-0-01", "zz-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "\n"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
