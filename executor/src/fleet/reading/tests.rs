#![allow(clippy::unwrap_used)]
use landfall_deploy::Order;
use landfall_schema::ids::EventId;
use landfall_schema::promotion::Wave;
use landfall_schema::signature::SigningKey;
use uuid::Uuid;

use super::*;
use crate::samples;

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn said(body: Vec<u8>, key: &SigningKey) -> Delivered {
    let signature = key.header(&body).unwrap();
    samples::message(body, Some(signature))
}

fn halt(order: &Order, number: u128, command: HaltCommand, key: &SigningKey) -> Delivered {
    let promotion = &order.promotion;
    let halt = Halt {
        env: promotion.env.clone(),
        app: promotion.app.clone(),
        counter: promotion.counter,
        promotion: order.id,
        command,
        reason: "no".to_owned(),
        author: "ann".to_owned(),
    };
    let id = EventId(Uuid::from_u128(number));
    said(CloudEvent::new(id, "/landfall/producer/ann", TYPE_HALTED, samples::now(), halt).encode().unwrap(), key)
}

#[test]
fn the_newest_halt_that_is_believed_counts() {
    use HaltCommand::{Abort, Halt, Resume};
    let (ann, stranger) = (SigningKey::generate(), SigningKey::generate());
    let (order, other) = (samples::order(5), samples::order(6));
    let newest = |said: &[Delivered]| newest_halt(said, &order, &[ann.public()]).map(|halt| halt.command);
    let (halted, resumed) = (halt(&order, 2, Halt, &ann), halt(&order, 1, Resume, &ann));
    assert_eq!(newest(&[]), None);
    assert_eq!(newest(&[resumed.clone(), halted.clone()]), Some(Halt));
    // What others write after it does not lift it, and neither does an older word that is said again.
    for after in [
        samples::message(b"junk".to_vec(), None),
        halt(&order, 9, Resume, &stranger),
        halt(&other, 9, Resume, &ann),
        resumed.clone(),
    ] {
        assert_eq!(newest(&[resumed.clone(), halted.clone(), after]), Some(Halt));
    }
    assert_eq!(newest(&[halted.clone(), halt(&order, 3, Resume, &ann)]), Some(Resume));
    // Whatever the clocks of those who said it.
    assert_eq!(newest(&[halt(&order, 1, Abort, &ann), halted]), Some(Abort));
}

#[test]
fn only_a_promotion_that_hosts_of_the_plan_take_replaces_it() {
    let ann = SigningKey::generate();
    let mut order = samples::order(5);
    order.promotion.plan.waves = vec![Wave::of(vec![host("h1")]), Wave::of(vec![host("h2")])];
    let newer = |counter, change: &dyn Fn(&mut Promotion)| {
        let mut promotion = samples::promotion(counter);
        promotion.plan.waves = vec![Wave::of(vec![host("h1")])];
        change(&mut promotion);
        said(samples::event(promotion).encode().unwrap(), &ann)
    };
    let found = |said: &[Delivered]| {
        newest_in_its_place(said, &order, &[ann.public()], samples::now()).map(|counter| counter.0)
    };
    assert_eq!(found(&[newer(6, &|_| {})]), Some(6));
    assert_eq!(found(&[newer(5, &|_| {}), newer(4, &|_| {})]), None);
    let only_others = |promotion: &mut Promotion| {
        promotion.plan.waves = vec![Wave::of(vec![host("h9")])];
        promotion.plan.only_named = true;
    };
    let refused: [&dyn Fn(&mut Promotion); 5] = [
        &|promotion| promotion.app = "other".parse().unwrap(),
        &|promotion| promotion.env = "production".parse().unwrap(),
        &|promotion| promotion.expires_at = samples::now(),
        &only_others,
        &|promotion| {
            promotion.plan.waves = vec![Wave::of(vec![host("h9")])];
            promotion.plan.labels = [("zone".to_owned(), "b".to_owned())].into();
        },
    ];
    for change in refused {
        assert_eq!(found(&[newer(7, change)]), None);
        assert_eq!(found(&[newer(6, &|_| {}), newer(7, change)]), Some(6), "one that came before it does");
    }
    let away = |promotion: &mut Promotion| {
        only_others(promotion);
        promotion.plan.away = vec![host("h2")];
    };
    assert_eq!(found(&[newer(6, &away)]), Some(6));
    let unsigned = samples::message(newer(6, &|_| {}).body.to_vec(), None);
    assert_eq!(found(&[unsigned]), None);
}

#[test]
fn only_the_commit_of_this_promotion_proves_it() {
    let order = samples::order(5);
    let service: ServiceName = "app".parse().unwrap();
    let promised = order.promotion.images[&service].digest.clone();
    let outcome = |kind, digest| Outcome {
        running: [(service.clone(), digest)].into(),
        ..Outcome::new(kind, &host("h1"), &order.promotion, order.id)
    };
    let proves = |outcome: &Outcome| proves(outcome, &order, &host("h1"));
    let committed = outcome(OutcomeKind::ReleaseCommitted, promised.clone());
    assert!(proves(&committed));
    assert!(!proves(&outcome(OutcomeKind::ReleaseAccepted, promised)), "its own word on another subject");
    assert!(!proves(&outcome(OutcomeKind::ReleaseCommitted, Digest::of(b"other"))));
    assert!(!proves(&Outcome { host: host("h2"), ..committed.clone() }));
    assert!(!proves(&Outcome { promotion: samples::order(6).id, ..committed.clone() }));
    assert!(!proves(&Outcome { env: "production".parse().unwrap(), ..committed.clone() }));
    assert!(!proves(&Outcome { app: "other".parse().unwrap(), ..committed }));
}
