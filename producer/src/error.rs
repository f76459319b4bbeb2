//! What a command ends with: a documented exit code, or an error that says what to do next.

use std::error::Error;
use std::fmt;

use landfall_bus::BusError;

/// Printed at the end of `landfall --help`; `docs/exit-codes.md` says the same, and a test compares the two.
pub const EXIT_CODES_HELP: &str = "\
Exit codes:
    0  done; with --wait: the promised digests serve on every host of the plan
    1  error: the command itself could not do its work
    2  usage: the command line is wrong
    3  rolled back: the former release serves again on every host
    4  failed: nothing that was running was touched
    5  stuck: a rollback failed too, people are needed
    6  refused: a rule of the hosts forbids it
    7  not reached: hosts were silent until the deadline, or away
    8  raced: another promotion was first
    9  superseded: a newer promotion came before this one was done
   10  mixed: the hosts ended differently
   11  partial: the promised digests serve on every host that was here; others were not reached, and are named
   12  held: it failed, and every host stays as it is until people decide
   13  aborted: somebody ended it, and every host that had moved went back
  130  interrupted: waiting was stopped, the deploy goes on
  141  the reader of standard output went away";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    Done = 0,
    Error = 1,
    Usage = 2,
    RolledBack = 3,
    Failed = 4,
    Stuck = 5,
    Refused = 6,
    NotReached = 7,
    Raced = 8,
    Superseded = 9,
    Mixed = 10,
    Partial = 11,
    Held = 12,
    Aborted = 13,
    Interrupted = 130,
    BrokenPipe = 141,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// An error as a person meets it: what happened, why, and what to do next.
#[derive(Debug)]
pub struct CliError {
    pub message: String,
    /// Each one line, the nearest first.
    pub causes: Vec<String>,
    pub hint: Option<String>,
    pub exit: ExitCode,
}

impl CliError {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), causes: Vec::new(), hint: None, exit: ExitCode::Error }
    }

    /// The command line asks for something that cannot be.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: ExitCode::Usage, ..Self::new(message) }
    }

    /// From an error and all its sources.
    pub fn from_error(error: &dyn Error) -> Self {
        Self::new(error.to_string()).sources_of(error)
    }

    /// `message`, because of the error and all its sources.
    #[must_use]
    pub fn because(mut self, error: &dyn Error) -> Self {
        self.causes.push(error.to_string());
        self.sources_of(error)
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn exit(mut self, exit: ExitCode) -> Self {
        self.exit = exit;
        self
    }

    fn sources_of(mut self, error: &dyn Error) -> Self {
        let mut below = error.source();
        while let Some(source) = below {
            // Many errors repeat their source; once is enough.
            let text = source.to_string();
            let last = self.causes.last().unwrap_or(&self.message);
            if !last.ends_with(&text) {
                self.causes.push(text);
            }
            below = source.source();
        }
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        for cause in &self.causes {
            write!(f, "\n  because: {cause}")?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<BusError> for CliError {
    fn from(error: BusError) -> Self {
        let exit = if matches!(error, BusError::Raced { .. }) { ExitCode::Raced } else { ExitCode::Error };
        Self { hint: error.hint(), exit, ..Self::from_error(&error) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_error_names_its_causes_and_ends_with_the_hint() {
        let io = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let error = CliError::new("cannot read the compose file a.yml").because(&io).hint("name it with --file");
        let expect = "cannot read the compose file a.yml\n  because: no such file\nhint: name it with --file";
        assert_eq!(error.to_string(), expect);
    }

    #[test]
    fn help_and_documentation_list_the_same_exit_codes() {
        let leading_number = |text: &str| text.split_whitespace().next()?.parse::<u8>().ok();
        let help: Vec<u8> = EXIT_CODES_HELP.lines().filter_map(leading_number).collect();
        let page = include_str!("../../docs/exit-codes.md");
        let page: Vec<u8> = page.lines().filter_map(|line| leading_number(line.strip_prefix('|')?)).collect();
        let all = [
            ExitCode::Done,
            ExitCode::Error,
            ExitCode::Usage,
            ExitCode::RolledBack,
            ExitCode::Failed,
            ExitCode::Stuck,
            ExitCode::Refused,
            ExitCode::NotReached,
            ExitCode::Raced,
            ExitCode::Superseded,
            ExitCode::Mixed,
            ExitCode::Partial,
            ExitCode::Held,
            ExitCode::Aborted,
            ExitCode::Interrupted,
            ExitCode::BrokenPipe,
        ];
        let all: Vec<u8> = all.into_iter().map(|code| code as u8).collect();
        assert_eq!((&help, &page), (&all, &all));
    }
}
