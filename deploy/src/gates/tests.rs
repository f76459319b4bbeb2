//! One scenario, changed in one place at a time: each row names what is changed and what the rules say then.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_APPROVED, TYPE_CONDEMNED, TYPE_ENVIRONMENT_POLICY, TYPE_PROMOTED};
use landfall_schema::gates::{
    Absolution, Approval, ApprovalRule, ApprovalVerdict, Approver, Condemned, CondemnedList, EVIDENCE_HOSTS_MAX,
    EnvironmentPolicy, Evidence, Freeze, Requirement, fingerprint,
};
use landfall_schema::ids::{Counter, Digest, EventId, HostName};
use landfall_schema::outcome::{Outcome, OutcomeKind, Reason, ReasonCode};
use landfall_schema::promotion::{BundleRef, Intent, PinnedImage, Promotion, RolloutPlan, Wave};
use landfall_schema::signature::{DsseEnvelope, PublicKey, SigningKey};
use uuid::Uuid;

use super::documents::{self, Published};
use super::{Facts, Gate, Lost, Said, judge};
use frozen::a_freeze;

mod frozen;

const ID: EventId = EventId(Uuid::from_u128(7));
const STAGED: EventId = EventId(Uuid::from_u128(3));

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn later(hours: i64) -> Timestamp {
    now().checked_add(jiff::SignedDuration::from_hours(hours)).unwrap()
}

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn promotion(env: &str) -> Promotion {
    let image = PinnedImage { repository: "r/shop".to_owned(), digest: Digest::of(b"v2"), tag: None };
    Promotion {
        env: env.parse().unwrap(),
        app: "shop".parse().unwrap(),
        counter: Counter(2),
        release: "v2".parse().unwrap(),
        intent: Intent::Promote,
        images: BTreeMap::from([("app".parse().unwrap(), image)]),
        variables: BTreeMap::new(),
        bundle: BundleRef { digest: Digest::of(b"bundle"), bytes: 6 },
        plan: RolloutPlan { waves: vec![Wave::of(vec![host("s1"), host("s2")])], ..RolloutPlan::default() },
        only: Default::default(),
        preview: None,
        evidence: None,
        schema: None,
        author: "ci".to_owned(),
        link: None,
        expires_at: later(1),
    }
}

/// Everything that a judgement depends on, owned.
struct World {
    promotion: Promotion,
    digest: Digest,
    promoted_by: Vec<PublicKey>,
    now: Timestamp,
    condemned: Option<CondemnedList>,
    absolved: Vec<Absolution>,
    policy: Option<EnvironmentPolicy>,
    freezes: Vec<Freeze>,
    lost: Lost,
    approval: Option<Said<Approval>>,
    is_way_back: bool,
    has_worked: bool,
    keys: Keys,
}

struct Keys {
    promoter: SigningKey,
    hosts: [SigningKey; 2],
    people: [SigningKey; 3],
}

impl World {
    fn new() -> Self {
        let keys = Keys {
            promoter: SigningKey::generate(),
            hosts: [SigningKey::generate(), SigningKey::generate()],
            people: [SigningKey::generate(), SigningKey::generate(), SigningKey::generate()],
        };
        Self {
            promotion: promotion("production"),
            digest: Digest::of(b"the promotion's bytes"),
            promoted_by: Vec::new(),
            now: now(),
            condemned: None,
            absolved: Vec::new(),
            policy: None,
            freezes: Vec::new(),
            lost: Lost::default(),
            approval: None,
            is_way_back: false,
            has_worked: false,
            keys,
        }
    }

    fn policy(&mut self) -> &mut EnvironmentPolicy {
        self.policy.get_or_insert_with(|| EnvironmentPolicy {
            env: "production".parse().unwrap(),
            requires: None,
            approvals: None,
            freeze_windows: Vec::new(),
            author: "ann".to_owned(),
        })
    }

    fn judge(&self) -> Gate {
        judge(&Facts {
            promotion: &self.promotion,
            id: ID,
            digest: &self.digest,
            promoted_by: &self.promoted_by,
            now: self.now,
            condemned: self.condemned.as_ref(),
            absolved: &self.absolved,
            policy: self.policy.as_ref(),
            freezes: &self.freezes,
            lost: self.lost,
            approval: self.approval.as_ref(),
            is_way_back: self.is_way_back,
            has_worked: self.has_worked,
        })
    }

    /// `production` requires `staging`, and the evidence is as it should be after `change`.
    fn proven(change: impl FnOnce(&Keys, &mut Promotion, &mut Vec<(usize, Outcome)>)) -> Self {
        let mut world = Self::new();
        let keys = &world.keys;
        let requirement = Requirement {
            env: "staging".parse().unwrap(),
            host_keys: [("s1", 0), ("s2", 1)].map(|(name, n)| (host(name), keys.hosts[n].public())).into(),
            promoters: vec![keys.promoter.public()],
        };
        let mut staged = promotion("staging");
        let mut outcomes = Vec::new();
        for (n, name) in ["s1", "s2"].into_iter().enumerate() {
            for kind in super::evidence::REQUIRED {
                let mut outcome = Outcome::new(kind, &host(name), &staged, STAGED);
                if kind == OutcomeKind::DeploySucceeded {
                    outcome.running = BTreeMap::from([("app".parse().unwrap(), Digest::of(b"v2"))]);
                }
                outcomes.push((n, outcome));
            }
        }
        change(keys, &mut staged, &mut outcomes);
        let promotion = signed(STAGED, TYPE_PROMOTED, &staged, &keys.promoter);
        let outcomes = outcomes
            .iter()
            .map(|(n, outcome)| signed(ID, &outcome.kind.event_type(), outcome, &keys.hosts[*n]))
            .collect();
        world.promotion.evidence = Some(Evidence { promotion, outcomes });
        world.policy().requires = Some(requirement);
        world
    }

    /// Two of three people must approve, and `who` of them said `verdict`.
    fn approved(verdict: ApprovalVerdict, who: &[usize]) -> Self {
        let mut world = Self::new();
        let names = ["ann", "bob", "cid"];
        let of = world.keys.people.iter().zip(names);
        let of = of.map(|(key, name)| Approver { name: name.to_owned(), key: key.public() }).collect();
        world.policy().approvals = Some(ApprovalRule { need: 2, of });
        let data = Approval {
            env: "production".parse().unwrap(),
            app: "shop".parse().unwrap(),
            counter: Counter(2),
            release: "v2".parse().unwrap(),
            promotion: ID,
            digest: world.digest.clone(),
            verdict,
            note: "too late today".to_owned(),
        };
        let signers = who.iter().map(|n| world.keys.people[*n].public()).collect();
        world.approval = Some(Said { data, signers });
        world
    }
}

fn signed<T: serde::Serialize>(id: EventId, kind: &str, data: &T, key: &SigningKey) -> DsseEnvelope {
    let body = CloudEvent::new(id, "/test", kind, now(), data).encode().unwrap();
    DsseEnvelope::new(&body, vec![key.sign(&body).unwrap()])
}

/// `expect` is `pass`, or the code or `wait`, then words that the text must have.
fn check(world: &World, what: &str, expect: &str) {
    let (found, text) = match world.judge() {
        Gate::Pass => ("pass".to_owned(), String::new()),
        Gate::Wait { on, .. } => ("wait".to_owned(), on),
        Gate::Refuse(reason) => {
            assert!(reason.hint.is_some(), "{what}: nothing says what to do next: {reason:#?}");
            (reason.code.as_str(), format!("{} {}", reason.message, reason.hint.unwrap_or_default()))
        }
    };
    let mut words = expect.split(": ");
    assert_eq!(Some(found.as_str()), words.next(), "{what}: {text}");
    for word in words {
        assert!(text.contains(word), "{what}: {word:?} is not in {text:?}");
    }
}

#[test]
fn without_rules_everything_passes() {
    check(&World::new(), "no rule", "pass");
    let mut world = World::new();
    world.policy();
    check(&world, "an empty policy", "pass");
}

#[test]
fn evidence() {
    type Change = fn(&Keys, &mut Promotion, &mut Vec<(usize, Outcome)>);
    let refused = "not_proven_elsewhere: policy by ann: landfall promote shop --from staging --to production";
    let cases: [(&str, Change, &str); 13] = [
        ("as it should be", |_, _, _| {}, ""),
        ("one smoke test is missing", |_, _, o| drop(o.remove(3)), "no smoke test passed on s2"),
        ("one success is missing", |_, _, o| drop(o.remove(2)), "s2 has not signed deploy.succeeded"),
        ("signed by another host", |_, _, o| o[1].0 = 1, "the smoke.passed of s1 for staging promotion #2"),
        (
            "another digest",
            |_, p, _| p.images.values_mut().for_each(|image| image.digest = Digest::of(b"v1")),
            "service app is sha256:",
        ),
        ("another digest ran", |_, _, o| o[0].1.running.values_mut().for_each(|d| *d = Digest::of(b"v1")), "on s1"),
        ("nothing ran", |_, _, o| o[0].1.running.clear(), "s1 does not say what it ran"),
        ("other compose files", |_, p, _| p.bundle.digest = Digest::of(b"other"), "compose files"),
        ("another application", |_, p, _| p.app = "blog".parse().unwrap(), "application blog"),
        ("another environment", |_, p, _| p.env = "dev".parse().unwrap(), "is of dev"),
        (
            "outcomes of another promotion",
            |_, _, o| o.iter_mut().for_each(|(_, o)| o.promotion = ID),
            "s1 has not signed",
        ),
        ("a host that nobody knows", |_, p, _| p.plan.waves[0].hosts.push(host("s3")), "s3, where it ran"),
        ("no host at all", |_, p, _| p.plan.waves.clear(), "names no host"),
    ];
    for (what, change, words) in cases {
        let world = World::proven(change);
        match words {
            "" => check(&world, what, "pass"),
            _ if what == "a host that nobody knows" => {
                check(&world, what, &format!("not_proven_elsewhere: {words}: landfall policy apply"))
            }
            _ => check(&world, what, &format!("{refused}: {words}")),
        }
    }
    let mut world = World::proven(|_, _, _| {});
    world.policy().requires.as_mut().unwrap().promoters = vec![SigningKey::generate().public()];
    check(&world, "promoted by a stranger", &format!("{refused}: not signed by anybody who may promote to staging"));
    world.promotion.evidence = None;
    check(&world, "no evidence", &format!("{refused}: carries no evidence"));
    world.is_way_back = true;
    check(&world, "the way back", "pass");
}

#[test]
fn only_the_first_hosts_of_a_large_plan_are_asked_for() {
    let world = World::proven(|_, staged, outcomes| {
        let (first, second) = (outcomes[0].1.host.clone(), outcomes[2].1.host.clone());
        staged.plan.waves = vec![Wave::of(vec![first]), Wave::of((0..8).map(|n| host(&format!("x{n}"))).collect())];
        staged.plan.waves[1].hosts[0] = second;
    });
    check(&world, "strangers among the first", "not_proven_elsewhere: x1, where it ran");
}

#[test]
fn approvals() {
    use ApprovalVerdict::{Approved, Rejected};
    check(&World::approved(Approved, &[0, 2]), "enough", "pass");
    check(&World::approved(Approved, &[1]), "one", "wait: 1 of 2 approvals: policy by ann: waiting for ann, cid");
    check(&World::approved(Approved, &[]), "none", "wait: 0 of 2: ann, bob, cid");
    check(&World::approved(Rejected, &[1]), "rejected", "rejected: bob rejected shop v2: too late today: talk to bob");
    check(&World::approved(Rejected, &[]), "rejected by a stranger", "wait: 0 of 2");
    let mut world = World::approved(Approved, &[0, 1]);
    world.promoted_by = vec![world.keys.people[0].public()];
    check(&world, "the author approves", "wait: 1 of 2 approvals: waiting for cid");
    let mut world = World::approved(Rejected, &[0]);
    world.promoted_by = vec![world.keys.people[0].public()];
    check(&world, "the author rejects", "rejected: ann rejected");
    let mut world = World::approved(Approved, &[0, 1]);
    world.digest = Digest::of(b"other bytes");
    check(&world, "the approval of other bytes", "wait: 0 of 2");
    let mut world = World::approved(Approved, &[0, 1]);
    world.approval.as_mut().unwrap().data.promotion = STAGED;
    check(&world, "the approval of another promotion", "wait: 0 of 2");
    world.promotion.intent = Intent::Rollback { to: Counter(1) };
    world.has_worked = true;
    check(&world, "a rollback to what only other hosts ran", "wait: 0 of 2");
    let mut world = World::approved(Approved, &[1]);
    world.now = world.promotion.expires_at;
    check(
        &world,
        "expired",
        "not_approved: expired at 2026-11-20T13:00:00Z: 1 of 2: promote it again; then: `landfall approve shop --env production`",
    );
    world.is_way_back = true;
    check(&world, "the way back", "pass");
    let mut world = World::approved(Approved, &[0]);
    let twice = world.policy().approvals.as_mut().unwrap();
    twice.of[1].key = twice.of[0].key.clone();
    check(&world, "one key under two names", "wait: 1 of 2");
    let mut world = World::approved(Approved, &[0, 1]);
    world.policy().approvals.as_mut().unwrap().of[1].name = "Ann ".to_owned();
    check(&world, "one person with two keys", "wait: 1 of 2 approvals: waiting for cid");
    world.approval.as_mut().unwrap().signers.remove(0);
    check(&world, "by the second of two keys", "wait: 1 of 2 approvals: waiting for cid");
    world.promoted_by = vec![world.keys.people[0].public()];
    check(&world, "the author approves with another key", "wait: 0 of 2 approvals: waiting for cid");
    world.policy().approvals.as_mut().unwrap().of.pop();
    check(
        &world,
        "fewer people than it needs",
        "policy_unreadable: production needs 2 approvals (policy by ann): names 1 different people: landfall policy apply",
    );
    world.is_way_back = true;
    check(&world, "the way back asks nobody", "pass");
}

#[test]
fn condemned() {
    let entry = |counter| Condemned {
        fingerprint: fingerprint(&promotion("production")),
        counter: Counter(counter),
        release: "v2".parse().unwrap(),
        cause: Reason::new(ReasonCode::SmokeFailed, "the basket is empty"),
        host: host("p1"),
        at: now(),
    };
    let absolution = |counter| Absolution {
        fingerprint: fingerprint(&promotion("production")),
        counter: Counter(counter),
        release: "v2".parse().unwrap(),
        reason: "it was the database".to_owned(),
        author: "ann".to_owned(),
        at: now(),
    };
    let list = |counter| CondemnedList {
        env: "production".parse().unwrap(),
        app: "shop".parse().unwrap(),
        condemned: vec![entry(counter)],
    };
    let world = |counter| World { condemned: Some(list(counter)), ..World::new() };
    let refused = "condemned: v2 (promotion #1) was rolled back, says p1: the basket is empty: landfall absolve shop 1";
    check(&world(1), "condemned", refused);
    check(&World { absolved: vec![absolution(1)], ..world(1) }, "absolved", "pass");
    check(&World { absolved: vec![absolution(1)], ..world(2) }, "condemned again", "condemned: promotion #2");
    let mut rollback = world(1);
    rollback.promotion.intent = Intent::Rollback { to: Counter(1) };
    check(&rollback, "a rollback to what was condemned", refused);
    rollback.has_worked = true;
    check(&rollback, "a rollback to what worked before it was condemned", "pass");
    let mut other = world(1);
    other.promotion.variables.insert("A".to_owned(), "1".to_owned());
    check(&other, "other variables", "pass");

    let mut full = list(0);
    for counter in 1..=60 {
        let fingerprint = Digest::of(&[counter]);
        assert!(full.add(Condemned { fingerprint, ..entry(u64::from(counter)) }));
    }
    assert_eq!((full.condemned.len(), full.condemned[0].counter), (50, Counter(11)));
    let newest = full.condemned[49].clone();
    assert!(!full.add(newest), "the same one twice");
}

#[test]
fn the_first_rule_that_says_no_is_told() {
    let mut world = World::approved(ApprovalVerdict::Rejected, &[1]);
    world.freezes = vec![a_freeze(None)];
    check(&world, "rejected and frozen", "rejected: bob");
    let mut world = World::approved(ApprovalVerdict::Approved, &[1]);
    world.freezes = vec![a_freeze(None)];
    check(&world, "not approved and frozen", "wait: 1 of 2");
}

#[test]
fn documents_are_believed_by_their_signature_and_place() {
    let (admin, stranger) = (SigningKey::generate(), SigningKey::generate());
    let env = "production".parse().unwrap();
    let mut world = World::new();
    let body = CloudEvent::new(ID, "/test", TYPE_ENVIRONMENT_POLICY, now(), world.policy().clone()).encode().unwrap();
    let read = |key: &SigningKey, env: &_| {
        let header = key.header(&body).unwrap();
        documents::policy(Published { body: &body, signature: Some(&header) }, env, &[admin.public()])
    };
    assert_eq!(read(&admin, &env).unwrap().1.author, "ann");
    assert!(read(&stranger, &env).unwrap_err().to_string().contains("no signature is by a trusted key"));
    assert!(read(&admin, &"staging".parse().unwrap()).unwrap_err().to_string().contains("production"));
    assert!(documents::policy(Published { body: &body, signature: None }, &env, &[admin.public()]).is_err());

    let approval = World::approved(ApprovalVerdict::Approved, &[]).approval.unwrap().data;
    let body = CloudEvent::new(ID, "/test", TYPE_APPROVED, now(), approval).encode().unwrap();
    let signatures = [&admin, &stranger].map(|key| key.sign(&body).unwrap());
    let header = landfall_schema::signature::encode_header(&signatures);
    let message = Published { body: &body, signature: Some(&header) };
    let app = "shop".parse().unwrap();
    let said = documents::approval(message, &env, &app, &[stranger.public(), admin.public()]).unwrap();
    assert_eq!(said.signers, [stranger.public(), admin.public()]);
    assert_eq!(documents::approval(message, &env, &app, &[]).unwrap().signers, []);

    let list = CondemnedList { env: "production".parse().unwrap(), app: app.clone(), condemned: Vec::new() };
    let mut envelope = signed(ID, TYPE_CONDEMNED, &list, &admin);
    assert!(documents::condemned(&serde_json::to_vec(&envelope).unwrap(), &env, &app).is_ok());
    envelope.signatures[0].keyid = stranger.public().to_string();
    assert!(documents::condemned(&serde_json::to_vec(&envelope).unwrap(), &env, &app).is_err());
}

/// The plan names hosts that are known, so many of them, and then one that nobody knows.
#[test]
fn so_many_hosts_are_asked_for_evidence() {
    let known = |count: usize| {
        World::proven(|_, staged, _| {
            let hosts = ["s1", "s2"].map(host).into_iter().cycle().take(count).chain([host("s9")]);
            staged.plan.waves = vec![Wave::of(hosts.collect())];
        })
    };
    check(
        &known(EVIDENCE_HOSTS_MAX - 1),
        "the last that is asked for",
        "not_proven_elsewhere: s9, where it ran: landfall policy apply",
    );
    check(&known(EVIDENCE_HOSTS_MAX), "one past it", "pass");
}
