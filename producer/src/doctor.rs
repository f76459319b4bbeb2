//! `landfall doctor`: everything that a deploy needs, checked without changing anything. Each check says what was found, and what to do
//! where it is not well.
//!
//! [`finding`] is what a check says; [`bus`] looks at NATS and what is on it, [`machine`] at this machine, [`registries`] at registries.

mod bus;
mod finding;
mod machine;
mod registries;

use clap::Args;
use owo_colors::OwoColorize as _;
use serde::Serialize;

use crate::doctor::finding::{Finding, State};
use crate::error::{CliError, ExitCode};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// This machine runs an executor: Docker, Compose and disk are needed, not only looked at
    #[arg(long)]
    pub host: bool,
    /// A registry that must answer, e.g. registry.example.org; may be repeated
    #[arg(long, value_name = "REGISTRY")]
    pub registry: Vec<String>,
    /// Warnings count as failures
    #[arg(long)]
    pub strict: bool,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    healthy: bool,
    checks: &'a [Finding],
}

pub async fn run(args: DoctorArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let mut report = Progress { findings: Vec::new(), cli };
    report.tell(settings(cli))?;
    report.tell(bus::check(&cli.settings).await)?;
    report.tell(vec![machine::signing_key(&cli.settings.signing_key)])?;
    report.tell(registries::check(&args.registry, &cli.settings.insecure_registries).await)?;
    report.tell(machine::check(args.host).await)?;

    let worst = report.findings.iter().map(|finding| finding.state).max().unwrap_or(State::Ok);
    let healthy = worst < if args.strict { State::Warn } else { State::Fail };
    if cli.output.is_json() {
        cli.output.json(&Report { healthy, checks: &report.findings })?;
    }
    Ok(if healthy { ExitCode::Done } else { ExitCode::Error })
}

/// Lines come as checks end, since some wait for an answer.
struct Progress<'a> {
    findings: Vec<Finding>,
    cli: &'a Session,
}

impl Progress<'_> {
    fn tell(&mut self, findings: Vec<Finding>) -> Result<(), CliError> {
        if !self.cli.output.is_json() {
            for finding in &findings {
                self.cli.output.line(shown(finding))?;
            }
        }
        self.findings.extend(findings);
        Ok(())
    }
}

fn settings(cli: &Session) -> Vec<Finding> {
    let settings = &cli.settings;
    let context = match &settings.context {
        Some(name) => format!("context {name}"),
        None => "no context, only flags and environment variables".to_owned(),
    };
    let Some(env) = &settings.env else {
        let finding = Finding::warn("settings", format!("{context}; no environment is named"));
        return vec![finding.hint("with --env ENV, permissions and hosts are checked too")];
    };
    vec![Finding::ok("settings", format!("{context}; environment {env}"))]
}

fn shown(finding: &Finding) -> String {
    let word = match finding.state {
        State::Ok => "ok  ".green().to_string(),
        State::Warn => "warn".yellow().bold().to_string(),
        State::Fail => "FAIL".red().bold().to_string(),
    };
    let mut text = format!("{word}  {:<12}{}", finding.check, finding.message);
    if let Some(hint) = &finding.hint {
        text.push_str(&format!("\n      {:<12}hint: {hint}", ""));
    }
    text
}
