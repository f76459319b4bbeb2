//! Reads Landfall's own settings out of the rendered stack, and refuses those that could not work.
//!
//! The rules are of new promotions. A release that serves was taken by the rules of its day; the way back to it must not end at a rule that
//! came later.

use std::collections::{BTreeMap, BTreeSet};

use landfall_schema::compatibility::Requirement;
use landfall_schema::ids::ServiceName;
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::stack::{
    EXTENSION, READY_INTERVAL_MIN_MS, Readiness, Role, ServiceSettings, SmokeTest, StackSettings,
};
use serde_json::Value;

use super::render::Service;

/// Longest wait that any setting may ask for: a day.
const WAIT_MAX_MS: u64 = 24 * 60 * 60 * 1_000;
/// Longest time that a promotion may have a host watch itself; nothing else is deployed meanwhile. As long as a promotion lasts: 30 days.
const BAKE_MAX_MS: u64 = 30 * 24 * 60 * 60 * 1_000;
const AT_THE_TOP: &str = "x-landfall at the top";

/// `x-landfall` at the top, as it stands there.
pub(crate) fn of_stack(model: &Value) -> Result<StackSettings, Reason> {
    read(model, AT_THE_TOP)
}

/// `x-landfall` of one service, as it stands there.
pub(crate) fn of_service(name: &str, service: &Value) -> Result<ServiceSettings, Reason> {
    read(service, &place(name))
}

/// Whether all settings of a new promotion could work. A rollback neither migrates nor backs up, so it is not refused for how it would.
pub(crate) fn check(
    top: &StackSettings,
    services: &BTreeMap<ServiceName, Service>,
    is_rollback: bool,
) -> Result<(), Reason> {
    check_stack(top)?;
    for service in services.values() {
        let migrating = || if is_rollback { Ok(()) } else { check_migrating(&service.settings) };
        check_service(&service.settings)
            .and_then(|()| migrating())
            .map_err(|why| invalid(&place(service.name.as_str()), &why))?;
    }
    Ok(())
}

/// What the promotion itself asks for: `bake_ms` is that of this host.
pub(crate) fn check_bake(bake_ms: u64) -> Result<(), Reason> {
    if bake_ms <= BAKE_MAX_MS {
        return Ok(());
    }
    let message = format!("the promotion bakes for {bake_ms} ms, at most {BAKE_MAX_MS} are allowed");
    Err(Reason::new(ReasonCode::SettingsInvalid, message).hint("promote it with a shorter bake time"))
}

/// A smoke test runs in a service of the stack, and not in what looks like one to Compose's command line.
pub(crate) fn check_smoke_services(settings: &StackSettings, known: &BTreeSet<&str>) -> Result<(), Reason> {
    for (index, test) in settings.smoke.iter().enumerate() {
        if let Some(run) = test.run.as_ref().filter(|run| !known.contains(run.service.as_str())) {
            let why = format!("run.service is {:.80?}, which the compose file does not define", run.service);
            return Err(invalid(&format!("smoke test {}", index + 1), &why));
        }
    }
    Ok(())
}

fn place(service: &str) -> String {
    format!("x-landfall of service {service}")
}

fn read<T: serde::de::DeserializeOwned + Default>(holder: &Value, place: &str) -> Result<T, Reason> {
    match holder.get(EXTENSION) {
        None | Some(Value::Null) => Ok(T::default()),
        // The error names the field and what was expected; values that could be secret do not stand in it.
        Some(value) => serde_json::from_value(value.clone()).map_err(|error| invalid(place, &error.to_string())),
    }
}

fn invalid(place: &str, why: &str) -> Reason {
    Reason::new(ReasonCode::SettingsInvalid, format!("{place}: {why}"))
        .hint("`landfall lint` checks a compose file with these settings before it is promoted")
}

fn check_stack(settings: &StackSettings) -> Result<(), Reason> {
    for (index, test) in settings.smoke.iter().enumerate() {
        check_smoke(test).map_err(|why| invalid(&format!("smoke test {}", index + 1), &why))?;
    }
    if let Some(schema) = &settings.schema {
        Requirement::new(&schema.compatible_with)
            .map_err(|error| invalid(&format!("schema.compatible_with of {AT_THE_TOP}"), &error.to_string()))?;
    }
    check_limit("smoke_deadline_ms", settings.smoke_deadline_ms)
        .and_then(|()| check_wait("bake_ms", settings.bake_ms))
        .map_err(|why| invalid(AT_THE_TOP, &why))
}

/// What only migrations and backups heed.
fn check_migrating(settings: &ServiceSettings) -> Result<(), String> {
    for (name, value) in limits(settings) {
        check_limit(name, value)?;
    }
    if settings.role != Role::Serve && settings.migrations.is_some() {
        return Err("migrations are of a service that serves; a one-shot migrates by its own command".to_owned());
    }
    Ok(())
}

fn limits(settings: &ServiceSettings) -> [(&'static str, Option<u64>); 3] {
    [
        ("deadline_ms", settings.deadline_ms),
        ("lock_timeout_ms", settings.lock_timeout_ms),
        ("statement_timeout_ms", settings.statement_timeout_ms),
    ]
}

fn check_service(settings: &ServiceSettings) -> Result<(), String> {
    for (name, value) in limits(settings) {
        check_wait(name, value)?;
    }
    if let Some(url) = &settings.database_url
        && !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme))
    {
        return Err("database_url must begin with postgres://; is its variable set on this host?".to_owned());
    }
    if let Some(ready) = &settings.ready {
        check_ready(ready)?;
    }
    if let Some(migrations) = &settings.migrations {
        if !migrations.path.starts_with('/') {
            return Err("migrations.path must be an absolute path in the image".to_owned());
        }
        let known = ["postgres://", "postgresql://", "sqlite:"];
        if !known.iter().any(|scheme| migrations.url.starts_with(scheme)) {
            return Err(
                "migrations.url must begin with postgres:// or sqlite://; is its variable set on this host?".to_owned()
            );
        }
    }
    Ok(())
}

fn check_ready(ready: &Readiness) -> Result<(), String> {
    check_wait("ready.deadline_ms", ready.deadline_ms)?;
    check_wait("ready.interval_ms", ready.interval_ms)?;
    match ready {
        Readiness { http: Some(_), tcp: Some(_), .. } => {
            Err("ready has both http and tcp; one of them is enough".to_owned())
        }
        Readiness { http: Some(http), .. } if !http.path.starts_with('/') => {
            Err("ready.http.path must begin with a slash".to_owned())
        }
        Readiness { http: Some(http), .. } if http.port == 0 => Err("ready.http.port is 0".to_owned()),
        Readiness { tcp: Some(tcp), .. } if tcp.port == 0 => Err("ready.tcp.port is 0".to_owned()),
        Readiness { interval_ms: Some(ms), .. } if *ms < READY_INTERVAL_MIN_MS => {
            Err(format!("ready.interval_ms is {ms}, at least {READY_INTERVAL_MIN_MS} is needed"))
        }
        Readiness { passes: Some(0), .. } => Err("ready.passes is 0, at least 1 is needed".to_owned()),
        _ => Ok(()),
    }
}

fn check_smoke(test: &SmokeTest) -> Result<(), String> {
    match (&test.http, &test.run) {
        (Some(http), None) if !http.url.starts_with("http://") && !http.url.starts_with("https://") => {
            Err("http.url must begin with http:// or https://".to_owned())
        }
        (Some(_), None) | (None, Some(_)) => Ok(()),
        (None, None) => Err("it has neither http nor run".to_owned()),
        (Some(_), Some(_)) => Err("it has both http and run; make two tests of it".to_owned()),
    }
}

/// A limit of nothing would fail always.
fn check_limit(name: &str, ms: Option<u64>) -> Result<(), String> {
    match ms {
        Some(0) => Err(format!("{name} is 0, at least 1 is needed")),
        ms => check_wait(name, ms),
    }
}

fn check_wait(name: &str, ms: Option<u64>) -> Result<(), String> {
    match ms {
        Some(ms) if ms > WAIT_MAX_MS => Err(format!("{name} is {ms}, more than a day")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::hands::render;
    use serde_json::json;

    /// What is said of a stack of one service, as it comes out of Compose; nothing when it is taken.
    fn said(top: &Value, app: &Value, is_rollback: bool) -> String {
        let model = json!({ "x-landfall": top, "services": { "app": { "x-landfall": app } } });
        let read = || Ok((of_stack(&model)?, render::services(&model, &BTreeSet::new())?));
        let judged = read().and_then(|(top, services)| super::check(&top, &services, is_rollback));
        judged.err().map_or(String::new(), |reason: Reason| reason.message)
    }

    fn expect(found: &str, expect: &str) {
        assert!(found.contains(expect) && found.is_empty() == expect.is_empty(), "{found:?} for {expect:?}");
    }

    fn check(settings: Value, expected: &str) {
        expect(&said(&Value::Null, &settings, false), expected);
    }

    #[test]
    fn services() {
        check(json!(null), "");
        check(json!({ "role": "migrate", "database_url": "mysql://x" }), "database_url must begin");
        check(json!({ "lock_timeout_ms": 100_000_000_000_u64 }), "more than a day");
        check(json!({ "statement_timeout_ms": 0 }), "at least 1");
        check(json!({ "deadline_ms": 0 }), "at least 1");
        let files = json!({ "path": "/m", "url": "sqlite:///x" });
        check(json!({ "role": "migrate", "migrations": files }), "a one-shot migrates by its own command");
        check(json!({ "ready": { "http": { "port": 80 } } }), "");
        check(json!({ "redy": {} }), "x-landfall of service app: unknown field `redy`");
        check(json!({ "role": "boss" }), "unknown variant `boss`");
        check(json!({ "ready": { "interval_ms": 10 } }), "at least 50");
        check(json!({ "ready": { "passes": 0 } }), "at least 1");
        check(json!({ "ready": { "http": { "port": 80, "path": "x" } } }), "slash");
        check(json!({ "migrations": { "path": "m", "url": "sqlite:///x" } }), "absolute");
        check(json!({ "migrations": { "path": "/m", "url": "" } }), "is its variable set");
    }

    #[test]
    fn stacks() {
        let check = |settings: Value, expected: &str| expect(&said(&settings, &Value::Null, false), expected);
        check(json!({ "schema": { "compatible_with": ">= 1.4, < 3" }, "bake_ms": 0 }), "");
        check(json!({ "smoke_deadline_ms": 0 }), "at least 1");
        for bad in ["", "newer", ">= 1.4.0.0", "1.4 || 2"] {
            check(json!({ "schema": { "compatible_with": bad } }), "schema.compatible_with of x-landfall at the top");
        }
        check(json!({ "schema": {} }), "compatible_with");
    }

    #[test]
    fn a_release_of_former_days_is_judged_by_no_rule_of_today() {
        let files = json!({ "path": "/m", "url": "sqlite:///x" });
        for settings in [json!({ "lock_timeout_ms": 0 }), json!({ "role": "migrate", "migrations": files })] {
            // As it is rendered anew for a way back.
            let service = json!({ "x-landfall": settings });
            render::services(&json!({ "services": { "app": service } }), &BTreeSet::new()).unwrap();
            assert_ne!(said(&Value::Null, &settings, false), "");
            assert_eq!(said(&Value::Null, &settings, true), "");
        }
        expect(&said(&Value::Null, &json!({ "deadline_ms": 100_000_000_000_u64 }), true), "more than a day");
    }

    #[test]
    fn a_bake_time_has_an_end() {
        assert!(check_bake(BAKE_MAX_MS).is_ok());
        assert_eq!(check_bake(BAKE_MAX_MS + 1).unwrap_err().code, ReasonCode::SettingsInvalid);
    }

    #[test]
    fn smoke_tests_run_in_services_of_the_stack() {
        let check = |service: &str| {
            let model = json!({ "x-landfall": { "smoke": [{ "run": { "service": service } }] } });
            check_smoke_services(&of_stack(&model).unwrap(), &BTreeSet::from(["app"])).is_ok()
        };
        assert!(check("app"));
        assert!(!check("other") && !check("--volume=/:/host"));
    }

    #[test]
    fn smoke_tests() {
        let check = |smoke: Value, expected: &str| {
            expect(&said(&json!({ "smoke": [smoke] }), &Value::Null, false), expected);
        };
        check(json!({ "http": { "url": "http://x/" } }), "");
        check(json!({}), "neither");
        check(json!({ "http": { "url": "ftp://x/" } }), "smoke test 1");
    }
}
