//! The ledger for people and for programs.

use std::io::{self, Write as _};

use landfall_schema::Timestamp;
use serde::Serialize;
use thiserror::Error;

use crate::cli::{Format, HistoryArgs};
use crate::ledger::{Ledger, LedgerError, ReleaseRow, TerminalRow};

#[derive(Debug, Error)]
pub enum HistoryError {
    #[error("the ledger cannot be read")]
    Ledger(#[from] LedgerError),
    #[error("the output cannot be written")]
    Output(#[from] io::Error),
    #[error("the output cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// One line of `--output json`: a promotion with how it ended on each host.
#[derive(Debug, Serialize)]
struct Promotion {
    id: String,
    env: String,
    app: String,
    counter: i64,
    release: String,
    intent: String,
    author: String,
    at: String,
    signature: String,
    hosts: Vec<HostOutcome>,
}

#[derive(Debug, Serialize)]
struct HostOutcome {
    host: String,
    outcome: String,
    at: String,
    duration_ms: Option<i64>,
    message: String,
    reason: Option<String>,
    signature: String,
}

/// # Errors
/// [`HistoryError`]; a closed pipe is a normal end.
pub async fn print(ledger: &Ledger, args: &HistoryArgs) -> Result<(), HistoryError> {
    match write(ledger, args).await {
        Err(HistoryError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

async fn write(ledger: &Ledger, args: &HistoryArgs) -> Result<(), HistoryError> {
    let mut out = io::stdout();
    for row in ledger.releases(args.env.as_ref(), args.app.as_ref(), args.limit).await? {
        let hosts = ledger.terminal(&row.event_id).await?;
        let promotion = promotion(row, hosts);
        match args.output {
            Format::Json => writeln!(out, "{}", serde_json::to_string(&promotion)?)?,
            Format::Human => write_human(&mut out, &promotion)?,
        }
    }
    Ok(out.flush()?)
}

fn promotion(row: ReleaseRow, hosts: Vec<TerminalRow>) -> Promotion {
    Promotion {
        id: row.event_id,
        env: row.env,
        app: row.app,
        counter: row.counter,
        release: row.release,
        intent: row.intent,
        author: row.author,
        at: time(row.at_ms),
        signature: row.signature,
        hosts: hosts.into_iter().map(host).collect(),
    }
}

fn host(row: TerminalRow) -> HostOutcome {
    HostOutcome {
        host: row.host,
        outcome: row.kind.trim_start_matches("deploy.").to_owned(),
        at: time(row.at_ms),
        duration_ms: row.duration_ms,
        message: row.message,
        reason: row.reason,
        signature: row.signature,
    }
}

fn write_human(out: &mut impl io::Write, promotion: &Promotion) -> io::Result<()> {
    let Promotion { at, env, app, counter, release, intent, author, .. } = promotion;
    writeln!(out, "{at}  {env}/{app} #{counter}  {release}  {intent} by {author}")?;
    if promotion.hosts.is_empty() {
        writeln!(out, "    no host has ended yet")?;
    }
    for host in &promotion.hosts {
        let took = host.duration_ms.map_or(String::new(), |ms| format!(" in {:.1} s", ms as f64 / 1e3));
        writeln!(out, "    {}: {}{took}: {}", host.host, host.outcome, host.message)?;
    }
    Ok(())
}

fn time(at_ms: i64) -> String {
    Timestamp::from_millisecond(at_ms).map_or_else(|_| at_ms.to_string(), |at| at.to_string())
}
