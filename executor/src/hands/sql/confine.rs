//! Keeps SQLite migrations inside the stack's directory: their SQL runs in the executor itself, which is root.

use std::path::{Path, PathBuf};

/// The database's path below the stack's directory, links resolved.
///
/// # Errors
/// One line, when the path leads elsewhere or its folder is not there.
pub(crate) fn path_inside(directory: &Path, file: &Path) -> Result<PathBuf, String> {
    let resolve = |path: &Path| path.canonicalize().map_err(|error| format!("{}: {error}", path.display()));
    let directory = resolve(directory)?;
    let path = directory.join(file);
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(format!("{} is not a file", path.display()));
    };
    let mut resolved = resolve(folder)?.join(name);
    if resolved.is_symlink() {
        resolved = resolve(&resolved)?;
    }
    if resolved.starts_with(&directory) {
        Ok(resolved)
    } else {
        Err(format!("{} is outside of the stack's directory {}", resolved.display(), directory.display()))
    }
}

/// The first word that would reach another database file, if there is one.
pub(crate) fn reaches_out(sql: &str) -> Option<&'static str> {
    let words = words(sql);
    if words.iter().any(|word| word == "ATTACH") {
        return Some("ATTACH");
    }
    let vacuums = words.iter().position(|word| word == "VACUUM");
    vacuums.is_some_and(|at| words[at..].iter().any(|word| word == "INTO")).then_some("VACUUM INTO")
}

/// Words outside of comments, strings and quoted names, in capitals.
fn words(sql: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut rest = sql;
    while let Some(next) = rest.chars().next() {
        let skipped = match next {
            '\'' | '"' | '`' => quoted(rest, next),
            '[' => quoted(rest, ']'),
            _ if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            _ => 0,
        };
        if skipped == 0 && (next.is_alphanumeric() || next == '_') {
            words.last_mut().expect("never empty").extend(next.to_uppercase());
        } else {
            words.push(String::new());
        }
        rest = &rest[skipped.max(next.len_utf8())..];
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The length of a quoted text with its quotes; a doubled quote begins another one, which is as good.
fn quoted(text: &str, end: char) -> usize {
    text[1..].find(end).map_or(text.len(), |at| at + 2)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn words_that_reach_out() {
        for (sql, found) in [
            ("CREATE TABLE a (id int);", None),
            ("ATTACH DATABASE '/var/lib/landfall/journal.db' AS j;", Some("ATTACH")),
            ("select 1; aTTach/**/'x' as y", Some("ATTACH")),
            ("VACUUM main INTO '/etc/x'", Some("VACUUM INTO")),
            ("VACUUM; CREATE TABLE into_the_wild (id int)", None),
            ("-- ATTACH\nINSERT INTO t VALUES ('ATTACH it''s ATTACH'); /* ATTACH */", None),
            ("CREATE TABLE [attach] (\"attach\" int)", None),
        ] {
            assert_eq!(reaches_out(sql), found, "{sql}");
        }
    }

    #[test]
    fn paths_stay_inside() {
        let outer = tempfile::tempdir().unwrap();
        let stack = outer.path().join("stack");
        std::fs::create_dir_all(stack.join("data")).unwrap();
        std::fs::write(outer.path().join("journal.db"), "").unwrap();
        std::os::unix::fs::symlink(outer.path().join("journal.db"), stack.join("link.db")).unwrap();
        let inside = |file: &str| path_inside(&stack, Path::new(file));
        assert!(inside("shop.db").is_ok());
        assert!(inside("data/shop.db").is_ok());
        assert!(inside(stack.join("shop.db").to_str().unwrap()).is_ok());
        for bad in ["../journal.db", "data/../../journal.db", "link.db", "/etc/shop.db", "missing/shop.db"] {
            assert!(inside(bad).is_err(), "{bad}");
        }
    }

    /// SQLite makes files of its own beside a database, whose names a container that has the folder mounted knows.
    #[tokio::test]
    async fn sqlite_follows_no_link_that_was_planted_beside_a_database() {
        use sqlx::ConnectOptions as _;
        use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
        for (mode, ending) in [
            (SqliteJournalMode::Delete, "-journal"),
            (SqliteJournalMode::Wal, "-wal"),
            (SqliteJournalMode::Wal, "-shm"),
        ] {
            let outer = tempfile::tempdir().unwrap();
            let (foreign, file) = (outer.path().join("foreign"), outer.path().join("shop.db"));
            std::fs::write(&foreign, "of the host").unwrap();
            std::os::unix::fs::symlink(&foreign, outer.path().join(format!("shop.db{ending}"))).unwrap();
            let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true).journal_mode(mode);
            // Whether it works all the same is SQLite's business.
            if let Ok(mut connection) = options.connect().await {
                let made =
                    sqlx::raw_sql("CREATE TABLE a (id int); INSERT INTO a VALUES (1)").execute(&mut connection).await;
                eprintln!("{ending}: {made:?}");
                drop(connection);
            }
            assert_eq!(std::fs::read_to_string(&foreign).unwrap(), "of the host", "{ending}");
        }
    }
}
