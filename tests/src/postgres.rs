//! A PostgreSQL server of a test's own, which may be killed: everything is written through, as in production.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use crate::names;
use crate::process::{Process, until};

const START_LIMIT: Duration = Duration::from_secs(30);
/// Where Debian keeps the programs, one folder per major version.
const VERSIONS: &str = "/usr/lib/postgresql";

#[derive(Debug)]
pub struct PostgresServer {
    // Dropped in this order: the server ends before its folder goes.
    process: Option<Process>,
    programs: PathBuf,
    port: u16,
    pub url: String,
    folder: TempDir,
}

impl PostgresServer {
    /// # Errors
    /// When it is not installed, or does not come up.
    pub async fn start() -> Result<Self> {
        let folder = TempDir::with_prefix("landfall-postgres-")?;
        // The server refuses to be root, and its user must reach its folder.
        run(Command::new("chown").arg("postgres").arg(folder.path()))?;
        let programs = programs()?;
        let data = folder.path().join("data");
        let mut init = as_postgres(&programs.join("initdb"));
        run(init.args(["--no-sync", "--auth", "trust", "--username", "landfall", "--pgdata"]).arg(&data))?;
        let port = names::free_port()?;
        let url = format!("postgres://landfall@127.0.0.1:{port}/postgres");
        let mut server = Self { process: None, programs, port, url, folder };
        server.up().await?;
        Ok(server)
    }

    /// Starts it on what is on its disk.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn up(&mut self) -> Result<()> {
        let data = self.folder.path().join("data");
        let log = self.folder.path().join("log");
        let deadline = std::time::Instant::now() + START_LIMIT;
        loop {
            let mut command = as_postgres(&self.programs.join("postgres"));
            command.arg("-D").arg(&data).args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
            command.args(["-c", &format!("port={}", self.port)]);
            let mut process = Process::start("postgres", &mut command, &log)?;
            let url = self.url.clone();
            let answers = until("PostgreSQL answers", START_LIMIT, async || {
                if !process.is_running() {
                    return Ok(false);
                }
                PgConnection::connect(&url).await?.close().await?;
                Ok(true)
            })
            .await?;
            if answers {
                self.process = Some(process);
                return Ok(());
            }
            // The children of one that was killed may not have ended yet; then it does not start.
            if std::time::Instant::now() > deadline {
                bail!("PostgreSQL does not start:\n{}", crate::process::tail(&log));
            }
            tokio::time::sleep(crate::process::POLL_INTERVAL).await;
        }
    }

    /// The server dies at once, and with it everything that it was doing.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        kill(self.postmaster()?, Signal::SIGKILL)?;
        // The one that was started before it ends with it.
        self.process = None;
        Ok(())
    }

    fn postmaster(&self) -> Result<Pid> {
        let text = std::fs::read_to_string(self.folder.path().join("data/postmaster.pid"))?;
        let pid = text.lines().next().and_then(|line| line.parse().ok()).context("postmaster.pid has no number")?;
        Ok(Pid::from_raw(pid))
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if self.process.is_some()
            && let Err(error) = self.kill()
        {
            eprintln!("PostgreSQL of {} was not ended: {error:#}", self.folder.path().display());
        }
    }
}

fn programs() -> Result<PathBuf> {
    let found = std::fs::read_dir(VERSIONS).context(VERSIONS)?;
    let mut found: Vec<PathBuf> = found.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    found.retain(|folder| folder.join("initdb").is_file());
    found.sort();
    found.pop().context("no PostgreSQL server is installed\n  hint: scripts/setup")
}

fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program).current_dir("/");
    command
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
