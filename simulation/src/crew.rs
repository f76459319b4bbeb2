//! Who acts on a simulated host: the executor's own fleet, gates and leases, and an engine that is simulated. What a release is worth stands
//! in the catalogue, and only the engine looks there.

use std::sync::Arc;
use std::time::Duration;

use landfall_deploy::input::{Deadlines, Observed};
use landfall_deploy::{Effect, Evidence, Order};
use landfall_executor::config::Config;
use landfall_executor::hands::{
    BundleSource as _, Claim, Committed, Context, DoneBy, Ended, Lease, Leasing, StackConfig,
};
use landfall_executor::site::{Means, Site};
use landfall_executor::worker::CarryOut;
use landfall_executor::world::{Step, reaches};
use landfall_schema::bundle::Bundle;
use landfall_schema::ids::Digest;
use landfall_schema::outcome::{AppliedMigration, Reason, ReasonCode};
use landfall_schema::presence::EngineState;
use landfall_schema::promotion::Promotion;
use tokio::time::sleep;

use crate::catalogue::Quality;
use crate::database::{Entered, Session};
use crate::machine::{Container, Machine};
use crate::simulation::{SERVICE, Sim, service};

/// The name of the database that all hosts migrate.
const DATABASE: &str = "shop";
/// How long the engine takes for a thing, in milliseconds.
const QUICK_MS: (u64, u64) = (2, 60);
const SLOW_MS: (u64, u64) = (50, 3_000);

pub(crate) struct SimulatedHost {
    pub(crate) machine: Arc<Machine>,
    pub(crate) sim: Arc<Sim>,
}

impl Site for SimulatedHost {
    type Crew = Crew;

    fn crew(&self, _stack: StackConfig, means: &Means) -> Result<Crew, Reason> {
        let leasing = Leasing { leases: Some(Arc::new(means.leases())), bundles: Arc::new(means.bus.clone()) };
        Ok(Crew { machine: Arc::clone(&self.machine), sim: Arc::clone(&self.sim), means: means.clone(), leasing })
    }

    async fn engine(&self, _config: &Config) -> EngineState {
        EngineState::Answering { version: "simulated".to_owned() }
    }

    fn disk_free_bytes(&self, _config: &Config) -> u64 {
        1 << 40
    }
}

pub(crate) struct Crew {
    machine: Arc<Machine>,
    sim: Arc<Sim>,
    means: Means,
    leasing: Leasing,
}

impl CarryOut for Crew {
    async fn carry_out(&self, effect: Effect, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        match effect {
            Effect::Admit => return self.means.fleet.admit(order, &context.waiting).await,
            Effect::AwaitRollout => return self.means.fleet.await_rollout(order, &context.waiting).await,
            _ => {}
        }
        let name = name_of(effect);
        reaches(Step::BeforeEffect(name)).await;
        let done = self.act(effect, order, context).await;
        reaches(Step::AfterEffect(name)).await;
        done
    }

    async fn bundle(&self, order: &Order, context: &Context) -> Result<Bundle, Reason> {
        if let Some(bundle) = &context.bundle {
            return Ok(bundle.clone());
        }
        let reference = &order.promotion.bundle;
        let bytes = self.means.bus.bundle(reference).await?;
        Bundle::decode(&bytes, reference).map_err(|error| Reason::new(ReasonCode::BundleDigest, error.to_string()))
    }

    async fn taken_back(&self, order: &Order, cause: &Reason) {
        self.means.gates.condemn(order, cause).await;
    }

    fn look_for_missed(&self, order: &Order) {
        let Promotion { env, app, counter, .. } = &order.promotion;
        self.means.fleet.catch_up(env, app, *counter);
    }
}

impl Crew {
    async fn act(&self, effect: Effect, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        let promotion = &order.promotion;
        let (least, most) =
            if matches!(effect, Effect::Pull | Effect::Update | Effect::Prove) { SLOW_MS } else { QUICK_MS };
        let took = self.sim.chance.millis(least, most);
        let quality = promotion.images.get(&service()).map(|image| self.sim.catalogue.quality(&image.digest));
        let is_bad = |bad: Quality| quality == Some(bad);
        Ok(match effect {
            Effect::Observe => {
                sleep(took).await;
                Evidence::Observed(self.observed(promotion, context))
            }
            Effect::Pull => {
                sleep(took).await;
                if is_bad(Quality::CannotBePulled) {
                    return Err(Reason::new(ReasonCode::ImageNotFound, "the registry does not have it"));
                }
                Evidence::Pulled { images: 1, already_here: 0, bytes: 1 }
            }
            Effect::Migrate => return self.migrate(order, context).await,
            Effect::Update => {
                let wanted = promotion.images.get(&service()).map(|image| image.digest.clone());
                self.swap(wanted, promotion.counter.0, took).await;
                Evidence::Updated { changed: vec![SERVICE.to_owned()] }
            }
            Effect::Prove => self.prove(took).await?,
            Effect::Smoke => {
                sleep(took).await;
                let fails_here = is_bad(Quality::FailsOnTheLastHost) && self.sim.is_last(&self.machine.name);
                if is_bad(Quality::FailsItsSmokeTest) || fails_here {
                    return Err(Reason::new(ReasonCode::SmokeFailed, "500"));
                }
                Evidence::Smoked { passed: 1 }
            }
            Effect::Bake => {
                sleep(took).await;
                if is_bad(Quality::DiesWhileBaking) {
                    return Err(Reason::new(ReasonCode::Unhealthy, "it died"));
                }
                Evidence::Baked
            }
            Effect::Commit => {
                sleep(took).await;
                Evidence::Committed { images_removed: 0 }
            }
            Effect::Restore => {
                let former = context.former.as_ref();
                let digest = former.and_then(|former| former.promotion.digests().remove(&service()));
                self.restore(digest, former, took).await;
                Evidence::Restored
            }
            Effect::ProveFormer => self.prove(took).await?,
            Effect::Backup => Evidence::BackedUp { by: Vec::new() },
            Effect::Remove => Evidence::Removed { what: Vec::new() },
            Effect::Admit | Effect::AwaitRollout => {
                return Err(Reason::new(ReasonCode::Internal, "that is waited for elsewhere"));
            }
        })
    }

    fn observed(&self, promotion: &Promotion, context: &Context) -> Observed {
        let facts = promotion.digests().remove(&service()).map(|digest| self.sim.catalogue.of(&digest));
        Observed {
            former: context.former.as_ref().map(|former| former.as_former(former.promotion.digests())),
            services: promotion.images.keys().cloned().collect(),
            has_backup: false,
            has_migrations: facts.is_some_and(|facts| !facts.migrations.is_empty()),
            smoke_tests: 1,
            bake_ms: 100,
            warning: None,
            deadlines: Deadlines::default(),
        }
    }

    /// The old container goes, then the new one comes; a process that ends between the two leaves none.
    async fn swap(&self, wanted: Option<Digest>, counter: u64, took: Duration) {
        let before = self.machine.container();
        if self.sim.chance.happens(self.sim.lies_per_mille()) {
            // An exit code of 0, and nothing was done.
            self.sim.trace.say(&self.machine.name, "the engine says that it did what it did not");
            return;
        }
        if before.as_ref().map(|container| &container.digest) == wanted.as_ref() && before.is_some() {
            return self.put(wanted, counter);
        }
        self.machine.run(None);
        sleep(took).await;
        self.put(wanted, counter);
    }

    fn put(&self, wanted: Option<Digest>, counter: u64) {
        let container = wanted.map(|digest| {
            let is_healthy = self.sim.catalogue.quality(&digest) != Quality::NeverBecomesReady;
            Container { digest, counter, is_healthy }
        });
        self.sim.ran(&self.machine, container.as_ref());
        self.machine.run(container);
    }

    async fn restore(&self, digest: Option<Digest>, former: Option<&Committed>, took: Duration) {
        self.sim.goes_back(&self.machine);
        self.swap(digest, former.map_or(0, |former| former.counter.0), took).await;
    }

    async fn prove(&self, took: Duration) -> Result<Evidence, Reason> {
        sleep(took).await;
        let container = self.machine.container();
        if container.as_ref().is_some_and(|container| !container.is_healthy) {
            return Err(Reason::new(ReasonCode::Unhealthy, "it never became ready"));
        }
        let services = container.map(|container| (service(), container.digest)).into_iter().collect();
        Ok(Evidence::Running { services, restarts: 0 })
    }

    async fn migrate(&self, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        let service = service();
        let claim = Claim {
            order,
            service: &service,
            database: DATABASE,
            is_hosts_own: false,
            can_be_told: true,
            may_resume: true,
            kept: &context.last_good,
            waiting: &context.waiting,
            deadline: context.deadline,
        };
        let applied = match self.leasing.lease(&claim).await? {
            Lease::Without => self.apply(&claim, None, None).await?,
            Lease::DoneBy(done) => self.apply(&claim, None, Some(&done)).await?,
            Lease::Ours(mut held) => {
                let work = self.apply(&claim, Some(held.begun()), None);
                let done = self.leasing.while_held(&mut held, &claim, work).await;
                let ended = match &done {
                    Ok(applied) => Ended::Done(applied),
                    Err(reason) => Ended::Failed(reason),
                };
                self.leasing.settle(*held, &claim, ended).await;
                done?
            }
        };
        Ok(Evidence::Migrated { applied, notes: Vec::new() })
    }

    async fn apply(
        &self,
        claim: &Claim<'_>,
        begun: Option<landfall_executor::hands::Begun>,
        done: Option<&DoneBy>,
    ) -> Result<Vec<AppliedMigration>, Reason> {
        let Some(digest) = claim.order.promotion.digests().remove(&service()) else { return Ok(Vec::new()) };
        let migrations = self.sim.catalogue.of(&digest).migrations;
        let session = match Session::enter(&self.sim, claim, begun).await? {
            Entered::Ours(session) => session,
            Entered::DoneBy => return Ok(Vec::new()),
            Entered::Newer { holder, is_done } => {
                if is_done || done.is_some() {
                    let all_there = migrations.iter().all(|migration| self.sim.database.has(migration.version));
                    if all_there {
                        return Ok(Vec::new());
                    }
                }
                let text = format!("{holder} has migrated for a newer promotion");
                return Err(Reason::new(ReasonCode::MigrationFailed, text));
            }
        };
        let mut applied = Vec::new();
        for migration in session.missing(&migrations) {
            reaches(Step::BeforeEffect("a migration")).await;
            if let Err(reason) = session.apply(migration).await {
                if reason.code != ReasonCode::MigrationUnknown {
                    // What the row says is for whoever comes next; the reason is why this one failed.
                    drop(session.finish(false));
                }
                return Err(reason);
            }
            reaches(Step::AfterEffect("a migration")).await;
            let description = format!("{} migration", migration.version);
            applied.push(AppliedMigration { database: DATABASE.to_owned(), description, duration_ms: 1 });
        }
        session.finish(true)?;
        Ok(applied)
    }
}

fn name_of(effect: Effect) -> &'static str {
    match effect {
        Effect::Restore => "restore",
        Effect::ProveFormer => "prove former",
        effect => effect.noun(),
    }
}
