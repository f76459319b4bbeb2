//! Every file of `cases/` holds compose files and what lint says of them:
//!
//! ```text
//! --- compose.yml
//! services: {}
//! === expect
//! error[no-services]: …
//! ```
//!
//! `UPDATE_GOLDEN=1 cargo test -p landfall lint` rewrites what is expected. A new case is a new file.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use crate::compose::Stack;
use crate::lint::check;
use crate::lint::problem::{Problem, Severity, render};

const EXPECT: &str = "=== expect\n";

/// Names and texts of a case's files.
fn files(input: &str) -> Vec<(&str, String)> {
    let mut files: Vec<(&str, String)> = Vec::new();
    for line in input.split_inclusive('\n') {
        match line.strip_prefix("--- ") {
            Some(name) => files.push((name.trim_end(), String::new())),
            None => files.last_mut().expect("a case begins with --- and a file's name").1.push_str(line),
        }
    }
    files
}

fn found(files: &[(&str, String)]) -> Vec<Problem> {
    check(&files.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>())
}

fn judged(input: &str) -> String {
    let files = files(input);
    let shown: Vec<String> = found(&files)
        .iter()
        .map(|problem| {
            let (name, text) = &files[problem.file];
            render(problem, name, text)
        })
        .collect();
    if shown.is_empty() { "nothing\n".to_owned() } else { plain(&shown.join("\n")) }
}

/// Without the escape sequences of colours.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let mut plain = parts.next().unwrap().to_owned();
    for part in parts {
        plain.push_str(&part[part.find('m').unwrap() + 1..]);
    }
    plain
}

fn paths() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lint/cases");
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 10);
    paths
}

#[test]
fn cases() {
    let paths = paths();
    let mut wrong = Vec::new();
    for path in paths {
        let case = fs::read_to_string(&path).unwrap();
        let (input, expect) = case.split_once(EXPECT).unwrap_or((&case, ""));
        let found = judged(input);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, format!("{input}{EXPECT}{found}")).unwrap();
        } else if found != expect {
            wrong.push(format!("{}\n{found}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{} cases differ; this was found:\n\n{}", wrong.len(), wrong.join("\n"));
}

/// Whoever has linted in peace must not meet an error about the same files when promoting.
#[test]
fn promote_reads_what_lint_passes() {
    for path in paths() {
        let case = fs::read_to_string(&path).unwrap();
        let files = files(case.split_once(EXPECT).unwrap_or((&case, "")).0);
        if found(&files).iter().all(|problem| problem.severity == Severity::Warning) {
            let files = files.into_iter().map(|(name, text)| (PathBuf::from(name), text)).collect();
            let read = Stack::parse(files);
            assert!(read.is_ok(), "{}: {}", path.display(), read.unwrap_err());
        }
    }
}

/// Whatever the text, lint answers, and never with a place outside it.
#[test]
fn cut_anywhere() {
    let whole =
        include_str!("cases/everything-used.case").split_once(EXPECT).unwrap().0.replace("--- compose.yml\n", "");
    for end in (0..whole.len()).filter(|end| whole.is_char_boundary(*end)) {
        for problem in check(&[&whole[..end]]) {
            assert!(problem.at.line <= whole[..end].lines().count() + 1, "{problem:?}");
            render(&problem, "compose.yml", &whole[..end]);
        }
    }
}
