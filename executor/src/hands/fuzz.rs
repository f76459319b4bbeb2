//! What stacks, `.env` files, containers and engines say is read without a panic, and no secret comes through the mask.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use landfall_fuzz::run;
use landfall_schema::outcome::{LOG_LINE_MAX_BYTES, LOG_TAIL_MAX_LINES};

use super::policy::{HostPaths, Policy};
use super::redact::{self, Redactor};
use super::{compose, credentials, logs, overrides, pull, render, settings};

/// As `docker compose config` prints it, and as people write it.
const STACKS: [&str; 3] = [
    "name: shop\nx-landfall:\n  smoke: [{http: {url: 'http://x/'}}, {run: {service: app, command: [a]}}]\n  bake_ms: 5\nservices:\n  app:\n    \
     image: x@sha256:00\n    depends_on: {m: {condition: service_completed_successfully, required: true}}\n    environment: {P: a$$b}\n    \
     volumes: [{type: bind, source: /srv/x, target: /x}]\n    ports: [{target: 80, published: '8080'}]\n    x-landfall: {ready: {http: {port: 80}}}\n  \
     m: {profiles: [tools], x-landfall: {role: migrate, database_url: 'postgres://u:p@h/d'}}\nnetworks: {default: {name: n}}\n",
    "x-a: &a {image: x, cap_add: [SYS_ADMIN], deploy: {replicas: 0}}\nservices: {app: {<<: *a, privileged: true, pid: host}}\n",
    "{\"services\":{\"app\":{\"image\":\"x\",\"x-landfall\":{\"deadline_ms\":5,\"migrations\":{\"path\":\"/m\",\"url\":\"sqlite:///x\"}}}},\"volumes\":{\"v\":{\"driver_opts\":{\"device\":\"/\"}}}}",
];

#[test]
fn stacks() {
    let paths = HostPaths {
        engine_socket: Some("/run/docker.sock".into()),
        state_dir: "/var/lib/landfall".into(),
        stack_dir: "/opt/shop".into(),
    };
    run("rendered-stack", &STACKS.map(|stack| stack.as_bytes().to_vec()), |bytes| {
        let Ok(model) = render::parse(&String::from_utf8_lossy(bytes)) else { return };
        // Nothing that asks for power over the host is ever passed, whatever stands beside it.
        let judged = Policy::default().check(&model, &paths);
        let services = model.get("services").and_then(serde_json::Value::as_object);
        let is_privileged = |service: &serde_json::Value| service.get("privileged") == Some(&true.into());
        assert!(!services.is_some_and(|all| all.values().any(is_privileged)) || judged.is_err());
        let (Ok(top), Ok(services)) = (settings::of_stack(&model), render::services(&model, &BTreeSet::new())) else {
            return;
        };
        for is_rollback in [false, true] {
            let _ = settings::check(&top, &services, is_rollback);
        }
        let _ = settings::check_smoke_services(&top, &BTreeSet::from(["app"]));
        let mark = super::mark::Mark { env: "staging".parse().unwrap(), app: "shop".parse().unwrap() };
        let text = overrides::full(&BTreeMap::new(), &services, &mark, &BTreeSet::new());
        // Compose's tags are the only thing in it that is not JSON.
        let plain = text.replace("!override ", "").replace("!reset ", "");
        serde_json::from_str::<serde_json::Value>(&plain).unwrap();
    });
}

#[test]
fn what_compose_says() {
    let said = [
        "time=\"2026-11-21T09:28:35Z\" level=warning msg=\"The \\\"APP_IMAGE\\\" variable is not set. Defaulting to a blank string.\"\n",
        "failed to read /opt/shop/.env: line 2: unexpected character \"!\" in variable name \"s3cret!x\"",
        "Error response from daemon: driver failed: Bind for 0.0.0.0:80 failed: port is already allocated\nexited (1)",
    ];
    run("compose-complaint", &said.map(|text| text.as_bytes().to_vec()), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let redactor = Redactor::default();
        for reason in
            [compose::config_reason(&text, Path::new("/opt/shop"), &redactor), compose::up_reason(&text, &redactor)]
        {
            assert!(!reason.message.is_empty() && reason.message.len() < 8 * LOG_LINE_MAX_BYTES);
        }
        for name in compose::unset_variables(&text) {
            assert!(!name.is_empty());
        }
        let project = compose::normalise_project(&text);
        assert!(project.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_')));
        assert!(!project.starts_with('-'));
        let _ = (pull::repository_part(&text), credentials::full_repository(&text));
    });
}

const SECRET: &str = "hunter2-\"x\\y$z-9f8e";

#[test]
fn env_files_and_logs() {
    let env = "# c\nexport DB_PASSWORD='s3cr et' # not\nKEY=\"-----BEGIN\nabc\n-----\"\nURL=postgres://u:p4ss@db/x\nEMPTY=\nA B=1\n";
    let log = "\u{1b}[31mfatal\u{1b}[0m: hunter2-\"x\\y$z-9f8e\r\nGET: 503\nGET: 503\n";
    run("env-and-log", &[env.as_bytes().to_vec(), log.as_bytes().to_vec()], |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let variables = redact::env_file_variables(&text);
        let own = [("PASSWORD", SECRET)];
        let redactor = Redactor::new(variables.iter().copied().chain(own), std::iter::empty(), &BTreeSet::new());
        // Whatever stands around a secret, and whatever is drawn into it by a terminal's colours, it does not come out.
        let (head, tail) = SECRET.split_at(7);
        for said in [format!("{text}{SECRET}{text}"), format!("{text}\n{head}\u{1b}[1m{tail}\u{7}\n{text}")] {
            let tail = logs::tail("app", &said, &redactor);
            assert!(tail.lines.len() <= LOG_TAIL_MAX_LINES);
            for line in &tail.lines {
                assert!(line.len() <= LOG_LINE_MAX_BYTES + 32 && !line.contains(SECRET), "{line}");
                assert!(!line.contains(char::is_control));
            }
            assert!(!logs::last_line(&said, &redactor).unwrap_or_default().contains(SECRET));
        }
    });
}
