//! One application on the lab's engine: its images, its stack folder, and orders for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use landfall_deploy::{Effect, Evidence, Observed, Order};
use landfall_executor::hands::{
    BundleSource, Committed, Context, Hands, HandsConfig, Kept, LeaseTrouble, Leases, Policy, StackConfig,
};
use landfall_schema::Timestamp;
use landfall_schema::bundle::{BUNDLE_VERSION, Bundle, BundleFile};
use landfall_schema::ids::{Counter, Digest, EventId, ServiceName};
use landfall_schema::lease::{LeasePhase, MigrationLease};
use landfall_schema::outcome::{Progress, Reason, ReasonCode};
use landfall_schema::promotion::{BundleRef, Intent, PinnedImage, Preview, Promotion, RolloutPlan};
use landfall_schema::signature::{PublicKey, SigningKey};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Time for one effect in these tests.
const EFFECT_TIMEOUT: Duration = Duration::from_secs(60);
/// The image's files and commands come from one static binary.
const COMMANDS: [&str; 14] =
    ["sh", "sleep", "httpd", "cat", "echo", "true", "false", "nc", "touch", "ls", "env", "test", "grep", "mkdir"];

pub(crate) fn required(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: these tests need the lab; run `make test`"))
}

pub(crate) fn registry() -> String {
    required("LANDFALL_LAB_REGISTRY")
}

/// What a test promotes, before it becomes an order.
pub(crate) struct Release {
    pub(crate) compose: String,
    pub(crate) images: BTreeMap<ServiceName, PinnedImage>,
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) intent: Intent,
    pub(crate) bake_ms: u64,
    pub(crate) only: BTreeSet<ServiceName>,
    pub(crate) preview: Option<Preview>,
}

impl Release {
    pub(crate) fn new(compose: &str, images: &[(&str, &PinnedImage)]) -> Self {
        let images = images.iter().map(|(name, image)| (name.parse().unwrap(), (*image).clone())).collect();
        Self {
            compose: compose.to_owned(),
            images,
            variables: BTreeMap::new(),
            intent: Intent::Promote,
            bake_ms: 0,
            only: BTreeSet::new(),
            preview: None,
        }
    }
}

pub(crate) struct App {
    pub(crate) project: String,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) config: HandsConfig,
    pub(crate) hands: Hands,
    bundles: Arc<Bundles>,
    pub(crate) leases: Arc<OneHostsLeases>,
    state: tempfile::TempDir,
    counter: u64,
    pub(crate) committed: Vec<Committed>,
    pub(crate) told: Vec<Progress>,
}

#[derive(Default)]
struct Bundles(std::sync::Mutex<BTreeMap<Digest, Vec<u8>>>);

impl BundleSource for Bundles {
    fn bundle<'a>(&'a self, reference: &'a BundleRef) -> BoxFuture<'a, Result<Vec<u8>, Reason>> {
        let found = self.0.lock().unwrap().get(&reference.digest).cloned();
        async move { found.ok_or_else(|| Reason::new(ReasonCode::BundleMissing, "no such bundle")) }.boxed()
    }
}

/// The bucket of leases as a host sees it that nobody else writes to.
#[derive(Default)]
pub(crate) struct OneHostsLeases(std::sync::Mutex<BTreeMap<String, (u64, MigrationLease)>>);

impl OneHostsLeases {
    /// Somebody looked, and says that the schema is in order.
    pub(crate) fn resolve(&self) {
        for (revision, lease) in self.0.lock().unwrap().values_mut() {
            assert!(matches!(lease.phase, LeasePhase::Unknown { .. }), "nothing is open: {lease:?}");
            *revision += 1;
            lease.phase = LeasePhase::Resolved { author: "ann".to_owned() };
        }
    }

    fn key() -> PublicKey {
        static KEY: OnceLock<PublicKey> = OnceLock::new();
        KEY.get_or_init(|| SigningKey::generate().public()).clone()
    }
}

impl Leases for OneHostsLeases {
    fn read<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Kept>, LeaseTrouble>> {
        let found = self.0.lock().unwrap().get(key).cloned();
        let kept = found.map(|(revision, lease)| Kept { revision, lease: Some(lease), signer: Some(Self::key()) });
        async move { Ok(kept) }.boxed()
    }

    fn write<'a>(
        &'a self,
        key: &'a str,
        lease: &'a MigrationLease,
        expected: u64,
    ) -> BoxFuture<'a, Result<u64, LeaseTrouble>> {
        let mut entries = self.0.lock().unwrap();
        let revision = entries.get(key).map_or(0, |(revision, _)| *revision);
        let written = if revision == expected { Ok(revision + 1) } else { Err(LeaseTrouble::Raced) };
        if let Ok(revision) = written {
            entries.insert(key.to_owned(), (revision, lease.clone()));
        }
        async move { written }.boxed()
    }

    fn hear<'a>(&'a self, _key: &'a str) -> BoxFuture<'a, Option<BoxStream<'static, ()>>> {
        async { None }.boxed()
    }

    fn is_own_key(&self, key: &PublicKey) -> bool {
        *key == Self::key()
    }

    fn may_promote(&self, _key: &PublicKey) -> bool {
        true
    }
}

/// Removes what the test left on the engine.
impl Drop for App {
    fn drop(&mut self) {
        let script = "docker ps -aq --filter label=com.docker.compose.project=$0 | xargs -r docker rm -fv; \
            docker volume ls -q --filter label=com.docker.compose.project=$0 | xargs -r docker volume rm; \
            docker network ls -q --filter label=com.docker.compose.project=$0 | xargs -r docker network rm";
        let _ =
            Command::new("sh").args(["-c", script, &self.project]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

impl App {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        registry();
        let project = format!("hands-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let (directory, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = HandsConfig {
            env: "test".parse().unwrap(),
            docker: None,
            stack: StackConfig {
                app: "shop".parse().unwrap(),
                directory: directory.path().to_owned(),
                project: Some(project.clone()),
                template: None,
            },
            state_dir: state.path().to_owned(),
            policy: Policy::default(),
            allowed_registries: Vec::new(),
            keep_releases: 1,
            min_free_bytes: 1,
        };
        let bundles = Arc::new(Bundles::default());
        let leases = Arc::new(OneHostsLeases::default());
        let hands = Hands::new(config.clone(), Arc::clone(&bundles) as Arc<dyn BundleSource>).unwrap();
        let hands = hands.with_leases(Arc::clone(&leases) as Arc<dyn Leases>);
        let (committed, told) = (Vec::new(), Vec::new());
        Self { project, directory, config, hands, bundles, leases, state, counter: 0, committed, told }
    }

    /// Another application, environment or project; takes effect as a restart does.
    pub(crate) fn reconfigured(change: impl FnOnce(&mut HandsConfig)) -> Self {
        let mut app = Self::new();
        change(&mut app.config);
        app.project = app.config.stack.project();
        app.restart();
        app
    }

    /// As a restart of the executor: nothing is remembered but what is on disk, or on the bus.
    pub(crate) fn restart(&mut self) {
        let hands = Hands::new(self.config.clone(), Arc::clone(&self.bundles) as Arc<dyn BundleSource>).unwrap();
        self.hands = hands.with_leases(Arc::clone(&self.leases) as Arc<dyn Leases>);
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.path().join(name), text).unwrap();
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.state.path().to_owned()
    }

    /// The next order of this application.
    pub(crate) fn order(&mut self, release: &Release) -> Order {
        self.counter += 1;
        let bundle = bundle(&release.compose);
        let (bytes, reference) = bundle.encode().unwrap();
        self.bundles.0.lock().unwrap().insert(reference.digest.clone(), bytes);
        let promotion = Promotion {
            env: self.config.env.clone(),
            app: self.config.stack.app.clone(),
            counter: Counter(self.counter),
            release: format!("v{}", self.counter).parse().unwrap(),
            intent: release.intent.clone(),
            images: release.images.clone(),
            variables: release.variables.clone(),
            bundle: reference,
            plan: RolloutPlan { deadline_ms: 60_000, bake_ms: release.bake_ms, ..RolloutPlan::default() },
            only: release.only.clone(),
            preview: release.preview.clone(),
            schema: None,
            evidence: None,
            author: "test".to_owned(),
            link: None,
            expires_at: Timestamp::MAX,
        };
        Order { host: "host-a".parse().unwrap(), id: EventId(uuid::Uuid::now_v7()), promotion }
    }

    pub(crate) async fn carry_out(&mut self, effect: Effect, order: &Order) -> Result<Evidence, Reason> {
        self.carry_out_within(effect, order, EFFECT_TIMEOUT).await
    }

    pub(crate) async fn carry_out_within(
        &mut self,
        effect: Effect,
        order: &Order,
        limit: Duration,
    ) -> Result<Evidence, Reason> {
        let (progress, mut told) = mpsc::channel(1_000);
        let context = Context {
            bundle: None,
            former: self.committed.iter().rfind(|c| c.counter < order.promotion.counter).cloned(),
            progress,
            waiting: mpsc::channel(1).0,
            deadline: Instant::now() + limit,
            last_good: self.committed.clone(),
        };
        let began = Instant::now();
        let result = self.hands.carry_out(effect, order, &context).await;
        eprintln!("{} {effect:?} {} ms: {result:?}", self.project, began.elapsed().as_millis());
        drop(context);
        while let Ok(progress) = told.try_recv() {
            self.told.push(progress);
        }
        result
    }

    pub(crate) async fn observe(&mut self, order: &Order) -> Result<Observed, Reason> {
        match self.carry_out(Effect::Observe, order).await? {
            Evidence::Observed(observed) => Ok(observed),
            other => panic!("{other:?}"),
        }
    }

    /// Every step of a good release, as the machine orders them.
    pub(crate) async fn deploy(&mut self, release: &Release) -> Order {
        let order = self.order(release);
        let observed = self.observe(&order).await.unwrap();
        let mut effects = vec![Effect::Pull];
        if observed.has_migrations {
            effects.extend(observed.has_backup.then_some(Effect::Backup).into_iter().chain([Effect::Migrate]));
        }
        effects.extend([Effect::Update, Effect::Prove]);
        effects.extend((observed.smoke_tests > 0).then_some(Effect::Smoke));
        for effect in effects {
            self.carry_out(effect, &order).await.unwrap();
        }
        self.commit(&order).await;
        order
    }

    pub(crate) async fn commit(&mut self, order: &Order) -> Evidence {
        let compose = self.hands.bundle(order, &self.context()).await.unwrap();
        let Promotion { counter, release, .. } = order.promotion.clone();
        self.committed.push(Committed { counter, release, promotion: order.promotion.clone(), bundle: compose });
        self.carry_out(Effect::Commit, order).await.unwrap()
    }

    fn context(&self) -> Context {
        let (progress, _) = mpsc::channel(1);
        Context {
            bundle: None,
            former: None,
            progress,
            waiting: mpsc::channel(1).0,
            deadline: Instant::now() + EFFECT_TIMEOUT,
            last_good: Vec::new(),
        }
    }

    pub(crate) async fn running(&mut self, effect: Effect, order: &Order) -> BTreeMap<ServiceName, Digest> {
        match self.carry_out(effect, order).await.unwrap() {
            Evidence::Running { services, .. } => services,
            other => panic!("{other:?}"),
        }
    }

    /// The newest committed release.
    pub(crate) fn newest(&self) -> &Committed {
        self.committed.last().unwrap()
    }

    /// The id of the service's only container.
    pub(crate) fn id(&self, service: &str) -> String {
        let project = format!("label=com.docker.compose.project={}", self.project);
        let service = format!("label=com.docker.compose.service={service}");
        docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &project, "--filter", &service])
    }

    /// Service and state of every container of the project, sorted.
    pub(crate) fn containers(&self) -> Vec<String> {
        let filter = format!("label=com.docker.compose.project={}", self.project);
        let format = "{{.Label \"com.docker.compose.service\"}} {{.State}}";
        let mut lines: Vec<String> =
            docker(&["ps", "-a", "--filter", &filter, "--format", format]).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

fn bundle(compose: &str) -> Bundle {
    Bundle {
        version: BUNDLE_VERSION,
        compose: vec![BundleFile { name: "compose.yml".to_owned(), content: compose.to_owned() }],
    }
}

pub(crate) fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Builds an image of its own with these files, pushes it, and forgets it locally.
pub(crate) fn image(repository: &str, files: &[(&str, &str)]) -> PinnedImage {
    image_in(&registry(), repository, files)
}

pub(crate) fn image_in(registry: &str, repository: &str, files: &[(&str, &str)]) -> PinnedImage {
    let (pinned, tag) = built(registry, repository, files);
    docker(&["push", "--quiet", &tag]);
    let digests = docker(&["inspect", "--format", "{{json .RepoDigests}}", &tag]);
    let digests: Vec<String> = serde_json::from_str(&digests).unwrap();
    let digest = digests.iter().find_map(|known| known.strip_prefix(&format!("{}@", pinned))).unwrap();
    let digest: Digest = digest.parse().unwrap();
    docker(&["rmi", "--force", &tag, &format!("{pinned}@{digest}")]);
    PinnedImage { repository: pinned, digest, tag: None }
}

/// As [`image`], without a registry: the tag alone, and the image stays.
pub(crate) fn built(registry: &str, repository: &str, files: &[(&str, &str)]) -> (String, String) {
    let busybox = std::fs::read(required("LANDFALL_LAB_BUSYBOX")).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, mode: u32, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        archive.append_data(&mut header, path, bytes).unwrap();
    };
    add("bin/busybox", 0o755, &busybox);
    for (path, text) in files {
        add(path, 0o755, text.as_bytes());
    }
    for command in COMMANDS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, format!("bin/{command}"), "busybox").unwrap();
    }
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let unique = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let name = format!("{registry}/{repository}");
    let tag = format!("{name}:{unique}");
    // The label makes every image another one, even with the same files.
    let label = format!("LABEL unique={unique}");
    let mut child = Command::new("docker")
        .args(["import", "--change", "CMD [\"sleep\",\"1000\"]", "--change", &label, "-", &tag])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&archive.into_inner().unwrap()).unwrap();
    assert!(child.wait().unwrap().success());
    (name, tag)
}

/// Below the ports that the kernel gives to outgoing connections, and the engine to containers that want any, so that a free one stays free.
const PORTS: std::ops::Range<u32> = 20_000..32_000;

/// A port that nobody has at the moment. Each process begins elsewhere, since the tests run beside each other.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = PORTS.end - PORTS.start;
    let first = std::process::id().wrapping_mul(41);
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let ports = (0..count).map(|_| first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % count + PORTS.start);
    ports.filter_map(|port| u16::try_from(port).ok()).find(is_free).unwrap()
}
