//! `landfall lint`: compose files and their `x-landfall` settings, before anything is published. Everything wrong is said at once, each
//! with its place. A plain compose file that knows nothing of Landfall is fine.
//!
//! [`yaml`] keeps places; [`sheets`] takes files together as Compose does; [`services`] and [`settings`] find problems, the latter with
//! [`shape`], the JSON Schema of the settings; [`problem`] shows them.

mod nearest;
mod problem;
mod services;
mod settings;
mod shape;
mod sheets;
pub mod sql;
mod yaml;

#[cfg(test)]
mod cases;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use landfall_schema::layout::BUNDLE_MAX_BYTES;
use serde::Serialize;

use crate::compose::DEFAULT_FILES;
use crate::error::{CliError, ExitCode};
use crate::lint::problem::{Problem, ProblemView, Severity, render};
use crate::lint::sheets::Sheets;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct LintArgs {
    /// Compose files, later ones override earlier ones; `-` is standard input. Default: the one that promote would take here
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A folder with SQL migrations in sqlx's layout; repeatable. Default: `source` of each service's migrations
    #[arg(long = "migrations", value_name = "DIR")]
    pub migrations: Vec<PathBuf>,
    /// Leave out migrations up to this version: they are applied already
    #[arg(long, value_name = "VERSION")]
    pub after: Option<i64>,
    /// Warnings count as errors
    #[arg(long)]
    pub strict: bool,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    files: &'a [String],
    errors: usize,
    warnings: usize,
    problems: Vec<ProblemView<'a>>,
}

pub async fn run(args: LintArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let paths = if args.files.is_empty() { default_files(Path::new("."))? } else { args.files };
    let mut names: Vec<String> = paths.iter().map(|path| shown_name(path)).collect();
    let mut texts = paths.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let mut problems = check(&texts.iter().map(String::as_str).collect::<Vec<_>>());

    for folder in folders(&args.migrations, &paths, &texts) {
        let files = sql::read(&folder, args.after)?;
        let first = names.len();
        problems.extend(sql::findings(&files, folder.language).into_iter().map(|finding| {
            let file = first + files.iter().position(|(name, _)| *name == finding.file).unwrap_or(0);
            let at = problem::Place {
                line: usize::try_from(finding.line).unwrap_or(0),
                column: 1,
                ..problem::Place::default()
            };
            Problem::warning(file, at, finding.code, finding.message).hint(sql::HINT)
        }));
        let (of_folder, with): (Vec<String>, Vec<String>) = files.into_iter().unzip();
        names.extend(of_folder);
        texts.extend(with);
    }

    let count = |severity| problems.iter().filter(|problem| problem.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let output = &cli.output;
    if output.is_json() {
        let views = problems.iter().map(|problem| ProblemView::new(problem, &names[problem.file])).collect();
        output.json(&Report { files: &names, errors, warnings, problems: views })?;
    } else {
        for problem in &problems {
            output.line(render(problem, &names[problem.file], &texts[problem.file]))?;
        }
        output.note(summary(&names.join(", "), errors, warnings));
    }
    let failed = errors > 0 || (args.strict && warnings > 0);
    Ok(if failed { ExitCode::Error } else { ExitCode::Done })
}

/// Those that the command line names, else those that the compose files name.
fn folders(named: &[PathBuf], paths: &[PathBuf], texts: &[String]) -> Vec<sql::Folder> {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    if named.is_empty() {
        let beside = paths.first().and_then(|path| path.parent()).unwrap_or(Path::new(""));
        return sql::named(&texts, beside);
    }
    if sql::is_contract(&Sheets::read(&texts).0) {
        return Vec::new();
    }
    named.iter().map(|path| sql::Folder { path: path.clone(), language: sql::language(&texts) }).collect()
}

/// Every problem of these files taken together, in the order of their places.
fn check(texts: &[&str]) -> Vec<Problem> {
    let (sheets, mut problems) = Sheets::read(texts);
    // What is left of a text with a syntax error would only mislead.
    if !problems.iter().any(|problem| problem.code == "yaml") {
        problems.extend(services::check(&sheets));
        problems.extend(settings::check(&sheets));
    }
    if texts.iter().all(|text| text.trim().is_empty()) {
        problems.push(Problem::error(0, problem::Place::default(), "no-services", "the file is empty"));
    }
    problems.sort_by_key(|problem| (problem.file, problem.at.line, problem.at.column, problem.severity));
    // A service that is merged from an anchor has its problems where the anchor stands, once.
    problems.dedup();
    problems
}

/// Every problem found and shown, as the command would.
#[cfg(test)]
pub(crate) fn fuzz(texts: &[&str]) {
    for problem in check(texts) {
        let shown = render(&problem, "compose.yml", texts[problem.file]);
        assert!(!problem.message.is_empty() && shown.contains(problem.code));
    }
}

fn summary(names: &str, errors: usize, warnings: usize) -> String {
    let counted = |count: usize, what: &str| match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    };
    match (errors, warnings) {
        (0, 0) => format!("{names}: nothing to complain about"),
        _ => format!("{names}: {}, {}", counted(errors, "error"), counted(warnings, "warning")),
    }
}

fn shown_name(path: &Path) -> String {
    if path == Path::new("-") { "<stdin>".to_owned() } else { path.display().to_string() }
}

fn read(path: &Path) -> Result<String, CliError> {
    let name = shown_name(path);
    let failed = |error: &std::io::Error| {
        CliError::new(format!("cannot read the compose file {name}")).because(error).hint("name it: landfall lint FILE")
    };
    let mut bytes = Vec::new();
    let limit = BUNDLE_MAX_BYTES as u64 + 1;
    if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    } else {
        let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
        file.take(limit).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    }
    if bytes.len() > BUNDLE_MAX_BYTES {
        return Err(CliError::new(format!("{name} has more than {BUNDLE_MAX_BYTES} bytes, which no bundle can carry")));
    }
    String::from_utf8(bytes)
        .map_err(|error| CliError::new(format!("{name} is not UTF-8 text")).because(&error.utf8_error()))
}

/// The file that `landfall promote` would take in this directory.
fn default_files(directory: &Path) -> Result<Vec<PathBuf>, CliError> {
    match DEFAULT_FILES.iter().find(|name| directory.join(name).is_file()) {
        Some(name) => Ok(vec![PathBuf::from(name)]),
        None => {
            let message = format!("there is no compose file here; tried {}", DEFAULT_FILES.join(", "));
            Err(CliError::new(message).hint("landfall lint FILE"))
        }
    }
}
