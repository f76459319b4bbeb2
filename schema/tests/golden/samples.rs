//! One event of each type, with every field in use somewhere.

use std::collections::BTreeMap;

use landfall_schema::Timestamp;
use landfall_schema::dead_letter::DeadLetter;
use landfall_schema::event::{
    CloudEvent, TYPE_ABSOLVED, TYPE_APPROVED, TYPE_CONDEMNED, TYPE_DEAD_LETTER, TYPE_ENVIRONMENT_FROZEN,
    TYPE_ENVIRONMENT_POLICY, TYPE_HALTED, TYPE_MIGRATION_LEASE, TYPE_PRESENCE, TYPE_PROMOTED, TYPE_ROLLOUT_STATE,
};
use landfall_schema::gates::{
    Absolution, Absolutions, Approval, ApprovalRule, ApprovalVerdict, Approver, Condemned, CondemnedList,
    EnvironmentPolicy, Evidence, Freeze, FreezeWindow, Freezes, Requirement,
};
use landfall_schema::halt::{Halt, HaltCommand};
use landfall_schema::ids::{AppName, Counter, Digest, EnvName, EventId, HostName, ReleaseName, ServiceName};
use landfall_schema::lease::{LeaseDone, LeasePhase, MigrationLease};
use landfall_schema::outcome::{AppliedMigration, LogTail, Outcome, OutcomeKind, Progress, Reason, ReasonCode};
use landfall_schema::presence::{EngineState, Presence, RunningRelease};
use landfall_schema::promotion::{
    BundleRef, Intent, Offline, OnFailure, PinnedImage, Preview, Promotion, RolloutPlan, SchemaPromise, Wave,
};
use landfall_schema::rollout::{RolloutPhase, RolloutState, RolloutWord};
use landfall_schema::signature::{DsseEnvelope, PublicKey, Signature};

fn env() -> EnvName {
    "staging".parse().unwrap()
}

fn app() -> AppName {
    "shop".parse().unwrap()
}

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn release(name: &str) -> ReleaseName {
    name.parse().unwrap()
}

fn service(name: &str) -> ServiceName {
    name.parse().unwrap()
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A UUIDv7 that ends in this number.
fn id(number: u16) -> EventId {
    format!("019aa5c0-3c00-7000-8000-00000000{number:04x}").parse().unwrap()
}

fn event<T>(number: u16, source: &str, kind: impl Into<String>, data: T) -> CloudEvent<T> {
    CloudEvent::new(id(number), source, kind, time("2026-11-21T09:00:00Z"), data)
}

pub(super) fn promotion() -> CloudEvent<Promotion> {
    let image = |name: &str| PinnedImage {
        repository: format!("registry.example.org/{name}"),
        digest: Digest::of(name.as_bytes()),
        tag: Some("v2".to_owned()),
    };
    let data = Promotion {
        env: env(),
        app: app(),
        counter: Counter(2),
        release: release("v2"),
        intent: Intent::Rollback { to: Counter(1) },
        images: BTreeMap::from([(service("app"), image("shop")), (service("migrator"), image("shop-migrator"))]),
        variables: BTreeMap::from([("LOG_LEVEL".to_owned(), "info".to_owned())]),
        bundle: BundleRef { digest: Digest::of(b"bundle"), bytes: 812 },
        plan: RolloutPlan {
            waves: vec![
                Wave { bake_ms: Some(60_000), ..Wave::of(vec![host("host-a")]) },
                Wave { deadline_ms: Some(600_000), max_parallel: Some(2), ..Wave::of(vec![host("host-b")]) },
            ],
            only_named: false,
            labels: BTreeMap::from([("role".to_owned(), "web".to_owned())]),
            deadline_ms: 900_000,
            bake_ms: 5_000,
            on_failure: OnFailure::Hold,
            offline: Offline::Block,
            away: vec![host("host-c")],
            roster: Some(BundleRef { digest: Digest::of(b"roster"), bytes: 160 }),
        },
        only: [service("app")].into(),
        preview: Some(Preview { of: app(), name: "pr-123".parse().unwrap(), expires_at: time("2026-11-24T10:00:00Z") }),
        schema: Some(SchemaPromise { compatible_with: ">= 1.4".to_owned() }),
        evidence: Some(Evidence {
            promotion: envelope(b"the promotion to dev"),
            outcomes: vec![envelope(b"deploy.succeeded"), envelope(b"smoke.passed")],
        }),
        author: "ci".to_owned(),
        link: Some("https://ci.example.org/pipelines/7".to_owned()),
        expires_at: time("2026-11-21T10:00:00Z"),
    };
    event(1, "/landfall/producer/ci", TYPE_PROMOTED, data)
}

/// Its signature is none.
fn envelope(payload: &[u8]) -> DsseEnvelope {
    DsseEnvelope::new(payload, vec![Signature { keyid: "USIGNER".to_owned(), sig: "c2lnbmF0dXJl".to_owned() }])
}

/// Always the same key for the same number.
fn key(number: u8) -> PublicKey {
    let pair = nkeys::KeyPair::new_from_raw(nkeys::KeyPairType::User, [number; 32]).unwrap();
    PublicKey::new(pair.public_key()).unwrap()
}

pub(super) fn environment_policy() -> CloudEvent<EnvironmentPolicy> {
    let data = EnvironmentPolicy {
        env: env(),
        requires: Some(Requirement {
            env: "dev".parse().unwrap(),
            host_keys: BTreeMap::from([(host("dev-a"), key(0))]),
            promoters: vec![key(1)],
        }),
        approvals: Some(ApprovalRule { need: 1, of: vec![Approver { name: "ann".to_owned(), key: key(0) }] }),
        freeze_windows: vec![FreezeWindow {
            cron: "0 16 * * FRI".to_owned(),
            duration_ms: 230_400_000,
            time_zone: "Europe/Berlin".to_owned(),
            reason: "nobody is here at the weekend".to_owned(),
        }],
        author: "ann".to_owned(),
    };
    event(6, "/landfall/producer/ann", TYPE_ENVIRONMENT_POLICY, data)
}

pub(super) fn freezes() -> CloudEvent<Freezes> {
    let freeze = Freeze {
        app: Some(app()),
        reason: "the sale".to_owned(),
        until: time("2026-11-30T08:00:00Z"),
        author: "ann".to_owned(),
        since: time("2026-11-21T09:00:00Z"),
    };
    let all = Freeze { app: None, ..freeze.clone() };
    event(7, "/landfall/producer/ann", TYPE_ENVIRONMENT_FROZEN, Freezes { env: env(), freezes: vec![freeze, all] })
}

pub(super) fn approval() -> CloudEvent<Approval> {
    let data = Approval {
        env: env(),
        app: app(),
        counter: Counter(2),
        release: release("v2"),
        promotion: id(1),
        digest: Digest::of(b"the promotion"),
        verdict: ApprovalVerdict::Rejected,
        note: "the changelog is missing".to_owned(),
    };
    event(8, "/landfall/producer/ann", TYPE_APPROVED, data)
}

pub(super) fn condemned() -> CloudEvent<CondemnedList> {
    let entry = Condemned {
        fingerprint: Digest::of(b"what it runs"),
        counter: Counter(2),
        release: release("v2"),
        cause: Reason::new(ReasonCode::SmokeFailed, "GET /api/plans answered 500"),
        host: host("host-a"),
        at: time("2026-11-21T09:05:00Z"),
    };
    let data = CondemnedList { env: env(), app: app(), condemned: vec![entry] };
    event(9, "/landfall/host/host-a", TYPE_CONDEMNED, data)
}

pub(super) fn absolutions() -> CloudEvent<Absolutions> {
    let absolution = Absolution {
        fingerprint: Digest::of(b"what it runs"),
        counter: Counter(2),
        release: release("v2"),
        reason: "the payment provider was down".to_owned(),
        author: "ann".to_owned(),
        at: time("2026-11-21T09:30:00Z"),
    };
    let data = Absolutions { env: env(), app: app(), absolved: vec![absolution] };
    event(10, "/landfall/producer/ann", TYPE_ABSOLVED, data)
}

pub(super) fn presence() -> CloudEvent<Presence> {
    let data = Presence {
        env: env(),
        host: host("host-a"),
        executor_version: "0.1.0".to_owned(),
        labels: BTreeMap::from([("zone".to_owned(), "eu-1".to_owned())]),
        engine: EngineState::Answering { version: "28.5.2".to_owned() },
        disk_free_bytes: 42_000_000_000,
        key: "UAPUBLICKEYOFTHEHOST".to_owned(),
        apps: BTreeMap::from([
            (app(), Some(RunningRelease { counter: Counter(1), release: release("v1") })),
            ("blog".parse().unwrap(), None),
        ]),
        previews: [app()].into(),
    };
    event(2, "/landfall/host/host-a", TYPE_PRESENCE, data)
}

pub(super) fn halt() -> CloudEvent<Halt> {
    let data = Halt {
        env: env(),
        app: app(),
        counter: Counter(2),
        promotion: id(1),
        command: HaltCommand::Abort,
        reason: "checkout is slow".to_owned(),
        author: "ann".to_owned(),
    };
    event(4, "/landfall/producer/ann", TYPE_HALTED, data)
}

pub(super) fn rollout_state() -> CloudEvent<RolloutState> {
    event(5, "/landfall/host/host-a", TYPE_ROLLOUT_STATE, rollout())
}

fn rollout() -> RolloutState {
    RolloutState {
        env: env(),
        app: app(),
        counter: Counter(2),
        promotion: id(1),
        phase: RolloutPhase::Ended { word: RolloutWord::Mixed },
        wave: 1,
        admitted: 2,
        cause: Some(Reason::new(ReasonCode::Unhealthy, "host-b rolled_back: app is unhealthy")),
        not_reached: BTreeMap::from([(host("host-c"), "it is away".to_owned())]),
        differing: BTreeMap::from([(host("host-b"), "it is stuck".to_owned())]),
        decided_by: host("host-a"),
    }
}

pub(super) fn lease() -> CloudEvent<MigrationLease> {
    let mut data = MigrationLease {
        env: env(),
        database: "shop".to_owned(),
        app: app(),
        counter: Counter(2),
        release: release("v2"),
        promotion: id(1),
        service: service("migrator"),
        holder: host("host-a"),
        phase: LeasePhase::Failed { reason: reason(OutcomeKind::MigrationFailed) },
        done: BTreeMap::new(),
    };
    let applied = vec![AppliedMigration {
        database: "shop".to_owned(),
        description: "2 add orders note".to_owned(),
        duration_ms: 40,
    }];
    data.remember(LeaseDone { promotion: id(1), counter: Counter(2), by: host("host-a"), applied });
    event(6, "/landfall/host/host-a", TYPE_MIGRATION_LEASE, data)
}

pub(super) fn dead_letter() -> CloudEvent<DeadLetter> {
    let data = DeadLetter {
        env: env(),
        host: host("host-a"),
        stream: "DESIRED".to_owned(),
        sequence: 17,
        subject: "landfall.staging.release.shop.promoted".to_owned(),
        reason: Reason::new(ReasonCode::Malformed, "the event is not readable as dev.landfall.release.promoted.v1")
            .hint("promote again with the landfall CLI"),
        body_base64: "bm90IGFuIGV2ZW50".to_owned(),
        body_bytes: 12,
        signature: Some("[]".to_owned()),
    };
    event(3, "/landfall/host/host-a", TYPE_DEAD_LETTER, data)
}

pub(super) fn outcome(kind: OutcomeKind) -> CloudEvent<Outcome> {
    let mut data = Outcome {
        duration_ms: Some(1_250),
        message: format!("shop v2: {kind}"),
        reason: kind.is_failure().then(|| reason(kind)),
        rollout: kind.is_rollout().then(rollout),
        ..Outcome::new(kind, &host("host-a"), &promotion().data, id(1))
    };
    let serves = |name: &str| BTreeMap::from([(service("app"), Digest::of(name.as_bytes()))]);
    match kind {
        OutcomeKind::ImagePulling => {
            data.duration_ms = None;
            data.progress = Some(Progress {
                service: service("app"),
                layers_done: 2,
                layers_total: 5,
                bytes_done: 1_048_576,
                bytes_total: 4_194_304,
            });
        }
        OutcomeKind::MigrationApplied => {
            data.migrations = vec![AppliedMigration {
                database: "shop".to_owned(),
                description: "2 add orders note".to_owned(),
                duration_ms: 40,
            }];
        }
        OutcomeKind::ReleaseCommitted => data.running = serves("shop"),
        OutcomeKind::RollbackRestored => data.former = Some(release("v1")),
        OutcomeKind::DeploySucceeded => {
            data.running = serves("shop");
            data.timings_ms = BTreeMap::from([("image".to_owned(), 400), ("stack".to_owned(), 600)]);
        }
        OutcomeKind::DeployRolledBack => {
            data.running = serves("shop v1");
            data.former = Some(release("v1"));
            data.timings_ms = BTreeMap::from([("readiness".to_owned(), 700), ("rollback".to_owned(), 500)]);
        }
        _ => {}
    }
    event(0x100 + kind as u16, "/landfall/host/host-a", kind.event_type(), data)
}

fn reason(kind: OutcomeKind) -> Reason {
    let code = match kind {
        OutcomeKind::ImageFailed => ReasonCode::ImageNotFound,
        OutcomeKind::BackupFailed => ReasonCode::BackupFailed,
        OutcomeKind::MigrationFailed | OutcomeKind::DeployFailed => ReasonCode::MigrationFailed,
        OutcomeKind::StackFailed => ReasonCode::PortTaken,
        OutcomeKind::SmokeFailed => ReasonCode::SmokeFailed,
        OutcomeKind::RollbackFailed | OutcomeKind::DeployStuck => ReasonCode::RollbackFailed,
        OutcomeKind::DeploySuperseded => ReasonCode::Superseded,
        OutcomeKind::DeployRefused => ReasonCode::StaleCounter,
        OutcomeKind::DeployNotReached => ReasonCode::NotReached,
        _ => ReasonCode::Unhealthy,
    };
    Reason::new(code, "app answers 500 on :3000/api/ready")
        .hint("landfall history shop --env staging")
        .logs(vec![LogTail { source: "app".to_owned(), lines: vec!["database is not reachable".to_owned()] }])
}
