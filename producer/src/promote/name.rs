//! What a release is called when nobody names it. Pure besides CI's commit.

use std::collections::{BTreeMap, BTreeSet};

use landfall_schema::ids::{RELEASE_MAX_BYTES, ReleaseName, ServiceName};
use landfall_schema::promotion::PinnedImage;

use crate::ci;
use crate::context::process_environment;
use crate::error::CliError;
use crate::promote::select::Selection;

/// The name that was given; else the tags that somebody chose; else the commit; else what the images are.
pub fn release(
    named: Option<&ReleaseName>,
    selection: &Selection,
    pinned: &BTreeMap<ServiceName, PinnedImage>,
) -> Result<ReleaseName, CliError> {
    if let Some(release) = named {
        return Ok(release.clone());
    }
    let name = match (by_tags(selection), ci::commit(&process_environment), pinned.values().next()) {
        (Some(tags), _, _) => tags,
        (None, Some(commit), _) => commit,
        (None, None, Some(image)) => format!("sha256-{}", image.digest.short()),
        (None, None, None) => return Err(CliError::new("no service has an image").hint("add `image:` to a service")),
    };
    ReleaseName::new(name).map_err(|error| CliError::from_error(&error).hint("name the release with --release"))
}

/// One tag of all chosen images is the release; of several each is said with its service, `api-2+web-1`.
fn by_tags(selection: &Selection) -> Option<String> {
    let chosen: Vec<(&ServiceName, &str)> = selection
        .services
        .iter()
        .filter(|(_, selected)| selected.chosen)
        .filter_map(|(service, selected)| {
            Some((service, selected.image.tag.as_deref().filter(|tag| *tag != "latest")?))
        })
        .collect();
    let tags: BTreeSet<&str> = chosen.iter().map(|(_, tag)| *tag).collect();
    match tags.len() {
        0 => None,
        1 => tags.first().map(|tag| (*tag).to_owned()),
        _ => {
            let each: Vec<String> = chosen.iter().map(|(service, tag)| format!("{service}-{tag}")).collect();
            Some(each.join("+")).filter(|name| name.len() <= RELEASE_MAX_BYTES)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::promote::select::Selected;

    fn named(images: &[(&str, &str, bool)]) -> Option<String> {
        let services = images.iter().map(|(service, image, chosen)| {
            let selected = Selected { image: image.parse().unwrap(), variable: None, chosen: *chosen };
            (service.parse().unwrap(), selected)
        });
        by_tags(&Selection { services: services.collect(), variables: BTreeMap::new() })
    }

    #[test]
    fn one_version_for_all_or_one_per_service() {
        for (images, expect) in [
            (&[("web", "repo:1", true), ("api", "repo:1", true), ("db", "postgres:15", false)][..], Some("1")),
            (&[("web", "web:1", true), ("api", "api:2", true)], Some("api-2+web-1")),
            (&[("web", "web:latest", true), ("api", "api:2", true)], Some("2")),
            (&[("web", "web:latest", true)], None),
            (&[("db", "postgres:15", false)], None),
        ] {
            assert_eq!(named(images).as_deref(), expect, "{images:?}");
        }
        let long = ["a", "b", "c"].map(|service| (service, format!("repo:{service}{}", "0".repeat(60))));
        let long: Vec<_> = long.iter().map(|(service, image)| (*service, image.as_str(), true)).collect();
        assert_eq!(named(&long), None);
    }
}
