//! What a preview has for itself: a directory, made from the host's template, and a project that nothing leaves.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use landfall_schema::outcome::{Reason, ReasonCode};
use nix::fcntl::OFlag;
use serde_json::Value;

use super::policy::lexical;
use super::{Hands, internal};

/// The variable that tells a preview's stack its name.
pub(crate) const VARIABLE: &str = "LANDFALL_PREVIEW";
/// A template holds settings, not data.
const TEMPLATE_MAX_FILES: usize = 1_000;
const TEMPLATE_MAX_BYTES: u64 = 64 * 1024 * 1024;
const TEMPLATE_MAX_DEPTH: usize = 16;

impl Hands {
    /// Copies the template's files into the preview's own directory; what is there beside them stays. Does nothing for an application.
    pub(crate) async fn prepare_directory(&self) -> Result<(), Reason> {
        let Some(template) = self.config.stack.template.clone() else { return Ok(()) };
        let directory = self.config.stack.directory.clone();
        if !template.is_dir() {
            let message = format!("the template {} of the preview is not on this host", template.display());
            return Err(Reason::new(ReasonCode::EnvFileMissing, message)
                .hint("make it and put the previews' .env there, or correct `directory` under [previews]"));
        }
        let copied = tokio::task::spawn_blocking(move || Copying::default().folder(&template, &directory, 0));
        copied.await.map_err(|error| internal("copying the template", error))?
    }
}

#[derive(Default)]
struct Copying {
    files: usize,
    bytes: u64,
}

impl Copying {
    fn folder(&mut self, from: &Path, to: &Path, depth: usize) -> Result<(), Reason> {
        let failed = |error: std::io::Error| internal(&format!("copying the template {}", from.display()), error);
        if depth > TEMPLATE_MAX_DEPTH {
            return Err(too_much(from, format!("is more than {TEMPLATE_MAX_DEPTH} folders deep")));
        }
        let (opened, to) = own_folder(to).map_err(failed)?;
        for entry in std::fs::read_dir(from).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(name) = path.file_name() else { continue };
            // Links are followed: a preview gets a file of its own, never a way to somebody else's.
            let metadata = std::fs::metadata(&path).map_err(failed)?;
            if metadata.is_dir() {
                self.folder(&path, &to.join(name), depth + 1)?;
            } else if metadata.is_file() {
                self.files += 1;
                self.bytes += metadata.len();
                if self.files > TEMPLATE_MAX_FILES || self.bytes > TEMPLATE_MAX_BYTES {
                    let most = TEMPLATE_MAX_BYTES / 1024 / 1024;
                    return Err(too_much(from, format!("holds more than {TEMPLATE_MAX_FILES} files or {most} MiB")));
                }
                copy(&path, &to.join(name)).map_err(failed)?;
            }
        }
        // The way into it leads through its descriptor.
        drop(opened);
        Ok(())
    }
}

/// Makes the folder where it is missing, and opens it: the preview's containers may have it mounted, and put a link to a folder of the host
/// in its place at any time. Everything in it is then named through the open folder.
fn own_folder(path: &Path) -> std::io::Result<(File, PathBuf)> {
    let open = || {
        let itself = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        OpenOptions::new().read(true).custom_flags(itself.bits()).open(path)
    };
    let folder = match open() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            std::fs::create_dir_all(path)?;
            open()?
        }
        opened => opened?,
    };
    let through = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    Ok((folder, through))
}

/// A file that is the same already is left alone, because a container may have it mounted; another is written in place, for the same reason.
/// What is no file (a link to one of the host, a pipe) gives way.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let itself = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let content = std::fs::read(from)?;
    match std::fs::symlink_metadata(to) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(there) if there.is_file() => {
            let mut there = Vec::new();
            let most = content.len() as u64 + 1;
            OpenOptions::new().read(true).custom_flags(itself.bits()).open(to)?.take(most).read_to_end(&mut there)?;
            if there == content {
                return Ok(());
            }
        }
        Ok(there) if there.is_dir() => return Err(ErrorKind::IsADirectory.into()),
        Ok(_) => std::fs::remove_file(to)?,
    }
    let mut file = OpenOptions::new().write(true).create(true).custom_flags(itself.bits()).mode(0o600).open(to)?;
    if !file.metadata()?.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    file.set_len(0)?;
    file.write_all(&content)?;
    file.set_permissions(std::fs::metadata(from)?.permissions())
}

fn too_much(template: &Path, why: String) -> Reason {
    Reason::new(ReasonCode::PolicyViolation, format!("the template of the preview, {}, {why}", template.display()))
        .hint("a template holds .env and small files; put data into the image or into volumes")
}

/// Refuses what would leave the preview's project, where it could meet the application itself or another preview.
///
/// # Errors
/// [`ReasonCode::PolicyViolation`] that names service and rule.
pub(crate) fn check_contained(model: &Value, project: &str, directory: &Path) -> Result<(), Reason> {
    let refuse = |what: String, hint: &str| Err(Reason::new(ReasonCode::PolicyViolation, what).hint(hint));
    let entries = |kind: &str| model.get(kind).and_then(Value::as_object).into_iter().flatten();
    for kind in ["networks", "volumes", "secrets", "configs"] {
        for (key, entry) in entries(kind) {
            let name = entry.get("name").and_then(Value::as_str);
            let external = entry.get("external").is_some_and(|external| *external != Value::Bool(false));
            if external || name.is_some_and(|name| name != format!("{project}_{key}")) {
                let what = format!("{kind}.{key} is not the preview's own: it is external, or has a name of its own");
                return refuse(what, "leave `external` and `name` out where the compose file is used for previews");
            }
        }
    }
    for (name, service) in entries("services") {
        if service.get("container_name").is_some() {
            let what = format!("service {name} has a container_name, which only one stack on a host can have");
            return refuse(what, "leave container_name out where the compose file is used for previews");
        }
        let volumes = service.get("volumes").and_then(Value::as_array).into_iter().flatten();
        for volume in volumes.filter(|volume| volume.get("type").and_then(Value::as_str) == Some("bind")) {
            let source = volume.get("source").and_then(Value::as_str).map(PathBuf::from).unwrap_or_default();
            let read_only = volume.get("read_only").and_then(Value::as_bool) == Some(true);
            let real = std::fs::canonicalize(&source).unwrap_or_else(|_| lexical(&source));
            let own = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
            if !read_only && !real.starts_with(&own) {
                let what = format!("service {name} mounts {} of the host, and may write to it", source.display());
                return refuse(what, "mount it read-only, or use a path relative to the compose file");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn check(model: Value, expect: Option<&str>) {
        let found = check_contained(&model, "shop--pr-1", Path::new("/state/previews/shop--pr-1"));
        match expect {
            None => assert_eq!(found, Ok(()), "{model}"),
            Some(part) => {
                let reason = found.unwrap_err();
                assert_eq!(reason.code, ReasonCode::PolicyViolation);
                assert!(reason.message.contains(part), "{}", reason.message);
            }
        }
    }

    #[test]
    fn nothing_leaves_the_project() {
        let mount = |source: &str, read_only: bool| {
            let volume = json!({ "type": "bind", "source": source, "target": "/x", "read_only": read_only });
            json!({ "services": { "app": { "volumes": [volume] } } })
        };
        check(json!({ "networks": { "default": { "name": "shop--pr-1_default" } } }), None);
        check(json!({ "networks": { "default": { "name": "shop_default" } } }), Some("networks.default"));
        check(json!({ "volumes": { "data": { "name": "shop--pr-1_data", "external": true } } }), Some("volumes.data"));
        check(json!({ "volumes": { "data": { "name": "shared" } } }), Some("volumes.data"));
        check(json!({ "services": { "app": { "container_name": "shop" } } }), Some("container_name"));
        check(json!({ "services": { "app": { "ports": [{ "published": "8080" }] } } }), None);
        check(mount("/state/previews/shop--pr-1/data", false), None);
        check(mount("/state/previews/shop--pr-1/../shop--pr-2", false), Some("may write to it"));
        check(mount("/srv/uploads", false), Some("may write to it"));
        check(mount("/srv/uploads", true), None);
    }

    #[test]
    fn what_a_preview_planted_leads_nothing_out_of_it() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let [template, own, host] = ["template", "own", "host"].map(|name| folder.path().join(name));
        for made in [&template.join("conf"), &own, &host] {
            std::fs::create_dir_all(made).unwrap();
        }
        for (path, text) in
            [(template.join(".env"), "A=1"), (template.join("conf/x"), "x"), (host.join("cron"), "host")]
        {
            std::fs::write(path, text).unwrap();
        }
        let copy = || Copying::default().folder(&template, &own, 0);
        let of_host = || std::fs::read_to_string(host.join("cron")).unwrap();
        // A link to a file of the host, one to a file that is not there, a pipe.
        symlink(host.join("cron"), own.join(".env")).unwrap();
        copy().unwrap();
        assert_eq!((of_host().as_str(), std::fs::read_to_string(own.join(".env")).unwrap().as_str()), ("host", "A=1"));
        std::fs::remove_file(own.join(".env")).unwrap();
        symlink(host.join("new"), own.join(".env")).unwrap();
        copy().unwrap();
        assert!(!host.join("new").exists() && own.join(".env").is_file());
        std::fs::remove_file(own.join(".env")).unwrap();
        nix::unistd::mkfifo(&own.join(".env"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        copy().unwrap();
        assert!(own.join(".env").is_file());
        // A link to a folder of the host, in the middle and at the top.
        std::fs::remove_dir_all(own.join("conf")).unwrap();
        symlink(&host, own.join("conf")).unwrap();
        assert!(copy().is_err() && !host.join("x").exists());
        std::fs::remove_dir_all(&own).unwrap();
        symlink(&host, &own).unwrap();
        assert!(copy().is_err() && !host.join(".env").exists());
    }

    #[test]
    fn a_template_is_copied_and_what_is_beside_it_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (template, own) = (folder.path().join("template"), folder.path().join("own"));
        std::fs::create_dir_all(template.join("conf")).unwrap();
        std::fs::write(template.join(".env"), "A=1").unwrap();
        std::fs::write(template.join("conf/x"), "x").unwrap();
        std::os::unix::fs::symlink(template.join(".env"), template.join("link")).unwrap();
        Copying::default().folder(&template, &own, 0).unwrap();
        std::fs::write(own.join("data"), "kept").unwrap();
        std::fs::write(own.join("link"), "changed").unwrap();
        std::fs::write(template.join(".env"), "A=2").unwrap();
        Copying::default().folder(&template, &own, 0).unwrap();
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(own.join(".env")), "A=2");
        assert_eq!((read(own.join("data")), read(own.join("conf/x"))), ("kept".to_owned(), "x".to_owned()));
        // The template itself was never written to.
        assert_eq!((read(own.join("link")), read(template.join("link"))), ("A=2".to_owned(), "A=2".to_owned()));
        std::os::unix::fs::symlink(&template, template.join("conf/loop")).unwrap();
        assert!(Copying::default().folder(&template, &own, 0).unwrap_err().message.contains("deep"));
    }

    #[test]
    fn a_template_at_its_limits_is_copied() {
        let copied = |prepare: &dyn Fn(&Path)| {
            let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            prepare(from.path());
            Copying { files: 0, bytes: 0 }.folder(from.path(), to.path(), 0).is_ok()
        };
        let files = |count: usize| {
            move |folder: &Path| {
                (0..count).for_each(|n| std::fs::write(folder.join(n.to_string()), "").unwrap());
            }
        };
        assert!(copied(&files(TEMPLATE_MAX_FILES)) && !copied(&files(TEMPLATE_MAX_FILES + 1)));
        let deep = |depth: usize| {
            move |folder: &Path| {
                std::fs::create_dir_all((0..depth).fold(folder.to_owned(), |path, _| path.join("d"))).unwrap();
            }
        };
        assert!(copied(&deep(TEMPLATE_MAX_DEPTH)) && !copied(&deep(TEMPLATE_MAX_DEPTH + 1)));
        // Sparse, so that it takes no disk; the larger one is refused before it is read.
        let sparse = |folder: &Path| {
            std::fs::File::create(folder.join("big")).unwrap().set_len(TEMPLATE_MAX_BYTES + 1).unwrap();
        };
        assert!(!copied(&sparse));
    }
}
