//! Every file of `cases/` holds SQL files, and what is found in them:
//!
//! ```text
//! --- 1_drop.sql
//! DROP TABLE orders;
//! === expect
//! 1_drop.sql:1: [drop-table] …
//! ```
//!
//! A case whose name begins with `sqlite` is SQLite's. `UPDATE_GOLDEN=1 cargo test -p landfall-sql` rewrites what is expected.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use super::{Finding, Language, check};

const EXPECT: &str = "=== expect\n";

fn found(input: &str, language: Language) -> Vec<Finding> {
    let mut files: Vec<(&str, String)> = Vec::new();
    for line in input.split_inclusive('\n') {
        match line.strip_prefix("--- ") {
            Some(name) => files.push((name.trim_end(), String::new())),
            None => files.last_mut().expect("a case begins with --- and a file's name").1.push_str(line),
        }
    }
    check(files.iter().map(|(name, text)| (*name, text.as_str())), language)
}

#[test]
fn cases() {
    let mut wrong = Vec::new();
    let mut paths: Vec<_> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cases"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 5);
    for path in paths {
        let is_sqlite = path.file_name().unwrap().to_string_lossy().starts_with("sqlite");
        let language = if is_sqlite { Language::Sqlite } else { Language::Postgres };
        let case = fs::read_to_string(&path).unwrap();
        let (input, expect) = case.split_once(EXPECT).unwrap_or((&case, ""));
        let told: String = found(input, language)
            .iter()
            .map(|f| format!("{}:{}: [{}] {}\n", f.file, f.line, f.code, f.message))
            .collect();
        let told = if told.is_empty() { "nothing\n".to_owned() } else { told };
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, format!("{input}{EXPECT}{told}")).unwrap();
        } else if told != expect {
            wrong.push(format!("{}\n{told}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{} cases differ; this was found:\n\n{}", wrong.len(), wrong.join("\n"));
}

/// Whatever the text, there is an answer.
#[test]
fn cut_anywhere() {
    let whole = include_str!("cases/destructive.case").split_once(EXPECT).unwrap().0;
    let whole = whole.replace("--- ", "-- ");
    for end in (0..whole.len()).filter(|end| whole.is_char_boundary(*end)) {
        check([("x.sql", &whole[..end])], Language::Postgres);
    }
}

/// Neither a parser nor what takes its tree apart may overflow the stack, which would end the executor.
#[test]
fn deep_statements() {
    let code = |text: &str| check([("x.sql", text)], Language::Postgres).first().map(|finding| finding.code);
    for (open, close) in [("(", ")"), ("NOT ", ""), ("- ", ""), ("CASE WHEN ", " THEN 1 END"), ("1 + ", "")] {
        for depth in [18, 100, 1_000, 100_000] {
            let text = format!("CREATE TABLE x AS SELECT {}1{};", open.repeat(depth), close.repeat(depth));
            let found = code(&text);
            assert!(found.is_none() || found == Some("unreadable"), "{depth} of {open}: {found:?}");
            assert!(depth < 100_000 || found == Some("unreadable"), "{depth} of {open}");
        }
    }
}

#[test]
fn long_statements() {
    let of = |tokens: usize| format!("DROP TABLE a{};", ", b".repeat((tokens - 5) / 3));
    let codes = |text: &str| check([("x.sql", text)], Language::Postgres).iter().map(|f| f.code).collect::<Vec<_>>();
    // `DROP TABLE a` has five tokens with its white space, `, b` three.
    assert!(codes(&of(crate::STATEMENT_TOKENS_MAX)).iter().all(|code| *code == "drop-table"));
    assert_eq!(codes(&of(crate::STATEMENT_TOKENS_MAX + 3)), ["unreadable"]);
    // Data is long and takes nothing away.
    assert!(codes(&format!("INSERT INTO a VALUES {};", "(1),".repeat(20_000))).is_empty());
}

#[test]
fn findings_and_words_have_an_end() {
    use crate::{FINDINGS_PER_FILE_MAX, unreadable};
    for past in [0, 1] {
        let text: String = (0..FINDINGS_PER_FILE_MAX + past).map(|n| format!("DROP TABLE t{n};\n")).collect();
        let found = check([("a.sql", text.as_str()), ("b.sql", "DROP TABLE other;")], Language::Postgres);
        assert_eq!(found.len(), FINDINGS_PER_FILE_MAX + 1);
        assert!(unreadable(&"é".repeat(120 + past)).ends_with(&format!(" away: {}", "é".repeat(120))));
    }
}
