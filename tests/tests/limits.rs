//! docs/LIMITS.md against the constants: every limit stands in it with its value, and nothing else does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const CRATES: [&str; 8] = ["schema", "deploy", "bus", "sql", "telemetry", "executor", "producer", "audit"];
/// Numbers that limit nothing: versions, units, signals, exit codes, and values that stand for something else.
const NO_LIMITS: [&str; 14] = [
    "BUNDLE_VERSION",
    "ROSTER_VERSION",
    "DAY",
    "HOUR_S",
    "EPOCH_MS",
    "HANG_UP",
    "INTERRUPT",
    "QUIT",
    "KILL",
    "TERMINATE",
    "IMPOSSIBLE_SEQUENCE",
    "EXIT_BROKEN_PIPE",
    "EXIT_USAGE",
    "PREPARE_LOCK_KEY",
];

/// A constant that is a number or a time, as it stands in the source.
struct Constant {
    name: String,
    kind: String,
    expression: String,
}

#[test]
fn every_limit_is_documented_with_its_value() -> Result<()> {
    let text = std::fs::read_to_string(Path::new(ROOT).join("docs/LIMITS.md"))?;
    let mut documented: BTreeMap<(String, String), String> = BTreeMap::new();
    let (mut tests, mut rows, mut tested) = (BTreeSet::new(), 0, 0);
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect();
        let [name, value, place, ..] = cells[..] else { bail!("an unreadable line: {line}") };
        let before = documented.insert((place.to_owned(), name.to_owned()), value.to_owned());
        ensure!(before.is_none(), "{place} {name} stands twice");
        // Without a test it says why there is none.
        let test = cells.get(4).filter(|test| !test.starts_with("— "));
        (rows, tested) = (rows + cells.len() / 5, tested + usize::from(test.is_some()));
        tests.extend(test.map(|test| (*test).to_owned()));
    }
    let counted = format!("({rows} limits, {tested} of them name a test)");
    ensure!(text.contains(&counted), "docs/LIMITS.md does not say {counted}");
    let (mut wrong, mut sources) = (Vec::new(), String::new());
    for name in CRATES {
        let mut found = Vec::new();
        constants(&Path::new(ROOT).join(name).join("src"), &mut found, &mut sources)?;
        for (place, constant) in found {
            let value = shown(&constant).with_context(|| format!("{place} {}", constant.name))?;
            match documented.remove(&(place.clone(), constant.name.clone())) {
                None => wrong.push(format!("not documented: | `{}` | {value} | `{place}` |", constant.name)),
                Some(said) if said != value => wrong.push(format!("{place} {}: {value}, not {said}", constant.name)),
                Some(_) => {}
            }
        }
    }
    wrong.extend(documented.into_keys().map(|(place, name)| format!("there is no {name} in {place}")));
    for folder in ["schema/tests", "deploy/tests", "executor/tests", "tests/tests"] {
        constants(&Path::new(ROOT).join(folder), &mut Vec::new(), &mut sources)?;
    }
    wrong.extend(
        tests.iter().filter(|test| !sources.contains(&format!("fn {test}("))).map(|test| format!("no test {test}")),
    );
    assert!(wrong.is_empty(), "docs/LIMITS.md is not what the code says:\n{}", wrong.join("\n"));
    Ok(())
}

fn constants(folder: &Path, found: &mut Vec<(String, Constant)>, sources: &mut String) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "bin") {
                constants(&path, found, sources)?;
            }
            continue;
        }
        if path.extension().is_none_or(|ending| ending != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        sources.push_str(&text);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if ["tests.rs", "fixtures.rs", "samples.rs", "fuzz.rs"].contains(&name.as_str()) {
            continue;
        }
        let place = path.strip_prefix(Path::new(ROOT))?.display().to_string();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        found.extend(code.split("const ").skip(1).filter_map(constant).map(|constant| (place.clone(), constant)));
    }
    Ok(())
}

/// What stands behind the word `const`, when it is a number or a time that may limit something.
fn constant(text: &str) -> Option<Constant> {
    let (name, rest) = text.split_once(": ")?;
    let (kind, rest) = rest.split_once(" =")?;
    let is_name = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    let known = ["u8", "u16", "u32", "u64", "usize", "i32", "i64", "Duration", "std::time::Duration"].contains(&kind);
    let expression = rest.split(';').next()?.trim().to_owned();
    (is_name && known && !NO_LIMITS.contains(&name)).then(|| Constant {
        name: name.to_owned(),
        kind: kind.to_owned(),
        expression,
    })
}

/// The value with its unit, which the last word of the name says.
fn shown(constant: &Constant) -> Result<String> {
    let name = constant.name.as_str();
    let value = value(&constant.expression)?;
    Ok(if constant.kind.ends_with("Duration") || name.ends_with("_MS") {
        time(value)
    } else if name.ends_with("_S") {
        time(value * 1_000)
    } else if name.ends_with("_KIB") {
        format!("{} KiB", value.abs())
    } else if name.contains("BYTES") {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "bytes")];
        in_units(value, &units)
    } else {
        value.to_string()
    })
}

fn time(ms: i128) -> String {
    in_units(ms, &[(86_400_000, "days"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms")])
}

fn in_units(value: i128, units: &[(i128, &str)]) -> String {
    let unit = units.iter().find(|(size, _)| value % size == 0);
    unit.map_or_else(|| value.to_string(), |(size, unit)| format!("{} {unit}", value / size))
}

/// Times in milliseconds. A product of numbers is all that the constants use.
fn value(expression: &str) -> Result<i128> {
    let expression = expression.trim_start_matches("std::time::");
    for (call, factor) in [("Duration::from_secs(", 1_000), ("Duration::from_millis(", 1)] {
        if let Some(inner) = expression.strip_prefix(call) {
            return Ok(factor * value(inner.strip_suffix(')').context("no closing bracket")?)?);
        }
    }
    expression
        .split('*')
        .map(|factor| match factor.trim() {
            "i64::MAX as u64" => Ok(i128::from(i64::MAX)),
            "HOUR_S" => Ok(3_600),
            number => number.replace('_', "").parse().with_context(|| format!("{number} is no number")),
        })
        .product()
}
