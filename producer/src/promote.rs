//! `landfall promote`: a compose file and images become a signed promotion. Everything is checked before anything is published.

pub mod from;
pub mod name;
pub mod only;
pub mod select;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use futures_util::future::try_join_all;
use landfall_bus::Bus;
use landfall_schema::Timestamp;
use landfall_schema::compatibility::Requirement;
use landfall_schema::event::CloudEvent;
use landfall_schema::ids::{AppName, EnvName, HostName, ReleaseName, ServiceName};
use landfall_schema::outcome::OutcomeKind;
use landfall_schema::promotion::{Intent, OnFailure, PinnedImage, Preview, Promotion, SchemaPromise};
use landfall_schema::signature::SigningKey;
use landfall_schema::subject;

use crate::compose::{Stack, env_file};
use crate::error::{CliError, ExitCode};
use crate::follow::{Outcomes, follow};
use crate::gates::precheck;
use crate::image::ImageReference;
use crate::lint::sql;
use crate::plan::{self, HostKeys, Planned};
use crate::promote::select::{ImageArg, Selection, parse_image_arg, select};
use crate::publish::{self, Place, parse_duration};
use crate::reading;
use crate::registry::Registries;
use crate::rollout::state::Rosters;
pub use crate::rollout_args::RolloutArgs;
use crate::rollout_args::{Defaults, Wait, after};
use crate::session::Session;

const LIFETIME_DEFAULT_MS: u64 = 72 * 60 * 60 * 1000;
const LIFETIME_MAX_MS: u64 = 30 * 24 * 60 * 60 * 1000;

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
    /// Promote what succeeded last in this environment, as it is: nothing is built or resolved again, and what its hosts signed is the evidence
    #[arg(long, value_name = "ENV", conflicts_with_all = ["files", "images", "env_file", "only", "lifetime"])]
    pub from: Option<EnvName>,
    /// With --from: the environment that it goes to. Default: the one of --env
    #[arg(long, value_name = "ENV", requires = "from")]
    pub to: Option<EnvName>,
    /// Only these services change; the others keep the images of the last release that succeeded, and are not restarted
    #[arg(long, value_name = "SERVICE", value_delimiter = ',')]
    pub only: Vec<ServiceName>,
    #[command(flatten)]
    pub rollout: RolloutArgs,
    /// Of a preview: after this long every host takes it away, at most 30d. Default: 72h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub lifetime: Option<u64>,
    /// A registry that is asked over plain HTTP; repeatable
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]")]
    pub insecure_registries: Vec<String>,
    /// Show what would be promoted, publish nothing
    #[arg(long)]
    pub dry_run: bool,
}

pub async fn run(args: PromoteArgs, cli: &Session) -> Result<ExitCode, CliError> {
    if let Some(from) = &args.from {
        return from::run(&args, from, cli).await;
    }
    let env = cli.env()?.clone();
    let key = cli.signing_key()?;
    let stack = Stack::read(&args.files, Path::new(""))?;
    let of = args.app.clone().or_else(|| stack.settings.app.clone()).ok_or_else(no_app)?;
    let app = cli.app(&of)?;
    let preview = preview(&args, &of, cli)?;
    let options = args.rollout.options(&defaults(&stack))?;
    let only: BTreeSet<ServiceName> = args.only.iter().cloned().collect();
    let selection = select_images(&args, &stack, &only)?;
    let (bundle, bundle_ref) = stack.bundle()?.encode().map_err(|error| bundle_error(&error))?;
    let bus = cli.bus().await?;
    let pinned = pin(&args, &selection, cli).await?;
    let known = plan::known(&bus, &env, &cli.output).await?;
    let keys = HostKeys::new(&cli.settings.host_keys, &known);
    let base = if only.is_empty() { None } else { Some(only::base(&bus, &env, &app, &keys, cli).await?) };
    let subject = plan::Subject { env: &env, app: &app, preview_of: preview.as_ref().map(|preview| &preview.of) };
    let planned = plan::make(&subject, &options, &known, keys, Timestamp::now())?;
    let place = publish::next_place(&bus, &env, &app, &known, &cli.output).await?;
    let release = name::release(args.release.as_ref(), &selection, &pinned)?;
    let mut variables = base.as_ref().map(|base| base.variables.clone()).unwrap_or_default();
    variables.extend(self::variables(&args, &selection, &pinned));
    let expires_at = args.rollout.expires_at()?;
    let event = publish::event(Promotion {
        release,
        variables,
        images: match &base {
            Some(base) => only::images(&stack, &only, pinned, base)?,
            None => pinned,
        },
        plan: planned.plan.clone(),
        author: args.rollout.author(),
        link: args.rollout.link(),
        expires_at: preview.as_ref().map_or(expires_at, |preview| expires_at.min(preview.expires_at)),
        env,
        app,
        counter: place.counter,
        intent: Intent::Promote,
        bundle: bundle_ref,
        only,
        preview,
        schema: schema(&stack)?,
        evidence: None,
    });
    warn_of_sql(&stack, &bus, &event.data, cli).await?;
    if args.dry_run {
        show(&event, &planned, cli)?;
        cli.output.note("nothing was published");
        return Ok(ExitCode::Done);
    }
    bus.put_bundle(&bundle, &event.data.bundle).await?;
    announce(&bus, &event, &key, place, &planned, args.rollout.wait(), cli).await
}

/// Stores the plan's roster, publishes the promotion and, if asked to, follows it.
pub async fn announce(
    bus: &Bus,
    event: &CloudEvent<Promotion>,
    key: &SigningKey,
    place: Place,
    planned: &Planned,
    wait: Option<Wait>,
    cli: &Session,
) -> Result<ExitCode, CliError> {
    precheck::check(bus, event, cli).await?;
    warn_of_changed_keys(bus, &event.data, planned, cli).await?;
    planned.store(bus).await?;
    // Before publishing: the first outcome may come within milliseconds.
    let outcomes = match wait {
        Some(wait) => Some((Outcomes::subscribe(bus, &event.data).await?, wait.timeout)),
        None => None,
    };
    publish::publish(bus, event, key, place).await?;
    let promotion = &event.data;
    if cli.output.is_json() {
        cli.output.json(event)?;
    }
    let (app, release, env) = (&promotion.app, &promotion.release, &promotion.env);
    cli.output.note(format!("{app} {release} promoted to {env} as promotion {}", promotion.counter));
    for line in plan::words::lines(planned, Timestamp::now()) {
        cli.output.note(format!("  {line}"));
    }
    match outcomes {
        Some((outcomes, timeout)) => follow(cli, outcomes, event, &planned.keys, timeout).await,
        None => {
            cli.output.note(format!("follow it with `landfall watch {app} --env {env}`, or next time with --wait"));
            Ok(ExitCode::Done)
        }
    }
}

/// Of hosts that have another key than the roster of the plan before says: they are believed by the new one from now on.
async fn warn_of_changed_keys(bus: &Bus, next: &Promotion, planned: &Planned, cli: &Session) -> Result<(), CliError> {
    let Some(last) = bus.latest_promotion(&next.env, &next.app).await? else { return Ok(()) };
    let Some(plan) = reading::promotion(&last).map(|read| read.event.data.plan) else { return Ok(()) };
    // A roster that is lost is no reason not to promote.
    let Ok(Some(former)) = Rosters::new(bus).of(&plan).await else { return Ok(()) };
    let changed = |host: &&HostName| former.of(host).is_some_and(|key| planned.keys.of(host) != Some(key));
    for host in next.plan.hosts().chain(&next.plan.away).filter(changed) {
        cli.output.warn(plan::words::of_changed_key(host));
    }
    Ok(())
}

/// What would be or was promoted.
pub fn show(event: &CloudEvent<Promotion>, planned: &Planned, cli: &Session) -> Result<(), CliError> {
    if cli.output.is_json() {
        return cli.output.json(event);
    }
    let promotion = &event.data;
    let (app, release, env) = (&promotion.app, &promotion.release, &promotion.env);
    cli.output.line(format!("{app} {release} to {env} as promotion {}", promotion.counter))?;
    for line in plan::words::lines(planned, Timestamp::now()) {
        cli.output.line(format!("  {line}"))?;
    }
    if let Some(preview) = &promotion.preview {
        cli.output.line(format!(
            "  preview {} of {}, until {} UTC",
            preview.name,
            preview.of,
            reading::time(preview.expires_at)
        ))?;
    }
    let rows = promotion.images.iter().map(|(service, image)| {
        let tag = image.tag.clone().unwrap_or_else(|| "-".to_owned());
        let stays = if promotion.only.is_empty() || promotion.only.contains(service) { "" } else { "as it is" };
        vec![service.to_string(), image.repository.clone(), tag, image.digest.short().to_owned(), stays.to_owned()]
    });
    cli.output.table(&["service", "image", "tag", "digest", ""], rows)
}

fn defaults(stack: &Stack) -> Defaults {
    let settings = stack.settings.rollout.clone().unwrap_or_default();
    Defaults { settings, bake_ms: stack.settings.bake_ms, on_failure: OnFailure::default() }
}

/// What makes it a preview, when `--env` names one.
fn preview(args: &PromoteArgs, of: &AppName, cli: &Session) -> Result<Option<Preview>, CliError> {
    let Some(name) = cli.settings.preview.clone() else {
        return match args.lifetime {
            Some(_) => Err(CliError::usage("--lifetime is for previews").hint("name one with --env preview/NAME")),
            None => Ok(None),
        };
    };
    let lifetime = args.lifetime.unwrap_or(LIFETIME_DEFAULT_MS);
    if lifetime > LIFETIME_MAX_MS {
        return Err(CliError::usage("a preview lives for at most 30 days")
            .hint("shorten --lifetime; promoting it again prolongs it"));
    }
    Ok(Some(Preview { of: of.clone(), name, expires_at: after("--lifetime", lifetime)? }))
}

fn select_images(args: &PromoteArgs, stack: &Stack, only: &BTreeSet<ServiceName>) -> Result<Selection, CliError> {
    let from_file = read_env_file(args, stack)?;
    let lookup = |name: &str| {
        let named = args.variables.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        named.or_else(|| std::env::var(name).ok()).or_else(|| from_file.get(name).cloned())
    };
    Ok(select(stack, &args.images, only, &lookup)?)
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
    env_file::parse(&text).map_err(|error| {
        let message = format!("the env file {} is not readable", path.display());
        CliError::new(message).because(&error).hint("mend that line, or name another file with --env-file")
    })
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

/// Migrations beside the compose file that take something away from the release that serves now.
async fn warn_of_sql(stack: &Stack, bus: &Bus, promotion: &Promotion, cli: &Session) -> Result<(), CliError> {
    let texts: Vec<&str> = stack.files.iter().map(|(_, text)| text.as_str()).collect();
    let beside = stack.files.first().and_then(|(path, _)| path.parent()).unwrap_or(Path::new(""));
    if sql::named(&texts, beside).iter().all(|folder| !folder.path.is_dir()) {
        return Ok(());
    }
    let applied = newest_migration(bus, promotion).await?;
    for warning in sql::warnings(&texts, beside, applied) {
        cli.output.warn(format!("{warning}; where it is meant, mark the release with `contract: true`"));
    }
    Ok(())
}

/// The highest version that any host said to have applied.
async fn newest_migration(bus: &Bus, promotion: &Promotion) -> Result<Option<i64>, CliError> {
    let filter = subject::outcome_kind_filter(&promotion.env, &promotion.app, OutcomeKind::MigrationApplied);
    let told = bus.outcomes_so_far(&filter).await?;
    let versions = told.iter().filter_map(crate::reading::outcome).flat_map(|read| read.event.data.migrations);
    Ok(versions.filter_map(|one| one.description.split_once(' ')?.0.parse().ok()).max())
}

/// What the release says of its schema, checked here so that no host meets a requirement that it cannot read.
fn schema(stack: &Stack) -> Result<Option<SchemaPromise>, CliError> {
    let Some(settings) = &stack.settings.schema else { return Ok(None) };
    Requirement::new(&settings.compatible_with).map_err(|error| {
        CliError::usage("schema.compatible_with of x-landfall is not usable")
            .because(&error)
            .hint("for example \">= 1.4\"")
    })?;
    Ok(Some(SchemaPromise { compatible_with: settings.compatible_with.clone() }))
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
