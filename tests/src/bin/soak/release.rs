//! Releases at random: what is in them, what is wrong with them, and how they go across the fleet.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use landfall_bus::Bus;
use landfall_schema::ids::{AppName, Counter, EnvName, HostName, ServiceName};
use landfall_schema::promotion::{Intent, Offline, OnFailure, Wave};
use landfall_schema::roster::Roster;
use landfall_schema::signature::{PublicKey, SigningKey};
use landfall_tests::image::AppImage;
use landfall_tests::promotion::{Draft, Message};
use landfall_tests::registry::{PushedImage, Registry};
use landfall_tests::stack::Stack;

use crate::chance::Chance;
use crate::record::{Ordered, Record};

const READY: &str = "ready: {http: {port: 8080, path: /ready}, interval_ms: 100, passes: 2, deadline_ms: 8000}";
const MIGRATES: &str = "migrations: {path: /migrations, url: \"${DATABASE_URL}\", database: soak}";
/// Every migration leaves a row in it, and nothing stands in the way of a second one.
const EFFECTS: &str =
    "CREATE TABLE soak_effects (version bigint NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());";
pub(crate) const EFFECTS_VERSION: i64 = 1;
/// Where nothing is to go wrong, no deadline shall end it either: the machine may have other work.
const GOOD_DEADLINE_MS: u64 = 180_000;
/// For a registry or a bus that is away, as a CI job would wait.
const OFFER_LIMIT: Duration = Duration::from_secs(120);
const OFFER_RETRY: Duration = Duration::from_millis(500);
/// A request to a server that is cut off may never be answered.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Offer {
    Good,
    Migrating,
    OneService,
    Rollback,
    NeverReady,
    FailsSmoke,
    Exits,
    ExitsOnOneHost,
    CrashingMigration,
}

const OFFERS: [(Offer, u64); 9] = [
    (Offer::Good, 26),
    (Offer::Migrating, 18),
    (Offer::OneService, 10),
    (Offer::Rollback, 8),
    (Offer::NeverReady, 6),
    (Offer::FailsSmoke, 8),
    (Offer::Exits, 6),
    (Offer::ExitsOnOneHost, 9),
    (Offer::CrashingMigration, 9),
];

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Good => "good",
            Self::Migrating => "good, with a SQL migration",
            Self::OneService => "one service only",
            Self::Rollback => "rollback to an older release",
            Self::NeverReady => "never ready",
            Self::FailsSmoke => "fails its smoke test",
            Self::Exits => "exits at once",
            Self::ExitsOnOneHost => "exits on one host",
            Self::CrashingMigration => "its migration fails",
        })
    }
}

/// Whoever promotes, with what it needs for that.
pub(crate) struct Promoter {
    pub(crate) means: Means,
    pub(crate) chance: Chance,
    pub(crate) record: Record,
    /// Name and text of every migration that can be applied, oldest first.
    migrations: Vec<(i64, String, String)>,
    newest_migration: i64,
    made: BTreeMap<u64, Made>,
}

/// What one promotion was made of, for those that come back to it.
#[derive(Debug, Clone)]
struct Made {
    app: PushedImage,
    side: PushedImage,
    stack: Stack,
    /// How many migrations it knows.
    migrations: usize,
}

/// The parts of a promoter that come from elsewhere.
pub(crate) struct Means {
    pub(crate) bus: Bus,
    pub(crate) env: EnvName,
    pub(crate) app: AppName,
    pub(crate) key: SigningKey,
    pub(crate) registry: Registry,
    pub(crate) repository: String,
    pub(crate) hosts: BTreeMap<HostName, PublicKey>,
}

impl Promoter {
    pub(crate) fn new(means: Means, chance: Chance, record: Record) -> Self {
        let first = (EFFECTS_VERSION, "0001_effects.sql".to_owned(), EFFECTS.to_owned());
        Self {
            means,
            chance,
            record,
            migrations: vec![first],
            newest_migration: EFFECTS_VERSION,
            made: BTreeMap::new(),
        }
    }

    /// A release at random, in a rollout at random. Returns its number.
    pub(crate) async fn anything(&mut self) -> Result<u64> {
        let offer = self.chance.weighted(&OFFERS);
        // Before something was proven there is nothing to go back to, and no other service to keep.
        let is_first = self.record.lock().proven().is_empty();
        let is_possible = match offer {
            Offer::Rollback => !is_first,
            Offer::OneService => self.newest_app().is_some(),
            _ => true,
        };
        let offer = if is_possible { offer } else { Offer::Good };
        self.promote(offer, true).await
    }

    /// A good release for all hosts at once. Returns its number.
    pub(crate) async fn good(&mut self) -> Result<u64> {
        self.promote(Offer::Good, false).await
    }

    async fn promote(&mut self, offer: Offer, at_random: bool) -> Result<u64> {
        let counter = self.record.lock().newest() + 1;
        let made = match offer {
            Offer::Rollback => self.older()?,
            Offer::OneService => self.other_side(counter).await?,
            _ => self.new_release(offer, counter).await?,
        };
        let hosts: Vec<HostName> = self.means.hosts.keys().cloned().collect();
        let mut draft = Draft::of(&made.stack, &self.means.env, &self.means.app, hosts, counter)?;
        match offer {
            Offer::Rollback => draft.event.data.intent = Intent::Rollback { to: self.older_counter(&made) },
            Offer::OneService => draft.event.data.only = [ServiceName::new("side")?].into(),
            _ => {}
        }
        let is_coordinated = !at_random || self.chance.percent(90);
        draft.event.data.plan.deadline_ms = GOOD_DEADLINE_MS;
        if at_random {
            self.shape(&mut draft);
        }
        let migrations = match offer {
            Offer::Rollback | Offer::OneService => Vec::new(),
            _ => self.migrations.iter().map(|(version, ..)| *version).collect(),
        };
        let images = made.stack.images()?.into_iter().map(|(service, image)| (service, image.digest)).collect();
        eprintln!(
            "#{counter}: {offer}{}",
            if is_coordinated { shown(&draft) } else { "; each host on its own".to_owned() }
        );
        self.publish(&mut draft, is_coordinated, |id| Ordered {
            id,
            offer,
            hosts: self.means.hosts.keys().cloned().collect(),
            is_coordinated,
            images,
            migrations,
        })
        .await?;
        self.made.insert(counter, made);
        Ok(counter)
    }

    async fn new_release(&mut self, offer: Offer, counter: u64) -> Result<Made> {
        let version = format!("v{counter}");
        let image = match offer {
            Offer::NeverReady => AppImage::version(&version).never_ready(),
            // It answers, and not with what the smoke test expects.
            Offer::FailsSmoke => AppImage::version(&format!("page {counter} of somebody else")),
            Offer::Exits => AppImage::version(&version).exits(7),
            Offer::ExitsOnOneHost => {
                let unlucky = self.chance.index(self.means.hosts.len());
                let host = self.means.hosts.keys().nth(unlucky).context("there are no hosts")?;
                AppImage::version(&version)
                    .script(&format!("test \"$HOST_NAME\" != {host} || exit 7; exec httpd -f -p 8080 -h /www"))
            }
            _ => AppImage::version(&version),
        };
        let mut broken = None;
        match offer {
            Offer::Migrating => {
                let (version, name) = self.next_migration();
                let sql = format!("{}{}", self.pause(), effect(version));
                self.migrations.push((version, name, sql));
            }
            Offer::CrashingMigration => {
                let (version, name) = self.next_migration();
                broken = Some((name, format!("{}{}SELECT 1 FROM nowhere;", effect(version), self.pause())));
            }
            _ => {}
        }
        let good = self.migrations.iter().map(|(_, name, sql)| (name, sql));
        let image = good
            .chain(broken.iter().map(|(name, sql)| (name, sql)))
            .fold(image, |image, (name, sql)| image.migration(name, sql));
        let app = self.push(&version, image).await?;
        let side = match self.made.values().next_back() {
            Some(made) if !self.chance.percent(20) => made.side.clone(),
            _ => self.push(&format!("side-{counter}"), AppImage::version(&format!("side {counter}"))).await?,
        };
        let stack = stack(&app, &side, &version);
        Ok(Made { app, side, stack, migrations: self.migrations.len() })
    }

    /// As what was proven last, with another `side`.
    async fn other_side(&mut self, counter: u64) -> Result<Made> {
        let app = self.newest_app().context("no application knows the schema")?;
        let side = self.push(&format!("side-{counter}"), AppImage::version(&format!("side {counter}"))).await?;
        let stack = stack(&app, &side, &app.tag);
        Ok(Made { app, side, stack, migrations: self.migrations.len() })
    }

    /// The application of the last release that was proven, if it knows every migration that the database may have.
    fn newest_app(&self) -> Option<PushedImage> {
        let proven = self.record.lock().proven();
        let made = proven.last().and_then(|counter| self.made.get(counter))?;
        (made.migrations == self.migrations.len()).then(|| made.app.clone())
    }

    /// One of the last few that were proven.
    fn older(&mut self) -> Result<Made> {
        let proven = self.record.lock().proven();
        let recent = &proven[proven.len().saturating_sub(4)..];
        let to = recent[self.chance.index(recent.len())];
        self.made.get(&to).cloned().context("an unknown release was proven")
    }

    fn older_counter(&self, made: &Made) -> Counter {
        let same = |other: &Made| other.stack.text() == made.stack.text();
        Counter(self.made.iter().find(|(_, other)| same(other)).map_or(1, |(counter, _)| *counter))
    }

    fn next_migration(&mut self) -> (i64, String) {
        self.newest_migration += 1;
        (self.newest_migration, format!("{:04}_step.sql", self.newest_migration))
    }

    /// Long enough, now and then, for a fault to come in the middle.
    fn pause(&mut self) -> String {
        match self.chance.percent(60) {
            true => format!("SELECT pg_sleep({:.1}); ", self.chance.milliseconds(300, 3_000).as_secs_f64()),
            false => String::new(),
        }
    }

    /// Waves, times and policies at random.
    fn shape(&mut self, draft: &mut Draft) {
        let plan = &mut draft.event.data.plan;
        let mut left: Vec<HostName> = self.means.hosts.keys().cloned().collect();
        plan.waves.clear();
        let all_at_once = self.chance.percent(35);
        while !left.is_empty() {
            let most = if all_at_once { left.len() } else { 1 + self.chance.index(left.len()) };
            let hosts = (0..most).map(|_| left.swap_remove(self.chance.index(left.len()))).collect();
            plan.waves.push(Wave::of(hosts));
        }
        plan.deadline_ms = self.chance.milliseconds(30_000, 90_000).as_millis() as u64;
        plan.bake_ms =
            if self.chance.percent(50) { self.chance.milliseconds(200, 3_000).as_millis() as u64 } else { 0 };
        plan.on_failure = if self.chance.percent(15) { OnFailure::Hold } else { OnFailure::RollbackAll };
        plan.offline = if self.chance.percent(15) { Offline::Block } else { Offline::Skip };
    }

    async fn push(&self, tag: &str, image: AppImage) -> Result<PushedImage> {
        again("push an image", async || self.means.registry.push(&self.means.repository, tag, &image).await).await
    }

    /// It is written down before it is sent: a host may answer before the server has.
    async fn publish(
        &self,
        draft: &mut Draft,
        is_coordinated: bool,
        ordered: impl FnOnce(landfall_schema::ids::EventId) -> Ordered,
    ) -> Result<()> {
        if is_coordinated {
            let (bytes, reference) = Roster::new(self.means.hosts.clone()).encode()?;
            again("store the roster", async || Ok(self.means.bus.put_bundle(&bytes, &reference).await?)).await?;
            draft.event.data.plan.roster = Some(reference);
        }
        again("store the bundle", async || draft.store_bundle(&self.means.bus).await).await?;
        let message: Message = draft.signed(&self.means.key)?;
        self.record.lock().ordered.insert(draft.counter(), ordered(message.id));
        // The same message under the same id: whichever attempt is stored, it is one.
        again("publish", async || message.publish(&self.means.bus).await).await?;
        Ok(())
    }
}

fn stack(app: &PushedImage, side: &PushedImage, version: &str) -> Stack {
    let smoke = format!(
        "smoke:\n  - http: {{url: \"http://127.0.0.1:${{HTTP_PORT}}/\", expect: {{status: 200, body: {version}}}}}"
    );
    Stack::app_with(app, READY)
        .app_lines("restart: unless-stopped\nenvironment: {HOST_NAME: \"${HOST_NAME}\"}")
        .app_settings(MIGRATES)
        .service("side", side, "init: true\nrestart: unless-stopped\nstop_grace_period: 1s", READY)
        .settings(&smoke)
}

fn effect(version: i64) -> String {
    format!("CREATE TABLE soak_{version} (id bigint); INSERT INTO soak_effects (version) VALUES ({version}); ")
}

fn shown(draft: &Draft) -> String {
    let plan = &draft.event.data.plan;
    let waves: Vec<String> =
        plan.waves.iter().map(|wave| wave.hosts.iter().map(HostName::as_str).collect::<Vec<_>>().join("+")).collect();
    format!("; {} (bake {} ms, {:?}, {:?})", waves.join(", then "), plan.bake_ms, plan.on_failure, plan.offline)
}

async fn again<T>(what: &str, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + OFFER_LIMIT;
    loop {
        let error = match tokio::time::timeout(ATTEMPT_LIMIT, attempt()).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => error,
            Err(late) => late.into(),
        };
        if Instant::now() > deadline {
            return Err(error.context(format!("{what}: not within {OFFER_LIMIT:?}")));
        }
        tokio::time::sleep(OFFER_RETRY).await;
    }
}
