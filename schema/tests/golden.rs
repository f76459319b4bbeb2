//! One golden file per event type and version. A change of the wire format shows as a change of these files, and old files must stay
//! readable. `UPDATE_GOLDEN=1 cargo test -p landfall-schema --test golden` rewrites them.
#![allow(clippy::unwrap_used)]

#[path = "golden/samples.rs"]
mod samples;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use landfall_schema::dead_letter::DeadLetter;
use landfall_schema::event::{
    CloudEvent, TYPE_ABSOLVED, TYPE_APPROVED, TYPE_CONDEMNED, TYPE_DEAD_LETTER, TYPE_ENVIRONMENT_FROZEN,
    TYPE_ENVIRONMENT_POLICY, TYPE_HALTED, TYPE_MIGRATION_LEASE, TYPE_PRESENCE, TYPE_PROMOTED, TYPE_ROLLOUT_STATE,
};
use landfall_schema::gates::{Absolutions, Approval, CondemnedList, EnvironmentPolicy, Freezes};
use landfall_schema::halt::Halt;
use landfall_schema::json_schema;
use landfall_schema::lease::MigrationLease;
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::presence::Presence;
use landfall_schema::promotion::Promotion;
use landfall_schema::rollout::RolloutState;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn root(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(part)
}

fn updating() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

/// Reads the golden file of this event type, after writing it anew when that was asked for.
fn golden(kind: &str, sample: &impl Serialize) -> Vec<u8> {
    let path = root("golden").join(format!("{kind}.json"));
    if updating() {
        fs::write(&path, format!("{:#}\n", serde_json::to_value(sample).unwrap())).unwrap();
    }
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run with UPDATE_GOLDEN=1 to write it", path.display()))
}

fn validator(file: &str) -> jsonschema::Validator {
    let schema = json_schema::files().into_iter().find(|candidate| candidate.name == file).unwrap();
    jsonschema::draft202012::new(&schema.schema).unwrap()
}

fn assert_valid(validator: &jsonschema::Validator, value: &Value, what: &str) {
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{what} against its JSON Schema:\n{}", errors.join("\n"));
}

/// Decodes, encodes to the same JSON, holds the schema, and tolerates what a later version adds.
fn check<T>(sample: &CloudEvent<T>, schema: &str)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let kind = sample.kind.as_str();
    let bytes = golden(kind, sample);
    let json: Value = serde_json::from_slice(&bytes).unwrap();
    let event = CloudEvent::<T>::decode(&bytes, kind).unwrap_or_else(|error| panic!("{kind}: {error}"));
    assert_eq!(&event, sample, "{kind} is what the sample says");

    let again: Value = serde_json::from_slice(&event.encode().unwrap()).unwrap();
    assert_eq!(again, json, "{kind} encodes to its golden file");

    let validator = validator(schema);
    assert_valid(&validator, &json, kind);

    let mut later = json.clone();
    later["dataschema"] = "https://example.org/later".into();
    later["data"]["added_later"] = serde_json::json!({ "any": ["thing"] });
    assert_valid(&validator, &later, kind);
    let read = CloudEvent::<T>::decode(&serde_json::to_vec(&later).unwrap(), kind).unwrap();
    assert_eq!(&read, sample, "{kind} with unknown fields reads as without");

    let mut broken = json;
    broken["data"].as_object_mut().unwrap().remove("env");
    assert!(!validator.is_valid(&broken), "{kind} without its environment is against the schema");
    assert!(CloudEvent::<T>::decode(&serde_json::to_vec(&broken).unwrap(), kind).is_err());
}

#[test]
fn promotion() {
    check::<Promotion>(&samples::promotion(), "release.promoted.v1.json");
}

#[test]
fn presence() {
    check::<Presence>(&samples::presence(), "presence.v1.json");
}

#[test]
fn halt() {
    check::<Halt>(&samples::halt(), "release.halted.v1.json");
}

#[test]
fn rollout_state() {
    check::<RolloutState>(&samples::rollout_state(), "rollout.state.v1.json");
}

#[test]
fn lease() {
    check::<MigrationLease>(&samples::lease(), "migration.lease.v1.json");
}

#[test]
fn gates() {
    check::<EnvironmentPolicy>(&samples::environment_policy(), "environment.policy.v1.json");
    check::<Freezes>(&samples::freezes(), "environment.frozen.v1.json");
    check::<Approval>(&samples::approval(), "release.approved.v1.json");
    check::<CondemnedList>(&samples::condemned(), "release.condemned.v1.json");
    check::<Absolutions>(&samples::absolutions(), "release.absolved.v1.json");
}

#[test]
fn dead_letter() {
    check::<DeadLetter>(&samples::dead_letter(), "deadletter.v1.json");
}

#[test]
fn every_outcome() {
    for kind in OutcomeKind::ALL {
        check::<Outcome>(&samples::outcome(*kind), "outcome.v1.json");
    }
}

#[test]
fn every_golden_file_belongs_to_an_event_type() {
    let mut expected: BTreeSet<String> = OutcomeKind::ALL.iter().map(|kind| kind.event_type()).collect();
    expected.extend(
        [TYPE_ENVIRONMENT_POLICY, TYPE_ENVIRONMENT_FROZEN, TYPE_APPROVED, TYPE_CONDEMNED, TYPE_ABSOLVED]
            .map(str::to_owned),
    );
    expected.extend(
        [TYPE_PROMOTED, TYPE_HALTED, TYPE_ROLLOUT_STATE, TYPE_MIGRATION_LEASE, TYPE_PRESENCE, TYPE_DEAD_LETTER]
            .map(str::to_owned),
    );
    let found: BTreeSet<String> = fs::read_dir(root("golden"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().trim_end_matches(".json").to_owned())
        .collect();
    assert!(found.is_subset(&expected), "no event type: {:?}", found.difference(&expected));
}

#[test]
fn schema_files_are_up_to_date() {
    for file in json_schema::files() {
        let path = root("json").join(file.name);
        if updating() {
            fs::write(&path, file.text()).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap();
        assert_eq!(found, file.text(), "{} is out of date; run make schemas", path.display());
    }
}

#[test]
fn a_reason_belongs_to_a_failure() {
    for kind in OutcomeKind::ALL {
        assert_eq!(samples::outcome(*kind).data.reason.is_some(), kind.is_failure(), "{kind}");
    }
}

#[test]
fn outcome_types_lead_back_to_their_kind() {
    for kind in OutcomeKind::ALL {
        assert_eq!(OutcomeKind::from_event_type(&kind.event_type()), Some(*kind));
        let json = serde_json::to_value(kind).unwrap();
        assert_eq!(json, kind.to_string(), "the name in JSON is noun.verb");
    }
    assert_eq!(OutcomeKind::from_event_type("dev.landfall.deploy.succeeded.v2"), None);
}
