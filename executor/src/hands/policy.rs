//! What a compose file may ask of this host. Checked over the rendered stack, where nothing is hidden behind anchors or includes.

mod reads;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::promotion::PinnedImage;
use serde_json::Value;

/// Powers over the host that a compose file gets only where the host's configuration allows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Risk {
    Privileged,
    HostNetwork,
    HostPid,
    HostIpc,
    /// The user, UTS or control group namespace of the host.
    HostNamespaces,
    /// The engine's socket, or a folder that holds it.
    DockerSocket,
    /// The host's whole file system.
    RootMount,
    /// Capabilities with which a container can take over the host.
    Capabilities,
    /// Devices of the host.
    Devices,
    /// Compose's `provider`, which runs a program of the host.
    HostPrograms,
    /// Files that the host itself, or this executor, lives from.
    HostFiles,
    /// Namespaces or volumes of a container outside of the stack.
    ForeignContainers,
}

impl Risk {
    pub const ALL: [Self; 12] = [
        Self::Privileged,
        Self::HostNetwork,
        Self::HostPid,
        Self::HostIpc,
        Self::HostNamespaces,
        Self::DockerSocket,
        Self::RootMount,
        Self::Capabilities,
        Self::Devices,
        Self::HostPrograms,
        Self::HostFiles,
        Self::ForeignContainers,
    ];

    /// The key of the configuration's `[policy]` that allows it.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Privileged => "allow_privileged",
            Self::HostNetwork => "allow_host_network",
            Self::HostPid => "allow_host_pid",
            Self::HostIpc => "allow_host_ipc",
            Self::HostNamespaces => "allow_host_namespaces",
            Self::DockerSocket => "allow_docker_socket",
            Self::RootMount => "allow_root_mount",
            Self::Capabilities => "allow_capabilities",
            Self::Devices => "allow_devices",
            Self::HostPrograms => "allow_host_programs",
            Self::HostFiles => "allow_host_files",
            Self::ForeignContainers => "allow_foreign_containers",
        }
    }
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Privileged => "a privileged container",
            Self::HostNetwork => "the host's network",
            Self::HostPid => "the host's processes",
            Self::HostIpc => "the host's shared memory",
            Self::HostNamespaces => "a namespace of the host",
            Self::DockerSocket => "the engine's socket",
            Self::RootMount => "the host's root file system",
            Self::Capabilities => "a capability that can take over the host",
            Self::Devices => "a device of the host",
            Self::HostPrograms => "to run a program of the host",
            Self::HostFiles => "files that the host lives from",
            Self::ForeignContainers => "what belongs to a container outside of the stack",
        })
    }
}

/// What this host allows; by default nothing of [`Risk`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    pub allow: BTreeSet<Risk>,
}

const DANGEROUS_CAPABILITIES: [&str; 9] =
    ["ALL", "SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE", "SYS_RAWIO", "DAC_READ_SEARCH", "SYS_BOOT", "MAC_ADMIN", "BPF"];
const SOCKETS: [&str; 5] = [
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/var/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
];
/// The engine's own data: as good as its socket.
const ENGINE_DATA: [&str; 2] = ["/var/lib/docker", "/var/lib/containerd"];

/// The host itself; below [`HostPaths::state_dir`] there are keys and the journal too.
const HOST_FILES: [&str; 5] = ["/etc", "/root", "/proc", "/sys", "/boot"];
/// What stacks commonly mount to tell time and to check certificates; fine as long as they cannot write to it.
const HARMLESS_TO_READ: [&str; 4] = ["/etc/localtime", "/etc/timezone", "/etc/ssl/certs", "/etc/ca-certificates"];

/// Places on this host that matter to what may be mounted.
pub(crate) struct HostPaths {
    pub(crate) engine_socket: Option<PathBuf>,
    /// The executor's own.
    pub(crate) state_dir: PathBuf,
    /// The stack's own, wherever it is.
    pub(crate) stack_dir: PathBuf,
}

impl Policy {
    /// # Errors
    /// [`ReasonCode::PolicyViolation`] that names service and rule.
    pub(crate) fn check(&self, model: &Value, paths: &HostPaths) -> Result<(), Reason> {
        let services = model.get("services").and_then(Value::as_object);
        for (name, service) in services.into_iter().flatten() {
            let mut risks = service_risks(service);
            risks.extend(mounted(service).filter_map(|mount| mount_risk(&mount, paths)));
            self.refuse(&format!("service {name} asks for"), &risks)?;
        }
        for kind in ["volumes", "secrets", "configs"] {
            let entries = model.get(kind).and_then(Value::as_object);
            for (name, entry) in entries.into_iter().flatten() {
                let path = |value: Option<&Value>| {
                    value.and_then(Value::as_str).filter(|path| path.starts_with('/')).map(PathBuf::from)
                };
                let file = path(entry.get("file"));
                let mut risks: Vec<Risk> = [file.clone(), path(entry.pointer("/driver_opts/device"))]
                    .into_iter()
                    .flatten()
                    .filter_map(|path| mount_risk(&Mount { path, read_only: false }, paths))
                    .collect();
                // Compose hands the file's content to the container, whoever may read it on this host.
                risks.extend(file.is_some_and(|file| !is_within(&file, &paths.stack_dir)).then_some(Risk::HostFiles));
                self.refuse(&format!("{kind}.{name} asks for"), &risks)?;
            }
        }
        let networks = model.get("networks").and_then(Value::as_object);
        for (name, network) in networks.into_iter().flatten() {
            let is_host = ["name", "driver"].iter().any(|key| network.get(key).and_then(Value::as_str) == Some("host"));
            self.refuse(&format!("networks.{name} asks for"), if is_host { &[Risk::HostNetwork] } else { &[] })?;
        }
        Ok(())
    }

    fn refuse(&self, who: &str, risks: &[Risk]) -> Result<(), Reason> {
        match risks.iter().find(|risk| !self.allow.contains(risk)) {
            None => Ok(()),
            Some(risk) => {
                Err(Reason::new(ReasonCode::PolicyViolation, format!("{who} {risk}, which this host does not allow"))
                    .hint(format!(
                        "drop it from the compose file, or set {} = true under [policy] on this host",
                        risk.setting()
                    )))
            }
        }
    }
}

fn service_risks(service: &Value) -> Vec<Risk> {
    let is = |key: &str, value: &str| service.get(key).and_then(Value::as_str) == Some(value);
    let is_true = |value: Option<&Value>| value.and_then(Value::as_bool) == Some(true);
    let filled = |key: &str| {
        service.get(key).is_some_and(|value| !value.is_null() && value.as_array().is_none_or(|a| !a.is_empty()))
    };
    let hooks = ["post_start", "pre_stop"].into_iter().filter_map(|key| service.get(key)?.as_array()).flatten();
    let unconfined =
        strings(service.get("security_opt")).any(|option| option.ends_with("unconfined") || option.contains("disable"));
    let capable = strings(service.get("cap_add")).any(|capability| {
        let capability = capability.to_ascii_uppercase();
        DANGEROUS_CAPABILITIES.contains(&capability.trim_start_matches("CAP_"))
    });
    let foreign = ["network_mode", "pid", "ipc", "uts", "userns_mode", "cgroup"]
        .iter()
        .any(|key| service.get(key).and_then(Value::as_str).is_some_and(|value| value.starts_with("container:")))
        || strings(service.get("volumes_from")).any(|from| from.starts_with("container:"))
        || filled("external_links");
    [
        (foreign, Risk::ForeignContainers),
        (
            is_true(service.get("privileged")) || hooks.clone().any(|hook| is_true(hook.get("privileged"))),
            Risk::Privileged,
        ),
        (is("network_mode", "host") || service.pointer("/networks/host").is_some(), Risk::HostNetwork),
        (is("pid", "host"), Risk::HostPid),
        (is("ipc", "host"), Risk::HostIpc),
        (is("userns_mode", "host") || is("uts", "host") || is("cgroup", "host"), Risk::HostNamespaces),
        (is_true(service.get("use_api_socket")), Risk::DockerSocket),
        (capable || unconfined, Risk::Capabilities),
        (filled("devices") || filled("device_cgroup_rules"), Risk::Devices),
        (filled("provider"), Risk::HostPrograms),
    ]
    .into_iter()
    .filter_map(|(asked, risk)| asked.then_some(risk))
    .collect()
}

fn strings(list: Option<&Value>) -> impl Iterator<Item = &str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

struct Mount {
    path: PathBuf,
    read_only: bool,
}

fn mounted(service: &Value) -> impl Iterator<Item = Mount> {
    let volumes = service.get("volumes").and_then(Value::as_array).into_iter().flatten();
    volumes.filter(|volume| volume.get("type").and_then(Value::as_str) == Some("bind")).filter_map(|volume| {
        let read_only = volume.get("read_only").and_then(Value::as_bool) == Some(true);
        Some(Mount { path: PathBuf::from(volume.get("source")?.as_str()?), read_only })
    })
}

/// A link to the socket is the socket, so both what is written and what it leads to are looked at.
fn mount_risk(mount: &Mount, paths: &HostPaths) -> Option<Risk> {
    let written = lexical(&mount.path);
    let real = std::fs::canonicalize(&mount.path).unwrap_or_else(|_| written.clone());
    let harmless =
        mount.read_only && HARMLESS_TO_READ.iter().any(|path| written.starts_with(path) && !written.ends_with(".."));
    [written, real].iter().find_map(|path| {
        if path == Path::new("/") {
            return Some(Risk::RootMount);
        }
        let socket = paths.engine_socket.as_deref();
        let holds_socket = SOCKETS.iter().map(Path::new).chain(socket).any(|socket| socket.starts_with(path));
        let in_engine_data = ENGINE_DATA.iter().any(|data| Path::new(data).starts_with(path) || path.starts_with(data));
        if holds_socket || in_engine_data {
            return Some(Risk::DockerSocket);
        }
        if is_within(path, &paths.stack_dir) {
            return None;
        }
        let of_host = HOST_FILES.iter().any(|folder| path.starts_with(folder));
        let of_executor = path.starts_with(&paths.state_dir) || paths.state_dir.starts_with(path);
        (of_executor || of_host && !harmless).then_some(Risk::HostFiles)
    })
}

/// Whether the path, as it is written or where it leads to, is below the folder.
fn is_within(path: &Path, folder: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| lexical(path));
    real(path).starts_with(real(folder))
}

/// Resolves `.` and `..` without asking the file system.
pub(crate) fn lexical(path: &Path) -> PathBuf {
    let mut resolved = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => drop(resolved.pop()),
            Component::Normal(part) => resolved.push(part),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    resolved
}

/// # Errors
/// [`ReasonCode::PolicyViolation`] for an image from elsewhere than the allowed registries and repositories.
pub(crate) fn check_registry<'a>(
    images: impl Iterator<Item = &'a PinnedImage>,
    allowed: &[String],
) -> Result<(), Reason> {
    if allowed.is_empty() {
        return Ok(());
    }
    for image in images {
        let repository = super::credentials::full_repository(&image.repository);
        let known = allowed.iter().any(|prefix| {
            let prefix = prefix.trim_end_matches('/');
            repository.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        if !known {
            let message = format!("image {} is not from a registry that this host allows", image.repository);
            return Err(Reason::new(ReasonCode::PolicyViolation, message).hint(format!(
                "allowed are {}; see allowed_registries in the host's configuration",
                allowed.join(", ")
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use landfall_schema::ids::Digest;
    use serde_json::json;

    fn paths() -> HostPaths {
        HostPaths {
            engine_socket: Some("/srv/engine.sock".into()),
            state_dir: "/srv/landfall/state".into(),
            stack_dir: "/root/shop".into(),
        }
    }

    fn check(service: Value, expect: Option<Risk>) {
        let model = json!({ "services": { "app": service.clone() } });
        let found = Policy::default().check(&model, &paths());
        match expect {
            None => assert_eq!(found, Ok(()), "{service}"),
            Some(risk) => {
                let reason = found.unwrap_err();
                assert_eq!(reason.code, ReasonCode::PolicyViolation);
                assert!(
                    reason.message.contains("service app") && reason.message.contains(&risk.to_string()),
                    "{}",
                    reason.message
                );
                assert!(reason.hint.unwrap().contains(risk.setting()), "{service}");
                let allowing = Policy { allow: BTreeSet::from([risk]) };
                assert_eq!(allowing.check(&model, &paths()), Ok(()), "{service}");
            }
        }
    }

    #[test]
    fn risks_are_found() {
        let bind = |source: &str| json!({ "volumes": [{ "type": "bind", "source": source, "target": "/x" }] });
        check(
            json!({ "image": "x", "ports": [], "volumes": [{ "type": "volume", "source": "data", "target": "/d" }] }),
            None,
        );
        check(bind("/opt/shop/conf"), None);
        check(json!({ "privileged": true }), Some(Risk::Privileged));
        check(json!({ "post_start": [{ "command": ["x"], "privileged": true }] }), Some(Risk::Privileged));
        check(json!({ "network_mode": "host" }), Some(Risk::HostNetwork));
        check(json!({ "pid": "host" }), Some(Risk::HostPid));
        check(json!({ "ipc": "host" }), Some(Risk::HostIpc));
        check(json!({ "userns_mode": "host" }), Some(Risk::HostNamespaces));
        check(json!({ "cap_add": ["cap_sys_admin"] }), Some(Risk::Capabilities));
        check(json!({ "cap_add": ["NET_BIND_SERVICE"] }), None);
        check(json!({ "security_opt": ["no-new-privileges:true"] }), None);
        check(json!({ "security_opt": ["seccomp:unconfined"] }), Some(Risk::Capabilities));
        check(json!({ "devices": [{ "source": "/dev/sda" }] }), Some(Risk::Devices));
        check(json!({ "provider": { "type": "x" } }), Some(Risk::HostPrograms));
        check(bind("/var/run/docker.sock"), Some(Risk::DockerSocket));
        check(bind("/var/./run/"), Some(Risk::DockerSocket));
        check(bind("/opt/../"), Some(Risk::RootMount));
        for path in [
            "/etc",
            "/etc/landfall",
            "/root/.ssh",
            "/proc",
            "/sys/fs",
            "/boot",
            "/srv/landfall",
            "/srv/landfall/state/x",
        ] {
            check(bind(path), Some(Risk::HostFiles));
        }
        check(bind("/root/shop/data"), None);
        check(bind("/root/shop/../other"), Some(Risk::HostFiles));
        let read = |source: &str| json!({ "volumes": [{ "type": "bind", "source": source, "target": "/x", "read_only": true }] });
        check(read("/etc/localtime"), None);
        check(bind("/etc/localtime"), Some(Risk::HostFiles));
        check(read("/etc/shadow"), Some(Risk::HostFiles));
        check(json!({ "network_mode": "container:other" }), Some(Risk::ForeignContainers));
        check(json!({ "network_mode": "service:db" }), None);
        check(json!({ "pid": "container:other" }), Some(Risk::ForeignContainers));
        check(json!({ "volumes_from": ["container:other"] }), Some(Risk::ForeignContainers));
        check(json!({ "volumes_from": ["db:ro"] }), None);
    }

    #[test]
    fn a_link_to_the_root_is_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("innocent");
        std::os::unix::fs::symlink("/", &link).unwrap();
        assert_eq!(mount_risk(&Mount { path: link, read_only: false }, &paths()), Some(Risk::RootMount));
    }

    #[test]
    fn volumes_and_secrets_are_looked_at() {
        let model = json!({ "volumes": { "v": { "driver_opts": { "type": "none", "o": "bind", "device": "/" } } } });
        assert!(Policy::default().check(&model, &paths()).unwrap_err().message.contains("volumes.v"));
        let model = json!({ "secrets": { "s": { "file": "/run/docker.sock" } } });
        assert!(Policy::default().check(&model, &paths()).unwrap_err().message.contains("secrets.s"));
        let secret = |path: &str| json!({ "secrets": { "s": { "file": path } } });
        assert!(Policy::default().check(&secret("/opt/other/secret"), &paths()).is_err());
        assert_eq!(Policy::default().check(&secret("/root/shop/secret"), &paths()), Ok(()));
        for network in [json!({ "name": "host" }), json!({ "driver": "host" })] {
            let reason = Policy::default().check(&json!({ "networks": { "n": network } }), &paths()).unwrap_err();
            assert!(reason.message.contains("networks.n asks for the host's network"), "{}", reason.message);
        }
    }

    #[test]
    fn registries() {
        let image =
            |repository: &str| PinnedImage { repository: repository.to_owned(), digest: Digest::of(b"x"), tag: None };
        let allowed = ["ghcr.io/acme".to_owned(), "127.0.0.1:5000/".to_owned()];
        let check = |repository: &str| check_registry([image(repository)].iter(), &allowed).is_ok();
        assert!(check("ghcr.io/acme/shop") && check("127.0.0.1:5000/shop"));
        assert!(!check("ghcr.io/acme2/shop") && !check("postgres") && !check("evil.example/ghcr.io/acme"));
        assert!(check_registry([image("postgres")].iter(), &["docker.io/library".to_owned()]).is_ok());
        assert!(check_registry([image("anything")].iter(), &[]).is_ok());
    }
}
