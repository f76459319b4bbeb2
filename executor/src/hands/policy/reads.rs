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
/// Of such a text, in how many characters after `extends` the file would be named.
const EXTENDS_CHARS: usize = 200;
/// Reading it ends at once; people put it where they want nothing.
const NOTHING: &str = "/dev/null";

impl Policy {
    /// # Errors
    /// [`ReasonCode::PolicyViolation`] that names the file, when it is outside of the stack's folder, or is a device or a pipe;
    /// [`ReasonCode::ComposeInvalid`] for what Compose must not be given.
    pub(crate) fn check_reads(&self, promotion: &Promotion, bundle: &Bundle, stack_dir: &Path) -> Result<(), Reason> {
        for file in &bundle.compose {
            let mut found = Found::default();
            match yaml::read(&file.content) {
                Ok(document) => {
                    found.collect(&document);
                    found.is_in_others |= document.get("include").is_some();
                }
                Err(bomb @ Unread::Bomb) => {
                    return Err(Reason::new(ReasonCode::ComposeInvalid, format!("{}: {bomb}", file.name))
                        .hint("write out what the aliases stand for, or leave it out"));
                }
                Err(Unread::Other) => found.guess(&file.content, stack_dir),
            }
            if let Some(path) = found.paths.iter().find(|path| is_endless(&stack_dir.join(path))) {
                let message = format!("{} reads {path:.200?}, which is no file", file.name);
                return Err(Reason::new(ReasonCode::PolicyViolation, message)
                    .hint("put a plain file there on this host, and look who has put something else into the folder"));
            }
            if self.allow.contains(&Risk::HostFiles) {
                continue;
            }
            let setting = format!("set {} = true under [policy] on this host", Risk::HostFiles.setting());
            if found.is_in_others {
                let message = format!("{} includes or extends another file, which nobody has signed", file.name);
                return Err(Reason::new(ReasonCode::PolicyViolation, message)
                    .hint(format!("put what it holds into the compose file that is promoted, or {setting}")));
            }
            let mut paths = found.paths.iter().chain(&found.guessed);
            if let Some(path) = paths.find(|path| !is_own(path, promotion, stack_dir)) {
                let message = format!("{} reads {path:.200?}, which is outside of the stack's folder", file.name);
                return Err(Reason::new(ReasonCode::PolicyViolation, message)
                    .hint(format!("put the file into the stack's folder on this host, or {setting}")));
            }
        }
        Ok(())
    }
}

/// What a compose file would have Compose read.
#[derive(Default)]
struct Found {
    paths: Vec<String>,
    /// Words of a text that may be paths, or something else.
    guessed: Vec<String>,
    /// Some of the stack is written elsewhere.
    is_in_others: bool,
}

impl Found {
    /// Wherever they stand: a service may be merged from anywhere in the document.
    fn collect(&mut self, node: &Value) {
        match node {
            Value::Array(items) => items.iter().for_each(|item| self.collect(item)),
            Value::Object(entries) => {
                for (key, value) in entries {
                    if FILE_KEYS.contains(&key.as_str()) {
                        strings(value, &mut self.paths);
                    }
                    self.is_in_others |= key == "extends" && value.get("file").is_some();
                    self.collect(value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// Of a text with tags that only Compose knows: whatever looks like a path, or is a file of the folder, once one of the words was used.
    fn guess(&mut self, text: &str, stack_dir: &Path) {
        if !WORDS.iter().any(|word| text.contains(word)) {
            return;
        }
        let is_separator = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '[' | ']' | '{' | '}');
        for word in text.split(is_separator).filter(|word| !word.is_empty()) {
            if word.starts_with('/') || word.contains("..") || has_absolute_default(word) {
                self.guessed.push(word.to_owned());
            } else if std::fs::metadata(stack_dir.join(word)).is_ok_and(|found| !found.is_dir()) {
                self.paths.push(word.to_owned());
            }
        }
        let is_included = text.lines().any(|line| line.trim_start_matches(['"', '\'']).starts_with("include"));
        let is_extended = text
            .split("extends")
            .skip(1)
            .any(|rest| rest.chars().take(EXTENDS_CHARS).collect::<String>().contains("file"));
        self.is_in_others |= is_included || is_extended;
    }
}

/// A path, a list of them, or a mapping with `path` and others.
fn strings(node: &Value, paths: &mut Vec<String>) {
    match node {
        Value::String(text) => paths.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, paths)),
        Value::Object(entries) => {
            entries.get("path").into_iter().for_each(|value| strings(value, paths));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// As in `${X:-/etc/shadow}` and `${X:+/etc/shadow}`.
fn has_absolute_default(text: &str) -> bool {
    text.contains("-/") || text.contains("+/")
}

/// A device or a pipe, of which Compose would read for ever: a container that has the folder mounted can put one into the place of a file.
fn is_endless(path: &Path) -> bool {
    path != Path::new(NOTHING) && std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
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
            "services: {app: {extends: {file: base.yml, service: x}}}",
            "services: {app: {image: !reset null, extends: {service: x, file: base.yml}}}",
            "include: [other.yml]\nservices: {}",
            "include: [other.yml]\nservices: {app: {image: !reset null}}",
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
    fn so_far_behind_extends_a_file_is_looked_for() {
        let (before, after) = (": {service: ", ", file");
        for (chars, is_allowed) in [(EXTENDS_CHARS, false), (EXTENDS_CHARS + 1, true)] {
            let service = "x".repeat(chars - before.len() - after.len());
            check(
                &format!("services: {{app: {{image: !reset null, extends{before}{service}{after}: b.yml}}}}"),
                is_allowed,
            );
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
