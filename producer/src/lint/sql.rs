//! SQL migrations beside the compose file: what they take away from the release that still serves.

use std::path::{Path, PathBuf};

use landfall_schema::stack::EXTENSION;
use landfall_sql::{Finding, Language};

use crate::error::CliError;
use crate::lint::sheets::Sheets;

/// All SQL files of one folder together.
const FOLDER_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Warnings that `landfall promote` prints.
const WARNINGS_MAX: usize = 5;

/// A folder with migrations, and the SQL that is spoken there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    pub path: PathBuf,
    pub language: Language,
}

/// The folders that compose files name as `migrations.source`, relative to the first of them; none where the release is marked as one
/// that takes things away.
pub fn named(texts: &[&str], beside: &Path) -> Vec<Folder> {
    let (sheets, _) = Sheets::read(texts);
    if is_contract(&sheets) {
        return Vec::new();
    }
    let parts = sheets.services.values().flatten();
    let migrations = parts.filter_map(|part| part.node.get(EXTENSION)?.get("migrations"));
    let mut folders: Vec<Folder> = migrations
        .filter_map(|migrations| {
            let source = migrations.get("source")?.text().filter(|text| !text.contains('$'))?;
            let url = migrations.get("url").and_then(|url| url.text()).unwrap_or_default();
            Some(Folder { path: beside.join(source), language: Language::of_url(url) })
        })
        .collect();
    folders.sort_by(|one, two| one.path.cmp(&two.path));
    folders.dedup();
    folders
}

/// SQLite where every database of the stack is one, else PostgreSQL.
pub(super) fn language(texts: &[&str]) -> Language {
    let (sheets, _) = Sheets::read(texts);
    let parts = sheets.services.values().flatten();
    let mut urls = parts.filter_map(|part| part.node.get(EXTENSION)?.get("migrations")?.get("url")?.text()).peekable();
    if urls.peek().is_some() && urls.all(|url| Language::of_url(url) == Language::Sqlite) {
        Language::Sqlite
    } else {
        Language::Postgres
    }
}

/// Whether the release says that it takes away what older ones need.
pub(super) fn is_contract(sheets: &Sheets) -> bool {
    sheets.top(EXTENSION).filter_map(|(_, entry)| entry.value.get("contract")).any(|node| node.is_true())
}

/// Names and texts of the folder's files as sqlx would apply them, those of a version up to `after` left out.
pub fn read(folder: &Folder, after: Option<i64>) -> Result<Vec<(String, String)>, CliError> {
    let failed = |error: &std::io::Error| {
        CliError::new(format!("cannot read the migrations in {}", folder.path.display()))
            .because(error)
            .hint("name the folder with the SQL files: --migrations DIR, or `source` of the service's migrations")
    };
    let mut found = Vec::new();
    let mut bytes = 0;
    for entry in std::fs::read_dir(&folder.path).map_err(|error| failed(&error))? {
        let path = entry.map_err(|error| failed(&error))?.path();
        let Some(version) = version(&path) else { continue };
        if after.is_some_and(|after| version <= after) || path.to_string_lossy().ends_with(".down.sql") {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(|error| failed(&error))?;
        bytes += text.len();
        if bytes > FOLDER_MAX_BYTES {
            let message = format!("{} holds more than {FOLDER_MAX_BYTES} bytes of SQL", folder.path.display());
            return Err(CliError::new(message).hint("name the folder that holds the migrations alone"));
        }
        found.push((version, path.display().to_string(), text));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, name, text)| (name, text)).collect())
}

/// Of `<version>_<description>.sql`; `None` for any other file.
fn version(path: &Path) -> Option<i64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".sql")?;
    name.split_once('_')?.0.parse().ok()
}

pub fn findings(files: &[(String, String)], language: Language) -> Vec<Finding> {
    landfall_sql::check(files.iter().map(|(name, text)| (name.as_str(), text.as_str())), language)
}

/// What `landfall promote` warns of: findings in files that no host has applied yet, as far as the folders are here.
pub fn warnings(texts: &[&str], beside: &Path, applied: Option<i64>) -> Vec<String> {
    let mut warnings = Vec::new();
    for folder in named(texts, beside).iter().filter(|folder| folder.path.is_dir()) {
        match read(folder, applied) {
            Ok(files) => warnings.extend(findings(&files, folder.language).iter().map(ToString::to_string)),
            Err(error) => warnings.push(error.message),
        }
    }
    let more = warnings.len().saturating_sub(WARNINGS_MAX);
    warnings.truncate(WARNINGS_MAX);
    if more > 0 {
        warnings.push(format!("{more} more; `landfall lint` shows them all"));
    }
    warnings
}

pub const HINT: &str = "expand first and contract in a later release; where it is meant, mark the release: `x-landfall: {contract: true}` at the top";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn folders_and_their_files() {
        let text = "services: {app: {x-landfall: {migrations: {path: /m, url: 'sqlite://x.db', source: ./db}}}}";
        let folders = named(&[text], Path::new("/stack"));
        assert_eq!(folders, [Folder { path: "/stack/./db".into(), language: Language::Sqlite }]);
        assert!(named(&[text, "x-landfall: {contract: true}"], Path::new("/stack")).is_empty());

        let directory = tempfile::tempdir().unwrap();
        for name in ["0002_b.sql", "10_c.up.sql", "10_c.down.sql", "0001_a.sql", "notes.sql", "readme.md"] {
            std::fs::write(directory.path().join(name), "DROP TABLE orders;").unwrap();
        }
        let folder = Folder { path: directory.path().to_owned(), language: Language::Postgres };
        let names = |after| {
            let files = read(&folder, after).unwrap();
            files.iter().map(|(name, _)| name.rsplit_once('/').unwrap().1.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(None), ["0001_a.sql", "0002_b.sql", "10_c.up.sql"]);
        assert_eq!(names(Some(2)), ["10_c.up.sql"]);
        assert_eq!(findings(&read(&folder, Some(2)).unwrap(), folder.language)[0].code, "drop-table");
        assert!(read(&Folder { path: "/nowhere".into(), language: Language::Postgres }, None).is_err());
    }

    #[test]
    fn folders_and_warnings_have_an_end() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder { path: directory.path().to_owned(), language: Language::Postgres };
        for (bytes, is_read) in [(FOLDER_MAX_BYTES, true), (FOLDER_MAX_BYTES + 1, false)] {
            std::fs::write(directory.path().join("1_a.sql"), " ".repeat(bytes)).unwrap();
            assert_eq!(read(&folder, None).is_ok(), is_read, "{bytes}");
        }
        let text = "services: {app: {x-landfall: {migrations: {path: /m, url: 'postgres://x', source: .}}}}";
        for past in [0, 1] {
            let sql: String = (0..WARNINGS_MAX + past).map(|n| format!("DROP TABLE t{n};\n")).collect();
            std::fs::write(directory.path().join("1_a.sql"), sql).unwrap();
            let told = warnings(&[text], directory.path(), None);
            assert_eq!(told.len(), WARNINGS_MAX + past, "{told:?}");
            assert_eq!(told.last().unwrap().starts_with("1 more;"), past == 1, "{told:?}");
        }
    }
}
