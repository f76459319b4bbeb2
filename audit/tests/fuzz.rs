//! Whatever is published to the streams becomes a record: of what it is, or of why it is nothing.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use landfall_audit::record::{Record, Source};
use landfall_audit::trust::Trust;
use landfall_bus::Delivered;
use landfall_fuzz::run;
use landfall_schema::Timestamp;

#[test]
fn records() {
    let golden = |name: &str| {
        std::fs::read(format!("{}/../schema/golden/dev.landfall.{name}.v1.json", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let seeds =
        ["release.promoted", "release.halted", "deploy.failed", "rollout.mixed", "environment.policy"].map(golden);
    let subjects = [
        "landfall.staging.release.shop.promoted",
        "landfall.staging.release.shop.halted",
        "landfall.staging.environment.policy",
        "landfall.staging.outcome.shop.host-a.deploy.failed",
        "landfall..>",
    ];
    run("audit-record", &seeds, |bytes| {
        for subject in subjects {
            for source in Source::ALL {
                let message = Delivered {
                    subject: subject.to_owned(),
                    sequence: 1,
                    body: Bytes::copy_from_slice(bytes),
                    signature: Some(String::from_utf8_lossy(bytes).into_owned()),
                    traceparent: None,
                    published_at: Timestamp::UNIX_EPOCH,
                };
                let record = Record::read(source, message, &Trust::default());
                if let Record::Release(stored) = &record {
                    stored.envelope();
                }
                assert_eq!(record.message().body, bytes);
            }
        }
    });
}
