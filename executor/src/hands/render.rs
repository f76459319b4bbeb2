//! Turns a promotion and its bundle into files that Compose reads, and into the stack as this host will run it.

mod model;
mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use landfall_schema::bundle::Bundle;
use landfall_schema::ids::{Counter, ServiceName};
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::promotion::Promotion;
use landfall_schema::stack::{Role, ServiceSettings, StackSettings};
use serde_json::Value;
use tokio::time::Instant;

use super::compose::{self, Invocation};
use super::own_file::{self, OwnFileError};
use super::policy::Risk;
use super::redact::{self, Redactor};
use super::{Hands, internal, memory, overrides, preview, settings, yaml};
pub(crate) use model::parse;
use model::rendered_variables;

/// A stack as this host runs it. Its settings and its model hold secrets, so it is not printable.
pub(crate) struct Stack {
    pub(crate) counter: Counter,
    pub(crate) invocation: Invocation,
    pub(crate) settings: StackSettings,
    pub(crate) services: BTreeMap<ServiceName, Service>,
    pub(crate) redactor: Redactor,
    /// As Compose rendered it.
    pub(crate) model: Value,
}

pub(crate) struct Service {
    pub(crate) name: ServiceName,
    pub(crate) settings: ServiceSettings,
    pub(crate) kind: Kind,
    /// As rendered: the conditions by service.
    pub(crate) depends_on: BTreeMap<ServiceName, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Serving,
    /// Runs to its end as part of `up`: others wait for its success, and Landfall was told nothing of it.
    Completes,
    /// Run by its own step only.
    OneShot(Role),
    /// Behind a profile that is not active here, or scaled to nothing.
    Inactive,
}

impl Service {
    pub(crate) fn is_one_shot(&self) -> bool {
        matches!(self.kind, Kind::OneShot(_))
    }
}

impl Stack {
    pub(crate) fn serving(&self) -> impl Iterator<Item = &Service> {
        self.services.values().filter(|service| service.kind == Kind::Serving)
    }

    /// What `up` starts.
    pub(crate) fn started(&self) -> impl Iterator<Item = &Service> {
        self.services.values().filter(|service| matches!(service.kind, Kind::Serving | Kind::Completes))
    }

    pub(crate) fn one_shots(&self, role: Role) -> impl Iterator<Item = &Service> {
        self.services.values().filter(move |service| service.kind == Kind::OneShot(role))
    }
}

/// Longest `.env`, in bytes: every value of it is looked for in all that leaves this host.
const ENV_FILE_MAX_BYTES: u64 = 256 * 1024;
/// The name under which lines of secret files count as secrets, however short they are.
const SECRET_FILE: &str = "SECRET";
/// Names that would change how Compose itself runs.
const RESERVED_VARIABLES: [&str; 4] = ["PATH", "HOME", "XDG_RUNTIME_DIR", "IFS"];
const RESERVED_PREFIXES: [&str; 4] = ["COMPOSE_", "DOCKER_", "LD_", "GO"];

impl Hands {
    /// Writes the files, lets Compose render them once, and reads the result.
    pub(crate) async fn render(
        &self,
        promotion: &Promotion,
        bundle: &Bundle,
        deadline: Instant,
    ) -> Result<Arc<Stack>, Reason> {
        let variables = checked_variables(promotion)?;
        self.prepare_directory().await?;
        self.config.policy.check_reads(promotion, bundle, &self.config.stack.directory)?;
        let images: BTreeMap<ServiceName, String> =
            promotion.images.iter().map(|(name, image)| (name.clone(), image.reference())).collect();
        let (mut invocation, env_text) =
            self.lay_out(promotion.counter, bundle, variables, &overrides::pins(&images)).await?;
        let host_variables = redact::env_file_variables(env_text.as_deref().unwrap_or_default());
        let public: BTreeSet<&str> = promotion.variables.values().map(String::as_str).collect();
        let before = Redactor::new(host_variables.iter().copied(), std::iter::empty(), &public);

        let output = self.compose.read(&invocation, &["--profile", "*", "config"], deadline).await?;
        if output.code != Some(0) {
            return Err(compose::config_reason(&output.stderr, &invocation.directory, &before));
        }
        if env_text.is_none() {
            refuse_blanks(&output.stderr, bundle, &invocation)?;
        }
        let model = parse(&output.stdout)?;
        refuse_nul(&model)?;
        let rendered = rendered_variables(&model);
        let kept_files = secrets::files(&model, &self.config.stack.directory).await;
        let kept_here = host_variables.iter().copied().chain(of_env_files(&rendered, bundle));
        let kept_here = kept_here.chain(kept_files.iter().map(|text| (SECRET_FILE, text.as_str())));
        let redactor = Redactor::new(kept_here, rendered.iter().copied(), &public);
        let active = host_variables.iter().find(|(name, _)| *name == "COMPOSE_PROFILES").map_or("", |(_, value)| value);
        // What is wrong with a setting is told with its value, which may come from the host's `.env`.
        let told = |reason: Reason| Reason { message: redactor.clean_complaint(&reason.message), ..reason };
        invocation.environment =
            Some(memory::Text::new("the services' environment".into(), overrides::environment(&model)));
        let services = services(&model, &active.split(',').map(str::trim).collect()).map_err(told)?;
        self.check_promoted(promotion, bundle, &services, &model, &invocation, deadline).await?;
        let unmarked = self.unmarked(&invocation, deadline).await?;
        let override_text = overrides::full(&images, &services, &self.mark(), &unmarked);
        self.keep(&invocation.files[bundle.compose.len()], override_text.as_bytes()).await?;
        let settings = settings::of_stack(&model).map_err(told)?;
        settings::check_smoke_services(&settings, &services.keys().map(ServiceName::as_str).collect()).map_err(told)?;
        let stack = Arc::new(Stack { counter: promotion.counter, invocation, settings, services, redactor, model });
        self.keep_serving(&stack).await?;
        self.remember(&stack);
        Ok(stack)
    }

    /// The files of one release in its folder, and the text of the host's `.env` if there is one.
    async fn lay_out(
        &self,
        counter: Counter,
        bundle: &Bundle,
        variables: Vec<(String, String)>,
        override_text: &str,
    ) -> Result<(Invocation, Option<String>), Reason> {
        let folder = self.stack_dir(counter);
        let mut files = Vec::new();
        for file in &bundle.compose {
            let path = folder.join(&file.name);
            self.keep(&path, file.content.as_bytes()).await?;
            files.push(path);
        }
        let path = folder.join(overrides::FILE);
        self.keep(&path, override_text.as_bytes()).await?;
        files.push(path);
        let directory = self.config.stack.directory.clone();
        if !directory.is_dir() {
            let message = format!("the stack's folder {} is not on this host", directory.display());
            return Err(Reason::new(ReasonCode::EnvFileMissing, message)
                .hint("make it and put the stack's .env and mounted files there, or correct `directory` in the host's configuration"));
        }
        let env_file = directory.join(".env");
        let env_text = self.own_file(env_file.clone(), &directory).await?;
        // Also an empty one, so that Compose does not find what is put there later.
        let env_files = vec![memory::Text::new(env_file, env_text.clone().unwrap_or_default())];
        let project = self.engine.project().to_owned();
        let lock = self.lock_file();
        Ok((Invocation { project, directory, files, env_files, environment: None, variables, lock }, env_text))
    }

    /// The text of a `.env`; `None` when there is no such file.
    pub(crate) async fn own_file(&self, path: PathBuf, folder: &Path) -> Result<Option<String>, Reason> {
        let (folder, anywhere) = (folder.to_owned(), self.config.policy.allow.contains(&Risk::HostFiles));
        let read = move || own_file::text(&path, &folder, ENV_FILE_MAX_BYTES, anywhere);
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.map_err(|error| internal("reading the stack's files", error))?;
        read.map_err(|error| match &error {
            OwnFileError::Outside { .. } => Reason::new(ReasonCode::PolicyViolation, error.to_string()).hint(format!(
                "put the file itself into the stack's folder, or set {} = true under [policy] on this host",
                Risk::HostFiles.setting()
            )),
            OwnFileError::NoFile { .. } | OwnFileError::TooLong { .. } => {
                Reason::new(ReasonCode::EnvFileMissing, error.to_string()).hint("it holds settings, one to a line")
            }
            OwnFileError::Read { source, .. } => Reason::new(ReasonCode::EnvFileMissing, format!("{error}: {source}"))
                .hint("the executor needs permission to read it"),
        })
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        self.config.state_dir.join("stacks").join(self.engine.project()).join("lock")
    }

    /// Every promised service exists, and every service that will run was promised.
    async fn check_promoted(
        &self,
        promotion: &Promotion,
        bundle: &Bundle,
        services: &BTreeMap<ServiceName, Service>,
        model: &Value,
        invocation: &Invocation,
        deadline: Instant,
    ) -> Result<(), Reason> {
        // The override itself makes a promised service exist, so those that have nothing but an image need a second look.
        let suspicious: Vec<&ServiceName> =
            promotion.images.keys().filter(|name| is_bare(model, name) && !is_written(bundle, name)).collect();
        if !suspicious.is_empty() {
            let known = self.service_names(bundle, invocation, deadline).await?;
            if let Some(unknown) = suspicious.into_iter().find(|name| !known.contains(name.as_str())) {
                return Err(Reason::new(
                    ReasonCode::ServiceUnknown,
                    format!("the promotion has an image for service {unknown}, which the compose file does not define"),
                )
                .hint(format!("it defines {}", known.into_iter().collect::<Vec<_>>().join(", "))));
            }
        }
        for service in services.values().filter(|service| service.kind != Kind::Inactive) {
            if !promotion.images.contains_key(&service.name) {
                let built = model.pointer(&format!("/services/{}/build", service.name.as_str())).is_some();
                let why = if built { "; it is only built, and hosts do not build" } else { "" };
                return Err(Reason::new(
                    ReasonCode::ImageMissing,
                    format!("the promotion has no image for service {}{why}", service.name),
                )
                .hint("give the service an image that is pushed to a registry, and promote all services together"));
            }
            // Compose itself would refuse this later, when `up` leaves inactive services out.
            let missing = service.depends_on.iter().find(|(name, dependency)| {
                let required = dependency.get("required").and_then(Value::as_bool) != Some(false);
                required && !service.is_one_shot() && services.get(*name).is_some_and(|on| on.kind == Kind::Inactive)
            });
            if let Some((name, _)) = missing {
                let message =
                    format!("service {} depends on {name}, which is behind a profile that is not active", service.name);
                return Err(Reason::new(ReasonCode::ComposeInvalid, message));
            }
        }
        Ok(())
    }

    async fn service_names(
        &self,
        bundle: &Bundle,
        invocation: &Invocation,
        deadline: Instant,
    ) -> Result<BTreeSet<String>, Reason> {
        let mut plain = invocation.clone();
        plain.files.truncate(bundle.compose.len());
        plain.environment = None;
        let output = self
            .compose
            .read(&plain, &["--profile", "*", "config", "--no-interpolate", "--services"], deadline)
            .await?;
        if output.code != Some(0) {
            return Err(compose::config_reason(&output.stderr, &plain.directory, &Redactor::default()));
        }
        Ok(output.stdout.lines().map(|line| line.trim().to_owned()).collect())
    }
}

pub(super) fn services(model: &Value, profiles: &BTreeSet<&str>) -> Result<BTreeMap<ServiceName, Service>, Reason> {
    let map = model.get("services").and_then(Value::as_object);
    let waited_for: BTreeSet<&str> = map
        .into_iter()
        .flat_map(|services| services.values())
        .filter_map(|service| service.get("depends_on")?.as_object())
        .flatten()
        .filter(|(_, on)| on.get("condition").and_then(Value::as_str) == Some("service_completed_successfully"))
        .map(|(name, _)| name.as_str())
        .collect();
    let mut services = BTreeMap::new();
    for (name, service) in map.into_iter().flatten() {
        let bad = |error| Reason::new(ReasonCode::ComposeInvalid, format!("the compose file: {error}"));
        let settings = settings::of_service(name, service)?;
        let name = ServiceName::new(name.clone()).map_err(bad)?;
        let kind = kind(service, settings.role, waited_for.contains(name.as_str()), profiles);
        let depends_on = service.get("depends_on").and_then(Value::as_object).into_iter().flatten();
        let depends_on: Result<_, _> =
            depends_on.map(|(on, how)| Ok((ServiceName::new(on.clone())?, how.clone()))).collect();
        services.insert(name.clone(), Service { name, settings, kind, depends_on: depends_on.map_err(bad)? });
    }
    Ok(services)
}

fn kind(service: &Value, role: Role, waited_for: bool, profiles: &BTreeSet<&str>) -> Kind {
    let own: Vec<&str> =
        service.get("profiles").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let active = own.is_empty() || profiles.contains("*") || own.iter().any(|profile| profiles.contains(profile));
    let replicas = service.pointer("/deploy/replicas").or_else(|| service.get("scale")).and_then(Value::as_u64);
    match role {
        Role::Migrate | Role::Backup | Role::Smoke => Kind::OneShot(role),
        Role::Serve if !active || replicas == Some(0) => Kind::Inactive,
        Role::Serve if waited_for => Kind::Completes,
        Role::Serve => Kind::Serving,
    }
}

fn checked_variables(promotion: &Promotion) -> Result<Vec<(String, String)>, Reason> {
    for name in promotion.variables.keys() {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.is_empty();
        if !plain
            || RESERVED_VARIABLES.contains(&name.as_str())
            || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        {
            return Err(Reason::new(
                ReasonCode::PolicyViolation,
                format!("the promotion sets the variable {name:.80?}, which is not allowed"),
            )
            .hint("it would change how Compose itself runs; use another name in the compose file"));
        }
    }
    if let Some((name, _)) = promotion.variables.iter().find(|(_, value)| value.contains('\0')) {
        let message = format!("the promotion's value of the variable {name} holds a NUL");
        return Err(
            Reason::new(ReasonCode::PolicyViolation, message).hint("no program can be given one; promote without it")
        );
    }
    let mut variables = promotion.variables.clone();
    if let Some(preview) = &promotion.preview {
        variables.insert(preview::VARIABLE.to_owned(), preview.name.to_string());
    }
    Ok(variables.into_iter().collect())
}

/// The engine would say so only when it starts the container, and by then the former one is gone.
fn refuse_nul(model: &Value) -> Result<(), Reason> {
    let Some(place) = nul(model) else { return Ok(()) };
    let place = place.iter().rev().map(|key| key.replace('\0', "\\0")).collect::<Vec<_>>().join(".");
    Err(Reason::new(ReasonCode::ComposeInvalid, format!("the compose file: {place} holds a NUL"))
        .hint("no program can be given one; take it out of the compose file, or out of the stack's .env"))
}

/// The place of a NUL, innermost key first. Its value may be secret.
fn nul(value: &Value) -> Option<Vec<String>> {
    let within = |key: String, value: &Value| {
        let has = key.contains('\0').then(Vec::new).or_else(|| nul(value));
        has.map(|mut place| {
            place.push(key);
            place
        })
    };
    match value {
        Value::String(text) => text.contains('\0').then(Vec::new),
        Value::Array(values) => values.iter().enumerate().find_map(|(at, value)| within(at.to_string(), value)),
        Value::Object(entries) => entries.iter().find_map(|(key, value)| within(key.clone(), value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// Without a `.env`, a variable that is found nowhere would become an empty password or the like. In an image reference it does no harm,
/// because the override replaces that.
fn refuse_blanks(stderr: &str, bundle: &Bundle, invocation: &Invocation) -> Result<(), Reason> {
    let blank = compose::unset_variables(stderr).into_iter().find(|name| {
        bundle.compose.iter().any(|file| match yaml::read(&file.content) {
            Ok(document) => uses(&document, name),
            // With merge tags or the like; then the text decides, images included.
            Err(_) => mentions(&file.content, name),
        })
    });
    match blank {
        None => Ok(()),
        Some(name) => {
            let env_file = invocation.directory.join(".env");
            let message = format!("the variable {name} is not set, and there is no {}", env_file.display());
            Err(Reason::new(ReasonCode::EnvFileMissing, message)
                .hint("put the stack's .env on the host; secrets do not travel with a promotion"))
        }
    }
}

/// Whether a value other than an image has the variable.
fn uses(value: &Value, name: &str) -> bool {
    match value {
        Value::String(text) => mentions(text, name),
        Value::Array(values) => values.iter().any(|value| uses(value, name)),
        Value::Object(entries) => {
            entries.iter().any(|(key, value)| !(key == "image" && value.is_string()) && uses(value, name))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn mentions(text: &str, name: &str) -> bool {
    [format!("${{{name}"), format!("${name}")].iter().any(|reference| text.contains(reference.as_str()))
}

/// Whether the service has nothing that the override could not have given it.
fn is_bare(model: &Value, name: &ServiceName) -> bool {
    let given = ["command", "entrypoint", "image", "networks", "pull_policy"];
    let service = model.get("services").and_then(|services| services.get(name.as_str())).and_then(Value::as_object);
    service.is_none_or(|service| service.iter().all(|(key, value)| given.contains(&key.as_str()) || value.is_null()))
}

/// Whether a file of the bundle itself defines the service. One that cannot be read without Compose counts as not defining it.
fn is_written(bundle: &Bundle, name: &ServiceName) -> bool {
    bundle.compose.iter().any(|file| {
        let document = yaml::read(&file.content).ok();
        document
            .is_some_and(|document| document.get("services").and_then(|services| services.get(name.as_str())).is_some())
    })
}

/// Variables that no compose file names came with an `env_file` of this host.
fn of_env_files<'a>(
    rendered: &'a [(&'a str, &'a str)],
    bundle: &'a Bundle,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let is_named = |name: &str| bundle.compose.iter().any(|file| file.content.contains(name));
    rendered.iter().copied().filter(move |(name, _)| !is_named(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn kinds_of_services() {
        let model = parse(
            "services:\n  app:\n    depends_on:\n      init: {condition: service_completed_successfully, required: true}\n  init: {}\n  \
             seed: {profiles: [tools]}\n  off: {deploy: {replicas: 0}}\n  m: {profiles: [tools], x-landfall: {role: migrate}}\n",
        )
        .unwrap();
        let services = services(&model, &BTreeSet::from([""])).unwrap();
        let kinds: Vec<(&str, Kind)> = services.values().map(|service| (service.name.as_str(), service.kind)).collect();
        let expect = [
            ("app", Kind::Serving),
            ("init", Kind::Completes),
            ("m", Kind::OneShot(Role::Migrate)),
            ("off", Kind::Inactive),
            ("seed", Kind::Inactive),
        ];
        assert_eq!(kinds, expect);
    }

    #[test]
    fn what_an_env_file_of_the_host_sets_is_told_from_what_travelled() {
        let file =
            |content: &str| landfall_schema::bundle::BundleFile { name: "c.yml".into(), content: content.into() };
        let bundle =
            Bundle { version: 1, compose: vec![file("services: {a: {environment: {MODE: ${MODE}}, env_file: x}}")] };
        let rendered = [("MODE", "production-1"), ("STRIPE", "sk_live_1")];
        assert_eq!(of_env_files(&rendered, &bundle).collect::<Vec<_>>(), [("STRIPE", "sk_live_1")]);
    }

    #[test]
    fn a_nul_is_found_before_anything_is_touched() {
        let told = |text: &str| refuse_nul(&parse(text).unwrap()).map_err(|reason| reason.message);
        assert_eq!(told("services: {a: {environment: {P: \"a\\nb\"}, command: [x, --privileged]}}"), Ok(()));
        for (text, place) in [
            ("services: {a: {environment: {P: \"s3cret\\0\"}}}", "services.a.environment.P"),
            ("services: {a: {command: [x, \"\\0\"]}}", "services.a.command.1"),
            ("services: {a: {labels: {\"a\\0b\": x}}}", "services.a.labels.a\\0b"),
        ] {
            assert_eq!(told(text), Err(format!("the compose file: {place} holds a NUL")));
        }
    }
}
