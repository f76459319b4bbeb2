//! Every container that Landfall makes says whose it is, so that two environments on one engine never take each other's for their own.

use std::collections::{BTreeMap, BTreeSet};

use landfall_schema::ids::{AppName, EnvName, ServiceName};
use landfall_schema::outcome::{Reason, ReasonCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Hands;
use super::compose::{self, Invocation};
use super::engine::{Container, Engine};
use super::redact::Redactor;

pub(crate) const LABEL_ENV: &str = "dev.landfall.env";
pub(crate) const LABEL_APP: &str = "dev.landfall.app";
const LABEL_CONFIG_HASH: &str = "com.docker.compose.config-hash";

/// Who makes a stack's containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) env: EnvName,
    pub(crate) app: AppName,
}

impl Mark {
    pub(crate) fn labels(&self) -> Value {
        json!({ LABEL_ENV: self.env.as_str(), LABEL_APP: self.app.as_str() })
    }

    fn check(&self, project: &str, containers: &[Container]) -> Result<(), Reason> {
        let Some(owner) = containers.iter().find_map(|container| self.other_owner(container)) else { return Ok(()) };
        let Self { env, app } = self;
        let message = format!("the Compose project {project} on this host belongs to {owner}, not to {app} of {env}");
        Err(Reason::new(ReasonCode::ProjectTaken, message).hint(format!(
            "set a name of its own with project = \"…\" under [apps.{app}] in this executor's configuration, then promote again"
        )))
    }

    /// Whose the container is instead, when it is marked at all and not by this one.
    fn other_owner(&self, container: &Container) -> Option<String> {
        let label = |name: &str| container.labels.get(name).map(String::as_str);
        let (env, app) = (label(LABEL_ENV)?, label(LABEL_APP)?);
        ((env, app) != (self.env.as_str(), self.app.as_str())).then(|| format!("{app} of {env}"))
    }
}

/// For `--check`: whether the project on this engine is free, or this application's already.
///
/// # Errors
/// [`ReasonCode::ProjectTaken`], or that the engine does not answer.
pub async fn check_project(docker: &str, env: &EnvName, app: &AppName, project: &str) -> Result<(), Reason> {
    let engine = Engine::new(Some(docker.to_owned()), project.to_owned());
    Mark { env: env.clone(), app: app.clone() }.check(project, &engine.containers().await?)
}

impl Hands {
    pub(crate) fn mark(&self) -> Mark {
        Mark { env: self.config.env.clone(), app: self.config.stack.app.clone() }
    }

    /// # Errors
    /// [`ReasonCode::ProjectTaken`] when a container of the project was made for another environment or application.
    pub(crate) fn check_ours(&self, containers: &[Container]) -> Result<(), Reason> {
        self.mark().check(self.engine.project(), containers)
    }

    /// Services whose containers were made before containers were marked and would otherwise stay: a new label would make Compose
    /// replace them, so they are left without until something else does. Asks nothing where everything is marked.
    pub(crate) async fn unmarked(
        &self,
        invocation: &Invocation,
        deadline: Instant,
    ) -> Result<BTreeSet<ServiceName>, Reason> {
        let containers = self.engine.containers().await?;
        let unmarked: Vec<&Container> = containers
            .iter()
            .filter(|container| !container.one_off && !container.labels.contains_key(LABEL_ENV))
            .collect();
        if unmarked.is_empty() {
            return Ok(BTreeSet::new());
        }
        let output = self.compose.read(invocation, &["--profile", "*", "config", "--hash", "*"], deadline).await?;
        if output.code != Some(0) {
            return Err(compose::config_reason(&output.stderr, &invocation.directory, &Redactor::default()));
        }
        let hashes: BTreeMap<&str, &str> =
            output.stdout.lines().filter_map(|line| line.trim().split_once(' ')).collect();
        let stays = |container: &&&Container| {
            let made_of = container.labels.get(LABEL_CONFIG_HASH).map(String::as_str);
            made_of.is_some() && made_of == hashes.get(container.service.as_str()).copied()
        };
        Ok(unmarked.iter().filter(stays).map(|container| container.service.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn whose_a_container_is() {
        let mark = Mark { env: "staging".parse().unwrap(), app: "shop".parse().unwrap() };
        let owner = |labels: &[(&str, &str)]| {
            let labels: HashMap<String, String> =
                labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            mark.other_owner(&Container {
                id: "1".to_owned(),
                service: "app".parse().unwrap(),
                image_id: String::new(),
                running: true,
                unstarted: false,
                one_off: false,
                labels,
            })
        };
        assert_eq!(owner(&[]), None);
        assert_eq!(owner(&[(LABEL_ENV, "staging"), (LABEL_APP, "shop")]), None);
        assert_eq!(owner(&[(LABEL_ENV, "production"), (LABEL_APP, "shop")]).as_deref(), Some("shop of production"));
        assert_eq!(owner(&[(LABEL_ENV, "staging"), (LABEL_APP, "blog")]).as_deref(), Some("blog of staging"));
    }
}
