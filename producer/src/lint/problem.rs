//! What `lint` finds, and how it is shown: place, the line itself, and what to do.

use owo_colors::OwoColorize as _;
use serde::Serialize;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// From 1; 0 is the file as a whole.
    pub(super) line: usize,
    /// In characters, from 1.
    pub(super) column: usize,
    /// Characters to underline.
    pub(super) length: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Severity {
    Error,
    Warning,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// Index of the file among those that are checked together.
    pub(super) file: usize,
    pub(super) at: Place,
    pub(super) severity: Severity,
    /// Stable, for programs.
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Problem {
    pub(super) fn error(file: usize, at: Place, code: &'static str, message: impl Into<String>) -> Self {
        Self { file, at, severity: Severity::Error, code, message: message.into(), hint: None }
    }

    pub(super) fn warning(file: usize, at: Place, code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(file, at, code, message) }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A problem as it stands in JSON.
#[derive(Debug, Serialize)]
pub(super) struct ProblemView<'a> {
    file: &'a str,
    line: Option<usize>,
    column: Option<usize>,
    severity: Severity,
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

impl<'a> ProblemView<'a> {
    pub(super) fn new(problem: &'a Problem, file: &'a str) -> Self {
        let known = |number: usize| (number > 0).then_some(number);
        Self {
            file,
            line: known(problem.at.line),
            column: known(problem.at.column),
            severity: problem.severity,
            code: problem.code,
            message: &problem.message,
            hint: problem.hint.as_deref(),
        }
    }
}

/// Longest line that is repeated, in characters; the rest is cut.
const SNIPPET_MAX_CHARS: usize = 160;

/// The problem in words, with its line and a mark under the place.
pub(super) fn render(problem: &Problem, file: &str, text: &str) -> String {
    let word = match problem.severity {
        Severity::Error => "error".red().bold().to_string(),
        Severity::Warning => "warning".yellow().bold().to_string(),
    };
    let Place { line, column, length } = problem.at;
    let mut shown = format!("{word}[{}]: {}\n", problem.code, problem.message);
    let margin = " ".repeat(line.to_string().len());
    let bar = "|".blue().to_string();
    let arrow = "-->".blue().to_string();
    if line == 0 {
        shown.push_str(&format!(" {arrow} {file}\n"));
    } else {
        shown.push_str(&format!("{margin}{arrow} {file}:{line}:{column}\n"));
        if let Some(source) = text.lines().nth(line - 1).filter(|_| column <= SNIPPET_MAX_CHARS) {
            let source: String = without_passwords(source).chars().take(SNIPPET_MAX_CHARS).collect();
            let source = source.replace('\t', " ").replace(char::is_control, "�");
            // The mark stays within the line: a password that was taken out has made it shorter.
            let room = source.chars().count().saturating_sub(column - 1).max(1);
            let mark = format!("{}{}", " ".repeat(column - 1), "^".repeat(length.clamp(1, room)).yellow());
            shown.push_str(&format!("{margin} {bar}\n{line} {bar} {source}\n{margin} {bar} {mark}\n"));
        }
    }
    if let Some(hint) = &problem.hint {
        shown.push_str(&format!("{margin} {} hint: {hint}\n", "=".blue()));
    }
    shown
}

/// Takes `user:password@` out of every URL of a line: what lint prints ends in the logs of CI.
pub(super) fn without_passwords(line: &str) -> String {
    let mut shown = String::new();
    let mut rest = line;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        shown.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',')).unwrap_or(after.len());
        let (word, behind) = after.split_at(end);
        match word.rfind('@') {
            Some(at) => {
                shown.push_str("***");
                shown.push_str(&word[at..]);
            }
            None => shown.push_str(word),
        }
        rest = behind;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_repeated() {
        for (line, expect) in [
            ("url: postgres://shop:pa@ss@db/shop", "url: postgres://***@db/shop"),
            ("[\"http://a:b@c/d\", 'https://x/y@z']", "[\"http://***@c/d\", 'https://***@z']"),
            ("plain: ${DATABASE_URL}", "plain: ${DATABASE_URL}"),
            ("://", "://"),
        ] {
            assert_eq!(without_passwords(line), expect);
        }
    }

    #[test]
    fn a_long_line_is_cut() {
        let shown = |chars: usize, column: usize| {
            let at = Place { line: 1, column, length: 1 };
            render(&Problem::error(0, at, "x", "wrong"), "c.yml", &"y".repeat(chars))
        };
        for past in [0, 1] {
            assert_eq!(
                shown(SNIPPET_MAX_CHARS + past, 1).matches('y').count(),
                SNIPPET_MAX_CHARS + "c.yml".matches('y').count()
            );
        }
        // A mark beyond it would point at nothing.
        assert!(
            shown(1_000, SNIPPET_MAX_CHARS).contains("yyy") && !shown(1_000, SNIPPET_MAX_CHARS + 1).contains("yyy")
        );
    }
}
