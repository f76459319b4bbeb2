//! This machine: the signing key, the Docker engine, the Compose plugin, the disk.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bollard::Docker;
use landfall_schema::signature::SigningKey;
use process_wrap::tokio::{CommandWrap, KillOnDrop, ProcessGroup};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use crate::context::SigningKeySource;
use crate::doctor::finding::{Finding, State, in_one_line};
use crate::hosts::bytes;

/// Time for the engine to answer one question.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for `docker compose version`, which touches no network.
const COMPOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of its answer.
const COMPOSE_ANSWER_MAX_BYTES: u64 = 4 * 1024;
/// With less free space a pull is likely to fill the disk.
const DISK_FREE_MIN_BYTES: u64 = 1_000_000_000;
const DISK_FREE_ADVISED_BYTES: u64 = 5_000_000_000;

pub(super) fn signing_key(source: &SigningKeySource) -> Finding {
    let check = "signing key";
    let (text, what, mode) = match source {
        SigningKeySource::Seed(seed) => (seed.clone(), "LANDFALL_SIGNING_KEY".to_owned(), None),
        SigningKeySource::File(path) => match read_key(path) {
            Ok((text, mode)) => (text, path.display().to_string(), Some(mode)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let finding =
                    Finding::warn(check, format!("{} does not exist, so nothing can be promoted", path.display()));
                return finding.hint("landfall init makes one; to look on, none is needed");
            }
            Err(error) => return Finding::fail(check, format!("{} cannot be read: {error}", path.display())),
        },
    };
    let key = match SigningKey::from_seed(&text) {
        Ok(key) => key,
        Err(_) => return Finding::fail(check, format!("{what} holds no private key")).hint("landfall init makes one"),
    };
    let message = format!("{what}, public key {}", key.public());
    match mode {
        Some(mode) if mode & 0o077 != 0 => {
            let finding = Finding::fail(check, format!("{message}; others may read it (mode {:04o})", mode & 0o7777));
            finding.hint(format!("chmod 600 {what}"))
        }
        _ => Finding::ok(check, message),
    }
}

fn read_key(path: &Path) -> io::Result<(String, u32)> {
    let mode = std::fs::metadata(path)?.permissions().mode();
    Ok((std::fs::read_to_string(path)?, mode))
}

/// Without `needed` what is missing is only a warning: promoting needs no Docker, running an executor does.
pub(super) async fn check(needed: bool) -> Vec<Finding> {
    let (engine, data_root) = engine().await;
    let compose = compose().await;
    let disk = disk(&data_root.unwrap_or_else(|| PathBuf::from("/")));
    let mut findings = vec![engine, compose, disk];
    if !needed {
        for finding in findings.iter_mut().filter(|finding| finding.state == State::Fail) {
            finding.state = State::Warn;
            finding.message.push_str(" (only hosts with an executor need it)");
        }
    }
    findings
}

/// The engine, and where it keeps images on this machine.
async fn engine() -> (Finding, Option<PathBuf>) {
    let hint =
        "is it installed and running, and may you use it? `docker info` tells more; DOCKER_HOST names another one";
    let failed =
        |why: String| (Finding::fail("engine", format!("the Docker engine does not answer: {why}")).hint(hint), None);
    let docker = match Docker::connect_with_defaults() {
        Ok(docker) => docker.with_timeout(ENGINE_TIMEOUT),
        Err(error) => return failed(in_one_line(&error)),
    };
    let asked = timeout(ENGINE_TIMEOUT, async { (docker.version().await, docker.info().await) }).await;
    match asked {
        Ok((Ok(version), info)) => {
            let known = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
            let message = format!("Docker {}, API {}", known(version.version), known(version.api_version));
            let data_root = info.ok().and_then(|info| info.docker_root_dir).map(PathBuf::from);
            (Finding::ok("engine", message), data_root)
        }
        Ok((Err(error), _)) => failed(in_one_line(&error)),
        Err(_) => failed(format!("no answer within {} s", ENGINE_TIMEOUT.as_secs())),
    }
}

async fn compose() -> Finding {
    let hint = "install the Compose plugin, version 2 (package docker-compose-plugin or docker-compose-v2)";
    let failed = |why: String| Finding::fail("compose", why).hint(hint);
    match timeout(COMPOSE_TIMEOUT, compose_version()).await {
        Ok(Ok(Some(text))) => match text.trim_start_matches('v').split('.').next().map(str::parse::<u32>) {
            Some(Ok(2..)) => Finding::ok("compose", format!("docker compose {text}")),
            _ => failed(format!("docker compose is of version {text:?}, version 2 is needed")),
        },
        Ok(Ok(None)) => failed("`docker compose version` fails, so the plugin is missing".to_owned()),
        Ok(Err(error)) => failed(format!("`docker compose version` cannot be run: {error}")),
        Err(_) => failed(format!("`docker compose version` did not end within {} s", COMPOSE_TIMEOUT.as_secs())),
    }
}

/// `None` when the command says no.
async fn compose_version() -> io::Result<Option<String>> {
    let mut command = CommandWrap::with_new("docker", |command| {
        command.args(["compose", "version", "--short"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    });
    let mut child = command.wrap(ProcessGroup::leader()).wrap(KillOnDrop).spawn()?;
    let answer = match child.stdout().take() {
        Some(stdout) => beginning(stdout).await?,
        None => String::new(),
    };
    Ok(child.wait().await?.success().then(|| answer.trim().to_owned()))
}

async fn beginning(stdout: impl AsyncRead + Unpin) -> io::Result<String> {
    let mut answer = String::new();
    stdout.take(COMPOSE_ANSWER_MAX_BYTES).read_to_string(&mut answer).await?;
    Ok(answer)
}

fn disk(path: &Path) -> Finding {
    // The engine may be elsewhere, or keep its images where this user may not look.
    let existing = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let found = match nix::sys::statvfs::statvfs(existing) {
        Ok(found) => found,
        Err(error) => return Finding::warn("disk", format!("{}: {error}", existing.display())),
    };
    judge_disk(existing, found.blocks_available() as u64 * found.fragment_size() as u64)
}

fn judge_disk(path: &Path, free: u64) -> Finding {
    let message = format!("{} free at {}", bytes(free), path.display());
    let hint = "`docker system df` shows what takes the space";
    match free {
        0..DISK_FREE_MIN_BYTES => Finding::fail("disk", message).hint(hint),
        DISK_FREE_MIN_BYTES..DISK_FREE_ADVISED_BYTES => Finding::warn("disk", message).hint(hint),
        _ => Finding::ok("disk", message),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn so_much_of_composes_answer_is_read() {
        let most = usize::try_from(COMPOSE_ANSWER_MAX_BYTES).unwrap();
        for (length, read) in [(most, most), (most + 1, most)] {
            assert_eq!(beginning("2".repeat(length).as_bytes()).await.unwrap().len(), read, "of {length}");
        }
    }

    #[test]
    fn keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.seed");
        let check = || signing_key(&SigningKeySource::File(path.clone()));
        assert_eq!(check().state, State::Warn, "none yet");

        let key = SigningKey::generate();
        let seed = key.seed().unwrap();
        fs::write(&path, &seed).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let open = check();
        assert_eq!((open.state, open.hint), (State::Fail, Some(format!("chmod 600 {}", path.display()))));
        assert!(open.message.ends_with("(mode 0644)"), "{}", open.message);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let good = check();
        assert_eq!(good.state, State::Ok);
        assert!(good.message.contains(key.public().as_str()) && !good.message.contains(&seed), "{}", good.message);

        fs::write(&path, &seed[1..]).unwrap();
        let damaged = check();
        assert_eq!(damaged.state, State::Fail);
        assert!(!damaged.message.contains(&seed[1..]), "{}", damaged.message);
        assert_eq!(signing_key(&SigningKeySource::Seed(seed)).state, State::Ok);
    }

    #[test]
    fn disks() {
        let path = Path::new("/");
        for (free, expect) in [
            (DISK_FREE_MIN_BYTES - 1, State::Fail),
            (DISK_FREE_MIN_BYTES, State::Warn),
            (DISK_FREE_ADVISED_BYTES - 1, State::Warn),
            (DISK_FREE_ADVISED_BYTES, State::Ok),
        ] {
            assert_eq!(judge_disk(path, free).state, expect, "{free}");
        }
        assert!(disk(Path::new("/no/such/folder")).message.ends_with("free at /"));
    }
}
