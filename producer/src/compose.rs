//! Compose files as a promotion needs them: which services there are, and which image each names. What the file means beyond that is
//! for `docker compose` on the hosts; `landfall lint` looks closer.

pub mod env_file;
pub mod interpolate;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use landfall_schema::bundle::{BUNDLE_VERSION, Bundle, BundleFile};
use landfall_schema::ids::{AppName, IdError, ServiceName};
use landfall_schema::stack::{Role, RolloutSettings, SchemaSettings};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::Spanned;
use thiserror::Error;

use crate::error::CliError;

/// The names that Compose itself looks for, in its order.
pub const DEFAULT_FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

/// Entries that the aliases of one file may stand for, all together; hosts refuse more.
const ALIASED_ENTRIES_MAX: usize = 50_000;

/// A place in a file, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub path: PathBuf,
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// All compose files of one stack, merged as far as images go.
#[derive(Debug, Clone)]
pub struct Stack {
    pub files: Vec<(PathBuf, String)>,
    pub services: BTreeMap<ServiceName, Service>,
    pub settings: TopSettings,
}

/// What a promotion needs of the top-level `x-landfall`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct TopSettings {
    #[serde(default)]
    pub app: Option<AppName>,
    #[serde(default)]
    pub bake_ms: Option<u64>,
    #[serde(default)]
    pub rollout: Option<RolloutSettings>,
    #[serde(default)]
    pub schema: Option<SchemaSettings>,
}

#[derive(Debug, Clone)]
pub struct Service {
    pub place: Place,
    /// As written, not interpolated.
    pub image: Option<(String, Place)>,
    pub build: Option<Place>,
    /// Behind a profile and without a role of Landfall's: it does not run unless a person starts it.
    pub optional: bool,
}

#[derive(Debug, Error)]
pub enum ComposeError {
    #[error("no compose file here: none of {}", DEFAULT_FILES.join(", "))]
    NoFile,
    #[error("cannot read the compose file {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the compose file {} does not parse\n{message}", path.display())]
    Parse { path: PathBuf, message: String },
    #[error("the compose files define no service")]
    NoServices,
    #[error("{place}: the service's name cannot be used")]
    BadService { place: Place, source: IdError },
    #[error("{place}: `{what}` names another file, which does not travel with the promotion")]
    OtherFile { place: Place, what: &'static str },
    #[error("two compose files are called {name}")]
    SameName { name: String },
}

impl From<ComposeError> for CliError {
    fn from(error: ComposeError) -> Self {
        let hint = match &error {
            ComposeError::NoFile => "name it with --file",
            ComposeError::Read { .. } => "check the name given to --file",
            ComposeError::Parse { .. } => "`landfall lint` looks closer",
            ComposeError::NoServices => "a stack needs at least one service",
            ComposeError::BadService { .. } => "Compose allows letters, digits, dot, underscore and dash",
            ComposeError::OtherFile { .. } => {
                "write it out with `docker compose config --no-interpolate --output compose.all.yml`, and promote that file"
            }
            ComposeError::SameName { .. } => "rename one: only the file's name travels, not its folder",
        };
        Self::from_error(&error).hint(hint)
    }
}

#[derive(Deserialize)]
struct ComposeFile {
    #[serde(default)]
    services: Option<BTreeMap<String, Spanned<Option<ServiceFields>>>>,
    #[serde(default)]
    include: Option<Spanned<IgnoredAny>>,
    #[serde(default, rename = "x-landfall")]
    settings: Option<TopSettings>,
}

#[derive(Default, Deserialize)]
struct ServiceFields {
    #[serde(default)]
    image: Option<Spanned<String>>,
    #[serde(default)]
    build: Option<Spanned<IgnoredAny>>,
    #[serde(default)]
    extends: Option<Spanned<Extends>>,
    #[serde(default)]
    profiles: Option<Vec<IgnoredAny>>,
    #[serde(default, rename = "x-landfall")]
    settings: Option<RoleOnly>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Extends {
    File {
        #[serde(rename = "file")]
        _file: String,
    },
    SameFile(IgnoredAny),
}

/// Only the role matters here; a wrong one is for `landfall lint` and the hosts to refuse.
#[derive(Deserialize)]
struct RoleOnly {
    #[serde(default)]
    role: Option<Role>,
}

impl Stack {
    /// Reads the files, or the one that Compose would take in `folder`.
    pub fn read(paths: &[PathBuf], folder: &Path) -> Result<Self, ComposeError> {
        let found;
        let paths = if paths.is_empty() {
            let path = DEFAULT_FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file());
            found = [path.ok_or(ComposeError::NoFile)?];
            &found[..]
        } else {
            paths
        };
        let read = |path: &PathBuf| match std::fs::read_to_string(path) {
            Ok(text) => Ok((path.clone(), text)),
            Err(source) => Err(ComposeError::Read { path: path.clone(), source }),
        };
        Self::parse(paths.iter().map(read).collect::<Result<_, _>>()?)
    }

    /// Takes the files together; later ones override earlier ones.
    pub fn parse(files: Vec<(PathBuf, String)>) -> Result<Self, ComposeError> {
        let mut services: BTreeMap<ServiceName, Service> = BTreeMap::new();
        let mut settings = TopSettings::default();
        for (path, text) in &files {
            let (top, found) = parse_file(path, text)?;
            settings = TopSettings {
                app: top.app.or(settings.app),
                bake_ms: top.bake_ms.or(settings.bake_ms),
                rollout: top.rollout.or(settings.rollout),
                schema: top.schema.or(settings.schema),
            };
            for (name, service) in found {
                match services.get_mut(&name) {
                    Some(known) => known.overridden_by(service),
                    None => {
                        services.insert(name, service);
                    }
                }
            }
        }
        if services.is_empty() {
            return Err(ComposeError::NoServices);
        }
        Ok(Self { files, services, settings })
    }

    /// The files as they travel with the promotion.
    pub fn bundle(&self) -> Result<Bundle, ComposeError> {
        let mut compose: Vec<BundleFile> = Vec::new();
        for (path, content) in &self.files {
            let name = path.file_name().map_or("compose.yml".to_owned(), |name| name.to_string_lossy().into_owned());
            if compose.iter().any(|file| file.name == name) {
                return Err(ComposeError::SameName { name });
            }
            compose.push(BundleFile { name, content: content.clone() });
        }
        Ok(Bundle { version: BUNDLE_VERSION, compose })
    }
}

impl Service {
    fn overridden_by(&mut self, later: Self) {
        self.image = later.image.or(self.image.take());
        self.build = later.build.or(self.build.take());
        self.optional = self.optional && later.optional;
    }
}

fn parse_file(path: &Path, text: &str) -> Result<(TopSettings, Vec<(ServiceName, Service)>), ComposeError> {
    let parse = |error: serde_saphyr::Error| ComposeError::Parse { path: path.to_owned(), message: error.to_string() };
    let mut options = serde_saphyr::Options::default();
    options.alias_limits.max_total_replayed_events = ALIASED_ENTRIES_MAX;
    let file: ComposeFile = serde_saphyr::from_str_with_options(text, options).map_err(parse)?;
    let place = |line| Place { path: path.to_owned(), line };
    if let Some(include) = file.include {
        return Err(ComposeError::OtherFile { place: place(include.referenced.line()), what: "include" });
    }
    let mut services = Vec::new();
    for (name, fields) in file.services.unwrap_or_default() {
        let at = place(fields.referenced.line());
        let name = ServiceName::new(name).map_err(|source| ComposeError::BadService { place: at.clone(), source })?;
        let fields = fields.value.unwrap_or_default();
        if let Some(Spanned { value: Extends::File { .. }, referenced, .. }) = &fields.extends {
            return Err(ComposeError::OtherFile { place: place(referenced.line()), what: "extends.file" });
        }
        let role = fields.settings.and_then(|settings| settings.role).unwrap_or_default();
        let service = Service {
            image: fields.image.map(|image| (image.value, place(image.referenced.line()))),
            build: fields.build.map(|build| place(build.referenced.line())),
            optional: role == Role::Serve && fields.profiles.is_some_and(|profiles| !profiles.is_empty()),
            place: at,
        };
        services.push((name, service));
    }
    Ok((file.settings.unwrap_or_default(), services))
}

#[cfg(test)]
#[path = "compose/tests.rs"]
mod tests;
