//! Compose files taken together, as Compose merges them: later ones override earlier ones, service by service.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::lint::problem::{Place, Problem};
use crate::lint::yaml::{self, Node, Value};

/// Longest chain of `extends` within the files.
const EXTENDS_MAX: usize = 16;

/// One compose file; a text with several documents counts as that many files, one after the other.
#[derive(Debug)]
pub(super) struct Sheet {
    /// Index of the file.
    pub(super) file: usize,
    pub(super) root: Rc<Node>,
}

/// One service's part in one file.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) file: usize,
    pub(super) name_at: Place,
    pub(super) node: Rc<Node>,
}

#[derive(Debug, Default)]
pub(super) struct Sheets {
    pub(super) all: Vec<Sheet>,
    pub(super) services: BTreeMap<String, Vec<Part>>,
}

impl Sheets {
    /// Reads the texts; what is no YAML, or not of a compose file's form, is a problem.
    pub(super) fn read(texts: &[&str]) -> (Self, Vec<Problem>) {
        let mut sheets = Self::default();
        let mut problems = Vec::new();
        for (file, text) in texts.iter().enumerate() {
            let (documents, faults) = yaml::parse(text);
            problems.extend(faults.into_iter().map(|fault| Problem::error(file, fault.at, "yaml", fault.message)));
            for root in documents {
                match &root.value {
                    Value::Map(_) => sheets.all.push(Sheet { file, root }),
                    Value::Null => {}
                    _ => {
                        let message = format!("a compose file is a mapping, this is {}", root.kind());
                        problems.push(Problem::error(file, root.at, "wrong-type", message));
                    }
                }
            }
        }
        sheets.collect_services(&mut problems);
        (sheets, problems)
    }

    fn collect_services(&mut self, problems: &mut Vec<Problem>) {
        for sheet in &self.all {
            let Some(services) = sheet.root.entry("services") else { continue };
            if !matches!(services.value.value, Value::Map(_) | Value::Null) {
                let message = format!("services must be a mapping, this is {}", services.value.kind());
                problems.push(Problem::error(sheet.file, services.value.at, "wrong-type", message));
            }
            for entry in services.value.entries() {
                if !matches!(entry.value.value, Value::Map(_)) {
                    let message =
                        format!("the service `{}` must be a mapping, this is {}", entry.key, entry.value.kind());
                    problems.push(Problem::error(sheet.file, entry.key_at, "wrong-type", message));
                    continue;
                }
                let part = Part { file: sheet.file, name_at: entry.key_at, node: entry.value.clone() };
                self.services.entry(entry.key.clone()).or_default().push(part);
            }
        }
    }

    /// A key at the top of any of the files.
    pub(super) fn top(&self, key: &str) -> impl Iterator<Item = (usize, &yaml::Entry)> {
        self.all.iter().filter_map(move |sheet| sheet.root.entry(key).map(|entry| (sheet.file, entry)))
    }

    /// Whether services may come from files that are not here.
    pub(super) fn includes_others(&self) -> bool {
        self.top("include").next().is_some()
    }

    /// A setting of a service after merging, in which file; `!reset` takes it away.
    pub(super) fn setting(&self, service: &str, key: &str) -> Option<(usize, &Node)> {
        self.setting_within(service, key, EXTENDS_MAX)
    }

    fn setting_within(&self, service: &str, key: &str, left: usize) -> Option<(usize, &Node)> {
        let parts = self.services.get(service)?;
        if let Some((file, node)) = own(parts, key) {
            return (!node.is_null()).then_some((file, node));
        }
        let (_, base) = own(parts, "extends")?;
        let base = base.text().or_else(|| base.get("service")?.text())?;
        if left == 0 || self.extends_file(service).is_some() {
            return None;
        }
        self.setting_within(base, key, left - 1)
    }

    /// The `file` of a service's own `extends`.
    pub(super) fn extends_file(&self, service: &str) -> Option<(usize, &Node)> {
        let (file, extends) = own(self.services.get(service)?, "extends")?;
        extends.get("file").map(|node| (file, node))
    }

    /// Whether a part of the service stands in a file that is not here, directly or through a base.
    pub(super) fn is_partly_elsewhere(&self, service: &str) -> bool {
        let mut name = service;
        for _ in 0..EXTENDS_MAX {
            if self.extends_file(name).is_some() {
                return true;
            }
            let extends = self.services.get(name).and_then(|parts| own(parts, "extends"));
            match extends.and_then(|(_, base)| base.text().or_else(|| base.get("service")?.text())) {
                Some(base) => name = base,
                None => return false,
            }
        }
        false
    }
}

fn own<'a>(parts: &'a [Part], key: &str) -> Option<(usize, &'a Node)> {
    parts.iter().rev().find_map(|part| part.node.get(key).map(|node| (part.file, node)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_services_is_followed_to_its_limit() {
        let image_after = |links: usize| {
            let chain: String = (0..links).map(|n| format!("  s{n}: {{extends: s{}}}\n", n + 1)).collect();
            let (sheets, problems) = Sheets::read(&[&format!("services:\n{chain}  s{links}: {{image: x}}\n")]);
            assert!(problems.is_empty());
            sheets.setting("s0", "image").is_some()
        };
        assert!(image_after(EXTENDS_MAX) && !image_after(EXTENDS_MAX + 1));
    }
}
