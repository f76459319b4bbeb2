//! Before anything is touched: is the stack sound, may it run here, what has to be done, and what runs now?

use landfall_deploy::input::{Deadlines, Observed};
use landfall_deploy::{Former, Order};
use landfall_schema::ids::ServiceName;
use landfall_schema::outcome::Reason;
use landfall_schema::stack::{BACKUP_DEADLINE_MS, MIGRATE_DEADLINE_MS, READY_DEADLINE_MS, Role, SMOKE_DEADLINE_MS};

use super::former::Preexisting;
use super::policy::HostPaths;
use super::render::{Kind, Service, Stack};
use super::{Context, Hands, effect_deadline, is_rollback, policy, preview, settings};
use crate::failpoint::failpoint;

/// Beyond what the settings give a step, the time to start it and to tell how it went.
const STEP_SLACK_MS: u64 = 10_000;
/// Time for the dependencies of a one-shot to be started and to become ready.
pub(crate) const DEPENDENCIES_DEADLINE_MS: u64 = 120_000;

impl Hands {
    pub(crate) async fn observe(&self, order: &Order, context: &Context) -> Result<Observed, Reason> {
        let promotion = &order.promotion;
        policy::check_registry(promotion.images.values(), &self.config.allowed_registries)?;
        self.check_promise(promotion).await?;
        let bundle = self.bundle(order, context).await?;
        settings::check_bake(order.bake_ms(0))?;
        let engine = async {
            self.engine.ping().await?;
            self.engine.containers().await
        };
        let (containers, stack) = tokio::try_join!(engine, self.render(promotion, &bundle, effect_deadline(context)))?;
        self.check_ours(&containers)?;
        failpoint!("observe.rendered");
        // What is wrong with a setting is told with its value, which may come from the host's `.env`.
        settings::check(&stack.settings, &stack.services, is_rollback(promotion))
            .map_err(|reason| Reason { message: stack.redactor.clean(&reason.message), ..reason })?;
        let paths = HostPaths {
            engine_socket: self.engine.socket(),
            state_dir: self.config.state_dir.clone(),
            stack_dir: self.config.stack.directory.clone(),
        };
        self.config.policy.check(&stack.model, &paths)?;
        if promotion.preview.is_some() {
            preview::check_contained(&stack.model, self.engine.project(), &self.config.stack.directory)?;
        }
        let touched = self.decide_touched(order, context, &stack, &containers).await?;
        failpoint!("observe.touched");
        let former = match &context.former {
            Some(former) => Some(former.as_former(self.former_images(former, effect_deadline(context)).await?)),
            None => {
                let found = Preexisting::of(&containers);
                self.keep_preexisting(promotion.counter, found.as_ref()).await?;
                failpoint!("observe.former-kept");
                found.map(|found| Former { release: None, counter: None, images: found.images() })
            }
        };
        // A service that stays as it is has nothing to migrate.
        let migrates =
            !is_rollback(promotion) && touched.is_none_or(|names| migrating(&stack).any(|m| names.contains(m)));
        Ok(Observed {
            former,
            services: stack.serving().map(|service| service.name.clone()).collect(),
            has_backup: migrates && has_backup(&stack),
            has_migrations: migrates && migrating(&stack).next().is_some(),
            smoke_tests: u32::try_from(stack.settings.smoke.len()).unwrap_or(u32::MAX),
            bake_ms: stack.settings.bake_ms.unwrap_or(0),
            warning: self.way_back(order, context),
            deadlines: deadlines(&stack),
        })
    }
}

fn has_backup(stack: &Stack) -> bool {
    stack.one_shots(Role::Backup).next().is_some() || stack.serving().any(|service| !service.settings.backup.is_empty())
}

/// Services with migrations, and those that are one.
fn migrating(stack: &Stack) -> impl Iterator<Item = &ServiceName> {
    let migrates =
        |service: &&Service| service.kind == Kind::OneShot(Role::Migrate) || service.settings.migrations.is_some();
    stack.services.values().filter(migrates).map(|service| &service.name)
}

fn deadlines(stack: &Stack) -> Deadlines {
    let services = || stack.services.values();
    let own = |service: &super::render::Service, default_ms: u64| service.settings.deadline_ms.unwrap_or(default_ms);
    let backups = services()
        .filter(|service| {
            matches!(service.kind, super::render::Kind::OneShot(Role::Backup)) || !service.settings.backup.is_empty()
        })
        .map(|service| own(service, BACKUP_DEADLINE_MS));
    let migrations = services()
        .filter(|service| {
            matches!(service.kind, super::render::Kind::OneShot(Role::Migrate)) || service.settings.migrations.is_some()
        })
        .map(|service| own(service, MIGRATE_DEADLINE_MS));
    let ready = stack.started().map(ready_deadline_ms).max();
    let defaults = Deadlines::default();
    Deadlines {
        backup_ms: backups.sum::<u64>() + DEPENDENCIES_DEADLINE_MS + STEP_SLACK_MS,
        migrate_ms: migrations.sum::<u64>() + DEPENDENCIES_DEADLINE_MS + STEP_SLACK_MS,
        // Compose itself waits where one service depends on another's health.
        update_ms: defaults.update_ms + ready.unwrap_or(0),
        prove_ms: ready.unwrap_or(READY_DEADLINE_MS) + STEP_SLACK_MS,
        smoke_ms: stack.settings.smoke_deadline_ms.unwrap_or(SMOKE_DEADLINE_MS) + STEP_SLACK_MS,
        ..defaults
    }
}

pub(crate) fn ready_deadline_ms(service: &super::render::Service) -> u64 {
    service.settings.ready.as_ref().and_then(|ready| ready.deadline_ms).unwrap_or(READY_DEADLINE_MS)
}
