//! Those who promote, approve, halt and repair; and those who only pretend to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use landfall_bus::simulated::Outgoing;
use landfall_schema::bundle::{BUNDLE_VERSION, Bundle, BundleFile};
use landfall_schema::event::{
    CloudEvent, TYPE_APPROVED, TYPE_ENVIRONMENT_POLICY, TYPE_HALTED, TYPE_MIGRATION_LEASE, TYPE_PROMOTED,
    TYPE_ROLLOUT_STATE,
};
use landfall_schema::gates::{Approval, ApprovalRule, ApprovalVerdict, Approver, EnvironmentPolicy};
use landfall_schema::halt::{Halt, HaltCommand};
use landfall_schema::ids::{Counter, Digest, EventId, HostName, ReleaseName};
use landfall_schema::layout::{OUTCOMES, RELEASES};
use landfall_schema::lease::{LeasePhase, MigrationLease};
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_schema::promotion::{BundleRef, Intent, OnFailure, PinnedImage, Promotion, RolloutPlan, Wave};
use landfall_schema::rollout::{RolloutPhase, RolloutState, RolloutWord};
use landfall_schema::roster::Roster;
use landfall_schema::signature::{DsseEnvelope, SigningKey, encode_header};
use landfall_schema::subject;
use serde::Serialize;

use crate::catalogue::{Facts, Quality};
use crate::database::Migration;
use crate::machine::Machine;
use crate::oracle::Ledger;
use crate::scenario::{Forgery, MigrationKind, Promote};
use crate::simulation::{Promoted, Sim, service};

const VALID_FOR: Duration = Duration::from_secs(24 * 3600);
const DEADLINE_MS: u64 = 120_000;

pub(crate) struct People {
    pub(crate) sim: Arc<Sim>,
    pub(crate) machines: Vec<Arc<Machine>>,
}

impl People {
    fn id(&self) -> EventId {
        let mut rest = [0; 10];
        rest.copy_from_slice(&[self.sim.chance.any().to_be_bytes().as_slice(), &[0, 0]].concat()[..10]);
        let now = u64::try_from(self.sim.clock.now().as_millisecond()).unwrap_or(0);
        EventId(uuid::Builder::from_unix_timestamp_millis(now, &rest).into_uuid())
    }

    fn put<T: Serialize>(
        &self,
        kind: &str,
        to: String,
        data: T,
        key: &SigningKey,
        expected: Option<u64>,
    ) -> Result<EventId> {
        let id = self.id();
        let event = CloudEvent::new(id, "/landfall/producer/simulated", kind, self.sim.clock.now(), data);
        let body = event.encode()?;
        let signature = Some(key.header(&body)?);
        let message = Outgoing {
            subject: to,
            id: Some(id.to_string()),
            signature,
            body: body.into(),
            expected,
            ..Outgoing::default()
        };
        self.sim.server.store(message).map_err(|why| anyhow::anyhow!("{why:?}"))?;
        Ok(id)
    }

    /// Sets the rule that every promotion needs an approval.
    pub(crate) fn require_approvals(&self) -> Result<()> {
        let Sim { env, keys, .. } = &*self.sim;
        let names = ["ada", "bob"].into_iter().zip(&keys.approvers);
        let of = names.map(|(name, key)| Approver { name: name.to_owned(), key: key.public() }).collect();
        let policy = EnvironmentPolicy {
            env: env.clone(),
            requires: None,
            approvals: Some(ApprovalRule { need: 2, of }),
            freeze_windows: Vec::new(),
            author: "simulated".to_owned(),
        };
        self.put(TYPE_ENVIRONMENT_POLICY, subject::environment_policy(env).to_string(), policy, &keys.admin, None)?;
        Ok(())
    }

    /// Promotes a release that was never there before.
    pub(crate) fn promote(&self, wanted: &Promote) -> Result<Promoted> {
        let Sim { catalogue, chance, .. } = &*self.sim;
        let counter = self.next_counter()?;
        let digest = Digest::of(&[counter.0.to_be_bytes(), chance.any().to_be_bytes()].concat());
        let mut migrations = self.newest().map(|newest| self.facts(&newest).migrations).unwrap_or_default();
        migrations.retain(|migration| !migration.fails);
        if let Some(kind) = wanted.migration {
            let fails = kind == MigrationKind::Failing;
            // By chance, so that a number that a power cut has taken is not used for something else.
            let version = counter.0 * 1_000 + chance.below(1_000);
            let in_transaction = kind != MigrationKind::WithoutTransaction;
            migrations.push(Migration { version, in_transaction, fails, slow: wanted.slow });
        }
        catalogue.add(digest.clone(), Facts { quality: wanted.quality, migrations });
        self.publish(counter, digest, Intent::Promote, self.plan(wanted)?)
    }

    /// Goes back to a release that has succeeded, as `landfall rollback` does. `None` when there is none.
    pub(crate) fn roll_back(&self) -> Result<Option<Promoted>> {
        let newest = self.newest();
        let ledger = Ledger::read(&self.sim);
        let has_succeeded = |one: &&Promoted| {
            ledger.said(one.id, OutcomeKind::RolloutSucceeded)
                || (!one.promotion.plan.is_coordinated() && ledger.said(one.id, OutcomeKind::DeploySucceeded))
        };
        let promoted = self.sim.promoted();
        let target =
            promoted.iter().rev().filter(|one| Some(one.id) != newest.as_ref().map(|n| n.id)).find(has_succeeded);
        let Some(target) = target else { return Ok(None) };
        let digest = target.promotion.images[&service()].digest.clone();
        let all = Promote {
            quality: Quality::Good,
            migration: None,
            slow: false,
            waves: Vec::new(),
            coordinated: target.promotion.plan.is_coordinated(),
            hold: false,
            max_parallel: None,
            only: None,
        };
        let counter = self.next_counter()?;
        self.publish(counter, digest, Intent::Rollback { to: target.promotion.counter }, self.plan(&all)?).map(Some)
    }

    /// The last release: good, and for everybody.
    pub(crate) fn promote_the_last(&self) -> Result<Promoted> {
        let coordinated = self.machines.len() > 1;
        let good = Promote {
            quality: Quality::Good,
            migration: Some(MigrationKind::InTransaction),
            slow: false,
            waves: vec![1],
            coordinated,
            hold: false,
            max_parallel: None,
            only: None,
        };
        self.promote(&good)
    }

    fn facts(&self, promoted: &Promoted) -> Facts {
        self.sim.catalogue.of(&promoted.promotion.images[&service()].digest)
    }

    fn newest(&self) -> Option<Promoted> {
        self.sim.promoted().pop()
    }

    fn next_counter(&self) -> Result<Counter> {
        let Sim { env, app, server, .. } = &*self.sim;
        let all = server.all(RELEASES, subject::promoted(env, app).as_str());
        let promoter = [self.sim.keys.promoter.public()];
        // Whoever promotes believes what the registered keys have signed.
        let believed = all.iter().filter_map(|said| {
            landfall_schema::signature::verify(&said.body, said.signature.as_deref(), &promoter).ok()?;
            CloudEvent::<Promotion>::decode(&said.body, TYPE_PROMOTED).ok()
        });
        let promoted = believed.map(|event| event.data.counter).max().unwrap_or(Counter::NONE);
        // As the CLI does: a bus that has lost its newest promotions does not give their numbers out again while a host runs them.
        let running = self.machines.iter().filter_map(|machine| machine.container()).map(|container| container.counter);
        Ok(promoted.max(Counter(running.max().unwrap_or(0))).next())
    }

    fn plan(&self, wanted: &Promote) -> Result<RolloutPlan> {
        let names: Vec<HostName> = self.machines.iter().map(|machine| machine.name.clone()).collect();
        let names: Vec<HostName> = names.into_iter().take(wanted.only.unwrap_or(usize::MAX)).collect();
        let coordinated = wanted.coordinated && names.len() > 1;
        let mut waves = Vec::new();
        let mut rest = names.as_slice();
        for size in wanted.waves.iter().filter(|_| coordinated) {
            let (wave, others) = rest.split_at((*size).min(rest.len()));
            if !wave.is_empty() {
                waves.push(Wave { max_parallel: wanted.max_parallel, ..Wave::of(wave.to_vec()) });
            }
            rest = others;
        }
        if !rest.is_empty() {
            waves.push(Wave { max_parallel: wanted.max_parallel, ..Wave::of(rest.to_vec()) });
        }
        let roster = match coordinated {
            true => Some(self.roster(&names)?),
            false => None,
        };
        Ok(RolloutPlan {
            waves,
            only_named: wanted.only.is_some(),
            deadline_ms: DEADLINE_MS,
            bake_ms: 50,
            on_failure: if wanted.hold { OnFailure::Hold } else { OnFailure::RollbackAll },
            roster,
            ..RolloutPlan::default()
        })
    }

    fn roster(&self, names: &[HostName]) -> Result<BundleRef> {
        let named = self.machines.iter().filter(|machine| names.contains(&machine.name));
        let keys: BTreeMap<_, _> = named.map(|machine| (machine.name.clone(), machine.key().public())).collect();
        let (bytes, reference) = Roster::new(keys).encode()?;
        self.sim.server.keep_bundle(reference.digest.clone(), bytes);
        Ok(reference)
    }

    fn publish(&self, counter: Counter, digest: Digest, intent: Intent, plan: RolloutPlan) -> Result<Promoted> {
        let Sim { env, app, server, keys, .. } = &*self.sim;
        let bundle = Bundle {
            version: BUNDLE_VERSION,
            compose: vec![BundleFile { name: "compose.yaml".to_owned(), content: format!("# {digest}\n") }],
        };
        let (bytes, bundle) = bundle.encode()?;
        server.keep_bundle(bundle.digest.clone(), bytes);
        let image = PinnedImage { repository: "registry.example/shop".to_owned(), digest, tag: None };
        let now = self.sim.clock.now();
        let promotion = Promotion {
            env: env.clone(),
            app: app.clone(),
            counter,
            release: ReleaseName::new(format!("r{}", counter.0))?,
            intent,
            images: BTreeMap::from([(service(), image)]),
            variables: BTreeMap::new(),
            bundle,
            plan,
            only: Default::default(),
            preview: None,
            schema: None,
            evidence: None,
            author: "simulated".to_owned(),
            link: None,
            expires_at: now + VALID_FOR,
        };
        let what = format!(
            "{} as {} to {:?}{}",
            match promotion.intent {
                Intent::Rollback { to } => format!("a rollback to {to}"),
                _ => format!("a release ({:?})", self.sim.catalogue.of(&promotion.images[&service()].digest)),
            },
            counter,
            promotion.plan.waves.iter().map(|wave| wave.hosts.len()).collect::<Vec<_>>(),
            if promotion.plan.is_coordinated() { "" } else { ", each for itself" }
        );
        let to = subject::promoted(env, app).to_string();
        let id = self.put(TYPE_PROMOTED, to, promotion.clone(), &keys.promoter, None)?;
        self.sim.trace.say("promoter", what);
        let promoted = Promoted { id, promotion };
        self.sim.add_promoted(promoted.clone());
        Ok(promoted)
    }

    /// Signed by both who may, or (`twice_by_one`) by one of them two times.
    pub(crate) fn approve(&self, promoted: &Promoted, twice_by_one: bool) -> Result<()> {
        let Sim { env, app, server, keys, .. } = &*self.sim;
        let all = server.all(RELEASES, subject::promoted(env, app).as_str());
        // A power cut may have taken it.
        let Some(said) = all.iter().find(|said| {
            CloudEvent::<Promotion>::decode(&said.body, TYPE_PROMOTED).is_ok_and(|event| event.id == promoted.id)
        }) else {
            return Ok(());
        };
        let approval = Approval {
            env: env.clone(),
            app: app.clone(),
            counter: promoted.promotion.counter,
            release: promoted.promotion.release.clone(),
            promotion: promoted.id,
            digest: Digest::of(&said.body),
            verdict: ApprovalVerdict::Approved,
            note: String::new(),
        };
        let [ada, bob] = &keys.approvers;
        let second = if twice_by_one { ada } else { bob };
        let id = self.id();
        let body =
            CloudEvent::new(id, "/landfall/simulated", TYPE_APPROVED, self.sim.clock.now(), approval).encode()?;
        let signature = Some(encode_header(&[ada.sign(&body)?, second.sign(&body)?]));
        let to = subject::approved(env, app).to_string();
        let message =
            Outgoing { subject: to, id: Some(id.to_string()), signature, body: body.into(), ..Outgoing::default() };
        drop(server.store(message));
        if twice_by_one {
            self.sim.trace.say("approver", format_args!("one approves {} twice", promoted.promotion.counter));
        } else {
            self.sim.approve(promoted.id);
            self.sim.trace.say("approvers", format_args!("approve {}", promoted.promotion.counter));
        }
        Ok(())
    }

    /// About the newest promotion, as the bus has it.
    pub(crate) fn say(&self, command: HaltCommand) -> Result<()> {
        let Sim { env, app, keys, .. } = &*self.sim;
        let Some(newest) = self.newest_there() else { return Ok(()) };
        let halt = Halt {
            env: env.clone(),
            app: app.clone(),
            counter: newest.promotion.counter,
            promotion: newest.id,
            command,
            reason: "simulated".to_owned(),
            author: "ops".to_owned(),
        };
        self.put(TYPE_HALTED, subject::halted(env, app).to_string(), halt, &keys.promoter, None)?;
        self.sim.trace.say("operator", format_args!("{command:?} {}", newest.promotion.counter));
        Ok(())
    }

    /// Somebody looks at a database of which nobody knows how its migration ended, as `landfall migration resolve` asks for.
    pub(crate) fn resolve_migrations(&self) -> Result<()> {
        let Sim { env, server, keys, database, .. } = &*self.sim;
        let key = subject::migration_key(env, "shop", None);
        let to = subject::migration_subject(&key);
        let Some(entry) = server.all("KV_landfall-locks", &to).pop() else { return Ok(()) };
        let (mut lease, _) = MigrationLease::open(&entry.body).context("the lease")?;
        if !matches!(lease.phase, LeasePhase::Unknown { .. }) {
            return Ok(());
        }
        database.put_in_order();
        lease.phase = LeasePhase::Resolved { author: "ops".to_owned() };
        let body = self.enveloped(TYPE_MIGRATION_LEASE, lease, &keys.promoter)?;
        let message =
            Outgoing { subject: to, body: body.into(), expected: Some(entry.sequence), ..Outgoing::default() };
        // Somebody else was first; it is looked at again.
        if server.store(message).is_ok() {
            self.sim.trace.say("operator", "puts the schema in order, and says so");
        }
        Ok(())
    }

    fn enveloped<T: Serialize>(&self, kind: &str, data: T, key: &SigningKey) -> Result<Vec<u8>> {
        let event = CloudEvent::new(self.id(), "/landfall/simulated", kind, self.sim.clock.now(), data);
        let body = event.encode()?;
        Ok(serde_json::to_vec(&DsseEnvelope::new(&body, vec![key.sign(&body)?]))?)
    }

    pub(crate) fn forge(&self, forgery: Forgery) -> Result<()> {
        let Sim { env, app, server, keys, chance, .. } = &*self.sim;
        let to = subject::promoted(env, app).to_string();
        let Some(newest) = self.newest() else { return Ok(()) };
        self.sim.trace.say("stranger", format_args!("{forgery:?}"));
        let strange = |promoted: &Promoted| {
            let mut promotion = promoted.promotion.clone();
            promotion.counter = promotion.counter.next();
            for image in promotion.images.values_mut() {
                image.digest = Digest::of(&chance.any().to_be_bytes());
            }
            promotion
        };
        match forgery {
            Forgery::Promotion => drop(self.put(TYPE_PROMOTED, to, strange(&newest), &keys.stranger, None)?),
            Forgery::Replayed => {
                let all = server.all(RELEASES, &to);
                let Some(old) = all.get(usize::try_from(chance.below(all.len() as u64)).unwrap_or(0)) else {
                    return Ok(());
                };
                let message = Outgoing {
                    subject: to,
                    signature: old.signature.clone(),
                    body: old.body.clone(),
                    ..Outgoing::default()
                };
                drop(server.store(message));
            }
            Forgery::Changed => {
                let Some(old) = server.all(RELEASES, &to).pop() else { return Ok(()) };
                let event = CloudEvent::new(newest.id, "/x", TYPE_PROMOTED, self.sim.clock.now(), strange(&newest));
                let message = Outgoing {
                    subject: to,
                    signature: old.signature,
                    body: event.encode()?.into(),
                    ..Outgoing::default()
                };
                drop(server.store(message));
            }
            Forgery::Junk => {
                let message = Outgoing { subject: to, body: vec![0x7b; 40].into(), ..Outgoing::default() };
                drop(server.store(message));
            }
            Forgery::Outcome => {
                let Some(machine) = self.machines.last() else { return Ok(()) };
                let kind = OutcomeKind::ReleaseCommitted;
                let outcome = Outcome::new(kind, &machine.name, &newest.promotion, newest.id);
                let to = subject::outcome(env, app, &machine.name, kind).to_string();
                self.put(&kind.event_type(), to, outcome, &keys.stranger, None)?;
            }
            Forgery::State => {
                let Promoted { id, promotion } = &newest;
                let state = RolloutState {
                    env: env.clone(),
                    app: app.clone(),
                    counter: promotion.counter,
                    promotion: *id,
                    phase: RolloutPhase::Ended { word: RolloutWord::Succeeded },
                    wave: 0,
                    admitted: 20,
                    cause: None,
                    not_reached: BTreeMap::new(),
                    differing: BTreeMap::new(),
                    decided_by: self.machines[0].name.clone(),
                };
                let to = subject::rollout_subject(&subject::rollout_key(env, app, promotion.counter));
                let body = self.enveloped(TYPE_ROLLOUT_STATE, state, &keys.stranger)?;
                drop(server.store(Outgoing { subject: to, body: body.into(), ..Outgoing::default() }));
            }
        }
        Ok(())
    }

    /// The newest promotion that the bus has: a power cut may have taken newer ones.
    pub(crate) fn newest_there(&self) -> Option<Promoted> {
        let Sim { env, app, server, .. } = &*self.sim;
        let all = server.all(RELEASES, subject::promoted(env, app).as_str());
        self.sim.promoted().into_iter().rfind(|one| {
            let id = one.id.to_string();
            all.iter().any(|said| std::str::from_utf8(&said.body).is_ok_and(|body| body.contains(&id)))
        })
    }

    pub(crate) fn outcomes(&self) -> usize {
        self.sim.server.all(OUTCOMES, "landfall.*.outcome.>").len()
    }
}
