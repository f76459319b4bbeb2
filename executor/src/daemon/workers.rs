//! One worker for each application of the configuration, and one for each preview as it comes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use landfall_deploy::Order;
use landfall_schema::ids::AppName;
use landfall_schema::outcome::Reason;
use landfall_schema::promotion::Promotion;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tracing::{error, warn};

use super::DaemonError;
use crate::config::{Config, DriftPolicy};
use crate::fleet::Fleet;
use crate::gates::Gates;
use crate::hands::{Hands, HandsConfig, StackConfig};
use crate::journal::Unfinished;
use crate::leases::BusLeases;
use crate::link::BusHandle;
use crate::worker::{Crew, Job, Shared, Worker};

pub(super) struct Workers {
    config: Arc<Config>,
    shared: Shared,
    bus: BusHandle,
    fleet: Fleet,
    gates: Gates,
    inboxes: HashMap<AppName, mpsc::UnboundedSender<Job>>,
    running: JoinSet<()>,
}

impl Workers {
    /// Those of the configuration and of the previews that are here; each begins with what it had in hand before the restart.
    pub(super) fn start(
        config: Arc<Config>,
        shared: Shared,
        bus: BusHandle,
        fleet: &Fleet,
        gates: &Gates,
        unfinished: Vec<Unfinished>,
        previews: &[Order],
    ) -> Result<Self, DaemonError> {
        let (fleet, gates) = (fleet.clone(), gates.clone());
        let mut workers = Self { config, shared, bus, fleet, gates, inboxes: HashMap::new(), running: JoinSet::new() };
        let config = Arc::clone(&workers.config);
        for (app, settings) in &config.apps {
            let stack = StackConfig {
                app: app.clone(),
                directory: settings.directory.clone(),
                project: Some(settings.project.clone()),
                template: None,
            };
            let failed = |reason| DaemonError::Hands { app: app.clone(), reason: Box::new(reason) };
            workers.employ(stack, settings.drift).map_err(failed)?;
        }
        for order in previews {
            workers.employ_for_preview(&order.promotion);
        }
        let mut strangers = BTreeMap::<AppName, usize>::new();
        for Unfinished { taken, deploy_traceparent, entries } in unfinished {
            let promotion = &taken.order.promotion;
            let app = promotion.app.clone();
            let ours = promotion.env == config.env;
            if !(ours && workers.hand_over(Job { taken, entries, deploy_traceparent })) {
                *strangers.entry(app).or_default() += 1;
            }
        }
        for (app, count) in strangers {
            warn!(%app, count, "deploys that did not end belong to an application or environment that is not configured any more");
        }
        Ok(workers)
    }

    /// `false` when nobody works on the application.
    pub(super) fn hand_over(&mut self, job: Job) -> bool {
        let promotion = &job.taken.order.promotion;
        let app = promotion.app.clone();
        if !self.inboxes.contains_key(&app) {
            self.employ_for_preview(promotion);
        }
        let Some(inbox) = self.inboxes.get(&app) else { return false };
        self.fleet.decide(&job.taken.order);
        if inbox.send(job).is_err() {
            warn!(%app, "this application is not worked on any more; the journal takes the promotion up at the next start");
        }
        true
    }

    /// Also where the configuration takes no previews of it any more: what is here must be removed in the end.
    fn employ_for_preview(&mut self, promotion: &Promotion) {
        let Some(preview) = &promotion.preview else { return };
        let stack = StackConfig {
            app: promotion.app.clone(),
            directory: self.config.state_dir.join("previews").join(promotion.app.as_str()),
            project: None,
            template: self.config.previews.get(&preview.of).map(|config| config.directory.clone()),
        };
        if let Err(reason) = self.employ(stack, DriftPolicy::Report) {
            error!(app = %promotion.app, "the preview cannot be worked on: {}", reason.message);
        }
    }

    fn employ(&mut self, stack: StackConfig, drift: DriftPolicy) -> Result<(), Reason> {
        let app = stack.app.clone();
        let leases = BusLeases {
            bus: self.bus.clone(),
            announcer: Arc::clone(&self.shared.announcer),
            promoters: self.config.trust.promote.clone(),
        };
        let hands = Hands::new(hands_config(&self.config, stack), Arc::new(self.bus.clone()))?;
        let hands = hands.with_leases(Arc::new(leases));
        let (send, inbox) = mpsc::unbounded_channel();
        let crew = Arc::new(Crew { hands, fleet: self.fleet.clone(), gates: self.gates.clone() });
        self.running.spawn(Worker::new(app.clone(), crew, inbox, self.shared.clone()).on_drift(drift).run());
        self.inboxes.insert(app, send);
        Ok(())
    }

    pub(super) fn work_on(&self, app: &AppName) -> bool {
        self.inboxes.contains_key(app)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// `None` when there is no worker.
    pub(super) async fn join_next(&mut self) -> Option<Result<(), JoinError>> {
        self.running.join_next().await
    }
}

fn hands_config(config: &Config, stack: StackConfig) -> HandsConfig {
    HandsConfig {
        env: config.env.clone(),
        docker: Some(config.docker.host.clone()),
        stack,
        state_dir: config.state_dir.clone(),
        policy: config.policy.clone(),
        allowed_registries: config.allowed_registries.clone(),
        keep_releases: config.keep_releases,
        min_free_bytes: config.docker.min_free_disk_bytes,
    }
}
