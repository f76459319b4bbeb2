//! Who may depend on whom. The folders show the architecture; this test keeps them honest.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

/// Crate of ours -> those of ours that it may depend on.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("landfall-fuzz", &[]),
    ("landfall-schema", &[]),
    ("landfall-telemetry", &[]),
    ("landfall-sql", &[]),
    ("landfall-deploy", &["landfall-schema"]),
    ("landfall-bus", &["landfall-schema"]),
    (
        "landfall-executor",
        &["landfall-schema", "landfall-deploy", "landfall-bus", "landfall-telemetry", "landfall-sql"],
    ),
    ("landfall", &["landfall-schema", "landfall-deploy", "landfall-bus", "landfall-telemetry", "landfall-sql"]),
    ("landfall-audit", &["landfall-schema", "landfall-bus", "landfall-telemetry"]),
];

/// What the fuzz targets have in common; every crate's tests may use it.
const FUZZ: &str = "landfall-fuzz";

/// They try the others, and may use all of them.
const UNSHIPPED: [&str; 2] = ["landfall-tests", "landfall-simulation"];

/// The whole dependency list of the engine: nothing in it can do IO, read a clock or spawn.
const DEPLOY: [&str; 6] = ["croner", "jiff", "landfall-schema", "serde", "serde_json", "thiserror"];

struct Package {
    /// Name, and whether it is needed for tests alone.
    dependencies: Vec<(String, bool)>,
    has_program: bool,
}

fn packages() -> Result<BTreeMap<String, Package>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let mut packages = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let dependencies = dependencies.map(|one| (text(&one["name"]), one["kind"] == "dev")).collect();
        let targets = package["targets"].as_array().into_iter().flatten();
        let has_program = targets.flat_map(|target| target["kind"].as_array()).flatten().any(|kind| kind == "bin");
        packages.insert(text(&package["name"]), Package { dependencies, has_program });
    }
    Ok(packages)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[test]
fn dependencies_point_one_way() -> Result<()> {
    let packages = packages()?;
    let ours: BTreeSet<&str> = packages.keys().map(String::as_str).collect();
    for (name, allowed) in ALLOWED {
        let Some(package) = packages.get(name) else { panic!("there is no crate {name}; ours are {ours:?}") };
        let of_ours = package.dependencies.iter().filter(|(dependency, _)| ours.contains(dependency.as_str()));
        for (dependency, _) in of_ours.filter(|(dependency, dev)| !(*dev && dependency == FUZZ)) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
    let listed: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).chain(UNSHIPPED).collect();
    assert_eq!(ours, listed, "a new crate needs its place in the architecture");
    Ok(())
}

#[test]
fn programs_do_not_depend_on_each_other() -> Result<()> {
    let packages = packages()?;
    // The schema's program writes its files.
    let is_shipped = |name: &str| name != "landfall-schema" && !UNSHIPPED.contains(&name);
    let is_program = |name: &str| is_shipped(name) && packages.get(name).is_some_and(|package| package.has_program);
    for (name, package) in packages.iter().filter(|(name, _)| is_program(name)) {
        for (dependency, _) in &package.dependencies {
            assert!(!is_program(dependency), "{name} must not depend on {dependency}");
        }
    }
    assert_eq!(packages.keys().filter(|name| is_program(name)).count(), 3);
    Ok(())
}

#[test]
fn the_engine_has_nothing_to_do_io_with() -> Result<()> {
    let packages = packages()?;
    let mut needed: Vec<&str> = packages["landfall-deploy"]
        .dependencies
        .iter()
        .filter(|(_, dev)| !dev)
        .map(|(name, _)| name.as_str())
        .collect();
    needed.sort_unstable();
    assert_eq!(needed, DEPLOY);
    let lints = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/clippy.toml"))?;
    for forbidden in ["std::time::SystemTime::now", "std::process::Command::new", "std::env::var"] {
        assert!(lints.contains(forbidden), "deploy/clippy.toml does not forbid {forbidden}");
    }
    Ok(())
}

#[test]
fn subjects_and_streams_are_spelled_in_one_place() -> Result<()> {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut found = Vec::new();
    for package in ["deploy", "bus", "telemetry", "executor", "producer", "audit"] {
        search(&root.join(package).join("src"), &mut found)?;
    }
    assert!(found.is_empty(), "subjects are spelled outside of schema/src/subject.rs:\n{}", found.join("\n"));
    Ok(())
}

/// Source lines before a file's tests that put a subject together.
fn search(folder: &std::path::Path, found: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            search(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(&path)?;
            let code = source.split("#[cfg(test)]").next().unwrap_or_default();
            let is_test = path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
            let lines = code.lines().enumerate().filter(|(_, line)| !is_test && !line.trim_start().starts_with("//"));
            let spells = |line: &str| ["\"landfall.{", "\"landfall.*"].iter().any(|start| line.contains(start));
            for (number, line) in lines.filter(|(_, line)| spells(line)) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    Ok(())
}

/// What can make much out of little, by the names of the crates that everybody uses for it.
const DECOMPRESSORS: [&str; 17] = [
    "async-compression",
    "brotli",
    "brotli-decompressor",
    "bzip2",
    "flate2",
    "inflate",
    "libflate",
    "lz4",
    "lz4_flex",
    "lzma-rs",
    "miniz_oxide",
    "ruzstd",
    "snap",
    "xz2",
    "zip",
    "zlib-rs",
    "zstd",
];

/// No bomb goes off where nothing is unpacked: bundles are JSON, layers are the Docker engine's business, and no answer of a registry or
/// of the bus is asked for, or read, in another encoding than its own.
#[test]
fn nothing_is_decompressed() -> Result<()> {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock"))?;
    let names: BTreeSet<&str> =
        lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    ensure!(names.contains("serde_json"), "Cargo.lock is not read as it should be");
    let found: Vec<&&str> = DECOMPRESSORS.iter().filter(|name| names.contains(**name)).collect();
    assert!(found.is_empty(), "{found:?} can decompress: bound what it makes, with a test, or leave it out");
    Ok(())
}
