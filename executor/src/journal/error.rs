//! What can be wrong with the journal, and what people do then.

use std::path::PathBuf;

use thiserror::Error;

use super::FILE_NAME;

#[derive(Debug, Error)]
pub enum JournalError {
    #[error(
        "cannot open the journal {}\n  hint: does the executor's user own the state directory, and has its disk space left? see `ls -l` and `df` there",
        path.display()
    )]
    Open { path: PathBuf, source: sqlx::Error },
    #[error(
        "the journal {file} is damaged: {detail}\n  hint: nothing was changed. Stop the executor and move it away with the files beside it: \
         `mkdir {folder}/damaged && mv {file}* {folder}/damaged/`. The host then takes the newest promotion of every application once more",
        file = path.display(), folder = path.parent().unwrap_or(path).display()
    )]
    Damaged { path: PathBuf, detail: String },
    #[error(
        "the journal {file} is an older copy: the newest promotion of {of} that it knows is #{known}, and this host has taken #{taken} since\n  \
         hint: put the newest journal back. If it is lost, stop the executor and move this one away: `mkdir {folder}/older && mv {file}* {folder}/older/`. \
         The host then takes the newest promotion of every application once more",
        file = path.display(), folder = path.parent().unwrap_or(path).display()
    )]
    Older { path: PathBuf, of: String, known: u64, taken: u64 },
    #[error(
        "cannot bring the journal {file} to this version's form\n  hint: if a newer executor wrote it, install that one again. Else it is damaged: stop \
         the executor and move it away with the files beside it: `mkdir {folder}/damaged && mv {file}* {folder}/damaged/`. The host then takes the newest \
         promotion of every application once more",
        file = path.display(), folder = path.parent().unwrap_or(path).display()
    )]
    Migrate { path: PathBuf, source: sqlx::migrate::MigrateError },
    #[error("cannot {what} in the journal")]
    Query { what: &'static str, source: sqlx::Error },
    #[error(
        "the journal holds something unreadable: {what}\n  hint: if a newer executor wrote it, install that one again; else stop the executor and \
         move {FILE_NAME} in the state directory away, and the host takes the newest promotion of every application once more"
    )]
    Unreadable { what: String },
}

/// Names the operation that failed.
pub(super) fn failed(what: &'static str) -> impl FnOnce(sqlx::Error) -> JournalError {
    move |source| JournalError::Query { what, source }
}
