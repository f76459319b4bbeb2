//! Carries out the engine's effects on one application of one Docker host.
//!
//! In reading order: [`observe`] renders the stack ([`render`], [`compose`], [`settings`], [`policy`]) and looks at what runs
//! ([`former`]); [`pull`] brings the images ([`credentials`]); [`backup`] and [`migrate`] ([`oneshot`], [`sql`]) run before anything is
//! swapped, once per database ([`lease`], [`fence`]); [`update`] swaps; [`prove`] ([`probe`]), [`smoke`] and [`bake`] watch;
//! [`restore`] goes back; [`cleanup`] commits; [`promise`] knows which releases the database still serves.
//! [`mark`] keeps environments apart, [`partial`] leaves services alone, [`drift`] looks after a committed release, [`preview`] and
//! [`remove`] are the beginning and the end of a preview.
//! [`engine`] and [`process`] are the two ways out of this process, both with deadlines; [`redact`] keeps secrets in.

mod backup;
mod bake;
mod cleanup;
mod compose;
mod credentials;
mod drift;
mod engine;
mod fence;
mod former;
#[cfg(test)]
mod fuzz;
mod hold;
mod lease;
mod logs;
mod mark;
mod memory;
mod migrate;
mod observe;
mod oneshot;
mod overrides;
mod own_file;
mod partial;
mod policy;
mod preview;
mod probe;
mod process;
mod promise;
mod prove;
mod pull;
mod redact;
mod remove;
mod render;
mod restore;
mod settings;
mod smoke;
mod sql;
mod update;
mod yaml;

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use landfall_deploy::{Effect, Evidence, Former, Order};
use landfall_schema::bundle::{Bundle, BundleError};
use landfall_schema::ids::{AppName, Counter, Digest, EnvName, ReleaseName, ServiceName};
use landfall_schema::outcome::{Progress, Reason, ReasonCode};
use landfall_schema::promotion::{BundleRef, Intent, Promotion};
use tokio::sync::mpsc;
use tokio::time::Instant;

pub use compose::Compose;
pub use drift::Drift;

pub use fence::{DOING_SERVICE, Found, Standing};
pub use lease::{Begun, Claim, DoneBy, Ended, Held, Kept, Lease, LeaseTrouble, Leases, Leasing};
pub use mark::check_project;
pub use policy::{Policy, Risk};

use drift::Follower;
use engine::Engine;
use render::Stack;

/// Least free space on the engine's disk before a pull, unless configured.
pub const MIN_FREE_BYTES: u64 = 1024 * 1024 * 1024;
/// How many releases are kept on the host beside the running one, unless configured.
pub const KEEP_RELEASES: usize = 3;
/// Internal deadlines end this much before the effect's own, so that the reason can be told with its logs.
const TELL_MARGIN: Duration = Duration::from_millis(1_500);
/// Between two looks at whether an engine that is away is back.
const ENGINE_POLL: Duration = Duration::from_millis(500);
/// Renderings that are remembered: the release under way and the former one.
const RENDERED_MAX: usize = 2;

/// What the host's configuration says about one application.
#[derive(Debug, Clone)]
pub struct HandsConfig {
    /// Part of the mark that every container gets.
    pub env: EnvName,
    /// `unix:///var/run/docker.sock` or `tcp://host:port`; `None` is `DOCKER_HOST` or the default socket.
    pub docker: Option<String>,
    pub stack: StackConfig,
    /// The executor's own folder; stacks are written to `stacks/<project>/<counter>/` below it.
    pub state_dir: PathBuf,
    pub policy: Policy,
    /// Registries, or repositories and prefixes of them at a slash; empty allows all.
    pub allowed_registries: Vec<String>,
    pub keep_releases: usize,
    pub min_free_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct StackConfig {
    pub app: AppName,
    /// Holds `.env` and whatever the compose file mounts relatively.
    pub directory: PathBuf,
    /// The compose project; `None` is the application's name as Compose would normalise it.
    pub project: Option<String>,
    /// For a preview: the directory whose files are copied into its own.
    pub template: Option<PathBuf>,
}

impl StackConfig {
    pub fn project(&self) -> String {
        compose::normalise_project(self.project.as_deref().unwrap_or_else(|| self.app.as_str()))
    }
}

/// A release that was committed on this host.
#[derive(Debug, Clone)]
pub struct Committed {
    pub counter: Counter,
    pub release: ReleaseName,
    pub promotion: Promotion,
    pub bundle: Bundle,
}

impl Committed {
    /// As what an order comes after; `images` is what proves that it serves.
    pub fn as_former(&self, images: BTreeMap<ServiceName, Digest>) -> Former {
        Former { release: Some(self.release.clone()), counter: Some(self.counter), images }
    }
}

/// What one effect needs beside its order.
#[derive(Debug, Clone)]
pub struct Context {
    /// `None` until it was fetched: the hands fetch it then.
    pub bundle: Option<Bundle>,
    /// The newest committed release.
    pub former: Option<Committed>,
    pub progress: mpsc::Sender<Progress>,
    /// Told what is waited for, one line each time that it changes.
    pub waiting: mpsc::Sender<String>,
    /// When the shell ends the effect.
    pub deadline: Instant,
    /// Committed releases, `former` included, in any order; the newest of them are kept by `Commit`.
    pub last_good: Vec<Committed>,
}

/// Where bundles come from.
pub trait BundleSource: Send + Sync {
    /// The object's bytes. The hands check them against the reference.
    fn bundle<'a>(&'a self, reference: &'a BundleRef) -> BoxFuture<'a, Result<Vec<u8>, Reason>>;
}

/// Acts on one application of this host. Effects of one application are carried out one at a time.
pub struct Hands {
    config: HandsConfig,
    engine: Arc<Engine>,
    follower: OnceLock<Follower>,
    compose: Compose,
    http: reqwest::Client,
    bundles: Arc<dyn BundleSource>,
    leasing: Leasing,
    rendered: Mutex<Vec<Arc<Stack>>>,
}

impl Hands {
    /// Opens no connection yet: an engine that is down is the reason of an effect's failure, not of this.
    ///
    /// # Errors
    /// [`ReasonCode::Internal`] when the HTTP client cannot be built.
    pub fn new(config: HandsConfig, bundles: Arc<dyn BundleSource>) -> Result<Self, Reason> {
        // Whoever installs the provider first wins; every one of ours installs the same.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = probe::client().map_err(|error| internal("building the HTTP client", error))?;
        let engine = Arc::new(Engine::new(config.docker.clone(), config.stack.project()));
        let compose = Compose::find(config.docker.clone());
        let (follower, rendered) = (OnceLock::new(), Mutex::new(Vec::new()));
        let leasing = Leasing { leases: None, bundles: Arc::clone(&bundles) };
        Ok(Self { config, engine, follower, compose, http, bundles, leasing, rendered })
    }

    #[must_use]
    pub fn with_leases(mut self, leases: Arc<dyn Leases>) -> Self {
        self.leasing.leases = Some(leases);
        self
    }

    /// # Errors
    /// The [`Reason`] that goes into the step's outcome.
    pub async fn carry_out(&self, effect: Effect, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        match effect {
            Effect::Observe => self.observe(order, context).await.map(Evidence::Observed),
            Effect::Pull => self.pull(order, context).await,
            Effect::Backup => self.back_up(order, context).await,
            Effect::Migrate => self.migrate(order, context).await,
            Effect::Update => self.update(order, context).await,
            Effect::Prove => self.prove(order, context).await,
            Effect::Smoke => self.smoke(order, context).await,
            Effect::Bake => self.bake(order, context).await,
            Effect::Commit => self.clean_up(order, context).await,
            Effect::Restore => self.insist(context, || self.restore(order, context)).await,
            Effect::ProveFormer => self.insist(context, || self.prove_former(order, context)).await,
            Effect::Admit | Effect::AwaitRollout => {
                Err(internal("waiting for the fleet", "that is no work for these hands"))
            }
            Effect::Remove => self.remove(order, context).await,
        }
    }

    /// On the way back an engine that is away is waited for, as long as the step may take: what it was restarted for is no reason to leave
    /// a host as it is. Both steps can be repeated.
    async fn insist<F, W>(&self, context: &Context, step: F) -> Result<Evidence, Reason>
    where
        F: Fn() -> W,
        W: Future<Output = Result<Evidence, Reason>>,
    {
        let deadline = effect_deadline(context);
        loop {
            let reason = match step().await {
                Ok(evidence) => return Ok(evidence),
                Err(reason) => reason,
            };
            let mut was_away = reason.code == ReasonCode::EngineUnreachable;
            while self.engine.ping().await.is_err() {
                was_away = true;
                if Instant::now() + ENGINE_POLL >= deadline {
                    return Err(reason);
                }
                tokio::time::sleep(ENGINE_POLL).await;
            }
            if !was_away || Instant::now() + ENGINE_POLL >= deadline {
                return Err(reason);
            }
            tracing::info!("the engine answers again; the step is repeated: {}", reason.message);
            // What cannot reach it for another reason fails at once each time.
            tokio::time::sleep(ENGINE_POLL).await;
        }
    }

    /// The order's bundle, for the journal: from the context, from this host's own copy, or fetched.
    ///
    /// # Errors
    /// [`ReasonCode::BundleMissing`], [`ReasonCode::BundleDigest`], or what the source says.
    pub async fn bundle(&self, order: &Order, context: &Context) -> Result<Bundle, Reason> {
        if let Some(bundle) = &context.bundle {
            return Ok(bundle.clone());
        }
        let reference = &order.promotion.bundle;
        let copy = self.stack_dir(order.promotion.counter).join(BUNDLE_FILE);
        if let Some(bundle) = tokio::fs::read(&copy).await.ok().and_then(|bytes| Bundle::decode(&bytes, reference).ok())
        {
            return Ok(bundle);
        }
        let bytes = self.bundles.bundle(reference).await?;
        let bundle = Bundle::decode(&bytes, reference).map_err(bundle_reason)?;
        self.keep(&copy, &bytes).await?;
        Ok(bundle)
    }

    fn stack_dir(&self, counter: Counter) -> PathBuf {
        self.config.state_dir.join("stacks").join(self.engine.project()).join(counter.0.to_string())
    }

    /// Written aside and renamed, so that a crash leaves the former file or the new one whole.
    async fn keep(&self, path: &Path, bytes: &[u8]) -> Result<(), Reason> {
        let (path, bytes) = (path.to_owned(), bytes.to_vec());
        let written = tokio::task::spawn_blocking(move || write_whole(&path, &bytes)).await;
        let written = written.map_err(|error| internal("writing the stack's files", error))?;
        written.map_err(|error| internal("writing the stack's files", error))
    }

    /// The rendered stack of the order; rendered again after a restart.
    async fn stack(&self, order: &Order, context: &Context) -> Result<Arc<Stack>, Reason> {
        if let Some(stack) = self.remembered(order.promotion.counter) {
            return Ok(stack);
        }
        let bundle = self.bundle(order, context).await?;
        self.render(&order.promotion, &bundle, effect_deadline(context)).await
    }

    fn remembered(&self, counter: Counter) -> Option<Arc<Stack>> {
        let rendered = self.rendered.lock().unwrap_or_else(PoisonError::into_inner);
        rendered.iter().find(|stack| stack.counter == counter).cloned()
    }

    fn forget_rendered(&self) {
        self.rendered.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn remember(&self, stack: &Arc<Stack>) {
        let mut rendered = self.rendered.lock().unwrap_or_else(PoisonError::into_inner);
        rendered.retain(|other| other.counter != stack.counter);
        rendered.push(Arc::clone(stack));
        while rendered.len() > RENDERED_MAX {
            rendered.remove(0);
        }
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().ok_or(std::io::ErrorKind::InvalidInput)?;
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    std::fs::File::open(directory)?.sync_all()
}

/// The bundle's own copy beside the compose files that it holds.
const BUNDLE_FILE: &str = "bundle.landfall.json";

fn bundle_reason(error: BundleError) -> Reason {
    let code = match error {
        BundleError::Oversized { .. } => ReasonCode::Oversized,
        BundleError::DigestMismatch { .. } => ReasonCode::BundleDigest,
        BundleError::UnknownVersion(_) => ReasonCode::UnknownVersion,
        BundleError::Malformed(_) | BundleError::Empty | BundleError::BadName(_) => ReasonCode::Malformed,
    };
    Reason::new(code, error.to_string()).hint("promote again; the bundle store may have been changed by hand")
}

/// Until when an effect may work by itself and still tell what happened.
fn effect_deadline(context: &Context) -> Instant {
    context.deadline.checked_sub(TELL_MARGIN).unwrap_or(context.deadline)
}

/// Trouble of our own, such as a disk that cannot be written to.
fn internal(doing: &str, error: impl std::fmt::Display) -> Reason {
    Reason::new(ReasonCode::Internal, format!("{doing}: {error}"))
}

fn is_rollback(promotion: &Promotion) -> bool {
    matches!(promotion.intent, Intent::Rollback { .. })
}
