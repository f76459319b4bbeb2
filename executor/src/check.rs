//! `--check`: whether all that the configuration names is there and answers. Changes nothing but the state directory's existence.

use std::fmt;
use std::path::Path;

use landfall_bus::{Bus, LayoutChange};
use landfall_schema::outcome::ReasonCode;

use crate::config::Config;
use crate::hands::{Compose, check_project};
use crate::identity::{IdentityError, StateDir};
use crate::journal::Journal;
use crate::link::connect_options;
use crate::presence::engine_version;
use crate::{causes, told};

/// Something that does not answer, or is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub message: String,
    pub hint: Option<String>,
}

impl Trouble {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// One thing that was looked at: what it is, and what was found.
#[derive(Debug)]
pub struct Finding {
    pub what: &'static str,
    pub found: Result<String, Vec<Trouble>>,
}

/// Looks at everything, whatever fails.
pub async fn check(config: &Config) -> Vec<Finding> {
    vec![
        Finding { what: "state", found: state(&config.state_dir).await },
        Finding { what: "applications", found: applications(config) },
        Finding { what: "engine", found: engine(config).await },
        Finding { what: "projects", found: projects(config).await },
        Finding { what: "compose", found: compose(config).await },
        Finding { what: "bus", found: bus(config).await },
    ]
}

async fn state(path: &Path) -> Result<String, Vec<Trouble>> {
    let one = |error: &dyn std::error::Error| {
        let (message, hint) = told(error);
        vec![Trouble { message, hint }]
    };
    let state = match StateDir::open(path) {
        Ok(state) => state,
        // The running daemon has checked the rest when it began.
        Err(IdentityError::InUse { .. }) => return Ok(format!("{}, in use by the running executor", path.display())),
        Err(error) => return Err(one(&error)),
    };
    let key = state.host_key().map_err(|error| one(&error))?;
    let journal = Journal::open(path).await.map_err(|error| one(&error))?;
    journal.close().await;
    Ok(format!("{}, host key {}", path.display(), key.public()))
}

fn applications(config: &Config) -> Result<String, Vec<Trouble>> {
    let apps = config.apps.iter().map(|(name, app)| (format!("apps.{name}"), &app.directory));
    let previews = config.previews.iter().map(|(name, preview)| (format!("previews.{name}"), &preview.directory));
    let missing: Vec<Trouble> = apps
        .chain(previews)
        .filter(|(_, directory)| !directory.is_dir())
        .map(|(section, directory)| {
            let directory = directory.display();
            Trouble::new(
                format!("{section}.directory: {directory} is no directory"),
                format!("mkdir -p {directory}, and put the stack's .env there"),
            )
        })
        .collect();
    let mut names: Vec<String> = config.apps.keys().map(ToString::to_string).collect();
    names.extend(config.previews.keys().map(|name| format!("previews of {name}")));
    match (missing.is_empty(), names.is_empty()) {
        (false, _) => Err(missing),
        (true, true) => Ok("none: this host takes no promotion".to_owned()),
        (true, false) => Ok(names.join(", ")),
    }
}

/// Whether an executor of another environment has one of the projects. An engine that does not answer is told by itself.
async fn projects(config: &Config) -> Result<String, Vec<Trouble>> {
    let mut taken = Vec::new();
    for (app, settings) in &config.apps {
        match check_project(&config.docker.host, &config.env, app, &settings.project).await {
            Err(reason) if reason.code == ReasonCode::ProjectTaken => {
                taken.push(Trouble { message: reason.message, hint: reason.hint });
            }
            Ok(()) | Err(_) => {}
        }
    }
    let names: Vec<&str> = config.apps.values().map(|app| app.project.as_str()).collect();
    if taken.is_empty() { Ok(names.join(", ")) } else { Err(taken) }
}

async fn engine(config: &Config) -> Result<String, Vec<Trouble>> {
    let hint = "start the Docker engine, or correct [docker] host; the executor's user needs access to the socket";
    engine_version(&config.docker.host).await.map_err(|message| vec![Trouble::new(message, hint)])
}

async fn compose(config: &Config) -> Result<String, Vec<Trouble>> {
    Compose::find(Some(config.docker.host.clone()))
        .version()
        .await
        .map_err(|reason| vec![Trouble { message: reason.message, hint: reason.hint }])
}

async fn bus(config: &Config) -> Result<String, Vec<Trouble>> {
    let options = connect_options(&config.bus, &config.host).map_err(|error| {
        vec![Trouble::new(format!("bus.password_file: {error}"), "the executor must be able to read it")]
    })?;
    let trouble = |error: &landfall_bus::BusError| vec![Trouble { message: causes(error), hint: error.hint() }];
    let bus = Bus::connect(&options).await.map_err(|error| trouble(&error))?;
    let changes = bus.diff().await.map_err(|error| trouble(&error))?;
    if !changes.is_empty() {
        let list = changes.iter().map(described).collect::<Vec<_>>().join("; ");
        return Err(vec![Trouble::new(
            format!("the bus is not laid out as this version needs it: {list}"),
            "run `landfall bus apply`",
        )]);
    }
    Ok(landfall_bus::connection::shown_url(&config.bus.url))
}

fn described(change: &LayoutChange) -> String {
    if change.creates() {
        return format!("{} is missing", change.what);
    }
    let settings = change.settings.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!("{}: {settings}", change.what)
}
