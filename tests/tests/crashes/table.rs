//! What the kills came to: one line for each in a file, and a table of them all at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::lane::{Kill, Seen};

/// Where the lines go; `make crash` sets it.
const FILE: &str = "LANDFALL_CRASH_RESULTS";
const ONCE: &str = "-";

/// Parts of names that are made while the executor runs, and what they can be.
const PARTS: &[(&str, &[&str])] = &[
    (
        "effect.{effect:?}.",
        &[
            "Observe",
            "Pull",
            "Admit",
            "Backup",
            "Migrate",
            "Update",
            "Prove",
            "Smoke",
            "Bake",
            "Commit",
            "AwaitRollout",
            "Restore",
            "ProveFormer",
            "Remove",
        ],
    ),
    ("one-shot.{}.", &["backup", "migration", "smoke test 2"]),
    ("fence.{}", &["doing", "not-doing"]),
    (
        "journal.{_what}.",
        &[
            "take",
            "refuse",
            "record",
            "end",
            "announce",
            "set_deploy_traceparent",
            "commit",
            "mark_published",
            "prune",
            "forget_preview",
            "tell_again",
            "keep_rule",
        ],
    ),
];

/// Failpoints that no path of the matrix passes, and why.
const NOT_ON_A_PATH: &[(&str, &str)] = &[
    ("journal.end.before", "a promotion that another passes by before it begins; killed in simulation"),
    ("journal.end.after", "a promotion that another passes by before it begins; killed in simulation"),
    ("journal.forget_preview.before", "a preview whose time is over; its removal by promotion is a path"),
    ("journal.forget_preview.after", "a preview whose time is over; its removal by promotion is a path"),
    ("journal.set_deploy_traceparent.before", "only where traces are collected; nothing is decided by it"),
    ("journal.set_deploy_traceparent.after", "only where traces are collected; nothing is decided by it"),
    ("one-shot.backup.marked", "only what may not run twice is marked"),
    ("one-shot.smoke test 2.marked", "only what may not run twice is marked"),
];

/// What became of one kill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Survived,
    /// The first kill was survived, and the second did not come: after the restart that failpoint is not passed any more.
    SurvivedOnce,
    /// A cut-off statement without a transaction was left to people, as it must be.
    Unknown,
    NotReached,
    Doubled,
    Lost,
    Failed(String),
}

impl Verdict {
    pub(crate) fn of(kill: &Kill, seen: &Result<Seen>) -> Self {
        match seen {
            Ok(seen) if seen.unknown => Self::Unknown,
            Ok(seen) if kill.again.is_some() && !seen.again => Self::SurvivedOnce,
            Ok(_) => Self::Survived,
            Err(error) => Self::of_error(error),
        }
    }

    /// What was wrong may be told by any of the causes; else the last of them says most.
    fn of_error(error: &anyhow::Error) -> Self {
        let told = error
            .chain()
            .map(|cause| Self::read(&cause.to_string().lines().next().unwrap_or("failed").replace('\t', " ")));
        let told: Vec<Self> = told.collect();
        let known = told.iter().find(|verdict| !matches!(verdict, Self::Failed(_)));
        known.or(told.last()).cloned().unwrap_or_else(|| Self::Failed("failed".to_owned()))
    }

    fn is_good(&self) -> bool {
        matches!(self, Self::Survived | Self::SurvivedOnce | Self::Unknown)
    }

    fn written(&self) -> &str {
        match self {
            Self::Survived => "survived",
            Self::SurvivedOnce => "survived, and was not passed again",
            Self::Unknown => "left to people",
            Self::NotReached => "was not reached",
            Self::Doubled => "migrations doubled",
            Self::Lost => "outcomes lost",
            Self::Failed(why) => why,
        }
    }

    fn read(text: &str) -> Self {
        let fixed = [Self::Survived, Self::SurvivedOnce, Self::Unknown];
        if let Some(verdict) = fixed.into_iter().find(|verdict| verdict.written() == text) {
            return verdict;
        }
        let told = [Self::NotReached, Self::Doubled, Self::Lost];
        told.into_iter()
            .find(|verdict| text.contains(verdict.written()))
            .unwrap_or_else(|| Self::Failed(text.to_owned()))
    }
}

/// One kill and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) path: String,
    pub(crate) kill: Kill,
    pub(crate) verdict: Verdict,
    pub(crate) took: Duration,
}

impl Line {
    fn read(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split('\t').collect();
        let [path, point, nth, again, verdict, took_ms] = words.as_slice() else {
            bail!("{line:?} is no line of results")
        };
        let again = (*again != ONCE).then(|| (*again).to_owned());
        let kill = Kill { point: (*point).to_owned(), nth: nth.parse()?, again };
        Ok(Self {
            path: (*path).to_owned(),
            kill,
            verdict: Verdict::read(verdict),
            took: Duration::from_millis(took_ms.parse()?),
        })
    }
}

/// Appends the line, when somebody wants a table.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn record(line: &Line) -> Result<()> {
    let Some(results) = std::env::var_os(FILE) else { return Ok(()) };
    let Line { path, kill: Kill { point, nth, again }, verdict, took } = line;
    let again = again.as_deref().unwrap_or(ONCE);
    let mut file = std::fs::File::options().create(true).append(true).open(results)?;
    let line = format!("{path}\t{point}\t{nth}\t{again}\t{}\t{}\n", verdict.written(), took.as_millis());
    Ok(file.write_all(line.as_bytes())?)
}

/// What an earlier run into the same file has survived: a run that was cut off goes on there.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn survived() -> Result<BTreeSet<(String, Kill)>> {
    let Some(results) = std::env::var_os(FILE).filter(|file| std::path::Path::new(file).exists()) else {
        return Ok(BTreeSet::new());
    };
    let lines: Vec<Line> = std::fs::read_to_string(results)?.lines().map(Line::read).collect::<Result<_>>()?;
    Ok(lines.into_iter().filter(|line| line.verdict.is_good()).map(|line| (line.path, line.kill)).collect())
}

/// Every failpoint in the executor's source, with the parts that are filled in while it runs.
///
/// # Errors
/// When a part is not known here.
pub(crate) fn named() -> Result<BTreeSet<String>> {
    let found = first_arguments("failpoint!(")?;
    let mut named = BTreeSet::new();
    for name in found {
        match PARTS.iter().find(|(pattern, _)| name.starts_with(pattern)) {
            Some((pattern, values)) => {
                let (before, after) = pattern.split_once('{').context("a part")?;
                let rest = after.split_once('}').map_or("", |(_, rest)| rest);
                let end = &name[pattern.len()..];
                named.extend(values.iter().map(|value| format!("{before}{value}{rest}{end}")));
            }
            None if name.contains('{') => bail!("what {name} can be is not written in PARTS of {}", file!()),
            None => drop(named.insert(name)),
        }
    }
    Ok(named)
}

/// The journal's writes, as its source names them; each is a failpoint before it and one after.
///
/// # Errors
/// When the source cannot be read.
pub(crate) fn journal_writes() -> Result<BTreeSet<String>> {
    first_arguments("disk::write(")
}

/// What stands in quotation marks behind this text, everywhere in the executor's source.
fn first_arguments(call: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut folders = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../executor/src"))];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path)?;
                let names = text.split(call).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
                found.extend(names.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
            }
        }
    }
    ensure!(!found.is_empty(), "the executor's source has no {call}");
    Ok(found)
}

/// Sums of one path.
#[derive(Default)]
struct Sum {
    points: BTreeSet<String>,
    once: u32,
    twice: u32,
    survived: u32,
    unknown: u32,
    not_reached: u32,
    doubled: u32,
    lost: u32,
    failed: u32,
    took: Duration,
}

impl Sum {
    fn add(&mut self, line: &Line) {
        self.points.insert(line.kill.point.clone());
        self.took += line.took;
        match (&line.kill.again, &line.verdict) {
            (_, Verdict::NotReached) => {}
            (Some(_), verdict) if *verdict != Verdict::SurvivedOnce => self.twice += 1,
            _ => self.once += 1,
        }
        let count = match &line.verdict {
            Verdict::Survived | Verdict::SurvivedOnce => &mut self.survived,
            Verdict::Unknown => &mut self.unknown,
            Verdict::NotReached => &mut self.not_reached,
            Verdict::Doubled => &mut self.doubled,
            Verdict::Lost => &mut self.lost,
            Verdict::Failed(_) => &mut self.failed,
        };
        *count += 1;
    }

    fn row(&self, name: &str) -> String {
        let fired = self.once + self.twice;
        let survived = self.survived + self.unknown;
        let (points, doubled, lost) = (self.points.len(), self.doubled, self.lost);
        format!(
            "| {name} | {points} | {} | {} | {survived} of {fired} | {} | {doubled} | {lost} | {} | {:.1} |",
            self.once,
            self.twice,
            self.unknown,
            self.not_reached,
            self.took.as_secs_f64() / f64::from(fired.max(1))
        )
    }
}

/// Prints the table of the file of results.
///
/// # Errors
/// When a failpoint never killed, or a kill was not survived.
pub(crate) fn print(paths: &[String]) -> Result<()> {
    let results = std::env::var_os(FILE).with_context(|| format!("{FILE} is not set\n  hint: run `make crash`"))?;
    let lines: Vec<Line> = std::fs::read_to_string(results)?.lines().map(Line::read).collect::<Result<_>>()?;
    let (mut by_path, mut all) = (BTreeMap::<&str, Sum>::new(), Sum::default());
    for line in &lines {
        by_path.entry(&line.path).or_default().add(line);
        all.add(line);
    }
    println!(
        "| path | failpoints | killed once | killed twice | survived | of these left to people | migrations doubled | outcomes lost | not reached | seconds each |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for path in paths {
        println!("{}", by_path.get(path.as_str()).with_context(|| format!("nothing was killed on {path}"))?.row(path));
    }
    println!("{}", all.row("all"));
    let reached: BTreeSet<&str> =
        lines.iter().filter(|l| l.verdict != Verdict::NotReached).map(|l| l.kill.point.as_str()).collect();
    let excused: BTreeMap<&str, &str> = NOT_ON_A_PATH.iter().copied().collect();
    for (point, why) in &excused {
        println!("not on a path: {point}: {why}");
        ensure!(!reached.contains(point), "{point} is on a path after all");
    }
    let named = named()?;
    let never: Vec<&String> =
        named.iter().filter(|name| !reached.contains(name.as_str()) && !excused.contains_key(name.as_str())).collect();
    ensure!(never.is_empty(), "never reached, so nothing is known of them: {never:?}");
    let unknown: Vec<&&str> = reached.iter().filter(|point| !named.contains(**point)).collect();
    ensure!(unknown.is_empty(), "not in the source, so this is another build: {unknown:?}");
    println!("failpoints in the source: {}, reached: {}, not on a path: {}", named.len(), reached.len(), excused.len());
    let wrong: Vec<String> = lines
        .iter()
        .filter(|line| !line.verdict.is_good())
        .map(|l| format!("{} {:?}: {}", l.path, l.kill, l.verdict.written()))
        .collect();
    ensure!(wrong.is_empty(), "{} kills were not survived:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}
