#![allow(clippy::unwrap_used)]
use landfall_schema::promotion::{Intent, Preview, Wave};
use landfall_schema::signature::SigningKey;

use super::*;
use crate::samples;

struct Scene {
    key: SigningKey,
    event: CloudEvent<Promotion>,
    message: Delivered,
    standing: Option<Standing>,
    is_known: bool,
    /// Previews on the host, and what each is of.
    previews: Vec<(&'static str, &'static str)>,
}

impl Scene {
    /// Writes and signs the event anew.
    fn sign(&mut self) {
        let body = self.event.encode().unwrap();
        self.message.signature = Some(self.key.header(&body).unwrap());
        self.message.body = body.into();
    }

    /// Replaces text in the body, and signs what came of it.
    fn edit(&mut self, from: &str, to: &str) {
        let body = String::from_utf8(self.message.body.to_vec()).unwrap();
        assert!(body.contains(from), "{body}");
        let body = body.replace(from, to).into_bytes();
        self.message.signature = Some(self.key.header(&body).unwrap());
        self.message.body = body.into();
    }
}

/// Promotion 5 of shop comes to host-a of staging, which took promotion 4 before; `change` makes the difference.
fn check(change: impl FnOnce(&mut Scene), expect: &str) {
    let key = SigningKey::generate();
    let event = samples::event(samples::promotion(5));
    let mut judging = samples::Judging::by(&key);
    let message = samples::message(Vec::new(), None);
    let mut scene = Scene { key, event, message, standing: judging.standing, is_known: false, previews: Vec::new() };
    scene.sign();
    change(&mut scene);
    judging.here = scene.previews.iter().map(|(app, of)| (app.parse().unwrap(), of.parse().unwrap())).collect();
    (judging.standing, judging.is_known) = (scene.standing, scene.is_known);
    let told = |refused: &Refused| format!(" told={}", refused.event.data.counter);
    let found = match judge(&scene.message, &judging.facts()) {
        Verdict::Take(taken) => format!("take {}", taken.order.promotion.counter),
        Verdict::Ignore(why) => format!("ignore {why:?}"),
        Verdict::Refuse { reason, refused } => format!("refuse {}{}", reason.code.as_str(), told(&refused)),
        Verdict::DeadLetter { reason, refused } => {
            format!("dead-letter {}{}", reason.code.as_str(), refused.as_ref().map(told).unwrap_or_default())
        }
    };
    assert_eq!(found, expect);
}

#[test]
fn what_is_good_is_taken() {
    check(|_| {}, "take #5");
    check(
        |scene| {
            scene.event.data.plan.only_named = true;
            scene.sign();
        },
        "take #5",
    );
    check(|scene| scene.standing = None, "take #5");
    check(|scene| scene.edit("\"specversion\"", "\"unknownextension\":1,\"specversion\""), "take #5");
}

#[test]
fn what_is_not_ours_or_known_is_ignored() {
    check(|scene| scene.message.subject = "landfall.staging.release.blog.promoted".to_owned(), "ignore NotOnThisHost");
    check(
        |scene| {
            scene.message.subject = "landfall.staging.release.blog.promoted".to_owned();
            scene.message.signature = None;
        },
        "ignore NotOnThisHost",
    );
    check(|scene| scene.standing = Some(Standing { counter: Counter(5), id: scene.event.id }), "ignore TakenAlready");
}

#[test]
fn what_cannot_be_believed_is_dead_lettered() {
    check(|scene| scene.message.subject = "landfall.staging.else".to_owned(), "dead-letter malformed");
    check(|scene| scene.message.signature = None, "dead-letter unsigned told=#5");
    check(|scene| scene.message.signature = Some("[]".to_owned()), "dead-letter unsigned told=#5");
    check(|scene| scene.message.signature = Some("{".to_owned()), "dead-letter bad_signature told=#5");
    check(|scene| scene.key = SigningKey::generate(), "take #5");
    check(
        |scene| {
            scene.key = SigningKey::generate();
            scene.sign();
        },
        "dead-letter untrusted_key told=#5",
    );
    check(
        |scene| {
            let body = String::from_utf8(scene.message.body.to_vec()).unwrap();
            scene.message.body = body.replace("\"v5\"", "\"v6\"").into_bytes().into();
        },
        "dead-letter bad_signature told=#5",
    );
    check(
        |scene| {
            scene.message.body = vec![b' '; EVENT_MAX_BYTES + 1].into();
            scene.message.signature = Some(scene.key.header(&scene.message.body).unwrap());
        },
        "dead-letter oversized",
    );
    check(|scene| scene.edit("{", "["), "dead-letter malformed");
    check(|scene| scene.edit("\"shop\"", "\"a shop; rm -rf /\""), "dead-letter malformed");
    check(|scene| scene.edit("promoted.v1", "promoted.v2"), "dead-letter unknown_version");
    check(|scene| scene.edit("\"1.0\"", "\"2.0\""), "dead-letter unknown_version");
    check(
        |scene| {
            scene.event.data.env = "production".parse().unwrap();
            scene.sign();
            scene.message.signature = None;
        },
        "dead-letter unsigned",
    );
}

/// Whoever can write to the subject but has no key makes no host speak against a promotion that it has taken.
#[test]
fn a_copy_of_what_was_taken_is_not_refused() {
    let copied = |counter: u64| {
        move |scene: &mut Scene| {
            scene.is_known = true;
            scene.standing = Some(Standing { counter: Counter(counter), id: scene.event.id });
        }
    };
    let unsigned = |counter: u64| {
        move |scene: &mut Scene| {
            copied(counter)(scene);
            scene.message.signature = None;
        }
    };
    check(unsigned(5), "dead-letter unsigned");
    check(unsigned(6), "dead-letter unsigned");
    let by_a_stranger = |scene: &mut Scene| {
        copied(5)(scene);
        scene.key = SigningKey::generate();
        scene.sign();
    };
    check(by_a_stranger, "dead-letter untrusted_key");
    // The original under another signature, after a newer one was taken.
    check(copied(6), "ignore TakenAlready");
}

#[test]
fn what_a_rule_forbids_is_refused() {
    check(
        |scene| {
            scene.event.data.env = "production".parse().unwrap();
            scene.sign();
        },
        "refuse foreign_environment told=#5",
    );
    check(
        |scene| scene.message.subject = "landfall.production.release.shop.promoted".to_owned(),
        "refuse foreign_environment told=#5",
    );
    check(
        |scene| {
            scene.event.data.app = "blog".parse().unwrap();
            scene.sign();
        },
        "refuse malformed told=#5",
    );
    for counter in [0, u64::MAX] {
        check(
            |scene| {
                scene.event.data.counter = Counter(counter);
                scene.sign();
            },
            &format!("refuse malformed told=#{counter}"),
        );
    }
    check(
        |scene| {
            scene.event.data.expires_at = samples::now();
            scene.sign();
        },
        "refuse expired told=#5",
    );
    check(|scene| scene.standing.as_mut().unwrap().counter = Counter(6), "refuse stale_counter told=#5");
    check(|scene| scene.standing.as_mut().unwrap().counter = Counter(5), "refuse stale_counter told=#5");
}

#[test]
fn a_message_is_named_by_all_of_it() {
    let message = samples::message(b"body".to_vec(), Some("sig".to_owned()));
    let id = MessageId::of(&message);
    assert_eq!(MessageId::of(&Delivered { sequence: 99, ..message.clone() }), id);
    for other in [
        Delivered { subject: "landfall.x".to_owned(), ..message.clone() },
        Delivered { body: b"bodys".to_vec().into(), signature: Some("ig".to_owned()), ..message.clone() },
        Delivered { signature: None, ..message },
    ] {
        assert_ne!(MessageId::of(&other), id);
    }
}

#[test]
fn labels_choose_the_hosts() {
    let labelled = |value: &'static str| {
        move |scene: &mut Scene| {
            scene.event.data.plan.labels = BTreeMap::from([("role".to_owned(), value.to_owned())]);
            scene.event.data.plan.waves = vec![Wave::of(vec!["host-b".parse().unwrap()])];
            scene.sign();
        }
    };
    check(labelled("web"), "take #5");
    check(labelled("db"), "ignore ForOthers(Counter(5))");
    let away = |scene: &mut Scene| {
        labelled("db")(scene);
        scene.event.data.plan.away = vec!["host-a".parse().unwrap()];
        scene.sign();
    };
    check(away, "take #5");
}

#[test]
fn a_plan_for_named_hosts_only_leaves_the_others_alone() {
    let only = |host: &'static str| {
        move |scene: &mut Scene| {
            scene.event.data.plan.only_named = true;
            scene.event.data.plan.waves = vec![Wave::of(vec![host.parse().unwrap()])];
            scene.sign();
        }
    };
    check(only("host-a"), "take #5");
    check(only("host-b"), "ignore ForOthers(Counter(5))");
    let expired = |scene: &mut Scene| {
        scene.event.data.expires_at = samples::now();
        only("host-b")(scene);
    };
    check(expired, "ignore ForOthers(Counter(5))");
}

/// Makes the scene's promotion one of the preview `pr-1` that ends this many minutes from now.
fn preview(scene: &mut Scene, minutes: i64, intent: Intent) {
    let app = "shop--pr-1";
    scene.message.subject = format!("landfall.staging.release.{app}.promoted");
    scene.event.data.app = app.parse().unwrap();
    scene.event.data.intent = intent;
    // Beyond an hour lies the slack for clocks that differ.
    let minutes = if minutes > 60 { minutes + 5 } else { minutes };
    let expires_at = samples::now() + jiff::SignedDuration::from_mins(minutes);
    scene.event.data.preview = Some(Preview { of: "shop".parse().unwrap(), name: "pr-1".parse().unwrap(), expires_at });
    scene.sign();
}

#[test]
fn previews_are_taken_within_their_limits() {
    check(|scene| preview(scene, 60, Intent::Promote), "take #5");
    check(|scene| preview(scene, 61, Intent::Promote), "refuse policy_violation told=#5");
    check(|scene| preview(scene, 0, Intent::Promote), "refuse preview_expired told=#5");
    // What is over can still be removed.
    check(|scene| preview(scene, -5, Intent::Remove), "take #5");
    let others = |count: usize| [("shop--a", "shop"), ("shop--b", "shop"), ("blog--c", "blog")][..count].to_vec();
    check(
        |scene| {
            preview(scene, 30, Intent::Promote);
            scene.previews = others(2);
        },
        "refuse policy_violation told=#5",
    );
    check(
        |scene| {
            preview(scene, 30, Intent::Promote);
            scene.previews = vec![("shop--pr-1", "shop"), ("shop--a", "shop"), ("blog--c", "blog")];
        },
        "take #5",
    );
}

#[test]
fn a_preview_is_what_its_name_says() {
    // Of an application of which this host takes none.
    check(
        |scene| {
            preview(scene, 30, Intent::Promote);
            scene.message.subject = "landfall.staging.release.blog--pr-1.promoted".to_owned();
        },
        "ignore NotOnThisHost",
    );
    // An application of another host that is called like one.
    check(
        |scene| {
            preview(scene, 30, Intent::Promote);
            scene.event.data.preview = None;
            scene.sign();
        },
        "ignore NotOnThisHost",
    );
    check(
        |scene| {
            preview(scene, 30, Intent::Promote);
            scene.event.data.preview.as_mut().unwrap().name = "pr-2".parse().unwrap();
            scene.sign();
        },
        "refuse malformed told=#5",
    );
    // The application itself is never a preview, and never removed.
    check(
        |scene| {
            preview(scene, 30, Intent::Remove);
            scene.message.subject = "landfall.staging.release.shop.promoted".to_owned();
            scene.event.data.app = "shop".parse().unwrap();
            scene.sign();
        },
        "refuse malformed told=#5",
    );
    check(
        |scene| {
            scene.event.data.intent = Intent::Remove;
            scene.sign();
        },
        "refuse policy_violation told=#5",
    );
}
