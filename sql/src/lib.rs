//! Reads SQL migrations for what they take away from the release that still serves: tables, columns, names, types, and room for `NULL`. Pure:
//! text in, findings out. What cannot be read is a finding as well, never an error.
//!
//! [`check`] reads the files of one release together, in order; [`Finding`] is what it tells.

mod statement;

use std::collections::BTreeSet;
use std::fmt;

use sqlparser::dialect::{Dialect, PostgreSqlDialect, SQLiteDialect};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

/// Findings that are told for one file; a file with more is one that needs eyes anyway.
const FINDINGS_PER_FILE_MAX: usize = 20;

/// Tokens of one statement, white space among them; longer ones are not parsed.
const STATEMENT_TOKENS_MAX: usize = 4_000;
/// How deep a statement may be nested. A deeper one would overflow the stack, which ends the whole process.
const NESTING_MAX: usize = 20;

/// Which SQL it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Postgres,
    Sqlite,
}

impl Language {
    /// By the database's URL; PostgreSQL where it does not say.
    pub fn of_url(url: &str) -> Self {
        if url.starts_with("sqlite:") { Self::Sqlite } else { Self::Postgres }
    }

    fn dialect(self) -> Box<dyn Dialect> {
        match self {
            Self::Postgres => Box::new(PostgreSqlDialect {}),
            Self::Sqlite => Box::new(SQLiteDialect {}),
        }
    }
}

/// One statement that older releases may not survive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub file: String,
    /// From 1.
    pub line: u64,
    /// Stable, for programs, e.g. `drop-column`.
    pub code: &'static str,
    /// What it does and why that matters.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// Every finding in these files: name and text, in the order in which they are applied.
pub fn check<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>, language: Language) -> Vec<Finding> {
    let dialect = language.dialect();
    let mut made = BTreeSet::new();
    let mut findings = Vec::new();
    for (file, text) in files {
        let mut of_file = Vec::new();
        check_file(file, text, dialect.as_ref(), &mut made, &mut of_file);
        of_file.truncate(FINDINGS_PER_FILE_MAX);
        findings.extend(of_file);
    }
    findings
}

fn check_file(file: &str, text: &str, dialect: &dyn Dialect, made: &mut BTreeSet<String>, findings: &mut Vec<Finding>) {
    let mut tell = |line: u64, code, message: String| {
        findings.push(Finding { file: file.to_owned(), line: line.max(1), code, message });
    };
    let tokens = match Tokenizer::new(dialect, text).tokenize_with_location() {
        Ok(tokens) => tokens,
        Err(error) => return tell(error.location.line, "unreadable", unreadable(&error.message)),
    };
    // One statement at a time: one that the parser does not know must not hide the others.
    for tokens in tokens.split(|token| token.token == Token::SemiColon) {
        let Some(first) = tokens.iter().find(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF)) else {
            continue;
        };
        // Settings of the session; the parser does not know all of their values.
        if matches!(&first.token, Token::Word(word) if word.value.eq_ignore_ascii_case("pragma")) {
            continue;
        }
        let line = first.span.start.line;
        // What it would be made into is as deep as a chain of operators is long, and is taken apart again level by level.
        if tokens.len() > STATEMENT_TOKENS_MAX {
            if !is_harmless(&first.token) {
                tell(line, "unreadable", unreadable(&format!("it has more than {STATEMENT_TOKENS_MAX} tokens")));
            }
            continue;
        }
        match parse(dialect, tokens) {
            Ok(statement) => {
                for (code, message) in statement::judge(&statement, made) {
                    tell(line, code, message);
                }
            }
            Err(why) => tell(line, "unreadable", unreadable(&why)),
        }
    }
}

/// Whether a statement of this kind takes nothing away that anybody would be told of; those with much data are long.
fn is_harmless(first: &Token) -> bool {
    let known = ["insert", "update", "delete", "select", "values", "with", "copy", "comment", "merge", "replace"];
    matches!(first, Token::Word(word) if known.iter().any(|kind| word.value.eq_ignore_ascii_case(kind)))
}

fn parse(dialect: &dyn Dialect, tokens: &[TokenWithSpan]) -> Result<sqlparser::ast::Statement, String> {
    let mut parser = Parser::new(dialect).with_recursion_limit(NESTING_MAX).with_tokens_with_locations(tokens.to_vec());
    let statement = parser.parse_statement().map_err(|error| error.to_string())?;
    match parser.peek_token().token {
        Token::EOF => Ok(statement),
        other => Err(format!("{other} was not expected")),
    }
}

fn unreadable(why: &str) -> String {
    const WHY_MAX_CHARS: usize = 120;
    let why: String = why.chars().filter(|c| !c.is_control()).take(WHY_MAX_CHARS).collect();
    format!("this statement was not understood, so nobody looked at what it takes away: {why}")
}

#[cfg(test)]
mod tests;
