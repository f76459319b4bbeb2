//! The real `landfall` as people and CI run it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::lab::program;

const RUN_LIMIT: Duration = Duration::from_secs(90);

/// Runs the CLI with a home, a context and an environment of its own.
#[derive(Debug, Clone)]
pub struct Cli {
    home: PathBuf,
    variables: Vec<(String, String)>,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Standard output as one JSON document.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("stdout is no JSON: {self:?}"))
    }

    /// Standard output as one JSON document a line.
    ///
    /// # Errors
    /// When a line is none.
    pub fn json_lines(&self) -> Result<Vec<Value>> {
        let parse = |line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

impl Cli {
    pub fn new(home: &Path) -> Self {
        Self { home: home.to_owned(), variables: Vec::new() }
    }

    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Runs `landfall ARGUMENTS`.
    ///
    /// # Errors
    /// When it is not built, or does not end in time.
    pub async fn run(&self, arguments: &[&str]) -> Result<Run> {
        let mut command = self.command(arguments)?;
        let output = timeout(RUN_LIMIT, command.output())
            .await
            .with_context(|| format!("landfall {} still runs after {RUN_LIMIT:?}", arguments.join(" ")))??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let run = Run {
            code: output.status.code().context("landfall was ended by a signal")?,
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        };
        eprintln!("$ landfall {}\n{}{}exit code {}", arguments.join(" "), run.stderr, run.stdout, run.code);
        Ok(run)
    }

    /// The command, to be started otherwise.
    ///
    /// # Errors
    /// When it is not built.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(program("landfall")?);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            .env("XDG_CONFIG_HOME", self.home.join("config"))
            .env("XDG_STATE_HOME", self.home.join("state"))
            .env("DOCKER_CONFIG", self.home.join("docker"))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.home)
            .kill_on_drop(true);
        Ok(command)
    }
}
