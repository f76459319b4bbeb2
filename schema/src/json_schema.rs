//! JSON Schema of everything on the wire and of the `x-landfall` settings, generated from the types. The files are checked in under
//! `schema/json/`; `schema-gen` writes them.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::dead_letter::DeadLetter;
use crate::event::{
    CloudEvent, SPEC_VERSION, TYPE_ABSOLVED, TYPE_APPROVED, TYPE_CONDEMNED, TYPE_DEAD_LETTER, TYPE_ENVIRONMENT_FROZEN,
    TYPE_ENVIRONMENT_POLICY, TYPE_HALTED, TYPE_MIGRATION_LEASE, TYPE_PRESENCE, TYPE_PROMOTED, TYPE_ROLLOUT_STATE,
};
use crate::gates::{Absolutions, Approval, CondemnedList, EnvironmentPolicy, Freezes};
use crate::halt::Halt;
use crate::lease::MigrationLease;
use crate::outcome::{Outcome, OutcomeKind};
use crate::presence::Presence;
use crate::promotion::Promotion;
use crate::rollout::RolloutState;
use crate::roster::Roster;
use crate::stack::{ServiceSettings, StackSettings};

/// One file of `schema/json/`.
#[derive(Debug, Clone, PartialEq)]
pub struct SchemaFile {
    pub name: &'static str,
    pub schema: Value,
}

impl SchemaFile {
    /// The file's text: indented, with a newline at its end, the same on every run.
    pub fn text(&self) -> String {
        format!("{:#}\n", self.schema)
    }
}

/// Every schema file.
pub fn files() -> Vec<SchemaFile> {
    let outcome_types: Vec<String> = OutcomeKind::ALL.iter().map(|kind| kind.event_type()).collect();
    vec![
        event::<Promotion>("release.promoted.v1.json", "A promotion: the order to deploy", &[TYPE_PROMOTED.to_owned()]),
        event::<Outcome>("outcome.v1.json", "What a host did with a promotion", &outcome_types),
        event::<Presence>("presence.v1.json", "A host's sign of life", &[TYPE_PRESENCE.to_owned()]),
        event::<Halt>("release.halted.v1.json", "What an operator says about a rollout", &[TYPE_HALTED.to_owned()]),
        event::<RolloutState>("rollout.state.v1.json", "The state of a rollout", &[TYPE_ROLLOUT_STATE.to_owned()]),
        event::<MigrationLease>(
            "migration.lease.v1.json",
            "Who migrates a database, and what became of it",
            &[TYPE_MIGRATION_LEASE.to_owned()],
        ),
        event::<EnvironmentPolicy>(
            "environment.policy.v1.json",
            "What a promotion to an environment must have",
            &[TYPE_ENVIRONMENT_POLICY.to_owned()],
        ),
        event::<Freezes>(
            "environment.frozen.v1.json",
            "The freezes of an environment",
            &[TYPE_ENVIRONMENT_FROZEN.to_owned()],
        ),
        event::<Approval>(
            "release.approved.v1.json",
            "An approval or a rejection of a promotion",
            &[TYPE_APPROVED.to_owned()],
        ),
        event::<CondemnedList>("release.condemned.v1.json", "Releases that did not work", &[TYPE_CONDEMNED.to_owned()]),
        event::<Absolutions>(
            "release.absolved.v1.json",
            "Condemned releases that may be promoted again",
            &[TYPE_ABSOLVED.to_owned()],
        ),
        event::<DeadLetter>(
            "deadletter.v1.json",
            "A message that an executor could not believe",
            &[TYPE_DEAD_LETTER.to_owned()],
        ),
        document::<Bundle>("bundle.v1.json", "The compose files that travel with a promotion"),
        document::<Roster>("roster.v1.json", "The public keys of a plan's hosts"),
        document::<StackSettings>("x-landfall.stack.json", "x-landfall at the top of a compose file"),
        document::<ServiceSettings>("x-landfall.service.json", "x-landfall of one service of a compose file"),
    ]
}

fn document<T: JsonSchema>(name: &'static str, title: &str) -> SchemaFile {
    SchemaFile { name, schema: titled(schema_of::<T>(), title) }
}

/// The envelope's schema, with its constant attributes pinned to what this event says there.
fn event<T: JsonSchema>(name: &'static str, title: &str, types: &[String]) -> SchemaFile {
    let mut schema = titled(schema_of::<CloudEvent<T>>(), title);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("specversion".to_owned(), json!({ "const": SPEC_VERSION }));
        let types = match types {
            [one] => json!({ "const": one }),
            several => json!({ "enum": several }),
        };
        properties.insert("type".to_owned(), types);
        properties.insert("time".to_owned(), json!({ "type": "string", "format": "date-time" }));
        properties.insert("datacontenttype".to_owned(), json!({ "const": "application/json" }));
    }
    SchemaFile { name, schema }
}

fn schema_of<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>()
}

fn titled(schema: Schema, title: &str) -> Value {
    let mut value = schema.to_value();
    if let Some(object) = value.as_object_mut() {
        object.insert("title".to_owned(), json!(title));
    }
    value
}
