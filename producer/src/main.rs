//! The binary `landfall`; everything is in the library beside it.

use clap::Parser as _;
use clap::error::{ContextKind, ContextValue};
use landfall_producer::{cli::Cli, run};

/// At most this many characters of a bad argument are repeated in its error.
const SHOWN_MAX_CHARS: usize = 100;

fn main() -> std::process::ExitCode {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed already");
    }
    let cli = Cli::try_parse().unwrap_or_else(|error| shortened(error).exit());
    run::run(cli).into()
}

/// An error that repeats ten thousand characters hides what it says.
fn shortened(mut error: clap::Error) -> clap::Error {
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidArg, ContextKind::InvalidSubcommand] {
        if let Some(ContextValue::String(text)) = error.get(kind)
            && let Some((end, _)) = text.char_indices().nth(SHOWN_MAX_CHARS)
        {
            let text = format!("{}…", &text[..end]);
            error.insert(kind, ContextValue::String(text));
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_mistake_is_not_repeated_whole() {
        let told = |chars: usize| {
            let command = clap::Command::new("x").arg(clap::Arg::new("a").value_parser(["yes"]));
            let error = command.try_get_matches_from(["x".to_owned(), "é".repeat(chars)]);
            error.map_or_else(|error| shortened(error).to_string(), |_| "taken".to_owned())
        };
        let (at, past) = (told(SHOWN_MAX_CHARS), told(SHOWN_MAX_CHARS + 1));
        assert!(at.contains(&"é".repeat(SHOWN_MAX_CHARS)) && !at.contains('…'), "{at}");
        assert!(past.contains(&("é".repeat(SHOWN_MAX_CHARS) + "…")), "{past}");
    }
}
