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
use std::path::Path;

use crate::lint::{check, problem::render};

const EXPECT: &str = "=== expect\n";

fn judged(input: &str) -> String {
    let mut names = Vec::new();
    let mut texts: Vec<String> = Vec::new();
    for line in input.split_inclusive('\n') {
        match line.strip_prefix("--- ") {
            Some(name) => {
                names.push(name.trim_end());
                texts.push(String::new());
            }
            None => texts.last_mut().expect("a case begins with --- and a file's name").push_str(line),
        }
    }
    let problems = check(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    let shown: Vec<String> =
        problems.iter().map(|problem| render(problem, names[problem.file], &texts[problem.file])).collect();
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

#[test]
fn cases() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lint/cases");
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 10);
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
