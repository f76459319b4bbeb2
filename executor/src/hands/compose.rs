//! The real `docker compose` (v2 plugin), driven by argument vectors, and what its error output means.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_schema::outcome::{Reason, ReasonCode};
use tokio::time::Instant;

use super::credentials;
use super::engine::one_line;
use super::internal;
use super::logs;
use super::memory::{self, Opened};
use super::process::{self, Input, Output, ProcessError, Program};
use super::redact::Redactor;

/// The rendered stack may be this long.
const RENDERED_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Output of the other commands; none of it is needed.
const OUTPUT_MAX_BYTES: usize = 1024 * 1024;
/// Time for the plugin to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);
/// Where Docker looks for the plugin, after the user's own folder.
const PLUGIN_DIRS: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];
const PLUGIN: &str = "docker-compose";
/// Variables of this process that Compose needs; everything else of the environment stays out of the stack.
const PASSED_ON: [&str; 6] =
    ["PATH", "HOME", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "XDG_RUNTIME_DIR"];

/// The program that is run: the plugin itself when it is found, which saves starting `docker` in front of it.
#[derive(Debug, Clone)]
pub struct Compose {
    program: PathBuf,
    /// `compose` when the program is `docker`.
    prefix: Option<&'static str>,
    docker_host: Option<String>,
}

/// One stack as Compose is told of it.
#[derive(Clone)]
pub(crate) struct Invocation {
    pub(crate) project: String,
    pub(crate) directory: PathBuf,
    pub(crate) files: Vec<PathBuf>,
    /// With none given Compose would look for one by itself.
    pub(crate) env_files: Vec<memory::Text>,
    /// The last compose file: what the services' `env_file`s and variables come to.
    pub(crate) environment: Option<memory::Text>,
    /// In Compose's environment, where they win over the host's `.env`.
    pub(crate) variables: Vec<(String, String)>,
    /// Held while a command changes the stack.
    pub(crate) lock: PathBuf,
}

impl Compose {
    pub fn find(docker_host: Option<String>) -> Self {
        let own = credentials::config_dir().map(|directory| directory.join("cli-plugins"));
        let plugin = own
            .into_iter()
            .chain(PLUGIN_DIRS.map(PathBuf::from))
            .map(|folder| folder.join(PLUGIN))
            .find(|path| path.is_file());
        let docker_host = docker_host.or_else(|| std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()));
        match plugin {
            Some(program) => Self { program, prefix: None, docker_host },
            None => Self { program: "docker".into(), prefix: Some("compose"), docker_host },
        }
    }

    /// The plugin's version, e.g. `2.40.3`, for `--check` and people.
    ///
    /// # Errors
    /// [`ReasonCode::EngineUnreachable`] when there is no plugin on this host.
    pub async fn version(&self) -> Result<String, Reason> {
        let args = ["version", "--short"].map(OsString::from);
        let output =
            self.start(args.into(), Vec::new(), None, Input::Nothing, Instant::now() + VERSION_TIMEOUT).await?;
        match output.code {
            Some(0) => Ok(output.stdout.trim().trim_start_matches('v').to_owned()),
            _ => Err(missing(&one_line(&output.stderr))),
        }
    }

    /// `docker compose <args>`, for commands that change nothing.
    pub(crate) async fn read(
        &self,
        invocation: &Invocation,
        args: &[&str],
        deadline: Instant,
    ) -> Result<Output, Reason> {
        self.command(invocation, args, Input::Nothing, deadline).await
    }

    /// `docker compose <args>`, for commands that change the stack: one at a time, even across a restart of this process.
    pub(crate) async fn change(
        &self,
        invocation: &Invocation,
        args: &[&str],
        deadline: Instant,
    ) -> Result<Output, Reason> {
        self.command(invocation, args, Input::Lock(invocation.lock.clone()), deadline).await
    }

    /// Waits until a change that outlived an earlier run of this process has ended; what the engine says of the stack can change until
    /// then. Afterwards only this process changes it.
    pub(crate) async fn settled(&self, invocation: &Invocation, deadline: Instant) -> Result<(), Reason> {
        let name = self.program.to_string_lossy();
        process::released(&invocation.lock, &name, deadline).await.map_err(|error| process_reason(&error))
    }

    async fn command(
        &self,
        invocation: &Invocation,
        args: &[&str],
        input: Input,
        deadline: Instant,
    ) -> Result<Output, Reason> {
        let env_files = invocation.env_files.iter().map(opened).collect::<Result<Vec<_>, _>>()?;
        let environment = invocation.environment.iter().map(opened).collect::<Result<Vec<_>, _>>()?;
        let mut all: Vec<OsString> =
            ["--ansi", "never", "--progress", "quiet", "--project-name"].map(OsString::from).into();
        all.push(invocation.project.clone().into());
        all.extend(["--project-directory".into(), invocation.directory.clone().into()]);
        for file in invocation.files.iter().cloned().chain(environment.iter().map(Opened::path)) {
            all.extend(["--file".into(), file.into()]);
        }
        for file in &env_files {
            all.extend(["--env-file".into(), file.path().into()]);
        }
        all.extend(args.iter().map(OsString::from));
        let variables = invocation.variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let mut output = self.start(all, variables, Some(invocation.directory.clone()), input, deadline).await?;
        for opened in env_files.iter().chain(&environment) {
            output.stderr = opened.named(&output.stderr);
        }
        Ok(output)
    }

    async fn start(
        &self,
        mut args: Vec<OsString>,
        variables: Vec<(OsString, OsString)>,
        dir: Option<PathBuf>,
        input: Input,
        deadline: Instant,
    ) -> Result<Output, Reason> {
        if let Some(prefix) = self.prefix {
            args.insert(0, prefix.into());
        }
        let mut env = variables;
        env.extend(PASSED_ON.into_iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?))));
        env.extend([("COMPOSE_MENU", "0")].map(|(name, value)| (name.into(), value.into())));
        if let Some(host) = &self.docker_host {
            env.push(("DOCKER_HOST".into(), host.into()));
        }
        let program = Program {
            path: self.program.clone(),
            args,
            env,
            dir,
            input,
            deadline,
            stdout_max_bytes: RENDERED_MAX_BYTES.max(OUTPUT_MAX_BYTES),
        };
        process::run(program).await.map_err(|error| process_reason(&error))
    }
}

fn opened(text: &memory::Text) -> Result<Opened<'_>, Reason> {
    text.open().map_err(|error| internal("giving Compose the stack's environment", error))
}

fn process_reason(error: &ProcessError) -> Reason {
    match error {
        ProcessError::Start { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            missing("it is not installed")
        }
        ProcessError::Deadline { .. } | ProcessError::Locked { .. } => {
            Reason::new(ReasonCode::DeadlineExceeded, error.to_string())
        }
        ProcessError::Start { source, .. } | ProcessError::Output { source, .. } => {
            Reason::new(ReasonCode::Internal, format!("{error}: {source}"))
        }
        ProcessError::TooMuch { .. } => Reason::new(ReasonCode::ComposeInvalid, error.to_string()),
    }
}

fn missing(why: &str) -> Reason {
    Reason::new(ReasonCode::EngineUnreachable, format!("`docker compose` cannot be run: {why}"))
        .hint("install the Compose plugin, version 2.26 or newer, on the host (package docker-compose-plugin or docker-compose-v2)")
}

/// The name that Compose makes of it: lower case, letters, digits, dash and underscore, beginning with a letter or digit.
pub(crate) fn normalise_project(name: &str) -> String {
    let name: String =
        name.to_ascii_lowercase().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect();
    name.trim_start_matches(['-', '_']).to_owned()
}

/// Why Compose could not render the stack.
pub(crate) fn config_reason(stderr: &str, directory: &Path, redactor: &Redactor) -> Reason {
    let text = complaint(stderr, redactor);
    let has = |part: &str| text.contains(part);
    let env_file = directory.join(".env");
    if (has("env file") && has("not found")) || has("couldn't find env file") {
        return Reason::new(ReasonCode::EnvFileMissing, text).hint(format!(
            "put the file on the host; secrets do not travel with a promotion (the stack's folder is {})",
            directory.display()
        ));
    }
    if let Some(place) = unreadable_env_file(&text) {
        return Reason::new(ReasonCode::EnvFileMissing, format!("{place} cannot be understood"))
            .hint("each line is NAME=VALUE, with quotes around values of several lines; `docker compose config` on the host says more");
    }
    if has("is missing a value") {
        return Reason::new(ReasonCode::EnvFileMissing, text)
            .hint(format!("set the variable in {} on the host, or promote with it", env_file.display()));
    }
    if has("has neither an image nor a build context") {
        return Reason::new(ReasonCode::ImageMissing, text)
            .hint("give the service an image and promote it with the others");
    }
    if has("Cannot connect to the Docker daemon") {
        return Reason::new(ReasonCode::EngineUnreachable, text);
    }
    Reason::new(ReasonCode::ComposeInvalid, format!("the compose file is not valid: {text}"))
        .hint("`docker compose config` in the stack's folder says the same; correct the file and promote again")
}

/// Compose repeats what it cannot understand of an env file, which may be a secret; only the place is told.
fn unreadable_env_file(text: &str) -> Option<String> {
    let (path, why) = text.split_once("failed to read ")?.1.split_once(": ")?;
    let line = why.strip_prefix("line ").and_then(|why| why.split_once(':'));
    Some(line.map_or(path.to_owned(), |(number, _)| format!("{path}, line {number}")))
}

/// Why Compose could not bring the stack to what it should be.
pub(crate) fn up_reason(stderr: &str, redactor: &Redactor) -> Reason {
    let text = complaint(stderr, redactor);
    let has = |part: &str| text.contains(part);
    let reason = if has("port is already allocated") || has("address already in use") || has("ports are not available")
    {
        Reason::new(ReasonCode::PortTaken, format!("a port of the stack is taken: {text}"))
            .hint("see who has it with `docker ps` and `ss -ltnp` on the host")
    } else if has("no space left on device") {
        Reason::new(ReasonCode::DiskFull, text)
            .hint("free disk space on the host, e.g. with `docker system df` and `docker image prune`")
    } else if has("Cannot connect to the Docker daemon") {
        Reason::new(ReasonCode::EngineUnreachable, text)
    } else if has("is unhealthy") {
        Reason::new(ReasonCode::Unhealthy, text)
    } else if has("didn't complete successfully") || has("exited (") {
        Reason::new(ReasonCode::ContainerExited, text)
    } else if has("is already in use by container") {
        Reason::new(ReasonCode::UpdateFailed, text)
            .hint("a container of another project has this container_name; remove or rename it")
    } else {
        Reason::new(ReasonCode::UpdateFailed, text)
    };
    reason.logs(vec![logs::tail("docker compose", &redactor.clean_complaint(stderr), redactor)])
}

/// What Compose said last that is not a warning, in one line.
fn complaint(stderr: &str, redactor: &Redactor) -> String {
    let errors: Vec<&str> =
        stderr.lines().filter(|line| !line.contains("level=warning") && !line.trim().is_empty()).collect();
    let from = errors.len().saturating_sub(3);
    // A secret may hold white space, so it goes before that is changed.
    let text = one_line(&redactor.clean_complaint(&errors[from..].join("\n")));
    logs::last_line(&text, redactor).unwrap_or_else(|| "docker compose failed without saying why".to_owned())
}

/// Variables that Compose found nowhere and took as empty.
pub(crate) fn unset_variables(stderr: &str) -> Vec<&str> {
    const MARK: &str = "variable is not set";
    let lines = stderr.lines().filter(|line| line.contains(MARK));
    let name = |line: &'_ str| -> Option<(usize, usize)> {
        let end = line.find(MARK)?;
        let quoted = line[..end].trim_end().trim_end_matches(['"', '\\']);
        let start = quoted.rfind(['"', ' '])? + 1;
        (start < quoted.len()).then_some((start, quoted.len()))
    };
    lines.filter_map(|line| name(line).map(|(start, end)| &line[start..end])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(stderr: &str) -> ReasonCode {
        config_reason(stderr, Path::new("/opt/shop"), &Redactor::default()).code
    }

    #[test]
    fn config_errors() {
        assert_eq!(
            config("env file /opt/shop/.env not found: stat /opt/shop/.env: no such file or directory"),
            ReasonCode::EnvFileMissing
        );
        assert_eq!(
            config("error while interpolating services.a.image: required variable X is missing a value: set it"),
            ReasonCode::EnvFileMissing
        );
        assert_eq!(
            config("service \"a\" has neither an image nor a build context specified: invalid compose project"),
            ReasonCode::ImageMissing
        );
        assert_eq!(
            config("validating /x/compose.yml: services.a additional properties 'imagee' not allowed"),
            ReasonCode::ComposeInvalid
        );
        assert_eq!(config(""), ReasonCode::ComposeInvalid);
    }

    #[test]
    fn a_line_of_an_env_file_is_not_repeated() {
        let stderr = "failed to read /opt/shop/.env: line 2: unexpected character \"!\" in variable name \"s3cret!x\"";
        let reason = config_reason(stderr, Path::new("/opt/shop"), &Redactor::default());
        assert_eq!(reason.code, ReasonCode::EnvFileMissing);
        assert_eq!(reason.message, "/opt/shop/.env, line 2 cannot be understood");
    }

    #[test]
    fn up_errors() {
        let up = |text: &str| up_reason(text, &Redactor::default()).code;
        assert_eq!(
            up(
                "Error response from daemon: driver failed programming external connectivity on endpoint x: Bind for 0.0.0.0:80 failed: port is already allocated"
            ),
            ReasonCode::PortTaken
        );
        assert_eq!(
            up("Error response from daemon: driver failed: listen tcp4 0.0.0.0:3000: bind: address already in use"),
            ReasonCode::PortTaken
        );
        assert_eq!(up("dependency failed to start: container shop-db-1 is unhealthy"), ReasonCode::Unhealthy);
        assert_eq!(up("service \"m\" didn't complete successfully: exit 1"), ReasonCode::ContainerExited);
        assert_eq!(up("write /var/lib/docker/x: no space left on device"), ReasonCode::DiskFull);
        assert_eq!(up("something else"), ReasonCode::UpdateFailed);
    }

    #[test]
    fn warnings_name_unset_variables() {
        let stderr = "time=\"2026-11-21T09:28:35Z\" level=warning msg=\"The \\\"APP_IMAGE\\\" variable is not set. Defaulting to a blank string.\"\nother\n";
        assert_eq!(unset_variables(stderr), ["APP_IMAGE"]);
    }

    #[test]
    fn projects() {
        assert_eq!(normalise_project("Shop_2-x"), "shop_2-x");
        assert_eq!(normalise_project("--_A.b"), "ab");
    }
}
