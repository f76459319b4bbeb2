//! What people type today: `ssh HOST` and Compose there. Each host has an SSH server of its own, with keys that are thrown away.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use landfall_tests::fleet::machine::Machine;
use landfall_tests::names;
use landfall_tests::process::Process;
use landfall_tests::stack::Stack;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::host::swap::answers_on;

const SERVER: &str = "/usr/sbin/sshd";
/// Debian's server wants this folder; where a service manager starts it, that makes it.
const SERVER_FOLDER: &str = "/run/sshd";
/// Until the server takes the first connection.
const START_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

pub(crate) struct Ssh {
    machine: Machine,
    folder: PathBuf,
    server_port: u16,
    project: String,
    port: u16,
    _server: Process,
}

impl Ssh {
    /// Starts the host's SSH server and waits until it lets the key in.
    pub(crate) async fn start(machine: Machine, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        std::fs::create_dir_all(SERVER_FOLDER).context(SERVER_FOLDER)?;
        for key in ["host_key", "key"] {
            let output = std::process::Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(folder.join(key))
                .output()
                .context("ssh-keygen\n  hint: scripts/setup --bench")?;
            ensure!(output.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&output.stderr));
        }
        let (server_port, port) = (machine.free_port().await?, machine.free_port().await?);
        let shown = folder.display();
        let config = folder.join("sshd_config");
        std::fs::write(
            &config,
            format!(
                "ListenAddress {}:{server_port}\nHostKey {shown}/host_key\nAuthorizedKeysFile {shown}/key.pub\nPidFile none\n\
                 UsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n",
                machine.address
            ),
        )?;
        let mut command = std::process::Command::new("nsenter");
        command
            .arg(format!("--net={}", machine.namespace.display()))
            .args(["--", SERVER, "-D", "-e", "-f"])
            .arg(&config);
        let server = Process::start("sshd", &mut command, &folder.join("log"))?;
        let project = names::unique("landfall-bench-ssh");
        let host = Self { machine, folder: folder.to_owned(), server_port, project, port, _server: server };
        let answers = async || host.run("true", "").await;
        landfall_tests::process::until("the SSH server lets the key in", START_LIMIT, answers)
            .await
            .with_context(|| landfall_tests::process::tail(&folder.join("log")))?;
        Ok(host)
    }

    /// One connection: the compose file goes over it, then it is pulled and brought up. Ends when the host answers with the version.
    pub(crate) async fn swap(&self, stack: &Stack, version: &str) -> Result<()> {
        let Self { folder, project, port, machine, .. } = self;
        let file = folder.join("compose.yml");
        let file = file.display();
        let compose = format!("docker compose --project-name {project} --file {file}");
        let script = format!(
            "cat > {file} && export DOCKER_HOST={} HTTP_PORT={port} && {compose} pull --quiet && {compose} up -d --wait",
            machine.docker_host
        );
        self.run(&script, stack.text().as_str()).await?;
        answers_on(Some(machine), self.port, version).await
    }

    async fn run(&self, script: &str, input: &str) -> Result<()> {
        let Self { folder, server_port, machine, .. } = self;
        let mut child = Command::new("ssh")
            .args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"])
            .args(["-o", "IdentitiesOnly=yes", "-o", &format!("UserKnownHostsFile={}/known", folder.display())])
            .arg("-i")
            .arg(folder.join("key"))
            .args(["-p", &server_port.to_string(), &format!("root@{}", machine.address), script])
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = child.stdin.take().context("ssh has no standard input")?;
        stdin.write_all(input.as_bytes()).await?;
        drop(stdin);
        let output = child.wait_with_output().await?;
        ensure!(output.status.success(), "ssh {}: {}", machine.name, String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        if let Err(error) = self.machine.engine().remove_project(&self.project) {
            eprintln!("the clean-up of {} failed: {error:#}", self.project);
        }
    }
}
