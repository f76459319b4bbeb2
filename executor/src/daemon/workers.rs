//! One worker for each application of the configuration, and one for each preview as it comes.

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_deploy::Order;
use landfall_schema::ids::AppName;
use landfall_schema::outcome::Reason;
use landfall_schema::promotion::Promotion;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::{JoinError, JoinSet};
use tracing::{debug, error, warn};

use super::DaemonError;
use crate::config::DriftPolicy;
use crate::hands::StackConfig;
use crate::journal::Unfinished;
use crate::site::{Means, Site};
use crate::worker::{Ended, Job, Shared, Worker};
use crate::world::within;

pub(super) struct Workers<S> {
    site: Arc<S>,
    means: Means,
    shared: Shared,
    inboxes: BTreeMap<AppName, UnboundedSender<Job>>,
    running: JoinSet<(AppName, Ended)>,
}

/// What a worker looks after.
enum Work {
    Application(DriftPolicy),
    /// What was changed by hand is told and left: it is not for long.
    Preview,
}

impl<S: Site> Workers<S> {
    /// Those of the configuration and of the previews that are here; each begins with what it had in hand before the restart.
    pub(super) fn start(
        site: Arc<S>,
        means: Means,
        shared: Shared,
        unfinished: Vec<Unfinished>,
        previews: &[Order],
    ) -> Result<Self, DaemonError> {
        let config = Arc::clone(&means.config);
        let mut workers = Self { site, means, shared, inboxes: BTreeMap::new(), running: JoinSet::new() };
        for (app, settings) in &config.apps {
            let stack = StackConfig {
                app: app.clone(),
                directory: settings.directory.clone(),
                project: Some(settings.project.clone()),
                template: None,
            };
            let failed = |reason| DaemonError::Hands { app: app.clone(), reason: Box::new(reason) };
            workers.employ(stack, Work::Application(settings.drift)).map_err(failed)?;
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
        let order = job.taken.order.clone();
        let app = &order.promotion.app;
        // One whose preview is gone hears nothing more, and touches nothing more either.
        if self.inboxes.get(app).is_none_or(UnboundedSender::is_closed) {
            self.employ_for_preview(&order.promotion);
        }
        let Some(inbox) = self.inboxes.get(app) else { return false };
        self.means.fleet.decide(&order);
        if let Err(SendError(job)) = inbox.send(job) {
            self.employ_for_preview(&order.promotion);
            if self.inboxes.get(app).is_none_or(|inbox| inbox.send(job).is_err()) {
                warn!(%app, "this application is not worked on any more; the journal takes the promotion up at the next start");
            }
        }
        true
    }

    /// Whether a worker has ended that was to go on. One whose preview is gone has done its work.
    pub(super) fn is_lost(&mut self, ended: Result<(AppName, Ended), JoinError>) -> bool {
        match ended {
            Ok((app, Ended::PreviewGone { late })) => {
                debug!(%app, "the preview is gone, and so is its worker");
                if self.inboxes.get(&app).is_some_and(UnboundedSender::is_closed) {
                    self.inboxes.remove(&app);
                }
                for job in late {
                    self.hand_over(job);
                }
                false
            }
            Ok((_, Ended::Drained)) => true,
            Err(error) => {
                super::worker_ended::<()>(Err(error));
                true
            }
        }
    }

    /// Also where the configuration takes no previews of it any more: what is here must be removed in the end.
    fn employ_for_preview(&mut self, promotion: &Promotion) {
        let Some(preview) = &promotion.preview else { return };
        let config = &self.means.config;
        let stack = StackConfig {
            app: promotion.app.clone(),
            directory: config.state_dir.join("previews").join(promotion.app.as_str()),
            project: None,
            template: config.previews.get(&preview.of).map(|config| config.directory.clone()),
        };
        if let Err(reason) = self.employ(stack, Work::Preview) {
            error!(app = %promotion.app, "the preview cannot be worked on: {}", reason.message);
        }
    }

    fn employ(&mut self, stack: StackConfig, work: Work) -> Result<(), Reason> {
        let app = stack.app.clone();
        let crew = Arc::new(self.site.crew(stack, &self.means)?);
        let (send, inbox) = mpsc::unbounded_channel();
        let worker = Worker::new(app.clone(), crew, inbox, self.shared.clone());
        let worker = match work {
            Work::Application(drift) => worker.on_drift(drift),
            Work::Preview => worker.of_preview(),
        };
        let employed = app.clone();
        self.running.spawn(within(async move { (employed, worker.run().await) }));
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
    pub(super) async fn join_next(&mut self) -> Option<Result<(AppName, Ended), JoinError>> {
        self.running.join_next().await
    }
}
