//! What the Docker engine says, and the clean-up after a test. All by the client, so that nothing is shared with the code under test.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use landfall_schema::ids::Digest;
use serde_json::Value;

use crate::lab::Lab;

const PROJECT_LABEL: &str = "com.docker.compose.project";

#[derive(Debug, Clone)]
pub struct Engine {
    host: String,
}

impl Engine {
    pub fn new(lab: &Lab) -> Self {
        Self::at(&lab.docker_host)
    }

    /// The engine of this address, as `docker -H` takes it.
    pub fn at(host: &str) -> Self {
        Self { host: host.to_owned() }
    }

    /// Runs `docker ARGUMENTS` and returns its stdout.
    ///
    /// # Errors
    /// When it does not exit with 0.
    pub fn docker<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let output = Command::new("docker").arg("-H").arg(&self.host).args(arguments).output().context("docker")?;
        let shown: Vec<_> = arguments.iter().map(|argument| argument.as_ref().to_string_lossy()).collect();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "docker {} ended with {}: {errors}", shown.join(" "), output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The containers of a project, whatever their state, as `docker inspect` shows them.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn containers(&self, project: &str) -> Result<Vec<Value>> {
        let ids = self.ids(&["ps", "--all", "--quiet", "--filter", &project_filter(project)])?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut arguments = vec!["inspect".to_owned()];
        arguments.extend(ids);
        Ok(serde_json::from_str(&self.docker(&arguments)?)?)
    }

    /// Per service the digests by which the image of its running container is known.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn running_digests(&self, project: &str) -> Result<BTreeMap<String, Vec<Digest>>> {
        let mut found = BTreeMap::new();
        for container in self.containers(project)? {
            if container["State"]["Running"] == true {
                let service = text(&container["Config"]["Labels"]["com.docker.compose.service"])?;
                found.insert(service, self.digests_of(&text(&container["Image"])?)?);
            }
        }
        Ok(found)
    }

    fn digests_of(&self, image: &str) -> Result<Vec<Digest>> {
        let images: Vec<Value> = serde_json::from_str(&self.docker(&["image", "inspect", image])?)?;
        let names = images.first().and_then(|image| image["RepoDigests"].as_array()).cloned().unwrap_or_default();
        let digests = names.iter().filter_map(Value::as_str).filter_map(|name| name.split_once('@'));
        digests.map(|(_, digest)| Ok(Digest::new(digest)?)).collect()
    }

    /// When the container of a service was made; tells whether it is still the same.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn container_id(&self, project: &str, service: &str) -> Result<String> {
        let filter = format!("label=com.docker.compose.service={service}");
        let ids =
            self.ids(&["ps", "--quiet", "--no-trunc", "--filter", &project_filter(project), "--filter", &filter])?;
        ids.into_iter().next().with_context(|| format!("{project} has no running container of {service}"))
    }

    /// The digests of the images of a repository that are on this host.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn images(&self, repository: &str) -> Result<Vec<Digest>> {
        let listing = self.docker(&["images", "--digests", "--format", "{{.Digest}}", repository])?;
        let mut digests = Vec::new();
        for line in listing.lines().filter(|line| line.starts_with("sha256:")) {
            let digest = Digest::new(line)?;
            if !digests.contains(&digest) {
                digests.push(digest);
            }
        }
        Ok(digests)
    }

    fn ids(&self, arguments: &[&str]) -> Result<Vec<String>> {
        Ok(self.docker(arguments)?.lines().map(str::to_owned).collect())
    }

    /// Removes everything that belongs to a project.
    ///
    /// # Errors
    /// When something stays.
    pub fn remove_project(&self, project: &str) -> Result<()> {
        let filter = project_filter(project);
        let held = format!("label=dev.landfall.held={project}");
        for filter in [&filter, &held] {
            self.remove_all(&["rm", "--force", "--volumes"], &["ps", "--all", "--quiet", "--filter", filter])?;
        }
        self.remove_all(&["network", "rm"], &["network", "ls", "--quiet", "--filter", &filter])?;
        self.remove_all(&["volume", "rm", "--force"], &["volume", "ls", "--quiet", "--filter", &filter])
    }

    /// Removes the images whose name contains this text.
    ///
    /// # Errors
    /// When something stays.
    pub fn remove_images(&self, name: &str) -> Result<()> {
        let reference = format!("reference=*/{name}");
        self.remove_all(&["rmi", "--force"], &["images", "--quiet", "--filter", &reference])
    }

    fn remove_all(&self, remove: &[&str], list: &[&str]) -> Result<()> {
        let mut found = self.ids(list)?;
        found.sort();
        found.dedup();
        if found.is_empty() {
            return Ok(());
        }
        let mut arguments: Vec<String> = remove.iter().map(|&argument| argument.to_owned()).collect();
        arguments.extend(found);
        self.docker(&arguments).map(|_| ())
    }
}

fn project_filter(project: &str) -> String {
    format!("label={PROJECT_LABEL}={project}")
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("expected a text, found {value}"))
}
