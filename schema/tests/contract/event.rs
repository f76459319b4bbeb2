use std::error::Error as _;

use landfall_schema::event::{CloudEvent, EventError, TYPE_PROMOTED};
use landfall_schema::ids::EventId;
use landfall_schema::layout::EVENT_MAX_BYTES;
use landfall_schema::outcome::OutcomeKind;
use serde_json::{Value, json};

fn event(data: Value) -> Value {
    json!({
        "specversion": "1.0",
        "id": "019aa5c0-3c00-7000-8000-000000000001",
        "source": "/landfall/producer/ci",
        "type": TYPE_PROMOTED,
        "time": "2026-11-21T09:00:00Z",
        "datacontenttype": "application/json",
        "data": data,
    })
}

fn decode(value: &Value) -> Result<CloudEvent<Value>, EventError> {
    CloudEvent::decode(&serde_json::to_vec(value).unwrap(), TYPE_PROMOTED)
}

#[test]
fn a_good_one() {
    let decoded = decode(&event(json!({ "app": "shop" }))).unwrap();
    assert_eq!(decoded.data["app"], "shop");
    assert_eq!(decoded.time.to_string(), "2026-11-21T09:00:00Z");
}

#[test]
fn each_missing_attribute_is_malformed() {
    for attribute in ["specversion", "id", "source", "type", "time", "datacontenttype", "data"] {
        let mut broken = event(json!({}));
        broken.as_object_mut().unwrap().remove(attribute);
        // `data` is any value here, and a missing one is not null.
        match CloudEvent::<serde_json::Map<String, Value>>::decode(&serde_json::to_vec(&broken).unwrap(), TYPE_PROMOTED)
        {
            Err(error @ EventError::Malformed { .. }) => {
                assert!(error.source().unwrap().to_string().contains(attribute), "{attribute}: {error:?}");
            }
            other => panic!("without {attribute}: {other:?}"),
        }
    }
}

#[test]
fn wrong_values() {
    for (attribute, value) in
        [("id", json!("7")), ("time", json!("yesterday")), ("source", json!(7)), ("specversion", json!(1.0))]
    {
        let mut broken = event(json!({}));
        broken[attribute] = value;
        assert!(matches!(decode(&broken), Err(EventError::Malformed { .. })), "{attribute}");
    }
    for bytes in [&b""[..], b"hello", b"[]", b"{", b"\xff\xfe", b"null"] {
        let result = CloudEvent::<Value>::decode(bytes, TYPE_PROMOTED);
        assert!(matches!(result, Err(EventError::Malformed { .. })), "{bytes:?}");
    }
}

#[test]
fn nesting_does_not_overflow_the_stack() {
    let deep = "[".repeat(EVENT_MAX_BYTES);
    assert!(matches!(CloudEvent::<Value>::decode(deep.as_bytes(), TYPE_PROMOTED), Err(EventError::Malformed { .. })));
}

#[test]
fn an_unknown_version_is_named_before_its_data_is_read() {
    let mut later = event(json!("of another shape"));
    later["type"] = "dev.landfall.release.promoted.v2".into();
    let error = decode(&later).unwrap_err();
    assert!(matches!(error, EventError::UnknownType { .. }));
    assert_eq!(
        error.to_string(),
        "the event is of type dev.landfall.release.promoted.v2, which this version of Landfall does not know; \
         it knows dev.landfall.release.promoted.v1"
    );

    let mut other_spec = event(json!({}));
    other_spec["specversion"] = "2.0".into();
    assert!(matches!(decode(&other_spec), Err(EventError::UnknownSpec { found }) if found == "2.0"));
}

#[test]
fn the_size_is_checked_both_ways_and_first() {
    let id: EventId = "019aa5c0-3c00-7000-8000-000000000001".parse().unwrap();
    let time = "2026-11-21T09:00:00Z".parse().unwrap();
    let build = |length: usize| CloudEvent::new(id, "/landfall/producer/ci", TYPE_PROMOTED, time, "x".repeat(length));
    let envelope = build(0).encode().unwrap().len();

    let largest = build(EVENT_MAX_BYTES - envelope).encode().unwrap();
    assert_eq!(largest.len(), EVENT_MAX_BYTES);
    assert!(CloudEvent::<String>::decode(&largest, TYPE_PROMOTED).is_ok());

    assert!(matches!(build(EVENT_MAX_BYTES - envelope + 1).encode(), Err(EventError::Oversized { bytes: 65_537 })));
    let garbage = vec![b'x'; EVENT_MAX_BYTES + 1];
    let error = CloudEvent::<String>::decode(&garbage, TYPE_PROMOTED).unwrap_err();
    assert_eq!(error.to_string(), "the event has 65537 bytes, at most 65536 are allowed");
}

#[test]
fn a_family_of_types() {
    let mut outcome = event(json!({}));
    outcome["type"] = "dev.landfall.smoke.passed.v1".into();
    let bytes = serde_json::to_vec(&outcome).unwrap();
    let known = |kind: &str| OutcomeKind::from_event_type(kind).is_some();
    assert!(CloudEvent::<Value>::decode_where(&bytes, "an outcome", known).is_ok());
    assert!(CloudEvent::<Value>::decode(&bytes, TYPE_PROMOTED).is_err());
}
