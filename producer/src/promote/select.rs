//! Which image each service shall run, before any registry is asked.

use std::collections::{BTreeMap, BTreeSet};

use landfall_schema::ids::ServiceName;
use thiserror::Error;

use crate::compose::interpolate::{Interpolated, InterpolationError, has_variables, interpolate, sole_variable};
use crate::compose::{Place, Service, Stack};
use crate::error::CliError;
use crate::image::{ImageError, ImageReference};

/// What the command line says about images: `SERVICE=REFERENCE`, or a reference alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageArg {
    pub service: Option<ServiceName>,
    pub image: ImageReference,
}

/// The image of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    pub image: ImageReference,
    /// The compose file names the image by this variable alone.
    pub variable: Option<String>,
    /// Whether the command line or the environment chose it, rather than the compose file.
    pub chosen: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    pub services: BTreeMap<ServiceName, Selected>,
    /// Variables that the compose file uses in images, with the values that they had.
    pub variables: BTreeMap<String, String>,
}

#[derive(Debug, Error)]
pub enum SelectError {
    #[error("--image names the service {service}, which the compose files do not have")]
    UnknownService { service: ServiceName, known: Vec<String> },
    #[error("--only names the service {service}, which the compose files do not have")]
    UnknownOnly { service: ServiceName, known: Vec<String> },
    #[error("--image names the service {service}, which --only leaves as it is")]
    NotOnly { service: ServiceName },
    #[error("--image is given twice for {what}")]
    Twice { what: String },
    #[error("--image {image} does not say for which service")]
    WhichService { image: String, known: Vec<String> },
    #[error("{place}: service {service} is only built, it names no image")]
    BuildOnly { place: Place, service: ServiceName },
    #[error("{place}: service {service} has no image")]
    NoImage { place: Place, service: ServiceName },
    #[error("{place}: the image of service {service} cannot be filled in")]
    Interpolation { place: Place, service: ServiceName, source: InterpolationError },
    #[error("{place}: the image of service {service} is not usable")]
    Image { place: Place, service: ServiceName, source: Box<ImageError> },
}

impl From<SelectError> for CliError {
    fn from(error: SelectError) -> Self {
        let hint = match &error {
            SelectError::UnknownService { known, .. } | SelectError::UnknownOnly { known, .. } => {
                format!("services are {}", known.join(", "))
            }
            SelectError::NotOnly { service } => format!("add {service} to --only, or leave its image away"),
            SelectError::Twice { .. } => "one image a service".to_owned(),
            SelectError::WhichService { image, known } => {
                let services = known.join(", ");
                format!("write `--image SERVICE={image}`; services are {services}")
            }
            SelectError::BuildOnly { service, .. } => format!(
                "hosts never build: push the image from CI, then add `image: ${{APP_IMAGE}}` or use `--image {service}=REFERENCE`"
            ),
            SelectError::NoImage { service, .. } => format!("add `image:`, or use `--image {service}=REFERENCE`"),
            SelectError::Interpolation { service, source, .. } => match source {
                InterpolationError::Unset { name } | InterpolationError::Required { name, .. } => {
                    format!(
                        "set {name} in the environment, or use `--var {name}=VALUE` or `--image {service}=REFERENCE`"
                    )
                }
                InterpolationError::Malformed { .. } => "`landfall lint` looks closer".to_owned(),
            },
            SelectError::Image { service, .. } => format!("use `--image {service}=REFERENCE`"),
        };
        let usage = matches!(
            error,
            SelectError::UnknownService { .. }
                | SelectError::UnknownOnly { .. }
                | SelectError::NotOnly { .. }
                | SelectError::Twice { .. }
                | SelectError::WhichService { .. }
        );
        let shown = if usage {
            Self { exit: crate::error::ExitCode::Usage, ..Self::from_error(&error) }
        } else {
            Self::from_error(&error)
        };
        shown.hint(hint)
    }
}

/// Parses `SERVICE=REFERENCE` or `REFERENCE`; a reference has no equals sign.
pub fn parse_image_arg(text: &str) -> Result<ImageArg, String> {
    let (service, image) = match text.split_once('=') {
        Some((service, image)) => (Some(service.parse().map_err(|error| format!("{error}"))?), image),
        None => (None, text),
    };
    Ok(ImageArg { service, image: image.parse().map_err(|error| format!("{error}"))? })
}

/// Chooses an image for every service that the hosts will run; of those in `only`, unless that is empty.
pub fn select(
    stack: &Stack,
    args: &[ImageArg],
    only: &BTreeSet<ServiceName>,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Selection, SelectError> {
    let known = || stack.services.keys().map(ToString::to_string).collect();
    if let Some(service) = only.iter().find(|service| !stack.services.contains_key(*service)) {
        return Err(SelectError::UnknownOnly { service: service.clone(), known: known() });
    }
    let changes = |name: &ServiceName| only.is_empty() || only.contains(name);
    let named = by_service(stack, args, &changes)?;
    let mut selection = Selection { services: BTreeMap::new(), variables: BTreeMap::new() };
    for (name, service) in stack.services.iter().filter(|(name, _)| changes(name)) {
        let template = service.image.as_ref().map(|(image, _)| image.as_str());
        let variable = template.and_then(sole_variable).map(str::to_owned);
        if let Some(image) = named.get(name) {
            selection.services.insert(name.clone(), Selected { image: (*image).clone(), variable, chosen: true });
            continue;
        }
        match from_compose(name, service, lookup) {
            Ok((image, filled)) => {
                let chosen = !filled.used.is_empty();
                selection.variables.extend(filled.used);
                selection.services.insert(name.clone(), Selected { image, variable, chosen });
            }
            // Nobody starts it, so it needs no image.
            Err(_) if service.optional => {}
            Err(error) => return Err(error),
        }
    }
    Ok(selection)
}

fn from_compose(
    name: &ServiceName,
    service: &Service,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<(ImageReference, Interpolated), SelectError> {
    let service_name = name.clone();
    let Some((template, place)) = &service.image else {
        return Err(match &service.build {
            Some(place) => SelectError::BuildOnly { place: place.clone(), service: service_name },
            None => SelectError::NoImage { place: service.place.clone(), service: service_name },
        });
    };
    let filled = interpolate(template, lookup).map_err(|source| SelectError::Interpolation {
        place: place.clone(),
        service: name.clone(),
        source,
    })?;
    let image = filled.text.trim().parse().map_err(|source| SelectError::Image {
        place: place.clone(),
        service: service_name,
        source: Box::new(source),
    })?;
    Ok((image, filled))
}

fn by_service<'a>(
    stack: &Stack,
    args: &'a [ImageArg],
    changes: &dyn Fn(&ServiceName) -> bool,
) -> Result<BTreeMap<ServiceName, &'a ImageReference>, SelectError> {
    let known = || stack.services.keys().map(ToString::to_string).collect::<Vec<_>>();
    let mut named = BTreeMap::new();
    let mut insert = |service: &ServiceName, image: &'a ImageReference| match named.insert(service.clone(), image) {
        Some(_) => Err(SelectError::Twice { what: service.to_string() }),
        None => Ok(()),
    };
    for arg in args {
        match &arg.service {
            Some(service) if stack.services.contains_key(service) && !changes(service) => {
                return Err(SelectError::NotOnly { service: service.clone() });
            }
            Some(service) if stack.services.contains_key(service) => insert(service, &arg.image)?,
            Some(service) => return Err(SelectError::UnknownService { service: service.clone(), known: known() }),
            None => {
                let meant = meant_by_default(stack, changes)
                    .ok_or_else(|| SelectError::WhichService { image: arg.image.to_string(), known: known() })?;
                for service in meant {
                    insert(service, &arg.image)?;
                }
            }
        }
    }
    Ok(named)
}

/// The services that an image without a service's name is for: the only one, or those whose image is open, if it is one image.
fn meant_by_default<'a>(stack: &'a Stack, changes: &dyn Fn(&ServiceName) -> bool) -> Option<Vec<&'a ServiceName>> {
    let meant = || stack.services.iter().filter(|(name, _)| changes(name));
    if meant().count() == 1 {
        return Some(meant().map(|(name, _)| name).collect());
    }
    let is_open = |service: &Service| match &service.image {
        Some((image, _)) => has_variables(image),
        None => service.build.is_some(),
    };
    let open: Vec<_> = meant().filter(|(_, service)| is_open(service)).collect();
    let images: BTreeSet<Option<&str>> =
        open.iter().map(|(_, service)| service.image.as_ref().map(|(image, _)| image.as_str())).collect();
    let one = images.len() == 1 && (open.len() == 1 || !images.contains(&None));
    one.then(|| open.into_iter().map(|(name, _)| name).collect())
}

#[cfg(test)]
#[path = "select/tests.rs"]
mod tests;
