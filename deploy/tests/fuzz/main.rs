//! Whatever the journal, the policy documents and the hosts' words hold: the machine and the judges answer, and never panic.
// The golden events are read from files; what is tested does no IO.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeSet;

use landfall_deploy::gates::documents::{self, Published};
use landfall_deploy::gates::{Facts, Lost, approvals, freeze, judge};
use landfall_deploy::rollout::{self, View, admission, after_commit, decide, first_state, proofs_needed};
use landfall_deploy::{Effect, Evidence, Former, Input, Machine, Observed, Order};
use landfall_fuzz::run;
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_PROMOTED};
use landfall_schema::gates::FreezeWindow;
use landfall_schema::ids::{Counter, Digest, HostName};
use landfall_schema::outcome::{Outcome, Reason, ReasonCode};
use landfall_schema::promotion::Promotion;
use landfall_schema::rollout::RolloutState;
use landfall_schema::signature::SigningKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

fn golden(name: &str) -> Value {
    let path = format!("{}/../schema/golden/dev.landfall.{name}.v1.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn order() -> Order {
    let event: CloudEvent<Promotion> =
        CloudEvent::decode(&serde_json::to_vec(&golden("release.promoted")).unwrap(), TYPE_PROMOTED).unwrap();
    let host = event.data.plan.hosts().next().unwrap().clone();
    Order { host, id: event.id, promotion: event.data }
}

/// A deploy as the journal holds it: an order, and inputs with their times.
#[derive(Serialize, Deserialize)]
struct Journalled {
    order: Order,
    inputs: Vec<(Timestamp, Input)>,
}

fn journalled() -> Vec<Vec<u8>> {
    let at: Timestamp = "2026-11-21T09:00:00Z".parse().unwrap();
    let done = |effect, evidence| (at, Input::Finished { effect, evidence });
    let observed = Observed {
        former: Some(Former { release: None, counter: None, images: Default::default() }),
        services: vec!["app".parse().unwrap()],
        has_backup: true,
        has_migrations: true,
        smoke_tests: 1,
        bake_ms: 10,
        warning: None,
        deadlines: Default::default(),
    };
    let way: Vec<(Timestamp, Input)> = vec![
        (at, Input::Begin),
        done(Effect::Observe, Evidence::Observed(observed)),
        done(Effect::Pull, Evidence::Pulled { images: 2, already_here: 1, bytes: 7 }),
        done(Effect::Admit, Evidence::Admitted),
        done(Effect::Backup, Evidence::BackedUp { by: vec!["db".to_owned()] }),
        (at, Input::Resumed),
        done(Effect::Migrate, Evidence::Migrated { applied: Vec::new(), notes: vec!["note".to_owned()] }),
        done(Effect::Update, Evidence::Updated { changed: vec!["app".to_owned()] }),
        done(Effect::Prove, Evidence::Running { services: Default::default(), restarts: 0 }),
    ];
    let failure = Reason::new(ReasonCode::Unhealthy, "it is");
    let back = vec![
        (at, Input::Failed { effect: Effect::Prove, reason: failure }),
        done(Effect::Restore, Evidence::Restored),
        done(Effect::ProveFormer, Evidence::Running { services: Default::default(), restarts: 0 }),
    ];
    let rolled_back: Vec<_> = way[..way.len() - 1].iter().cloned().chain(back).collect();
    [way, rolled_back].map(|inputs| serde_json::to_vec(&Journalled { order: order(), inputs }).unwrap()).into()
}

#[test]
fn machines() {
    let times = ["2026-11-21T09:00:01Z", "9999-12-30T22:00:00Z", "-009999-01-03T00:00:00Z"];
    let times = times.map(|text| text.parse::<Timestamp>().unwrap());
    let seeds = journalled();
    for seed in &seeds {
        let Journalled { order, inputs } = serde_json::from_slice(seed).unwrap();
        Machine::replay(order, inputs).unwrap();
    }
    run("machine", &seeds, |bytes| {
        let Ok(Journalled { order, inputs }) = serde_json::from_slice(bytes) else { return };
        drop(Machine::replay(order.clone(), inputs.clone()));
        // What the worker does: each input with its effects and outcomes, the deadline asked for in between.
        let mut machine = Machine::new(order);
        for (at, input) in inputs {
            let _ = machine.handle(input, at);
            machine.deadline();
            while machine.next_effect().is_some() {}
            while machine.next_outcome().is_some() {}
        }
        for at in times {
            let _ = machine.handle(Input::Resumed, at);
            machine.deadline();
            let reason = Reason::new(ReasonCode::Internal, "x");
            for effect in [Effect::Prove, Effect::Restore, Effect::ProveFormer] {
                let _ = machine.handle(Input::Failed { effect, reason: reason.clone() }, at);
                machine.deadline();
            }
        }
    });
}

#[test]
fn rollouts() {
    let state = first_state(&order());
    let outcomes: Vec<Value> =
        ["deploy.failed", "release.committed", "drift.detected"].map(|name| golden(name)["data"].clone()).into();
    let seed = json!({ "order": order(), "state": state, "outcomes": outcomes, "elapsed_ms": 7 });
    #[derive(Deserialize)]
    struct Seen {
        order: Order,
        state: RolloutState,
        outcomes: Vec<Outcome>,
        elapsed_ms: u64,
    }
    run("rollout", &[serde_json::to_vec(&seed).unwrap()], |bytes| {
        let Ok(Seen { order, mut state, outcomes, elapsed_ms }) = serde_json::from_slice(bytes) else { return };
        let mut view = View::new(order.id);
        for outcome in &outcomes {
            view.fold(outcome);
        }
        let present: BTreeSet<HostName> = order.promotion.plan.hosts().take(1).cloned().collect();
        for (aborted, superseded_by) in [(None, None), (Some("why"), None), (None, Some(Counter(u64::MAX)))] {
            let facts = rollout::Facts {
                order: &order,
                state: &state,
                view: &view,
                present: &present,
                aborted,
                superseded_by,
                elapsed_ms,
            };
            let Some(next) = decide(&facts) else { continue };
            assert!(next.phase == state.phase || next.follows(&state), "{next:?} after {state:?}");
            state = next;
            let _ = (admission(&order, &state), after_commit(&order, &state), proofs_needed(&order, &state).len());
        }
    });
}

#[test]
fn policies() {
    let seeds = ["environment.policy", "environment.frozen", "release.approved", "release.condemned"];
    let seeds = seeds.map(|name| serde_json::to_vec(&golden(name)).unwrap());
    let (key, order) = (SigningKey::generate(), order());
    let (env, app) = (order.promotion.env.clone(), order.promotion.app.clone());
    let digest = Digest::of(b"promotion");
    let now: Timestamp = "2026-11-21T09:00:00Z".parse().unwrap();
    run("policy", &seeds, |bytes| {
        // Signed by the one whose word counts: what follows must bear anything.
        let header = key.header(bytes).unwrap();
        let (admin, signature) = ([key.public()], Some(header.as_str()));
        let message = Published { body: bytes, signature };
        let policy = documents::policy(message, &env, &admin).ok().map(|(_, policy)| policy);
        let freezes = documents::freezes(message, &env, &admin).ok().map(|(_, freezes)| freezes.freezes);
        let approval = documents::approval(message, &env, &app, &admin).ok();
        let absolved = documents::absolutions(message, &env, &app, &admin).ok().map(|all| all.absolved);
        drop(documents::condemned(bytes, &env, &app));
        judge(&Facts {
            promotion: &order.promotion,
            id: order.id,
            digest: &digest,
            promoted_by: &admin,
            now,
            condemned: None,
            absolved: absolved.as_deref().unwrap_or_default(),
            policy: policy.as_ref(),
            freezes: freezes.as_deref().unwrap_or_default(),
            lost: Lost { policy: bytes.len() % 2 == 1, freezes: true },
            approval: approval.as_ref(),
            is_way_back: false,
            has_worked: false,
        });
        if let Some(rule) = policy.as_ref().and_then(|policy| policy.approvals.as_ref()) {
            approvals::impossible(rule);
        }
    });
}

#[test]
fn windows() {
    let seeds = [
        json!({ "cron": "0 18 * * FRI", "duration_ms": 60_000, "time_zone": "Europe/Berlin", "reason": "r" }),
        json!({ "cron": "*/5 1-4 L 2 1#3", "duration_ms": 5_184_000_000_u64, "time_zone": "UTC", "reason": "r" }),
    ];
    let times = ["2026-03-29T01:30:00Z", "9999-12-30T00:00:00Z", "-009999-01-03T00:00:00Z", "1970-01-01T00:00:00Z"];
    let times = times.map(|text| text.parse::<Timestamp>().unwrap());
    run("freeze-window", &seeds.map(|seed| serde_json::to_vec(&seed).unwrap()), |bytes| {
        let Ok(window) = serde_json::from_slice::<FreezeWindow>(bytes) else { return };
        for at in times {
            if let Ok(Some(until)) = freeze::open_until(&window, at) {
                assert!(until > at);
            }
        }
    });
}
