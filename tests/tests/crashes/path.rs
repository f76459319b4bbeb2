//! What is deployed while the executor is killed: every way a deploy can go, and the releases that make it go so.

use std::time::Duration;

use anyhow::Result;
use landfall_schema::Timestamp;
use landfall_schema::ids::Counter;
use landfall_schema::outcome::OutcomeKind;
use landfall_schema::promotion::{Intent, Preview};
use landfall_tests::database::Database;
use landfall_tests::image::AppImage;
use landfall_tests::promotion::Draft;
use landfall_tests::registry::PushedImage;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::{READY, Stack};

const DATABASE: &str = "migrations: {path: /migrations, url: \"${DATABASE_URL}\", database: shop}";
const SMOKE: &str = "smoke:\n  - http: {url: \"http://127.0.0.1:${HTTP_PORT}/\"}\n  - run: {service: app, command: [\"true\"]}\nbake_ms: 100";
/// Long enough for a container to be ready, and not to wait for long where it never is.
const READY_SOON: &str = "ready: {http: {port: 8080, path: /ready}, interval_ms: 50, passes: 2, deadline_ms: 1200}";
const QUICK: &str = "init: true\nstop_grace_period: 1s";

const TOLD_AGAIN: [&str; 2] = ["journal.tell_again.before", "journal.tell_again.after"];

/// Longer than any test.
const PREVIEW_LIFETIME: Duration = Duration::from_secs(1800);

/// How a deploy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// SQL files in PostgreSQL, with and without a transaction; a backup service, smoke tests and a bake.
    SqlFiles,
    /// SQL files in SQLite.
    Sqlite,
    /// A migrator service with a fence in PostgreSQL; a backup command in the running container.
    Migrator,
    /// Migrated, swapped, never ready: back to the former release.
    RollsBack,
    /// The first deploy, never ready: taken down again.
    FirstFails,
    /// Some services only, and a migrator service, whose container nothing but the commit removes there; the others are not touched.
    Partial,
    /// The same, and back.
    PartialRollsBack,
    /// A rollout with a roster, which this host decides.
    Coordinated,
    /// The same, and the rollout takes it back.
    CoordinatedRollsBack,
    /// A signed rollback to an older release.
    SignedRollback,
    /// A preview is taken away.
    Removal,
    /// A promotion that nobody may take any more: it has expired.
    Refused,
    /// The deploy has succeeded, and the bus comes back with a store from before it: it is told again.
    BusRestored,
    /// The environment has a policy, and a new one before each release.
    Ruled,
}

impl Path {
    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }

    pub(crate) fn ends_as(self) -> OutcomeKind {
        match self {
            Self::RollsBack | Self::FirstFails | Self::PartialRollsBack | Self::CoordinatedRollsBack => {
                OutcomeKind::DeployRolledBack
            }
            Self::Refused => OutcomeKind::DeployRefused,
            _ => OutcomeKind::DeploySucceeded,
        }
    }

    pub(crate) fn is_good(self) -> bool {
        self.ends_as() == OutcomeKind::DeploySucceeded
    }

    /// Whether each release brings migrations of its own.
    pub(crate) fn migrates(self) -> bool {
        self.has_files() || self.has_migrator()
    }

    fn has_files(self) -> bool {
        matches!(self, Self::SqlFiles | Self::Sqlite | Self::RollsBack)
    }

    /// A service that writes a line for each release, instead of SQL files.
    pub(crate) fn has_migrator(self) -> bool {
        matches!(self, Self::Migrator | Self::Partial)
    }

    /// The ways of a release that is alone and migrates: all that can be killed on them is.
    pub(crate) fn is_thorough(self) -> bool {
        matches!(self, Self::SqlFiles | Self::RollsBack)
    }

    /// Whether the failpoint is tried on this path. Where the rest is as on a thorough one, the others tell nothing new.
    pub(crate) fn is_about(self, point: &str) -> bool {
        match self {
            Self::Sqlite => point.starts_with("sqlite.") || point.starts_with("effect.Migrate."),
            Self::BusRestored => TOLD_AGAIN.contains(&point),
            Self::Ruled => point.starts_with("journal.keep_rule."),
            _ => true,
        }
    }

    /// What is passed after a deploy's last word.
    pub(crate) fn passed_last(self) -> &'static [&'static str] {
        match self {
            // It never comes to where the journal is tidied.
            Self::Refused => &["ack.after"],
            Self::BusRestored => &TOLD_AGAIN,
            _ => &["ack.after", "journal.prune.after"],
        }
    }

    /// What the host's configuration says beside the application.
    ///
    /// # Errors
    /// When the template of previews cannot be made.
    pub(crate) fn sections(self, folder: &std::path::Path) -> Result<String> {
        if self != Self::Removal {
            return Ok(String::new());
        }
        let template = folder.join("template");
        std::fs::create_dir_all(&template)?;
        Ok(format!("[previews.shop]\ndirectory = {template:?}\nmax_lifetime = \"1h\"\nmax = 1\n"))
    }

    fn has_side(self) -> bool {
        matches!(self, Self::Partial | Self::PartialRollsBack)
    }

    fn is_coordinated(self) -> bool {
        matches!(self, Self::Coordinated | Self::CoordinatedRollsBack)
    }
}

/// One release of the application.
pub(crate) struct Release {
    pub(crate) image: PushedImage,
    pub(crate) version: String,
    stack: Stack,
}

/// Makes releases of one path, each with the migrations of all before it.
pub(crate) struct Releases {
    path: Path,
    helper: PushedImage,
    migrator: PushedImage,
    files: Vec<(String, String)>,
    made: u32,
}

impl Releases {
    /// # Errors
    /// When the registry does not take an image, or the stack's directory cannot be written to.
    pub(crate) async fn new(path: Path, scenario: &mut Scenario, database: &Database) -> Result<Self> {
        let helper = scenario.push("helper", AppImage::version("helper")).await?;
        let script = "echo $RELEASE >> /data/runs; sleep 0.1; echo migrated";
        let migrator = scenario.push("migrator", AppImage::version("m").script(script)).await?;
        let directory = scenario.host().directory.clone();
        std::fs::create_dir_all(directory.join("data"))?;
        let url = match path {
            Path::Sqlite => format!("sqlite://{}?mode=rwc", directory.join("shop.db").display()),
            _ => database.url.clone(),
        };
        let env = std::fs::read_to_string(directory.join(".env"))?;
        std::fs::write(directory.join(".env"), format!("{env}DATABASE_URL={url}\n"))?;
        let create = "CREATE TABLE applied (name TEXT NOT NULL);".to_owned();
        Ok(Self { path, helper, migrator, files: vec![("00000_applied.sql".to_owned(), create)], made: 0 })
    }

    /// What was migrated by the releases so far, each of which counts once.
    pub(crate) fn migrations(&self) -> Vec<String> {
        if self.path.has_migrator() {
            return (1..=self.made).map(|number| number.to_string()).collect();
        }
        self.files.iter().skip(1).map(|(name, _)| name.clone()).collect()
    }

    /// The next release; one that is not `good` never becomes ready.
    ///
    /// # Errors
    /// When the registry does not take its image.
    pub(crate) async fn next(&mut self, scenario: &Scenario, good: bool) -> Result<Release> {
        self.made += 1;
        let version = format!("v{}", self.made);
        let image = AppImage::version(&version);
        let mut image = if good { image } else { image.never_ready() };
        if self.path.has_files() {
            self.add_files();
            for (name, sql) in &self.files {
                image = image.migration(name, sql);
            }
        }
        let image = scenario.push(&version, image).await?;
        let stack = self.stack(&image, good);
        Ok(Release { image, version, stack })
    }

    fn add_files(&mut self) {
        let transactions = match self.path {
            // SQLite's migrations all have one.
            Path::Sqlite => ["", ""],
            _ => ["", "-- no-transaction\n"],
        };
        for (index, header) in transactions.iter().enumerate() {
            let name = format!("{:04}{}_step.sql", self.made, index + 1);
            let sql = format!("{header}INSERT INTO applied (name) VALUES ('{name}');");
            self.files.push((name, sql));
        }
    }

    fn stack(&self, image: &PushedImage, good: bool) -> Stack {
        let app = Stack::app_with(image, if good { READY } else { READY_SOON });
        match self.path {
            Path::SqlFiles => app.app_settings(DATABASE).settings(SMOKE).service(
                "backup",
                &self.helper,
                "init: true\ncommand: [\"true\"]",
                "role: backup",
            ),
            Path::Sqlite | Path::RollsBack => app.app_settings(DATABASE),
            Path::Migrator => {
                let settings = "role: migrate\ndatabase: shop\ndatabase_url: \"${DATABASE_URL}\"";
                self.with_migrator(app.app_settings("backup: [\"true\"]"), settings)
            }
            Path::Partial => self.with_migrator(app.service("side", &self.helper, QUICK, ""), "role: migrate"),
            Path::PartialRollsBack => app.service("side", &self.helper, QUICK, ""),
            _ => app,
        }
    }

    fn with_migrator(&self, stack: Stack, settings: &str) -> Stack {
        let lines = format!("init: true\nvolumes: [./data:/data]\nenvironment: {{RELEASE: \"{}\"}}", self.made);
        stack.service("migrator", &self.migrator, &lines, settings)
    }
}

impl Release {
    /// Its promotion, as this path wants it. `whole` brings every service.
    ///
    /// # Errors
    /// When the host is not present, where a rollout wants that.
    pub(crate) async fn draft(&self, path: Path, scenario: &mut Scenario, whole: bool) -> Result<Draft> {
        let mut draft = scenario.draft(&self.stack)?;
        if path.has_side() && !whole {
            draft.event.data.only = ["app".parse()?].into();
            if path.has_migrator() {
                // One that is not named has nothing to migrate.
                draft.event.data.only.insert("migrator".parse()?);
            }
        }
        if path == Path::Refused && !whole {
            draft.event.data.expires_at = Timestamp::now() - Duration::from_secs(60);
        }
        if path.is_coordinated() {
            draft = draft.coordinate(&scenario.bus, &[&["host-a"]]).await?;
        }
        Ok(draft)
    }

    /// A promotion of this release as a preview, or the end of it.
    ///
    /// # Errors
    /// When a name is unusable.
    pub(crate) fn preview(&self, scenario: &mut Scenario, name: &str, intent: Intent) -> Result<Draft> {
        let text = format!(
            "services:\n  app:\n    image: {}\n    init: true\n    stop_grace_period: 1s\n    volumes: [\"data:/data\"]\n    x-landfall:\n      {READY}\nvolumes: {{data: {{}}}}\n",
            self.image.reference()
        );
        let mut draft = scenario.draft(&Stack::raw(&text, &[("app", &self.image)]))?;
        let promotion = &mut draft.event.data;
        promotion.app = format!("shop--{name}").parse()?;
        let expires_at = Timestamp::now() + PREVIEW_LIFETIME;
        promotion.preview = Some(Preview { of: "shop".parse()?, name: name.parse()?, expires_at });
        promotion.intent = intent;
        Ok(draft)
    }

    /// A signed rollback to this release.
    ///
    /// # Errors
    /// When a name is unusable.
    pub(crate) fn back_to(&self, scenario: &mut Scenario, counter: u64) -> Result<Draft> {
        let mut draft = scenario.draft(&self.stack)?;
        draft.event.data.intent = Intent::Rollback { to: Counter(counter) };
        Ok(draft)
    }
}
