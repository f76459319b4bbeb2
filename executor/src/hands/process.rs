//! Runs a program to its end: arguments as a vector, a process group of its own that dies with the deadline, bounded output.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::failpoint::failpoint;
use process_wrap::tokio::{ChildWrapper, CommandWrap, KillOnDrop, ProcessGroup};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::engine::keep_tail;

/// Most bytes that are kept of a program's error output: the last ones, where the reason stands.
const STDERR_MAX_BYTES: usize = 16 * 1024;
/// How long a killed process group may take to be gone.
const REAP_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts to take a lock that another process holds.
const LOCK_POLL: Duration = Duration::from_millis(50);

#[derive(Debug, Error)]
pub(crate) enum ProcessError {
    #[error("{program} cannot be started")]
    Start { program: String, source: std::io::Error },
    #[error("{program} did not end in time and was killed")]
    Deadline { program: String },
    #[error("the output of {program} cannot be read")]
    Output { program: String, source: std::io::Error },
    #[error("{program} wrote more than {max} bytes")]
    TooMuch { program: String, max: usize },
    #[error("another run of {program} has not ended; its lock is {}", path.display())]
    Locked { program: String, path: PathBuf },
}

pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// The whole environment: nothing is inherited.
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) input: Input,
    pub(crate) deadline: Instant,
    pub(crate) stdout_max_bytes: usize,
}

/// What the program reads on its standard input.
pub(crate) enum Input {
    Nothing,
    Text(String),
    /// Nothing, but the program holds this file's lock until it has ended, even if this process dies before.
    Lock(PathBuf),
}

#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    /// The last part of it.
    pub(crate) stderr: String,
}

/// Kills the group when the future is dropped before the program has ended.
struct Group(Option<Box<dyn ChildWrapper>>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // The group may be gone already, which is what is wanted.
            drop(child.start_kill());
        }
    }
}

pub(crate) async fn run(program: Program) -> Result<Output, ProcessError> {
    let name = program.path.file_name().unwrap_or(program.path.as_os_str()).to_string_lossy().into_owned();
    let (stdin, text) = match &program.input {
        Input::Nothing => (Stdio::null(), None),
        Input::Text(text) => (Stdio::piped(), Some(text.clone())),
        Input::Lock(path) => (lock(path, &name, program.deadline).await?, None),
    };
    let mut command = CommandWrap::with_new(&program.path, |command| {
        command.args(&program.args).env_clear().envs(program.env.iter().map(|(k, v)| (k, v)));
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(dir) = &program.dir {
            command.current_dir(dir);
        }
    });
    command.wrap(ProcessGroup::leader()).wrap(KillOnDrop);
    let child = command.spawn().map_err(|source| ProcessError::Start { program: name.clone(), source })?;
    // The command holds our copy of the lock's handle; the child has its own.
    drop(command);
    let mut group = Group(Some(child));
    if matches!(program.input, Input::Lock(_)) {
        failpoint!("compose.started");
    }
    let finished =
        tokio::time::timeout_at(program.deadline, finish(&mut group, text, program.stdout_max_bytes, &name)).await;
    if let Ok(finished) = finished {
        group.0 = None;
        return finished;
    }
    if let Some(mut child) = group.0.take() {
        drop(child.start_kill());
        // Whether it is reaped now or by the runtime later makes no difference to the answer.
        drop(tokio::time::timeout(REAP_TIMEOUT, child.wait()).await);
    }
    Err(ProcessError::Deadline { program: name })
}

async fn finish(
    group: &mut Group,
    text: Option<String>,
    stdout_max: usize,
    name: &str,
) -> Result<Output, ProcessError> {
    let broken = |source| ProcessError::Output { program: name.to_owned(), source };
    let Some(child) = group.0.as_mut() else {
        return Err(broken(std::io::Error::other("no process")));
    };
    let (stdin, stdout, stderr) = (child.stdin().take(), child.stdout().take(), child.stderr().take());
    let write = async {
        if let (Some(mut stdin), Some(text)) = (stdin, text) {
            // A program that does not read its input to the end still has an exit code.
            drop(stdin.write_all(text.as_bytes()).await);
        }
    };
    let ((), stdout, stderr, status) =
        tokio::join!(write, read_head(stdout, stdout_max), read_tail(stderr, STDERR_MAX_BYTES), child.wait());
    let (stdout, overflowed) = stdout.map_err(broken)?;
    if overflowed {
        return Err(ProcessError::TooMuch { program: name.to_owned(), max: stdout_max });
    }
    Ok(Output { code: status.map_err(broken)?.code(), stdout, stderr: stderr.map_err(broken)? })
}

/// The first bytes, and whether there were more; the rest is read and dropped so that the program can go on.
async fn read_head(stream: Option<impl AsyncRead + Unpin>, max: usize) -> std::io::Result<(String, bool)> {
    let Some(mut stream) = stream else { return Ok((String::new(), false)) };
    let (mut kept, mut chunk, mut overflowed) = (Vec::new(), vec![0; 8 * 1024], false);
    loop {
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            return Ok((String::from_utf8_lossy(&kept).into_owned(), overflowed));
        }
        let room = max.saturating_sub(kept.len()).min(read);
        kept.extend_from_slice(&chunk[..room]);
        overflowed |= room < read;
    }
}

async fn read_tail(stream: Option<impl AsyncRead + Unpin>, max: usize) -> std::io::Result<String> {
    let Some(mut stream) = stream else { return Ok(String::new()) };
    let (mut kept, mut chunk) = (Vec::new(), vec![0; 8 * 1024]);
    loop {
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            return Ok(String::from_utf8_lossy(&kept).into_owned());
        }
        kept.extend_from_slice(&chunk[..read]);
        keep_tail(&mut kept, max);
    }
}

/// Waits until no program holds the lock.
pub(crate) async fn released(path: &Path, name: &str, deadline: Instant) -> Result<(), ProcessError> {
    lock(path, name, deadline).await.map(drop)
}

/// The lock belongs to the open file, which the child inherits: a run that outlives this process keeps later ones waiting.
async fn lock(path: &Path, name: &str, deadline: Instant) -> Result<Stdio, ProcessError> {
    let started = |source| ProcessError::Start { program: name.to_owned(), source };
    let file = File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(started)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Stdio::from(file)),
            Err(std::fs::TryLockError::Error(source)) => return Err(started(source)),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(ProcessError::Locked { program: name.to_owned(), path: path.to_owned() });
            }
            Err(std::fs::TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shell(script: &str, deadline_ms: u64, input: Input) -> Program {
        Program {
            path: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            dir: None,
            input,
            deadline: Instant::now() + Duration::from_millis(deadline_ms),
            stdout_max_bytes: 1_000,
        }
    }

    #[tokio::test]
    async fn tells_code_and_output() {
        let output = run(shell("cat; echo why >&2; exit 3", 5_000, Input::Text("in".to_owned()))).await.unwrap();
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (Some(3), "in", "why\n"));
    }

    #[tokio::test]
    async fn a_deadline_ends_the_whole_group() {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("(sleep 0.6; touch {}/alive) & sleep 30", folder.path().display());
        let error = run(shell(&script, 100, Input::Nothing)).await.unwrap_err();
        assert!(matches!(error, ProcessError::Deadline { .. }), "{error}");
        // The grandchild would have made its file by then.
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert!(!folder.path().join("alive").exists());
    }

    #[tokio::test]
    async fn output_is_bounded() {
        let error = run(shell("yes | head -c 100000", 5_000, Input::Nothing)).await.unwrap_err();
        assert!(matches!(error, ProcessError::TooMuch { .. }), "{error}");
        let output = run(shell("yes | head -c 100000 >&2", 5_000, Input::Nothing)).await.unwrap();
        assert!((STDERR_MAX_BYTES - 2..=STDERR_MAX_BYTES).contains(&output.stderr.len()), "{}", output.stderr.len());
        assert!(output.stderr.lines().all(|line| line == "y"), "a line was cut");
    }

    #[tokio::test]
    async fn a_lock_is_held_until_the_program_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = tokio::spawn(run(shell("echo begun; sleep 0.5", 5_000, Input::Lock(path.clone()))));
        while !path.exists() || File::open(&path).unwrap().try_lock().is_ok() {
            tokio::task::yield_now().await;
        }
        let error = run(shell("true", 50, Input::Lock(path.clone()))).await.unwrap_err();
        assert!(matches!(error, ProcessError::Locked { .. }), "{error}");
        assert_eq!(run(shell("true", 5_000, Input::Lock(path))).await.unwrap().code, Some(0));
        assert_eq!(first.await.unwrap().unwrap().code, Some(0));
    }

    #[tokio::test]
    async fn output_at_its_limit_is_kept() {
        for (bytes, is_kept) in [(1_000, true), (1_001, false)] {
            let ended = run(shell(&format!("head -c {bytes} /dev/zero"), 5_000, Input::Nothing)).await;
            assert_eq!(ended.is_ok_and(|output| output.stdout.len() == bytes), is_kept, "{bytes}");
            let ended = run(shell(&format!("head -c {bytes} /dev/zero >&2"), 5_000, Input::Nothing)).await;
            assert!(ended.is_ok_and(|output| output.stderr.len() <= STDERR_MAX_BYTES));
        }
    }
}
