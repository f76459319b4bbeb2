//! Migrations before the swap: migrator services of the compose file, and SQL files inside images; once per database and release.

use std::collections::BTreeSet;
use std::time::Duration;

use landfall_deploy::{Evidence, Order};
use landfall_schema::ids::ServiceName;
use landfall_schema::outcome::{AppliedMigration, Reason, ReasonCode};
use landfall_schema::stack::{DatabaseScope, LOCK_TIMEOUT_MS, MIGRATE_DEADLINE_MS, Role};
use tokio::time::Instant;

use super::fence::{DOING_SERVICE, Entered, Gate, close};
use super::lease::{self, Begun, Claim, DoneBy, Ended, Lease};
use super::oneshot::{self, OneShot};
use super::render::{Kind, Service, Stack};
use super::sql::{self, Migrated};
use super::{Context, Hands, effect_deadline};
use crate::failpoint::failpoint;

impl Hands {
    pub(crate) async fn migrate(&self, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        let stack = self.stack(order, context).await?;
        let deadline = effect_deadline(context);
        self.ensure_dependencies(&stack, needed(&stack), deadline).await?;
        let (mut applied, mut notes, mut made) = (Vec::new(), Vec::new(), Vec::new());
        let with_files = stack.services.values().filter(|service| service.settings.migrations.is_some());
        for service in stack.one_shots(Role::Migrate).chain(with_files) {
            let database = database_of(order, service);
            let may_resume = !service.is_one_shot() || {
                let container = self.migrator_shot(&stack, service, deadline).container();
                self.is_begun(&container).await.unwrap_or(false)
            };
            let claim = Claim {
                order,
                service: &service.name,
                database: &database,
                is_hosts_own: is_hosts_own(&stack, service),
                can_be_told: !service.is_one_shot() || service.settings.database_url.is_some(),
                may_resume,
                kept: &context.last_good,
                waiting: &context.waiting,
                deadline,
            };
            let migrated = self.migrate_once(&stack, service, &claim).await?;
            made.extend(migrated.applied.iter().chain(&migrated.elsewhere).cloned());
            match migrated.done_by {
                Some(host) if let Some(newer) = migrated.newer => {
                    notes.push(format!("{database}: migrated by {host} for promotion {newer}, which is newer"));
                }
                Some(host) if host != order.host.as_str() => notes.push(format!("{database}: migrated by {host}")),
                // By this host, before it was restarted.
                Some(_) => applied.extend(migrated.elsewhere),
                None => {}
            }
            notes.extend(migrated.warnings);
            applied.extend(migrated.applied);
        }
        failpoint!("migrate.promise.before");
        self.remember_promise(order, &made).await?;
        failpoint!("migrate.promise.after");
        Ok(Evidence::Migrated { applied, notes })
    }

    /// Under the lease, if there is one to be had; and told to those who wait for it.
    async fn migrate_once(&self, stack: &Stack, service: &Service, claim: &Claim<'_>) -> Result<Migrated, Reason> {
        failpoint!("lease.before");
        let lease = self.leasing.lease(claim).await?;
        failpoint!("lease.taken");
        let mut held = match lease {
            Lease::Ours(held) => held,
            Lease::Without => return self.migrate_service(stack, service, claim, None, None).await,
            // The database itself says whether it is the one that was migrated: under one name, each host may have its own.
            Lease::DoneBy(done) if knows_itself(service) => {
                let mut migrated = self.migrate_service(stack, service, claim, None, Some(&done)).await?;
                if migrated.done_by.is_some() && migrated.newer.is_none() {
                    migrated.elsewhere = done.applied;
                }
                return Ok(migrated);
            }
            Lease::DoneBy(DoneBy { host, applied, newer }) => {
                let elsewhere = if newer.is_none() { applied } else { Vec::new() };
                return Ok(Migrated { elsewhere, ..Migrated::before(host.as_str(), newer) });
            }
        };
        let work = self.migrate_service(stack, service, claim, Some(held.begun()), None);
        let done = self.leasing.while_held(&mut held, claim, work).await;
        failpoint!("lease.release.before");
        match &done {
            Ok(migrated) => self.leasing.settle(*held, claim, Ended::Done(&migrated.applied)).await,
            Err(reason) => self.leasing.settle(*held, claim, Ended::Failed(reason)).await,
        }
        failpoint!("lease.release.after");
        done
    }

    async fn migrate_service(
        &self,
        stack: &Stack,
        service: &Service,
        claim: &Claim<'_>,
        begun: Option<Begun>,
        done: Option<&DoneBy>,
    ) -> Result<Migrated, Reason> {
        let settings = &service.settings;
        let gate = |url, setting| Gate {
            claim,
            begun,
            url,
            setting,
            redactor: &stack.redactor,
            // What was waited for other hosts does not count.
            deadline: claim.deadline.min(Instant::now() + limit(service)),
            lock_timeout_ms: settings.lock_timeout_ms.unwrap_or(LOCK_TIMEOUT_MS),
            statement_timeout_ms: settings.statement_timeout_ms,
        };
        if service.is_one_shot() {
            let gate = settings
                .database_url
                .as_deref()
                .map(|url| Gate { deadline: claim.deadline, ..gate(url, "database_url") });
            return self.run_migrator(stack, service, claim, gate.as_ref(), done).await;
        }
        let Some(files) = &settings.migrations else { return Ok(Migrated::default()) };
        let image = claim.order.promotion.images.get(&service.name).ok_or_else(|| {
            Reason::new(ReasonCode::ImageMissing, format!("the promotion has no image for service {}", service.name))
        })?;
        let plan = sql::Plan {
            stack,
            image: image.reference(),
            settings: files,
            gate: gate(&files.url, "migrations.url"),
            done,
        };
        self.apply_sql(&plan).await
    }

    /// What happens in the container is not inside any transaction of ours, so the fence only says that it was begun, and that it ended.
    async fn run_migrator(
        &self,
        stack: &Stack,
        service: &Service,
        claim: &Claim<'_>,
        gate: Option<&Gate<'_>>,
        done: Option<&DoneBy>,
    ) -> Result<Migrated, Reason> {
        let Some(gate) = gate else { return self.run_container(stack, service, claim).await };
        let mut fence = match self.enter(gate).await? {
            Entered::Ours(fence) => fence,
            Entered::DoneBy(host) => return Ok(Migrated::before(&host, None)),
            Entered::Newer(newer) => {
                close(newer.connection).await;
                return match done {
                    _ if newer.is_done => Ok(Migrated::before(&newer.holder, Some(newer.counter))),
                    Some(done) => Ok(Migrated::before(done.host.as_str(), done.newer)),
                    None => Err(lease::older(claim, newer.counter)),
                };
            }
        };
        fence.doing(Some(DOING_SERVICE)).await.map_err(|error| gate.failed(error))?;
        let ended = self.run_container(stack, service, claim).await;
        if matches!(&ended, Err(reason) if reason.code == ReasonCode::MigrationUnknown) {
            fence.abandon().await;
            return ended;
        }
        let told = fence.finish(gate, ended.is_ok()).await;
        let migrated = ended?;
        told?;
        Ok(migrated)
    }

    async fn run_container(&self, stack: &Stack, service: &Service, claim: &Claim<'_>) -> Result<Migrated, Reason> {
        let ended = self.run_one_shot(self.migrator_shot(stack, service, claim.deadline)).await;
        let ended = ended.map_err(|reason| match reason.code {
            ReasonCode::MigrationUnknown => {
                let more = reason.hint.as_ref().map_or(String::new(), |hint| format!("; {hint}"));
                let hint = format!("{}{more}", claim.resolve_hint());
                reason.hint(hint)
            }
            _ => reason,
        })?;
        let applied = AppliedMigration {
            database: claim.database.to_owned(),
            description: oneshot::summary(&ended, stack)
                .unwrap_or_else(|| format!("{} ended with code 0", service.name)),
            duration_ms: ended.took.as_millis() as u64,
        };
        Ok(Migrated { applied: vec![applied], ..Migrated::default() })
    }

    /// A migration that an earlier run of this process began is waited for, never begun twice.
    fn migrator_shot<'a>(&self, stack: &'a Stack, service: &'a Service, deadline: Instant) -> OneShot<'a> {
        OneShot {
            stack,
            service: service.name.as_str(),
            command: &[],
            step: "migration",
            mark: Some(self.stack_dir(stack.counter).join(format!("{}.migration-started", service.name))),
            limit: limit(service),
            deadline,
            code: ReasonCode::MigrationFailed,
        }
    }
}

/// The name that the lease, the lock and the fence go by. A default one is nobody else's.
fn database_of(order: &Order, service: &Service) -> String {
    let of_files = service.settings.migrations.as_ref().and_then(|migrations| migrations.database.clone());
    let named = if service.is_one_shot() { service.settings.database.clone() } else { of_files };
    named.unwrap_or_else(|| format!("{}.{}", order.promotion.app, service.name))
}

/// Whether every host has a database of this name of its own: as the settings say, or as the stack looks.
fn is_hosts_own(stack: &Stack, service: &Service) -> bool {
    if let Some(scope) = service.settings.scope {
        return scope == DatabaseScope::Host;
    }
    let is_here = |url: &str| {
        sql::is_sqlite(url)
            || sql::host(url).is_some_and(|host| stack.services.keys().any(|name| name.as_str() == host))
    };
    let url = service.settings.migrations.as_ref().map(|migrations| &migrations.url);
    match url.filter(|_| !service.is_one_shot()).or(service.settings.database_url.as_ref()) {
        Some(url) => is_here(url),
        None => {
            service.depends_on.keys().any(|name| stack.services.get(name).is_some_and(|on| on.kind == Kind::Serving))
        }
    }
}

/// Whether the database has a row that tells of the migration.
fn knows_itself(service: &Service) -> bool {
    !service.is_one_shot() || service.settings.database_url.is_some()
}

/// Services that must run for the migrations: what migrators depend on, and databases of this stack that SQL migrations name.
fn needed(stack: &Stack) -> BTreeSet<ServiceName> {
    let migrators = stack.one_shots(Role::Migrate).flat_map(|service| service.depends_on.keys().cloned());
    let urls = stack.services.values().flat_map(|service| {
        let of_files = service.settings.migrations.as_ref().map(|migrations| &migrations.url);
        of_files.into_iter().chain(&service.settings.database_url)
    });
    let databases = urls
        .filter_map(|url| sql::host(url))
        .filter_map(|host| ServiceName::new(host).ok())
        .filter(|name| stack.services.contains_key(name));
    migrators.chain(databases).collect()
}

fn limit(service: &Service) -> Duration {
    Duration::from_millis(service.settings.deadline_ms.unwrap_or(MIGRATE_DEADLINE_MS))
}
