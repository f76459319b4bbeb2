//! Images of the tests' application: busybox, a version in `/www/index.html`, and whatever goes wrong on purpose.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

/// The container port on which every application serves.
pub const PORT: u16 = 8080;

const APPLETS: [&str; 16] = [
    "sh", "httpd", "cat", "echo", "sleep", "true", "false", "test", "touch", "wget", "nc", "mkdir", "ls", "grep",
    "date", "env",
];

/// What stands in an image; [`crate::registry::Registry::push`] makes it one.
#[derive(Debug, Clone)]
pub struct AppImage {
    version: String,
    ready: bool,
    command: Vec<String>,
    files: BTreeMap<String, String>,
}

impl AppImage {
    /// Serves `version` at `/` and says `ok` at `/ready`.
    pub fn version(version: &str) -> Self {
        let image = Self { version: version.to_owned(), ready: true, command: Vec::new(), files: BTreeMap::new() };
        image.script(&format!("echo shop {version} starts; {SERVE}"))
    }

    /// `/ready` is not there, and the log says why.
    #[must_use]
    pub fn never_ready(mut self) -> Self {
        self.ready = false;
        let version = self.version.clone();
        self.script(&format!("echo shop {version} starts; echo cannot reach the payment service; {SERVE}"))
    }

    /// Ends at once with this exit code, after a line in the log.
    #[must_use]
    pub fn exits(self, code: u8) -> Self {
        self.script(&format!("echo panic: no configuration; exit {code}"))
    }

    /// Serves on and on, whatever SIGTERM says.
    #[must_use]
    pub fn ignores_term(self) -> Self {
        self.script(&format!("trap '' TERM; {SERVE} & while :; do sleep 1; done"))
    }

    /// Runs this shell script.
    #[must_use]
    pub fn script(mut self, script: &str) -> Self {
        self.command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        self
    }

    /// One of the SQL files in `/migrations`, e.g. `0001_orders.sql`.
    #[must_use]
    pub fn migration(self, name: &str, sql: &str) -> Self {
        self.file(&format!("migrations/{name}"), sql)
    }

    #[must_use]
    pub fn file(mut self, path: &str, content: &str) -> Self {
        self.files.insert(path.to_owned(), content.to_owned());
        self
    }

    /// The layer with this image's own files, as a tar archive.
    pub(crate) fn layer(&self) -> Result<Vec<u8>> {
        let mut files = self.files.clone();
        files.insert("www/index.html".to_owned(), format!("{}\n", self.version));
        if self.ready {
            files.insert("www/ready".to_owned(), "ok\n".to_owned());
        }
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in &files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, content.as_bytes())?;
        }
        Ok(archive.into_inner()?)
    }

    /// The image's configuration over the two layers. The name makes its id unlike that of any other test's image: the engine keeps
    /// one image per id, and a test that cleans up must not take it from another.
    pub(crate) fn config(&self, name: &str, diff_ids: [&str; 2]) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Cmd": self.command, "Env": ["PATH=/bin"], "Labels": {"dev.landfall.test": name}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": "busybox"}, {"created_by": format!("shop {}", self.version)}],
        }))?)
    }
}

const SERVE: &str = "exec httpd -f -p 8080 -h /www";

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        "x86_64" => "amd64",
        other => other,
    }
}

/// The layer that all images share: busybox with its commands.
pub(crate) fn base_layer(busybox: &Path) -> Result<Vec<u8>> {
    let program = std::fs::read(busybox).with_context(|| busybox.display().to_string())?;
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(program.len() as u64);
    archive.append_data(&mut header, "bin/busybox", program.as_slice())?;
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        archive.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o1777);
    header.set_size(0);
    archive.append_data(&mut header, "tmp/", std::io::empty())?;
    Ok(archive.into_inner()?)
}
