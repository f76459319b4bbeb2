//! Data on standard output, narration on standard error; meaning survives without colour.

use std::io::{self, IsTerminal as _, Write};

use clap::ValueEnum as _;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use owo_colors::OwoColorize as _;
use serde::Serialize;

use crate::cli::{ColorWhen, GlobalArgs, OutputFormat};
use crate::context::process_environment;
use crate::error::{CliError, ExitCode};

#[derive(Debug, Clone)]
pub struct Output {
    pub format: OutputFormat,
    pub quiet: bool,
}

impl Output {
    /// Sets the process's colours as well.
    pub fn new(global: &GlobalArgs) -> Self {
        match global.color {
            ColorWhen::Auto => {}
            ColorWhen::Always => anstream::ColorChoice::Always.write_global(),
            ColorWhen::Never => anstream::ColorChoice::Never.write_global(),
        }
        let from_environment = || OutputFormat::from_str(&process_environment("LANDFALL_OUTPUT")?, true).ok();
        Self { format: global.output.or_else(from_environment).unwrap_or_default(), quiet: global.quiet }
    }

    pub fn is_json(&self) -> bool {
        self.format == OutputFormat::Json
    }

    /// Whether moving progress bars make sense.
    pub fn is_live(&self) -> bool {
        !self.quiet && !self.is_json() && io::stderr().is_terminal()
    }

    /// One line of data.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn line(&self, text: impl AsRef<str>) -> Result<(), CliError> {
        let mut stdout = anstream::stdout().lock();
        writeln!(stdout, "{}", text.as_ref()).and_then(|()| stdout.flush()).map_err(|error| closed(&error))
    }

    /// One JSON document on one line.
    ///
    /// # Errors
    /// When standard output is closed, or the value cannot be written as JSON.
    pub fn json<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), CliError> {
        let text = serde_json::to_string(value).map_err(|error| CliError::new("cannot write JSON").because(&error))?;
        self.line(text)
    }

    /// A table of data; numbers are not aligned specially.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn table(&self, header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result<(), CliError> {
        self.line(table(header, rows))
    }

    /// One line of narration on standard error; nothing when quiet.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            say(text.as_ref());
        }
    }

    /// A warning on standard error, also when quiet.
    pub fn warn(&self, text: impl AsRef<str>) {
        say(&format!("{} {}", "warning:".yellow().bold(), text.as_ref()));
    }

    /// An error on standard error.
    pub fn error(&self, error: &CliError) {
        say(&format!("{} {error}", "error:".red().bold()));
    }
}

/// Narration is lost without harm when nobody reads it.
fn say(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

fn closed(error: &io::Error) -> CliError {
    let exit = if error.kind() == io::ErrorKind::BrokenPipe { ExitCode::BrokenPipe } else { ExitCode::Error };
    CliError::new("cannot write to standard output").because(error).exit(exit)
}

/// Columns separated by spaces, the header in capitals, no trailing blanks.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|title| title.to_uppercase()));
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2)).set_cell_alignment(CellAlignment::Left);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// `0.8 s`, `12 s`, `3 min 20 s`: as exact as a person wants it.
pub fn duration(milliseconds: u64) -> String {
    match milliseconds {
        0..10_000 => format!("{:.1} s", milliseconds as f64 / 1000.0),
        10_000..120_000 => format!("{} s", milliseconds / 1000),
        _ => format!("{} min {} s", milliseconds / 60_000, milliseconds / 1000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_plain_text() {
        let rows = vec![vec!["a".to_owned(), "succeeded".to_owned()], vec!["host-b".to_owned(), String::new()]];
        assert_eq!(table(&["host", "outcome"], rows), "HOST    OUTCOME\na       succeeded\nhost-b");
    }

    #[test]
    fn durations_are_words() {
        let shown = [0, 840, 9_940, 12_345, 119_999, 200_000].map(duration);
        assert_eq!(shown, ["0.0 s", "0.8 s", "9.9 s", "12 s", "119 s", "3 min 20 s"]);
    }
}
