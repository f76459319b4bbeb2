//! Compose files for tests, put together from a few parts.

use std::collections::BTreeMap;

use anyhow::Result;
use landfall_schema::bundle::{BUNDLE_VERSION, Bundle, BundleFile};
use landfall_schema::ids::ServiceName;
use landfall_schema::promotion::PinnedImage;

use crate::registry::PushedImage;

/// The readiness of the tests' application: quick, and soon at its end.
pub const READY: &str = "ready: {http: {port: 8080, path: /ready}, interval_ms: 50, passes: 2, deadline_ms: 3000}";

/// A compose file and the images that its services are promised.
#[derive(Debug, Clone)]
pub struct Stack {
    /// Lines of the top-level `x-landfall`.
    settings: Vec<String>,
    services: Vec<Service>,
    top: Vec<String>,
    /// Instead of everything above.
    raw: Option<String>,
    promised: BTreeMap<String, PinnedImage>,
}

#[derive(Debug, Clone)]
struct Service {
    name: String,
    image: String,
    lines: Vec<String>,
    settings: Vec<String>,
}

impl Stack {
    /// The service `app`, published on the host's `HTTP_PORT`, with [`READY`].
    pub fn app(image: &PushedImage) -> Self {
        Self::app_with(image, READY)
    }

    /// The service `app` with these lines as its `x-landfall`.
    pub fn app_with(image: &PushedImage, settings: &str) -> Self {
        let empty =
            Self { settings: Vec::new(), services: Vec::new(), top: Vec::new(), raw: None, promised: BTreeMap::new() };
        let lines = "init: true\nstop_grace_period: 1s\nports: [\"127.0.0.1:${HTTP_PORT}:8080\"]";
        empty.service("app", image, lines, settings)
    }

    /// A compose file as it is written here, for services that run these images.
    pub fn raw(text: &str, promised: &[(&str, &PushedImage)]) -> Self {
        let mut stack =
            Self { settings: Vec::new(), services: Vec::new(), top: Vec::new(), raw: None, promised: BTreeMap::new() };
        stack.raw = Some(text.to_owned());
        for (service, image) in promised {
            stack.promised.insert((*service).to_owned(), image.pinned());
        }
        stack
    }

    /// Adds a service with these lines, and these lines as its `x-landfall`.
    #[must_use]
    pub fn service(mut self, name: &str, image: &PushedImage, lines: &str, settings: &str) -> Self {
        self.promised.insert(name.to_owned(), image.pinned());
        let [lines, settings] = [lines, settings].map(|text| text.lines().map(str::to_owned).collect());
        self.services.push(Service { name: name.to_owned(), image: image.reference(), lines, settings });
        self
    }

    /// Adds lines to the service `app`.
    #[must_use]
    pub fn app_lines(mut self, lines: &str) -> Self {
        if let Some(app) = self.services.first_mut() {
            app.lines.extend(lines.lines().map(str::to_owned));
        }
        self
    }

    /// Adds lines to `x-landfall` of the service `app`.
    #[must_use]
    pub fn app_settings(mut self, lines: &str) -> Self {
        if let Some(app) = self.services.first_mut() {
            app.settings.extend(lines.lines().map(str::to_owned));
        }
        self
    }

    /// Adds lines to the top-level `x-landfall`.
    #[must_use]
    pub fn settings(mut self, lines: &str) -> Self {
        self.settings.extend(lines.lines().map(str::to_owned));
        self
    }

    /// Adds lines to the top level of the file.
    #[must_use]
    pub fn top(mut self, lines: &str) -> Self {
        self.top.extend(lines.lines().map(str::to_owned));
        self
    }

    /// Promises another image for a service than its compose file names.
    #[must_use]
    pub fn promise(mut self, service: &str, image: PinnedImage) -> Self {
        self.promised.insert(service.to_owned(), image);
        self
    }

    /// The compose file's text.
    pub fn text(&self) -> String {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut text = String::new();
        add(&mut text, 0, "x-landfall:", &self.settings);
        for line in &self.top {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str("services:\n");
        for service in &self.services {
            text.push_str(&format!("  {}:\n    image: {}\n", service.name, service.image));
            for line in &service.lines {
                text.push_str(&format!("    {line}\n"));
            }
            add(&mut text, 4, "x-landfall:", &service.settings);
        }
        text
    }

    pub fn bundle(&self) -> Bundle {
        let file = BundleFile { name: "compose.yml".to_owned(), content: self.text() };
        Bundle { version: BUNDLE_VERSION, compose: vec![file] }
    }

    /// What the promotion pins.
    ///
    /// # Errors
    /// When a service's name cannot be one.
    pub fn images(&self) -> Result<BTreeMap<ServiceName, PinnedImage>> {
        self.promised.iter().map(|(name, image)| Ok((ServiceName::new(name)?, image.clone()))).collect()
    }
}

fn add(text: &mut String, indent: usize, key: &str, lines: &[String]) {
    if !lines.is_empty() {
        text.push_str(&format!("{:indent$}{key}\n", ""));
        for line in lines {
            text.push_str(&format!("{:indent$}  {line}\n", ""));
        }
    }
}
