//! What Landfall needs of the services of a compose file, and what its executors refuse by default.

use landfall_schema::ids::ServiceName;
use landfall_schema::stack::EXTENSION;

use crate::lint::nearest::nearest;
use crate::lint::problem::{Place, Problem};
use crate::lint::settings::role_of;
use crate::lint::sheets::{Part, Sheets};
use crate::lint::yaml::{Node, Value};

pub(super) fn check(sheets: &Sheets) -> Vec<Problem> {
    let mut problems = Vec::new();
    no_services(sheets, &mut problems);
    what_does_not_travel(sheets, &mut problems);
    for sheet in &sheets.all {
        misspelled_extension(&sheet.root, sheet.file, &mut problems);
    }
    for (name, parts) in &sheets.services {
        let Some(first) = parts.first() else { continue };
        if let Err(error) = ServiceName::new(name.as_str()) {
            problems.push(Problem::error(first.file, first.name_at, "bad-name", error.to_string()));
        }
        image(sheets, name, first, &mut problems);
        readiness(sheets, name, first, &mut problems);
        for part in parts {
            refused_by_default(&part.node, part.file, name, &mut problems);
            misspelled_extension(&part.node, part.file, &mut problems);
        }
    }
    problems
}

fn no_services(sheets: &Sheets, problems: &mut Vec<Problem>) {
    // A text that cannot be read has told of itself already.
    if sheets.all.is_empty() || !sheets.services.is_empty() || sheets.includes_others() {
        return;
    }
    let Some(last) = sheets.all.last() else { return };
    let services = last.root.entry("services");
    if services.is_some_and(|entry| !matches!(entry.value.value, Value::Map(_) | Value::Null)) {
        return;
    }
    let at = services.map_or(Place::default(), |entry| entry.key_at);
    let problem = Problem::error(last.file, at, "no-services", "there are no services");
    problems.push(problem.hint("a compose file has at least: services: {app: {image: registry/app:tag}}"));
}

/// The bundle holds the named files only; executors have no others.
fn what_does_not_travel(sheets: &Sheets, problems: &mut Vec<Problem>) {
    for (file, include) in sheets.top("include") {
        let message = "included files do not travel with the promotion; the hosts do not have them";
        let hint = "name all files: landfall promote --file a.yml --file b.yml";
        problems.push(Problem::error(file, include.key_at, "include", message).hint(hint));
    }
    for name in sheets.services.keys() {
        if let Some((file, node)) = sheets.extends_file(name) {
            let message =
                format!("`{name}` extends a service of another file, which does not travel with the promotion");
            let hint = "put the base service into this file, or use a YAML anchor";
            problems.push(Problem::error(file, node.at, "extends-file", message).hint(hint));
        }
    }
}

fn image(sheets: &Sheets, name: &str, first: &Part, problems: &mut Vec<Problem>) {
    let Some((file, image)) = sheets.setting(name, "image") else {
        if sheets.is_partly_elsewhere(name) || sheets.setting(name, "provider").is_some() {
            return;
        }
        let (file, at, message) = match sheets.setting(name, "build") {
            Some((file, build)) => {
                let at = first.node.entry("build").map_or(build.at, |entry| entry.key_at);
                (file, at, format!("`{name}` has `build:` but no image; hosts run what CI has built and pushed"))
            }
            None => (first.file, first.name_at, format!("`{name}` has no image")),
        };
        let hint = "add image: ${APP_IMAGE}, and name it when you promote: --image app=registry/app:tag";
        problems.push(Problem::error(file, at, "no-image", message).hint(hint));
        return;
    };
    let Some(text) = image.text() else {
        let message = format!("the image of `{name}` must be text, this is {}", image.kind());
        problems.push(Problem::error(file, image.at, "wrong-type", message));
        return;
    };
    if text.contains('$') || text.contains('@') {
        return;
    }
    let tag = text.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    if matches!(tag, None | Some("latest")) {
        let message = format!("the image of `{name}` is whatever `latest` is when you promote");
        let hint = "name a tag that stays, or ${APP_IMAGE}; the promotion pins its digest either way";
        problems.push(Problem::warning(file, image.at, "latest-tag", message).hint(hint));
    }
}

fn readiness(sheets: &Sheets, name: &str, first: &Part, problems: &mut Vec<Problem>) {
    let ready =
        |part: &Part| part.node.get(EXTENSION).and_then(|own| own.get("ready")).is_some_and(|node| !node.is_null());
    let declared = sheets.services.get(name).is_some_and(|parts| parts.iter().any(ready));
    let inherited = sheets.setting(name, EXTENSION).is_some_and(|(_, own)| own.get("ready").is_some());
    if role_of(sheets, name) != "serve" || declared || inherited || sheets.is_partly_elsewhere(name) {
        return;
    }
    let checked = sheets.setting(name, "healthcheck").is_some_and(|(_, node)| !is_disabled(node));
    if !checked {
        let message = format!("nothing tells when `{name}` is ready, unless its image has a HEALTHCHECK");
        let hint = "add a healthcheck, or x-landfall: {ready: {http: {port: 3000, path: /health}}}";
        problems.push(Problem::warning(first.file, first.name_at, "no-readiness", message).hint(hint));
    }
}

fn is_disabled(healthcheck: &Node) -> bool {
    let none = |test: &Node| {
        test.text() == Some("NONE") || test.items().first().is_some_and(|first| first.text() == Some("NONE"))
    };
    healthcheck.get("disable").is_some_and(Node::is_true) || healthcheck.get("test").is_some_and(none)
}

/// Capabilities that executors refuse by default, without their `CAP_`.
const CAPABILITIES: [&str; 9] =
    ["ALL", "SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE", "SYS_RAWIO", "DAC_READ_SEARCH", "SYS_BOOT", "MAC_ADMIN", "BPF"];

/// The plain cases of the executor's policy over the stack, as its default configuration has it. The host has the last word: it sees
/// the stack with everything put in.
fn refused_by_default(service: &Node, file: usize, name: &str, problems: &mut Vec<Problem>) {
    let mut refuse = |at: Place, what: String, setting: &str| {
        let message = format!("`{name}` {what}, which executors refuse by default");
        let hint = format!("leave it out, or set {setting} = true under [policy] in the executor's configuration");
        problems.push(Problem::warning(file, at, "refused-by-default", message).hint(hint));
    };
    if let Some(entry) = service.entry("privileged").filter(|entry| entry.value.is_true()) {
        refuse(entry.key_at, "is privileged".to_owned(), "allow_privileged");
    }
    for (key, setting) in [
        ("network_mode", "allow_host_network"),
        ("pid", "allow_host_pid"),
        ("ipc", "allow_host_ipc"),
        ("uts", "allow_host_namespaces"),
        ("userns_mode", "allow_host_namespaces"),
        ("cgroup", "allow_host_namespaces"),
    ] {
        if let Some(node) = service.get(key).filter(|node| node.text() == Some("host")) {
            refuse(node.at, format!("shares the host's namespace (`{key}: host`)"), setting);
        }
    }
    for capability in service.get("cap_add").map(Node::items).unwrap_or_default() {
        let Some(text) = capability.text() else { continue };
        if CAPABILITIES.contains(&text.to_ascii_uppercase().trim_start_matches("CAP_")) {
            refuse(capability.at, format!("asks for the capability {text}"), "allow_capabilities");
        }
    }
    if let Some(entry) = service.entry("devices").filter(|entry| !entry.value.items().is_empty()) {
        refuse(entry.key_at, "asks for devices of the host".to_owned(), "allow_devices");
    }
    if let Some(entry) = service.entry("provider") {
        refuse(entry.key_at, "runs a program of the host".to_owned(), "allow_host_programs");
    }
    for volume in service.get("volumes").map(Node::items).unwrap_or_default() {
        match mount_source(volume) {
            Some("/") => refuse(volume.at, "mounts the host's root directory".to_owned(), "allow_root_mount"),
            Some(source) if source.ends_with("/docker.sock") => {
                refuse(volume.at, "mounts Docker's socket".to_owned(), "allow_docker_socket");
            }
            _ => {}
        }
    }
}

/// `/source:/target` or `{source: /source}`.
fn mount_source(volume: &Node) -> Option<&str> {
    match &volume.value {
        Value::Text(text) => text.split_once(':').map(|(source, _)| source),
        _ => volume.get("source")?.text(),
    }
}

fn misspelled_extension(node: &Node, file: usize, problems: &mut Vec<Problem>) {
    for entry in node.entries() {
        let suspicious = entry.key != EXTENSION && nearest(&entry.key, &[EXTENSION]).is_some();
        if suspicious && (entry.key.starts_with("x-") || entry.key.starts_with("x_") || entry.key == "landfall") {
            let message = format!("`{}` means nothing to Landfall", entry.key);
            let problem = Problem::warning(file, entry.key_at, "unknown-key", message);
            problems.push(problem.hint(format!("did you mean `{EXTENSION}`?")));
        }
    }
}
