//! `x-landfall`: first its form against the schema, then what a schema cannot say.

use landfall_schema::compatibility::Requirement;
use landfall_schema::ids::AppName;
use landfall_schema::stack::{EXTENSION, READY_INTERVAL_MIN_MS, ServiceSettings, StackSettings};
use landfall_schema::wave_size::WaveSize;
use serde::de::DeserializeOwned;

use crate::lint::nearest::{did_you_mean, listed};
use crate::lint::problem::{Place, Problem, Severity};
use crate::lint::shape::Shape;
use crate::lint::sheets::Sheets;
use crate::lint::yaml::{Entry, Node, Value};
use crate::plan::waves;

pub(super) fn check(sheets: &Sheets) -> Vec<Problem> {
    let mut problems = Vec::new();
    let shape = Shape::of_stack();
    for (file, entry) in sheets.top(EXTENSION).filter(|(_, entry)| !entry.value.is_null()) {
        let mut found = shape.check(&entry.value, file);
        Checker { sheets, file, problems: &mut found }.stack(&entry.value);
        by_type::<StackSettings>(entry, file, &mut found);
        problems.extend(found);
    }
    let shape = Shape::of_service();
    for (name, parts) in &sheets.services {
        for part in parts {
            let Some(entry) = part.node.entry(EXTENSION).filter(|entry| !entry.value.is_null()) else { continue };
            let mut found = shape.check(&entry.value, part.file);
            Checker { sheets, file: part.file, problems: &mut found }.service(name, &entry.value);
            by_type::<ServiceSettings>(entry, part.file, &mut found);
            problems.extend(found);
        }
    }
    problems
}

/// The service's role as written, `serve` without one.
pub(super) fn role_of<'a>(sheets: &'a Sheets, service: &str) -> &'a str {
    let roles = sheets.services.get(service).into_iter().flatten().rev();
    let own = roles.filter_map(|part| part.node.get(EXTENSION)?.get("role")?.text()).next();
    let inherited = || sheets.setting(service, EXTENSION).and_then(|(_, settings)| settings.get("role")?.text());
    own.or_else(inherited).unwrap_or("serve")
}

/// The types themselves have the last word: what nothing above has objected to must be readable by them.
fn by_type<T: DeserializeOwned>(entry: &Entry, file: usize, found: &mut Vec<Problem>) {
    if found.iter().any(|problem| problem.severity == Severity::Error) {
        return;
    }
    if let Err(error) = serde_json::from_value::<T>(entry.value.to_json()) {
        found.push(Problem::error(file, entry.key_at, "bad-settings", error.to_string()));
    }
}

struct Checker<'a> {
    sheets: &'a Sheets,
    file: usize,
    problems: &'a mut Vec<Problem>,
}

impl Checker<'_> {
    fn error(&mut self, at: Place, code: &'static str, message: impl Into<String>, hint: Option<String>) {
        self.problems.push(Problem { hint, ..Problem::error(self.file, at, code, message) });
    }

    fn warning(&mut self, at: Place, code: &'static str, message: impl Into<String>, hint: &str) {
        self.problems.push(Problem::warning(self.file, at, code, message).hint(hint));
    }

    fn stack(&mut self, settings: &Node) {
        if let Some(app) = settings.get("app")
            && let Some(Err(error)) = app.text().map(AppName::new)
        {
            self.error(app.at, "bad-name", error.to_string(), None);
        }
        self.at_least(settings, "smoke_deadline_ms", 1);
        if let Some(node) = settings.get("schema").and_then(|schema| schema.get("compatible_with"))
            && let Some(Err(error)) = node.text().filter(|text| !text.contains('$')).map(Requirement::new)
        {
            self.error(node.at, "bad-requirement", error.to_string(), Some("for example \">= 1.4\"".to_owned()));
        }
        if let Some(rollout) = settings.get("rollout") {
            self.rollout(rollout);
        }
        for test in settings.get("smoke").map(Node::items).unwrap_or_default() {
            self.smoke_test(test);
        }
    }

    fn rollout(&mut self, rollout: &Node) {
        self.at_least(rollout, "deadline_ms", 1);
        self.at_least(rollout, "max_parallel", 1);
        let whole = |key: &str| match rollout.get(key)?.value {
            Value::Int(value) => Some(value),
            _ => None,
        };
        if let (Some(bake), Some(deadline), Some(node)) =
            (whole("bake_ms"), whole("deadline_ms"), rollout.get("bake_ms"))
            && bake >= deadline
        {
            let message = format!("a wave bakes for {bake} ms and has {deadline} ms in all, so it cannot end");
            self.error(node.at, "out-of-range", message, Some("give it more time with deadline_ms".to_owned()));
        }
        let Some(waves) = rollout.get("waves").filter(|waves| !waves.items().is_empty()) else { return };
        let mut sizes: Vec<WaveSize> = Vec::new();
        for wave in waves.items() {
            match serde_json::from_value(wave.to_json()) {
                Ok(size) => sizes.push(size),
                Err(error) => {
                    let hint = Some("for example [1, \"25%\", \"100%\"]".to_owned());
                    return self.error(wave.at, "bad-wave", error.to_string(), hint);
                }
            }
        }
        if let Err(error) = waves::check(&sizes) {
            self.error(waves.at, "bad-wave", error.message, Some("for example [1, \"25%\", \"100%\"]".to_owned()));
        }
    }

    fn smoke_test(&mut self, test: &Node) {
        if !matches!(test.value, Value::Map(_)) {
            return;
        }
        let present = |key: &str| test.get(key).filter(|node| !node.is_null());
        match (present("http"), present("run")) {
            (Some(_), Some(_)) => {
                let hint = Some("make it two smoke tests; they run in this order".to_owned());
                self.error(test.at, "smoke-test", "a smoke test has either `http` or `run`, this one has both", hint);
            }
            (None, None) => {
                let hint = Some("for example {http: {url: \"http://127.0.0.1:3000/\"}}".to_owned());
                self.error(test.at, "smoke-test", "a smoke test has `http` or `run`, this one has neither", hint);
            }
            _ => {}
        }
        if let Some(http) = present("http") {
            self.http_check(http);
        }
        if let Some(service) = present("run").and_then(|run| run.get("service")) {
            self.known_service(service);
        }
    }

    fn http_check(&mut self, http: &Node) {
        if let Some(url) = http.get("url") {
            self.url(url);
        }
        if let Some(status) = http.get("expect").and_then(|expect| expect.get("status"))
            && let Value::Int(code) = status.value
            && !(100..=599).contains(&code)
        {
            self.error(status.at, "out-of-range", format!("{code} is no HTTP status; they go from 100 to 599"), None);
        }
    }

    fn url(&mut self, node: &Node) {
        let Some(text) = node.text().filter(|text| !text.contains('$')) else { return };
        let hint = || Some("for example http://127.0.0.1:3000/health, as seen from the host".to_owned());
        match reqwest::Url::parse(text) {
            Ok(url) if !matches!(url.scheme(), "http" | "https") => {
                let message = format!("a smoke test speaks http or https, not `{:.20}`", url.scheme());
                self.error(node.at, "bad-url", message, hint());
            }
            Ok(url) if url.host().is_none() => self.error(node.at, "bad-url", "this URL has no host", hint()),
            Ok(url) if url.password().is_some() => self.password(node.at),
            Ok(_) => {}
            Err(error) => self.error(node.at, "bad-url", format!("this is no URL: {error}"), hint()),
        }
    }

    fn password(&mut self, at: Place) {
        let message = "this URL holds a password, and the compose file travels to every host";
        self.warning(at, "secret", message, "put it into .env on the hosts and write ${NAME} here");
    }

    fn known_service(&mut self, node: &Node) {
        let Some(name) = node.text().filter(|name| !name.contains('$')) else { return };
        if self.sheets.services.contains_key(name) || self.sheets.includes_others() {
            return;
        }
        let known: Vec<&str> = self.sheets.services.keys().map(String::as_str).collect();
        let shown: String = name.chars().take(60).collect();
        let message = format!("there is no service `{}`; the services are {}", shown.escape_debug(), listed(&known));
        self.error(node.at, "unknown-service", message, did_you_mean(name, &known));
    }

    fn service(&mut self, name: &str, settings: &Node) {
        for key in ["deadline_ms", "lock_timeout_ms", "statement_timeout_ms"] {
            self.at_least(settings, key, 1);
        }
        if let Some(ready) = settings.entry("ready") {
            self.ready(&ready.value);
            let role = role_of(self.sheets, name);
            if role != "serve" {
                let message = format!("`{name}` is a one-shot ({role}); its readiness is never asked");
                self.warning(ready.key_at, "unused", message, "take `ready` out; its exit code 0 is success");
            }
        }
        if let Some(migrations) = settings.get("migrations") {
            self.migrations(migrations);
        }
    }

    fn ready(&mut self, ready: &Node) {
        if let Some(node) = ready.get("interval_ms")
            && let Value::Int(value) = node.value
            && (0..READY_INTERVAL_MIN_MS as i64).contains(&value)
        {
            let message = format!("interval_ms is {value}, at least {READY_INTERVAL_MIN_MS} is needed");
            self.error(node.at, "out-of-range", message, None);
        }
        self.at_least(ready, "passes", 1);
        self.at_least(ready, "deadline_ms", 1);
        for probe in ["http", "tcp"].iter().filter_map(|kind| ready.get(kind)) {
            self.at_least(probe, "port", 1);
        }
        if let Some(path) = ready.get("http").and_then(|http| http.get("path"))
            && path.text().is_some_and(|text| !text.starts_with(['/', '$']))
        {
            self.error(path.at, "bad-path", "the path of a probe begins with /", None);
        }
    }

    fn migrations(&mut self, migrations: &Node) {
        if let Some(path) = migrations.get("path")
            && path.text().is_some_and(|text| !text.starts_with(['/', '$']))
        {
            let message = "the path of migrations is absolute, as it is inside the image";
            self.error(path.at, "bad-path", message, None);
        }
        let Some(url) = migrations.get("url") else { return };
        let Some(text) = url.text().filter(|text| !text.starts_with('$')) else { return };
        let scheme = text.split_once(':').map(|(scheme, _)| scheme);
        if !matches!(scheme, Some("postgres" | "postgresql" | "sqlite")) {
            let hint = Some("for example ${DATABASE_URL}, from .env on the hosts".to_owned());
            self.error(url.at, "bad-url", "a database's URL begins with postgres:// or sqlite://", hint);
        } else if !text.contains('$') && reqwest::Url::parse(text).is_ok_and(|url| url.password().is_some()) {
            self.password(url.at);
        }
    }

    fn at_least(&mut self, settings: &Node, key: &str, minimum: i64) {
        // Negative numbers are the schema's to find.
        if let Some(node) = settings.get(key)
            && let Value::Int(value) = node.value
            && (0..minimum).contains(&value)
        {
            self.error(node.at, "out-of-range", format!("{key} is {value}, at least {minimum} is needed"), None);
        }
    }
}
