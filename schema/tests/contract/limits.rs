//! Every limit of the wire: what is exactly as large is taken, and one more is not.

use std::collections::BTreeMap;

use landfall_schema::Timestamp;
use landfall_schema::bundle::{Bundle, BundleError, BundleFile};
use landfall_schema::event::{CloudEvent, EventError};
use landfall_schema::gates::{ABSOLVED_MAX, Absolution, Absolutions, CONDEMNED_MAX, Condemned, CondemnedList};
use landfall_schema::ids::{
    AppName, Counter, Digest, EnvName, EventId, HostName, NAME_MAX_BYTES, RELEASE_MAX_BYTES, ReleaseName, ServiceName,
};
use landfall_schema::layout::{BUNDLE_MAX_BYTES, EVENT_MAX_BYTES};
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::promotion::BundleRef;
use landfall_schema::roster::{Roster, RosterError};
use landfall_schema::signature::{SIGNATURES_MAX, SigningKey, decode_header, encode_header};
use landfall_schema::subject;

fn event(text: &str) -> CloudEvent<String> {
    let id: EventId = "019aa5c0-3c00-7000-8000-000000000001".parse().unwrap();
    CloudEvent::new(id, "/x", "dev.landfall.x.v1", Timestamp::UNIX_EPOCH, text.to_owned())
}

#[test]
fn events() {
    let rest = event("").encode().unwrap().len();
    let largest = event(&"x".repeat(EVENT_MAX_BYTES - rest)).encode().unwrap();
    assert_eq!(largest.len(), EVENT_MAX_BYTES);
    assert!(CloudEvent::<String>::decode(&largest, "dev.landfall.x.v1").is_ok());
    let one_more = event(&"x".repeat(EVENT_MAX_BYTES - rest + 1)).encode();
    assert!(matches!(one_more, Err(EventError::Oversized { bytes }) if bytes == EVENT_MAX_BYTES + 1));
    let one_more = [largest.as_slice(), b" "].concat();
    let read = CloudEvent::<String>::decode(&one_more, "dev.landfall.x.v1");
    assert!(matches!(read, Err(EventError::Oversized { .. })));
}

#[test]
fn bundles_and_rosters() {
    let reference = |bytes: &[u8]| BundleRef { digest: Digest::of(bytes), bytes: bytes.len() as u64 };
    let padded = |bytes: Vec<u8>, to: usize| [bytes.clone(), vec![b' '; to - bytes.len()]].concat();
    let bundle =
        |content: String| Bundle { version: 1, compose: vec![BundleFile { name: "compose.yml".to_owned(), content }] };
    let rest = bundle(String::new()).encode().unwrap().0.len();
    let (largest, of) = bundle("x".repeat(BUNDLE_MAX_BYTES - rest)).encode().unwrap();
    assert_eq!(largest.len(), BUNDLE_MAX_BYTES);
    assert!(Bundle::decode(&largest, &of).is_ok());
    let one_more = bundle("x".repeat(BUNDLE_MAX_BYTES - rest + 1)).encode();
    assert!(matches!(one_more, Err(BundleError::Oversized { .. })));
    let one_more = [largest.as_slice(), b" "].concat();
    assert!(matches!(Bundle::decode(&one_more, &reference(&one_more)), Err(BundleError::Oversized { .. })));

    let (small, _) = Roster::new(BTreeMap::new()).encode().unwrap();
    let largest = padded(small.clone(), BUNDLE_MAX_BYTES);
    assert!(Roster::decode(&largest, &reference(&largest)).is_ok());
    let one_more = padded(small, BUNDLE_MAX_BYTES + 1);
    assert!(matches!(Roster::decode(&one_more, &reference(&one_more)), Err(RosterError::Oversized { .. })));
}

#[test]
fn signatures() {
    let one = SigningKey::generate().sign(b"x").unwrap();
    let header = |count: usize| encode_header(&vec![one.clone(); count]);
    assert_eq!(decode_header(Some(&header(SIGNATURES_MAX))).unwrap().len(), SIGNATURES_MAX);
    assert!(decode_header(Some(&header(SIGNATURES_MAX + 1))).is_err());
}

#[test]
fn names() {
    for (bytes, is_name) in [(NAME_MAX_BYTES, true), (NAME_MAX_BYTES + 1, false)] {
        let name = "x".repeat(bytes);
        let all = [
            EnvName::new(&*name).is_ok(),
            AppName::new(&*name).is_ok(),
            HostName::new(&*name).is_ok(),
            ServiceName::new(&*name).is_ok(),
        ];
        assert_eq!(all, [is_name; 4], "{bytes}");
    }
    assert!(ReleaseName::new("x".repeat(RELEASE_MAX_BYTES)).is_ok());
    assert!(ReleaseName::new("x".repeat(RELEASE_MAX_BYTES + 1)).is_err());
}

/// The hundred that `DATABASE_KEY_MAX_BYTES` says.
#[test]
fn databases() {
    let key = |bytes: usize| subject::migration_key(&EnvName::new("e").unwrap(), &"d".repeat(bytes), None);
    assert!(key(100).ends_with("ddd"));
    assert!(key(101).contains('=') && key(101).len() < 40);
}

#[test]
fn condemned_and_absolved() {
    let fingerprint = |n: usize| Digest::of(n.to_string().as_bytes());
    let (env, app) = (EnvName::new("e").unwrap(), AppName::new("a").unwrap());
    let release = ReleaseName::new("v").unwrap();
    let mut list = CondemnedList { env: env.clone(), app: app.clone(), condemned: Vec::new() };
    for n in 0..=CONDEMNED_MAX {
        assert_eq!(list.condemned.len(), n.min(CONDEMNED_MAX));
        list.add(Condemned {
            fingerprint: fingerprint(n),
            counter: Counter(n as u64 + 1),
            release: release.clone(),
            cause: Reason::new(ReasonCode::Unhealthy, "x"),
            host: HostName::new("h").unwrap(),
            at: Timestamp::UNIX_EPOCH,
        });
    }
    // The oldest went.
    assert_eq!((list.condemned.len(), &list.condemned[0].fingerprint), (CONDEMNED_MAX, &fingerprint(1)));
    let mut list = Absolutions { env, app, absolved: Vec::new() };
    for n in 0..=ABSOLVED_MAX {
        list.add(Absolution {
            fingerprint: fingerprint(n),
            counter: Counter(1),
            release: release.clone(),
            reason: String::new(),
            author: String::new(),
            at: Timestamp::UNIX_EPOCH,
        });
    }
    assert_eq!((list.absolved.len(), &list.absolved[0].fingerprint), (ABSOLVED_MAX, &fingerprint(1)));
}
