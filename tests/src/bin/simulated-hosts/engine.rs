//! Hands that have always done at once what they are asked for. What concerns other hosts is done by the executor's own fleet.

use landfall_deploy::input::{Deadlines, Observed};
use landfall_deploy::{Effect, Evidence, Order};
use landfall_executor::fleet::Fleet;
use landfall_executor::gates::Gates;
use landfall_executor::hands::{BundleSource as _, Context};
use landfall_executor::link::BusHandle;
use landfall_executor::worker::CarryOut;
use landfall_schema::bundle::Bundle;
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::promotion::Promotion;

pub(crate) struct SimulatedEngine {
    pub(crate) bus: BusHandle,
    pub(crate) fleet: Fleet,
    pub(crate) gates: Gates,
}

impl CarryOut for SimulatedEngine {
    async fn carry_out(&self, effect: Effect, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        let promotion = &order.promotion;
        Ok(match effect {
            Effect::Admit => return self.fleet.admit(order, &context.waiting).await,
            Effect::AwaitRollout => return self.fleet.await_rollout(order, &context.waiting).await,
            Effect::Observe => Evidence::Observed(observed(promotion, context)),
            Effect::Pull => Evidence::Pulled { images: 1, already_here: 0, bytes: 0 },
            Effect::Backup => Evidence::BackedUp { by: Vec::new() },
            Effect::Migrate => Evidence::Migrated { applied: Vec::new(), notes: Vec::new() },
            Effect::Update => Evidence::Updated { changed: vec!["app".to_owned()] },
            Effect::Prove => Evidence::Running { services: promotion.digests(), restarts: 0 },
            Effect::ProveFormer => Evidence::Running {
                services: context.former.as_ref().map(|former| former.promotion.digests()).unwrap_or_default(),
                restarts: 0,
            },
            Effect::Smoke => Evidence::Smoked { passed: 0 },
            Effect::Bake => Evidence::Baked,
            Effect::Commit => Evidence::Committed { images_removed: 0 },
            Effect::Restore => Evidence::Restored,
            Effect::Remove => Evidence::Removed { what: Vec::new() },
        })
    }

    async fn bundle(&self, order: &Order, context: &Context) -> Result<Bundle, Reason> {
        if let Some(bundle) = &context.bundle {
            return Ok(bundle.clone());
        }
        let reference = &order.promotion.bundle;
        let bytes = self.bus.bundle(reference).await?;
        Bundle::decode(&bytes, reference).map_err(|error| Reason::new(ReasonCode::BundleDigest, error.to_string()))
    }

    async fn taken_back(&self, order: &Order, cause: &Reason) {
        self.gates.condemn(order, cause).await;
    }
}

fn observed(promotion: &Promotion, context: &Context) -> Observed {
    Observed {
        former: context.former.as_ref().map(|former| former.as_former(former.promotion.digests())),
        services: promotion.images.keys().cloned().collect(),
        has_backup: false,
        has_migrations: false,
        smoke_tests: 0,
        bake_ms: 0,
        warning: None,
        deadlines: Deadlines::default(),
    }
}
