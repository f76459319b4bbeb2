//! Freezes and freeze windows, and rules that the bus has lost.

use landfall_schema::gates::{ApprovalVerdict, Freeze, FreezeWindow};
use landfall_schema::ids::Counter;
use landfall_schema::promotion::Intent;

use super::super::freeze;
use super::{Gate, Lost, World, check, later, now};

pub(super) fn a_freeze(app: Option<&str>) -> Freeze {
    Freeze {
        app: app.map(|app| app.parse().unwrap()),
        reason: "the sale".to_owned(),
        until: later(10),
        author: "bob".to_owned(),
        since: now(),
    }
}

#[test]
fn freezes() {
    let frozen = |app| World { freezes: vec![a_freeze(app)], ..World::new() };
    check(
        &frozen(None),
        "everything",
        "wait: production is frozen until 2026-11-20T22:00:00Z by a freeze of bob: the sale",
    );
    check(&frozen(Some("shop")), "this application", "wait: the sale");
    check(&frozen(Some("blog")), "another application", "pass");
    let mut world = frozen(None);
    world.now = later(10);
    check(&world, "over", "pass");
    let mut world = frozen(None);
    world.has_worked = true;
    check(&world, "what worked once is no rollback", "wait: the sale");
    world.promotion.intent = Intent::Rollback { to: Counter(1) };
    check(&world, "a rollback to what other hosts ran", "pass");
    world.has_worked = false;
    check(&world, "a rollback to what never worked", "wait: the sale");
    world.is_way_back = true;
    check(&world, "a rollback to what ran here", "pass");
    let mut world = frozen(None);
    world.now = world.promotion.expires_at;
    check(&world, "expired", "frozen: of bob: the sale: `landfall unfreeze --env production`");
    let mut world = frozen(Some("shop"));
    world.now = world.promotion.expires_at;
    check(&world, "expired", "frozen: the sale: `landfall unfreeze --app shop --env production`");
    let Gate::Wait { until, .. } = frozen(None).judge() else { panic!("it does not wait") };
    assert_eq!(until, later(1), "it is asked again when the promotion expires");
}

fn window(cron: &str, hours: u64, time_zone: &str) -> FreezeWindow {
    FreezeWindow {
        cron: cron.to_owned(),
        duration_ms: hours * 3_600_000,
        time_zone: time_zone.to_owned(),
        reason: "weekend".to_owned(),
    }
}

#[test]
fn freeze_windows() {
    // 2026-11-20 is a Friday; at 12:00 UTC it is 13:00 in Berlin.
    let cases = [
        ("0 13 * * FRI", 1, "Europe/Berlin", Some("2026-11-20T13:00:00Z")),
        ("0 12 * * FRI", 1, "Europe/Berlin", None),
        ("0 12 * * FRI", 64, "UTC", Some("2026-11-23T04:00:00Z")),
        ("0 16 * * THU", 20, "UTC", None),
        ("0 16 * * THU", 21, "UTC", Some("2026-11-20T13:00:00Z")),
        ("1 12 * * FRI", 1, "UTC", None),
    ];
    for (cron, hours, zone, expect) in cases {
        let found = freeze::open_until(&window(cron, hours, zone), now()).unwrap();
        assert_eq!(found, expect.map(|at| at.parse().unwrap()), "{cron} for {hours} h in {zone}");
    }
    for (cron, hours, zone) in
        [("soon", 1, "UTC"), ("0 0 30 2 *", 1, "UTC"), ("0 0 * * *", 1, "Moon/Base"), ("0 0 * * *", 0, "UTC")]
    {
        let mut world = World::new();
        world.policy().freeze_windows = vec![window(cron, hours, zone)];
        check(&world, cron, "policy_unreadable: landfall policy apply");
    }
    let mut world = World::new();
    world.policy().freeze_windows = vec![window("0 12 * * FRI", 2, "UTC")];
    check(&world, "a window", "wait: by a freeze window of ann: weekend");
    // No word about freezes ends it.
    world.now = world.promotion.expires_at;
    check(
        &world,
        "a window, expired",
        "frozen: of ann: weekend: ask ann: `landfall policy apply FILE --env production`",
    );
}

/// What the hint of a rule asks for is done with the rules that the bus has.
#[test]
fn what_the_bus_has_lost_is_said_anew_first() {
    let policy = "the bus has lost this policy: `landfall policy apply FILE --env production` says it anew";
    let freeze = "the bus has lost this freeze: `landfall unfreeze --all --env production` ends it";
    let lost = |mut world: World| {
        world.lost = Lost { policy: true, freezes: true };
        world
    };
    let expired = |mut world: World| {
        world.now = world.promotion.expires_at;
        world
    };
    let unapproved = || World::approved(ApprovalVerdict::Approved, &[1]);
    check(&lost(unapproved()), "approvals", &format!("wait: 1 of 2: ann, cid; {policy}"));
    check(&lost(expired(unapproved())), "approvals", &format!("not_approved: 1 of 2: {policy}; then promote it again"));
    let rejected = World::approved(ApprovalVerdict::Rejected, &[1]);
    check(&lost(rejected), "rejected", &format!("rejected: bob rejected: {policy}"));
    let mut unproven = World::proven(|_, _, _| {});
    unproven.promotion.evidence = None;
    check(&lost(unproven), "evidence", &format!("not_proven_elsewhere: no evidence; {policy}"));
    let frozen = || World { freezes: vec![a_freeze(None)], ..World::new() };
    check(&lost(frozen()), "a freeze", &format!("wait: of bob: the sale; {freeze}"));
    check(&lost(expired(frozen())), "a freeze", &format!("frozen: of bob: {freeze}: then promote it again"));
    let windows = || {
        let mut world = World::new();
        world.policy().freeze_windows = vec![window("0 12 * * FRI", 2, "UTC")];
        world
    };
    check(&lost(windows()), "a window", &format!("wait: by a freeze window of ann: weekend; {policy}"));

    // Each of the two alone says nothing of the other.
    let only = |policy, mut world: World| {
        world.lost = Lost { policy, freezes: !policy };
        let Gate::Wait { on, .. } = world.judge() else { panic!("it does not wait") };
        on
    };
    for (said, world) in [(true, frozen()), (false, unapproved()), (false, windows())] {
        let on = only(said, world);
        assert!(!on.contains("lost"), "{on}");
    }
}
