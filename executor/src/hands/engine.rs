//! The Docker engine's API, every call with a deadline.

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerInspectResponse, ContainerSummaryStateEnum, ImageInspect};
use bollard::query_parameters::{
    InspectContainerOptions, ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures_util::StreamExt;
use landfall_schema::ids::ServiceName;
use landfall_schema::outcome::{LogTail, Reason, ReasonCode};

use super::logs;
use super::redact::Redactor;

/// Time for one short call to the engine.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Time until the engine says that it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for reading a container's last lines.
const LOGS_TIMEOUT: Duration = Duration::from_secs(4);
/// The client's own limit, above every deadline that is set here; it counts whole seconds until the first byte.
const CLIENT_TIMEOUT_S: u64 = 24 * 60 * 60;
/// Lines that are read of a log; more than are shown, since repeated ones are shown once.
const LOG_READ_MAX_LINES: usize = 200;
/// Most bytes of output that are read from one run or log.
pub(crate) const OUTPUT_MAX_BYTES: usize = 256 * 1024;
const DEFAULT_SOCKET: &str = "unix:///var/run/docker.sock";

pub(crate) const LABEL_PROJECT: &str = "com.docker.compose.project";
pub(crate) const LABEL_SERVICE: &str = "com.docker.compose.service";
pub(crate) const LABEL_ONE_OFF: &str = "com.docker.compose.oneoff";
/// Which promotion a one-shot container was started for.
pub(crate) const LABEL_COUNTER: &str = "dev.landfall.counter";
const AUTH_HEADER: &str = "x-registry-auth";

pub(crate) struct Engine {
    host: String,
    project: String,
    client: OnceLock<Docker>,
}

/// A container of the project.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) service: ServiceName,
    pub(crate) image_id: String,
    pub(crate) running: bool,
    /// It was made and has not been started yet.
    pub(crate) unstarted: bool,
    pub(crate) one_off: bool,
    pub(crate) labels: HashMap<String, String>,
}

impl Engine {
    pub(crate) fn new(host: Option<String>, project: String) -> Self {
        let from_environment = || std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        let host = host.or_else(from_environment).unwrap_or_else(|| DEFAULT_SOCKET.to_owned());
        Self { host, project, client: OnceLock::new() }
    }

    pub(crate) fn project(&self) -> &str {
        &self.project
    }

    /// The engine's socket on this host, if it is reached by one.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        self.host.strip_prefix("unix://").map(PathBuf::from)
    }

    /// The client. It is made when it is first needed, because making it fails while the engine's socket is missing.
    pub(crate) fn docker(&self) -> Result<Docker, Reason> {
        if let Some(docker) = self.client.get() {
            return Ok(docker.clone());
        }
        let docker = self.connect()?;
        Ok(self.client.get_or_init(|| docker).clone())
    }

    fn connect(&self) -> Result<Docker, Reason> {
        let docker = match self.host.strip_prefix("unix://") {
            Some(path) => Docker::connect_with_unix(path, CLIENT_TIMEOUT_S, bollard::API_DEFAULT_VERSION),
            None => Docker::connect_with_http(&self.host, CLIENT_TIMEOUT_S, bollard::API_DEFAULT_VERSION),
        };
        let docker = docker.map_err(|error| self.unreachable(&error.to_string()))?;
        // The engine reads this header in the URL-safe alphabet and ignores logins that it cannot read; the client writes the plain one.
        Ok(docker.with_request_modifier(|mut request| {
            let safe = request
                .headers()
                .get(AUTH_HEADER)
                .and_then(|value| value.to_str().ok())
                .map(|v| v.replace('+', "-").replace('/', "_"));
            if let Some(value) = safe.and_then(|text| text.parse().ok()) {
                request.headers_mut().insert(AUTH_HEADER, value);
            }
            request
        }))
    }

    /// One short call, with the deadline that all of them have.
    pub(crate) async fn call<T>(
        &self,
        doing: &str,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, Reason> {
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.failed(doing, &error)),
            Err(_) => Err(self.unreachable(&format!("no answer within {} s while {doing}", CALL_TIMEOUT.as_secs()))),
        }
    }

    pub(crate) async fn ping(&self) -> Result<(), Reason> {
        let docker = self.docker()?;
        match tokio::time::timeout(PING_TIMEOUT, docker.ping()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.unreachable(&error.to_string())),
            Err(_) => Err(self.unreachable(&format!("no answer within {} s", PING_TIMEOUT.as_secs()))),
        }
    }

    pub(crate) fn failed(&self, doing: &str, error: &bollard::errors::Error) -> Reason {
        use bollard::errors::Error;
        match error {
            Error::DockerResponseServerError { status_code, message } => Reason::new(
                ReasonCode::Internal,
                format!("{doing}: the engine answered {status_code}: {}", one_line(message)),
            ),
            Error::HyperResponseError { .. }
            | Error::HyperLegacyError { .. }
            | Error::SocketNotFoundError { .. }
            | Error::IOError { .. }
            | Error::RequestTimeoutError => self.unreachable(&format!("{doing}: {error}")),
            other => Reason::new(ReasonCode::Internal, format!("{doing}: {other}")),
        }
    }

    fn unreachable(&self, why: &str) -> Reason {
        Reason::new(ReasonCode::EngineUnreachable, format!("the Docker engine at {} does not answer: {why}", self.host))
            .hint("see `systemctl status docker` on the host, and [docker] host in the executor's configuration")
    }

    /// All containers of the project, stopped ones too, in the order of their ids.
    pub(crate) async fn containers(&self) -> Result<Vec<Container>, Reason> {
        let filters = HashMap::from([("label", vec![format!("{LABEL_PROJECT}={}", self.project)])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let docker = self.docker()?;
        let listed = self.call("listing containers", docker.list_containers(Some(options))).await?;
        let mut containers: Vec<Container> = listed
            .into_iter()
            .filter_map(|summary| {
                let labels = summary.labels.unwrap_or_default();
                Some(Container {
                    id: summary.id?,
                    service: ServiceName::new(labels.get(LABEL_SERVICE)?.clone()).ok()?,
                    image_id: summary.image_id.unwrap_or_default(),
                    running: summary.state == Some(ContainerSummaryStateEnum::RUNNING),
                    unstarted: summary.state == Some(ContainerSummaryStateEnum::CREATED),
                    one_off: labels.get(LABEL_ONE_OFF).is_some_and(|value| value == "True"),
                    labels,
                })
            })
            .collect();
        containers.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(containers)
    }

    /// Every container that is marked as the project's, whatever else it lacks.
    pub(crate) async fn container_ids(&self) -> Result<Vec<String>, Reason> {
        let filters = HashMap::from([("label", vec![format!("{LABEL_PROJECT}={}", self.project)])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let docker = self.docker()?;
        let listed = self.call("listing containers", docker.list_containers(Some(options))).await?;
        Ok(listed.into_iter().filter_map(|summary| summary.id).collect())
    }

    /// `None` when there is no such container.
    pub(crate) async fn inspect(
        &self,
        docker: &Docker,
        container: &str,
    ) -> Result<Option<ContainerInspectResponse>, Reason> {
        let inspected = docker.inspect_container(container, None::<InspectContainerOptions>);
        self.optional("inspecting a container", inspected).await
    }

    /// `None` when there is no such image on this host.
    pub(crate) async fn image(&self, docker: &Docker, image: &str) -> Result<Option<ImageInspect>, Reason> {
        self.optional("inspecting an image", docker.inspect_image(image)).await
    }

    pub(crate) async fn optional<T>(
        &self,
        doing: &str,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<Option<T>, Reason> {
        let absent = async {
            match call.await {
                Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
                other => other.map(Some),
            }
        };
        self.call(doing, absent).await
    }

    /// Removes the container, running or not; that there is none is success.
    pub(crate) async fn remove_container(&self, docker: &Docker, container: &str) -> Result<(), Reason> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        self.optional("removing a container", docker.remove_container(container, Some(options))).await.map(drop)
    }

    /// The container's last lines. That they cannot be read is said in their place: it must not hide the reason they belong to.
    pub(crate) async fn log_tail(
        &self,
        docker: &Docker,
        container: &str,
        source: &str,
        redactor: &Redactor,
    ) -> LogTail {
        let text = match tokio::time::timeout(LOGS_TIMEOUT, self.output(docker, container, LOG_READ_MAX_LINES)).await {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => format!("(the log cannot be read: {error})"),
            Err(_) => "(the log cannot be read in time)".to_owned(),
        };
        logs::tail(source, &text, redactor)
    }

    /// The last lines that the container has written so far, bounded.
    pub(crate) async fn output(
        &self,
        docker: &Docker,
        container: &str,
        lines: usize,
    ) -> Result<String, bollard::errors::Error> {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(&lines.to_string()).build();
        let mut stream = docker.logs(container, Some(options));
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(chunk?.as_ref());
            keep_tail(&mut bytes, OUTPUT_MAX_BYTES);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Keeps the last bytes, and of them whole lines: what is left of a line that was cut may begin within a secret, which no mask would know.
pub(crate) fn keep_tail(bytes: &mut Vec<u8>, max: usize) {
    if bytes.len() > max {
        bytes.drain(..bytes.len() - max);
        let line = bytes.iter().position(|byte| *byte == b'\n').map_or(max / 2, |end| end + 1);
        bytes.drain(..line.min(bytes.len()));
    }
}

pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_long_output_the_last_whole_lines_are_kept() {
        let kept = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            keep_tail(&mut bytes, 8);
            String::from_utf8_lossy(&bytes).into_owned()
        };
        assert_eq!(kept("abc\ndefg"), "abc\ndefg");
        assert_eq!(kept("xabc\ndefg"), "defg");
        assert_eq!(kept("abcdefghi"), "fghi", "one line, of which the first half may be the end of a secret");
    }
}
