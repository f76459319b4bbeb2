//! Whatever stands on the bus or in the object store is read without a panic, and what is taken is written again as the same.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use landfall_fuzz::run;
use landfall_schema::bundle::{Bundle, BundleFile};
use landfall_schema::compatibility::Requirement;
use landfall_schema::dead_letter::DeadLetter;
use landfall_schema::event::{
    CloudEvent, TYPE_ABSOLVED, TYPE_APPROVED, TYPE_CONDEMNED, TYPE_DEAD_LETTER, TYPE_ENVIRONMENT_FROZEN,
    TYPE_ENVIRONMENT_POLICY, TYPE_HALTED, TYPE_MIGRATION_LEASE, TYPE_PRESENCE, TYPE_PROMOTED, TYPE_ROLLOUT_STATE,
};
use landfall_schema::gates::{Absolutions, Approval, CondemnedList, EnvironmentPolicy, Freezes};
use landfall_schema::halt::Halt;
use landfall_schema::ids::{AppName, Counter, Digest, EnvName, EventId, HostName, ReleaseName, ServiceName};
use landfall_schema::layout::EVENT_MAX_BYTES;
use landfall_schema::lease::MigrationLease;
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::presence::Presence;
use landfall_schema::promotion::{BundleRef, Promotion};
use landfall_schema::rollout::RolloutState;
use landfall_schema::roster::Roster;
use landfall_schema::signature::{
    DsseEnvelope, PAYLOAD_TYPE, PublicKey, SIGNATURES_MAX, SigningKey, decode_header, encode_header, named_keys,
    pre_authentication_encoding, signers, verify,
};
use landfall_schema::stack::{ServiceSettings, StackSettings};
use landfall_schema::subject;
use landfall_schema::wave_size::WaveSize;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One event of every type, as it is published.
fn golden(part: &str) -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/golden");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let chosen = paths.filter(|path| path.file_name().unwrap().to_str().unwrap().contains(part));
    let seeds: Vec<Vec<u8>> = chosen.map(|path| std::fs::read(path).unwrap()).collect();
    assert!(!seeds.is_empty(), "no golden event of {part}");
    seeds
}

/// Reads it as this type; what is taken is written and read again as the same, and is taken as no other type.
fn event<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8], kind: &str) {
    let Ok(event) = CloudEvent::<T>::decode(bytes, kind) else { return };
    assert!(bytes.len() <= EVENT_MAX_BYTES);
    assert_eq!(event.kind, kind);
    assert!(CloudEvent::<T>::decode(bytes, &format!("{kind}x")).is_err());
    if let Ok(written) = event.encode() {
        assert_eq!(CloudEvent::<T>::decode(&written, kind).unwrap(), event);
    }
}

fn outcome(bytes: &[u8]) {
    let known = |kind: &str| OutcomeKind::from_event_type(kind).is_some();
    let Ok(event) = CloudEvent::<Outcome>::decode_where(bytes, "an outcome", known) else { return };
    if let Ok(written) = event.encode() {
        assert_eq!(CloudEvent::<Outcome>::decode_where(&written, "an outcome", known).unwrap(), event);
    }
}

/// Every event type in turn, since a message on the bus may call itself what it likes.
fn any_event(bytes: &[u8]) {
    event::<Promotion>(bytes, TYPE_PROMOTED);
    event::<Presence>(bytes, TYPE_PRESENCE);
    event::<Halt>(bytes, TYPE_HALTED);
    event::<RolloutState>(bytes, TYPE_ROLLOUT_STATE);
    event::<MigrationLease>(bytes, TYPE_MIGRATION_LEASE);
    event::<EnvironmentPolicy>(bytes, TYPE_ENVIRONMENT_POLICY);
    event::<Freezes>(bytes, TYPE_ENVIRONMENT_FROZEN);
    event::<Approval>(bytes, TYPE_APPROVED);
    event::<CondemnedList>(bytes, TYPE_CONDEMNED);
    event::<Absolutions>(bytes, TYPE_ABSOLVED);
    event::<DeadLetter>(bytes, TYPE_DEAD_LETTER);
    outcome(bytes);
}

#[test]
fn promotions() {
    run("event-promoted", &golden("release.promoted"), any_event);
}

#[test]
fn presences() {
    run("event-presence", &golden("presence"), any_event);
}

#[test]
fn operators_words() {
    run("event-halted", &golden("release.halted"), any_event);
}

#[test]
fn rollout_states() {
    run("event-rollout-state", &golden("rollout.state"), any_event);
}

#[test]
fn migration_leases() {
    run("event-migration-lease", &golden("migration.lease"), any_event);
}

#[test]
fn policies_and_freezes() {
    run("event-environment", &golden("environment."), any_event);
}

#[test]
fn approvals_and_condemnations() {
    let seeds = ["release.approved", "release.condemned", "release.absolved"].map(golden).concat();
    run("event-approvals", &seeds, any_event);
}

#[test]
fn dead_letters() {
    run("event-dead-letter", &golden("deadletter"), any_event);
}

#[test]
fn outcomes() {
    run("event-outcome", &golden("deploy."), any_event);
    run("event-outcome-other", &golden(".json"), any_event);
}

#[test]
fn signature_headers() {
    let (one, other) = (SigningKey::generate(), SigningKey::generate());
    let payload = b"{\"specversion\":\"1.0\"}";
    let both = encode_header(&[one.sign(payload).unwrap(), other.sign(payload).unwrap()]);
    let seeds = [one.header(payload).unwrap().into_bytes(), both.into_bytes()];
    let trusted = [one.public(), other.public()];
    run("signature-header", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let header = Some(text.as_ref());
        if let Ok(signatures) = decode_header(header) {
            assert!((1..=SIGNATURES_MAX).contains(&signatures.len()));
            assert_eq!(decode_header(Some(&encode_header(&signatures))).unwrap(), signatures);
        }
        // Of other bytes no header is ever a signature, however it was spoiled.
        assert!(verify(b"other bytes", header, &trusted).is_err());
        if let Ok(signer) = verify(payload, header, &trusted) {
            assert!(signers(payload, header, &trusted).unwrap().contains(&signer));
            assert!(named_keys(header).contains(&signer));
        }
    });
}

#[test]
fn envelopes() {
    let key = SigningKey::generate();
    let payload = golden("release.promoted").concat();
    let envelope = DsseEnvelope::new(&payload, vec![key.sign(&payload).unwrap()]);
    let seeds = [serde_json::to_vec(&envelope).unwrap()];
    let trusted = [key.public()];
    run("dsse-envelope", &seeds, |bytes| {
        let Ok(read) = serde_json::from_slice::<DsseEnvelope>(bytes) else { return };
        read.unverified_payload();
        if let Ok((opened, _)) = read.open(&trusted) {
            assert_eq!((opened.as_slice(), read.payload_type.as_str()), (payload.as_slice(), PAYLOAD_TYPE));
        }
    });
}

/// The encoding is injective: what was signed as one thing is never the signature of another, wherever a boundary is moved to.
#[test]
fn pre_authentication_encodings() {
    run("pre-authentication", &[b"a 1 b".to_vec(), b"application/x 12 34".to_vec()], |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let splits = (0..text.len().min(64)).filter(|at| text.is_char_boundary(*at));
        let encoded = |at: usize| pre_authentication_encoding(&text[..at], &text.as_bytes()[at..]);
        let all: BTreeSet<Vec<u8>> = splits.clone().map(encoded).collect();
        assert_eq!(all.len(), splits.count());
    });
}

/// A token of a subject is never a wildcard, never empty, and never several.
fn assert_token(token: &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '=');
    assert!(!token.is_empty() && token.chars().all(plain), "{token:?}");
}

#[test]
fn subjects() {
    let (env, app) = (EnvName::new("staging").unwrap(), AppName::new("shop").unwrap());
    let host = HostName::new("host-a").unwrap();
    let seeds = [subject::promoted(&env, &app), subject::presence(&env, &host), subject::dead_letter(&env, &host)];
    run("subject", &seeds.map(|subject| subject.as_str().as_bytes().to_vec()), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Some(stored) = subject::Subject::stored(&text) {
            assert_eq!(stored.as_str(), text);
            stored.as_str().split('.').for_each(assert_token);
        }
        if let Some(parsed) = subject::parse_release(&text) {
            assert_token(parsed.env.as_str());
            assert_token(parsed.app.as_str());
        }
        for on in [None, Some(&host)] {
            subject::migration_key(&env, &text, on).split('.').for_each(assert_token);
        }
        // Whatever is taken for a name can stand in a subject, an argument and a path.
        if let Ok(name) = AppName::new(text.as_ref()) {
            assert_token(name.as_str());
            subject::promoted(&env, &name).as_str().split('.').for_each(assert_token);
        }
    });
}

#[test]
fn names() {
    let seeds = ["shop", "v1.2.3", "019aa5c0-3c00-7000-8000-000000000001", "25%", ">= 1.4, < 3"];
    let mut seeds: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    seeds.push(Digest::of(b"x").as_str().as_bytes().to_vec());
    seeds.push(SigningKey::generate().public().as_str().as_bytes().to_vec());
    run("name", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        for shown in [
            AppName::new(text.as_ref()).map(|name| name.to_string()).map_err(|error| error.to_string()),
            HostName::new(text.as_ref()).map(|name| name.to_string()).map_err(|error| error.to_string()),
            ServiceName::new(text.as_ref()).map(|name| name.to_string()).map_err(|error| error.to_string()),
            ReleaseName::new(text.as_ref()).map(|name| name.to_string()).map_err(|error| error.to_string()),
            text.parse::<Digest>().map(|digest| digest.to_string()).map_err(|error| error.to_string()),
        ] {
            match shown {
                Ok(name) => assert!(name == text && !name.contains(['/', '\0', '\n', '$'])),
                // An error repeats a bounded part of what it complains of.
                Err(error) => assert!(error.len() < 500, "{} bytes", error.len()),
            }
        }
        let _ = (PublicKey::new(text.as_ref()), text.parse::<EventId>(), SigningKey::from_seed(&text));
        if let Ok(requirement) = Requirement::new(&text)
            && let Ok(release) = ReleaseName::new("v1.2.3")
        {
            requirement.serves(&release);
        }
    });
}

#[test]
fn bundles() {
    let files = [("compose.yml", "services: {}"), ("web.landfall.yml", "x")];
    let compose = files.map(|(name, content)| BundleFile { name: name.to_owned(), content: content.to_owned() });
    let (bytes, _) = Bundle { version: 1, compose: compose.into() }.encode().unwrap();
    run("bundle", &[bytes], |bytes| {
        let reference = BundleRef { digest: Digest::of(bytes), bytes: bytes.len() as u64 };
        let Ok(bundle) = Bundle::decode(bytes, &reference) else { return };
        for file in &bundle.compose {
            let name = std::path::Path::new(&file.name);
            assert_eq!(name.file_name(), Some(name.as_os_str()), "{:?}", file.name);
            assert!(!file.name.starts_with(['-', '.']), "{:?}", file.name);
        }
        assert_eq!(Bundle::decode(&bundle.encode().unwrap().0, &bundle.encode().unwrap().1).unwrap(), bundle);
        let other = BundleRef { digest: Digest::of(b"other"), ..reference };
        assert!(Bundle::decode(bytes, &other).is_err());
    });
}

#[test]
fn rosters() {
    let host = HostName::new("host-a").unwrap();
    let (bytes, _) = Roster::new(BTreeMap::from([(host, SigningKey::generate().public())])).encode().unwrap();
    run("roster", &[bytes], |bytes| {
        let reference = BundleRef { digest: Digest::of(bytes), bytes: bytes.len() as u64 };
        let Ok(roster) = Roster::decode(bytes, &reference) else { return };
        let (written, of) = roster.encode().unwrap();
        assert_eq!(Roster::decode(&written, &of).unwrap(), roster);
    });
}

#[test]
fn settings() {
    let stack = br#"{"app":"shop","smoke":[{"http":{"url":"http://x/","expect":{"status":200}}},{"run":{"service":"app","command":["a"]}}],
        "bake_ms":5,"rollout":{"waves":[1,"25%","100%"],"max_parallel":2},"schema":{"compatible_with":">= 1"}}"#;
    let service =
        br#"{"role":"migrate","database":"shop","database_url":"postgres://x","ready":{"http":{"port":1,"path":"/"}},
        "migrations":{"path":"/m","url":"postgres://x"},"backup":["a"],"strategy":"recreate"}"#;
    run("x-landfall", &[stack.to_vec(), service.to_vec()], |bytes| {
        if let Ok(settings) = serde_json::from_slice::<StackSettings>(bytes) {
            for size in settings.rollout.iter().flat_map(|rollout| &rollout.waves) {
                assert!((1..=1_000).contains(&size.of(1_000)), "{size:?}");
                size.of(0);
            }
            let written = serde_json::to_vec(&settings).unwrap();
            assert_eq!(
                serde_json::to_vec(&serde_json::from_slice::<StackSettings>(&written).unwrap()).unwrap(),
                written
            );
        }
        if let Ok(settings) = serde_json::from_slice::<ServiceSettings>(bytes) {
            serde_json::to_vec(&settings).unwrap();
        }
        let _ = serde_json::from_slice::<WaveSize>(bytes);
        let _ = serde_json::from_slice::<Counter>(bytes);
    });
}
