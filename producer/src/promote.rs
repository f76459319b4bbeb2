//! `landfall promote`: a compose file and images become a signed promotion. Everything is checked before anything is published.

pub mod select;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use futures_util::future::try_join_all;
use landfall_bus::Bus;
use landfall_schema::Timestamp;
use landfall_schema::event::CloudEvent;
use landfall_schema::ids::{AppName, HostName, ReleaseName, ServiceName};
use landfall_schema::promotion::{Intent, PinnedImage, Promotion, RolloutPlan, Wave};
use landfall_schema::signature::SigningKey;

use crate::ci;
use crate::compose::{Stack, env_file};
use crate::context::process_environment;
use crate::error::{CliError, ExitCode};
use crate::follow::{Outcomes, follow};
use crate::image::ImageReference;
use crate::plan::{self, HostKeys};
use crate::promote::select::{ImageArg, Selection, parse_image_arg, select};
use crate::publish::{self, Place, parse_duration};
use crate::registry::Registries;
use crate::session::Session;

const DEADLINE_DEFAULT: &str = "15m";
const EXPIRES_DEFAULT: &str = "1h";

#[derive(Debug, Args)]
pub struct PromoteArgs {
    /// The application; without it `app` of the compose file's x-landfall
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
    /// A compose file, repeatable: later ones override earlier ones. Default: the one that Compose would take here
    #[arg(long = "file", short, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The image of a service, or of the service whose image is open; repeatable
    #[arg(long = "image", short, value_name = "[SERVICE=]REFERENCE", value_parser = parse_image_arg)]
    pub images: Vec<ImageArg>,
    /// A variable of the compose file that is not secret; it wins over the environment here and over .env on the hosts; repeatable
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub variables: Vec<(String, String)>,
    /// Variables for the images' names. Default: .env beside the compose file. Nothing else of it is used or sent
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// What people call this release. Default: the image's tag, else CI's commit
    #[arg(long, value_name = "NAME")]
    pub release: Option<ReleaseName>,
    #[command(flatten)]
    pub rollout: RolloutArgs,
    /// How long the proven release is watched before it is committed. Default: `bake_ms` of the compose file's x-landfall, else 0s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub bake: Option<u64>,
    /// A registry that is asked over plain HTTP; repeatable
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]")]
    pub insecure_registries: Vec<String>,
    /// Show what would be promoted, publish nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What `promote` and `rollback` share.
#[derive(Debug, Args)]
pub struct RolloutArgs {
    /// Only these hosts take it. Default: every host of the environment that takes the application; those that are present are waited for
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub hosts: Vec<HostName>,
    /// After this long without an end a host counts as not reached
    #[arg(long, value_name = "TIME", default_value = DEADLINE_DEFAULT, value_parser = parse_duration)]
    pub deadline: u64,
    /// After this long no host starts the deploy any more
    #[arg(long, value_name = "TIME", default_value = EXPIRES_DEFAULT, value_parser = parse_duration)]
    pub expires: u64,
    /// Who promotes. Default: what CI or the system says
    #[arg(long, value_name = "NAME")]
    pub author: Option<String>,
    /// Where to look it up. Default: CI's pipeline
    #[arg(long, value_name = "URL")]
    pub link: Option<String>,
    /// Follow every host to its end, and exit by the outcome
    #[arg(long, short)]
    pub wait: bool,
}

pub async fn run(args: PromoteArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let env = cli.env()?.clone();
    let key = cli.signing_key()?;
    let stack = Stack::read(&args.files, Path::new(""))?;
    let app = args.app.clone().or_else(|| stack.settings.app.clone()).ok_or_else(no_app)?;
    let selection = select_images(&args, &stack)?;
    let (bundle, bundle_ref) = stack.bundle()?.encode().map_err(|error| bundle_error(&error))?;
    let bus = cli.bus().await?;
    let images = pin(&args, &selection, cli).await?;
    let present = plan::present(&bus, &env, &cli.output).await?;
    let hosts = plan::hosts(&args.rollout.hosts, &app, &present, cli)?;
    let place = publish::next_place(&bus, &env, &app, &cli.output).await?;
    let promotion = Promotion {
        release: release_name(&args, &selection, &images)?,
        variables: variables(&args, &selection, &images),
        plan: args.rollout.plan(hosts, args.bake.or(stack.settings.bake_ms).unwrap_or(0)),
        author: args.rollout.author(),
        link: args.rollout.link(),
        expires_at: args.rollout.expires_at()?,
        env,
        app,
        counter: place.counter,
        intent: Intent::Promote,
        images,
        bundle: bundle_ref,
        only: BTreeSet::new(),
        preview: None,
        schema: None,
    };
    let event = publish::event(promotion);
    if args.dry_run {
        show(&event, cli)?;
        cli.output.note("nothing was published");
        return Ok(ExitCode::Done);
    }
    bus.put_bundle(&bundle, &event.data.bundle).await?;
    announce(&bus, &event, &key, place, &HostKeys::new(&cli.settings.host_keys, &present), args.rollout.wait, cli).await
}

/// Publishes the promotion and, if asked to, follows it.
pub async fn announce(
    bus: &Bus,
    event: &CloudEvent<Promotion>,
    key: &SigningKey,
    place: Place,
    keys: &HostKeys,
    wait: bool,
    cli: &Session,
) -> Result<ExitCode, CliError> {
    // Before publishing: the first outcome may come within milliseconds.
    let outcomes = if wait { Some(Outcomes::subscribe(bus, &event.data).await?) } else { None };
    publish::publish(bus, event, key, place).await?;
    let promotion = &event.data;
    if cli.output.is_json() {
        cli.output.json(event)?;
    }
    let hosts: Vec<&str> = promotion.plan.hosts().map(HostName::as_str).collect();
    let (app, release, env) = (&promotion.app, &promotion.release, &promotion.env);
    cli.output.note(format!(
        "{app} {release} promoted to {env} as promotion {}, for {}",
        promotion.counter,
        hosts.join(", ")
    ));
    match outcomes {
        Some(outcomes) => follow(cli, outcomes, event, keys).await,
        None => {
            cli.output.note(format!("follow it with `landfall watch {app} --env {env}`, or next time with --wait"));
            Ok(ExitCode::Done)
        }
    }
}

/// What would be or was promoted.
pub fn show(event: &CloudEvent<Promotion>, cli: &Session) -> Result<(), CliError> {
    if cli.output.is_json() {
        return cli.output.json(event);
    }
    let promotion = &event.data;
    let hosts: Vec<&str> = promotion.plan.hosts().map(HostName::as_str).collect();
    let (app, release, env) = (&promotion.app, &promotion.release, &promotion.env);
    cli.output.line(format!(
        "{app} {release} to {env} as promotion {}, for {}",
        promotion.counter,
        hosts.join(", ")
    ))?;
    let rows = promotion.images.iter().map(|(service, image)| {
        let tag = image.tag.clone().unwrap_or_else(|| "-".to_owned());
        vec![service.to_string(), image.repository.clone(), tag, image.digest.short().to_owned()]
    });
    cli.output.table(&["service", "image", "tag", "digest"], rows)
}

impl RolloutArgs {
    pub fn plan(&self, hosts: Vec<HostName>, bake_ms: u64) -> RolloutPlan {
        RolloutPlan {
            waves: vec![Wave::of(hosts)],
            only_named: !self.hosts.is_empty(),
            deadline_ms: self.deadline,
            bake_ms,
            ..RolloutPlan::default()
        }
    }

    pub fn author(&self) -> String {
        self.author.clone().unwrap_or_else(|| ci::author(&process_environment))
    }

    pub fn link(&self) -> Option<String> {
        self.link.clone().or_else(|| ci::link(&process_environment))
    }

    pub fn expires_at(&self) -> Result<Timestamp, CliError> {
        Timestamp::now()
            .checked_add(Duration::from_millis(self.expires))
            .map_err(|error| CliError::usage("--expires is too far away").because(&error))
    }
}

fn select_images(args: &PromoteArgs, stack: &Stack) -> Result<Selection, CliError> {
    let from_file = read_env_file(args, stack)?;
    let lookup = |name: &str| {
        let named = args.variables.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        named.or_else(|| std::env::var(name).ok()).or_else(|| from_file.get(name).cloned())
    };
    Ok(select(stack, &args.images, &lookup)?)
}

/// Like Compose: the named file, else `.env` beside the first compose file if there is one.
fn read_env_file(args: &PromoteArgs, stack: &Stack) -> Result<BTreeMap<String, String>, CliError> {
    let beside = stack.files.first().and_then(|(path, _)| path.parent()).map(|folder| folder.join(".env"));
    let Some(path) = args.env_file.clone().or_else(|| beside.filter(|path| path.is_file())) else {
        return Ok(BTreeMap::new());
    };
    let text = std::fs::read_to_string(&path).map_err(|error| {
        CliError::new(format!("cannot read the env file {}", path.display())).because(&error).hint("check --env-file")
    })?;
    env_file::parse(&text)
        .map_err(|error| CliError::new(format!("the env file {} is not readable", path.display())).because(&error))
}

/// Asks each registry once per image, all at the same time.
async fn pin(
    args: &PromoteArgs,
    selection: &Selection,
    cli: &Session,
) -> Result<BTreeMap<ServiceName, PinnedImage>, CliError> {
    let insecure = cli.settings.insecure_registries.iter().chain(&args.insecure_registries).cloned().collect();
    let registries = Registries::new(insecure)?;
    let mut wanted: Vec<&ImageReference> = selection.services.values().map(|service| &service.image).collect();
    wanted.sort();
    wanted.dedup();
    let pinned = try_join_all(wanted.iter().map(|image| registries.pin(image))).await?;
    let pinned: BTreeMap<&ImageReference, PinnedImage> = wanted.into_iter().zip(pinned).collect();
    let service = |(name, selected): (&ServiceName, &select::Selected)| {
        pinned.get(&selected.image).map(|image| (name.clone(), image.clone()))
    };
    Ok(selection.services.iter().filter_map(service).collect())
}

/// What travels to the hosts: variables of image names, with the pinned reference where a variable is the whole name, and `--var`.
fn variables(
    args: &PromoteArgs,
    selection: &Selection,
    images: &BTreeMap<ServiceName, PinnedImage>,
) -> BTreeMap<String, String> {
    let mut variables = selection.variables.clone();
    variables.extend(args.variables.iter().cloned());
    for (name, selected) in &selection.services {
        if let (Some(variable), Some(image)) = (&selected.variable, images.get(name)) {
            variables.insert(variable.clone(), image.reference());
        }
    }
    variables
}

/// The tag that somebody chose, if there is one; else the commit; else what the images are.
fn release_name(
    args: &PromoteArgs,
    selection: &Selection,
    images: &BTreeMap<ServiceName, PinnedImage>,
) -> Result<ReleaseName, CliError> {
    if let Some(release) = &args.release {
        return Ok(release.clone());
    }
    let chosen = selection.services.values().filter(|selected| selected.chosen);
    let mut tags: Vec<&str> = chosen.filter_map(|selected| selected.image.tag.as_deref()).collect();
    tags.retain(|tag| *tag != "latest");
    tags.sort_unstable();
    tags.dedup();
    let name = match (tags.as_slice(), ci::commit(&process_environment), images.values().next()) {
        ([tag], _, _) => (*tag).to_owned(),
        (_, Some(commit), _) => commit,
        (_, None, Some(image)) => format!("sha256-{}", image.digest.short()),
        (_, None, None) => return Err(CliError::new("no service has an image").hint("add `image:` to a service")),
    };
    ReleaseName::new(name).map_err(|error| CliError::from_error(&error).hint("name the release with --release"))
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(plain) {
        return Err(format!("{name:?} cannot be the name of a variable"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn no_app() -> CliError {
    CliError::usage("no application is named")
        .hint("`landfall promote APP`, or `app:` in the compose file's x-landfall")
}

fn bundle_error(error: &landfall_schema::bundle::BundleError) -> CliError {
    CliError::new("the compose files cannot travel with the promotion").because(error).hint(
        "a compose file's name may have letters, digits, dot, underscore and dash, and all files together at most 1 MiB",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_command_line() {
        assert_eq!(parse_variable("A_1=x=y"), Ok(("A_1".to_owned(), "x=y".to_owned())));
        assert_eq!(parse_variable("A="), Ok(("A".to_owned(), String::new())));
        for text in ["A", "=x", "1A=x", "A B=x", "A$=x"] {
            assert!(parse_variable(text).is_err(), "{text}");
        }
    }
}
