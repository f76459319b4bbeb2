//! Migrations before the swap: migrator services of the compose file, and SQL files inside images.

use std::collections::BTreeSet;
use std::time::Duration;

use landfall_deploy::{Evidence, Order};
use landfall_schema::ids::ServiceName;
use landfall_schema::outcome::{AppliedMigration, Reason, ReasonCode};
use landfall_schema::stack::{MIGRATE_DEADLINE_MS, Role};
use tokio::time::Instant;

use super::oneshot::{self, OneShot};
use super::render::{Service, Stack};
use super::{Context, Hands, effect_deadline, is_rollback, sql};

impl Hands {
    pub(crate) async fn migrate(&self, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        let stack = self.stack(order, context).await?;
        let deadline = effect_deadline(context);
        self.ensure_dependencies(&stack, needed(&stack), deadline).await?;
        let mut applied = Vec::new();
        for service in stack.one_shots(Role::Migrate) {
            applied.push(self.run_migrator(&stack, service, deadline).await?);
        }
        for service in stack.services.values() {
            if let Some(settings) = &service.settings.migrations {
                let image = order.promotion.images.get(&service.name).ok_or_else(|| {
                    Reason::new(
                        ReasonCode::ImageMissing,
                        format!("the promotion has no image for service {}", service.name),
                    )
                })?;
                let database = settings.database.clone().unwrap_or_else(|| service.name.to_string());
                let plan = sql::Plan {
                    stack: &stack,
                    service: &service.name,
                    image: image.reference(),
                    settings,
                    database,
                    ignore_missing: is_rollback(&order.promotion),
                    deadline: deadline.min(Instant::now() + limit(service)),
                };
                applied.extend(self.apply_sql(plan).await?);
            }
        }
        Ok(Evidence::Migrated { applied, notes: Vec::new() })
    }

    async fn run_migrator(
        &self,
        stack: &Stack,
        service: &Service,
        deadline: Instant,
    ) -> Result<AppliedMigration, Reason> {
        let shot = OneShot {
            stack,
            service: service.name.as_str(),
            command: &[],
            step: "migration",
            // A migration that an earlier run of this process began is waited for, never begun twice.
            resumes: true,
            limit: limit(service),
            deadline,
            code: ReasonCode::MigrationFailed,
        };
        let ended = self.run_one_shot(shot).await?;
        Ok(AppliedMigration {
            database: service.settings.database.clone().unwrap_or_else(|| service.name.to_string()),
            description: oneshot::summary(&ended, stack)
                .unwrap_or_else(|| format!("{} ended with code 0", service.name)),
            duration_ms: ended.took.as_millis() as u64,
        })
    }
}

/// Services that must run for the migrations: what migrators depend on, and databases of this stack that SQL migrations name.
fn needed(stack: &Stack) -> BTreeSet<ServiceName> {
    let migrators = stack.one_shots(Role::Migrate).flat_map(|service| service.depends_on.keys().cloned());
    let databases = stack
        .services
        .values()
        .filter_map(|service| sql::host(&service.settings.migrations.as_ref()?.url))
        .filter_map(|host| ServiceName::new(host).ok())
        .filter(|name| stack.services.contains_key(name));
    migrators.chain(databases).collect()
}

fn limit(service: &Service) -> Duration {
    Duration::from_millis(service.settings.deadline_ms.unwrap_or(MIGRATE_DEADLINE_MS))
}
