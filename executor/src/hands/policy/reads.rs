//! Files of this host that Compose itself would read for a compose file. What is in them ends in a container's environment, or in an error
//! message, so they are looked at before Compose is.

use std::path::Path;

use landfall_schema::bundle::Bundle;
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::promotion::Promotion;
use serde_json::Value;

use super::{Policy, Risk, is_within};
use crate::hands::yaml::{self, Unread};

/// Keys under which a service names such files.
const FILE_KEYS: [&str; 2] = ["env_file", "label_file"];
/// A document that only Compose understands is judged line by line.
const WORDS: [&str; 4] = ["env_file", "label_file", "include", "extends"];

impl Policy {
    /// # Errors
    /// [`ReasonCode::PolicyViolation`] that names the file, when it is outside of the stack's folder, or is a device or a pipe;
    /// [`ReasonCode::ComposeInvalid`] for what Compose must not be given.
    pub(crate) fn check_reads(&self, promotion: &Promotion, bundle: &Bundle, stack_dir: &Path) -> Result<(), Reason> {
        for file in &bundle.compose {
            let mut paths = Vec::new();
            match yaml::read(&file.content) {
                Ok(document) => {
                    collect(&document, &mut paths);
                    document.get("include").into_iter().for_each(|include| strings(include, &mut paths));
                }
                Err(bomb @ Unread::Bomb) => {
                    return Err(Reason::new(ReasonCode::ComposeInvalid, format!("{}: {bomb}", file.name))
                        .hint("write out what the aliases stand for, or leave it out"));
                }
                Err(Unread::Other) => lines(&file.content, &mut paths),
            }
            if let Some(path) = paths.iter().find(|path| is_endless(&stack_dir.join(path))) {
                let message = format!("{} reads {path:.200?}, which is no file", file.name);
                return Err(Reason::new(ReasonCode::PolicyViolation, message)
                    .hint("put a plain file there on this host, and look who has put something else into the folder"));
            }
            if self.allow.contains(&Risk::HostFiles) {
                continue;
            }
            if let Some(path) = paths.iter().find(|path| !is_own(path, promotion, stack_dir)) {
                let message = format!("{} reads {path:.200?}, which is outside of the stack's folder", file.name);
                return Err(Reason::new(ReasonCode::PolicyViolation, message).hint(format!(
                    "put the file into the stack's folder on this host, or set {} = true under [policy] there",
                    Risk::HostFiles.setting()
                )));
            }
        }
        Ok(())
    }
}

/// Wherever they stand: a service may be merged from anywhere in the document.
fn collect(node: &Value, paths: &mut Vec<String>) {
    match node {
        Value::Array(items) => items.iter().for_each(|item| collect(item, paths)),
        Value::Object(entries) => {
            for (key, value) in entries {
                if FILE_KEYS.contains(&key.as_str()) {
                    strings(value, paths);
                } else if key == "extends" {
                    value.get("file").into_iter().for_each(|file| strings(file, paths));
                }
                collect(value, paths);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A path, a list of them, or a mapping with `path` and others.
fn strings(node: &Value, paths: &mut Vec<String>) {
    match node {
        Value::String(text) => paths.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, paths)),
        Value::Object(entries) => {
            let named = ["path", "env_file", "project_directory"].iter().filter_map(|key| entries.get(*key));
            named.for_each(|value| strings(value, paths));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Of a text with tags that only Compose knows: whatever looks like a path once one of the words was used.
fn lines(text: &str, paths: &mut Vec<String>) {
    if WORDS.iter().any(|word| text.contains(word)) {
        let is_separator = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '[' | ']' | '{' | '}');
        let looks = |word: &&str| word.starts_with('/') || word.contains("..") || has_absolute_default(word);
        paths.extend(text.split(is_separator).filter(looks).map(str::to_owned));
    }
}

/// As in `${X:-/etc/shadow}` and `${X:+/etc/shadow}`.
fn has_absolute_default(text: &str) -> bool {
    text.contains("-/") || text.contains("+/")
}

/// A device or a pipe, of which Compose would read for ever: a container that has the folder mounted can put one into the place of a file.
fn is_endless(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// With a variable in it, a path is what is written around it and whatever the promotion says for it; the host's own values are the host's.
fn is_own(path: &str, promotion: &Promotion, stack_dir: &Path) -> bool {
    // With `$X` in front, what follows a slash is under whatever the host says for X, and from the root when it says nothing.
    if has_absolute_default(path) || (path.starts_with('$') && path.contains('/')) {
        return false;
    }
    if !path.contains('$') {
        return is_within(&stack_dir.join(path), stack_dir);
    }
    let climbs = |text: &str| text.contains("..") || text.starts_with('/');
    let said = promotion.variables.iter().filter(|(name, _)| path.contains(name.as_str()));
    !climbs(path) && said.into_iter().all(|(_, value)| !value.contains("..") && !value.contains('/'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use landfall_schema::bundle::BundleFile;

    use super::*;

    fn check(content: &str, is_allowed: bool) {
        let compose = vec![BundleFile { name: "compose.yml".to_owned(), content: content.to_owned() }];
        let bundle = Bundle { version: 1, compose };
        let mut promotion = crate::samples::promotion(1);
        promotion.variables.insert("FROM_CI".to_owned(), "/etc/shadow".to_owned());
        promotion.variables.insert("MODE".to_owned(), "production".to_owned());
        let judged = Policy::default().check_reads(&promotion, &bundle, Path::new("/opt/shop"));
        assert_eq!(judged.is_ok(), is_allowed, "{content}: {judged:?}");
        let all = Policy { allow: BTreeSet::from([Risk::HostFiles]) };
        assert!(all.check_reads(&promotion, &bundle, Path::new("/opt/shop")).is_ok());
    }

    #[test]
    fn files_of_the_host_are_not_read_into_a_stack() {
        for own in [
            "services: {app: {env_file: .env}}",
            "services: {app: {env_file: [./a.env, {path: conf/b.env, required: false}]}}",
            "services: {app: {env_file: '${ENV_FILE:-app.env}'}}",
            "services: {app: {env_file: '${MODE}.env'}}",
            "services: {app: {env_file: /opt/shop/app.env, extends: {service: base}}, base: {}}",
            "services: {app: {image: x, command: [cat, /etc/shadow, ../x]}}",
            "services: {app: {image: !reset null, env_file: app.env}}",
        ] {
            check(own, true);
        }
        for foreign in [
            "services: {app: {env_file: /etc/shadow}}",
            "services: {app: {env_file: ../other/.env}}",
            "services: {app: {env_file: [app.env, {path: ../../etc/passwd, required: false}]}}",
            "services: {app: {\"env\\x5ffile\": /etc/shadow}}",
            "services: {app: {label_file: /etc/shadow}}",
            "services: {app: {env_file: '${FROM_CI}'}}",
            "services: {app: {env_file: '${X:-/etc/shadow}'}}",
            "services: {app: {env_file: '${X}/../../etc/shadow'}}",
            "services: {app: {extends: {file: /etc/shadow, service: x}}}",
            "include: [/etc/shadow]\nservices: {}",
            "include: [{path: [a.yml, ../../x.yml]}]\nservices: {}",
            "include: [{path: a.yml, env_file: /etc/shadow}]\nservices: {}",
            "x-a: &a {env_file: /etc/shadow}\nservices: {app: {<<: *a}}",
            "services:\n  app: !override\n    env_file: !override [/etc/shadow]\n",
        ] {
            check(foreign, false);
        }
    }

    #[test]
    fn what_never_ends_is_not_given_to_compose() {
        let folder = tempfile::tempdir().unwrap();
        let told = |of: &str| {
            let content = format!("services: {{app: {{env_file: [{{path: ./{of}, required: false}}]}}}}");
            let bundle = Bundle { version: 1, compose: vec![BundleFile { name: "compose.yml".to_owned(), content }] };
            let policy = Policy { allow: BTreeSet::from([Risk::HostFiles]) };
            policy.check_reads(&crate::samples::promotion(1), &bundle, folder.path()).map_err(|reason| reason.message)
        };
        std::fs::write(folder.path().join("file"), "A=1").unwrap();
        nix::unistd::mkfifo(&folder.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.path().join("device")).unwrap();
        assert_eq!((told("file"), told("none")), (Ok(()), Ok(())));
        for (of, why) in ["pipe", "device"].map(|of| (of, format!("compose.yml reads \"./{of}\", which is no file"))) {
            assert_eq!(told(of), Err(why));
        }
    }
}
