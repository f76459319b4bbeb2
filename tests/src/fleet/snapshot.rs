//! Which containers a project has: equal before and after means that nobody touched it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::engine::Engine;

/// The containers of one project on one machine, running or not, by service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub containers: BTreeMap<String, Container>,
}

/// What changes when a container is replaced, stopped or restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub created_at: String,
    pub started_at: String,
    pub running: bool,
    /// How often the engine has restarted it.
    pub restarts: u64,
}

impl Snapshot {
    /// # Errors
    /// When the engine does not answer.
    pub fn of(engine: &Engine, project: &str) -> Result<Self> {
        let mut containers = BTreeMap::new();
        for found in engine.containers(project)? {
            let service = text(&found["Config"]["Labels"]["com.docker.compose.service"])?;
            containers.insert(service, container(&found)?);
        }
        Ok(Self { containers })
    }
}

fn container(found: &Value) -> Result<Container> {
    Ok(Container {
        id: text(&found["Id"])?,
        created_at: text(&found["Created"])?,
        started_at: text(&found["State"]["StartedAt"])?,
        running: found["State"]["Running"] == true,
        restarts: found["RestartCount"].as_u64().context("the engine tells no number of restarts")?,
    })
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("expected a text, found {value}"))
}
