//! Messages and configurations that nobody should have written: each gets a verdict, and none a panic.
#![allow(clippy::unwrap_used)]

use landfall_bus::Delivered;
use landfall_fuzz::run;
use landfall_schema::ids::Counter;
use landfall_schema::layout::EVENT_MAX_BYTES;
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::signature::SigningKey;

use crate::config::Config;
use crate::intake::{MessageId, Verdict, claimed, judge};
use crate::samples;

/// As the bus hands it over: by a stranger, and by the one who may promote.
#[test]
fn messages() {
    let key = SigningKey::generate();
    let judging = samples::Judging::by(&key);
    let announcer = samples::announcer();
    let seeds = [samples::event(samples::promotion(5)).encode().unwrap()];
    run("message", &seeds, |bytes| {
        let by_promoter = key.header(bytes).unwrap();
        let damaged = by_promoter.replacen('"', "'", bytes.len() % 3);
        for signature in [None, Some(by_promoter.clone()), Some(damaged), Some(String::from_utf8_lossy(bytes).into())] {
            let message = Delivered { signature: signature.clone(), ..samples::message(bytes.to_vec(), None) };
            let _ = (MessageId::of(&message), claimed(&message));
            match judge(&message, &judging.facts()) {
                Verdict::Take(taken) => {
                    // Only these very bytes with the promoter's signature are ever carried out.
                    assert_eq!(signature.as_ref(), Some(&by_promoter));
                    let promotion = &taken.order.promotion;
                    assert!(promotion.counter > Counter(4) && promotion.env.as_str() == "staging");
                }
                Verdict::DeadLetter { reason, refused } => {
                    let letter = announcer.dead_letter(&message, reason.clone(), samples::now()).unwrap();
                    assert!(letter.body.len() <= EVENT_MAX_BYTES);
                    if let Some(refused) = refused {
                        announcer.refused(&refused, reason, samples::now(), None).unwrap();
                    }
                }
                Verdict::Refuse { reason, refused } => {
                    announcer.refused(&refused, reason, samples::now(), None).unwrap();
                }
                Verdict::Ignore(_) => {}
            }
        }
    });
}

/// A subject, too, is whatever somebody published to.
#[test]
fn subjects() {
    let announcer = samples::announcer();
    let seeds = [b"landfall.staging.release.shop.promoted".to_vec(), b"landfall.staging.release.shop.halted".to_vec()];
    run("message-subject", &seeds, |bytes| {
        let subject = String::from_utf8_lossy(bytes).into_owned();
        let message = Delivered { subject, ..samples::message(b"{}".to_vec(), None) };
        let reason = Reason::new(ReasonCode::Malformed, "x");
        announcer.dead_letter(&message, reason, samples::now()).unwrap();
        crate::intake::app_of(&message.subject, &"staging".parse().unwrap());
    });
}

#[test]
fn configurations() {
    let full = include_str!("../host/executor.toml").replace("\n#", "\n");
    let seeds = [include_bytes!("../host/executor.toml").to_vec(), full.into_bytes()];
    run("executor-configuration", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Err(problems) = Config::parse(&text, &|_| None) {
            assert!(!problems.is_empty());
        }
    });
}
